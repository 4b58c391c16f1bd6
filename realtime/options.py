"""From what a client configured to what a turn is made with, and what of it this server cannot do.

Knows voices, output formats and sampling on both sides of the wire. Does not know sessions or turns.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import Final

from engine.api import ModelInfo, SamplingParams, Voice
from protocol.commands import TurnStart
from protocol.config import (
    MAX_HISTORY_S,
    AudioConfig,
    Format,
    HistoryConfig,
    Limits,
    OutputConfig,
    SamplingConfig,
    SessionConfig,
    override,
)
from protocol.errors import ErrorCode, ProtocolError, quoted
from realtime.audio import AudioCodec, AudioOutput, OutputFormat
from realtime.opus import OpusUnavailable
from realtime.turn_options import TurnOptions
from realtime.voices import VoiceNotFound, VoiceStore, VoiceUnusable

_SPEAKER_TOKEN: Final = re.compile(r"<\|speaker:\d+\|>")


def first_config(info: ModelInfo) -> SessionConfig:
    """What a session starts with: the protocol's defaults, as far as this model and this machine have them."""
    history = HistoryConfig(max_s=min(info.max_history_s, MAX_HISTORY_S))
    config = SessionConfig(history=history)
    try:
        pre_skip(output_format(config.audio.output), info)
    except ProtocolError:  # no libopus: speech all the same
        config = SessionConfig(history=history, audio=AudioConfig(output=OutputConfig(format=Format.PCM_S16LE)))
    return config


def output_format(output: OutputConfig) -> OutputFormat:
    """Raises ProtocolError for a rate that cannot be made."""
    try:
        return OutputFormat(AudioCodec(output.format.value), output.rate, output.frame_ms, output.bitrate)
    except ValueError as error:
        raise ProtocolError(ErrorCode.INVALID_VALUE, str(error), param="audio.output") from error


def pre_skip(fmt: OutputFormat, info: ModelInfo) -> int:
    """Samples that a decoder must drop first. Raises ProtocolError where this machine cannot encode the format."""
    try:
        return _pre_skip(fmt, info.sample_rate)
    except OpusUnavailable as error:
        raise ProtocolError(ErrorCode.UNSUPPORTED, str(error), param="audio.output.format") from error


@lru_cache(maxsize=64)  # it takes an encoder to know it, and every session that opens asks
def _pre_skip(fmt: OutputFormat, source_rate: int) -> int:
    return AudioOutput(source_rate, fmt).pre_skip


def find_voice(voices: VoiceStore, name: str | None, param: str = "voice") -> Voice:
    """Raises ProtocolError `voice_not_found`."""
    try:
        return voices.get(name)
    except (VoiceNotFound, VoiceUnusable) as error:
        text = (
            f"voice {quoted(name)} cannot be used: {error.why}"
            if isinstance(error, VoiceUnusable)
            else f"no voice {quoted(name)}"
        )
        raise ProtocolError(ErrorCode.VOICE_NOT_FOUND, text, param=param) from error


def session_voice(voices: VoiceStore, config: SessionConfig) -> Voice:
    """The voice of a session, or the voices of its speakers as one. Raises ProtocolError `voice_not_found`."""
    if not config.voices:
        return find_voice(voices, config.voice)
    speakers = {
        speaker: find_voice(voices, name, f"voices.{speaker}") for speaker, name in sorted(config.voices.items())
    }
    references = tuple(
        replace(reference, text=f"<|speaker:{speaker}|>{_SPEAKER_TOKEN.sub('', reference.text)}")
        for speaker, voice in speakers.items()
        for reference in voice.references
    )
    return Voice("+".join(f"{speaker}={voice.id}" for speaker, voice in speakers.items()), references)


def turn_options(
    config: SessionConfig, start: TurnStart, voices: VoiceStore, info: ModelInfo, limits: Limits
) -> TurnOptions:
    """What a turn that is opened now is made with. Raises ProtocolError for a voice that does not exist."""
    sampling = override(config.sampling, start.sampling) if start.sampling is not None else config.sampling
    voice = find_voice(voices, start.voice) if start.voice is not None else session_voice(voices, config)
    return TurnOptions(
        config,
        voice,
        _params(sampling, info, limits),
        output_format(config.audio.output),
        start.speed if start.speed is not None else config.speed,
        start.volume_db if start.volume_db is not None else config.volume_db,
    )


def _params(sampling: SamplingConfig, info: ModelInfo, limits: Limits) -> SamplingParams:
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
        max_frames=min(sampling.max_frames, int(limits.turn_audio_s / info.frame_s)),
    )
