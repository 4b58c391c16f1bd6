"""What OpenAI's realtime clients set and say, and the session object that shows it to them.

Knows the fields of a session, of items and of a response, in the names of today and in those of the beta. Does not know turns.
Unknown fields are let pass; null is absent. Source: the types of OpenAI's SDK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pydantic import ValidationError

from protocol.commands import SessionUpdate
from protocol.config import MAX_SPEED, MIN_SPEED, AlignmentMode
from protocol.dialects.interface import FormatRefused, Host, Refused, SoundFormat, StreamEncoder
from protocol.dialects.settings import first_error, settings
from protocol.surrogates import join

_FORMATS: Final = {
    "audio/pcm": SoundFormat("pcm", 24_000),
    "audio/pcmu": SoundFormat("mulaw", 8000),
    "audio/pcma": SoundFormat("alaw", 8000),
}
_BETA_NAMES: Final = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_TEXTS: Final = {"text", "input_text", "output_text"}
_TRANSCRIPTS: Final = {"audio", "input_audio", "output_audio"}


@dataclass(frozen=True, slots=True)
class Voicing:
    """How responses sound."""

    voice: str = "alloy"
    format: str = "audio/pcm"
    speed: float = 1.0

    def updated(self, session: Mapping[str, object]) -> Voicing:
        """With what a `session` or `response` object gives. Raises Refused."""
        output = _object(_object(session, "audio"), "output")
        given = self
        for name, where in (
            (session.get("voice"), "session.voice"),
            (output.get("voice"), "session.audio.output.voice"),
        ):
            given = replace(given, voice=_voice(name, where)) if name is not None else given
        for name in (session.get("output_audio_format"), output.get("format")):
            given = replace(given, format=_format(name)) if name is not None else given
        for speed in (session.get("speed"), output.get("speed")):
            given = replace(given, speed=_speed(speed)) if speed is not None else given
        return given

    def encoder(self, host: Host) -> StreamEncoder:
        """Raises Refused."""
        try:
            return host.encoder(_FORMATS[self.format])
        except FormatRefused as error:
            raise Refused(400, str(error), "invalid_value", "session.audio.output.format") from None

    def settings(self, host: Host, encoder: StreamEncoder) -> SessionUpdate:
        """The native settings. Raises Refused."""
        try:
            voice = host.voice(self.voice)
            return settings(host, encoder, voice=voice, speed=self.speed, alignment=AlignmentMode.WORD)
        except ValidationError as error:
            raise Refused(400, ": ".join(first_error(error)), "invalid_value") from None

    def output(self) -> dict[str, object]:
        """As `audio.output` of a session or response shows it."""
        rate = {"rate": 24_000} if self.format == "audio/pcm" else {}
        return {"format": {"type": self.format, **rate}, "voice": self.voice}

    def session(self, name: str, model: str, shown: Mapping[str, object], *, beta: bool) -> dict[str, object]:
        """The whole session object. shown: what the client set and we only remember."""
        common = {
            "instructions": "",
            "tools": [],
            "tool_choice": "auto",
            **shown,
            "id": name,
            "object": "realtime.session",
            "model": model,
        }
        if beta:
            beta_format = next(old for old, new in _BETA_NAMES.items() if new == self.format)
            return {
                **common,
                "modalities": ["audio", "text"],
                "voice": self.voice,
                "speed": self.speed,
                "output_audio_format": beta_format,
                "input_audio_format": "pcm16",
                "turn_detection": None,
            }
        sound_in = {"format": {"type": "audio/pcm", "rate": 24_000}, "turn_detection": None}
        audio = {"input": sound_in, "output": {**self.output(), "speed": self.speed}}
        return {**common, "type": "realtime", "output_modalities": ["audio"], "audio": audio}


def text_of(item: Mapping[str, object]) -> str:
    """What an item says, in whole characters."""
    return join("", _text_of(item))[0]


def _text_of(item: Mapping[str, object]) -> str:
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else ()
    found = []
    for part in parts:
        if isinstance(part, Mapping):
            name = "text" if part.get("type") in _TEXTS else "transcript" if part.get("type") in _TRANSCRIPTS else ""
            text = part.get(name)
            found.append(text if isinstance(text, str) else "")
    return " ".join(text for text in found if text)


def _object(fields: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = fields.get(name)
    return value if isinstance(value, Mapping) else {}


def _voice(name: object, where: str) -> str:
    known = name.get("id") if isinstance(name, Mapping) else name
    if not isinstance(known, str):
        raise Refused(400, f"{where} is a name or an object with an id", "invalid_value", where)
    return known


def _format(name: object) -> str:
    kind = name.get("type") if isinstance(name, Mapping) else name
    kind = _BETA_NAMES.get(kind, kind) if isinstance(kind, str) else None
    if kind not in _FORMATS:
        why = f"the output's format is one of {', '.join((*_FORMATS, *_BETA_NAMES))}"
        raise Refused(400, why, "invalid_value", "session.audio.output.format")
    return kind


def _speed(speed: object) -> float:
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not MIN_SPEED <= speed <= MAX_SPEED:
        why = f"speed is a number from {MIN_SPEED:g} to {MAX_SPEED:g}"
        raise Refused(400, why, "invalid_value", "session.audio.output.speed")
    return float(speed)
