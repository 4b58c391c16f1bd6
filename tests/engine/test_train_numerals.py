"""Numbers in words, as training text has them beside digits."""

from __future__ import annotations

import random
import re

import pytest

pytest.importorskip("wordfreq", reason="the recipe needs the optional extra `train`")

from engine.train import text_de, text_en
from engine.train.numerals import perhaps_in_words


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("en", "at 9:05 pm", "at nine oh five pm"),
        ("en", "$5.50", "five dollars and fifty cents"),
        ("en", "£1", "one pound"),
        ("en", "the 21st of May", "the twenty-first of May"),
        ("en", "12.5%", "twelve point five percent"),
        ("en", "1,250 people", "one thousand two hundred and fifty people"),
        ("en", "007", "zero zero seven"),
        ("de", "um 9:12 Uhr", "um neun Uhr zwölf"),
        ("de", "um 9:00 Uhr", "um neun Uhr"),
        ("de", "3,5 und 21", None),
        ("de", "am 3. Mai", None),
    ],
)
def test_numbers_become_words(language: str, text: str, words: str | None) -> None:
    said = {perhaps_in_words(text, language, random.Random(seed)) for seed in range(40)}
    assert text in said
    written = said - {text}
    assert not any(re.search(r"\d", form) for form in written)
    assert words is None or words in written


def test_a_telephone_number_is_mostly_said_digit_by_digit() -> None:
    said = [perhaps_in_words("555-21", "en", random.Random(seed), single=True) for seed in range(60)]
    assert said.count("five five five-two one") > said.count("five hundred and fifty-five-twenty-one") > 0


@pytest.mark.parametrize("module", [text_en, text_de])
def test_every_number_of_the_training_text_can_be_written_out(module: object) -> None:
    rng = random.Random(0)
    for name in {"num", "time", "date", "money", "measure", "digits"} & set(module.RULES):  # type: ignore[attr-defined]
        forms = [module.RULES[name](rng) for _ in range(200)]  # type: ignore[attr-defined]
        with_digits = sum(bool(re.search(r"\d", form)) for form in forms)
        assert 40 < with_digits < 160, name
