from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from realtime.recording import Array, Measures, measure
from tests.realtime.speechlike import RATE, below, clean, in_room, with_music, with_noise


def measured(sound: Array, rate: int = RATE) -> Measures:
    """As it comes out of a file of 16 bits."""
    rounded = np.clip(np.round(sound * 32768), -32768, 32767) / 32768
    return measure(rounded.astype(np.float32), rate)


@cache
def dry(seed: int = 0) -> Measures:
    return measured(clean(seed=seed))


def test_clean_speech_shows_nothing_but_itself() -> None:
    found = dry()
    assert found.seconds == 10.0 and found.rate == RATE
    assert found.peak == pytest.approx(0.4, abs=0.01)
    assert found.noise_db is not None and found.noise_db > 45
    assert found.flatness is not None and found.flatness > 0.5
    assert found.decay_s is not None and found.decay_s < 0.1
    assert found.edge_hz is None and found.flat_tops == 0


@pytest.mark.parametrize("snr_db", [10, 20, 30])
def test_noise_is_measured_within_two_decibels(snr_db: float) -> None:
    noise_db = measured(with_noise(clean(), snr_db)).noise_db
    assert noise_db == pytest.approx(snr_db, abs=2)


def test_level_changes_nothing_but_the_levels() -> None:
    quiet = measured(clean() / 4)
    assert quiet.loud_db == pytest.approx(dry().loud_db - 12.04, abs=0.1)
    assert quiet.spoken_s == dry().spoken_s and quiet.edge_hz is None and quiet.flat_tops == 0


def test_an_offset_of_all_samples_is_no_sound() -> None:
    assert measured(clean() + 0.2).noise_db == pytest.approx(dry().noise_db, abs=0.1)


@pytest.mark.parametrize("snr_db", [10, 20, 30])
def test_music_between_the_words_is_told_from_noise(snr_db: float) -> None:
    music = measured(with_music(clean(), snr_db)).flatness
    noise = measured(with_noise(clean(), snr_db)).flatness
    assert music is not None and noise is not None
    assert music < 0.05 and noise > 0.5


@pytest.mark.parametrize("decay_s", [0.4, 0.7])
def test_a_room_is_heard_after_the_words(decay_s: float) -> None:
    found = measured(in_room(clean(), decay_s)).decay_s
    assert found == pytest.approx(decay_s, rel=0.35)


@pytest.mark.parametrize("hz", [7_000, 11_000, 16_000, 18_000])
def test_an_edge_of_the_spectrum_is_found_where_it_is(hz: float) -> None:
    found = measured(below(clean(), hz) + 1e-5 * np.random.default_rng(0).standard_normal(len(clean()))).edge_hz
    assert found == pytest.approx(hz, abs=400)


def test_a_converters_own_filter_is_no_edge() -> None:
    assert measured(below(clean(), 21_500)).edge_hz is None


@pytest.mark.parametrize("gain", [1.5, 4.0])
@pytest.mark.parametrize("later", [1.0, 0.3])
def test_a_wave_that_was_cut_off_level_shows_it_at_any_level(gain: float, later: float) -> None:
    assert measured(np.clip(clean() / 0.4 * gain, -1, 1) * later).flat_tops > 10


def test_silence_at_both_ends_is_measured() -> None:
    hiss = 1e-4 * np.random.default_rng(0).standard_normal(3 * RATE)
    found = measured(np.concatenate([hiss, clean(), hiss[:RATE]]))
    assert found.before_s == pytest.approx(3 + dry().before_s, abs=0.03)
    assert found.after_s == pytest.approx(1 + dry().after_s, abs=0.03)
    assert found.spoken_s == pytest.approx(dry().spoken_s, abs=0.05)


def test_edited_silence_says_nothing_about_the_noise() -> None:
    sound = with_noise(clean(), 20)
    gated = np.concatenate([sound, np.zeros(3 * RATE)])
    assert measured(gated).noise_db == pytest.approx(20, abs=2)


def test_an_editors_cut_between_the_words_hides_no_noise() -> None:
    sound = with_noise(clean(), 20)
    sound[3 * RATE : 3 * RATE + RATE // 2] = 0
    assert measured(sound).noise_db == pytest.approx(20, abs=2)


def test_pauses_without_any_sound_tell_nothing_of_noise_or_music_but_that_words_end_dry() -> None:
    """As a synthesizer or a gate makes them. What is quiet in such a recording is speech."""
    frames = clean().reshape(-1, 480)
    gated = np.where(np.abs(frames).max(axis=1, keepdims=True) > 0.002, frames, 0).ravel()
    found = measured(gated)
    assert found.noise_db is None and found.flatness is None
    assert found.decay_s is not None and found.decay_s < 0.1


@pytest.mark.parametrize("count", [960, 5_000, RATE])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_recording_without_anything_is_measured_without_a_fault(count: int, value: float) -> None:
    found = measure(np.full(count, value, np.float32), RATE)
    assert found.seconds == count / RATE and found.loud_db < -100


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 96_000])
def test_other_rates_are_measured_the_same_way(rate: int) -> None:
    step = RATE / rate
    at = np.arange(0, len(clean()) - 1, step)
    found = measure(np.interp(at, np.arange(len(clean())), clean()).astype(np.float32), rate)
    assert found.seconds == pytest.approx(10.0, abs=0.01)
    assert found.noise_db is not None and found.noise_db > 35
    assert found.decay_s is not None and found.decay_s < 0.15
