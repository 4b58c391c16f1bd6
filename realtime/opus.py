"""Opus packets of mono speech at 48 kHz, through opuslib and the system's libopus.

Knows the encoder's settings and what is missing where it cannot run. Does not know turns, positions or resampling. Nothing is
imported until an encoder is made: a machine without libopus speaks PCM. Source: RFC 6716.
"""

from __future__ import annotations

import ctypes.util
import importlib
import warnings
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]  # [n], mono

OPUS_RATE_HZ = 48000
OPUS_FRAMES_MS = (10, 20, 40, 60)  # 20 is the codec's own frame and the protocol's default; RFC 6716 2.1.4
OPUS_DECODED_HZ = (8000, 12000, 16000, 24000, 48000)  # RFC 6716 2.1.3
OPUS_LONGEST_MS = 120  # of a packet; RFC 6716 3.2.5
OPUS_BITRATES = range(6000, 510_001)  # bit/s, RFC 6716 2.1.1

# Full-band mono speech. On espeak-ng speech at 22 kHz the log-spectral distance to the input was 5.1 dB at 24 kbit/s, 4.5 at 32
# and 4.1 at 40: the gain flattens, the cost does not. RFC 6716 2.1.1 gives 28-40 kbit/s for full-band speech.
DEFAULT_BITRATE = 32000
# 140 us a 20 ms packet, against 262 at libopus's default of 9 (on the same core), for 0.3 dB of that distance: 256 streams cost 1.8
# cores instead of 3.4. Below 4 the distance grows by 0.5 dB.
COMPLEXITY = 5


@dataclass
class OpusUnavailable(Exception):
    """Opus was asked for and cannot be had on this machine. PCM, mu-law and A-law still can."""

    missing: str  # what is missing
    remedy: str  # the command that installs it

    def __str__(self) -> str:
        return f"Opus output needs {self.missing}: {self.remedy}"


def check_opus(frame_ms: int, bitrate: int) -> None:
    """Raises ValueError for what no encoder can do. Needs no libopus."""
    if frame_ms not in OPUS_FRAMES_MS:
        raise ValueError(f"opus packets last {', '.join(map(str, OPUS_FRAMES_MS))} ms, not {frame_ms}")
    if bitrate not in OPUS_BITRATES:
        raise ValueError(f"bitrate {bitrate} is outside {OPUS_BITRATES[0]}..{OPUS_BITRATES[-1]} bit/s")


@cache  # an exception is not cached: once libopus is installed, the next encoder finds it
def _opuslib() -> ModuleType:
    if ctypes.util.find_library("opus") is None:  # opuslib would raise a bare Exception on import
        raise OpusUnavailable("the system library libopus", "apt-get install libopus0")
    try:
        with warnings.catch_warnings():
            # opuslib 3.0.1 says `is not 0`: harmless, and seen only where pip did not compile it.
            warnings.simplefilter("ignore", SyntaxWarning)
            return importlib.import_module("opuslib")
    except ImportError as error:
        raise OpusUnavailable("the Python package opuslib", "pip install opuslib") from error
    except OSError as error:  # found, but the loader refuses it: another architecture, a broken link
        raise OpusUnavailable(f"a libopus that loads ({error})", "apt-get install --reinstall libopus0") from error


class OpusEncoder:
    """One encoder, for one stream of packets from its first to its last. One owner, no locks; encoding releases the GIL."""

    def __init__(self, frame_ms: int = 20, bitrate: int = DEFAULT_BITRATE) -> None:
        """Raises OpusUnavailable; ValueError as check_opus does."""
        check_opus(frame_ms, bitrate)
        opuslib = _opuslib()
        self.frame_samples = OPUS_RATE_HZ // 1000 * frame_ms  # of every packet
        # "audio" and not "voip", which adds a high-pass and emphasises formants to help against microphones and noise
        # (6.3 dB of waveform SNR instead of 8.8 on the speech above); with SIGNAL_VOICE both use the same speech modes.
        self._encoder = opuslib.Encoder(OPUS_RATE_HZ, 1, "audio")
        self._encoder.signal = opuslib.SIGNAL_VOICE
        self._encoder.complexity = COMPLEXITY
        self._encoder.bitrate = bitrate
        # Samples by which decoded audio lags behind what was encoded; the decoder's first `lookahead` samples precede the stream.
        self.lookahead: int = self._encoder.lookahead

    def encode(self, samples: Samples) -> bytes:
        """One packet of exactly frame_samples float32 samples. Values beyond [-1, 1] are passed on: decoders clip them softly."""
        assert len(samples) == self.frame_samples, "an Opus packet has a fixed number of samples"
        packet: bytes = self._encoder.encode_float(samples.astype("<f4", copy=False).tobytes(), self.frame_samples)
        return packet


class OpusDecoder:
    """Packets of one stream to samples: the client's half, and a microphone's on its way in."""

    def __init__(self, rate: int = OPUS_RATE_HZ) -> None:
        """rate: Hz of the samples, one of OPUS_DECODED_HZ whatever the encoder's was. Raises OpusUnavailable."""
        assert rate in OPUS_DECODED_HZ, f"Opus does not decode to {rate} Hz"
        self._opuslib = _opuslib()
        self._longest = rate * OPUS_LONGEST_MS // 1000
        self._decoder = self._opuslib.Decoder(rate, 1)

    def decode(self, packet: bytes) -> Samples:
        """Float32 samples [n], the encoder's lookahead included. Raises ValueError for a broken packet."""
        try:
            decoded: bytes = self._decoder.decode_float(packet, self._longest)
        except self._opuslib.OpusError as error:
            raise ValueError(f"broken Opus packet of {len(packet)} bytes: {error}") from error
        return np.frombuffer(decoded, np.float32)
