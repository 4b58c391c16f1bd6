"""Finding sounds in time, and telling a last word that is there from one that is not."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.evaluate.listening import STEP_S, Ear, Heard, border, has_last_word, matched, places
from engine.evaluate.teaching import GERMAN, Reading, Yardstick
from tests.engine.evaluating import TEXTS, teacher, tone, untrained

CLASSES = 6


def heard(track: list[int], certainty: float = 5.0) -> Heard:
    """As if the recogniser were this sure of a class per step."""
    scores = np.zeros((len(track), CLASSES), np.float32)
    scores[np.arange(len(track)), track] = certainty
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    return Heard(scores, tuple(value for i, value in enumerate(track) if value and (not i or track[i - 1] != value)))


def spans(found: list[tuple[float, float]]) -> list[tuple[int, int]]:
    return [(round(start / STEP_S), round(end / STEP_S)) for start, end in found]


def test_sounds_are_found_where_the_recogniser_is_sure_of_them() -> None:
    track = [0, 0, 3, 3, 0, 1, 0, 0, 2, 2, 2, 0]
    assert spans(places(heard(track), [3, 1, 2])) == [(2, 4), (5, 6), (8, 11)]


def test_a_repeated_sound_takes_a_silence_between() -> None:
    assert spans(places(heard([1, 1, 0, 1, 2]), [1, 1, 2])) == [(0, 2), (3, 4), (4, 5)]


def test_no_path_is_more_probable_than_the_one_that_is_found() -> None:
    rng = np.random.default_rng(4)
    scores = np.log(rng.dirichlet(np.ones(3), 5)).astype(np.float32)
    phones = [1, 2]
    probable = {
        path: float(scores[np.arange(5), path].sum())
        for path in itertools.product(range(3), repeat=5)
        if [v for i, v in enumerate(path) if v and (not i or path[i - 1] != v)] == phones
    }
    best = max(probable, key=probable.__getitem__)
    expected = [(best.index(p), 5 - best[::-1].index(p)) for p in phones]
    assert spans(places(Heard(scores, ()), phones)) == expected


def test_a_clip_too_short_for_the_text_still_gives_every_sound_a_place() -> None:
    assert len(places(heard([1, 2]), [1, 2, 3, 4])) == 4


def test_the_border_of_two_words_lies_between_their_sounds() -> None:
    reading = Reading("ab cd", (1, 2, 3, 4), (0, 0, 3, 3))
    end, start = border(heard([1, 2, 0, 0, 0, 0, 3, 4]), reading, 3)
    assert (round(end / STEP_S), round(start / STEP_S)) == (2, 6)


@pytest.mark.parametrize(
    ("said", "there"),
    [((1, 2, 3, 4, 5), True), ((1, 2, 3, 4), True), ((1, 2, 3), False), ((1, 2, 3, 1, 1), False), ((), False)],
    ids=["all of it", "most of it", "none of it", "something else", "nothing at all"],
)
def test_a_last_word_counts_when_half_of_its_sounds_are_there(said: tuple[int, ...], there: bool) -> None:
    reading = Reading("one two", (1, 2, 3, 4, 5), (0, 0, 0, 4, 4))
    assert has_last_word(Heard(np.zeros((1, CLASSES), np.float32), said), reading) is there


def test_matches_are_those_of_a_cheapest_alignment() -> None:
    assert matched([1, 9, 3], [1, 2, 3, 4]) == [True, False, True, False]


def test_a_reading_has_the_words_where_the_text_has_them() -> None:
    text = "She laughed so hard that tea came out."
    reading = teacher().read(text)
    assert {text[at:].split()[0] for at in reading.at} >= {"She", "laughed", "hard", "came", "out."}
    assert reading.before(text.index("came")) == sum(at < text.index("came") for at in reading.at)
    assert text.index("tea") not in reading.borders  # its t is that of "that"
    assert text.index("came") in reading.borders


def test_the_teacher_reads_german_in_german() -> None:
    assert teacher().read("Guten Tag", GERMAN).phones != teacher().read("Guten Tag").phones


def test_padding_beside_a_longer_clip_and_level_change_nothing(tmp_path: Path) -> None:
    ear = Ear(untrained(tmp_path)[0], torch.device("cpu"))
    clip = teacher().say(TEXTS[0])
    alone, quiet = ear.hear([clip])[0], ear.hear([0.05 * clip])[0]
    beside = ear.hear([tone(100, 6.0), clip])[1]
    np.testing.assert_allclose(beside.scores, alone.scores, atol=1e-4)
    np.testing.assert_allclose(quiet.scores, alone.scores, atol=0.05)
    assert len(alone.scores) == len(clip) // 512 + 1


def test_nothing_is_heard_in_an_empty_clip(tmp_path: Path) -> None:
    assert len(Ear(untrained(tmp_path)[0], torch.device("cpu")).hear([np.zeros(0, np.float32)])[0].scores) == 1


def test_a_second_teacher_takes_nothing_from_the_first() -> None:
    expected = teacher().read(TEXTS[1])
    other = Yardstick()
    assert other.read(TEXTS[1]) == expected
    assert teacher().read(f"{TEXTS[1]} Yes.").phones[: len(expected.phones)] == expected.phones
