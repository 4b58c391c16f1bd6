"""Where Cartesia's clients connect to: the socket, sound over HTTP, and sound as server-sent events."""

from __future__ import annotations

import json
from typing import Final

from protocol.dialects.cartesia import CartesiaSocket, chunk, done_message, error_fields, error_message, timestamps
from protocol.dialects.cartesia_markup import Markup
from protocol.dialects.cartesia_request import CartesiaRequest
from protocol.dialects.interface import Dialect, Host, Opening, Refused, RequestRoute, SocketRoute
from protocol.dialects.oneshot import Framing, OneShot, Wanted
from protocol.dialects.speeches import Words
from protocol.events import Alignment, TurnDone


def errors(refused: Refused) -> tuple[str, str]:
    """As the SDK puts it into its exception."""
    return "application/json", json.dumps(error_fields(refused))


class _Events(Framing):
    """`/tts/sse`: the messages of the socket."""

    media_type = "text/event-stream; charset=utf-8"

    def __init__(self, name: str) -> None:
        self._name = name
        self._words = Words()

    def audio(self, data: bytes) -> str:
        return _event("chunk", chunk(self._name, data, 0.0))

    def words(self, alignment: Alignment) -> str | None:
        told = timestamps(self._name, self._words.take(alignment))
        return _event("timestamps", told) if told is not None else None

    def end(self, done: TurnDone) -> str:
        return _event("done", done_message(self._name))

    def error(self, refused: Refused) -> str:
        return _event("error", error_message(self._name, refused))


def _event(kind: str, data: str) -> str:
    return f"event: {kind}\ndata: {data}\n\n"


def _speech(host: Host, opening: Opening, *, events: bool) -> Dialect:
    try:
        fields = json.loads(opening.body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"not JSON: {error}") from None
    request = CartesiaRequest.read(fields)
    if not request.transcript.strip():
        raise Refused(400, "transcript: there is none", param="transcript")
    if len(request.text) > host.limits.turn_chars:
        raise Refused(400, f"transcript: more than {host.limits.turn_chars} characters", param="transcript")
    markup = Markup()
    text = markup.text(request.text) + markup.rest()
    encoder = request.encoder(host, ("raw",) if events else ("raw", "wav", "mp3"))
    framing = _Events(request.context_id or "context-1") if events else Framing()
    return OneShot(host, Wanted(text, encoder, lambda _: request.settings(host, encoder), errors, (), framing))


def sound(host: Host, opening: Opening) -> Dialect:
    """`POST /tts/bytes`. Raises Refused."""
    return _speech(host, opening, events=False)


def events(host: Host, opening: Opening) -> Dialect:
    """`POST /tts/sse`. Raises Refused."""
    return _speech(host, opening, events=True)


SOCKETS: Final = (SocketRoute("/tts/websocket", CartesiaSocket, errors),)
REQUESTS: Final = (RequestRoute("/tts/bytes", sound, errors), RequestRoute("/tts/sse", events, errors))
