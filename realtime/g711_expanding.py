"""G.711 bytes become 16-bit samples: the listening half of `realtime.g711`.

Knows the two laws. Does not know rates or packets. Each law is one table of 256 samples, computed by formula when first used. A byte
stands for an interval of samples and becomes its middle. Source: ITU-T G.711, tables 1 and 2.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Pcm16 = npt.NDArray[np.int16]  # [n]


def decode_mulaw(payload: bytes) -> Pcm16:
    """One int16 sample for each byte."""
    return _mulaw_samples()[np.frombuffer(payload, np.uint8)]


def decode_alaw(payload: bytes) -> Pcm16:
    """One int16 sample for each byte."""
    return _alaw_samples()[np.frombuffer(payload, np.uint8)]


@cache
def _mulaw_samples() -> Pcm16:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    segment, step = code >> 4 & 7, code & 0x0F
    # The middle of step `step` of a segment that is 16 steps long, less the bias that made it start at a power of two; 14 bit.
    magnitude = (2 * step + 33 << segment) - 33
    return (np.where(code & 0x80, -magnitude, magnitude) << 2).astype(np.int16)


@cache
def _alaw_samples() -> Pcm16:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    segment, step = code >> 4 & 7, code & 0x0F
    # Segments 0 and 1 share a step size; from 1 on the sixteen steps lie above a power of two; 13 bit, in halves of a step.
    magnitude = np.where(segment == 0, 2 * step + 1, 2 * step + 33 << np.maximum(segment - 1, 0))
    return (np.where(code & 0x80, magnitude, -magnitude) << 3).astype(np.int16)
