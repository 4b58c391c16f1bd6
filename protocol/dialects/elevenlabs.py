"""ElevenLabs' sockets: `multi-stream-input`, which has several contexts, and `stream-input`, which has one.

Knows their messages as elevenlabs-python, pipecat and LiveKit send and read them; source: their code, and what they were seen to send.
Does not know how a context is spoken. Contexts of one socket are spoken one after the other, in the order of their first words.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

from protocol.commands import Command
from protocol.dialects.elevenlabs_contexts import CAMEL, POLICY, Context, Contexts, Since, final, refusal
from protocol.dialects.elevenlabs_request import VoiceSettings, Wishes
from protocol.dialects.interface import CloseSocket, Host, Opening, Output, Refused
from protocol.events import Event

MAX_OPEN: Final = 64  # contexts of a socket; each has an encoder. ElevenLabs has 5, and clients forget some
UNNAMED: Final = "default"  # the context of text that names none
_KEYS: Final = ("xi_api_key", "xi-api-key", "authorization")


class _Socket(ABC):
    """What both have in common."""

    deadline = math.inf
    names = CAMEL

    def __init__(self, host: Host, opening: Opening) -> None:
        """Raises Refused."""
        self._host = host
        self._voice = opening.path.get("voice", "")
        self._wishes = Wishes.read(opening.query)
        self._wishes.encoder(host)  # refuses a format that there is not
        self._contexts = Contexts(host, names=self.names, since=self._since(opening), over=self._over)
        self._closed = False  # by us, after everything

    def opened(self, now: float) -> Sequence[Output]:
        """Nothing is said until something is asked for."""
        return ()

    def event(self, event: Event, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        return self._contexts.event(event)

    def audio(self, turn: str, payload: bytes, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        return self._contexts.audio(turn, payload)

    def tick(self, now: float) -> Sequence[Output]:
        """Nothing is ever due."""
        return ()

    def _context(self, name: str | None, fields: Mapping[str, Any]) -> Context:
        """A new one. Raises Refused."""
        spoken = VoiceSettings.read(fields.get("voice_settings") or {})
        encoder = self._wishes.encoder(self._host)
        return Context(name, encoder, self._wishes.settings(self._host, encoder, self._voice, spoken))

    def _since(self, opening: Opening) -> Since:
        """pipecat adds up what each message spans; LiveKit adds nothing, and is the one that asks for `sync_alignment`."""
        return Since.CONTEXT if self._wishes.sync_alignment else Since.TOLD

    def _close(self, code: int = 1000, reason: str = "") -> Output:
        self._closed = True
        return CloseSocket(code, reason)

    @abstractmethod
    def _over(self, context: Context) -> Sequence[Output]:
        """What is said at the end of a context."""


class MultiStream(_Socket):
    """`multi-stream-input`. See `interface.Dialect`."""

    def __init__(self, host: Host, opening: Opening) -> None:
        """Raises Refused."""
        super().__init__(host, opening)
        self._open: dict[str, Context] = {}  # that take text
        self._leaving = False  # the client has asked for the end

    def received(self, message: str | bytes, now: float) -> Sequence[Output]:
        """See `Dialect`. Binary messages are no part of this protocol."""
        try:
            fields = _fields(message)
        except Refused as refused:
            return [refusal(None, refused, self.names)]
        if fields is None or self._leaving:
            return ()
        if fields.get("close_socket") is True:
            return self._leave()
        name, text = fields.get("context_id"), self._text(fields)
        flush, close = fields.get("flush") is True, fields.get("close_context") is True
        return self._about(name if isinstance(name, str) and name else UNNAMED, fields, text, flush, close)

    def disconnected(self, now: float) -> Sequence[Command]:
        """Whoever asked for the end has let be played what was sent; any other end is an interruption."""
        turns = self._contexts.turns
        return turns.cancel(turns.speaking if self._leaving else turns.heard, "barge_in")

    def _text(self, fields: Mapping[str, Any]) -> str:
        text = fields.get("text")
        return text if isinstance(text, str) else ""

    def _about(self, name: str, fields: Mapping[str, Any], text: str, flush: bool, close: bool) -> Sequence[Output]:
        if not text and not flush and not close:
            return ()  # pipecat keeps the connection alive with it
        context = self._open.get(name)
        if context is None:
            if not text:
                return self._close_again(name) if close else ()
            try:
                context = self._new(name, fields)
            except Refused as refused:
                return [refusal(name, refused, self.names), final(name, self.names)]
        text = self._marked(context, fields, text)
        outputs = self._instead_of_abandoned(context) if text.strip() else []
        outputs += self._contexts.say(context, text)
        if flush or (self._wishes.auto_mode and text.strip()):
            outputs += self._contexts.flush(context)
        if close:
            return [*outputs, *self._close_context(context, meant=bool(text) or flush)]
        context.resting = flush and not text.strip()
        return outputs

    def _new(self, name: str, fields: Mapping[str, Any]) -> Context:
        if len(self._open) >= MAX_OPEN:
            raise Refused(429, f"more than {MAX_OPEN} contexts are open", "too_many_contexts")
        context = self._open[name] = self._context(name, fields)
        return context

    def _marked(self, context: Context, fields: Mapping[str, Any], text: str) -> str:
        """As it is spoken: here, as it is."""
        return text

    def _close_context(self, context: Context, meant: bool) -> list[Output]:
        """An end if the client had said everything, by a flush without words; an interruption otherwise.

        Where nobody waits for what is heard, text of which nothing was spoken is no loss to anyone but a client that closes at once.
        """
        del self._open[context.name or UNNAMED]
        if meant or context.resting or not (context.sounded or self._cuts_unheard):
            return self._contexts.finish(context)
        return self._contexts.cancel(context)

    @property
    def _cuts_unheard(self) -> bool:
        """Whether a context that was closed in the middle of text is cut although nothing of it sounded."""
        return self._host.paced

    def _close_again(self, name: str) -> Sequence[Output]:
        """pipecat closes a second time what it has closed and still hears."""
        known = next((context for context in self._contexts.speaking if context.name == name), None)
        return self._contexts.cancel(known) if known is not None else ()

    def _instead_of_abandoned(self, context: Context) -> list[Output]:
        """LiveKit speaks one thing at a time, and does not tell of an interruption once it has closed a context.

        It is the only client that asks for `sync_alignment`. Others have several things to say, one behind the other.
        """
        if context.waiting or not (self._host.paced and self._one_at_a_time):
            return []
        abandoned = [known for known in self._contexts.speaking if known.closed]
        return [output for known in reversed(abandoned) for output in self._contexts.cancel(known)]

    @property
    def _one_at_a_time(self) -> bool:
        return self._wishes.sync_alignment

    def _leave(self) -> Sequence[Output]:
        left, self._open = self._open, {}
        outputs = [output for context in left.values() for output in self._contexts.finish(context)]
        self._leaving = True
        return outputs if self._contexts.speaking else [*outputs, self._close()]

    def _over(self, context: Context) -> Sequence[Output]:
        if self._open.get(context.name or UNNAMED) is context:
            del self._open[context.name or UNNAMED]
        outputs: list[Output] = [] if (context.name or UNNAMED) in self._open else [final(context.name, self.names)]
        return [*outputs, self._close()] if self._leaving and not self._contexts.speaking else outputs


class SingleStream(_Socket):
    """`stream-input`. See `interface.Dialect`."""

    def __init__(self, host: Host, opening: Opening) -> None:
        """Raises Refused."""
        super().__init__(host, opening)
        self._only: Context | None = None
        self._ended = False  # no text comes any more

    def received(self, message: str | bytes, now: float) -> Sequence[Output]:
        """See `Dialect`. Binary messages are no part of this protocol."""
        try:
            fields = _fields(message)
            text = fields.get("text") if fields is not None else None
            if fields is None or self._ended or not isinstance(text, str):
                return ()
            context = self._only = self._only or self._context(None, fields)
        except Refused as refused:
            self._ended = True
            cancelled = self._contexts.turns.cancel(self._contexts.turns.speaking, "failed")
            return [*cancelled, refusal(None, refused), self._close(POLICY, refused.code)]
        if not text:
            self._ended = True
            return self._contexts.finish(context)
        outputs = self._contexts.say(context, text)
        if fields.get("flush") is True or (self._wishes.auto_mode and text.strip()):
            outputs += self._contexts.flush(context)
        return outputs

    def disconnected(self, now: float) -> Sequence[Command]:
        """A client that goes before its end has stopped listening; the end is sent behind the last sound."""
        turns = self._contexts.turns
        return turns.cancel(turns.speaking if self._closed else turns.heard, "barge_in")

    def _over(self, context: Context) -> Sequence[Output]:
        """elevenlabs-python reads until the close, and takes a message in front of it for what is wrong."""
        self._ended = True
        return [self._close(POLICY, "failed")] if context.failed else [final(None), self._close()]


def key_in_message(message: str | bytes) -> str | None:
    """Clients in a browser can set no headers; their first message has the key."""
    try:
        fields = _fields(message) or {}
    except Refused:
        return None
    shown = next((fields[name] for name in _KEYS if isinstance(fields.get(name), str)), None)
    return None if shown is None else str(shown).removeprefix("Bearer ").strip()


def _fields(message: str | bytes) -> Mapping[str, Any] | None:
    """None: a message that is none. Raises Refused."""
    if isinstance(message, bytes):
        return None
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError) as wrong:
        raise Refused(400, f"not JSON: {wrong}", "invalid_json") from None
    if not isinstance(fields, dict):
        raise Refused(400, "not an object", "invalid_json")
    return fields
