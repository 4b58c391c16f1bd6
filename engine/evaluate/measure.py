"""Acoustic quantities of speech: pitch, voicing, level, pace and silence, on numbers alone.

Knows signals at 22,050 Hz. Does not know tags or what is to be expected. Source of the pitch measure: the normalised cross-correlation
of RAPT (Talkin, 1995), with the shortest good lag preferred so that no octave is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
Track = npt.NDArray[np.float64]

RATE = 22050  # Hz; everything else is resampled before it comes here
HOP = 256  # samples a frame of the tracks, 12 ms
_WINDOW = 1024
_LAGS = RATE // 500, RATE // 50  # 500 Hz to 50 Hz: the teacher's range with every tag
_FFT = 1536  # holds a window, the longest lag and the low pass, and is quick: 3 * 2^9
# Correlation above which a frame counts as voiced: whispers stay below 0.45, the teacher's vowels above 0.8.
_CLEAR = 0.6
_OCTAVE = 0.93  # a shorter lag wins when it is this good: multiples of a period correlate as well as the period
_SPEECH_DB = -32.0  # against the loud part: pauses lie below, the quietest consonants above
_SHORTEST_GAP = 3  # frames; shorter dips belong to the speech around them (closures of stops are some 5 to 8 frames)


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """The tracks of one recording, a value every `HOP` samples."""

    level: Track  # dB of full scale
    pitch: Track  # Hz; 0 where no pitch is clear
    speech: npt.NDArray[np.bool_]  # not a pause

    def part(self, start_s: float, end_s: float) -> Sound:
        """What lies between two times."""
        at = slice(max(0, round(start_s * RATE / HOP)), max(0, round(end_s * RATE / HOP)))
        return Sound(self.level[at], self.pitch[at], self.speech[at])

    @property
    def seconds(self) -> float:
        """The whole of it."""
        return len(self.level) * HOP / RATE


def sound(samples: Samples) -> Sound:
    """Measure a recording at RATE; an empty one has no frames."""
    if len(samples) < _WINDOW:
        empty = np.zeros(0)
        return Sound(empty, empty, empty > 0)
    padded = np.pad(samples.astype(np.float64), (_WINDOW // 2, _WINDOW // 2 + _LAGS[1]))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW + _LAGS[1])[::HOP]
    near = frames[:, :_WINDOW]
    level = 10 * np.log10((near[:, _WINDOW // 4 : 3 * _WINDOW // 4] ** 2).mean(1) + 1e-10)
    speech = _filled(level > _loud(level) + _SPEECH_DB)
    pitch = np.zeros(len(speech))
    pitch[speech] = _pitch(frames[speech])
    return Sound(level, pitch, speech)


def _loud(level: Track) -> float:
    return float(np.quantile(level, 0.95)) if len(level) else -100.0


def _filled(speech: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Short dips count as speech."""
    out = speech.copy()
    for start, end in _runs(~speech):
        if end - start <= _SHORTEST_GAP and start > 0 and end < len(speech):
            out[start:end] = True
    return out


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _pitch(frames: Track) -> Track:
    """Hz of each frame [n, window + longest lag], 0 where none is clear."""
    shortest, longest = _LAGS
    frames = _low_passed(frames)
    near = frames[:, :_WINDOW]
    product = np.fft.rfft(frames, _FFT) * np.conj(np.fft.rfft(near, _FFT))
    cross = np.fft.irfft(product, _FFT)[:, : longest + 1]  # what wraps around falls on longer lags
    power = np.cumsum(np.pad(frames**2, ((0, 0), (1, 0))), 1)
    shifted = power[:, _WINDOW : _WINDOW + longest + 1] - power[:, : longest + 1]
    correlation = cross / np.sqrt(shifted[:, :1] * shifted + 1e-12)
    inside = correlation[:, shortest:longest]
    best = inside.max(1)
    peak = (inside >= correlation[:, shortest - 1 : longest - 1]) & (
        inside >= correlation[:, shortest + 1 : longest + 1]
    )
    lag = shortest + (peak & (inside >= _OCTAVE * best[:, None])).argmax(1)
    return np.where(best > _CLEAR, RATE / lag, 0.0)


def _low_passed(frames: Track) -> Track:
    """Below some 1.2 kHz, where harmonics are strong and what a codec does to them does little harm."""
    kernel = np.hanning(19)[1:-1]
    kernel /= kernel.sum()
    wide = np.fft.irfft(np.fft.rfft(frames - frames.mean(1, keepdims=True), _FFT) * np.fft.rfft(kernel, _FFT), _FFT)
    start = len(kernel) // 2
    return wide[:, start : start + frames.shape[1]]


def voicing(heard: Sound) -> float:
    """Share of the loud half of the speech that has a clear pitch, 0..1."""
    loud = _loud_half(heard)
    return float((heard.pitch[loud] > 0).mean()) if loud.any() else 0.0


def _loud_half(heard: Sound) -> npt.NDArray[np.bool_]:
    if not heard.speech.any():
        return heard.speech
    return heard.speech & (heard.level >= np.median(heard.level[heard.speech]))


def semitones(heard: Sound) -> float:
    """Median pitch over its voiced frames, in semitones above 1 Hz; 0 for none."""
    voiced = heard.pitch[heard.pitch > 0]
    return float(12 * np.log2(np.median(voiced))) if len(voiced) else 0.0


def loudness(heard: Sound) -> float:
    """dB of the loud half of the speech; -100 for silence."""
    loud = _loud_half(heard)
    return float(10 * np.log10((10 ** (heard.level[loud] / 10)).mean())) if loud.any() else -100.0


def pace(heard: Sound) -> float:
    """log2 of the seconds of speech without its pauses: 1 more is twice as slow, for the same words."""
    return float(np.log2(max(1, int(heard.speech.sum())) * HOP / RATE))


def longest_pause(heard: Sound) -> tuple[float, float]:
    """(seconds, middle of it in seconds) of the longest silence inside; (0, 0) for none."""
    spoken = np.flatnonzero(heard.speech)
    if not len(spoken):
        return 0.0, 0.0
    inside = [run for run in _runs(~heard.speech) if spoken[0] < run[0] < spoken[-1]]
    start, end = max(inside, key=lambda run: run[1] - run[0], default=(0, 0))
    return (end - start) * HOP / RATE, (start + end) / 2 * HOP / RATE
