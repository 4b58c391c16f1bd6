"""What a dialect sets before each turn: all of it, every time, because others may have set something else in the same session.

Knows the native configuration. Does not know any foreign message.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from protocol.commands import SessionUpdate
from protocol.config import (
    AlignmentMode,
    AudioConfig,
    Language,
    Latency,
    OutputConfig,
    PacingConfig,
    SamplingConfig,
    Transport,
)
from protocol.dialects.interface import Host, StreamEncoder


def settings(
    host: Host,
    encoder: StreamEncoder,
    *,
    voice: str | None = None,
    voices: Mapping[str, str] | None = None,
    latency: Latency = Latency.LOW,
    speed: float = 1.0,
    volume_db: float = 0.0,
    normalize: bool = True,
    language: Language | None = None,
    alignment: AlignmentMode = AlignmentMode.NONE,
    sampling: Mapping[str, float | int] | None = None,
    pacing: PacingConfig | None = None,
) -> SessionUpdate:
    """The session.update that goes before a turn. `voice` as `Host.voice` gave it; `sampling`: fields of SamplingConfig that differ.

    Raises pydantic.ValidationError for a number out of bounds, see `first_error`.
    """
    return SessionUpdate(
        voice=voice,
        voices=dict(voices or {}),
        audio=AudioConfig(output=_whole(encoder.output), transport=Transport.BINARY),
        pacing=pacing or host.pacing,
        latency=latency,
        speed=speed,
        volume_db=volume_db,
        normalize=normalize,
        language=language,
        alignment=alignment,
        sampling=SamplingConfig.model_validate({**SamplingConfig().model_dump(), **(sampling or {})}),
    )


def _whole(output: OutputConfig) -> OutputConfig:
    """With every field given: what an update does not give stays as it was."""
    return OutputConfig.model_validate(output.model_dump())


def first_error(error: ValidationError) -> tuple[str, str]:
    """Where a request is wrong (dotted path, perhaps "") and why, for people."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return where, first["msg"].removeprefix("Value error, ")
