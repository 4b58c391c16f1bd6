"""What counts as speech, on numbers alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.guard import DEAD_AIR_S, Fault, SegmentGuard, reading_s

FRAME_S = 0.0464
LOUD = np.full(1024, 0.3, np.float32)
QUIET = np.zeros(1024, np.float32)
SENTENCE = "A sentence that is long enough to be spoken for a while, with no silence in it."


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


@pytest.mark.parametrize("text", ["Oh", "No.", "I.", "7", "嗯", "はい"])
def test_one_word_may_be_short(text: str) -> None:
    watch = guard(text)
    assert feed(watch, LOUD, 3) is None
    assert watch.end() is None


@pytest.mark.parametrize(
    ("text", "quick_s"),
    [
        ("1000000000000", 0.6),  # "one trillion"
        ("12,345.67", 1.5),
        ("Ms. O'Neill-Smith", 0.7),
        ("很高兴认识你", 0.8),
        ("สวัสดีครับ", 0.6),
        ("مرحبا بالعالم", 0.6),
        ("🎉🎉🎉 Yay 🎉🎉🎉", 0.2),
        ("https://www.example.com/a/b?x=1&y=2", 1.5),  # "example dot com": who reads the rest?
    ],
)
def test_a_hurried_reading_is_a_reading(text: str, quick_s: float) -> None:
    watch = guard(text)
    assert feed(watch, LOUD, int(quick_s / FRAME_S)) is None
    assert watch.end() is None


@pytest.mark.parametrize(
    ("text", "slow_s"),
    [
        ("Hello there.", 3.0),  # two words, 40 words a minute
        ("This sentence takes a good while to say.", 8.0),  # eight words, 60 words a minute
        ("1984", 6.0),  # digit by digit
        ("1,234,567", 9.0),  # ten words
        ("0171 2345678", 14.0),
        ("https://www.example.com/a/b?x=1&y=2", 20.0),  # "h t t p s colon slash slash w w w dot ...": 29 words
        ("WWW", 3.5),
        ("你好，世界", 5.0),
        ("東京都庁", 6.0),  # eight morae, after a breath
        ("नमस्ते दुनिया", 5.0),
        ("[laugh]", 5.0),
        ("[sighs] [laughs] No.", 8.0),
        ("3 + 4 = 7", 6.0),
    ],
)
def test_a_slow_reading_fits_the_bound(text: str, slow_s: float) -> None:
    assert feed(guard(text), LOUD, int(slow_s / FRAME_S)) is None


def test_speech_that_outlasts_the_slowest_reading_runs_away() -> None:
    watch = guard("Hello there.")
    assert feed(watch, LOUD, 2000) is Fault.RUNAWAY
    assert 3.0 < watch.sane_frames * FRAME_S < 8.0


def test_a_long_text_does_not_run_for_minutes() -> None:
    watch = guard("This sentence takes a good while to say. " * 4)  # some eleven seconds
    assert feed(watch, LOUD, 2000) is Fault.RUNAWAY
    assert watch.sane_frames * FRAME_S < 40


def test_nan_is_noticed_in_the_frame_it_comes_in() -> None:
    watch = guard("Hello there.")
    assert feed(watch, LOUD, 3) is None
    assert watch.frame(np.full(1024, np.nan, np.float32)) is Fault.NAN
    assert watch.sane_frames == 3


def test_dead_air_ends_the_segment_where_speech_stopped() -> None:
    watch = guard(SENTENCE)
    assert feed(watch, LOUD, 10) is None
    assert feed(watch, QUIET, 100) is Fault.SILENCE
    assert watch.sane_frames == 10


def test_silence_is_fine_where_a_pause_was_asked_for() -> None:
    watch = guard("Wait [long pause] for it, and then for some more, please.")
    assert feed(watch, LOUD, 10) is None
    assert feed(watch, QUIET, 60) is None
    assert watch.sane_frames == 70


@pytest.mark.parametrize("text", ["Well... I do not know what to say.", "Well…I do not know.", "One.\n\nAnd then two."])
def test_a_hesitation_in_the_text_may_be_heard(text: str) -> None:
    watch = guard(text)
    assert feed(watch, LOUD, 10) is None
    assert feed(watch, QUIET, int(1.5 * DEAD_AIR_S / FRAME_S)) is None
    assert feed(watch, QUIET, 100) is Fault.SILENCE
    assert watch.sane_frames == 10


def test_a_pause_is_not_all_that_is_said() -> None:
    watch = guard("[pause] Then it began.")
    assert feed(watch, QUIET, 1000) is Fault.RUNAWAY
    assert watch.sane_frames == 0


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


@pytest.mark.parametrize("text", ["[laugh]", "[sighs softly] <|speaker:1|>", "…", "🎉", ""])
def test_where_no_word_is_asked_for_silence_is_no_failure(text: str) -> None:
    watch = guard(text)
    assert not watch.wanted
    assert feed(watch, QUIET, 20) is None
    assert watch.end() is None


def test_markup_is_not_spoken() -> None:
    bare, marked = reading_s("ab."), reading_s("<|speaker:3|>[whisper in small voice] ab.")
    assert bare[0] == marked[0] > 0


@given(st.text(max_size=60), st.text(max_size=60))
def test_more_text_never_takes_less_time(first: str, second: str) -> None:
    fastest, slowest = reading_s(f"{first} {second}")
    assert 0 <= fastest < slowest
    if "[" not in first + second:  # a tag may reach across the seam
        assert fastest >= max(reading_s(first)[0], reading_s(second)[0]) - 1e-9
