"""Recorded speech for tests of the ear (espeak-ng, made once), and a model that says what it is told.

The scripted model is for rules about time, where only the verdicts matter; whatever claims that speech is heard uses the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from realtime.audio import to_int16
from realtime.hearing_sounds import Sound, read
from realtime.voice_activity import HOP_SAMPLES, Samples

FOLDER = Path(__file__).parents[1] / "fixtures" / "hearing"
PHRASES = ("wait", "stop", "excuse", "yes", "moment", "halt")
MESSAGE_SAMPLES = 320  # 20 ms at 16 kHz


@lru_cache
def recorded(name: str) -> Sound:
    """A phrase at 16 kHz, or the agent's `answer`. Do not write to it."""
    return read(FOLDER / f"{name}.ogg")


def silence(seconds: float) -> Sound:
    """A quiet room: white noise at -75 dB."""
    rng = np.random.default_rng(3)
    made: Sound = (10 ** (-75 / 20) * rng.standard_normal(int(seconds * 16_000))).astype(np.float32)
    return made


def in_quiet(name: str, before_s: float = 1.0, after_s: float = 1.0) -> Sound:
    """A phrase in a quiet room."""
    return np.concatenate((silence(before_s), recorded(name), silence(after_s)))


def messages(sound: Sound) -> list[bytes]:
    """As pcm_s16le at 16 kHz, 20 ms each."""
    pcm = to_int16(sound).astype("<i2")
    return [
        pcm[at : at + MESSAGE_SAMPLES].tobytes() for at in range(0, len(pcm) - MESSAGE_SAMPLES + 1, MESSAGE_SAMPLES)
    ]


class ScriptedModel:
    """Says the next of its verdicts for each hop, and after the last one that nobody speaks."""

    def __init__(self, verdicts: Sequence[float] = ()) -> None:
        self.verdicts = list(verdicts)
        self.hops = 0
        self.resets = 0

    def probability(self, hop: Samples) -> float:
        assert hop.shape == (HOP_SAMPLES,) and hop.dtype == np.float32, "what the real model is given"
        self.hops += 1
        return self.verdicts[self.hops - 1] if self.hops <= len(self.verdicts) else 0.0

    def reset(self) -> None:
        self.resets += 1
