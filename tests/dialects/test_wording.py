from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.dialects.wording import Wording


def spoken(*messages: str | None) -> str:
    """What becomes of messages; None is a flush."""
    wording, text = Wording(), ""
    for message in messages:
        if message is None:
            wording.flush()
        else:
            text += wording.message(message)
    return text


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (("One.", "Two."), "One. Two."),
        (("One.", "two."), "One.two."),  # example.com
        (("3.", "14"), "3.14"),
        (("hel", "lo"), "hello"),
        (("One ", "two"), "One two"),
        (("One ", " two"), "One two"),
        (("One  two",), "One two"),
        ((" One",), "One"),
        (("One.", None, "two."), "One. two."),
        (("One", None, "Two"), "One Two"),
        (("One. ", None, "Two."), "One. Two."),
        (('He said "no."', "Then he left."), 'He said "no." Then he left.'),
        (('"Why?"', "she asked."), '"Why?" she asked.'),
        (('The key is:"', "open"), 'The key is:"open'),
        (("“你好？”", "再见。"), "“你好？”再见。"),
        (("Wait!", "[laugh] No."), "Wait! [laugh] No."),
        (("Wait.", "<|speaker:1|>No."), "Wait. <|speaker:1|>No."),
        (("你好。", "再见。"), "你好。再见。"),
        (("", "One"), "One"),
    ],
)
def test_sentences_are_parted_and_words_are_not(messages: tuple[str | None, ...], text: str) -> None:
    assert spoken(*messages) == text


@pytest.mark.parametrize("cut", range(1, len("Oh. [sad. And slow] No. <|speaker:1|> Yes.")))
def test_a_tag_that_was_cut_is_whole_again(cut: int) -> None:
    text = "Oh. [sad. And slow] No. <|speaker:1|> Yes."
    assert spoken(text[:cut], text[cut:]) == text


def test_a_bracket_that_nobody_closes_is_no_tag_for_ever() -> None:
    wording = Wording()
    wording.message("a < b and so on")
    assert wording.in_bracket
    wording.message("x" * 80)
    assert not wording.in_bracket


@given(st.lists(st.text(" .ab", min_size=1, max_size=8)))
def test_nothing_but_space_is_added_or_lost(messages: list[str]) -> None:
    assert spoken(*messages).replace(" ", "") == "".join(messages).replace(" ", "")
    assert "  " not in spoken(*messages)
