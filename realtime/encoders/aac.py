"""AAC-LC in ADTS frames, through PyAV, which is not required by Parley.

Knows ADTS headers and what PyAV's encoder wants. A stream begins with 1024 samples of silence (the encoder's delay) and ends with up to
two frames of it: ADTS has no field that would trim them. Sources: ISO/IEC 13818-7 6.2.1; ISO/IEC 14496-3 table 1.18.
"""

from __future__ import annotations

import importlib
import importlib.util
from fractions import Fraction
from types import ModuleType
from typing import Final

import numpy as np

from realtime.encoders.encoder import Encoder, FormatUnavailable, Samples

FRAME_SAMPLES: Final = 1024
# By index in a header; beyond those our output has no rates for.
_RATES: Final = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
AAC_RATES_HZ: Final = tuple(sorted(rate for rate in _RATES if rate <= 48000))
_LEAST_BITRATE: Final = 8000
_HEADER_BYTES: Final = 7


def aac_bitrates(rate: int) -> range:
    """bit/s for one channel: at most 6144 bits a frame. Source: ISO/IEC 14496-3 4.5.1."""
    return range(_LEAST_BITRATE, 6 * rate + 1)


def aac_missing() -> FormatUnavailable | None:
    """What to install, if anything; nothing is imported."""
    if importlib.util.find_spec("av") is None:
        return FormatUnavailable("aac", "the Python package av", "pip install 'parley[aac]'")
    return None


def _av() -> ModuleType:
    try:
        return importlib.import_module("av")
    except ImportError as error:  # absent, or without one of its libraries
        raise FormatUnavailable("aac", f"the Python package av ({error})", "pip install 'parley[aac]'") from error


class Aac(Encoder):
    """One AAC frame of 1024 samples after the other, each behind its header."""

    name = "aac"
    media_type = "audio/aac"
    extension = "aac"

    def __init__(self, sample_rate: int, bitrate: int) -> None:
        """sample_rate: one of AAC_RATES_HZ. Raises FormatUnavailable without PyAV."""
        super().__init__(sample_rate)
        self._av = _av()
        self._codec = self._av.CodecContext.create("aac", "w")
        self._codec.sample_rate = sample_rate
        self._codec.bit_rate = bitrate
        self._codec.layout = "mono"
        self._codec.format = "fltp"
        self._codec.time_base = Fraction(1, sample_rate)
        self._codec.open()
        self._waiting: Samples = np.zeros(0, np.float32)
        self._encoded = 0  # samples given to the encoder

    def _encode(self, samples: Samples) -> bytes:
        self._waiting = np.concatenate((self._waiting, np.clip(samples, -1, 1)))
        frames = b""
        while len(self._waiting) >= FRAME_SAMPLES:
            frame, self._waiting = self._waiting[:FRAME_SAMPLES], self._waiting[FRAME_SAMPLES:]
            frames += self._frame(frame)
        return frames

    def _end(self) -> bytes:
        rest = b""
        if len(self._waiting) or not self.samples:
            rest = self._frame(np.pad(self._waiting, (0, FRAME_SAMPLES - len(self._waiting))))
        return rest + self._with_headers(None)

    def _frame(self, samples: Samples) -> bytes:
        frame = self._av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
        frame.sample_rate = self.sample_rate
        frame.time_base = Fraction(1, self.sample_rate)
        frame.pts = self._encoded
        self._encoded += FRAME_SAMPLES
        return self._with_headers(frame)

    def _with_headers(self, frame: object) -> bytes:
        """frame: None ends the stream."""
        packets = [bytes(packet) for packet in self._codec.encode(frame)]
        return b"".join(adts_header(self.sample_rate, len(packet)) + packet for packet in packets)


def adts_header(rate: int, packet_bytes: int) -> bytes:
    """MPEG-4, no checksum, AAC-LC, one channel, one packet, buffer fullness unknown (variable bitrate)."""
    bits = 0xFFF << 44 | 1 << 40  # sync; no checksum
    bits |= 1 << 38 | _RATES.index(rate) << 34 | 1 << 30  # profile less 1; rate; channels
    bits |= (_HEADER_BYTES + packet_bytes) << 13 | 0x7FF << 2
    return bits.to_bytes(_HEADER_BYTES, "big")
