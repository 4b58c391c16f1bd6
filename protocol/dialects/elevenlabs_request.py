"""How ElevenLabs' clients say what they want: in the query of an address, in the body of a request, and as voice settings.

Knows fields, defaults and what they are natively. Does not know messages, contexts or turns. Unknown fields are let pass; null is absent.
What has no native counterpart is let pass, too: stability, similarity_boost, style, use_speaker_boost, chunk_length_schedule (text is cut
where it can be spoken best), pronunciation dictionaries and the text before and after (a session knows what it has said).
Source: ElevenLabs' API reference, and what elevenlabs-python, pipecat and LiveKit send.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from protocol.commands import SessionUpdate
from protocol.config import AlignmentMode, Language
from protocol.dialects.elevenlabs_markup import Markup
from protocol.dialects.interface import FormatRefused, Host, Refused, SoundFormat, StreamEncoder
from protocol.dialects.settings import first_error, settings
from protocol.surrogates import join

DEFAULT_FORMAT: Final = "mp3_44100_128"
KBIT: Final = 1000
SEEDS: Final = 2**31  # theirs go up to 2**32 - 1, ours to here
_FORMAT: Final = re.compile(r"(pcm|wav|mp3|opus|ulaw|alaw)_([0-9]{4,5})(?:_([0-9]{1,3}))?", re.ASCII)
_NAMES: Final = {"ulaw": "mulaw"}
_LANGUAGES: Final = {"en": Language.ENGLISH, "de": Language.GERMAN}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value


T = TypeVar("T", bound=_Part)


class VoiceSettings(_Part):
    """How the voice speaks."""

    speed: float = Field(default=1.0, ge=0.25, le=4)

    @classmethod
    def read(cls, fields: object) -> VoiceSettings:
        """Raises Refused 422."""
        return checked(cls, fields, "voice_settings.")


class Wishes(_Part):
    """The query of a WebSocket's address, and of a request's."""

    output_format: str = DEFAULT_FORMAT
    language_code: str = ""
    apply_text_normalization: Literal["auto", "on", "off"] = "auto"
    auto_mode: bool = False
    sync_alignment: bool = False
    seed: int | None = Field(default=None, ge=0, lt=2**32)

    @classmethod
    def read(cls, fields: object) -> Wishes:
        """Raises Refused 422."""
        return checked(cls, fields)

    def encoder(self, host: Host) -> StreamEncoder:
        """For what is to be read. Raises Refused 422."""
        match = _FORMAT.fullmatch(self.output_format)
        if match is None:
            raise _no_format(f"{self.output_format!r} is not the name of a format, such as {DEFAULT_FORMAT!r}")
        name, rate, bitrate = match.groups()
        bits = int(bitrate) * KBIT if bitrate else None
        try:
            return host.encoder(SoundFormat(_NAMES.get(name, name), None if name == "opus" else int(rate), bits))
        except FormatRefused as error:
            raise _no_format(str(error)) from None

    def settings(
        self,
        host: Host,
        encoder: StreamEncoder,
        voice: str,
        spoken: VoiceSettings,
        *,
        voices: Sequence[str] = (),
        aligned: bool = True,
    ) -> SessionUpdate:
        """The native settings. `voices`: of several speakers, in place of `voice`. Raises Refused 422."""
        try:
            return settings(
                host,
                encoder,
                voice=host.voice(voice),
                voices={str(at): host.voice(name) or "default" for at, name in enumerate(voices)},
                speed=spoken.speed,
                normalize=self.apply_text_normalization != "off",
                language=_LANGUAGES.get(self.language_code.lower()),
                alignment=AlignmentMode.WORD if aligned else AlignmentMode.NONE,
                sampling={} if self.seed is None else {"seed": self.seed % SEEDS},
            )
        except ValidationError as error:
            raise Refused(422, ": ".join(first_error(error)), "invalid_value") from None


class SpeechRequest(Wishes):
    """The body of `POST /v1/text-to-speech/{voice}`; its output format is in the query."""

    text: str = Field(repr=False)
    voice_settings: VoiceSettings = VoiceSettings()

    @field_validator("text")
    @classmethod
    def _speakable(cls, text: str) -> str:
        return speakable(text)

    @classmethod
    def read_all(cls, body: bytes, query: Mapping[str, str]) -> SpeechRequest:
        """Raises Refused."""
        request = checked(cls, {**read_object(body), **query})
        if not request.text.strip():
            raise Refused(422, "text: there is none", "empty_text", "text")
        return request


def read_object(body: bytes) -> Mapping[str, object]:
    """Raises Refused."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}", "invalid_json") from None
    if not isinstance(fields, dict):
        raise Refused(422, "the body is not an object", "invalid_value")
    return fields


def speakable(text: str) -> str:
    """A whole text without halves of characters, and with pauses for breaks."""
    whole, half = join("", text)
    markup = Markup()
    return markup.text(whole + "\ufffd" if half else whole) + markup.rest()


def _no_format(why: str) -> Refused:
    return Refused(422, why, "output_format_not_allowed", "output_format")


def checked(kind: type[T], fields: object, where: str = "") -> T:
    """Raises Refused 422. where: of what the fields are."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        name, why = first_error(error)
        raise Refused(422, f"{where}{name}: {why}", "invalid_value", f"{where}{name}" or None) from None
