"""What is asked for with `POST /v1/audio/speech`: OpenAI's fields, and those that self-hosted servers of this model take beside them.

Knows fields, defaults and what they are natively. Does not know HTTP or turns. Unknown fields are let pass; null is absent.
Sources: OpenAI's API reference, "Create speech"; the manuals of vLLM-Omni and SGLang-Omni for this model.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from protocol.commands import SessionUpdate
from protocol.config import MAX_FRAMES, MAX_SEED, Language
from protocol.dialects.interface import FormatRefused, Host, Refused, SoundFormat, StreamEncoder
from protocol.dialects.settings import first_error, settings

MAX_TOP_K: Final = 1024
MAX_REFERENCES: Final = 8
TAG_CHARS: Final = 78  # of instructions that become a tag; a longer one is text
_DATA_URL: Final = re.compile(r"data:[^,]*;base64,", re.ASCII)
_ELSEWHERE: Final = re.compile(r"(https?|file)://|/[^/]|\.{1,2}/|~/", re.ASCII | re.IGNORECASE)
_LANGUAGES: Final = {
    "en": Language.ENGLISH,
    "english": Language.ENGLISH,
    "de": Language.GERMAN,
    "german": Language.GERMAN,
}
_MARKS: Final = re.compile(r"[\[\]<>|\s]+")
_FORMATS: Final = ("mp3", "opus", "aac", "flac", "wav", "pcm")


def _voice(value: object) -> object:
    return value.get("id") if isinstance(value, Mapping) else value


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value


class Reference(_Part):
    """A recording of the voice that is wanted, and what is said in it."""

    audio_path: str | None = Field(default=None, repr=False)
    audio: str | None = Field(default=None, repr=False)
    text: str = Field(default="", repr=False)


class SpeechRequest(_Part):
    """One text and how to speak it."""

    input: str = Field(repr=False)
    model: str | None = None
    voice: Annotated[str | None, BeforeValidator(_voice)] = None
    instructions: str = Field(default="", repr=False)
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None = None
    stream_format: Literal["audio", "sse"] = "audio"
    stream: bool = False
    speed: float = Field(default=1.0, ge=0.25, le=4)
    sample_rate: int | None = Field(default=None, ge=8000, le=48_000)
    language: str = ""
    session: str | None = None
    ref_audio: str | None = Field(default=None, repr=False)
    ref_text: str = Field(default="", repr=False)
    references: list[Reference] = Field(default=[], max_length=MAX_REFERENCES)
    max_new_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    repetition_penalty: float | None = Field(default=None, ge=1, le=2)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)

    @classmethod
    def read(cls, fields: object) -> SpeechRequest:
        """Raises Refused 400."""
        try:
            request = cls.model_validate(fields)
        except ValidationError as error:
            where, why = first_error(error)
            raise Refused(400, f"{where}: {why}" if where else why, "invalid_value", where or None) from None
        if not request.input.strip():
            raise Refused(400, "input: there is no text", "empty_input", "input")
        return request

    @property
    def format(self) -> str:
        """Clients of OpenAI name a model and expect mp3; those of self-hosted servers need not, and expect wav."""
        return self.response_format or ("mp3" if self.model is not None else "wav")

    @property
    def text(self) -> str:
        """With the instructions, which are a tag to this family of models."""
        tag = _MARKS.sub(" ", self.instructions).strip()
        if len(tag) > TAG_CHARS:
            tag = tag[: TAG_CHARS + 1].rpartition(" ")[0] or tag[:TAG_CHARS]
        return f"[{tag}] {self.input}" if tag else self.input

    def encoder(self, host: Host) -> StreamEncoder:
        """For what is to be read. Raises Refused 400."""
        rate = self.sample_rate
        if rate is None and self.format == "pcm":
            rate = host.model_rate if self.stream else 24_000
        try:
            return host.encoder(SoundFormat(self.format, None if self.format == "opus" else rate))
        except FormatRefused as error:
            raise Refused(400, str(error), "unsupported_format", "response_format") from None

    def recordings(self) -> tuple[tuple[bytes | str, str], ...]:
        """References that came with the request, or where they are. Raises Refused 400."""
        given = [(one.audio or one.audio_path, one.text, f"references.{at}") for at, one in enumerate(self.references)]
        if self.ref_audio is not None:
            given.insert(0, (self.ref_audio, self.ref_text, "ref_audio"))
        found: list[tuple[bytes | str, str]] = []
        for audio, text, param in given:
            if not audio:
                raise Refused(400, f"{param}: there is no recording", "invalid_value", param)
            if not text.strip():
                param = "ref_text" if param == "ref_audio" else f"{param}.text"
                raise Refused(400, f"{param}: say what is said in the recording", "invalid_value", param)
            found.append((_recording(audio, param), text))
        return tuple(found)

    def settings(self, host: Host, encoder: StreamEncoder, inline: str | None) -> SessionUpdate:
        """The native settings. `inline`: the voice made of `recordings`. Raises Refused 400."""
        try:
            return settings(
                host,
                encoder,
                voice=inline if inline is not None else host.voice(self.voice),
                speed=self.speed,
                language=_LANGUAGES.get(self.language.lower()),
                sampling=self._sampling(),
            )
        except ValidationError as error:
            raise Refused(400, ": ".join(first_error(error)), "invalid_value") from None

    def _sampling(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed,
            "max_frames": self.max_new_tokens,
        }
        sampling = {name: value for name, value in given.items() if value is not None}
        if self.top_p == 0:
            sampling["top_p"] = 1e-6  # the likeliest alone
        if self.top_k is not None:
            sampling["top_k"] = MAX_TOP_K if self.top_k <= 0 else min(self.top_k, MAX_TOP_K)
        if self.max_new_tokens is not None:
            sampling["max_frames"] = min(self.max_new_tokens, MAX_FRAMES)
        if self.temperature == 0:
            del sampling["temperature"]
            sampling["top_k"] = 1
        return sampling


def read_json(body: bytes) -> object:
    """Raises Refused 400."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}", "invalid_json") from None


def _recording(value: str, param: str) -> bytes | str:
    """The file itself, or where it is. Base64 of an mp3 begins with two slashes, so it is tried before a path is believed."""
    encoded = _DATA_URL.sub("", value, count=1) if value.startswith("data:") else value
    if encoded is value and _ELSEWHERE.match(value):
        return value
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        pass
    if encoded is not value or len(value) > 4096:
        raise Refused(400, f"{param}: not base64", "invalid_value", param)
    return value
