"""Numbers in words: what a person would say for them, and that every word keeps its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.expansion import TONGUES, applied, edits
from tests.realtime.texts import texts

TABLE = Path(__file__).parent.parent / "fixtures" / "number_words.txt"
NUMBERS = (
    *("3", "42", "1984", "2024", "0", "007", "1,234", "1.234", "3.14", "3,14", "12345678901234567890", "²", "½", "٣"),
    *(
        "$",
        "€",
        "%",
        " %",
        "km",
        " kg",
        "°C",
        "pm",
        " Uhr",
        "st",
        "th",
        ".",
        ",",
        ":",
        "-",
        "–",
        "/",
        "x",
        "×",
        "+",
        "#",
        "~",
        "@",
        "&",
    ),
    *(
        "(555) ",
        "+49 ",
        "555-1234",
        "2024-03-05",
        "5/8",
        "12:30",
        " million",
        " Mio.",
        "'90s",
        "er",
        "_",
        "=",
        "example.com",
    ),
    *(" ", " ", "\u00a0", "March ", "5. März", "im ", "a", "B", "Kapitel ", "\n"),
)
numeric = st.one_of(st.lists(st.sampled_from(NUMBERS), max_size=12).map("".join), texts)


def spoken(text: str, language: str) -> str:
    said, done = "", 0
    for start, end, words in applied(text, edits(text, TONGUES[language])):
        said, done = said + text[done:start] + words, end
    return said + text[done:]


def cases() -> Iterator[tuple[str, str, str]]:
    """Language, text, and what is said."""
    language = ""
    for block in TABLE.read_text("utf-8").split("\n\n")[1:]:
        if block.startswith("== "):
            language = block[3:].strip()
            continue
        text, said = block.strip("\n").split("\n")
        yield language, text, said


@pytest.mark.parametrize(("language", "text", "said"), list(cases()))
def test_numbers_are_said_as_people_say_them(language: str, text: str, said: str) -> None:
    assert spoken(text, language) == said


@given(numeric, st.sampled_from(sorted(TONGUES)))
@example("1,234example.com", "de")
@example("½1,234example.com", "de")
@example("²3example.com", "de")
def test_no_digit_is_left(text: str, language: str) -> None:
    said = spoken(text, language)
    assert not re.search(r"\d", said)


@given(numeric, st.sampled_from(sorted(TONGUES)))
@example("3$3$", "en")
@example("3\u00a0342", "de")
@example("²3example.com", "de")
def test_an_edit_stays_within_one_word(text: str, language: str) -> None:
    made = sorted(edits(text, TONGUES[language]))
    assert all(0 <= edit.start < edit.end <= len(text) for edit in made)
    assert all(left.end <= right.start for left, right in pairwise(made))
    assert not any(char.isspace() for edit in made for char in text[edit.start : edit.end])


@given(st.lists(st.sampled_from(NUMBERS), max_size=12), st.sampled_from(sorted(TONGUES)))
def test_words_between_numbers_stay_words(numbers: list[str], language: str) -> None:
    text = " zebra ".join(numbers)
    assert len(re.findall(r"(?<!\S)zebra(?!\S)", spoken(text, language))) == max(0, len(numbers) - 1)


@pytest.mark.parametrize(
    "text", ["No numbers here, just words.", "Keine Zahlen, nur Wörter - und Striche.", "well-known; (really)!"]
)
@pytest.mark.parametrize("language", sorted(TONGUES))
def test_text_without_numbers_is_left_as_it_is(text: str, language: str) -> None:
    assert edits(text, TONGUES[language]) == []
