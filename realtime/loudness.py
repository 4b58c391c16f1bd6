"""How loud speech is, as ears weigh it, and speech made louder or softer without ever leaving full scale.

Knows samples, a rate and a gain. Does not know packets or turns. Nothing here follows speech and evens it out: a turn is as loud as the
model made it (eight conversations of twelve turns with the mini: standard deviation 0.5 to 0.9 LU, no drift), and a whisper stays one.
What jumped was a change of voice, by as much as the recordings differed; so those are brought to one loudness before they are encoded.

Source: ITU-R BS.1770-4 for loudness (its filters as analogue prototypes, so that they fit any rate).
"""

from __future__ import annotations

from itertools import pairwise
from math import log10, pi, tan

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]  # [n], mono

MAX_VOLUME_DB = 20.0  # either way; the protocol's

CEILING = 10 ** (-1 / 20)  # -1 dB of full scale: resampling and Opus overshoot by up to that much
STRIDE_S = 0.0025  # the gain is found once for so long and runs straight between; it is also the delay. Shorter is heard as distortion
RELEASE_DB_S = 60.0  # back up after a peak: between two periods of a low voice 0.8 dB, after a loud word 0.2 s

_STEP_S, _STEPS = 0.1, 4  # a block of the standard is four steps long
_SLICE_S, _RINGS_S = 30.0, 0.25  # filtered at once, whatever the recording's length; how long the filters ring
_ABSOLUTE_GATE, _RELATIVE_GATE = -70.0, -10.0  # LUFS; LU
SILENT_LUFS = -70.0

# Of every recording that a voice is made of. A model speaks as loud as its reference: recordings at -21, -33 and -45 LUFS made the mini
# speak at -24, -33 and -46. -23 is what broadcasters agreed on (EBU R 128), and what Fish Audio's tools bring training data to.
REFERENCE_LUFS = -23.0


class Volume:
    """Multiplies one stream by a gain; where that would pass -1 dB of full scale the gain yields, 2.5 ms ahead of the peak.

    However the samples are cut into pieces, the result is the same, to the bit. One owner, no locks.
    """

    def __init__(self, rate: int, volume_db: float) -> None:
        """Raises ValueError for a volume out of range."""
        if not abs(volume_db) <= MAX_VOLUME_DB:
            raise ValueError(f"volume_db {volume_db} is outside {-MAX_VOLUME_DB}..{MAX_VOLUME_DB}")
        self._gain = 10 ** (volume_db / 20)
        self._stride = round(rate * STRIDE_S)
        self._ramp = (np.arange(self._stride) / self._stride).astype(np.float32)
        self._release = 10 ** (RELEASE_DB_S * STRIDE_S / 20)
        self._held: Samples = np.zeros(0, np.float32)  # the last complete stride, and what came of the next one
        self._at: float | None = None  # gain at the start of what is held; None before the first stride

    def push(self, samples: Samples) -> Samples:
        """Add float32 [n]; returns what is final now. Keeps no reference."""
        if self._gain <= 1:  # nothing can grow
            return samples * np.float32(self._gain)
        self._held = np.concatenate((self._held, samples))
        return self._strides(len(self._held) // self._stride)

    def finish(self) -> Samples:
        """The rest, so that as much came out as went in. Nothing may be pushed afterwards."""
        missing = len(self._held)
        if not missing:
            return self._held
        # Silence behind the end limits nothing; two strides of it complete the one that has begun and the one that waits for it.
        self._held = np.concatenate((self._held, np.zeros(2 * self._stride, np.float32)))
        return self._strides(len(self._held) // self._stride)[:missing]

    def _strides(self, known: int) -> Samples:
        """All complete strides but the last: its end must know the next one's peak."""
        if known < 2:
            return np.zeros(0, np.float32)
        whole = self._held[: known * self._stride].reshape(known, self._stride)
        peaks = np.max(np.abs(whole), axis=1).tolist()
        allowed = [min(self._gain, CEILING / peak) if peak else self._gain for peak in peaks]
        gains = [allowed[0] if self._at is None else self._at]
        for before, after in pairwise(allowed):
            # Straight lines between points that both neighbouring strides allow: no sample passes the ceiling.
            gains.append(min(before, after, gains[-1] * self._release))
        points = np.array(gains, np.float32)
        lines = points[:-1, None] + (points[1:] - points[:-1])[:, None] * self._ramp
        self._at = gains[-1]
        self._held = self._held[(known - 1) * self._stride :].copy()
        loud: Samples = (whole[:-1] * lines).reshape(-1)
        return loud


def loudness_lufs(samples: npt.NDArray[np.floating], rate: int) -> float:
    """Integrated loudness of a recording, mono, gated; SILENT_LUFS where nothing is above the gate."""
    steps = _step_powers(samples, rate)
    if not len(steps):
        return SILENT_LUFS
    blocks = min(_STEPS, len(steps))  # of what is shorter than a block, all
    powers = np.convolve(steps, np.ones(blocks) / blocks, "valid")
    powers = powers[_lufs(powers) > _ABSOLUTE_GATE]
    if not len(powers):
        return SILENT_LUFS
    powers = powers[_lufs(powers) > float(_lufs(np.mean(powers))) + _RELATIVE_GATE]
    return float(_lufs(np.mean(powers)))


def _step_powers(samples: npt.NDArray[np.floating], rate: int) -> npt.NDArray[np.float64]:
    """Weighted power of each step of _STEP_S; what is left at the end counts as a step if there is no other."""
    step, rings = round(_STEP_S * rate), round(_RINGS_S * rate)
    span = step * round(_SLICE_S / _STEP_S)
    powers = [np.zeros(0)]
    for start in range(0, len(samples), span):
        before = max(0, start - rings)
        part = samples[before : start + span].astype(np.float64)
        size = 1 << (len(part) + rings).bit_length()
        weights = _weights(np.fft.rfftfreq(size, 1 / rate).astype(np.float64), rate)
        heard = np.fft.irfft(np.fft.rfft(part, size) * weights, size)[start - before : len(part)]
        if len(samples) < step:
            return np.array([np.mean(heard**2)])
        powers.append(np.mean(heard[: len(heard) // step * step].reshape(-1, step) ** 2, axis=1))
    return np.concatenate(powers)


def at_loudness(samples: Samples, rate: int, lufs: float = REFERENCE_LUFS) -> Samples:
    """A recording brought to a loudness by one gain; less loud where its peaks would pass the ceiling. Silence stays as it is."""
    loudness, peak = loudness_lufs(samples, rate), float(np.max(np.abs(samples), initial=0.0))
    if loudness <= SILENT_LUFS or not peak:
        return samples
    return samples * np.float32(min(10 ** ((lufs - loudness) / 20), CEILING / peak))


def _lufs(power: npt.NDArray[np.float64] | np.floating) -> npt.NDArray[np.float64]:
    return np.asarray(-0.691 + 10 * np.log10(np.maximum(power, 1e-12)))


def _weights(frequencies: npt.NDArray[np.float64], rate: int) -> npt.NDArray[np.complex128]:
    """Response of the standard's two filters: a head's shelf of 4 dB above 1.7 kHz, and a high-pass at 38 Hz.

    The standard gives coefficients for 48 kHz alone; these prototypes give the same ones there.
    """
    delay = np.exp(-2j * pi * frequencies / rate)
    warped, quality, top = tan(pi * 1681.974450955533 / rate), 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    middle = top**0.4996667741545416
    lower = 1 + warped / quality + warped**2
    shelf = _second_order(
        (
            top + middle * warped / quality + warped**2,
            2 * (warped**2 - top),
            top - middle * warped / quality + warped**2,
        ),
        (lower, 2 * (warped**2 - 1), 1 - warped / quality + warped**2),
        delay,
    )
    warped, quality = tan(pi * 38.13547087602444 / rate), 0.5003270373238773
    lower = 1 + warped / quality + warped**2
    high_pass = _second_order(
        (lower, -2 * lower, lower), (lower, 2 * (warped**2 - 1), 1 - warped / quality + warped**2), delay
    )
    return shelf * high_pass


def _second_order(
    above: tuple[float, float, float], below: tuple[float, float, float], delay: npt.NDArray[np.complex128]
) -> npt.NDArray[np.complex128]:
    """The quotient of two polynomials in the delay."""
    numerator = above[0] + above[1] * delay + above[2] * delay**2
    denominator = below[0] + below[1] * delay + below[2] * delay**2
    quotient: npt.NDArray[np.complex128] = numerator / denominator
    return quotient


def decibels(ratio: float) -> float:
    """Of an amplitude; -100 at the least."""
    return max(-100.0, 20 * log10(max(ratio, 1e-10)))
