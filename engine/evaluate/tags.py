"""Figures about tags: every tag moves its quantity against the untagged rendering, from where it stands, and nothing else does."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from engine.evaluate import measure
from engine.evaluate.listening import Heard, border, places
from engine.evaluate.measure import Sound
from engine.evaluate.report import Row, share
from engine.evaluate.styles import ACTS, HOLDS, SIMPLE, STYLES, move, moved, quantity
from engine.evaluate.teaching import Reading
from engine.evaluate.trial import Samples, Take, Trial, middle
from engine.train.script import Phrase
from engine.train.styles import PAUSES_S, SPEAKERS, Style, free_form_tags

TAG_TARGET = 0.95
NEIGHBOUR_TARGET = 0.80
_LONGER_S = 0.25  # of silence where [pause] stands; the teacher makes 0.6 s
_MARGIN = 2  # sounds on either side of the tag within which the silence must lie
_PROMINENT = (
    3.0,
    3.0,
    0.4,
)  # dB, semitones and octaves of duration that weigh the same; about what the teacher gives each
_VOICE = SPEAKERS[0]


def rows(trial: Trial) -> dict[str, list[Row]]:
    """Every tag, their neighbours, and where they act."""
    texts = trial.some(trial.sizes.tags)
    tags = [_style_row(trial, style, texts) for style in STYLES]
    tags += [_normal(trial), _pause(trial), _emphasis(trial)]
    return {
        "Tags, against the untagged sentence": tags,
        "Free-form neighbours of tags, never trained on": _neighbours(trial),
        "A tag in the middle": _middle(trial),
    }


def key(words: str) -> str:
    """A name for the JSON."""
    return re.sub(r"[^a-z]+", "_", words.lower())


def _style_row(trial: Trial, style: Style, texts: Sequence[str]) -> Row:
    plain = trial.say(texts, "untagged")
    tagged = trial.say([f"[{style.value}] {text}" for text in texts], f"[{style.value}]")
    acted = [
        move(trial, style, text, t.samples, p.samples) >= ACTS for text, t, p in zip(texts, tagged, plain, strict=True)
    ]
    taught = [_teacher_moves(trial, style, text) for text in texts]
    return share(f"tag_{key(style.value)}", f"[{style.value}]", acted, TAG_TARGET, taught)


def _teacher_moves(trial: Trial, style: Style, text: str) -> bool:
    """Whether the measure sees what the teacher does, on another scale than its own: that of the text before this one."""
    scale = trial.english[trial.english.index(text) - 1]
    whole = [quantity(style, trial.sound(trial.teacher.say(scale, style=s))) for s in (style, Style.NORMAL)]
    sounds = [trial.sound(trial.teacher.say(text, style=s)) for s in (style, Style.NORMAL)]
    return moved(style, sounds[0], sounds[1], whole[0] - whole[1]) >= ACTS


def _neighbours(trial: Trial) -> list[Row]:
    found, everything = [], []
    wordings = [(style, words) for style in STYLES for words in free_form_tags(style)]
    for number, (style, words) in enumerate(wordings):
        texts = trial.some(trial.sizes.neighbours, number)
        plain = trial.say(texts, "untagged")
        tagged = trial.say([f"[{words}] {text}" for text in texts], f"[{words}]")
        acted = [
            move(trial, style, text, t.samples, p.samples) >= ACTS
            for text, t, p in zip(texts, tagged, plain, strict=True)
        ]
        everything += acted
        found.append(share(f"neighbour_{key(words)}", f"[{words}]", acted, NEIGHBOUR_TARGET))
    return [*found, share("neighbours", "all of them", everything, NEIGHBOUR_TARGET)]


class _Split:
    """A text in two parts, and the sounds of each part in a rendering of it."""

    def __init__(self, trial: Trial, text: str, at: int) -> None:
        self._trial, self.text, self._at = trial, text, at
        self.first, self.rest = text[:at].rstrip(), text[at:]

    def tagged(self, tag: str, before: str = "") -> str:
        """With a tag between the parts, and one before both."""
        return f"{before}{self.first} {tag} {self.rest}"

    def phrases(self, first: Style, rest: Style, pause_s: float = 0.0) -> tuple[Phrase, ...]:
        """For the teacher."""
        return Phrase("", self.first, _VOICE, first), Phrase(" ", self.rest, _VOICE, rest, pause_s)

    def parts(self, samples: Samples) -> tuple[Sound, Sound]:
        """Before and after the border."""
        end, start = self.border(samples)
        cut, whole = (end + start) / 2, self._trial.sound(samples)
        return whole.part(0.0, cut), whole.part(cut, whole.seconds)

    def border(self, samples: Samples, margin: int = 0) -> tuple[float, float]:
        """Seconds: the end of the last sound before, and the start of the first one after; see listening.border."""
        if not len(samples):
            return 0.0, 0.0
        return border(self._trial.hear([samples])[0], self._trial.teacher.read(self.text), self._at, margin)

    def moves(self, style: Style, samples: Samples, plain: Samples) -> tuple[float, float]:
        """How far each part is from the plain rendering's, as `styles.move` has it."""
        teacher, out = self._trial.teacher, []
        taught = [self.parts(teacher.say(self.text, _VOICE, s)) for s in (style, Style.NORMAL)]
        own, usual = self.parts(samples), self.parts(plain)
        for part in (0, 1):
            whole = quantity(style, taught[0][part]) - quantity(style, taught[1][part])
            out.append(moved(style, own[part], usual[part], whole))
        return out[0], out[1]


def _splits(trial: Trial, count: int, offset: int) -> list[_Split]:
    texts = [(text, middle(trial.teacher.read(text))) for text in trial.some(count, offset)]
    return [_Split(trial, text, at) for text, at in texts if at is not None]


def _plain(trial: Trial, splits: Sequence[_Split]) -> list[Take]:
    return trial.say([split.text for split in splits], "untagged")


def _middle(trial: Trial) -> list[Row]:
    """From there on, and not before."""
    after: list[bool] = []
    before: list[bool] = []
    taught: list[bool] = []
    for number, style in enumerate(SIMPLE):
        splits = _splits(trial, trial.sizes.middle, number)
        takes = trial.say([split.tagged(f"[{style.value}]") for split in splits], f"[{style.value}] in the middle")
        for split, take, plain in zip(splits, takes, _plain(trial, splits), strict=True):
            first, rest = split.moves(style, take.samples, plain.samples)
            before.append(first < HOLDS)
            after.append(rest >= ACTS)
            own = split.moves(
                style, trial.teacher.render(split.phrases(Style.NORMAL, style)), trial.teacher.say(split.text)
            )
            taught.append(own[0] < HOLDS and own[1] >= ACTS)
    both = [a and b for a, b in zip(after, before, strict=True)]
    return [
        share("middle_tag", "acts from there on and not before", both, TAG_TARGET, taught),
        share("middle_tag_acts_after", "  acts after", after, None),
        share("middle_tag_not_before", "  leaves what is before as it was", before, None),
    ]


def _normal(trial: Trial) -> Row:
    """After a style, [normal] brings the plain delivery back."""
    splits = _splits(trial, trial.sizes.tags, 1)
    styles = [SIMPLE[i % len(SIMPLE)] for i in range(len(splits))]
    texts = [split.tagged("[normal]", f"[{style.value}] ") for split, style in zip(splits, styles, strict=True)]
    acted, taught = [], []
    takes = trial.say(texts, "[normal]")
    for split, style, take, plain in zip(splits, styles, takes, _plain(trial, splits), strict=True):
        first, rest = split.moves(style, take.samples, plain.samples)
        acted.append(first >= ACTS and rest < HOLDS)
        own = trial.teacher.render(split.phrases(style, Style.NORMAL))
        first, rest = split.moves(style, own, trial.teacher.say(split.text))
        taught.append(first >= ACTS and rest < HOLDS)
    return share("tag_normal", "[normal] after another style", acted, TAG_TARGET, taught)


def _pause(trial: Trial) -> Row:
    """Silence where the tag stands, longer than the untagged sentence has there."""
    splits = _splits(trial, trial.sizes.tags, 2)
    takes = trial.say([split.tagged("[pause]") for split in splits], "[pause]")

    def longer(split: _Split, paused: Samples, plain: Samples) -> bool:
        here = [silence_near(trial.sound(s), split.border(s, _MARGIN)) for s in (paused, plain)]
        return here[0] - here[1] >= _LONGER_S

    acted, taught = [], []
    for split, take, plain in zip(splits, takes, _plain(trial, splits), strict=True):
        acted.append(longer(split, take.samples, plain.samples))
        own = trial.teacher.render(split.phrases(Style.NORMAL, Style.NORMAL, PAUSES_S["pause"]))
        taught.append(longer(split, own, trial.teacher.say(split.text)))
    return share("tag_pause", "[pause], silence where it stands", acted, TAG_TARGET, taught)


def silence_near(heard: Sound, place: tuple[float, float]) -> float:
    """Seconds of the longest silence if its middle lies within `place` (seconds), else 0."""
    seconds, at = measure.longest_pause(heard)
    return seconds if place[0] <= at <= place[1] else 0.0


def _emphasis(trial: Trial) -> Row:
    """The word after the tag stands out more than without it: louder, higher, longer than the rest of its sentence."""
    chosen = [(text, _word(trial.teacher.read(text))) for text in trial.some(trial.sizes.tags, 4)]
    words = [(text, word) for text, word in chosen if word is not None]
    phrases = [Phrase("", text, _VOICE, Style.NORMAL, stressed=word) for text, word in words]
    takes = trial.say([phrase.visible for phrase in phrases], "[emphasis]")
    plain = trial.say([text for text, _ in words], "untagged")
    acted, taught = [], []
    for phrase, (text, word), take, usual in zip(phrases, words, takes, plain, strict=True):
        reading, at = trial.teacher.read(text), list(re.finditer(r"\S+", text))[word].start()
        scores = [_prominence(trial, s, reading, at) for s in (take.samples, usual.samples)]
        own = [_prominence(trial, s, reading, at) for s in (trial.teacher.render((phrase,)), trial.teacher.say(text))]
        acted.append(scores[0] > scores[1])
        taught.append(own[0] > own[1])
    return share("tag_emphasis", "[emphasis], on the word after it", acted, TAG_TARGET, taught)


def _word(reading: Reading) -> int | None:
    """Which word to stress: a plain, longish one, not at an end."""
    words = list(re.finditer(r"\S+", reading.text))
    fit = [
        i
        for i in range(1, len(words) - 1)
        if re.fullmatch(r"[a-z]{4,}", words[i][0]) and words[i].start() in reading.at
    ]
    return max(fit, key=lambda i: len(words[i][0]), default=None)


def _prominence(trial: Trial, samples: Samples, reading: Reading, char: int) -> float:
    if not len(samples):
        return 0.0
    return prominence(trial.sound(samples), trial.hear([samples])[0], reading, char)


def prominence(heard: Sound, recognised: Heard, reading: Reading, char: int) -> float:
    """How far a word stands out, in weights of `_PROMINENT`. char: the code point at which it begins."""
    found = places(recognised, reading.phones)
    inside = [i for i, at in enumerate(reading.at) if at == char]
    if not inside:
        return 0.0
    before = found[inside[0] - 1][1] if inside[0] else found[0][0]
    after = found[inside[-1] + 1][0] if inside[-1] + 1 < len(found) else found[-1][1]
    start, end = (before + found[inside[0]][0]) / 2, (found[inside[-1]][1] + after) / 2
    word, rest = heard.part(start, end), _without(heard, start, end)
    pitches = measure.semitones(word), measure.semitones(rest)
    higher = pitches[0] - pitches[1] if all(pitches) else 0.0
    louder = measure.loudness(word) - measure.loudness(rest)
    longer = np.log2(max(0.05, end - start))
    return float(louder / _PROMINENT[0] + higher / _PROMINENT[1] + longer / _PROMINENT[2])


def _without(heard: Sound, start_s: float, end_s: float) -> Sound:
    a, b = heard.part(0.0, start_s), heard.part(end_s, heard.seconds)
    return Sound(
        np.concatenate((a.level, b.level)), np.concatenate((a.pitch, b.pitch)), np.concatenate((a.speech, b.speech))
    )
