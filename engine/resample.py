"""Recorded audio at the codec's sample rate, by windowed-sinc interpolation.

Knows the filter that the reference applies to reference audio (6 zero crossings, squared-cosine window, band edge at
0.99 of the lower Nyquist frequency), because another one gives other codes. For whole recordings; live audio out of
the server is resampled elsewhere. Does not know files or channels.
Source of the method: J. O. Smith, "Digital Audio Resampling"; of the parameters: torchaudio's documented defaults.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

ZERO_CROSSINGS = 6  # of the sinc on each side: fewer widen the transition band, more cost time
ROLLOFF = 0.99  # band edge, as a fraction of the lower of both Nyquist frequencies
_BLOCK_PRODUCTS = 1 << 20  # inputs looked at at once: 8 MB in float64, or a period's

Samples = npt.NDArray[np.float32]


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """samples: mono float32 [n] at from_hz. Returns float32 [ceil(n * to_hz / from_hz)], a copy.

    Silence is assumed around the recording. Time and memory grow with its length alone, also for rates without a
    common divisor. Raises ValueError for rates below 1 Hz.
    """
    if from_hz < 1 or to_hz < 1:
        raise ValueError(f"cannot resample from {from_hz} Hz to {to_hz} Hz")
    common = math.gcd(from_hz, to_hz)
    step, phases = from_hz // common, to_hz // common  # output m lies at input position m * step / phases
    if step == phases:
        return samples.astype(np.float32, copy=True)
    kernel = _kernel(step, phases)
    taps = kernel.shape[1]
    before = taps // 2 - 1  # inputs seen before the one at or just before the output
    periods = -(-len(samples) // step)  # in each, outputs see inputs at the same distances
    padded = np.concatenate((np.zeros(before), samples.astype(np.float64), np.zeros(step + taps)))
    windows = sliding_window_view(padded, taps)[: periods * step].reshape(periods, step, taps)
    first = np.arange(phases) * step // phases  # input of a period that an output lies at or just behind
    out = np.empty((periods, phases), dtype=np.float32)
    block = max(1, _BLOCK_PRODUCTS // kernel.size)
    for start in range(0, periods, block):
        part = slice(start, start + block)
        out[part] = np.einsum("pmi,mi->pm", windows[part, first], kernel)
    return out.reshape(-1)[: -(-len(samples) * phases // step)]


def _kernel(step: int, phases: int) -> npt.NDArray[np.float64]:
    """Weights [phases, taps] of the inputs around each output phase; taps is even, half of them after the output."""
    edge = min(step, phases) * ROLLOFF  # in units in which the input has `step` samples and the output `phases`
    reach = math.ceil(ZERO_CROSSINGS * step / edge)  # inputs on either side
    fraction = (np.arange(phases) * step % phases / phases)[:, None]  # of the way from one input to the next
    distance = np.arange(-reach, reach + 2) - fraction  # of each input from the output, in inputs
    crossings = np.clip(distance * edge / step, -ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = np.cos(crossings * np.pi / ZERO_CROSSINGS / 2) ** 2
    weights: npt.NDArray[np.float64] = np.sinc(crossings) * window * edge / step
    return weights
