"""Sample-rate conversion of one stream with a short, constant delay and no delay in the result.

Knows rates, filters and how much input an output sample needs. Does not know packets or codecs. One linear-phase low-pass
(a sinc under a Kaiser window) is evaluated at the exact time of every output sample, so output sample 0 stands where input
sample 0 stood and the delay is half the filter: 2.6 ms for 22050 -> 48000 Hz, 7.1 ms to 8000 Hz.

Why not soxr, which is cheaper (10 us a frame against 40 to 90 us, beside some 320 us of Opus): a fixed-ratio soxr stream works in
FFT blocks. Fed 46 ms frames at 22050 Hz it lags by anything from 5 to 42 ms, towards 12 kHz and below by up to 77 ms, and
there gives nothing at all for the first frame. Its variable-rate mode lags evenly, but by 27 ms to 8000 Hz, and is up to 0.2 ms off.
The tests compare with soxr's offline conversion.

Source: J. O. Smith, "Digital Audio Resampling"; J. F. Kaiser's window and length formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, gcd, pi

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]  # [n], mono

PASSBAND = 0.45  # of the lower rate: flat up to here (3.6 kHz of 8 kHz). Closer to 0.5 the filter, and the delay, grow without bound
STOPBAND = 0.5  # of the lower rate: nothing that would alias is left. Beyond 0.5 aliases would fold into the band just below it
ATTENUATION_DB = 90.0  # of aliases and images: inaudible beside 16-bit speech; every 10 dB cost 12 % of the delay
# OpenBLAS hands a matrix-vector product of 9216 elements or more to several threads, which costs more than it saves here.
MAX_BLOCK_ELEMENTS = 8192
MIN_CYCLE_OUTPUTS = 320  # a shorter cycle is repeated: each costs a call, each repetition a copy of its matrices
MAX_BLOCK_OUTPUTS = 40  # output samples computed at once: fewer cost calls, more cost delay (40 are 0.8 ms at 48 kHz)


@dataclass(frozen=True, slots=True, eq=False)
class _Bank:
    """The filter of one pair of rates, cut into matrices.

    The taps repeat after a cycle of `up` output or `down` input samples (in the ratio of the rates). A cycle is cut into `blocks`
    runs of consecutive outputs; `matrices[b]` turns the `span` input samples under run b into its outputs.
    """

    down: int  # input samples a cycle
    half: int  # taps on either side of an output sample, in input samples
    span: int  # input samples under a block
    blocks: int  # a cycle
    # Of two cycles, so that a cycle may begin with any block; the second has the first one's matrices once more.
    matrices: npt.NDArray[np.float32]  # [2 * blocks, span, outputs a block]
    starts: npt.NDArray[np.int64]  # [2 * blocks], input samples from the first cycle's first window to each block's


def _low_pass(times: npt.NDArray[np.float64], half_width: float, cutoff: float) -> npt.NDArray[np.float64]:
    """The impulse response at `times` (input samples), zero from `half_width` on. `cutoff` in cycles per input sample."""
    beta = 0.1102 * (ATTENUATION_DB - 8.7)  # Kaiser's formula for more than 50 dB
    window = np.i0(beta * np.sqrt(np.clip(1.0 - (times / half_width) ** 2, 0.0, None))) / np.i0(beta)
    response = 2.0 * cutoff * np.sinc(2.0 * cutoff * times) * window
    return np.where(np.abs(times) < half_width, response, 0.0)


@lru_cache(maxsize=16)  # a bank is below 2 MB and takes some 10 ms to make; a server uses a handful
def _bank(source_rate: int, rate: int) -> _Bank:
    common = gcd(source_rate, rate)
    repeat = ceil(MIN_CYCLE_OUTPUTS * common / rate)
    up, down = rate // common * repeat, source_rate // common * repeat
    lower = min(source_rate, rate) / source_rate  # the lower rate, in cycles per input sample
    width = 2.0 * pi * (STOPBAND - PASSBAND) * lower  # of the transition band, in radians per input sample
    half_width = (ATTENUATION_DB - 7.95) / (2.285 * width) / 2.0  # Kaiser's length formula, halved
    half = ceil(half_width)

    # Output p of a cycle stands at p * down / up: `whole[p]` input samples and a fraction. Its taps are the inputs from
    # whole[p] - half + 1 to whole[p] + half; windows are counted from -half + 1, so its window begins at whole[p].
    outputs = np.arange(up)
    whole, rest = outputs * down // up, outputs * down % up
    times = (rest / up)[:, None] + np.arange(
        half - 1, -half - 1, -1
    )  # of the outputs, from each tap's input; [up, 2 * half]
    taps = _low_pass(times, half_width, (PASSBAND + STOPBAND) / 2 * lower)
    taps /= taps.sum(axis=1, keepdims=True)  # every phase passes a constant unchanged

    def span_of(block: int) -> int:
        return 2 * half + ceil((block - 1) * down / up)

    divisors = [b for b in range(2, MAX_BLOCK_OUTPUTS + 1) if up % b == 0 and b * span_of(b) <= MAX_BLOCK_ELEMENTS]
    block = max(divisors, default=1)
    starts = whole[::block]
    matrices = np.zeros((up // block, span_of(block), block), np.float32)
    for p in range(up):
        offset = whole[p] - starts[p // block]
        matrices[p // block, offset : offset + 2 * half, p % block] = taps[p]
    matrices, starts = np.concatenate((matrices, matrices)), np.concatenate((starts, starts + down))
    matrices.flags.writeable = False
    return _Bank(down, half, span_of(block), up // block, matrices, starts)


class Resampler:
    """Converts one stream of samples, fed in pieces of any size; the pieces change nothing, to the bit.

    One owner, no locks. Memory is bounded by the filter's length and the largest piece. For unequal rates only.
    """

    def __init__(self, source_rate: int, rate: int) -> None:
        if source_rate < 1 or rate < 1 or source_rate == rate:
            raise ValueError(f"no conversion from {source_rate} Hz to {rate} Hz")
        self._source_rate = source_rate
        self._rate = rate
        self._bank = _bank(source_rate, rate)
        self._block = 0  # index of the next block of outputs, from the start of the stream
        # Input samples that the next block or a later one needs, from the first sample of the next block's window on. Before the
        # stream there is silence: the first window begins half - 1 samples ahead of it.
        self._held: Samples = np.zeros(self._bank.half - 1, np.float32)
        self._n_in = 0  # input samples so far
        self._n_out = 0  # output samples handed out so far

    def push(self, samples: Samples) -> Samples:
        """Add float32 [n]; returns every output sample that is final now, float32 [m], m may be 0. Keeps no reference."""
        self._n_in += len(samples)
        return self._convert(samples)

    def finish(self) -> Samples:
        """The rest, so that all output is ceil(n_in * rate / source_rate) samples. Nothing may be pushed afterwards."""
        missing = -(-self._n_in * self._rate // self._source_rate) - self._n_out
        if missing == 0:
            return np.zeros(0, np.float32)
        silence = self._bank.span + ceil(missing * self._source_rate / self._rate)
        return self._convert(np.zeros(silence, np.float32))[:missing]

    def _convert(self, samples: Samples) -> Samples:
        bank, held = self._bank, np.concatenate((self._held, samples))
        first = self._block % bank.blocks  # the next block, within its cycle
        # Of a cycle that begins with it, in held.
        starts = bank.starts[first : first + bank.blocks] - bank.starts[first]
        spare = len(held) - bank.span  # the last sample that a window may begin with
        if spare < 0:
            self._held = held
            return np.zeros(0, np.float32)
        cycles, rest = divmod(spare, bank.down)
        more = int(np.searchsorted(starts, rest, "right"))  # blocks behind those cycles
        windows = np.lib.stride_tricks.sliding_window_view(held, bank.span)
        # One product of a fixed size for each block: a product of several windows with one matrix may add in another order
        # for another number of windows, and then the pieces would show in the last bit.
        rows = np.empty((cycles * bank.blocks + more, 1, bank.matrices.shape[2]), np.float32)
        if cycles:
            places = starts + bank.down * np.arange(cycles)[:, None]  # [cycles, blocks]
            matrices = bank.matrices[first : first + bank.blocks]
            whole = rows[: cycles * bank.blocks].reshape(cycles, bank.blocks, 1, -1)
            np.matmul(windows[places][:, :, None, :], matrices, out=whole)
        if more:
            picked = windows[starts[:more] + bank.down * cycles]  # [more, span]
            np.matmul(picked[:, None, :], bank.matrices[first : first + more], out=rows[cycles * bank.blocks :])
        self._block += len(rows)
        following = int(starts[more]) if more < bank.blocks else bank.down
        self._held = held[bank.down * cycles + following :].copy()
        self._n_out += rows.size
        return rows.reshape(-1)
