"""Which characters join, and what marks and scripts are taken for."""

from __future__ import annotations

import pytest

from realtime.characters import MAX_CLUSTER, Clusters, Gap, Mark, Script, facts


def clusters_of(text: str) -> list[str]:
    clusters, found = Clusters(), list[str]()
    for char in text:
        if clusters.joins(char):
            found[-1] += char
        else:
            found.append(char)
    return found


@pytest.mark.parametrize(
    "text",
    [
        "\r\n",
        "e\u0301\u0323",
        "👩🏽\u200d🚀",
        "👨\u200d👩\u200d👧\u200d👦",
        "❤\ufe0f\u200d🔥",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "🇩🇪",
        "1\ufe0f\u20e3",
        "\u1112\u1161\u11ab",
        "각\u11a8",
        "นำ",
        "ที่",
        "क्षि",
        "क्\u0301ष",
        "か\u3099",
        "ｶﾞ",
        "\u0600١",
        "ခ္မ",
    ],
)
def test_a_grapheme_is_one_cluster(text: str) -> None:
    assert clusters_of(text) == [text]


def test_flags_pair_up() -> None:
    assert clusters_of("🇩🇪🇫🇷🇮") == ["🇩🇪", "🇫🇷", "🇮"]


def test_a_virama_at_the_end_of_a_word_joins_nothing_behind_the_space() -> None:
    assert clusters_of("न् क") == ["न्", " ", "क"]


def test_letters_of_any_script_stand_apart() -> None:
    text = "abЖغ今かカกก"
    assert clusters_of(text) == list(text)


def test_half_a_grapheme_is_unfinished_and_a_whole_one_is_not() -> None:
    for text, unfinished in (
        ("👩\u200d", True),
        ("🇩", True),
        ("\r", True),
        ("👩", False),
        ("🇩🇪", False),
        ("\r\n", False),
        ("", False),
    ):
        clusters = Clusters()
        for char in text:
            clusters.joins(char)
        assert clusters.unfinished is unfinished, text


def test_the_length_counts_the_code_points_of_the_last_cluster() -> None:
    clusters = Clusters()
    for char in "ab" + "\u0301" * (MAX_CLUSTER + 3):
        clusters.joins(char)
    assert clusters.length == MAX_CLUSTER + 4


@pytest.mark.parametrize(
    ("char", "spaced", "tight"),
    [
        (".", Mark.SENTENCE, Mark.NONE),
        ("?", Mark.SENTENCE, Mark.NONE),
        (",", Mark.CLAUSE, Mark.NONE),
        ("–", Mark.CLAUSE, Mark.NONE),
        ("—", Mark.CLAUSE, Mark.CLAUSE),
        ("…", Mark.SENTENCE, Mark.CLAUSE),
        ("。", Mark.SENTENCE, Mark.SENTENCE),
        ("，", Mark.CLAUSE, Mark.CLAUSE),
        ("、", Mark.CLAUSE, Mark.CLAUSE),
        ("؟", Mark.SENTENCE, Mark.SENTENCE),
        ("،", Mark.CLAUSE, Mark.CLAUSE),
        ("؛", Mark.CLAUSE, Mark.CLAUSE),
        ("।", Mark.SENTENCE, Mark.SENTENCE),
        ("॥", Mark.SENTENCE, Mark.SENTENCE),
        ("a", Mark.NONE, Mark.NONE),
    ],
)
def test_marks_end_what_their_script_says(char: str, spaced: Mark, tight: Mark) -> None:
    assert (facts(char).spaced, facts(char).tight) == (spaced, tight)


def test_scripts_without_spaces_are_told_apart() -> None:
    found = [facts(char).script for char in "aغ한今かカกລខမ7"]
    cjk = [Script.IDEOGRAPH, Script.HIRAGANA, Script.KATAKANA]
    assert found == [*[Script.SPACED] * 3, *cjk, *[Script.CLUSTERED] * 4, Script.SPACED]


def test_white_space_has_kinds() -> None:
    assert [facts(char).gap for char in "a \u00a0\u200b\n\u3000"] == [
        Gap.NONE,
        Gap.SPACE,
        Gap.NO_BREAK,
        Gap.ZERO_WIDTH,
        Gap.SPACE,
        Gap.SPACE,
    ]
    assert [char for char in "\n\r\u2028 \t" if facts(char).line] == ["\n", "\r", "\u2028"]


def test_an_ideograph_and_a_digit_take_as_long_as_three_letters() -> None:
    assert [facts(char).weight for char in "a今7한か"] == [1, 3, 3, 3, 2]
