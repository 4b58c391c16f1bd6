"""Formats in which a sample is a number of its own: PCM with and without a header, mu-law, A-law. No sample waits for another."""

from __future__ import annotations

from realtime.audio import to_int16
from realtime.encoders.encoder import Encoder, Samples
from realtime.g711 import encode_alaw, encode_mulaw
from realtime.wavefile import header


def _pcm16(samples: Samples) -> bytes:
    return to_int16(samples).astype("<i2", copy=False).tobytes()


class Pcm(Encoder):
    """Signed 16 bits, little-endian, no header."""

    name = "pcm"
    media_type = "audio/pcm"
    extension = "pcm"

    def _encode(self, samples: Samples) -> bytes:
        return _pcm16(samples)


class PcmFloat(Encoder):
    """32-bit floats, little-endian, no header, not clipped."""

    name = "pcm_f32le"
    media_type = "audio/pcm"
    extension = "f32"

    def _encode(self, samples: Samples) -> bytes:
        return samples.astype("<f4", copy=False).tobytes()


class Wav(Encoder):
    """Signed 16 bits behind a header of 44 bytes, whose sizes are the largest there are until the length is known."""

    name = "wav"
    media_type = "audio/wav"
    extension = "wav"

    def _start(self) -> bytes:
        return header(self.sample_rate)

    def _encode(self, samples: Samples) -> bytes:
        return _pcm16(samples)

    def _known_start(self) -> bytes:
        return header(self.sample_rate, 2 * self.samples)


class Mulaw(Encoder):
    """G.711 mu-law, one byte a sample, no header."""

    name = "mulaw"
    media_type = "audio/basic"  # RFC 2046 4.3: 8 kHz mono mu-law
    extension = "ulaw"

    def _encode(self, samples: Samples) -> bytes:
        return encode_mulaw(to_int16(samples))


class Alaw(Encoder):
    """G.711 A-law, one byte a sample, no header."""

    name = "alaw"
    media_type = "audio/x-alaw"
    extension = "alaw"

    def _encode(self, samples: Samples) -> bytes:
        return encode_alaw(to_int16(samples))
