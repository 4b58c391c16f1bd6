"""What was written to a socket lately, so that a client that lost it can have again what did not arrive.

Knows the order in which messages were written, and which samples each audio message holds. Does not know sockets or sessions. The place
that a listener has come to serves as the acknowledgement: messages need no numbers of their own, and who plays sound knows it anyway.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass
from typing import Final

from protocol.audio_frame import Flag, pack, unpack
from protocol.config import Transport

# 65 s of 16-bit samples at 24 kHz, 16 s of the largest format, 13 minutes of Opus. A thousand sessions that all keep so much need 3 GB.
KEPT_BYTES: Final = 3 * 1024 * 1024

_HAVE: Final = re.compile(r"([0-9]{1,10}):([0-9]{1,20})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Have:
    """Where a listener is: everything before sample `position` of turn `n` has arrived, and all turns before it."""

    n: int
    position: int  # at output rate

    @classmethod
    def parse(cls, text: str) -> Have:
        """From `n:position`. Raises ValueError."""
        match = _HAVE.fullmatch(text)
        if match is None:
            raise ValueError("have is not n:position")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class Span:
    """The samples of an audio message."""

    n: int  # of the turn
    position: int  # of the first, within the turn, at output rate
    samples: int
    transport: Transport  # how the message holds them

    def within(self, have: Have) -> bool:
        """Whether a listener at that place has all of it."""
        return self.n < have.n or (self.n == have.n and self.position + self.samples <= have.position)

    def follows(self, have: Have | None) -> bool:
        """Whether nothing is missing between that place and it, as far as it can tell: the first of a turn follows any other turn."""
        if have is not None and self.n == have.n:
            return self.position <= have.position
        return self.position == 0


# A message, when it was written (s), and for audio its span (else all zero). Plain tuples of plain values, because the garbage collector
# does not look at those again and again, and a thousand sessions keep a million.
_Written = tuple[bytes | str, float, int, int, int, str]


class Replay:
    """The newest messages of one session, oldest first."""

    def __init__(self, kept_s: float) -> None:
        """`kept_s`: a dead peer is noticed after two pings, 30 s, and what is written until then goes nowhere. Less would leave a gap."""
        self._kept_s = kept_s
        self._written: deque[_Written] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._written)

    def record(self, message: bytes | str, span: Span | None, now: float) -> None:
        """A message was written. `span` None: it is no audio."""
        if span is None:
            self._written.append((message, now, 0, 0, 0, ""))
        else:
            self._written.append((message, now, span.n, span.position, span.samples, span.transport.value))
        self._bytes += len(message)
        self.forget_old(now)

    def forget_old(self, now: float) -> None:
        """Let go of what nobody can miss any more. Call it when the socket is lost, too: afterwards nothing grows old."""
        written = self._written
        while written and (self._bytes > KEPT_BYTES or written[0][1] < now - self._kept_s):
            self._bytes -= len(written.popleft()[0])

    def withdraw(self, n: int) -> None:
        """Let go of the audio of turn `n`: it was interrupted, and what was not heard must not be heard later."""
        if any(item[2] == n for item in self._written):
            self._written = deque(item for item in self._written if item[2] != n)
            self._bytes = sum(len(item[0]) for item in self._written)

    def after(self, have: Have | None) -> list[bytes | str]:
        """Everything behind the last audio that the listener has, in order; None: it has nothing.

        Events that it did get may be among it: nobody can know. Where audio is missing before the first, that one says so.
        """
        messages = [item[0] for item in self._written]
        spans = [_span(item) for item in self._written]
        if have is not None:
            had = [index for index, span in enumerate(spans) if span is not None and span.within(have)]
            since = had[-1] + 1 if had else 0
            messages, spans = messages[since:], spans[since:]
        for index, span in enumerate(spans):
            if span is not None:
                if not span.follows(have):
                    messages[index] = _after_a_gap(messages[index], span.transport)
                break
        return messages


def _span(item: _Written) -> Span | None:
    _, _, n, position, samples, transport = item
    return Span(n, position, samples, Transport(transport)) if transport else None


def _after_a_gap(message: bytes | str, transport: Transport) -> bytes | str:
    """An audio message that says that samples before it are missing. `raw` has no place for that."""
    if isinstance(message, str):
        fields = json.loads(message)
        return json.dumps({**fields, "flags": fields["flags"] | Flag.DISCONTINUITY}, separators=(",", ":"))
    if transport is Transport.RAW:
        return message
    frame = unpack(message)
    return pack(frame.kind, frame.flags | Flag.DISCONTINUITY, frame.leg, frame.n, frame.position, frame.payload)
