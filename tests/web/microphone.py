"""Writes what the fake microphone hears: people who interrupt, at known times, and short sounds that are no interruption.

    python tests/web/microphone.py OUT.wav

Prints one line of JSON: {"interruptions": [s, ...], "coughs": [s, ...]}, when each begins to be heard in the file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import soundfile
import soxr

VOICES = Path(__file__).parents[1] / "fixtures" / "hearing"
# Words that begin with a voice or a breath. One that begins with a hiss is speech to the detector only from its vowel on: `stop` takes it
# 148 to 176 ms of itself to be noticed, these 56 to 132.
WORDS = ("wait", "halt", "moment", "yes", "halt", "wait", "yes", "moment")
RATE_HZ = 48_000
FIRST_S, EVERY_S = 3.0, 2.2  # before the first the server learns how the room sounds
LONGEST_S = 0.7  # of a word; what is longer is cut off
SHORT_S = 0.14
AUDIBLE = 0.02  # of full scale


def said(name: str) -> np.ndarray:
    """A word from its first audible sample on, float32 [n], peak 0.5."""
    samples, rate = soundfile.read(VOICES / f"{name}.ogg", dtype="float32")
    samples = soxr.resample(samples if samples.ndim == 1 else samples.mean(axis=1), rate, RATE_HZ)
    samples = samples * (0.5 / np.abs(samples).max())
    audible = np.flatnonzero(np.abs(samples) > AUDIBLE)
    return samples[audible[0] : min(audible[-1], audible[0] + int(LONGEST_S * RATE_HZ))]


def short() -> np.ndarray:
    """The loudest part of a word, too short to be one."""
    word, length = said("wait"), int(SHORT_S * RATE_HZ)
    start = max(range(0, len(word) - length, 480), key=lambda at: float(np.square(word[at : at + length]).sum()))
    return word[start : start + length] * np.hanning(length) ** 0.3


def main(out: Path) -> None:
    """Write the file; print when what begins."""
    interruptions = [FIRST_S + index * EVERY_S for index in range(len(WORDS))]
    coughs = [interruptions[-1] + EVERY_S + index * EVERY_S for index in range(2)]
    sound = np.random.default_rng(1).normal(0, 1e-4, int((coughs[-1] + EVERY_S) * RATE_HZ)).astype(np.float32)
    for at, samples in [*zip(interruptions, map(said, WORDS), strict=True), *((at, short()) for at in coughs)]:
        sound[int(at * RATE_HZ) :][: len(samples)] += samples
    soundfile.write(out, sound, RATE_HZ, subtype="PCM_16")
    print(json.dumps({"interruptions": interruptions, "coughs": coughs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
