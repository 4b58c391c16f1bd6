"""One HTTP request, one turn, one answer that is written while it is spoken: what all vendors' HTTP speech has in common.

Knows when an answer begins, ends and fails. Does not know any vendor's fields or errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocol.commands import Command, SessionUpdate, TurnEnd
from protocol.dialects.interface import (
    CloseSocket,
    ErrorShape,
    Host,
    Output,
    PrepareVoice,
    Refused,
    StartResponse,
    StreamEncoder,
)
from protocol.dialects.turns import Turns
from protocol.errors import CloseCode, ErrorCode
from protocol.events import Alignment, ErrorEvent, Event, Status, TurnDone

_STATUSES: Final[Mapping[str, int]] = {
    ErrorCode.NO_CAPACITY: 503,
    ErrorCode.ENGINE_RESTARTED: 503,
    ErrorCode.LIMIT_EXCEEDED: 429,
    ErrorCode.TEXT_OVERFLOW: 400,
    ErrorCode.INVALID_VALUE: 400,
    ErrorCode.VOICE_NOT_FOUND: 400,
    ErrorCode.UNSUPPORTED: 400,
}


class Framing:
    """How sound is put into the body of an answer: as it is. A vendor that wraps it overrides what differs."""

    media_type: str | None = None  # None: the sound's own
    headers: Mapping[str, str] = {}

    def audio(self, data: bytes) -> bytes | str | None:
        """Some of it, never nothing. None: not yet."""
        return data

    def words(self, alignment: Alignment) -> bytes | str | None:
        """When words are spoken; only where the settings ask for it."""
        return None

    def end(self, done: TurnDone) -> bytes | str | None:
        """Behind the last sound."""
        return None

    def error(self, refused: Refused) -> bytes | str | None:
        """In the middle of the answer. None: there is no way to say it, and the connection is dropped."""
        return None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be spoken."""

    text: str
    encoder: StreamEncoder
    settings: Callable[[str | None], SessionUpdate]  # gets the name of the voice made of `recordings`; raises Refused
    errors: ErrorShape
    recordings: tuple[tuple[bytes | str, str], ...] = ()
    framing: Framing = field(default_factory=Framing)


class OneShot:
    """See `interface.Dialect`."""

    deadline = math.inf

    def __init__(self, host: Host, wanted: Wanted) -> None:
        self._wanted = wanted
        self._turns = Turns(host)
        self._turn = ""
        self._started = False  # the head of the answer was sent
        self._over = False

    def opened(self, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        if self._wanted.recordings:
            return [PrepareVoice(self._wanted.recordings, self._speak, self._refuse)]
        return self._speak(None)

    def received(self, message: str | bytes, now: float) -> Sequence[Output]:
        """Never called."""
        return ()

    def event(self, event: Event, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        self._turns.event(event)
        if self._over:
            return ()
        match event:
            case TurnDone(status=Status.COMPLETED):
                self._over = True
                rest = self._sound(self._wanted.encoder.finish(event.audio_ms))
                end = self._wanted.framing.end(event)
                return [*rest, *self._head(), *([] if end is None else [end]), CloseSocket()]
            case TurnDone():
                return self._refuse(_refusal(event.reason or "failed", f"the turn was {event.status.value}"))
            case ErrorEvent():
                return self._refuse(_refusal(event.code, event.message, event.param, event.retry_after_ms))
            case Alignment():
                words = self._wanted.framing.words(event)
                return [] if words is None else [*self._head(), words]
        return ()

    def audio(self, turn: str, payload: bytes, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        data = self._wanted.encoder.push(payload)
        return () if self._over else self._sound(data)

    def disconnected(self, now: float) -> Sequence[Command]:
        """What was sent whole counts as heard: nobody can tell otherwise."""
        return self._turns.cancel(self._turns.speaking, "disconnected")

    def tick(self, now: float) -> Sequence[Output]:
        """Nothing is ever due."""
        return ()

    def _speak(self, voice: str | None) -> Sequence[Output]:
        try:
            settings = self._wanted.settings(voice)
        except Refused as error:
            return self._refuse(error)
        self._turn = self._turns.new()
        return [settings, *self._turns.say(self._turn, self._wanted.text), TurnEnd(turn=self._turn)]

    def _head(self) -> list[Output]:
        if self._started:
            return []
        self._started = True
        framing, encoder = self._wanted.framing, self._wanted.encoder
        return [StartResponse(200, framing.media_type or encoder.media_type, dict(framing.headers))]

    def _sound(self, data: bytes) -> list[Output]:
        message = self._wanted.framing.audio(data) if data else None
        return [] if message is None else [*self._head(), message]

    def _refuse(self, refused: Refused) -> Sequence[Output]:
        self._over = True
        cancelled = self._turns.cancel(self._turns.speaking, "failed")
        if self._started:
            told = self._wanted.framing.error(refused)
            return [*cancelled, CloseSocket(CloseCode.INTERNAL, refused.code) if told is None else told, CloseSocket()]
        self._started = True
        return [*cancelled, *answer(refused, self._wanted.errors), CloseSocket()]


def answer(refused: Refused, shape: ErrorShape) -> list[Output]:
    """A refusal as a whole answer."""
    media_type, body = shape(refused)
    headers = {} if refused.retry_after_s is None else {"Retry-After": str(refused.retry_after_s)}
    return [StartResponse(refused.status, media_type, headers), body]


def _refusal(code: str, message: str, param: str | None = None, retry_after_ms: int | None = None) -> Refused:
    retry_s = None if retry_after_ms is None else -(-retry_after_ms // 1000)
    return Refused(_STATUSES.get(code, 500), message, str(code), param, retry_s)
