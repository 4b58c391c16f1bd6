"""G.711 companding of 16-bit samples: mu-law and A-law, one byte a sample, as telephones take it at 8 kHz.

Knows the two laws. Does not know rates or packets. Each law is one table of 65536 bytes, computed by formula when first used.
Source: ITU-T G.711, tables 1 and 2. Its input is 14 bit (mu) or 13 bit (A); the low bits of a 16-bit sample are dropped by an
arithmetic shift, as the reference software does, so the bytes are those of Python's former `audioop`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Pcm16 = npt.NDArray[np.int16]  # [n]
_Table = npt.NDArray[np.uint8]  # [65536], indexed by the sample's bits read as unsigned


def encode_mulaw(samples: Pcm16) -> bytes:
    """One byte for each int16 sample."""
    return _mulaw_table()[samples.view(np.uint16)].tobytes()


def encode_alaw(samples: Pcm16) -> bytes:
    """One byte for each int16 sample."""
    return _alaw_table()[samples.view(np.uint16)].tobytes()


def _every_sample() -> npt.NDArray[np.int32]:
    """All int16 values, in the order of their bits read as unsigned; int32 [65536]."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int32)


def _bit_length(values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    _mantissa, exponent = np.frexp(values.astype(np.float64))  # value = mantissa * 2 ** exponent, mantissa in [0.5, 1)
    return exponent


@cache
def _mulaw_table() -> _Table:
    pcm = _every_sample() >> 2
    # The bias of 33 makes every segment start at a power of two: 32..63 is segment 0, ..., 4096..8191 segment 7.
    biased = np.minimum(np.abs(pcm) + 33, 8191)
    segment = _bit_length(biased) - 6
    code = segment << 4 | biased >> (segment + 1) & 0x0F
    # Sent inverted, so that silence has many ones; the sign bit is 1 for positive values.
    table: _Table = (code ^ np.where(pcm < 0, 0x7F, 0xFF)).astype(np.uint8)
    return table


@cache
def _alaw_table() -> _Table:
    pcm = _every_sample() >> 3
    magnitude = np.where(pcm < 0, ~pcm, pcm)  # 0..4095; ~ because -1 is the first negative step, the mirror of 0
    # Segments 0 and 1 share a step size (0..31 and 32..63); from 64 on each doubling has its own.
    segment = np.maximum(_bit_length(magnitude) - 5, 0)
    code = segment << 4 | magnitude >> np.maximum(segment, 1) & 0x0F
    # Sent with every other bit inverted, for the same reason.
    table: _Table = (code ^ np.where(pcm < 0, 0x55, 0xD5)).astype(np.uint8)
    return table
