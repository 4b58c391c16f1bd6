"""The part of OpenAI's Realtime API in which a given text is spoken as it stands, `/v1/realtime`.

Knows its messages, in the names of today and, for clients that ask for it, of the beta. Source: the types of OpenAI's SDK. No model
here thinks of an answer: a response speaks the text of `response.input`, or the newest assistant item that was not spoken yet.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.commands import Command, ContextAppend, ContextTruncate, Role, Scope, TurnCancel
from protocol.config import MAX_APPEND_CHARS, MAX_MS
from protocol.dialects.interface import Host, Opening, Output, Refused
from protocol.dialects.openai_realtime_request import Voicing, text_of
from protocol.dialects.openai_realtime_response import Response
from protocol.dialects.speeches import Speeches
from protocol.events import Alignment, ContextUpdated, ErrorEvent, Event, TurnDone

BETA: Final = "realtime=v1"
_SHOWN: Final = (
    "instructions",
    "tools",
    "tool_choice",
    "max_output_tokens",
    "tracing",
    "truncation",
    "include",
    "prompt",
)
MAX_ACTIVE: Final = 16  # responses at once
_ITEMS: Final = 512  # of a conversation that are known by id; the oldest go


class RealtimeSocket:
    """See `interface.Dialect`."""

    deadline = math.inf

    def __init__(self, host: Host, opening: Opening) -> None:
        self._host = host
        asked = opening.headers.get("openai-beta", "") + opening.headers.get("sec-websocket-protocol", "")
        self._beta = BETA in asked or "realtime-v1" in asked
        self._model = opening.query.get("model") or host.model_name
        self._voicing = Voicing()
        self._shown: dict[str, object] = {}
        self._speeches: Speeches[Response] = Speeches(host)
        self._active: list[Response] = []  # oldest first
        self._items: dict[str, Mapping[str, object]] = {}  # oldest first
        self._spoken: dict[str, str] = {}  # native turns of items that were responses
        self._unspoken: tuple[str, str] | None = None  # the newest assistant item that nobody spoke: id and text
        self._truncating: dict[str, str] = {}  # by native turn: the answer that waits
        self._stopping: set[str] = set()  # those of them that were still spoken
        self._refused_sound = False
        self._count = 0

    def opened(self, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        outputs = [self._packed("session.created", session=self._session())]
        if self._beta:
            conversation = {"id": self._conversation, "object": "realtime.conversation"}
            outputs.append(self._packed("conversation.created", conversation=conversation))
        return outputs

    def received(self, message: str | bytes, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        fields: Mapping[str, object] = {}
        try:
            try:
                read = json.loads(message)
            except (ValueError, RecursionError) as error:
                raise Refused(400, f"not JSON: {error}", "invalid_json") from None
            if not isinstance(read, Mapping):
                raise Refused(400, "an event is an object", "invalid_event")
            fields = read
            return self._do(fields)
        except Refused as refused:
            return [self._error(refused, fields.get("event_id"))]

    def event(self, event: Event, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        response = self._speeches.event(event)
        match event:
            case ContextUpdated(turn=str(turn)) if turn in self._truncating:
                return [self._truncating.pop(turn)]
            case ErrorEvent(turn=str(turn)) if turn in self._truncating:
                del self._truncating[turn]
                return [self._error(Refused(400, event.message, str(event.code)))]
            case TurnDone() if event.turn in self._stopping:
                self._stopping.discard(event.turn)
                return [*self._done(response, event), self._truncating.pop(event.turn)]
            case TurnDone():
                return self._done(response, event)
            case ErrorEvent() if response is not None:
                return self._fail(response, event)
            case ErrorEvent(turn=None):
                return [self._error(Refused(400, event.message, str(event.code)))]
            case Alignment() if response is not None:
                return self._pack(response.transcribed(event))
        return ()

    def audio(self, turn: str, payload: bytes, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        response = self._speeches.of(turn)
        data = response.encoder.push(payload) if response is not None else b""
        if response is None or not data:
            return ()
        return self._pack([response.sounded(base64.b64encode(data).decode("ascii"))])

    def disconnected(self, now: float) -> Sequence[Command]:
        """The client is gone: what was not sent nobody will hear."""
        return self._speeches.leave("disconnected")

    def tick(self, now: float) -> Sequence[Output]:
        """Nothing is ever due."""
        return ()

    def _do(self, fields: Mapping[str, object]) -> Sequence[Output]:
        match fields:
            case {"type": "session.update", "session": Mapping() as session}:
                return self._update(session)
            case {"type": "conversation.item.create", "item": Mapping() as item}:
                return self._create_item(item)
            case {"type": "conversation.item.truncate"}:
                return self._truncate(fields)
            case {"type": "response.create"}:
                response = fields.get("response")
                return self._respond(response if isinstance(response, Mapping) else {})
            case {"type": "response.cancel"}:
                return self._cancel(fields.get("response_id"))
        kind = fields.get("type")
        if kind == "input_audio_buffer.append" and self._refused_sound:
            return ()  # it comes many times a second, and asks for no answer
        self._refused_sound = kind == "input_audio_buffer.append" or self._refused_sound
        why = f"{kind!r} is no event of this server, which speaks given text: it does not listen and does not think of answers"
        raise Refused(400, why, "unsupported_event", "type")

    @property
    def _conversation(self) -> str:
        return f"conv_{self._host.turn_prefix.strip('-')}"

    def _session(self) -> dict[str, object]:
        name = f"sess_{self._host.turn_prefix.strip('-')}"
        return self._voicing.session(name, self._model, self._shown, beta=self._beta)

    def _update(self, session: Mapping[str, object]) -> Sequence[Output]:
        voicing = self._voicing.updated(session)
        voicing.encoder(self._host)
        self._voicing = voicing
        self._shown |= {name: session[name] for name in _SHOWN if name in session}
        return [self._packed("session.updated", session=self._session())]

    def _create_item(self, given: Mapping[str, object]) -> Sequence[Output]:
        name = given.get("id") if isinstance(given.get("id"), str) else None
        item = {"status": "completed", **given, "id": name or self._id("item"), "object": "realtime.item"}
        role, text = item.get("role"), text_of(item)
        told = self._told_of(item)
        if role == "assistant" and text.strip():
            self._unspoken = (str(item["id"]), text)
            return told
        if item.get("type", "message") != "message" or role not in ("user", "system") or not text.strip():
            return told
        pieces = [text[at : at + MAX_APPEND_CHARS] for at in range(0, len(text), MAX_APPEND_CHARS)]
        return [*(ContextAppend(role=Role(str(role)), text=piece) for piece in pieces), *told]

    def _told_of(self, item: Mapping[str, object]) -> list[Output]:
        before = next(reversed(self._items), None)
        self._know(item)
        kinds = ["conversation.item.added", "conversation.item.done"]
        if self._beta:
            kinds.insert(0, "conversation.item.created")
        return [self._packed(kind, previous_item_id=before, item=item) for kind in kinds]

    def _know(self, item: Mapping[str, object]) -> None:
        self._items[str(item["id"])] = item
        if len(self._items) > _ITEMS:
            oldest = next(iter(self._items))
            del self._items[oldest]
            self._spoken.pop(oldest, None)

    def _respond(self, given: Mapping[str, object]) -> Sequence[Output]:
        recorded = given.get("conversation") != "none"
        if recorded and any(response.recorded and not response.over for response in self._active):
            raise Refused(
                400, "a response is being spoken; cancel it first", "conversation_already_has_active_response"
            )
        if len(self._active) >= MAX_ACTIVE:
            raise Refused(429, f"more than {MAX_ACTIVE} responses at once", "rate_limit_exceeded")
        text = self._text(given.get("input"))
        if len(text) > self._host.limits.turn_chars:
            raise Refused(
                400, f"more than {self._host.limits.turn_chars} characters", "string_above_max_length", "response.input"
            )
        voicing = self._voicing.updated(given)
        encoder = voicing.encoder(self._host)
        metadata = given.get("metadata")
        response = Response(
            self._id("resp"),
            self._id("item"),
            encoder,
            voicing.settings(self._host, encoder),
            voicing,
            self._conversation if recorded else None,
            metadata if isinstance(metadata, Mapping) else None,
        )
        response.text = text
        before = next(reversed(self._items), None)
        if recorded:
            self._know(response.item("in_progress", ""))
        self._active.append(response)
        return [*self._pack(response.began(before, beta=self._beta)), *self._say_next()]

    def _say_next(self) -> list[Output]:
        """What waits is spoken, but not behind one that is to be forgotten: only the last that sounded can be."""
        outputs: list[Output] = []
        for response in self._active:
            if response.item_id not in self._spoken:
                outputs += self._speeches.say_whole(response, response.text)
                self._spoken[response.item_id] = response.waiting[0]
            if not response.recorded:
                break
        return outputs

    def _text(self, given: object) -> str:
        if isinstance(given, Sequence) and given:
            known = [self._items.get(str(item.get("id")), item) if isinstance(item, Mapping) else {} for item in given]
            text = " ".join(filter(None, map(text_of, known)))
        elif self._unspoken is not None:
            text, self._unspoken = self._unspoken[1], None
        else:
            text = ""
        if not text.strip():
            why = "there is nothing to speak: give the text in response.input, or as an assistant item before"
            raise Refused(400, why, "no_responder", "response.input")
        return text

    def _cancel(self, name: object) -> Sequence[Output]:
        named = [response for response in self._active if not response.over and name in (None, response.name)]
        if not named:
            raise Refused(400, "no response is being spoken", "response_cancel_not_active", "response_id")
        response, was_cut = named[0], named[0].cut
        response.cut = True
        if response.item_id in self._spoken:
            return [] if was_cut else self._speeches.turns.cancel(response.waiting, "client_cancelled")
        told = self._pack(response.cancelled())
        return [*told, *self._over(response)]

    def _truncate(self, fields: Mapping[str, object]) -> Sequence[Output]:
        item, at_ms = fields.get("item_id"), fields.get("audio_end_ms")
        turn = self._spoken.get(item) if isinstance(item, str) else None
        if turn is None or not isinstance(item, str):
            raise Refused(400, f"no spoken item {item!r}", "item_truncate_invalid_item_id", "item_id")
        if isinstance(at_ms, bool) or not isinstance(at_ms, int) or not 0 <= at_ms <= MAX_MS:
            raise Refused(400, "audio_end_ms is a number of ms", "invalid_value", "audio_end_ms")
        self._truncating[turn] = self._packed(
            "conversation.item.truncated", item_id=item, content_index=0, audio_end_ms=at_ms
        )
        response = self._speeches.of(turn)
        if response is None or response.cut:
            return [ContextTruncate(turn=turn, played_ms=at_ms)]
        response.cut = True  # who truncates what is still spoken has stopped listening
        self._stopping.add(turn)
        return [TurnCancel(turn=turn, scope=Scope.TURN, played_ms=at_ms, reason="client_cancelled")]

    def _done(self, response: Response | None, event: TurnDone) -> list[Output]:
        if response is None or not response.finished:
            return []
        outputs: list[Output] = []
        if not response.recorded and event.sent_ms:
            outputs.append(ContextTruncate(turn=event.turn, played_ms=0))
        outputs += self._pack(response.ended_by(event))
        return [*outputs, *self._over(response)]

    def _fail(self, response: Response, event: ErrorEvent) -> list[Output]:
        commands = self._speeches.cut([response], "failed")
        told = self._pack(response.failed(event.message, str(event.code)))
        return [*commands, *told, *self._over(response)]

    def _over(self, response: Response) -> list[Output]:
        response.over = True
        self._active = [known for known in self._active if known is not response]
        if response.recorded and response.item_id in self._items:
            self._items[response.item_id] = response.output[0]
        if not response.recorded:
            self._spoken.pop(response.item_id, None)
        return self._say_next()

    def _id(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._host.turn_prefix.strip('-')}_{self._count}"

    def _error(self, refused: Refused, event_id: object = None) -> str:
        error = {
            "type": "invalid_request_error" if refused.status < 500 else "server_error",
            "code": refused.code,
            "message": refused.message,
            "param": refused.param,
            "event_id": event_id if isinstance(event_id, str) else None,
        }
        return self._packed("error", error=error)

    def _pack(self, messages: Sequence[tuple[str, Mapping[str, object]]]) -> list[Output]:
        return [self._packed(self._named(kind), **fields) for kind, fields in messages]

    def _named(self, kind: str) -> str:
        return kind.replace("response.output_audio", "response.audio") if self._beta else kind

    def _packed(self, kind: str, **fields: object) -> str:
        return json.dumps({"type": kind, "event_id": self._id("event"), **fields})
