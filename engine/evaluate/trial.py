"""What every group of figures needs: the model's mouth, the teacher, the recogniser, the speaker network, and texts.

Knows how they are loaded, how many sentences each figure takes, and renderings that several figures share. Does not know the figures.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.api import SpokenSegment, Voice
from engine.evaluate import measure
from engine.evaluate.listening import Ear, Heard
from engine.evaluate.measure import Sound
from engine.evaluate.speaking import NO_VOICE, Mouth, Request, Spoken
from engine.evaluate.teaching import Reading, Yardstick
from engine.resample import resample
from engine.train.speaker_net import SpeakerNet

Samples = npt.NDArray[np.float32]

_WORD_BORDER = re.compile(r"(?<=[a-z]) (?=[a-z])")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many sentences, pairs or voices a figure is a share of."""

    plain: int
    german: int
    cut: int
    tags: int  # of each tag
    neighbours: int  # of each wording
    middle: int  # of each style
    unknown: int
    speakers: int
    dialogues: int
    clones: int
    duets: int
    carried: int  # of each style


FULL = Sizes(200, 60, 100, 50, 10, 10, 60, 160, 30, 60, 24, 16)
QUICK = Sizes(24, 6, 10, 6, 1, 2, 8, 16, 4, 8, 3, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """One turn of the model, ready to be measured."""

    spoken: Spoken
    samples: Samples  # at 22,050 Hz
    ends_s: tuple[float, ...]  # where each segment ends

    def part(self, segment: int) -> Samples:
        """Samples of one segment."""
        start = self.ends_s[segment - 1] if segment else 0.0
        return self.samples[round(start * measure.RATE) : round(self.ends_s[segment] * measure.RATE)]


def _silent(segments: int) -> Take:
    """What a rehearsal gives for a turn."""
    spoken = Spoken(_SILENCE, np.zeros((1, 0), np.int16), (0,) * segments)
    return Take(spoken, _SILENCE, (0.0,) * segments)


_SILENCE: Samples = np.zeros(0, np.float32)


@dataclass(slots=True)
class Trial:
    """See the module."""

    mouth: Mouth
    ear: Ear
    voices: SpeakerNet
    teacher: Yardstick
    english: Sequence[str]
    german: Sequence[str]
    sizes: Sizes
    seed: int = 0
    _planned: list[Request] | None = None  # while figures are rehearsed
    _sounds: dict[int, tuple[Samples, Sound]] = field(default_factory=dict)
    _heard: dict[int, tuple[Samples, Heard]] = field(default_factory=dict)
    _voiced: dict[int, tuple[Samples, Samples]] = field(default_factory=dict)

    def some(self, count: int, offset: int = 0) -> list[str]:
        """English texts, spread over all there are; another offset gives others while there are enough."""
        count = min(count, len(self.english))
        step = len(self.english) / max(1, count)
        return [self.english[(int(i * step) + offset) % len(self.english)] for i in range(count)]

    def rng(self, name: str) -> random.Random:
        """Draws that belong to one figure."""
        return random.Random(f"{self.seed}/{name}")

    def say(self, texts: Sequence[str], what: str, *, seed: int = 0) -> list[Take]:
        """Each text as a turn of its own, without voice or history."""
        return self.turns([self.request((text,), seed=seed) for text in texts], what)

    def request(
        self,
        segments: tuple[str, ...],
        voice: Voice = NO_VOICE,
        history: tuple[SpokenSegment, ...] = (),
        seed: int = 0,
    ) -> Request:
        """A turn; its seed depends on the trial's."""
        return Request(segments, voice, history, 1000 * self.seed + seed)

    def turns(self, requests: Sequence[Request], what: str) -> list[Take]:
        """Speak all of them at once."""
        if self._planned is None:
            return [self._take(spoken) for spoken in self.mouth.speak(requests, what)]
        self._planned += [request for request in requests if not request.history]
        return [_silent(len(request.segments)) for request in requests]

    def rehearse(self, groups: Iterable[Callable[[Trial], object]]) -> None:
        """Speak at once what some groups of figures will ask for, so that few rows of a step stay empty.

        The groups are run on silence to see what they ask for; what they learn about the teacher thereby is kept. First turns of
        a history must be spoken before second ones can be asked for, so these have to wait.
        """
        self._planned = []
        for group in groups:
            group(self)
        planned, self._planned = self._planned, None
        self.mouth.speak(planned, "everything that needs no history")

    def _take(self, spoken: Spoken) -> Take:
        info = self.mouth.info
        samples = spoken.samples
        if info.sample_rate != measure.RATE:
            samples = resample(samples, info.sample_rate, measure.RATE)
        return Take(spoken, samples, tuple(end * info.frame_s for end in spoken.ends))

    def sound(self, samples: Samples) -> Sound:
        """Its tracks, measured once."""
        if id(samples) not in self._sounds:
            self._sounds[id(samples)] = (
                samples,
                measure.sound(samples),
            )  # keeps the samples, so that the id stays theirs
        return self._sounds[id(samples)][1]

    def voice(self, samples: Samples) -> Samples:
        """The vector of the voice in a clip, computed once."""
        if id(samples) not in self._voiced:
            self._voiced[id(samples)] = samples, self.voices.voices([samples])[0]
        return self._voiced[id(samples)][1]

    def hear(self, clips: Sequence[Samples]) -> list[Heard]:
        """What the recogniser makes of clips, once for each."""
        new = {id(clip): clip for clip in clips if id(clip) not in self._heard}
        for clip, heard in zip(new.values(), self.ear.hear(list(new.values())), strict=True):
            self._heard[id(clip)] = clip, heard
        return [self._heard[id(clip)][1] for clip in clips]


def middle(reading: Reading) -> int | None:
    """Where a tag can stand in a text: the code point at which the word nearest to the middle begins, with plain words around it.

    The teacher runs some words together ("in the"), or two words share a sound ("that tea"): no border is heard there.
    """
    text = reading.text
    starts = [match.end() for match in _WORD_BORDER.finditer(text)]
    inside = [at for at in starts if at in reading.borders and 8 <= at <= len(text) - 8]
    return min(inside, key=lambda at: abs(at - len(text) / 2), default=None)
