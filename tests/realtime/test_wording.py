"""A turn's words: the lexicon, numbers, and the language they are in; every raw character keeps its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.config import Language, SessionConfig, TagMode
from realtime.tags import Tag, Text, Token, engine_text, lex
from realtime.wording import LanguageGuess, Lexicon, Wording
from tests.realtime.texts import texts

LEXICON = Lexicon({"nguyen": "win", "US": "U S", "C++": "see plus plus", "C": "see", "SQL": "sequel", "Кот": "kot"})


def said(text: str, wording: Wording, language: str = "en") -> str:
    return engine_text("", wording.reworded(lex(text, TagMode.PERFORM), language), TagMode.PERFORM)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Mr. Nguyen's and NGUYEN.", "Mr. win's and win."),
        ("US and us and USA", "U S and us and USA"),
        ("C++, C and ABC", "see plus plus, see and ABC"),
        ("[sad] SQL [SQL]", "[sad] sequel [SQL]"),
        ("Кот!", "kot!"),
        ("MySQL", "MySQL"),
    ],
)
def test_the_lexicon_respells_whole_words(text: str, spoken: str) -> None:
    assert said(text, Wording(lexicon=LEXICON)) == spoken


def test_the_lexicon_goes_before_numbers() -> None:
    wording = Wording(in_words=True, lexicon=Lexicon({"4K": "four kay", "3": "drei"}))
    assert said("4K and 3 and 33", wording) == "four kay and drei and thirty-three"


def test_numbers_are_in_words_where_the_model_needs_it() -> None:
    assert said("It costs $5 [laugh] or 6.", Wording(in_words=True)) == "It costs five dollars [laugh] or six."
    assert said("It costs $5 [laugh] or 6.", Wording(lexicon=LEXICON)) == "It costs $5 [laugh] or 6."


def test_the_settings_choose_the_language_before_the_guess() -> None:
    assert said("3,5", Wording(in_words=True, language="de"), "en") == "drei Komma fünf"
    assert said("3,5", Wording(in_words=True), "de") == "drei Komma fünf"


def test_what_the_clean_up_left_out_stays_left_out() -> None:
    token = Text(7, "**$5** 😀", ("", "", "$", "5", "", "", " ", " "))
    assert Wording(in_words=True).reworded([token], "en") == [
        Text(7, "**$5** 😀", ("", "", "five dollars", "", "", "", " ", " "))
    ]


@given(texts, st.sampled_from(("en", "de")))
def test_every_raw_character_keeps_its_place(text: str, language: str) -> None:
    tokens = lex(text.encode("utf-8", "replace").decode(), TagMode.PERFORM)
    worded = Wording(in_words=True, lexicon=LEXICON).reworded(tokens, language)
    for before, after in zip(tokens, worded, strict=True):
        assert (after.start, after.raw) == (before.start, before.raw)
        if isinstance(after, Text) and after.said is not None:
            assert len(after.said) == len(after.raw)
            blanks = [at for at, char in enumerate(after.raw) if char.isspace()]
            assert all(after.said[at][-1:] == after.raw[at] for at in blanks)


def test_the_settings_of_a_turn_say_what_is_done() -> None:
    config = SessionConfig(language=Language.GERMAN, lexicon={"a": "b"})
    wording = Wording.of(config, numbers_in_words=True)
    assert (wording.clean, wording.in_words, wording.language, wording.rewords) == (True, True, "de", True)
    assert wording.lexicon is Wording.of(config, numbers_in_words=False).lexicon
    assert not Wording.of(config, numbers_in_words=False).in_words
    off = Wording.of(SessionConfig(normalize=False), numbers_in_words=True)
    assert (off.clean, off.in_words, off.rewords) == (False, False, False)


def test_tags_are_not_reworded() -> None:
    tokens: list[Token] = lex("[pause 500ms]", TagMode.PERFORM)
    assert isinstance(tokens[0], Tag)
    assert Wording(in_words=True).reworded(tokens, "en") == tokens


@pytest.mark.parametrize(
    ("texts_so_far", "language"),
    [
        (["It costs 3 euros."], "en"),
        (["Das kostet 3 Euro."], "de"),
        (["12345"], "en"),
        (["Grüße!"], "de"),
        (["I love Müller and the Alps."], "en"),
        (["Das ist der Plan.", "The"], "de"),
    ],
)
def test_the_language_is_guessed_from_all_text_so_far(texts_so_far: list[str], language: str) -> None:
    guess = LanguageGuess()
    assert [guess.add(text) for text in texts_so_far][-1] == language
