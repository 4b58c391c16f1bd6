"""What the teacher says, and where each word's sounds are: the yardstick of every figure.

Knows the renderer of training and words by their place in a text. Does not know the model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.train.phones import SILENCE, phone_class
from engine.train.render import Renderer
from engine.train.script import Phrase, SegmentScript, TurnScript
from engine.train.styles import SPEAKERS, Speaker, Style
from engine.train.teacher import Teacher, Tone, Utterance

Samples = npt.NDArray[np.float32]

_HOP = 256  # samples a phoneme label
ENGLISH, GERMAN = "en-us", "de"


@dataclass(frozen=True, slots=True)
class Reading:
    """The sounds of a text."""

    text: str
    phones: tuple[int, ...]  # classes, in order, without silence
    at: tuple[int, ...]  # of each sound, the code point at which its word begins
    borders: frozenset[int] = frozenset()  # code points where a word begins with a sound of its own

    def before(self, char: int) -> int:
        """How many sounds belong to words that begin before a code point."""
        return sum(at < char for at in self.at)

    @property
    def last_word(self) -> int:
        """How many sounds the last word has."""
        return sum(at == self.at[-1] for at in self.at) if self.at else 0


class Yardstick:
    """The teacher, with its renderings kept."""

    def __init__(self, data: Path | None = None) -> None:
        """data: folder that holds espeak-ng-data, where the system has none. Raises TeacherError without espeak-ng."""
        self._teacher = Teacher(data)
        self._renderer = Renderer(self._teacher, random.Random(0))
        self._spoken: dict[tuple[tuple[Phrase, ...], str], Samples] = {}
        self._readings: dict[tuple[str, str], Reading] = {}

    def say(
        self, text: str, speaker: Speaker = SPEAKERS[0], style: Style = Style.NORMAL, language: str = ENGLISH
    ) -> Samples:
        """Float samples at 22,050 Hz of a text without markup."""
        return self.render((Phrase("", text, speaker, style),), language)

    def render(self, phrases: Sequence[Phrase], language: str = ENGLISH) -> Samples:
        """One segment of several phrases."""
        key = tuple(phrases), language
        if key not in self._spoken:
            clip = self._renderer.turn(TurnScript((SegmentScript(key[0]),)), language).clip
            self._spoken[key] = clip.samples.astype(np.float32) / np.float32(32768)
        return self._spoken[key]

    def read(self, text: str, language: str = ENGLISH) -> Reading:
        """The sounds of a text without markup, as the renderer has it said."""
        key = text, language
        if key not in self._readings:
            self._readings[key] = self._read(text, language)
        return self._readings[key]

    def _read(self, text: str, language: str) -> Reading:
        spoken = self._teacher.speak(text.strip(), language, Tone(SPEAKERS[0].tone.variant, 165, 50, 50, 100))
        shift = len(text) - len(text.lstrip())
        starts = [sample for _, sample in spoken.words]
        phones, places, own, before, begun = list[int](), list[int](), set[int](), SILENCE, -1
        for value, sample in _lasting(spoken):
            word = int(np.searchsorted(starts, sample, side="right")) - 1
            at = spoken.words[max(0, word)][0] + shift if spoken.words else 0
            if value not in (SILENCE, before):
                if at != begun:  # "that tea" has one long t, so nothing begins where its second word does
                    own.add(at)
                phones.append(value)
                places.append(at)
            begun, before = at, value
        return Reading(text, tuple(phones), tuple(places), frozenset(own))


def _lasting(spoken: Utterance) -> Iterator[tuple[int, int]]:
    """(class, first sample) of the sounds and silences that are long enough to be labelled in training."""
    known = [(value, at) for name, at in spoken.phones if (value := phone_class(name)) is not None]
    hops = [(at + _HOP // 2) // _HOP for _, at in known] + [-(-len(spoken.samples) // _HOP)]
    return (sound for i, sound in enumerate(known) if hops[i] < hops[i + 1])
