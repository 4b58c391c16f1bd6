"""Where a text is parted into turns: the same places however it comes, and never inside a tag."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from realtime.long_text import ANYWHERE_FROM, LONGEST_TAG, PARAGRAPH_FROM, Part, TurnCutter

PROSE = "The old gardener found a lantern near the station, and nobody complained. " * 150


def turns(text: str, *cuts: int) -> list[str]:
    """The turns of a text that comes in pieces."""
    cutter, edges = TurnCutter(), [0, *sorted(cuts), len(text)]
    parts = [part for start, end in pairwise(edges) for part in cutter.push(text[start:end])]
    found = [""]
    for part in parts:
        found[-1] += part.text
        if part.ends_turn:
            found.append("")
    return found if found[-1] else found[:-1]


def test_a_text_of_ordinary_length_is_one_turn() -> None:
    assert turns(PROSE[:PARAGRAPH_FROM]) == [PROSE[:PARAGRAPH_FROM]]


def test_what_was_pushed_is_handed_on_at_once() -> None:
    assert TurnCutter().push("Hel") == [Part("Hel", ends_turn=False)]


def test_long_prose_is_parted_behind_sentences() -> None:
    found = turns(PROSE)
    assert len(found) == 4
    assert all(turn.endswith("complained. ") for turn in found)


def test_a_paragraph_ends_a_long_turn_earlier_than_a_sentence() -> None:
    text = PROSE[:2500] + "\n" + PROSE
    assert turns(text)[0] == PROSE[:2500] + "\n"


def test_chinese_prose_is_parted_without_spaces() -> None:
    text = "他昨天在车站附近找到了一盏旧灯。" * 300
    assert all(turn.endswith("。") for turn in turns(text))
    assert len(turns(text)) == 2


def test_a_text_without_any_border_is_parted_all_the_same() -> None:
    assert [len(turn) for turn in turns("a" * 12_000)] == [ANYWHERE_FROM, ANYWHERE_FROM, 2_000]


def test_a_tag_is_never_parted() -> None:
    text = "a" * (ANYWHERE_FROM - 3) + "[whisper softly] " + "b" * 100
    assert turns(text)[0].endswith("[whisper softly]")


def test_a_bracket_that_nobody_closes_holds_up_no_more_than_a_tag_would() -> None:
    assert len(turns("a" * (ANYWHERE_FROM - 3) + "[" + "b" * 500)[0]) <= ANYWHERE_FROM + LONGEST_TAG + 1


@given(
    st.text(st.sampled_from("ab .!?。\n[]<>"), max_size=60).map(lambda text: text * 300),
    st.lists(st.integers(0, 18_000), max_size=8),
)
def test_the_turns_are_the_text_and_do_not_depend_on_how_it_came(text: str, cuts: list[int]) -> None:
    whole = turns(text)
    assert "".join(whole) == text
    assert turns(text, *(min(cut, len(text)) for cut in cuts)) == whole


def test_a_block_of_code_is_not_parted_where_it_can_be_avoided() -> None:
    block = "```python\n" + "x = f(x)\n" * 250 + "```\n"
    text = PROSE[:1900].rsplit(". ", 1)[0] + ".\n" + block + "Done. " * 300
    first = turns(text)[0]
    assert first.endswith("```\n")
    assert turns(text, *range(0, len(text), 7)) == turns(text)


def test_a_block_that_is_too_long_is_parted_all_the_same() -> None:
    assert len(turns("```\n" + "x = f(x)\n" * 1000)[0]) == ANYWHERE_FROM
