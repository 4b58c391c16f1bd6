from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.api import SpokenSegment
from realtime.context import Context, HeardSegment, HeardTurn


def segment(frames: int, text: str = "abc") -> HeardSegment:
    return HeardSegment(SpokenSegment(text, np.zeros((8, frames), dtype=np.int16)), len(text))


def turn(n: int, *frames: int) -> HeardTurn:
    return HeardTurn(n, tuple(segment(count, f"{n}.{index}") for index, count in enumerate(frames)))


def texts(context: Context) -> list[str]:
    return [spoken.text for spoken in context.conversation("c").history]


def empty(max_s: float = 100.0, max_turns: int = 50) -> Context:
    return Context(frame_s=1.0, max_s=max_s, max_turns=max_turns)


def test_history_is_the_heard_segments_in_order() -> None:
    context = empty().heard(turn(1, 2, 3)).heard(turn(2, 4))
    assert texts(context) == ["1.0", "1.1", "2.0"]
    assert (context.audio_s, context.text_chars) == (9.0, 9)
    assert context.conversation("c").id == "c"


def test_a_turn_without_a_heard_segment_leaves_nothing() -> None:
    assert empty().heard(turn(1)).turns == ()


def test_a_turn_that_is_cut_later_keeps_its_place() -> None:
    context = empty().heard(turn(1, 5, 5)).heard(turn(2, 5)).heard(turn(1, 2))
    assert texts(context) == ["1.0", "2.0"]
    assert context.audio_s == 7.0


def test_cutting_a_turn_to_nothing_removes_it() -> None:
    assert texts(empty().heard(turn(1, 5)).heard(turn(2, 5)).heard(turn(1))) == ["2.0"]


def test_an_exceeded_budget_drops_the_oldest_segments_down_to_sixty_percent() -> None:
    context = empty(max_s=10.0).heard(turn(1, 3, 3)).heard(turn(2, 3))
    assert context.audio_s == 9.0
    assert texts(context.heard(turn(3, 2))) == ["2.0", "3.0"]


def test_a_full_budget_is_not_exceeded() -> None:
    assert empty(max_s=9.0).heard(turn(1, 3, 3)).heard(turn(2, 3)).audio_s == 9.0


def test_no_more_turns_are_kept_than_asked_for() -> None:
    context = empty(max_turns=2)
    for n in range(5):
        context = context.heard(turn(n, 1))
    assert texts(context) == ["3.0", "4.0"]


def test_a_budget_of_nothing_keeps_nothing() -> None:
    assert texts(empty(max_s=0.0).heard(turn(1, 3))) == []
    assert texts(empty(max_turns=0).heard(turn(1, 3))) == []


def test_a_smaller_budget_acts_at_once_and_clearing_forgets_all() -> None:
    context = empty().heard(turn(1, 4)).heard(turn(2, 4))
    assert texts(context.limited(5.0, 50)) == []
    assert texts(context.limited(7.9, 50)) == ["2.0"]
    assert texts(context.cleared()) == []


@given(st.lists(st.lists(st.integers(1, 9), max_size=4), max_size=12), st.integers(0, 30), st.integers(0, 5))
def test_what_is_kept_is_the_newest_part_and_within_its_budget(
    spoken: list[list[int]], max_s: int, max_turns: int
) -> None:
    context = empty(float(max_s), max_turns)
    said: list[str] = []
    for n, frames in enumerate(spoken):
        context = context.heard(turn(n, *frames))
        said += [f"{n}.{index}" for index in range(len(frames))]
    kept = texts(context)
    assert kept == said[len(said) - len(kept) :]
    assert context.audio_s <= max_s
    assert len(context.turns) <= max_turns
