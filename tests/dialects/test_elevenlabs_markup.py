from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.dialects.elevenlabs_markup import Markup


def read(*pieces: str) -> str:
    markup = Markup()
    return "".join([markup.text(piece) for piece in pieces]) + markup.rest()


@pytest.mark.parametrize(
    ("tag", "pause"),
    [
        ('<break time="0.3s" />', "[ short pause]"),
        ('<break time="500ms"/>', "[ pause]"),
        ("<break time='1.5s'/>", "[ long pause]"),
        ('<BREAK TIME="3s">', "[ long pause]"),
        ("<break/>", "[ pause]"),
        ("<break />", "[ pause]"),
        ('<break strength="strong"/>', "[ pause]"),
        ('<break time="0s"/>', ""),
    ],
)
def test_a_break_is_a_pause(tag: str, pause: str) -> None:
    assert read(f"Well. {tag} Yes.") == f"Well. {pause} Yes."


def test_a_word_with_phonemes_is_read_as_it_is_written() -> None:
    assert read('<speak>Take <phoneme alphabet="ipa" ph="mɛt">Metformin</phoneme>.</speak>') == "Take Metformin."


@pytest.mark.parametrize(
    "text",
    ["a < b", "<|speaker:0|>Hi.", "<b>bold</b>", "1 <2> 3", "<breakfast>", "it is <", "<break", "<speak" + " x" * 200],
)
def test_what_is_no_tag_of_theirs_stays(text: str) -> None:
    assert read(text) == text


def test_nothing_is_held_back_that_cannot_become_a_tag() -> None:
    markup = Markup()
    assert markup.text("Hello <|spea") == "Hello <|spea"
    assert markup.text("2 < 3 ") == "2 < 3 "
    assert markup.text("so <br") == "so "
    assert markup.text("own> ") == "<brown> "


@given(st.data())
def test_it_does_not_matter_where_a_text_is_cut(data: st.DataObject) -> None:
    parts = [
        '<break time="1s"/>',
        "<phoneme x>",
        "</phoneme>",
        "word ",
        "<",
        "</",
        ">",
        "<bre",
        "ak/>",
        " < ",
        "<|speaker:1|>",
    ]
    text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=8)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(*pieces) == read(text)
