"""What counts as speech, on numbers alone."""

import numpy as np
import pytest

from engine.guard import Fault, SegmentGuard, spoken_units

FRAME_S = 0.0464
LOUD = np.full(1024, 0.3, np.float32)
QUIET = np.zeros(1024, np.float32)


def guard(text: str) -> SegmentGuard:
    return SegmentGuard.of(text, FRAME_S)


def feed(watch: SegmentGuard, samples: np.ndarray, frames: int) -> Fault | None:
    for _ in range(frames):
        fault = watch.frame(samples)
        if fault is not None:
            return fault
    return None


def test_an_end_before_the_first_frame_is_empty() -> None:
    assert guard("Hello.").end() is Fault.EMPTY


def test_one_frame_is_no_reading_of_a_sentence() -> None:
    watch = guard("This sentence has quite a few letters in it, so one frame cannot be it.")
    assert feed(watch, LOUD, 1) is None
    assert watch.end() is Fault.SHORT


def test_one_word_may_be_short() -> None:
    watch = guard("Oh")
    assert feed(watch, LOUD, 4) is None
    assert watch.end() is None


def test_speech_that_outlasts_the_slowest_reading_runs_away() -> None:
    watch = guard("Hello there.")
    assert feed(watch, LOUD, 2000) is Fault.RUNAWAY
    assert 3.0 < watch.sane_frames * FRAME_S < 15.0


@pytest.mark.parametrize("text", ["Hello there.", "1984", "你好，世界", "[laugh]", "WWW"])
def test_a_slow_reading_fits_the_bound(text: str) -> None:
    slow_s = 0.3 * spoken_units(text) + 1.0
    assert feed(guard(text), LOUD, int(slow_s / FRAME_S)) is None


def test_nan_is_noticed_in_the_frame_it_comes_in() -> None:
    watch = guard("Hello there.")
    assert feed(watch, LOUD, 3) is None
    assert watch.frame(np.full(1024, np.nan, np.float32)) is Fault.NAN
    assert watch.sane_frames == 3


def test_dead_air_ends_the_segment_where_speech_stopped() -> None:
    watch = guard("A sentence that is long enough to be spoken for a while, with no silence in it.")
    assert feed(watch, LOUD, 10) is None
    assert feed(watch, QUIET, 100) is Fault.SILENCE
    assert watch.sane_frames == 10


def test_silence_is_fine_where_a_pause_was_asked_for() -> None:
    watch = guard("Wait [long pause] for it, and then for some more, please.")
    assert feed(watch, LOUD, 10) is None
    assert feed(watch, QUIET, 60) is None


def test_a_short_silence_belongs_to_speech() -> None:
    watch = guard("One. Two, and a long rest of the sentence follows.")
    assert feed(watch, LOUD, 20) is None
    assert feed(watch, QUIET, 20) is None
    assert feed(watch, LOUD, 5) is None
    assert watch.end() is None
    assert watch.sane_frames == 45


def test_nothing_but_silence_is_no_reading() -> None:
    watch = guard("Yes")
    assert feed(watch, QUIET, 10) is None
    assert watch.end() is Fault.SILENCE


def test_markup_is_not_spoken() -> None:
    assert spoken_units("<|speaker:3|>[whisper in small voice] ab.") == 2
