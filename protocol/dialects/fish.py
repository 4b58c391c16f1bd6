"""Fish Audio's live protocol: MessagePack over a WebSocket.

Knows its messages as fish-audio-sdk, pipecat and LiveKit send and read them. Source: those clients' code, and what they were seen to send.
A `start` begins a stream of sound and a `stop` ends it. pipecat sends one `start` for many turns, each sentence as `text` and `flush`, and
ends a turn by a second `flush`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import ormsgpack

from protocol.commands import Command, SessionUpdate, TextFlush, TurnEnd
from protocol.dialects.fish_request import FishRequest
from protocol.dialects.interface import Host, Opening, Output, PrepareVoice, Refused, StreamEncoder
from protocol.dialects.turns import Turns
from protocol.dialects.wording import Wording
from protocol.events import ErrorEvent, Event, Status, TurnDone

MIN_BYTES: Final = 1025  # of samples in one message: pipecat up to 1.7 drops smaller ones


class _Call:
    """From one `start` to its `finish`."""

    def __init__(self, encoder: StreamEncoder, settings: SessionUpdate, plain: bool, begun_at: float) -> None:
        """plain: samples without a container, so that any number of bytes may be held back."""
        self.begun_at = begun_at
        self.encoder = encoder
        self.settings = settings
        self.plain = plain
        self.turn: str | None = None  # that takes text
        self.waiting: list[str] = []  # turns without a turn.done
        self.wording = Wording()
        self.unflushed = False  # words came since the last flush
        self.stopped = False  # `stop` came
        self.sounded = False  # audio was sent since then
        self.over = False  # `finish` was sent
        self.held = b""  # too little for a message


class FishLive:
    """See `interface.Dialect`."""

    deadline = math.inf

    def __init__(self, host: Host, opening: Opening) -> None:
        self._host = host
        self._turns = Turns(host)
        self._calls: list[_Call] = []  # that are not over, oldest first; the last one takes text
        self._last: _Call | None = None  # that is over
        self._of: dict[str, _Call] = {}  # by turn
        self._now = 0.0

    def opened(self, now: float) -> Sequence[Output]:
        """Nothing is said until something is asked for."""
        return ()

    def received(self, message: str | bytes, now: float) -> Sequence[Output]:
        """See `Dialect`. Text messages are no part of this protocol."""
        self._now = now
        if isinstance(message, str):
            return ()
        try:
            fields = ormsgpack.unpackb(message)
        except ormsgpack.MsgpackDecodeError as error:
            return [_error(f"not MessagePack: {error}")]
        match fields:
            case {"event": "start"}:
                return self._start(fields.get("request"))
            case {"event": "text", "text": str(text)}:
                return self._text(text)
            case {"event": "flush"}:
                return self._flush()
            case {"event": "stop"}:
                return self._stop()
        return ()

    def event(self, event: Event, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        self._now = now
        self._turns.event(event)
        match event:
            case TurnDone():
                return self._done(event)
            case ErrorEvent():
                return self._failed(event)
        return ()

    def audio(self, turn: str, payload: bytes, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        self._now = now
        call = self._of.get(turn)
        if call is None or call.over:
            return ()
        call.sounded = call.sounded or call.stopped
        data = call.held + call.encoder.push(payload)
        if call.plain and len(data) < MIN_BYTES:
            call.held, data = data, b""
        else:
            call.held = b""
        return self._sound(call, data)

    def disconnected(self, now: float) -> Sequence[Command]:
        """Whoever closes after everything was sent has let it be played; else it was an interruption.

        pipecat interrupts with a `stop` and a close: a `stop` after which there was nothing left to send does not show that all was heard.
        """
        heard = self._turns.heard
        last = self._last
        if last is not None and last.sounded:
            heard = [turn for turn in heard if self._turns.live(turn) or self._of.get(turn) is not last]
        return self._turns.cancel(heard, "barge_in")

    def tick(self, now: float) -> Sequence[Output]:
        """Nothing is ever due."""
        return ()

    @property
    def _call(self) -> _Call | None:
        return self._calls[-1] if self._calls and not self._calls[-1].stopped else None

    def _start(self, fields: object) -> Sequence[Output]:
        outputs = list(self._stop()) if self._call is not None else []
        try:
            request = FishRequest.read(fields if fields is not None else {})
            encoder = request.encoder(self._host)
            if recordings := request.recordings():
                voice = PrepareVoice(recordings, lambda voice: self._begin(request, encoder, voice), self._no_voice)
                return [*outputs, voice]
            return [*outputs, *self._begin(request, encoder, None)]
        except Refused as error:
            return [*outputs, _error(error.message)]

    def _no_voice(self, refused: Refused) -> Sequence[Output]:
        return [_error(refused.message)]

    def _begin(self, request: FishRequest, encoder: StreamEncoder, voice: str | None) -> Sequence[Output]:
        try:
            settings = request.settings(self._host, encoder, voice)
        except Refused as error:
            return [_error(error.message)]
        self._calls.append(_Call(encoder, settings, plain=request.format == "pcm", begun_at=self._now))
        return self._text(request.text)

    def _text(self, text: str) -> Sequence[Output]:
        call = self._call
        if call is None:
            return ()
        text = call.wording.message(text)
        if not text or (call.turn is None and not text.strip()):
            return ()
        outputs: list[Output] = []
        if call.turn is not None and self._turns.chars(call.turn) + len(text) > self._host.limits.turn_chars:
            outputs.append(TurnEnd(turn=call.turn))  # the next turn goes on as if it were the same
            call.turn = None
        if call.turn is None:
            call.turn = self._turns.new()
            call.waiting.append(call.turn)
            self._of[call.turn] = call
            outputs.append(call.settings)
        call.unflushed = call.unflushed or not text.isspace()
        return [*outputs, *self._turns.say(call.turn, text)]

    def _flush(self) -> Sequence[Output]:
        call = self._call
        if call is None or call.turn is None:
            return ()
        if not call.unflushed:
            return [self._end(call, call.turn)]
        if call.wording.in_bracket:
            return ()  # a framework has split a sentence inside of a tag: the rest comes
        call.wording.flush()
        call.unflushed = False
        return [TextFlush(turn=call.turn)]

    def _end(self, call: _Call, turn: str) -> Command:
        call.turn = None
        call.unflushed = False
        call.wording = Wording()
        return TurnEnd(turn=turn)

    def _stop(self) -> Sequence[Output]:
        call = self._call
        if call is None:
            return ()
        outputs: list[Output] = [self._end(call, call.turn)] if call.turn is not None else []
        call.stopped = True
        return [*outputs, *self._finished(call)]

    def _done(self, event: TurnDone) -> Sequence[Output]:
        call = self._of.get(event.turn)
        if call is None or event.turn not in call.waiting:
            return ()
        call.waiting.remove(event.turn)
        if call.turn == event.turn:
            call.turn = None  # the server has ended it; what still comes begins another
            call.unflushed = False
        if event.status is Status.FAILED:
            return self._broken(call, event.reason or "failed")
        outputs = self._sound(call, call.held)
        call.held = b""
        return [*outputs, *self._finished(call)]

    def _finished(self, call: _Call) -> Sequence[Output]:
        if not call.stopped or call.waiting or call.over:
            return ()
        rest = self._sound(call, call.held + call.encoder.finish())
        outputs = [*rest, _packed({"event": "finish", "reason": "stop"})]
        self._over(call)
        return outputs

    def _failed(self, event: ErrorEvent) -> Sequence[Output]:
        """A turn is told of by its turn.done; anything else means that what was asked for cannot be done."""
        if event.turn is not None and self._turns.live(event.turn):
            call = self._of.get(event.turn)
        else:
            call = self._calls[-1] if self._calls else None
        return self._broken(call, event.message) if call is not None else ()

    def _broken(self, call: _Call, why: str) -> Sequence[Output]:
        if call.over:
            return ()
        cancelled = self._turns.cancel([turn for turn in call.waiting if self._turns.live(turn)], "failed")
        self._over(call)
        return [*cancelled, _error(why)]

    def _sound(self, call: _Call, data: bytes) -> list[Output]:
        """Nothing, if there is none. `time` is what it took, in ms since the `start`."""
        took_ms = round(1000 * (self._now - call.begun_at))
        return [_packed({"event": "audio", "audio": data, "time": took_ms})] if data else []

    def _over(self, call: _Call) -> None:
        call.over = call.stopped = True
        self._calls = [known for known in self._calls if known is not call]
        self._last = call
        self._of = {turn: known for turn, known in self._of.items() if known is call or known in self._calls}


def _error(why: str) -> Output:
    return _packed({"event": "finish", "reason": "error", "message": why})


def _packed(message: Mapping[str, Any]) -> bytes:
    return ormsgpack.packb(message)
