"""What can be heard of a recording without listening: level, noise, room, music, band, silence. Pure numpy.

Knows samples. Does not know files, transcripts or words for people (`realtime.recording_advice` does). Every figure answers one question:
would a voice that is cloned from this carry something that is not the voice? The bounds were set on synthetic speech that was spoiled by
known amounts; realtime/VOICES.md shows how well they tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from engine.api import Samples

Array = npt.NDArray[np.float64]

FRAME_S: Final = 0.02
HOP_S: Final = 0.01
SPEECH_DB: Final = 30.0  # what is less below the loudest moments counts as speech
BREATH_S: Final = 0.25  # a longer pause is no part of saying the words
FLOOR_PERCENT: Final = 5.0  # the quietest frames: what is heard between words
_GATED: Final = 0.01  # of the time from the first word to the last without any sound: an editor, a gate or a synthesizer made the pauses
_STEADY: Final = 0.15  # of that time near the quietest frames: pauses all the same. Speech alone had 0.12 at most

_WIDE_S: Final = 0.17  # long enough to tell the partials of a chord apart, short enough for a pause between sentences
_BAND_HZ: Final = (120.0, 4000.0)  # where music and reverberation are; hum alone has its partials there, too
_PATCH_HZ: Final = 280.0  # within it a noise of any colour is flat


@dataclass(frozen=True, slots=True)
class Measures:
    """What was found. None: this recording does not tell. Levels are dB of full scale, root mean square."""

    seconds: float
    rate: int  # Hz
    peak: float  # of full scale
    loud_db: float  # of the loudest moments
    speech_db: float  # of the speech, without pauses
    flat_tops: int  # places where the wave is cut off level
    before_s: float  # silence before the first sound
    after_s: float  # silence after the last one
    spoken_s: float  # the time between, without pauses
    noise_db: float | None  # the speech above what is heard between words, in dB
    flatness: float | None  # of what is heard between words: 0.56 is noise, below 0.1 are tones
    decay_s: float | None  # time in which sound would fall by 60 dB after words
    edge_hz: float | None  # above it there is nothing, although there is something right below


def measure(samples: Samples, rate: int) -> Measures:
    """samples: mono [n], finite, at least a frame (20 ms) of them."""
    x = samples.astype(np.float64)
    x -= x.mean()  # what a sound card adds to every sample is not sound
    levels = levels_db(x, rate, FRAME_S, HOP_S)
    loud = float(np.percentile(levels, 95))
    active = np.flatnonzero(levels > loud - SPEECH_DB)
    speech = float(10 * np.log10((10 ** (levels[active] / 10)).mean()))
    gaps = np.diff(active) * HOP_S
    floor = _floor_db(levels, _recorded(x, rate)[: len(levels)], slice(active[0], active[-1] + 1))
    return Measures(
        seconds=len(x) / rate,
        rate=rate,
        peak=float(np.abs(samples).max()),
        loud_db=loud,
        speech_db=speech,
        flat_tops=_flat_tops(samples),
        before_s=float(active[0]) * HOP_S,
        after_s=max(0.0, len(x) / rate - float(active[-1]) * HOP_S - FRAME_S),
        spoken_s=float(np.minimum(gaps, BREATH_S).sum()) + FRAME_S,
        noise_db=None if floor is None else speech - floor,
        flatness=None if floor is None else _flatness(x, rate),
        decay_s=_decay_s(levels, loud, floor),
        edge_hz=_edge_hz(x, rate),
    )


def _floor_db(levels: Array, recorded: npt.NDArray[np.bool_], words: slice) -> float | None:
    """Level of what is heard between words; None where nobody can hear it, because there is nothing at all in the pauses."""
    heard = levels[recorded]
    if len(heard) <= len(levels) // 2:
        return None
    floor = float(np.percentile(heard, FLOOR_PERCENT))
    silent = float(np.mean(~recorded[words]))
    steady = float(np.mean(recorded[words] & (levels[words] <= floor + 3)))
    return floor if silent < _GATED or steady > max(_STEADY, silent) else None


def _recorded(x: Array, rate: int) -> npt.NDArray[np.bool_]:
    """Which frames were recorded [frames]. Where samples do not move there was an editor or a gate, which says nothing about the room."""
    still = np.concatenate(([0], np.cumsum(np.diff(x, append=x[-1:]) == 0)))
    length, hop = round(FRAME_S * rate), round(HOP_S * rate)
    starts = np.arange(0, max(1, len(x) - length + 1), hop)
    edited = still[np.minimum(starts + length, len(x))] - still[starts] > length / 2
    near = edited.copy()  # and the frames that reach into such a place
    near[1:] |= edited[:-1]
    near[:-1] |= edited[1:]
    return ~near


def levels_db(x: Array, rate: int, frame_s: float, hop_s: float) -> Array:
    """Level of each frame [frames]; a recording shorter than a frame is one."""
    length, hop = round(frame_s * rate), round(hop_s * rate)
    energy = np.concatenate(([0.0], np.cumsum(x * x)))
    starts = np.arange(0, max(1, len(x) - length + 1), hop)
    ends = np.minimum(starts + length, len(x))
    levels: Array = 10 * np.log10((energy[ends] - energy[starts]) / (ends - starts) + 1e-14)
    return levels


def _flat_tops(samples: Samples) -> int:
    """Runs of three samples or more within 0.1 % of the highest or the lowest: a wave touches its own peak once."""
    count = 0
    for side in (samples, -samples):
        near = np.concatenate(([False], side >= side.max() * 0.999, [False]))
        edges = np.flatnonzero(near[1:] != near[:-1])
        count += int((edges[1::2] - edges[::2] >= 3).sum())
    return count


def _flatness(x: Array, rate: int) -> float | None:
    """Geometric over arithmetic mean of the power in each patch of the spectrum, of the quietest twentieth of the recording."""
    length = round(_WIDE_S * rate)
    starts = np.arange(0, len(x) - length, length // 4)
    levels = levels_db(x, rate, _WIDE_S, (length // 4) / rate)[: len(starts)]
    recorded = _recorded(x, rate)
    spans = (starts / (HOP_S * rate)).astype(int)
    heard = np.array([bool(recorded[at : at + round(_WIDE_S / HOP_S)].all()) for at in spans])
    quiet = np.flatnonzero(heard)[np.argsort(levels[heard])[: max(4, len(starts) // 20)]]
    if not len(quiet):
        return None
    frequencies = np.fft.rfftfreq(length, 1 / rate)
    band = (frequencies > _BAND_HZ[0]) & (frequencies < _BAND_HZ[1])
    per_patch = round(_PATCH_HZ / frequencies[1])
    found = []
    for start in starts[quiet]:
        power = np.abs(np.fft.rfft(x[start : start + length] * np.hanning(length)))[band] ** 2 + 1e-20
        patches = power[: len(power) // per_patch * per_patch].reshape(-1, per_patch)
        means = patches.mean(axis=1)
        found.append(float(np.exp(np.log(patches).mean(axis=1)).sum() / means.sum()))
    return float(np.median(found))


def _decay_s(levels: Array, loud: float, floor: float | None) -> float | None:
    """Reverberation time as words end. Dry speech stops within some 50 ms; a room does not let it.

    The lower quartile over all ends: a voice may fade as slowly as it likes, but only a room keeps it from ever stopping fast.
    """
    found = list(_decays(levels, loud, -np.inf if floor is None else floor))
    return float(np.percentile(found, 25)) if len(found) >= 2 else None


def _decays(levels: Array, loud: float, floor: float) -> Iterator[float]:
    """60 dB at the slope between 10 and 30 dB below what a stretch of speech ended with, or down to the floor where that is higher."""
    frame, count = 0, len(levels)
    while frame < count:
        if levels[frame] <= loud - 12:
            frame += 1
            continue
        end = frame
        while end < count and levels[end] > loud - 12:
            end += 1
        top = float(levels[max(frame, end - 15) : end].max())
        high, low = top - 10, max(top - 30, floor + 8)
        below = end
        while below < count and low < levels[below] <= top - 3:
            below += 1
        if high - low >= 10 and below < count and levels[below] <= low:
            last = below
            while last > frame and levels[last] <= high:
                last -= 1
            yield 60 * (below - last) * HOP_S / float(levels[last] - levels[below])
        frame = end


# In the spectrum of loud moments; 14.6 was the most that undamaged speech showed, 24 the least of any edge.
_LOUD_DROP_DB: Final = 20.0
# In that of quiet moments, where good encoders cut first; at 4 kHz speech has steps of its own.
_QUIET_DROP_DB: Final = 12.0
_QUIET_FROM_HZ: Final = 10_000.0
_EDGES_HZ: Final = (3_000.0, 19_600.0)  # a converter's own filter begins above
_WINDOW: Final = 2048


def _edge_hz(x: Array, rate: int) -> float | None:
    """Where the spectrum falls off a cliff: the mark of a lossy encoder, and of a recording that was made at a lower rate."""
    starts = np.arange(0, len(x) - _WINDOW, _WINDOW // 2)
    if len(starts) < 20:
        return None
    window = np.hanning(_WINDOW)
    scale = 2 / float((window**2).sum()) / _WINDOW
    power = np.stack([np.abs(np.fft.rfft(x[start : start + _WINDOW] * window)) ** 2 for start in starts]) * scale
    frequencies = np.fft.rfftfreq(_WINDOW, 1 / rate).astype(np.float64)
    for percent, wanted_db, from_hz in ((90, _LOUD_DROP_DB, _EDGES_HZ[0]), (15, _QUIET_DROP_DB, _QUIET_FROM_HZ)):
        spectrum = 10 * np.log10(np.percentile(power, percent, axis=0) + 1e-16)
        drops = [
            (_drop_db(spectrum, frequencies, hz), hz)
            for hz in np.arange(from_hz, min(_EDGES_HZ[1], 0.45 * rate), 100.0)
        ]
        if drops and max(drops)[0] >= wanted_db:
            return _begin(spectrum, frequencies, float(max(drops)[1]))
    return None


def _drop_db(spectrum: Array, frequencies: Array, hz: float) -> float:
    """From right below `hz` to nearly everything in the 2 kHz above."""
    below = spectrum[(frequencies > hz - 700) & (frequencies < hz - 100)]
    above = spectrum[(frequencies > hz + 300) & (frequencies < min(hz + 2300, frequencies[-1] - 300))]
    return float(np.median(below) - np.percentile(above, 90)) if len(above) else 0.0


def _begin(spectrum: Array, frequencies: Array, hz: float) -> float:
    """Where the cliff around `hz` begins: the first place that is 10 dB down for good."""
    before = float(np.median(spectrum[(frequencies > hz - 2000) & (frequencies < hz - 1200)]))
    near = np.flatnonzero((frequencies > hz - 1200) & (frequencies < hz + 600))
    high = near[spectrum[near] > before - 10]
    return float(frequencies[high[-1]]) if len(high) else hz
