"""What Cartesia's clients ask for: one request, the same in a WebSocket message and in the body of an HTTP request.

Knows its fields, their defaults and what they are natively. Does not know contexts or turns. Unknown fields are let pass; null is absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from protocol.commands import SessionUpdate
from protocol.config import MAX_SPEED, MIN_SPEED, AlignmentMode, Language
from protocol.dialects.cartesia_markup import style
from protocol.dialects.interface import FormatRefused, Host, Refused, SoundFormat, StreamEncoder
from protocol.dialects.settings import first_error, settings

MAX_DELAY_MS: Final = 5000
DELAY_MS: Final = 3000  # where nothing is said
_RATE_HZ: Final = 44_100
_ENCODINGS: Final = {"pcm_s16le": "pcm", "pcm_f32le": "pcm_f32le", "pcm_mulaw": "mulaw", "pcm_alaw": "alaw"}
_SAMPLE_BYTES: Final = {"pcm_s16le": 2, "pcm_f32le": 4, "pcm_mulaw": 1, "pcm_alaw": 1}
_SPEEDS: Final = {"slowest": 0.6, "slow": 0.8, "normal": 1.0, "fast": 1.2, "fastest": 1.5}
_LANGUAGES: Final = {"en": Language.ENGLISH, "de": Language.GERMAN}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value


class OutputFormat(_Part):
    """What is read."""

    container: str = "raw"
    encoding: str = "pcm_s16le"
    sample_rate: int | None = None
    bit_rate: int | None = None


class GenerationConfig(_Part):
    """How it is spoken."""

    speed: float = Field(default=1.0, ge=MIN_SPEED, le=MAX_SPEED)
    volume: float = Field(default=1.0, ge=0.1, le=10)
    emotion: str | None = None


class CartesiaRequest(_Part):
    """A piece of text and how to speak it; in a context, what is not text holds from its first piece on."""

    transcript: str = Field(default="", repr=False)
    context_id: str | None = None
    goes_on: bool = Field(default=False, alias="continue")
    flush: bool = False
    max_buffer_delay_ms: int = Field(default=DELAY_MS, ge=0, le=MAX_DELAY_MS)
    add_timestamps: bool = False
    voice: str | None = None
    output_format: OutputFormat = OutputFormat()
    language: str | None = None
    speed: float | str = 1.0
    normalization: str | None = None
    generation_config: GenerationConfig = GenerationConfig()

    @field_validator("voice", mode="before")
    @classmethod
    def _voice_id(cls, value: object) -> object:
        """A string, or an object with an id. Of an embedding nothing can be made: the default voice speaks."""
        if isinstance(value, Mapping):
            name = value.get("id")
            return name if isinstance(name, str) else None
        return value

    @classmethod
    def read(cls, fields: object) -> CartesiaRequest:
        """Raises Refused 400."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            where, why = first_error(error)
            raise Refused(400, f"{where}: {why}" if where else why, param=where or None) from None

    @property
    def text(self) -> str:
        """What opens an utterance: with the emotion as a tag that holds for all of it."""
        emotion = (self.generation_config.emotion or "neutral").strip("[] ")
        return self.transcript if emotion in ("", "neutral") else f"{style(emotion)} {self.transcript}"

    @property
    def bytes_per_s(self) -> float:
        """Of raw sound."""
        rate = self.output_format.sample_rate or self._rate
        return float(_SAMPLE_BYTES.get(self.output_format.encoding, 1) * rate)

    @property
    def _rate(self) -> int:
        return 8000 if self.output_format.encoding in ("pcm_mulaw", "pcm_alaw") else _RATE_HZ

    def encoder(self, host: Host, containers: tuple[str, ...] = ("raw",)) -> StreamEncoder:
        """For what is to be read. Raises Refused 400."""
        wanted = self.output_format
        if wanted.container not in containers:
            raise Refused(
                400, f"container {wanted.container!r} is none of {', '.join(containers)}", param="output_format"
            )
        name = wanted.container
        if name == "raw":
            if wanted.encoding not in _ENCODINGS:
                raise Refused(400, f"encoding is none of {', '.join(_ENCODINGS)}", param="output_format.encoding")
            name = _ENCODINGS[wanted.encoding]
        rate = wanted.sample_rate or (self._rate if wanted.container == "raw" else None)
        try:
            return host.encoder(SoundFormat(name, rate, wanted.bit_rate))
        except FormatRefused as error:
            raise Refused(400, str(error), param="output_format") from None

    def settings(self, host: Host, encoder: StreamEncoder) -> SessionUpdate:
        """The native settings. Raises Refused 400."""
        config = self.generation_config
        named = _SPEEDS.get(self.speed, 1.0) if isinstance(self.speed, str) else self.speed
        try:
            return settings(
                host,
                encoder,
                voice=host.voice(self.voice),
                speed=config.speed if "speed" in config.model_fields_set else named,
                volume_db=20 * math.log10(config.volume),
                normalize=self.normalization != "off",
                language=_LANGUAGES.get((self.language or "").partition("-")[0].lower()),
                alignment=AlignmentMode.WORD if self.add_timestamps else AlignmentMode.NONE,
            )
        except ValidationError as error:
            raise Refused(400, ": ".join(first_error(error))) from None
