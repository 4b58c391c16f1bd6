"""How well a checkpoint's chosen heads know when a word begins: `python -m engine.evaluate.word_times mini`.

Twice: forced, where the model is given the teacher's own recording, encoded, and the teacher's events say where words begin; and free,
where it speaks by itself and the recogniser's forced alignment says so. The recogniser is measured on the teacher's recordings as well,
since it is no more than a second opinion. Does not know what is made of word times.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from engine.align import all_looks, speak
from engine.evaluate.listening import Ear, places
from engine.evaluate.teaching import ENGLISH, GERMAN, Reading, Yardstick
from engine.following import Follower
from engine.hub import resolve
from engine.load import Loaded, load_model
from engine.train.render import Renderer
from engine.train.script import Phrase
from engine.train.styles import SPEAKERS, Style
from engine.train.teacher import Teacher

MEDIAN_MS, P90_MS = 80.0, 150.0  # targets
_HERE = Path(__file__).parent
_STYLES = (Style.NORMAL, Style.NORMAL, Style.SLOW, Style.FAST)

_WORD = re.compile(r"(?<=\s)[^\W_]")  # first letter or digit of a word behind a blank

Samples = npt.NDArray[np.float32]
Times = dict[int, float]  # code point at which a word begins -> ms


@dataclass(frozen=True, slots=True)
class Sentence:
    """What is said, and how."""

    text: str
    language: str
    speaker: int
    style: Style

    @property
    def markup(self) -> str:
        """What stands in front of the text in the prompt."""
        tag = "" if self.style is Style.NORMAL else f"[{self.style.value}] "
        return f"<|speaker:{self.speaker}|>{tag}"


@dataclass(frozen=True, slots=True)
class Errors:
    """Of word beginnings, without the first of a sentence, which is no border."""

    ms: npt.NDArray[np.float64]  # told minus true

    @property
    def median_ms(self) -> float:
        return float(np.median(np.abs(self.ms)))

    @property
    def p90_ms(self) -> float:
        return float(np.quantile(np.abs(self.ms), 0.9))

    def row(self, name: str) -> str:
        """One line of the report."""
        bias = float(np.median(self.ms))
        worst = float(np.quantile(np.abs(self.ms), 0.99))
        return f"{name:<46}{len(self.ms):6d}{bias:+8.0f}{self.median_ms:8.0f}{self.p90_ms:8.0f}{worst:8.0f}"


def begins(places_at: Sequence[int], char: int) -> float:
    """When the text from a code point on begins to be spoken, in frames, if frame i speaks `places_at[i]`.

    It is between the last frame that is before it and the next one, in proportion to how far either is away.
    """
    before = [i for i, at in enumerate(places_at) if at < char]
    if not before:
        return 0.0
    last = before[-1]
    if last + 1 == len(places_at):
        return float(len(places_at))
    share = (char - places_at[last]) / (places_at[last + 1] - places_at[last])
    return last + 0.5 + share


def sentences(count: int, seed: int = 0) -> list[Sentence]:
    """Three English ones to a German one, in all voices; half of them slow or fast."""
    rng, out = random.Random(seed), list[Sentence]()
    lists = {
        language: (_HERE / f"sentences_{name}.txt").read_text(encoding="utf-8").splitlines()
        for language, name in ((ENGLISH, "en"), (GERMAN, "de"))
    }
    for number in range(count):
        language = GERMAN if number % 4 == 3 else ENGLISH
        text = rng.choice([line for line in lists[language] if line and not line.startswith("#")]).strip()
        out.append(Sentence(text, language, number % len(SPEAKERS), _STYLES[number % len(_STYLES)]))
    return out


class Measurement:
    """Everything needed to compare word times."""

    def __init__(self, loaded: Loaded, data: Path | None = None) -> None:
        """data: folder that holds espeak-ng-data, where the system has none."""
        self._loaded = loaded
        self._frame_ms = loaded.info.frame_s * 1000
        self._renderer = Renderer(Teacher(data), random.Random(0))
        self._yardstick = Yardstick(data)
        self._ear = Ear(_HERE / "recognizer.pt", torch.device("cpu"))

    def forced(self, chosen: Sequence[Sentence]) -> tuple[Errors, Errors]:
        """Errors of the heads, and of the recogniser, against the teacher's events."""
        heads, ear = list[float](), list[float]()
        for sentence in chosen:
            samples, true = self._taught(sentence)
            told = self._read_off(sentence, samples)
            heads += [told[char] - ms for char, ms in true.items()]
            heard = self._heard(sentence, samples)
            ear += [heard[char] - ms for char, ms in true.items() if char in heard]
        return Errors(np.array(heads)), Errors(np.array(ear))

    def free(self, chosen: Sequence[Sentence]) -> Errors:
        """Differences between the heads, while the model speaks, and the recogniser."""
        turns = speak(self._loaded, [sentence.markup + sentence.text for sentence in chosen])
        out = list[float]()
        for sentence, frames in zip(chosen, turns, strict=True):
            if not frames:
                continue
            at = [frame.text_at for frame in frames]
            told = self._told(sentence, [place for place in at if place is not None])
            heard = self._heard(sentence, np.concatenate([frame.samples for frame in frames]))
            out += [told[char] - ms for char, ms in heard.items() if char in told]
        return Errors(np.array(out))

    def _taught(self, sentence: Sentence) -> tuple[Samples, Times]:
        phrase = Phrase("", sentence.text, SPEAKERS[sentence.speaker], sentence.style)
        clip, words = self._renderer.timed(phrase, sentence.language)
        times: Times = {}
        begun = {match.start() for match in _WORD.finditer(sentence.text)}
        for char, sample in words:
            if char in begun:  # it tells of the ends of clauses, too, and of parts of numbers
                times.setdefault(char, sample * 1000 / self._loaded.info.sample_rate)
        return clip.samples.astype(np.float32) / np.float32(32768), times

    @torch.inference_mode()
    def _read_off(self, sentence: Sentence, samples: Samples) -> Times:
        """The heads' times for a recording that is fed to the model."""
        loaded = self._loaded
        assert loaded.heads is not None, "without chosen heads there is nothing to measure"
        device = loaded.model.device
        codes = (
            loaded.codec.to(device).encode(torch.from_numpy(samples)[None].to(device))[0].cpu().numpy().astype(np.int16)
        )
        text = sentence.markup + sentence.text
        looks = all_looks(loaded, text, codes)
        numbers = [head.layer * loaded.model.config.slow.n_head + head.head for head in loaded.heads.heads]
        follower = Follower(loaded.prompts.text_starts(text)[1])
        return self._told(sentence, [follower.step(look) for look in looks[numbers].mean(0)])

    def _told(self, sentence: Sentence, at: Sequence[int]) -> Times:
        shift = len(sentence.markup)
        return {char: begins(at, char + shift) * self._frame_ms for char in range(1, len(sentence.text))}

    def _heard(self, sentence: Sentence, samples: Samples) -> Times:
        """Where the recogniser finds the words that begin with a sound of their own."""
        reading: Reading = self._yardstick.read(sentence.text, sentence.language)
        heard = self._ear.hear([samples])[0]
        times: Times = {}
        for char, (start, _) in zip(reading.at, places(heard, reading.phones), strict=True):
            if char in reading.borders and char > 0:
                times.setdefault(char, start * 1000)
        return times


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where a target is missed, 2 where no heads are chosen."""
    parser = argparse.ArgumentParser(
        "python -m engine.evaluate.word_times", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("checkpoint", nargs="?", default="mini", help="mini, or a folder with alignment.json")
    parser.add_argument("--sentences", type=int, default=80, help="of each kind (default 80)")
    parser.add_argument("--device", default="auto", help="of torch; auto: a GPU where there is one")
    parser.add_argument("--espeak-data", type=Path, help="folder that holds espeak-ng-data, where the system has none")
    options = parser.parse_args(arguments)
    loaded = load_model(resolve(options.checkpoint).folder, options.checkpoint, options.device, "auto", None)
    if loaded.heads is None:
        print("no heads are chosen: python -m engine.align", options.checkpoint, file=sys.stderr)
        return 2
    measurement = Measurement(loaded, options.espeak_data)
    chosen = sentences(options.sentences)
    forced, ear = measurement.forced(chosen)
    free = measurement.free(chosen)
    print(f"{'word beginnings, ms':<46}{'words':>6}{'bias':>8}{'median':>8}{'p90':>8}{'p99':>8}")
    print(forced.row("forced: heads against the teacher's events"))
    print(ear.row("        recogniser against the same"))
    print(free.row("free:   heads against the recogniser"))
    missed = [e for e in (forced, free) if e.median_ms > MEDIAN_MS or e.p90_ms > P90_MS]
    kinds = {"forced": forced, "free": free}
    print(json.dumps({name: {"median_ms": round(e.median_ms), "p90_ms": round(e.p90_ms)} for name, e in kinds.items()}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
