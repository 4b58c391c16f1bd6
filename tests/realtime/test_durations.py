"""How long text takes to say."""

from __future__ import annotations

import pytest

from realtime.durations import sound_ms, spoken_ms


@pytest.mark.parametrize(
    ("shorter", "longer"),
    [
        ("a", "strength"),
        ("cat", "catalogue"),
        ("idea", "ideation"),
        ("rhythm", "banana"),
        ("seven", "777"),
        ("1000", "1234"),
        ("is", "US"),
        ("5", "5%"),
        ("example", "ex.ample"),
        ("a", "你"),
        ("か", "你"),
        ("ก", "ไก่"),
        ("한", "한국"),
        ("न", "नमस्ते"),
    ],
)
def test_what_has_more_to_say_takes_longer(shorter: str, longer: str) -> None:
    assert spoken_ms(shorter) < spoken_ms(longer)


def test_punctuation_and_case_take_no_time() -> None:
    assert spoken_ms('("Hello!")') == spoken_ms("hello")


def test_vowels_that_stand_together_sound_as_one() -> None:
    assert spoken_ms("see") == spoken_ms("se") < spoken_ms("ese")


def test_accents_do_not_change_a_letter() -> None:
    assert spoken_ms("naïve") == pytest.approx(spoken_ms("naive"), abs=1)
    assert spoken_ms("e\u0301te\u0301") == pytest.approx(spoken_ms("été"), abs=70)


def test_a_plain_sentence_takes_what_espeak_takes() -> None:
    sentence = "I would be happy to help you with that question about your account"
    # espeak-ng 1.51, en-us, 175 words a minute, needs 3150 ms with the silence around it.
    words = sentence.split(" ")
    assert sum(spoken_ms(word) for word in words) == pytest.approx(3150, rel=0.15)


@pytest.mark.parametrize(
    ("name", "ms"),
    [
        ("pause 500ms", 500),
        ("pause 2s", 2000),
        ("1.5 seconds pause", 1500),
        ("pause", 600),
        ("short pause", 300),
        ("long pause", 1200),
    ],
)
def test_a_pause_takes_what_it_says(name: str, ms: float) -> None:
    assert sound_ms(name) == ms


def test_every_sound_takes_some_time() -> None:
    assert all(
        200 <= sound_ms(name) <= 3000 for name in ("laugh", "sighs", "tsk", "clears throat", "brief cough", "笑")
    )
