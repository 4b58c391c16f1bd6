"""What Fish Audio's clients ask for: one request, the same in a `start` message and in the body of `POST /v1/tts`.

Knows its fields, their defaults and what they are natively. Does not know messages or turns. Unknown fields are let pass; null is absent.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from protocol.commands import SessionUpdate
from protocol.config import MAX_SPEAKERS, Latency
from protocol.dialects.interface import FormatRefused, Host, Refused, SoundFormat, StreamEncoder
from protocol.dialects.settings import first_error, settings

PCM_RATE_HZ: Final = 24_000  # where nothing is said
AUTO_BITRATE: Final = -1000
KBIT: Final = 1000  # a larger bitrate is in bit/s already
# What every client sends as max_new_tokens: a bound for a chunk of text there, none for a turn here.
CHUNK_TOKENS: Final = 1024
_LATENCIES: Final = {"low": Latency.LOW, "balanced": Latency.BALANCED, "normal": Latency.QUALITY}


def _recording(value: object) -> object:
    """Raw bytes in MessagePack; base64 in JSON, perhaps as a data URL."""
    if isinstance(value, str):
        try:
            return base64.b64decode(value.rpartition(";base64,")[2], validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("is not base64") from None
    return value


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value


class Reference(_Part):
    """A recording of the voice that is wanted."""

    audio: Annotated[bytes, BeforeValidator(_recording)] = Field(repr=False)
    text: str = Field(default="", repr=False)


class Prosody(_Part):
    """Speed and volume."""

    speed: float = Field(default=1.0, ge=0.25, le=4)
    volume: float = Field(default=0.0, ge=-40, le=20)


class FishRequest(_Part):
    """How to speak, and for HTTP what."""

    text: str = Field(default="", repr=False)
    format: str = "mp3"
    sample_rate: int | None = None
    mp3_bitrate: int = 128
    opus_bitrate: int = 32
    normalize: bool = True
    latency: str = "balanced"
    reference_id: str | list[str] | None = None
    references: list[Reference] = []
    prosody: Prosody = Prosody()
    temperature: float = Field(default=0.8, ge=0, le=2)
    top_p: float = Field(default=0.9, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=2)
    max_new_tokens: int = CHUNK_TOKENS
    seed: int | None = Field(default=None, ge=0, lt=2**31)

    @classmethod
    def read(cls, fields: object) -> FishRequest:
        """Raises Refused 422."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            where, why = first_error(error)
            raise Refused(422, f"{where}: {why}" if where else why, param=where or None) from None

    def encoder(self, host: Host) -> StreamEncoder:
        """For what is to be read. Raises Refused 422."""
        rate = self.sample_rate
        bitrate = None
        if self.format in ("pcm", "wav"):
            rate = rate or PCM_RATE_HZ
        elif self.format == "mp3":
            bitrate = self.mp3_bitrate * KBIT if self.mp3_bitrate < KBIT else self.mp3_bitrate
        elif self.format == "opus":
            rate = None  # Opus always decodes at 48 kHz, whatever is asked for
            if self.opus_bitrate > 0:
                bitrate = self.opus_bitrate if self.opus_bitrate > KBIT else self.opus_bitrate * KBIT
        try:
            return host.encoder(SoundFormat(self.format, rate, bitrate))
        except FormatRefused as error:
            raise Refused(422, str(error), param="format") from None

    def recordings(self) -> tuple[tuple[bytes, str], ...]:
        """References that came with the request."""
        return tuple((reference.audio, reference.text) for reference in self.references)

    def settings(self, host: Host, encoder: StreamEncoder, inline: str | None) -> SessionUpdate:
        """The native settings. `inline`: the voice made of `recordings`. Raises Refused 422."""
        voice: str | None = None
        voices: dict[str, str] = {}
        if inline is not None:
            voice = inline
        elif isinstance(self.reference_id, list):
            voices = {
                str(at): host.voice(name) or "default" for at, name in enumerate(self.reference_id[:MAX_SPEAKERS])
            }
        else:
            voice = host.voice(self.reference_id)
        try:
            return settings(
                host,
                encoder,
                voice=voice,
                voices=voices,
                latency=_LATENCIES.get(self.latency, Latency.BALANCED),
                speed=self.prosody.speed,
                volume_db=self.prosody.volume,
                normalize=self.normalize,
                sampling=self._sampling(),
            )
        except ValidationError as error:
            raise Refused(422, ": ".join(first_error(error))) from None

    def _sampling(self) -> dict[str, float | int]:
        sampling: dict[str, float | int] = {
            "repetition_penalty": max(1.0, self.repetition_penalty),
            "top_p": self.top_p or 1e-6,  # 0 is the likeliest alone
        }
        if self.temperature:
            sampling["temperature"] = self.temperature
        else:
            sampling["top_k"] = 1
        if 0 < self.max_new_tokens < CHUNK_TOKENS:
            sampling["max_frames"] = self.max_new_tokens
        if self.seed is not None:
            sampling["seed"] = self.seed
        return sampling
