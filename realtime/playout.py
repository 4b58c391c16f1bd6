"""When may a packet leave, and how much of what left has been heard? One clock per turn.

Knows the pacing rules of the protocol (section 7). Does not know packets, sockets or the time: every call says what time it is.
"""

from __future__ import annotations

from dataclasses import dataclass

CATCH_UP = 1.25  # after the burst a client's buffer fills at this multiple of real time: 2 s of lead in 6 s
ASSUMED_BUFFER_MS = (
    100.0  # network, jitter buffer and sound card of a listener who does not tell; browsers alone take 40
)


@dataclass(frozen=True, slots=True)
class Pace:
    """How far ahead of the listener a turn may be."""

    lead_ms: float
    burst_ms: float
    realtime: bool  # False: everything at once, as for a file


class PlayClock:
    """How far a listener is who plays each packet as soon as those before it ended.

    Real time runs from the first packet (`not_before`: from the end of the turn that still plays) and stands still while nothing is
    there to play. All amounts are ms from the start of the turn's audio, all times are seconds.
    """

    def __init__(self, pace: Pace, not_before: float) -> None:
        self.pace = pace
        self.first_sent_at: float | None = None
        self.sent_ms = 0.0
        self._anchor_at = not_before  # at this time the listener was, or will be, at _anchor_ms
        self._anchor_ms = 0.0

    def sent(self, until_ms: float, now: float) -> None:
        """A packet that ends at `until_ms` left."""
        if self.first_sent_at is None:
            self.first_sent_at = now
            self._anchor_at = max(self._anchor_at, now)
        elif now > self.ends_at:
            self._anchor_at, self._anchor_ms = now, self.sent_ms
        self.sent_ms = until_ms

    @property
    def ends_at(self) -> float:
        """When the listener has heard what was sent so far; without real time, as soon as it was sent."""
        if not self.pace.realtime:
            return self.first_sent_at or self._anchor_at
        return self._anchor_at + (self.sent_ms - self._anchor_ms) / 1000

    def position_ms(self, now: float) -> float:
        """Where the listener would be if nothing ever ran short; negative while an earlier turn plays."""
        return self._anchor_ms + (now - self._anchor_at) * 1000

    def played_ms(self, now: float) -> float:
        """How much was played: never more than was sent."""
        if self.first_sent_at is None:
            return 0.0
        return max(0.0, min(self.sent_ms, self.position_ms(now))) if self.pace.realtime else self.sent_ms

    def heard_ms(self, now: float) -> float:
        """What a listener who never told has probably heard: played, less what waits in buffers on the way."""
        if not self.pace.realtime:
            return self.sent_ms
        return (
            max(0.0, min(self.sent_ms, self.position_ms(now) - ASSUMED_BUFFER_MS))
            if self.first_sent_at is not None
            else 0.0
        )

    def due_at(self, start_ms: float, end_ms: float) -> float:
        """When the packet from `start_ms` to `end_ms` may leave. Constant until the next packet is sent.

        It may leave once it ends within the lead; with a lead shorter than a packet, once the listener has come to its start.
        """
        if not self.pace.realtime:
            return 0.0
        lead_at = self._anchor_at + (min(start_ms, end_ms - self.pace.lead_ms) - self._anchor_ms) / 1000
        if self.first_sent_at is None:
            return lead_at
        return max(lead_at, self.first_sent_at + min(start_ms, end_ms - self.pace.burst_ms) / (1000 * CATCH_UP))
