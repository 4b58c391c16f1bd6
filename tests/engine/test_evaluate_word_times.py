"""Word times of the shipped mini, pinned against the teacher's events and the recogniser."""

from __future__ import annotations

import pytest

from engine.evaluate.word_times import MEDIAN_MS, P90_MS, Errors, Measurement, begins, sentences
from engine.hub import resolve
from engine.load import load_model
from tests.engine import evaluating  # skips where there is no teacher

assert evaluating.MINI.is_dir()


def test_a_word_begins_where_the_place_passes_its_first_letter() -> None:
    assert begins([0, 2, 4, 6, 8], 4) == 2.5  # in the middle of the frame that speaks it
    assert begins([0, 2, 4, 6, 8], 5) == 3.0
    assert begins([0, 0, 0, 10, 10], 5) == 3.0


def test_a_word_that_was_passed_too_early_begins_when_it_is_passed_for_good() -> None:
    assert begins([0, 9, 2, 4, 9], 8) == pytest.approx(4.3)


def test_what_is_never_reached_begins_at_the_end_and_what_is_never_before_at_the_start() -> None:
    assert begins([0, 1, 2], 9) == 3.0
    assert begins([3, 4, 5], 2) == 0.0


def test_the_mini_keeps_the_targets() -> None:
    loaded = load_model(resolve("mini").folder, "mini", "cpu", "auto", None)
    measurement, chosen = Measurement(loaded), sentences(8)
    forced, ear = measurement.forced(chosen)
    free = measurement.free(chosen)
    for errors in (forced, free):
        assert isinstance(errors, Errors) and len(errors.ms) > 40
        assert errors.median_ms <= MEDIAN_MS and errors.p90_ms <= P90_MS
    assert ear.median_ms <= MEDIAN_MS, "the recogniser is a yardstick only if it agrees with the teacher's events"
