"""What counts as speech, on numbers alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.guard import DEAD_AIR_S, LINGER_S, STUCK_S, Fault, SegmentGuard, reading_s

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


# What espeak-ng takes at 450 and at 80 words a minute, in seconds; its voice is the language's.
READINGS = [
    ("Hello there.", 0.30, 2.41),
    ("This sentence takes a good while to say.", 0.92, 5.20),
    ("I.", 0.14, 1.53),
    ("Hmm.", 0.17, 1.58),
    ("x", 0.17, 1.49),
    ("WWW", 0.61, 3.45),
    ("wxyz qwrt", 0.74, 4.33),
    ("Noooooo!!!", 0.22, 2.09),
    ("1984", 0.67, 3.98),
    ("1,234,567", 1.72, 9.21),
    ("123456789012", 2.57, 13.00),
    ("1000000000000", 0.34, 2.37),
    ("0171 2345678", 2.22, 11.48),
    ("50% of $3.99", 1.00, 5.72),
    ("3 + 4 = 7", 0.75, 4.71),
    ("§§ 12-14 ½ № 5", 1.30, 7.13),
    ("C++ & C#", 0.66, 3.89),
    ("(a) b; c: d - e", 0.54, 5.65),
    ("NASA and the FBI, etc.", 0.76, 4.94),
    ("https://www.example.com/a/b?x=1&y=2", 3.12, 15.93),
    ("user.name+tag@example.co.uk", 1.38, 7.32),
    ("/usr/local/lib/python3.11/site-packages", 1.94, 10.07),
    ("a3f9c2e1b7d04586", 1.54, 9.19),
    ("🎉🎉 Yay", 0.43, 2.99),
    ("Donaudampfschifffahrtsgesellschaft", 0.79, 4.21),
    ("Здравствуйте, как дела?", 0.62, 3.48),
    ("Καλημέρα κόσμε", 0.41, 2.77),
    ("שלום עולם מה שלומך", 0.66, 3.83),
    ("مرحبا بالعالم كيف حالك", 0.93, 5.45),
    ("नमस्ते दुनिया, आप कैसे हैं?", 0.72, 4.85),
    ("வணக்கம் உலகம்", 0.44, 2.73),
    ("สวัสดีครับ ยินดีที่ได้รู้จัก", 1.05, 5.52),
    ("你好，世界", 0.65, 4.42),
    ("很高兴认识你，今天天气很好。", 2.12, 11.29),
    ("2024年12月31日", 1.33, 8.35),
    ("こんにちは、ありがとうございます。", 0.83, 5.35),
    ("안녕하세요 만나서 반갑습니다.", 1.08, 6.00),
]


@pytest.mark.parametrize(("text", "quick_s", "slow_s"), READINGS)
def test_hurried_and_slow_readings_are_readings(text: str, quick_s: float, slow_s: float) -> None:
    fastest, slowest = reading_s(text)
    assert fastest < 0.9 * quick_s and 1.1 * slow_s < slowest


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("[laugh]", 5.0), ("[laughs] [sighs] No.", 8.0), ("https://example.com/" + "a" * 12, 0.8)],  # who reads a URL out?
)
def test_a_reading_may_be_its_own(text: str, seconds: float) -> None:
    watch = guard(text)
    assert feed(watch, LOUD, int(seconds / FRAME_S)) is None
    assert watch.end() is None


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


def walk(watch: SegmentGuard, places: list[int]) -> Fault | None:
    """One frame of speech for each place in the text."""
    for place in places:
        fault = watch.frame(LOUD, place)
        if fault is not None:
            return fault
    return None


def test_speech_that_stays_at_one_word_for_seconds_is_cut_behind_it() -> None:
    watch = guard(SENTENCE)
    there = 20
    stays = int(STUCK_S / FRAME_S)
    assert walk(watch, [*range(there), *[there] * (stays + 1)]) is None
    assert watch.frame(LOUD, there) is Fault.RUNAWAY
    assert watch.sane_frames == there + round(LINGER_S / FRAME_S)


def test_speech_that_gets_on_is_not_stuck_however_slow() -> None:
    assert walk(guard(SENTENCE), [place for place in range(8) for _ in range(40)]) is None


def test_a_tag_may_take_longer_and_a_pause_as_long_as_it_likes() -> None:
    stays = int(STUCK_S / FRAME_S) + 3
    assert walk(guard("[laugh] " + SENTENCE), [0] * stays) is None
    assert walk(guard("Well. [pause] " + SENTENCE), [5] * 2 * stays) is None
