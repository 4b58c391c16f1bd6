"""Looks become places that move on through the text."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.following import Follower, path_of

TOKENS = 40


def look(*at: int, tokens: int = TOKENS, share: float = 0.8) -> np.ndarray:
    """Attention on some tokens, and a little everywhere."""
    out = np.full(tokens, (1 - share) / tokens / 2, np.float32)
    out[list(at)] += share / len(at)
    return out


def places(looks: list[np.ndarray], starts: np.ndarray | None = None) -> list[int]:
    follower = Follower(np.arange(TOKENS) if starts is None else starts)
    return [follower.step(one) for one in looks]


def test_a_steady_gaze_is_followed_token_by_token() -> None:
    assert places([look(i) for i in range(TOKENS)]) == list(range(TOKENS))


def test_one_stray_look_does_not_move_the_place() -> None:
    looks = [look(i) for i in range(10)] + [look(33, share=0.3)] + [look(i) for i in range(10, 20)]
    found = places(looks)
    assert 8 <= found[10] <= 11 and found[11:] == list(range(10, 20))


def test_a_look_backwards_does_not_go_back() -> None:
    found = places([look(i) for i in range(15)] + [look(3, share=0.5)] + [look(15)])
    assert found[15] >= 13 and found[16] == 15


def test_a_tag_that_is_not_read_out_is_passed_over() -> None:
    assert places([look(24), look(25), look(26)])[-1] == 26
    assert places([look(5), look(6), look(30), look(31), look(32)])[-1] == 32


def test_attention_elsewhere_leaves_the_place_as_it_is() -> None:
    nothing = np.full(TOKENS, 1e-4, np.float32)
    assert places([look(7), look(8), nothing, nothing, nothing])[2:] == [8, 8, 8]


def test_places_are_code_points_of_tokens() -> None:
    starts = np.arange(TOKENS) * 4
    assert places([look(i) for i in range(5)], starts) == [0, 4, 8, 12, 16]


@given(st.lists(st.integers(0, TOKENS - 1), min_size=1, max_size=60))
def test_the_path_of_any_looks_never_goes_back(at: list[int]) -> None:
    path = path_of(np.stack([look(one) for one in at]))
    assert len(path) == len(at) and (np.diff(path) >= 0).all()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_the_path_of_sharp_looks_that_move_on_is_theirs(steps: list[int]) -> None:
    at = np.minimum(np.cumsum(steps), TOKENS - 1)
    np.testing.assert_array_equal(path_of(np.stack([look(one, share=0.99) for one in at])), at)
