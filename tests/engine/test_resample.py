"""The resampler against the filter's definition, and against what a listener would notice."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import resample as module
from engine.resample import resample

RATES = (8000, 16000, 22050, 24000, 44100, 48000)
Floats = npt.NDArray[np.float64]


def by_definition(samples: Floats, from_hz: int, to_hz: int) -> Floats:
    """The filter bank as it is specified: each phase a row over a whole period of inputs, applied at every period."""
    common = math.gcd(from_hz, to_hz)
    o, n = from_hz // common, to_hz // common
    f = min(o, n) * 0.99
    w = math.ceil(6 * o / f)
    i, j = np.arange(-w, w + o), np.arange(n)[:, None]
    t = np.clip(f * (i / o - j / n), -6, 6)
    kernel = np.sinc(t) * np.cos(np.pi * t / 12) ** 2 * f / o
    padded = np.pad(samples, (w, w + o))
    periods = np.lib.stride_tricks.sliding_window_view(padded, 2 * w + o)[::o]
    out: Floats = (periods @ kernel.T).reshape(-1)[: math.ceil(n * len(samples) / o)]
    return out


def sine(hz: float, rate: int, samples: int) -> npt.NDArray[np.float32]:
    return np.sin(2 * np.pi * hz * np.arange(samples) / rate).astype(np.float32)


@given(st.sampled_from(RATES), st.sampled_from(RATES), st.integers(0, 700), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_sample_is_the_filters(from_hz: int, to_hz: int, length: int, seed: int) -> None:
    samples = np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)
    got = resample(samples, from_hz, to_hz)
    assert got.dtype == np.float32
    assert len(got) == math.ceil(length * to_hz / from_hz)
    if from_hz != to_hz:
        np.testing.assert_allclose(got, by_definition(samples.astype(np.float64), from_hz, to_hz), atol=1e-6)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(48000, 44100), (16000, 44100), (44100, 22050), (8000, 48000)])
def test_a_tone_stays_the_same_tone(from_hz: int, to_hz: int) -> None:
    got = resample(sine(1000, from_hz, from_hz), from_hz, to_hz)
    expected = sine(1000, to_hz, to_hz)
    inner = slice(to_hz // 50, -to_hz // 50)  # the recording's edges are steps against silence
    assert np.abs(got - expected)[inner].max() < 2e-3


def test_what_the_lower_rate_cannot_carry_is_removed() -> None:
    got = resample(sine(15000, 48000, 48000), 48000, 22050)
    assert np.abs(got[500:-500]).max() < 5e-3


def test_the_same_rate_gives_an_equal_copy() -> None:
    samples = sine(440, 44100, 100)
    got = resample(samples, 44100, 44100)
    assert np.array_equal(got, samples)
    got[:] = 0
    assert samples.any()


def test_the_input_is_left_as_it_is() -> None:
    samples = sine(440, 48000, 1000)
    kept = samples.copy()
    resample(samples, 48000, 44100)
    assert np.array_equal(samples, kept)


@pytest.mark.parametrize("products", [1, 100, 5000])
def test_the_size_of_the_blocks_changes_nothing(products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = sine(300, 48000, 2000)
    whole = resample(samples, 48000, 44100)
    monkeypatch.setattr(module, "_BLOCK_PRODUCTS", products)
    assert np.array_equal(resample(samples, 48000, 44100), whole)


def test_rates_without_a_common_divisor_take_little_memory() -> None:
    """A kernel over whole periods of 44,101 inputs would have two thousand million weights."""
    tracemalloc.start()
    got = resample(sine(1000, 44101, 44101), 44101, 44100)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.abs(got - sine(1000, 44100, 44100))[1000:-1000].max() < 2e-3
    assert peak_bytes < 60e6


@pytest.mark.parametrize(("from_hz", "to_hz"), [(0, 44100), (44100, 0), (-8000, 8000)])
def test_impossible_rates_are_refused(from_hz: int, to_hz: int) -> None:
    with pytest.raises(ValueError, match=f"from {from_hz} Hz to {to_hz} Hz"):
        resample(np.zeros(3, dtype=np.float32), from_hz, to_hz)
