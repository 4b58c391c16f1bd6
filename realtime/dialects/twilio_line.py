"""One call between Twilio and a session: what comes from one is handed to the other, at once.

Knows both sides' words. Does not know sockets or tasks, and never waits: around it, one task hands in what Twilio says, and another writes
what `take` returns whenever there is something in the outbox or the deadline has come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from protocol.audio_frame import Flag, unpack
from protocol.connection import decode_event
from protocol.dialects.interface import CloseSocket
from protocol.dialects.twilio import Digit, Done, HungUp, MediaStream, Progress, Sound, Started
from protocol.errors import CloseCode
from protocol.events import DetachReason, TurnDone, TurnStarted
from realtime.legs import Call, Legs
from realtime.outbox import Close, Outbox

_FOREIGN_CODES: Final = range(1000, 1016)  # what a server that does not know us can read

OnLeg = Callable[[Callable[[Legs, float], None]], None]


class Line:
    """Call `attach` first and `detach` last."""

    def __init__(self, stream: MediaStream, on_leg: OnLeg, wake: Callable[[], None]) -> None:
        """on_leg: see `LiveSession.on_leg`. `wake` is called when there is something to take."""
        self.ended = DetachReason.LOST  # why it will have ended, as far as is known
        self._stream = stream
        self._on_leg = on_leg
        self._wake = wake
        self._outbox = Outbox(wake, replay_s=0.0)
        self._messages: deque[str | CloseSocket] = deque()  # to be written
        self._leg = 0
        self._turns: dict[int, str] = {}  # ids by number, of those that sound

    def attach(self, call: Call) -> bool:
        """It is there. False: the session is over. Raises ProtocolError."""
        self._on_leg(partial(self._attach, call))
        return self._leg != 0

    def detach(self) -> None:
        """It is gone."""
        self._on_leg(lambda legs, now: legs.detach(self._leg, self.ended, now))

    @property
    def deadline(self) -> float:
        """When `take` is due although nothing was put."""
        return self._stream.deadline

    def received(self, message: str, now: float) -> None:
        """Twilio said so."""
        self._carry_out(self._stream.received(message, now))

    def take(self, now: float, written: Callable[[], None]) -> list[str | CloseSocket]:
        """What to write, in order; nothing follows a CloseSocket. `written` is called if the session's messages are among it."""
        taken = False
        while (item := self._outbox.take(now)) is not None:
            if isinstance(item, Close):
                code = item.code if item.code in _FOREIGN_CODES else CloseCode.GOING_AWAY
                self._carry_out(self._stream.finish(CloseSocket(code, item.reason), now))
                break
            taken = True
            self._carry_out(self._heard_of(item))
        self._carry_out(self._stream.settle())
        self._carry_out(self._stream.tick(now))
        if taken:
            written()
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def _attach(self, call: Call, legs: Legs, now: float) -> None:
        self._leg = legs.attach(call, self._outbox, now)

    def _heard_of(self, item: str | bytes) -> Sequence[Done]:
        if isinstance(item, bytes):
            frame = unpack(item)
            turn = self._turns.get(frame.n)
            if turn is None:
                return ()
            return self._stream.audio(turn, frame.position, frame.payload, bool(frame.flags & Flag.LAST))
        event = decode_event(item)
        if event is None:
            return ()
        if isinstance(event, TurnStarted):
            self._turns[event.n] = event.turn
        elif isinstance(event, TurnDone):
            self._turns.pop(event.n, None)
        return self._stream.event(event)

    def _carry_out(self, what: Iterable[Done]) -> None:
        for done in what:
            if isinstance(done, str | CloseSocket):
                self._messages.append(done)
                self._wake()
            elif isinstance(done, HungUp):
                self.ended = DetachReason.HANGUP
            else:
                self._on_leg(partial(self._tell, done))

    def _tell(self, done: Started | Sound | Digit | Progress, legs: Legs, now: float) -> None:
        match done:
            case Sound(payload):
                legs.hear(self._leg, payload, now)
            case Digit(digit):
                legs.press(self._leg, digit, now)
            case Progress(turn, ms, at_most_ms):
                legs.progress(self._leg, turn, ms, at_most_ms, now)
            case Started():
                raise AssertionError("a call starts once")
