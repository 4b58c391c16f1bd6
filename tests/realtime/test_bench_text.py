"""What the benchmark's conversations say: never the same twice, and the same again for the same seed."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.config import Latency, TagMode
from realtime.bench_text import LEAST_CHARS, MEAN_CHARS, TURN_CHARS, text_of, text_of_length, typed
from realtime.segmenter import Segmenter


def first_segment(text: str) -> str:
    segmenter = Segmenter(Latency.LOW, TagMode.PERFORM)
    segmenter.push(text, 0.0)
    segmenter.end()
    return segmenter.take(0.0, 0.0)[0].text


def test_no_two_turns_say_the_same() -> None:
    texts = {text_of(seed, stream, turn) for seed in range(2) for stream in range(64) for turn in range(16)}
    assert len(texts) == 2 * 64 * 16


def test_strangers_say_something_new_of_a_log_normal_length() -> None:
    texts = [text_of_length(0, number) for number in range(2000)]
    lengths = [len(text) for text in texts]
    assert len(set(texts)) == len(texts) and texts[0] == text_of_length(0, 0) != text_of_length(1, 0)
    assert statistics.mean(lengths) == pytest.approx(MEAN_CHARS, rel=0.05)
    assert min(lengths) >= LEAST_CHARS - 14 and max(lengths) > 200, "a word is not cut"
    logs = [math.log(length) for length in lengths]
    assert statistics.stdev(logs) == pytest.approx(0.5, abs=0.07)
    assert abs(statistics.mean(logs) - statistics.median(logs)) < 0.04
    assert all(text.endswith(".") and not text.endswith((",.", " ..")) for text in texts)


def test_the_same_numbers_give_the_same_text() -> None:
    assert text_of(3, 1, 4) == text_of(3, 1, 4)


def test_turns_are_long_enough_for_several_segments_and_begin_differently() -> None:
    texts = [text_of(0, stream, turn) for stream in range(8) for turn in range(8)]
    assert all(TURN_CHARS <= len(text) <= 2 * TURN_CHARS + 40 for text in texts)
    assert len({first_segment(text) for text in texts}) > 16


@given(st.text(st.sampled_from("ab, .\n"), max_size=80), st.sampled_from([1.0, 37.5, 200.0]))
def test_what_is_typed_is_the_text_at_the_asked_rate(text: str, rate: float) -> None:
    deltas = typed(text, rate)
    assert "".join(delta for _, delta in deltas) == text
    written = 0
    for due_s, delta in deltas:
        assert due_s == pytest.approx(written / rate)
        assert 1 <= len(delta) <= 6
        written += len(delta)


def test_without_a_rate_the_text_is_one_delta() -> None:
    assert typed("One. Two.", 0) == [(0.0, "One. Two.")]
