"""Recordings to codes and codes to samples, beside speaking streams.

Knows how to do a long job in slices, one a step, so that encoding a minute of reference never makes a stream stutter. Does not know who
asked. One job at a time, first come first served: they share the device with speech and would only slow each other down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import torch

from engine.api import Codes, EngineError, ModelInfo, Samples, SynthesisFailed
from engine.codec import Codec
from engine.commands import Decode, Encode
from engine.resample import resample
from engine.streaming import StreamingCodec, StreamingEncoder

SLICE_FRAMES = 8  # a slice is about as much work as one step of a few streams
MAX_AUDIO_S = 600.0

Result = Codes | Samples | EngineError


class Jobs:
    """A queue of encode and decode jobs. Falsy while there is nothing to do."""

    def __init__(self, codec: Codec, info: ModelInfo) -> None:
        self._codec = codec
        self._info = info
        self._device = next(codec.parameters()).device
        self._decoder = StreamingCodec(codec, 1)  # a row of its own: jobs never take one from speech
        self._waiting: deque[Encode | Decode] = deque()
        self._current: tuple[int, Iterator[Result | None]] | None = None

    def __bool__(self) -> bool:
        return bool(self._waiting or self._current)

    def add(self, command: Encode | Decode) -> None:
        self._waiting.append(command)

    def step(self, results: dict[int, Result]) -> None:
        """Do one slice of the job in hand; a finished one's result goes into `results`."""
        if self._current is None and self._waiting:
            command = self._waiting.popleft()
            slices = self._encode(command) if isinstance(command, Encode) else self._decode(command)
            self._current = command.job, slices
        if self._current is None:
            return
        job, slices = self._current
        try:
            result = next(slices)
        except SynthesisFailed as error:
            result = error
        if result is not None:
            results[job] = result
            self._current = None

    def _encode(self, command: Encode) -> Iterator[Result | None]:
        samples = self._checked(command.samples, command.sample_rate)
        yield None
        wave = torch.from_numpy(resample(samples, command.sample_rate, self._info.sample_rate))
        encoder = StreamingEncoder(self._codec)
        parts = []
        for start in range(0, len(wave), SLICE_FRAMES * self._info.frame_samples):
            parts.append(encoder.push(wave[start : start + SLICE_FRAMES * self._info.frame_samples]))
            yield None
        parts.append(encoder.finish())
        yield torch.cat(parts, dim=1).cpu().numpy().astype(np.int16)

    @staticmethod
    def _checked(samples: Samples, sample_rate: int) -> Samples:
        if samples.ndim != 1 or not samples.size:
            raise SynthesisFailed("bad_audio", f"a recording is one channel of samples, got shape {samples.shape}")
        if not 8000 <= sample_rate <= 192000:
            raise SynthesisFailed("bad_audio", f"sample rate {sample_rate} Hz is outside 8000..192000 Hz")
        if samples.size > MAX_AUDIO_S * sample_rate:
            raise SynthesisFailed(
                "bad_audio", f"recording of {samples.size / sample_rate:.0f} s exceeds {MAX_AUDIO_S:.0f} s"
            )
        if not np.isfinite(samples).all():
            raise SynthesisFailed("bad_audio", "the recording holds NaN or infinity")
        return samples.astype(np.float32)

    def _decode(self, command: Decode) -> Iterator[Result | None]:
        codes = command.codes
        if codes.ndim != 2 or codes.shape[0] != self._info.codebooks or not codes.shape[1] or codes.min() < 0:
            raise SynthesisFailed(
                "bad_codes", f"codes are [{self._info.codebooks}, frames >= 1] of indices >= 0, got shape {codes.shape}"
            )
        self._decoder.reset(0)
        parts = []
        for start in range(0, codes.shape[1], SLICE_FRAMES):
            piece = torch.from_numpy(codes[None, :, start : start + SLICE_FRAMES].astype(np.int64))
            parts.append(self._decoder.step(piece.to(self._device), [0])[0].cpu().numpy())
            yield None
        yield np.concatenate(parts)
