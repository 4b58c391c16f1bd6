"""OpenAI's speech over HTTP: an answer of sound, or of server-sent events with sound in base64.

Knows the shape of answers, errors and events. Does not know what a request's fields mean.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Final

from protocol.dialects.interface import Dialect, Host, Opening, Refused
from protocol.dialects.oneshot import Framing, OneShot, Wanted
from protocol.dialects.openai_request import SpeechRequest, read_json
from protocol.events import TurnDone

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_body(refused: Refused) -> dict[str, object]:
    """As OpenAI's clients read it."""
    kind = _TYPES.get(refused.status, "server_error" if refused.status >= 500 else "invalid_request_error")
    return {"error": {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}}


def errors(refused: Refused) -> tuple[str, str]:
    """See `interface.ErrorShape`."""
    return "application/json", json.dumps(error_body(refused))


class _Sound(Framing):
    """The sound itself."""

    def __init__(self, rate: int) -> None:
        self.headers = {"X-Sample-Rate": str(rate)}


class _Events(_Sound):
    """`stream_format: "sse"`."""

    media_type = "text/event-stream; charset=utf-8"

    def audio(self, data: bytes) -> str:
        return _event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode("ascii")})

    def end(self, done: TurnDone) -> str:
        """Usage counts what we count: code points of the input, and frames of speech."""
        given, made = done.metrics.text_chars, done.metrics.audio_tokens
        usage = {"input_tokens": given, "output_tokens": made, "total_tokens": given + made}
        return _event({"type": "speech.audio.done", "usage": usage})

    def error(self, refused: Refused) -> str:
        return _event({"type": "speech.audio.error", **error_body(refused)})


def _event(fields: Mapping[str, object]) -> str:
    return f"data: {json.dumps(fields)}\n\n"


def one(host: Host, request: SpeechRequest) -> Dialect:
    """One text, one answer. Raises Refused."""
    if len(request.text) > host.limits.turn_chars:
        raise Refused(400, f"input: more than {host.limits.turn_chars} characters", "string_above_max_length", "input")
    encoder = request.encoder(host)
    framing = _Events(encoder.rate) if request.stream_format == "sse" else _Sound(encoder.rate)
    return OneShot(
        host,
        Wanted(
            text=request.text,
            encoder=encoder,
            settings=lambda voice: request.settings(host, encoder, voice),
            errors=errors,
            recordings=request.recordings(),
            framing=framing,
        ),
    )


def speech(host: Host, opening: Opening) -> Dialect:
    """`POST /v1/audio/speech`. Raises Refused."""
    return one(host, SpeechRequest.read(read_json(opening.body)))


def session(opening: Opening) -> str | None:
    """An extension: the body names the session, for clients whose base URL cannot be changed. Raises Refused."""
    if b'"session"' not in opening.body:
        return None  # a body with a recording in it is not read twice
    return SpeechRequest.read(read_json(opening.body)).session
