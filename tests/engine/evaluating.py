"""What the evaluation's tests share: the teacher, and untrained networks to listen with where it does not matter what is heard."""

from __future__ import annotations

import ctypes.util
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

if ctypes.util.find_library("espeak-ng") is None:
    pytest.skip("the teacher is the system package espeak-ng", allow_module_level=True)

from engine.evaluate.measure import RATE
from engine.evaluate.teaching import Yardstick
from engine.train.recognizer import Recognizer, small
from engine.train.speaker_net import SpeakerNet

ROOT = Path(__file__).parents[2]
MINI = ROOT / "engine" / "mini"
TEXTS = (
    "Could you tell me when the next train to Oxford leaves?",
    "My grandmother taught me how to bake bread when I was seven.",
    "The museum is closed on Mondays and public holidays.",
    "A strange noise was coming from behind the wall.",
)


@cache
def teacher() -> Yardstick:
    """One for all tests: the library has one global state."""
    return Yardstick()


def tone(hz: float, seconds: float, db: float = -20.0) -> npt.NDArray[np.float32]:
    """A buzz with ten harmonics, like a voice."""
    t = np.arange(int(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * hz * n * t) / n for n in range(1, 11))
    return (wave / np.sqrt(np.mean(wave**2)) * 10 ** (db / 20)).astype(np.float32)


def silence(seconds: float) -> npt.NDArray[np.float32]:
    return np.zeros(int(seconds * RATE), np.float32)


def untrained(folder: Path) -> tuple[Path, Path]:
    """Files of a recogniser and a speaker network that know nothing."""
    torch.manual_seed(3)
    recognizer, speaker = folder / "recognizer.pt", folder / "speaker.pt"
    torch.save(small(Recognizer(32, 1).state_dict()), recognizer)
    torch.save({name: value.half() for name, value in SpeakerNet(16).state_dict().items()}, speaker)
    return recognizer, speaker
