"""How figures are judged and shown."""

import pytest

from realtime.bench_promises import Bound, Figure, Promise, heading, never, p95, row, worst


@pytest.mark.parametrize(
    ("figure", "bound", "kept"),
    [
        (5.0, Bound.AT_MOST, True),
        (5.1, Bound.AT_MOST, False),
        (5.0, Bound.AT_LEAST, True),
        (4.9, Bound.AT_LEAST, False),
        (None, Bound.AT_MOST, False),
        (None, Bound.AT_LEAST, False),
    ],
)
def test_a_promise_is_kept_within_its_bound_and_never_without_a_figure(
    figure: float | None, bound: Bound, kept: bool
) -> None:
    assert Promise("a", figure, 5.0, "ms", bound).kept is kept


def test_what_must_never_happen_may_not_happen_once() -> None:
    assert never("a", 0, "of 3").kept
    assert not never("a", 1, "of 3").kept


def test_nothing_measured_is_a_promise_broken() -> None:
    assert not worst("a", [], 5.0).kept
    assert not p95("a", [], 5.0).kept


def test_the_largest_and_the_nearly_largest_are_values_that_occurred() -> None:
    values = [float(value) for value in range(1, 101)]
    assert worst("a", values, 99.0).figure == 100
    assert p95("a", values, 99.0).figure == 95


def test_a_row_says_what_was_found_what_was_promised_and_what_is_broken() -> None:
    rows = [
        never("lies", 0, "3 turns"),
        Promise("late", 7.25, 5.0, "ms"),
        Figure("lasted", 12.0, "ms"),
        Promise("heard", None, 1.0),
    ]
    assert [row(finding).split() for finding in rows] == [
        ["lies", "0", "<=", "0", "times", "(3", "turns)"],
        ["late", "7.25", "<=", "5", "ms", "BROKEN"],
        ["lasted", "12", "ms"],
        ["heard", "nothing", "<=", "1", "BROKEN"],
    ]
    assert heading().index("promised") + len("promised") == row(rows[0]).index(" times")
