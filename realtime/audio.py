"""A turn's samples become packets: one stretch, one gain, one resampler and one encoder for the whole turn; exact positions and end.

Knows formats, packet sizes and which sample of the turn a packet begins with. Does not know pacing, headers or sockets. However the
samples are cut into pieces, the packets are the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt
from typing import Protocol

import numpy as np
import numpy.typing as npt

from realtime.g711 import encode_alaw, encode_mulaw
from realtime.loudness import Volume, decibels
from realtime.opus import DEFAULT_BITRATE, OPUS_RATE_HZ, OpusEncoder, check_opus
from realtime.resample import Resampler
from realtime.stretch import TimeStretch

Samples = npt.NDArray[np.float32]  # [n], mono, in [-1, 1]

PCM_RATES_HZ = range(8000, 48001, 25)  # steps of 25 Hz keep a resampler's table below 2 MB for the usual source rates
PCM_FRAMES_MS = range(10, 101)  # protocol 2: at most 100 ms; below 10 the messages cost more than the audio
G711_RATE_HZ = 8000


class AudioCodec(StrEnum):
    """How samples are written; the names are the protocol's."""

    OPUS = "opus"
    PCM_S16LE = "pcm_s16le"
    PCM_F32LE = "pcm_f32le"
    MULAW = "mulaw"
    ALAW = "alaw"


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What a client wants to receive. Raises ValueError for a combination that is not offered."""

    codec: AudioCodec = AudioCodec.OPUS
    rate: int = OPUS_RATE_HZ  # Hz; positions count in it. Opus 48000, mu-law and A-law 8000
    frame_ms: int = 20  # ms a packet; where that is not whole samples, the whole samples in it
    bitrate: int | None = None  # bit/s, Opus only; None there is DEFAULT_BITRATE

    def __post_init__(self) -> None:
        codec, rates, frames = self.codec, PCM_RATES_HZ, PCM_FRAMES_MS
        if codec is AudioCodec.OPUS:
            if self.rate != OPUS_RATE_HZ:
                raise ValueError(f"opus is sent at {OPUS_RATE_HZ} Hz, not {self.rate}")
            check_opus(self.frame_ms, self.opus_bitrate)
            return
        if self.bitrate is not None:
            raise ValueError(f"bitrate is for opus; {codec} has a fixed one")
        if codec in (AudioCodec.MULAW, AudioCodec.ALAW) and self.rate != G711_RATE_HZ:
            raise ValueError(f"{codec} is sent at {G711_RATE_HZ} Hz, not {self.rate}")
        if self.rate not in rates:
            raise ValueError(f"rate {self.rate} is not a multiple of {rates.step} in {rates[0]}..{rates[-1]} Hz")
        if self.frame_ms not in frames:
            raise ValueError(f"frame_ms {self.frame_ms} is outside {frames[0]}..{frames[-1]}")

    @property
    def packet_samples(self) -> int:
        """Samples a packet (the last of a turn may have fewer)."""
        return self.rate * self.frame_ms // 1000

    @property
    def opus_bitrate(self) -> int:
        """bit/s of the encoder, for Opus."""
        return DEFAULT_BITRATE if self.bitrate is None else self.bitrate


@dataclass(frozen=True, slots=True)
class AudioPacket:
    """One binary message's worth of audio."""

    payload: bytes  # one Opus packet, or whole samples
    position: int  # index of its first sample within the turn, at the format's rate, Opus's pre-skip not counted
    samples: int  # samples of the turn it brings; the next packet's position is position + samples
    last: bool  # the turn ends with it
    level_db: float  # root mean square of its samples, in dB of full scale; -100 at the least


def to_int16(samples: Samples) -> npt.NDArray[np.int16]:
    """Full scale 32768, rounded half to even, clipped: +1.0 is 32767. No dither (speech carries its own noise)."""
    rounded: npt.NDArray[np.int16] = np.clip(np.rint(samples * np.float32(32768.0)), -32768, 32767).astype(np.int16)
    return rounded


_PCM_ENCODERS: dict[AudioCodec, Callable[[Samples], bytes]] = {
    AudioCodec.PCM_S16LE: lambda samples: to_int16(samples).astype("<i2", copy=False).tobytes(),
    # Not clipped: float has headroom.
    AudioCodec.PCM_F32LE: lambda samples: samples.astype("<f4", copy=False).tobytes(),
    AudioCodec.MULAW: lambda samples: encode_mulaw(to_int16(samples)),
    AudioCodec.ALAW: lambda samples: encode_alaw(to_int16(samples)),
}


class _Stage(Protocol):
    """Turns samples into samples; how they are cut into pieces changes nothing."""

    def push(self, samples: Samples) -> Samples:
        """More; returns what is final now."""

    def finish(self) -> Samples:
        """The rest."""


def _stages(rate: int, speed: float, volume_db: float) -> list[_Stage]:
    """What happens to samples at the source rate; nothing, if nothing was asked for."""
    stages: list[_Stage] = []
    if speed != 1:
        stages.append(TimeStretch(rate, speed))
    if volume_db != 0:
        stages.append(Volume(rate, volume_db))
    return stages


class AudioOutput:
    """The audio of one turn on its way out. One owner, no locks; memory is bounded by the largest piece and one packet.

    A packet leaves as soon as its samples and one more are known (finish() then always has one to mark as the last). Samples pass
    as they are at a speed of 1, a volume of 0 dB and equal rates. After a cancel just drop it.
    """

    def __init__(self, source_rate: int, fmt: OutputFormat, speed: float = 1.0, volume_db: float = 0.0) -> None:
        """`source_rate` in Hz. speed: 2 plays in half the time, at the same pitch. volume_db: louder by so much, limited.

        Raises OpusUnavailable where fmt asks for Opus and this machine has no libopus; ValueError for a speed or volume out of range.
        """
        self._speed = speed
        self._packet_samples = fmt.packet_samples
        self._stages = _stages(source_rate, speed, volume_db)
        if source_rate != fmt.rate:
            self._stages.append(Resampler(source_rate, fmt.rate))
        self._opus: OpusEncoder | None = None
        self._encode: Callable[[Samples], bytes]
        if fmt.codec is AudioCodec.OPUS:
            self._opus = OpusEncoder(fmt.frame_ms, fmt.opus_bitrate)
            self._encode = self._opus.encode
        else:
            self._encode = _PCM_ENCODERS[fmt.codec]
        self._waiting: Samples = np.zeros(0, np.float32)  # at the output rate, not yet in a packet
        self._known = 0  # samples of the turn at the output rate, so far
        self._encoded = 0  # of those, given to the encoder
        self._finished = False

    @property
    def pre_skip(self) -> int:
        """Samples at the start of the decoder's output that are not part of the turn; 0 for anything but Opus."""
        return 0 if self._opus is None else self._opus.lookahead

    def push(self, samples: Samples) -> list[AudioPacket]:
        """Add float32 [n], n >= 0, at the source rate; returns the packets that are complete now. Keeps no reference.

        Raises ValueError for another type or shape, or samples that are not finite: one NaN would silence a whole filter length.
        """
        assert not self._finished, "push after finish: the turn has ended"
        if samples.dtype != np.float32 or samples.ndim != 1:
            raise ValueError(f"samples must be float32 [n], not {samples.dtype} {list(samples.shape)}")
        if not np.isfinite(samples).all():
            raise ValueError("samples must be finite")
        self._pass_on(samples, self._stages)
        return self._full_packets()

    def finish(self) -> list[AudioPacket]:
        """The rest: the turn is then ceil(m * rate / source_rate) samples, m = round(n_in / speed), and its final packet has `last`.

        A turn that got no samples has no packet.
        """
        assert not self._finished, "finish called twice"
        self._finished = True
        for at, stage in enumerate(self._stages):
            self._pass_on(stage.finish(), self._stages[at + 1 :])
        packets = self._full_packets()
        while max(0, self._encoded - self.pre_skip) < self._known:
            packets.append(self._packet())
        return packets

    def encode(self, pieces: Sequence[Samples], last: bool) -> list[AudioPacket]:
        """`push` all of them and, if it is the last time, `finish`."""
        packets = self.push(np.concatenate(pieces) if len(pieces) > 1 else pieces[0]) if pieces else []
        return packets + self.finish() if last else packets

    def output_ms(self, generated_ms: float) -> float:
        """When in the turn something is heard that is so far into what was generated; off by some 30 ms at most of either."""
        return generated_ms / self._speed

    def generated_ms(self, output_ms: float) -> float:
        """The inverse of `output_ms`."""
        return output_ms * self._speed

    def _pass_on(self, samples: Samples, stages: Sequence[_Stage]) -> None:
        for stage in stages:
            samples = stage.push(samples)
        self._waiting = np.concatenate((self._waiting, samples))
        self._known += len(samples)

    def _full_packets(self) -> list[AudioPacket]:
        packets = []
        # With Opus the pre-skip always leaves something for finish(); without it, one sample must wait.
        while len(self._waiting) >= self._packet_samples + (self._opus is None):
            packets.append(self._packet())
        return packets

    def _packet(self) -> AudioPacket:
        samples, self._waiting = self._waiting[: self._packet_samples], self._waiting[self._packet_samples :]
        if self._opus is not None and len(samples) < self._packet_samples:
            samples = np.pad(samples, (0, self._packet_samples - len(samples)))
        level_db = decibels(sqrt(float(np.dot(samples, samples)) / len(samples)))
        position = max(0, self._encoded - self.pre_skip)
        self._encoded += len(samples)
        end = max(0, min(self._encoded - self.pre_skip, self._known))
        last = self._finished and end == self._known
        return AudioPacket(self._encode(samples), position, end - position, last, level_db)
