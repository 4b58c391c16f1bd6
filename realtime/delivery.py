"""A turn's packets on their way to the socket: when each may leave, what has left, and what of it can be sent again.

Knows one turn's clock, its packets and the messages they become. Does not know text, the engine or other turns.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from protocol.audio_frame import Flag
from protocol.config import Clock, PacingConfig, Transport
from protocol.connection import encode_audio
from realtime.audio import AudioPacket
from realtime.outbox import Outbox
from realtime.playout import Pace, PlayClock
from realtime.replay import Span
from realtime.sent_levels import SentLevels
from realtime.speech import Speech

# Of audio that was heard is kept to be sent again: a word border before what a client asks for.
KEPT_MS: Final = 5_000.0
# With a comfortable lead packets leave a few at a time, each behind its due time: fewer wake-ups, and the lead is never exceeded.
COALESCE_SHARE: Final = 0.1  # of the lead, of which so much is lost
COALESCE_S: Final = 0.06  # at most
COMFORTABLE_LEAD_MS: Final = 200
AT_ONCE: Final = 4  # packets encoded without a pause: 0.6 ms of Opus


class Delivery:
    """Of one turn. Nothing leaves before `begin`, nor while it is paused."""

    def __init__(
        self, turn_id: str, n: int, transport: Transport, pacing: PacingConfig, rate: int, outbox: Outbox
    ) -> None:
        """rate: samples a second of the output, which positions count."""
        self.clock: PlayClock | None = None  # from when its audio may leave
        self.paused_at: float | None = None  # since when nothing leaves
        self.started = False  # something has left, or is about to
        self.levels = SentLevels()  # of what was put
        self._turn_id = turn_id
        self._n = n
        self._transport = transport
        self._pacing = pacing
        self._rate = rate
        self._outbox = outbox.open_turn(n)
        self._unwritten = 0  # packets in the outbox
        self._again: deque[AudioPacket] = deque()  # to be sent again, before what is new
        self._kept: deque[AudioPacket] = deque()  # sent, in order
        self._rewound = 0  # times; a packet that left before the last one says nothing about what was sent
        self._gap = False  # the next packet does not follow the one before it

    def begin(self, after: PlayClock | None, now: float) -> None:
        """Let the audio leave, to be heard behind what `after` plays. Idempotent."""
        if self.clock is None:
            pacing = self._pacing
            pace = Pace(pacing.lead_ms, pacing.burst_ms, pacing.clock is not Clock.NONE)
            self.clock = PlayClock(pace, now, after)

    @property
    def sent_ms(self) -> float:
        """Audio written to the socket."""
        return 0.0 if self.clock is None else self.clock.sent_ms

    @property
    def written(self) -> bool:
        """Whether all that was put is written, and nothing is to be sent again."""
        return not self._unwritten and not self._again and self.paused_at is None

    def waits_for_writer(self, speech: Speech | None) -> bool:
        """Whether more can leave, now that everything in the outbox was written."""
        return not self._unwritten and self.due_at(speech) is not None

    def due_at(self, speech: Speech | None) -> float | None:
        """When the next packet may leave; None: there is none, or none may."""
        if self.clock is None or self.paused_at is not None:
            return None
        if self._again:
            span = (self._again[0].position, self._again[0].position + self._again[0].samples)
        elif speech is None or (found := speech.next_span()) is None:
            return None
        else:
            span = found
        return self.clock.due_at(self._ms(span[0]), self._ms(span[1]))

    def wake_at(self, speech: Speech | None) -> float:
        """When `is_due` could turn true if nothing else happens; infinity: something else must."""
        due_at = self.due_at(speech)
        if due_at is None or not self._outbox.has_room:
            return math.inf
        lead_ms = self._pacing.lead_ms
        patient = self.started and lead_ms >= COMFORTABLE_LEAD_MS
        return due_at + (min(COALESCE_S, COALESCE_SHARE * lead_ms / 1000) if patient else 0.0)

    def is_due(self, speech: Speech | None, now: float) -> bool:
        """Whether a packet may leave now, and there is room for it."""
        due_at = self.due_at(speech)
        return due_at is not None and due_at <= now and self._outbox.has_room

    def next_packet(self, speech: Speech | None) -> AudioPacket | None:
        """The packet that is due, to be handed to `put`. None: its samples are not complete, or there is none."""
        if self._again:
            return self._again.popleft()
        assert speech is not None, "something is due"
        return speech.pull()

    def put(self, packet: AudioPacket, now: float) -> None:
        """Hand a packet to the writer."""
        assert self.clock is not None, "begin comes first"
        flags = (Flag.NONE if self.started else Flag.FIRST) | (Flag.LAST if packet.last else Flag.NONE)
        flags |= Flag.DISCONTINUITY if self._gap else Flag.NONE
        self.started, self._gap = True, False
        message = encode_audio(self._transport, self._turn_id, self._n, flags, packet.position, packet.payload)
        until_ms, rewound = self._ms(packet.position + packet.samples), self._rewound
        self.levels.put(self._ms(packet.position), until_ms, packet.level_db)
        self._unwritten += 1
        self._keep(packet, now)
        span = Span(self._n, packet.position, packet.samples, self._transport)
        self._outbox.audio(self._n, message, lambda at: self._written(until_ms, rewound, at), span)

    def pause(self, now: float) -> None:
        """Nothing leaves any more, and the listener stands still. Idempotent."""
        if self.paused_at is None:
            self.paused_at = now
        if self.clock is not None:
            self.clock.hold(now)

    def go_on(self, now: float) -> None:
        """After a pause: what was not sent leaves."""
        self.paused_at = None
        if self.clock is not None:
            self.clock.go_on(now)

    def rewind(self, to_ms: float, now: float) -> float:
        """Send again from the packet that holds this time, or the oldest that is kept. Returns where that begins."""
        packets = [*self._kept, *self._again]
        first = next(
            (index for index in reversed(range(len(packets))) if self._ms(packets[index].position) <= to_ms), 0
        )
        if self.clock is None or not packets:
            return 0.0
        self._again = deque(packets[first:])
        self._kept = deque(packets[:first])
        self._rewound += 1
        self._gap = True
        at_ms = self._ms(self._again[0].position)
        self.clock.rewind(at_ms, now)
        return at_ms

    def _written(self, until_ms: float, rewound: int, now: float) -> None:
        assert self.clock is not None, "what is written was put"
        self._unwritten -= 1
        if rewound == self._rewound:
            self.clock.sent(until_ms, now)

    def _keep(self, packet: AudioPacket, now: float) -> None:
        assert self.clock is not None, "what is put has a clock"
        self._kept.append(packet)
        heard_ms = self.clock.played_ms(now) - KEPT_MS
        while self._ms(self._kept[0].position + self._kept[0].samples) < heard_ms:
            self._kept.popleft()

    def _ms(self, samples: int) -> float:
        return samples * 1000 / self._rate
