"""Figures about who speaks: the eight speakers, two of them in one turn, and voices cloned from a recording."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.api import Reference, Voice
from engine.evaluate import measure
from engine.evaluate.listening import border
from engine.evaluate.report import Row, share
from engine.evaluate.styles import ACTS, HOLDS, move
from engine.evaluate.trial import Samples, Take, Trial
from engine.train.script import Phrase
from engine.train.styles import SPEAKERS, Speaker, Style, random_speaker

SPEAKER_TARGET = 0.97
CLONE_TARGET = 0.90
TAG_TARGET = 0.95
REFERENCE_S = 10.0
_TWIN = 0.9  # likeness from which on two voices of the teacher cannot be told apart by a copy of either
# What one speaker of a dialogue is asked for, and the other: styles that leave the voice what it is.
_CASTS = (
    (Style.SLOW, Style.NORMAL),
    (Style.NORMAL, Style.FAST),
    (Style.FAST, Style.SLOW),
    (Style.LOUD, Style.NORMAL),
    (Style.SOFT, Style.LOUD),
)

_LINES = 3  # of a dialogue

Vectors = npt.NDArray[np.float32]


def rows(trial: Trial) -> dict[str, list[Row]]:
    """Speakers and cloning."""
    return {
        "Speakers": [*_speakers(trial), *_dialogues(trial)],
        "Cloning from a recording of an unseen voice": [_clones(trial), _duets(trial)],
    }


def _speakers(trial: Trial) -> list[Row]:
    texts = trial.some(trial.sizes.speakers)
    wanted = [i % len(SPEAKERS) for i in range(len(texts))]
    takes = trial.say([f"<|speaker:{i}|>{text}" for i, text in zip(wanted, texts, strict=True)], "eight speakers")
    taught = [trial.teacher.say(text, SPEAKERS[i]) for i, text in zip(wanted, texts, strict=True)]
    found, own = (trial.voices.speakers(clips) for clips in ([take.samples for take in takes], taught))
    right = [a == b for a, b in zip(found, wanted, strict=True)]
    taught_right = [a == b for a, b in zip(own, wanted, strict=True)]
    total = share("speaker_accuracy", "right one of eight", right, SPEAKER_TARGET, taught_right)
    each = [
        share(f"speaker_{s}", f"  <|speaker:{s}|>", [r for r, i in zip(right, wanted, strict=True) if i == s], None)
        for s in range(len(SPEAKERS))
    ]
    return [total, *each]


@dataclass(frozen=True, slots=True)
class _Line:
    """One segment of a dialogue."""

    speaker: int
    style: Style
    text: str

    @property
    def shown(self) -> str:
        tag = "" if self.style is Style.NORMAL else f"[{self.style.value}] "
        return f"<|speaker:{self.speaker}|>{tag}{self.text}"


def _dialogues(trial: Trial) -> list[Row]:
    """Two speakers, three lines, each speaker with a style of its own or none, in one turn; every other one in a single segment."""
    dialogues = [_dialogue(trial, number) for number in range(trial.sizes.dialogues)]
    segments = [
        (" ".join(line.shown for line in lines),) if number % 2 else tuple(line.shown for line in lines)
        for number, lines in enumerate(dialogues)
    ]
    takes = trial.turns([trial.request(shown) for shown in segments], "two speakers in one turn")
    parts = [part for lines, take in zip(dialogues, takes, strict=True) for part in _parts(trial, lines, take)]
    plain = trial.say([f"<|speaker:{line.speaker}|>{line.text}" for line, _ in parts], "the same lines alone")
    taught = [trial.teacher.say(line.text, SPEAKERS[line.speaker], line.style) for line, _ in parts]
    found = trial.voices.speakers([samples for _, samples in parts])
    own = trial.voices.speakers(taught)
    named = [i == line.speaker for i, (line, _) in zip(found, parts, strict=True)]
    named_taught = [i == line.speaker for i, (line, _) in zip(own, parts, strict=True)]
    kept = [_keeps(trial, line, samples, usual.samples) for (line, samples), usual in zip(parts, plain, strict=True)]
    kept_taught = [
        _keeps(trial, line, samples, trial.teacher.say(line.text, SPEAKERS[line.speaker]))
        for (line, _), samples in zip(parts, taught, strict=True)
    ]
    joined = [i for i in range(len(parts)) if i // _LINES % 2]  # of the dialogues that are one segment
    return [
        share("dialogue_speaker", "two in one turn: right speaker, by line", named, SPEAKER_TARGET, named_taught),
        share("dialogue_speaker_joined", "  where all lines are one segment", [named[i] for i in joined], None),
        share("dialogue_tags", "two in one turn: each its own tag, by line", kept, TAG_TARGET, kept_taught),
        share("dialogue_tags_joined", "  where all lines are one segment", [kept[i] for i in joined], None),
    ]


def _dialogue(trial: Trial, number: int) -> list[_Line]:
    rng = trial.rng(f"dialogue {number}")
    texts = [text for text in trial.english if len(text) < 70] or list(trial.english)
    one, other = rng.sample(range(len(SPEAKERS)), 2)
    styles = _CASTS[number % len(_CASTS)]
    cast = [(one, styles[0]), (other, styles[1]), (one, styles[0])]
    assert len(cast) == _LINES
    return [_Line(who, style, rng.choice(texts)) for who, style in cast]


def _parts(trial: Trial, lines: Sequence[_Line], take: Take) -> list[tuple[_Line, Samples]]:
    """Each line's samples: of its segment, or, where all are one segment, from border to border as the recogniser finds them."""
    if len(take.ends_s) == len(lines):
        return [(line, take.part(i)) for i, line in enumerate(lines)]
    if not len(take.samples):
        return [(line, take.samples) for line in lines]
    reading = trial.teacher.read(" ".join(line.text for line in lines))
    heard, char, cuts = trial.hear([take.samples])[0], 0, [0]
    for line in lines[:-1]:
        char += len(line.text) + 1
        cuts.append(round(sum(border(heard, reading, char)) / 2 * measure.RATE))
    cuts.append(len(take.samples))
    return [(line, take.samples[cuts[i] : cuts[i + 1]]) for i, line in enumerate(lines)]


def _keeps(trial: Trial, line: _Line, samples: Samples, plain: Samples) -> bool:
    """The line's own style acts; a line without one has none of those that others have."""
    speaker = SPEAKERS[line.speaker]
    if line.style is not Style.NORMAL:
        return move(trial, line.style, line.text, samples, plain, speaker) >= ACTS
    others = (Style.SLOW, Style.FAST, Style.LOUD, Style.SOFT)
    return all(move(trial, style, line.text, samples, plain, speaker) < HOLDS for style in others)


def _clones(trial: Trial) -> Row:
    """Nearer to the voice of the recording than to each of the eight, all of them saying the same."""
    rng = trial.rng("clones")
    texts = trial.some(trial.sizes.clones, 5)
    strangers = [_stranger(trial, rng, text) for text in texts]
    recordings = [_recording(trial, rng, [speaker], REFERENCE_S) for speaker in strangers]
    voices = [_voice(trial, f"clone-{i}", *recording) for i, recording in enumerate(recordings)]
    takes = trial.turns(
        [trial.request((text,), voice) for text, voice in zip(texts, voices, strict=True)], "cloned voices"
    )
    near, taught = [], []
    for text, speaker, take, (_, recording) in zip(texts, strangers, takes, recordings, strict=True):
        said = _said_by(trial, text, [speaker, *SPEAKERS])
        near.append(_nearest_is_first(trial, take, said))
        taught.append(int((said @ trial.voice(recording)).argmax()) == 0)
    return share("clone", "one recording of 10 s: nearer to it than to the eight", near, CLONE_TARGET, taught)


def _stranger(trial: Trial, rng: random.Random, text: str) -> Speaker:
    """An unseen voice. Some are one of the eight by another name, a little faster; being nearest to those would say nothing."""
    for _ in range(20):
        speaker = random_speaker(rng, held_out=True)
        own, *others = _said_by(trial, text, [speaker, *SPEAKERS])
        if max(float(own @ other) for other in others) < _TWIN:
            break
    return speaker


def _duets(trial: Trial) -> Row:
    """One recording in which two speak: each token brings its own one back."""
    rng = trial.rng("duets")
    texts = trial.some(2 * trial.sizes.duets, 6)
    casts = [[_stranger(trial, rng, text) for _ in range(2)] for text in texts[::2]]
    recordings = [_recording(trial, rng, cast, REFERENCE_S / 2) for cast in casts]
    voices = [_voice(trial, f"duet-{i}", *recording) for i, recording in enumerate(recordings)]
    requests = [
        trial.request((f"<|speaker:{i % 2}|>{text}",), voices[i // 2])
        for i, text in enumerate(texts[: 2 * len(voices)])
    ]
    takes = trial.turns(requests, "two voices of one recording")
    near = []
    for i, (text, take) in enumerate(zip(texts, takes, strict=False)):
        own, other = casts[i // 2][i % 2], casts[i // 2][1 - i % 2]
        near.append(_nearest_is_first(trial, take, _said_by(trial, text, [own, other, *SPEAKERS])))
    return share("clone_two_speakers", "one recording of two: nearer to its own one", near, CLONE_TARGET)


def _recording(trial: Trial, rng: random.Random, speakers: Sequence[Speaker], seconds: float) -> tuple[str, Samples]:
    """(transcript, samples): each speaker in turn for so long, with tokens where there are several."""
    phrases = []
    for i, speaker in enumerate(speakers):
        said, length = "", 0
        while length < seconds * measure.RATE:
            said = f"{said} {rng.choice(trial.english)}".strip()
            length = len(trial.teacher.say(said, speaker))
        several = len(speakers) > 1
        phrases.append(
            Phrase(f"<|speaker:{i}|>" if several else "", said + ("\n" if several else ""), speaker, Style.NORMAL)
        )
    return "".join(phrase.visible for phrase in phrases).strip(), trial.teacher.render(phrases)


def _voice(trial: Trial, name: str, transcript: str, samples: Samples) -> Voice:
    return Voice(name, (Reference(transcript, trial.mouth.encode(samples, measure.RATE)),))


def _said_by(trial: Trial, text: str, speakers: Sequence[Speaker]) -> Vectors:
    return np.stack([trial.voice(trial.teacher.say(text, speaker)) for speaker in speakers])


def _nearest_is_first(trial: Trial, take: Take, candidates: Vectors) -> bool:
    if not len(take.samples):
        return False
    return int((candidates @ trial.voice(take.samples)).argmax()) == 0
