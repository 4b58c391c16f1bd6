"""Cartesia's WebSocket: every message is a whole request, and those of one context_id are one utterance.

Knows its messages as the cartesia SDK, pipecat and LiveKit send and read them. Source: those clients' code. All of them find their sound
by context_id, and pipecat reads `context_id` and `type` of every message.
"""

from __future__ import annotations

import base64
import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.commands import Command, Mark
from protocol.dialects.cartesia_markup import Markup
from protocol.dialects.cartesia_request import CartesiaRequest
from protocol.dialects.interface import Host, Opening, Output, Refused
from protocol.dialects.speeches import Speech, Speeches
from protocol.events import Alignment, AlignmentItem, ErrorEvent, Event, MarkEvent, MarkState, Status, TurnDone

QUIET_S: Final = 5.0  # LiveKit gives up after ten seconds without a message
MAX_CONTEXTS: Final = 256  # at once, most of them without words: of turns, the session has its own bound
_TITLES: Final = {401: "Unauthorized", 403: "Forbidden", 429: "Too many requests", 503: "Unavailable"}
MAX_MARKS: Final = 200  # flushes of one context that are told when their sound was sent; of more, at once


class _Context(Speech):
    """See `Speech`."""

    def __init__(self, name: str, host: Host, request: CartesiaRequest, now: float) -> None:
        encoder = request.encoder(host)
        super().__init__(name, encoder, request.settings(host, encoder))
        self.markup = Markup()
        self.stamps = request.add_timestamps
        self.bytes_per_s = request.bytes_per_s
        self.sent_bytes = 0
        self.flushes = 0
        self.to_tell: deque[tuple[int, float]] = (
            deque()
        )  # flushes of which the sound exists: number, and where it ends in ms
        self.speak_by = math.inf  # when text that waits is spoken, complete or not
        self.told_at = now  # when the client last got a message of it

    @property
    def sent_ms(self) -> float:
        """Sound that went out."""
        return 1000 * self.sent_bytes / self.bytes_per_s


class CartesiaSocket:
    """See `interface.Dialect`."""

    def __init__(self, host: Host, opening: Opening) -> None:
        self._host = host
        self._speeches: Speeches[_Context] = Speeches(host)
        self._contexts: dict[str, _Context] = {}  # that take text or are not over, by name; the newest of that name
        self._unnamed = 0

    def opened(self, now: float) -> Sequence[Output]:
        """The client speaks first."""
        return ()

    def received(self, message: str | bytes, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        name = ""
        try:
            try:
                fields = json.loads(message)
            except (ValueError, RecursionError) as error:
                raise Refused(400, f"not JSON: {error}") from None
            if not isinstance(fields, Mapping):
                raise Refused(400, "a message is an object")
            name = str(fields.get("context_id") or "")
            if fields.get("cancel"):
                return self._cancel(name)
            return self._request(name, CartesiaRequest.read(fields), now)
        except Refused as refused:
            context = self._contexts.get(name)
            cut = self._drop(context) if context is not None else []
            return [*cut, error_message(name, refused)]

    def event(self, event: Event, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        return [*self._happened(event, now), *self._speeches.let_in()]

    def _happened(self, event: Event, now: float) -> Sequence[Output]:
        context = self._speeches.event(event)
        if isinstance(event, MarkEvent):
            context = self._speeches.of(event.turn)
        if context is None:
            return ()
        outputs: Sequence[Output] = ()
        match event:
            case TurnDone(status=Status.COMPLETED):
                outputs = self._spoken(context)
            case TurnDone():
                outputs = self._fail(
                    context, Refused(500, f"the turn was {event.status.value}", event.reason or "failed")
                )
            case ErrorEvent():
                outputs = self._fail(context, Refused(_status(event), event.message, str(event.code), event.param))
            case Alignment() if context.stamps:
                told = timestamps(context.name, context.words(event))
                outputs = [told] if told is not None else []
            case MarkEvent(state=MarkState.GENERATED):
                context.to_tell.append((int(event.name), (event.at_ms or 0) + context.audio_ms))
                outputs = self._flushed(context)
        return self._told(context, outputs, now)

    def audio(self, turn: str, payload: bytes, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        context = self._speeches.of(turn)
        data = context.encoder.push(payload) if context is not None else b""
        if context is None or not data:
            return ()
        context.sent_bytes += len(data)
        step_ms = round(1000 * (now - context.told_at), 3)
        return self._told(context, [chunk(context.name, data, step_ms), *self._flushed(context)], now)

    def disconnected(self, now: float) -> Sequence[Command]:
        """LiveKit interrupts by this alone."""
        return self._speeches.leave("barge_in")

    @property
    def deadline(self) -> float:
        """See `Dialect`."""
        return min((self._due_at(context) for context in self._contexts.values()), default=math.inf)

    def tick(self, now: float) -> Sequence[Output]:
        """Text has waited for long enough, or a client for a word."""
        outputs: list[Output] = []
        for context in list(self._contexts.values()):
            if context.speak_by <= now:
                context.speak_by = math.inf
                outputs += self._speeches.flush(context, by_client=False)
            if context.told_at + QUIET_S <= now:
                outputs += self._told(context, [_flush_done(context.name, context.flushes)], now)
        return outputs

    def _due_at(self, context: _Context) -> float:
        return min(context.speak_by, context.told_at + QUIET_S)

    def _request(self, name: str, request: CartesiaRequest, now: float) -> Sequence[Output]:
        context = self._contexts.get(name) if name else None
        if context is None or context.ended:
            if not name:
                self._unnamed += 1
                name = f"context-{self._unnamed}"
            if len(self._contexts) >= MAX_CONTEXTS:
                raise Refused(429, f"more than {MAX_CONTEXTS} contexts are open", "too_many_contexts", "context_id")
            context = self._contexts[name] = _Context(name, self._host, request, now)
        if context.chars + len(request.transcript) > self._host.limits.turn_chars:
            raise Refused(400, f"transcript: more than {self._host.limits.turn_chars} characters in one context")
        opens = context.chars == 0 and bool(request.transcript.strip())
        text = context.markup.text(request.text if opens else request.transcript)
        outputs = self._speeches.say(context, text if request.goes_on else text + context.markup.rest())
        if not request.goes_on:
            outputs += self._flush(context) if request.flush else []
            outputs += self._speeches.end(context)
            context.speak_by = math.inf
            return [*outputs, *self._finished(context)]
        if request.flush:
            context.speak_by = math.inf
            return [*outputs, *self._flush(context)]
        if not request.max_buffer_delay_ms:
            return [*outputs, *self._speeches.flush(context)]
        if context.unflushed and context.speak_by == math.inf:
            context.speak_by = now + request.max_buffer_delay_ms / 1000
        return outputs

    def _flush(self, context: _Context) -> list[Output]:
        context.flushes += 1
        turn = context.turn
        if turn is None or context.flushes > MAX_MARKS:
            return [*self._speeches.flush(context), _flush_done(context.name, context.flushes)]
        return [*self._speeches.flush(context), Mark(name=str(context.flushes), turn=turn)]

    def _flushed(self, context: _Context) -> list[Output]:
        """Of flushes whose sound was sent whole. Half a message of slack: times are in whole milliseconds."""
        outputs: list[Output] = []
        while context.to_tell and context.to_tell[0][1] <= context.sent_ms + 1:
            outputs.append(_flush_done(context.name, context.to_tell.popleft()[0]))
        return outputs

    def _spoken(self, context: _Context) -> list[Output]:
        rest = [_flush_done(context.name, number) for number, _ in context.to_tell] if context.finished else []
        return [*rest, *self._finished(context)]

    def _finished(self, context: _Context) -> list[Output]:
        if not context.finished:
            return []
        self._forget(context)
        return [done_message(context.name)]

    def _fail(self, context: _Context, why: Refused) -> list[Output]:
        return [*self._drop(context), error_message(context.name, why)]

    def _drop(self, context: _Context) -> list[Command]:
        commands = self._speeches.cut([context], "failed")
        self._forget(context)
        return commands

    def _cancel(self, name: str) -> Sequence[Output]:
        cut = [context for context in (*self._speeches.heard, *self._contexts.values()) if context.name == name]
        for context in cut:
            self._forget(context)
        return self._speeches.cut(cut, "barge_in")

    def _forget(self, context: _Context) -> None:
        context.over = True
        if self._contexts.get(context.name) is context:
            del self._contexts[context.name]

    def _told(self, context: _Context, outputs: Sequence[Output], now: float) -> Sequence[Output]:
        if outputs:
            context.told_at = now
        return outputs


def chunk(name: str, data: bytes, step_ms: float) -> str:
    """A piece of sound."""
    sound = base64.b64encode(data).decode("ascii")
    return _message("chunk", name, data=sound, done=False, status_code=206, step_time=step_ms)


def timestamps(name: str, items: Sequence[AlignmentItem]) -> str | None:
    """When words are spoken, in seconds; None: there are none."""
    if not items:
        return None
    words = {
        "words": [item.text for item in items],
        "start": [item.start_ms / 1000 for item in items],
        "end": [item.end_ms / 1000 for item in items],
    }
    return _message("timestamps", name, word_timestamps=words, done=False, status_code=206)


def done_message(name: str) -> str:
    """Nothing more comes of the context."""
    return _message("done", name, done=True, status_code=200)


def _flush_done(name: str, number: int) -> str:
    return _message("flush_done", name, flush_id=number, flush_done=True, done=False, status_code=206)


def error_message(name: str, refused: Refused) -> str:
    """A refusal. The context is over with it."""
    return _message("error", name, done=True, **error_fields(refused))


def error_fields(refused: Refused) -> dict[str, object]:
    """What an error says, on a socket and in an answer."""
    return {
        "status_code": refused.status,
        "error_code": refused.code,
        "title": _TITLES.get(refused.status, "Bad request" if refused.status < 500 else "Speech failed"),
        "message": refused.message,
        "request_id": "",
    }


def _status(event: ErrorEvent) -> int:
    return 500 if event.turn is not None else 400


def _message(kind: str, name: str, **fields: object) -> str:
    return json.dumps({"type": kind, "context_id": name, **fields})
