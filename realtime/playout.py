"""When may a packet leave, and how much of what left has been heard? One clock per turn.

Knows the pacing rules of the protocol (section 7) and what a listener reports. Does not know packets, sockets or the time: every call says
what time it is. All amounts are ms from the start of the turn's audio, all times are seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CATCH_UP = 1.25  # after the burst a client's buffer fills at this multiple of real time: 2 s of lead in 6 s
# Network, jitter buffer and sound card of a listener who does not tell; browsers alone take 40.
ASSUMED_BUFFER_MS = 100.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How far ahead of the listener a turn may be."""

    lead_ms: float
    burst_ms: float
    realtime: bool  # False: everything at once, as for a file


class PlayClock:
    """How far a listener is: as it reports, else one who plays each packet as soon as those before it ended.

    Real time runs from the first packet, or from the end of the turn that still plays, and stands still while nothing is there to play.
    """

    def __init__(self, pace: Pace, not_before: float = -math.inf, after: PlayClock | None = None) -> None:
        """The listener begins after `not_before`, and after it has heard what `after` has to play."""
        self.pace = pace
        self.first_sent_at: float | None = None
        self.sent_ms = 0.0
        self.reported_ms: float | None = None  # where the listener last told that it is
        self.limit_ms = math.inf  # where it would have told that it is, had it come there
        self._after = after  # as long as it plays
        self._anchor_at = not_before  # at this time the listener was, or will be, at _anchor_ms
        self._anchor_ms = 0.0
        self._playing = True  # False: the listener has told that it stands still
        self._held = False  # paused by the server
        self._stopped_at: float | None = None  # the listener hears no more of it since then
        self._burst_from_ms = 0.0  # the burst begins here

    def sent(self, until_ms: float, now: float) -> None:
        """A packet that ends at `until_ms` left."""
        self._settle(now)
        if self.first_sent_at is None:
            self.first_sent_at = now
            self._anchor_at = max(self._anchor_at, now)
        elif now > self.ends_at:
            self._anchor_at, self._anchor_ms = now, self.sent_ms
        self.sent_ms = until_ms

    def report(self, played_ms: float, playing: bool, now: float) -> None:
        """The listener has told where it is, and whether it goes on from there."""
        self.reported_ms = played_ms
        self._playing = playing
        self._place(min(played_ms, self.sent_ms), now)

    def hold(self, now: float) -> None:
        """The listener is made to stand still. Idempotent."""
        self._place(self.played_ms(now), now)
        self._held = True

    def go_on(self, now: float) -> None:
        """After `hold`: the listener goes on."""
        self._held, self._playing = False, True
        self._place(self._anchor_ms, now)

    def rewind(self, to_ms: float, now: float) -> None:
        """The listener has dropped what it had and goes on at `to_ms`, which is sent again from there, with a new burst."""
        self.sent_ms = self._burst_from_ms = to_ms
        if self.reported_ms is not None:
            self.reported_ms = min(self.reported_ms, to_ms)
        self.limit_ms = math.inf
        self.first_sent_at = now
        self._place(to_ms, now)

    def stop(self, now: float) -> None:
        """The listener hears no more of this. Idempotent."""
        if self._stopped_at is None:
            self._place(self.played_ms(now), now)
            self._stopped_at = now

    @property
    def reported(self) -> bool:
        """Whether the listener has told where it is."""
        return self.reported_ms is not None

    @property
    def stopped(self) -> bool:
        """Whether the listener hears no more of this."""
        return self._stopped_at is not None

    @property
    def paced(self) -> bool:
        """Whether it is known when something is heard."""
        return self.pace.realtime or self.reported

    @property
    def ends_at(self) -> float:
        """When the listener has heard what was sent so far; infinity: not as it stands. Without real time, as soon as it was sent."""
        if self._stopped_at is not None:
            return self._stopped_at
        if not self.paced and not self._held:
            return self.first_sent_at or self._anchor_at
        if self._stands and self._anchor_ms < self.sent_ms:
            return math.inf
        return self._begins_at + (self.sent_ms - self._anchor_ms) / 1000

    def reaches_at(self, ms: float) -> float:
        """When the listener will have heard so much, which was sent; infinity: not as it stands."""
        if self._stopped_at is not None or ms > self.sent_ms or (self._stands and ms > self._anchor_ms):
            return math.inf
        return self._begins_at + (ms - self._anchor_ms) / 1000

    def position_ms(self, now: float) -> float:
        """Where the listener would be if nothing ever ran short; negative while an earlier turn plays."""
        begins_at = self._begins_at
        if self._stands and now >= begins_at:
            return self._anchor_ms
        return self._anchor_ms + (now - begins_at) * 1000

    def played_ms(self, now: float) -> float:
        """How much was played: never more than was sent."""
        self._settle(now)
        if self.first_sent_at is None:
            return 0.0
        if self._stopped_at is not None:
            return self._anchor_ms
        if not self.paced and not self._held:
            return self.sent_ms
        return max(0.0, min(self.sent_ms, self._limit_ms(now), self.position_ms(now)))

    def heard_ms(self, now: float) -> float:
        """What has probably been heard: played, less what waits in buffers on the way to a listener who does not tell."""
        if self.reported or not self.pace.realtime or self._stopped_at is not None:
            return self.played_ms(now)
        if self.first_sent_at is None:
            return 0.0
        return max(0.0, min(self.sent_ms, self._limit_ms(now), self.position_ms(now) - ASSUMED_BUFFER_MS))

    def due_at(self, start_ms: float, end_ms: float) -> float:
        """When the packet from `start_ms` to `end_ms` may leave; infinity: not as it stands. Constant until something is told or sent.

        It may leave once it ends within the lead; with a lead shorter than a packet, once the listener has come to its start.
        """
        if not self.pace.realtime:
            return 0.0
        due_ms = min(start_ms, end_ms - self.pace.lead_ms)
        if self._stands and due_ms > self._anchor_ms:
            return math.inf
        lead_at = self._begins_at + (due_ms - self._anchor_ms) / 1000
        if self.first_sent_at is None:
            return lead_at
        ahead_ms = min(start_ms, end_ms - self.pace.burst_ms) - self._burst_from_ms
        return max(lead_at, self.first_sent_at + ahead_ms / (1000 * CATCH_UP))

    def _limit_ms(self, now: float) -> float:
        """A word that does not come, long after it should have, has been lost."""
        return self.limit_ms if now < self.ends_at else math.inf

    @property
    def _stands(self) -> bool:
        return self._held or not self._playing

    @property
    def _begins_at(self) -> float:
        """When the listener was, or will be, at the anchor."""
        return self._anchor_at if self._after is None else max(self._anchor_at, self._after.ends_at)

    def _place(self, ms: float, now: float) -> None:
        """The listener is here now."""
        self._anchor_at, self._anchor_ms = now, ms
        self._after = None

    def _settle(self, now: float) -> None:
        """Let go of the turn before once it has been heard, and with it of all before that."""
        if self._after is not None and now >= (ends_at := self._after.ends_at):
            self._anchor_at = max(self._anchor_at, ends_at)
            self._after = None
