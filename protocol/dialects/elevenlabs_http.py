"""ElevenLabs' speech over HTTP: an answer of sound, or of lines of JSON with sound in base64 and the times of its characters.

Knows the shape of answers and errors. Does not know what a request's fields mean. Times count from the start of the answer.
"""

from __future__ import annotations

import base64
import json
from typing import Final

from protocol.dialects.elevenlabs_letters import Letter, Letters
from protocol.dialects.elevenlabs_request import SpeechRequest
from protocol.dialects.interface import Dialect, Host, Opening, Refused, StreamEncoder
from protocol.dialects.oneshot import Framing, OneShot, Wanted
from protocol.events import Alignment, TurnDone

_TYPES: Final = {
    401: "authentication_error",
    403: "authorization_error",
    404: "not_found",
    413: "validation_error",
    429: "rate_limit_error",
}


def errors(refused: Refused) -> tuple[str, str]:
    """See `interface.ErrorShape`. Older clients read `status`, newer ones `type` and `code`; all show `message`."""
    kind = _TYPES.get(refused.status, "internal_server_error" if refused.status >= 500 else "validation_error")
    detail = {"type": kind, "code": refused.code, "status": refused.code, "message": refused.message}
    return "application/json", json.dumps({"detail": {**detail, "param": refused.param}})


class _Timed(Framing):
    """A line for each piece of sound; the times of words come with the sound behind them, or by themselves at the end."""

    media_type = "application/json"

    def __init__(self, text: str) -> None:
        self._letters = Letters()
        self._letters.text(text)

    def audio(self, data: bytes) -> str | None:
        return self._line(data)

    def words(self, alignment: Alignment) -> None:
        self._letters.event(alignment)

    def end(self, done: TurnDone) -> str | None:
        self._letters.turn_done(done.audio_ms, complete=True)
        return self._line(b"")

    def _line(self, data: bytes) -> str:
        return self._fields(data) + "\n"

    def _fields(self, data: bytes) -> str:
        told = self._letters.take()
        fields = {
            "audio_base64": base64.b64encode(data).decode("ascii"),
            "alignment": None if told is None else _times(told.written),
            "normalized_alignment": None if told is None else _times(told.spoken),
        }
        return json.dumps(fields)


class _Whole(_Timed):
    """All of it in one object."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sound = bytearray()

    def audio(self, data: bytes) -> None:
        self._sound += data

    def end(self, done: TurnDone) -> str:
        self._letters.turn_done(done.audio_ms, complete=True)
        return self._fields(bytes(self._sound))


def _times(letters: tuple[Letter, ...]) -> dict[str, object]:
    return {
        "characters": [letter.char for letter in letters],
        "character_start_times_seconds": [letter.start_ms / 1000 for letter in letters],
        "character_end_times_seconds": [letter.end_ms / 1000 for letter in letters],
    }


def speech(host: Host, opening: Opening) -> Dialect:
    """`POST /v1/text-to-speech/{voice}` and `.../stream`. Raises Refused."""
    return _answer(host, opening, None)


def speech_with_timestamps(host: Host, opening: Opening) -> Dialect:
    """`POST /v1/text-to-speech/{voice}/stream/with-timestamps`. Raises Refused."""
    return _answer(host, opening, _Timed)


def timed_speech(host: Host, opening: Opening) -> Dialect:
    """`POST /v1/text-to-speech/{voice}/with-timestamps`. Raises Refused."""
    return _answer(host, opening, _Whole)


def _answer(host: Host, opening: Opening, timed: type[_Timed] | None) -> Dialect:
    request = SpeechRequest.read_all(opening.body, opening.query)
    check_length(host, request.text, "text")
    encoder: StreamEncoder = request.encoder(host)
    voice = opening.path.get("voice", "")
    return OneShot(
        host,
        Wanted(
            text=request.text,
            encoder=encoder,
            settings=lambda _: request.settings(
                host, encoder, voice, request.voice_settings, aligned=timed is not None
            ),
            errors=errors,
            framing=Framing() if timed is None else timed(request.text),
        ),
    )


def check_length(host: Host, text: str, param: str) -> None:
    """Raises Refused for a text that is no turn."""
    if len(text) > host.limits.turn_chars:
        why = f"{param}: more than {host.limits.turn_chars} characters"
        raise Refused(400, why, "max_character_limit_exceeded", param)
