"""Transcripts of the same speech count as the same words, and errors are counted as errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.evaluate.numerals import chinese_cardinal, chinese_digits, english_cardinal, english_ordinal, english_year
from engine.evaluate.wording import Errors, edit_distance, language_of, word_errors, words


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (105, "one hundred five"),
        (1_000_001, "one million one"),
        (2_340_000, "two million three hundred forty thousand"),
        (10**15 - 1, "nine hundred ninety nine trillion nine hundred ninety nine billion nine hundred ninety nine million "
                     "nine hundred ninety nine thousand nine hundred ninety nine"),
    ],
)  # fmt: skip
def test_a_number_is_said_in_english(value: int, said: str) -> None:
    assert english_cardinal(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(1, "first"), (2, "second"), (12, "twelfth"), (20, "twentieth"), (33, "thirty third"), (100, "one hundredth")],
)
def test_an_ordinal_is_said_in_english(value: int, said: str) -> None:
    assert english_ordinal(value) == said


@pytest.mark.parametrize(
    ("value", "said"), [(1984, "nineteen eighty four"), (1905, "nineteen oh five"), (1900, "nineteen hundred")]
)
def test_a_year_is_said_in_english(value: int, said: str) -> None:
    assert english_year(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "零"),
        (10, "十"),
        (110, "一百一十"),
        (105, "一百零五"),
        (1001, "一千零一"),
        (10_500, "一万零五百"),
        (100_000, "十万"),
        (100_000_001, "一亿零一"),
    ],
)
def test_a_number_is_said_in_chinese(value: int, said: str) -> None:
    assert chinese_cardinal(value) == said


def test_chinese_digits_are_said_one_by_one() -> None:
    assert chinese_digits("2024") == "二零二四"


@pytest.mark.parametrize("number", [-1, 10**15])
def test_a_number_out_of_bounds_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="is not between"):
        english_cardinal(number)
    with pytest.raises(ValueError, match="is not between"):
        chinese_cardinal(number)


@given(st.integers(0, 10**12 - 1), st.integers(0, 10**12 - 1))
def test_two_numbers_are_never_said_alike(one: int, other: int) -> None:
    assert (one == other) == (english_cardinal(one) == english_cardinal(other))
    assert (one == other) == (chinese_cardinal(one) == chinese_cardinal(other))


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("Well, I can't!", "well i cant"),
        ("It’s Dr. Lee.", "its doctor lee"),
        ("The U.S. Senate met at 3 p.m.", "THE US SENATE MET AT THREE P M"),
        ("It costs $9.99.", "it costs nine dollars and ninety nine cents"),
        ("£1.01, €2", "one pound one penny two euros"),
        ("a $4.5 million deal", "a four point five million dollars deal"),
        ("at 10:05 or 4:00", "at ten oh five or four"),
        ("7.5% of 50,000", "seven point five per cent of fifty thousand"),
        ("105 people, 100 times", "a hundred and five people one hundred times"),
        ("on May 21st", "on may twenty first"),
        ("agent 007", "agent zero zero seven"),
        ("$007", "zero zero seven dollars"),
        ("12345678901234567", "one two three four five six seven eight nine zero one two three four five six seven"),
        ("in 1648", "in sixteen forty eight"),
        ("in 1648", "in one thousand six hundred forty-eight"),
        ("in 1648", "in 1,648"),
        ("-5 degrees", "minus five degrees"),
        ("e.g. salt & oil", "for example salt and oil"),
        ("well-known", "well known"),
        ("ﬁne café", "fine café"),
    ],
)
def test_these_are_the_same_words_in_english(text: str, heard: str) -> None:
    assert word_errors(text, heard, "en").edits == 0


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("我有10500元。", "我有一万零五百元"),
        ("2024年涨了3.5%", "二零二四年涨了百分之三点五"),
        ("你好，世界！", "你好世界"),
        ("两百", "200"),
    ],
)
def test_these_are_the_same_words_in_chinese(text: str, heard: str) -> None:
    assert word_errors(text, heard, "zh").edits == 0


def test_chinese_counts_by_character() -> None:
    assert word_errors("今天天气好", "今天很好", "zh") == Errors(2, 5)


def test_text_of_two_scripts_is_cut_where_they_meet() -> None:
    assert words("用Python3写", "ja") == ["用", "python3", "写"]
    assert words("カラー 한국", "ja") == ["カ", "ラ", "ー", "한", "국"]


def test_marks_stay_with_their_letters() -> None:
    assert words("नमस्ते दुनिया", "hi") == ["नमस्ते", "दुनिया"]


def test_numbers_of_other_languages_stay_digits() -> None:
    assert words("Straße 7", "de") == ["straße", "7"]


@pytest.mark.parametrize(
    ("text", "heard", "errors"),
    [
        ("one two three", "one three", Errors(1, 3)),
        ("one two", "one one two", Errors(1, 2)),
        ("the cat sat", "the hat sat", Errors(1, 3)),
        ("the cat sat", "", Errors(3, 3)),
        ("", "any thing", Errors(2, 0)),
    ],
)
def test_an_error_is_counted(text: str, heard: str, errors: Errors) -> None:
    assert word_errors(text, heard, "en") == errors


def test_errors_add_up_by_words_and_not_by_sentences() -> None:
    assert (Errors(1, 2) + Errors(0, 6)).rate == 1 / 8


_SEQUENCES = st.lists(st.sampled_from("abc"), max_size=6)


@given(_SEQUENCES, _SEQUENCES, _SEQUENCES)
def test_the_edit_distance_is_a_distance(a: list[str], b: list[str], c: list[str]) -> None:
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


@given(st.text() | st.text(alphabet="0123456789,.:%$-_ thnd年"))
def test_any_text_becomes_words_without_spaces_that_stay_words(text: str) -> None:
    for language in ("en", "zh", "de"):
        assert all(word and not word.isspace() for word in words(text, language))


@pytest.mark.parametrize(
    ("text", "language"),
    [("Hello", "en"), ("Schöne Grüße", "de"), ("你好", "zh"), ("漢字とかな", "ja"), ("안녕", "ko")],
)
def test_the_script_tells_the_language(text: str, language: str) -> None:
    assert language_of(text) == language
