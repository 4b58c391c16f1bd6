"""Figures about words: are they all there, are they right, and does a turn end where its text does?"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from engine.api import Samples
from engine.evaluate.listening import Heard, has_last_word
from engine.evaluate.report import Row, share
from engine.evaluate.teaching import ENGLISH, GERMAN, Reading
from engine.evaluate.trial import Take, Trial
from engine.evaluate.warp import Spectra, nearest
from engine.train.recognizer import edit_distance, error_rate
from engine.train.styles import SPEAKERS

WORSE_THAN_TEACHER = 0.05
GERMAN_WORSE = 0.10
_UNKNOWN_TAGS = (
    "sarcastic",
    "clears throat",
    "with a British accent",
    "angry",
    "bewildered and slightly out of breath",
    "as if reading a bedtime story",
    "footsteps",
    "laughing",
    "sternly",
    "pirate",
    "applause",
    "mysterious",
)


def rows(trial: Trial) -> dict[str, list[Row]]:
    """Intelligibility and endings."""
    texts = trial.some(trial.sizes.plain)
    takes = trial.say(texts, "plain sentences")
    readings = [trial.teacher.read(text) for text in texts]
    heard = trial.hear([take.samples for take in takes])
    taught = [trial.teacher.say(text) for text in texts]
    taught_heard = trial.hear(taught)
    rate, teacher_rate = _error_rate(heard, readings), _error_rate(taught_heard, readings)
    clear = [
        Row(
            "phoneme_error_rate", "phoneme error rate", rate, teacher_rate + WORSE_THAN_TEACHER, True, teacher_rate,
            len(texts),
        ),
        Row("teacher_phoneme_error_rate", "  the teacher's own", teacher_rate, count=len(texts)),
        _retrieval(trial, texts, takes),
    ]  # fmt: skip
    return {
        "Intelligibility": [*clear, *_speakers_clear(trial), *_german(trial)],
        "Endings": _endings(takes, taught, heard, taught_heard, readings),
        **_cut_in_two(trial),
        "Unknown tags": [_unknown(trial)],
    }


def _error_rate(heard: Sequence[Heard], readings: Sequence[Reading]) -> float:
    return error_rate([h.phones for h in heard], [reading.phones for reading in readings])


def _retrieval(trial: Trial, texts: Sequence[str], takes: Sequence[Take]) -> Row:
    """All sentences are candidates, also where only some are spoken."""
    spectra = Spectra()
    candidates = [spectra(trial.teacher.say(text)) for text in trial.english]
    found = nearest([spectra(take.samples) for take in takes], candidates)
    right = [trial.english[i] == text for i, text in zip(found, texts, strict=True)]
    return share("retrieval_top1", f"right sentence nearest of {len(candidates)}", right, 0.99)


def _speakers_clear(trial: Trial) -> list[Row]:
    """The same in the eight voices, in turn; reported, since the target is for the model's own voice."""
    texts = trial.some(trial.sizes.speakers)
    takes = trial.say([f"<|speaker:{i % 8}|>{text}" for i, text in enumerate(texts)], "eight speakers")
    taught = [trial.teacher.say(text, SPEAKERS[i % 8]) for i, text in enumerate(texts)]
    readings = [trial.teacher.read(text) for text in texts]
    rates = [_error_rate(trial.hear(clips), readings) for clips in ([t.samples for t in takes], taught)]
    title = "phoneme error rate, eight speakers"
    return [Row("phoneme_error_rate_speakers", title, rates[0], teacher=rates[1], count=len(texts))]


def _german(trial: Trial) -> list[Row]:
    texts = trial.german[: trial.sizes.german]
    takes = trial.say(texts, "German")
    taught = [trial.teacher.say(text, language=GERMAN) for text in texts]
    readings = [trial.teacher.read(text, GERMAN) for text in texts]
    rate, own = (_error_rate(trial.hear(clips), readings) for clips in ([t.samples for t in takes], taught))
    title = "phoneme error rate, German"
    return [
        Row("german_phoneme_error_rate", title, rate, own + GERMAN_WORSE, True, own, len(texts)),
        Row("german_teacher_phoneme_error_rate", "  the teacher's own", own, count=len(texts)),
    ]


def _endings(
    takes: Sequence[Take],
    taught: Sequence[Samples],
    heard: Sequence[Heard],
    taught_heard: Sequence[Heard],
    readings: Sequence[Reading],
) -> list[Row]:
    ratios = [len(take.samples) / len(own) for take, own in zip(takes, taught, strict=True)]
    last = [has_last_word(h, reading) for h, reading in zip(heard, readings, strict=True)]
    taught_last = [has_last_word(h, reading) for h, reading in zip(taught_heard, readings, strict=True)]
    return [
        share("duration_in_range", "0.6 to 1.6 of the teacher's length", [0.6 < r < 1.6 for r in ratios], 0.99),
        share("last_word_recognised", "last word recognised", last, 0.97, taught_last),
        share("ended_by_itself", "ended by the model, not by the engine", [t.spoken.cut is None for t in takes], None),
    ]


def _cut_in_two(trial: Trial) -> dict[str, list[Row]]:
    """A server speaks the first words before it knows the rest: a segment that stops in mid-sentence, of three to twelve words."""
    cuts = openings(trial.english, trial.sizes.cut)
    if not cuts:
        return {}
    takes = trial.turns([trial.request((text[:at], text[at:])) for text, at in cuts], "sentences cut in two")
    taught = [trial.teacher.say(text[:at]) for text, at in cuts]
    readings = [trial.teacher.read(text) for text, _ in cuts]
    whole = [trial.teacher.say(text) for text, _ in cuts]
    rate, own = (_error_rate(trial.hear(clips), readings) for clips in ([take.samples for take in takes], whole))
    ratios = [len(take.part(0)) / len(clip) for take, clip in zip(takes, taught, strict=True)]
    kept = [0.6 < ratio < 1.6 and take.spoken.cut is None for ratio, take in zip(ratios, takes, strict=True)]
    title = "phoneme error rate, cut in two"
    return {
        "Sentences cut in two": [
            share("opening_duration_in_range", "opening 0.6 to 1.6 of the teacher's", kept, 0.97),
            Row("cut_phoneme_error_rate", title, rate, own + WORSE_THAN_TEACHER, True, own, len(cuts)),
        ]
    }


def openings(texts: Sequence[str], count: int) -> list[tuple[str, int]]:
    """(text, code point of the cut, before a space): openings of 3 to 12 words in turn, without signs between them.

    At most `count`; fewer where the texts begin otherwise.
    """
    found: list[tuple[str, int]] = []
    left = list(texts)
    for words in itertools.cycle(range(3, 13)):
        if len(found) == count or not left:
            break
        pattern = re.compile(rf"(?:[\w'-]+ ){{{words - 1}}}[\w'-]+(?= [\w'-]+)")
        match, text = next(((m, text) for text in left if (m := pattern.match(text))), (None, left[0]))
        left.remove(text)
        if match:
            found.append((text, match.end()))
    return found


def _unknown(trial: Trial) -> Row:
    """A tag that asks for nothing the model knows is not read out: what is heard is nearer to the text than to tag and text."""
    rng = trial.rng("unknown tags")
    texts = trial.some(trial.sizes.unknown, 3)
    tags = [_UNKNOWN_TAGS[i % len(_UNKNOWN_TAGS)] for i in range(len(texts))]
    tagged = []
    for text, tag in zip(texts, tags, strict=True):
        at = rng.choice([0, text.find(" ") + 1])
        tagged.append((f"{text[:at]}[{tag}] {text[at:]}", f"{text[:at]}{tag} {text[at:]}"))
    takes = trial.say([shown for shown, _ in tagged], "unknown tags")
    silent = [
        not spoken_aloud(heard, trial.teacher.read(text, ENGLISH), trial.teacher.read(aloud, ENGLISH))
        for heard, text, (_, aloud) in zip(trial.hear([t.samples for t in takes]), texts, tagged, strict=True)
    ]
    return share("unknown_tags_not_spoken", "unknown tag not read out", silent, 0.99)


def spoken_aloud(heard: Heard, without: Reading, aloud: Reading) -> bool:
    """Whether what was heard is nearer to the reading with the tag's words."""
    return edit_distance(heard.phones, aloud.phones) < edit_distance(heard.phones, without.phones)
