"""Louder and softer speech that stays below full scale, and loudness as the standard measures it."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.loudness import (
    CEILING,
    REFERENCE_LUFS,
    SILENT_LUFS,
    STRIDE_S,
    Volume,
    at_loudness,
    decibels,
    loudness_lufs,
)

Samples = npt.NDArray[np.float32]

RATE = 22050


def sine(hz: float, seconds: float, level: float, rate: int = RATE) -> Samples:
    samples: Samples = (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)
    return samples


def words(seed: int = 1, seconds: float = 3.0) -> Samples:
    """Noise in syllables, with peaks of all heights up to full scale."""
    rng, when = np.random.default_rng(seed), np.arange(round(seconds * RATE)) / RATE
    samples = (
        0.2 * rng.standard_normal(len(when)) * (1 + np.sin(2 * np.pi * 4 * when)) * (0.2 + np.sin(np.pi * when / 3))
    )
    made: Samples = np.clip(samples, -1, 1).astype(np.float32)
    return made


def turned(samples: Samples, volume_db: float, sizes: tuple[int, ...] = (1024,)) -> Samples:
    volume, parts, at, turn = Volume(RATE, volume_db), [np.zeros(0, np.float32)], 0, 0
    while at < len(samples):
        size = sizes[turn % len(sizes)]
        parts.append(volume.push(samples[at : at + size]))
        at, turn = at + size, turn + 1
    return np.concatenate([*parts, volume.finish()])


@pytest.mark.parametrize("volume_db", [-20.0, -6.0, 3.0, 12.0])
def test_quiet_speech_is_multiplied_and_nothing_else(volume_db: float) -> None:
    samples = sine(200, 1.0, 0.1)
    np.testing.assert_allclose(turned(samples, volume_db), samples * 10 ** (volume_db / 20), rtol=1e-5)


@given(volume_db=st.floats(0.1, 20.0), seed=st.integers(0, 50), n=st.integers(0, 30000))
@settings(max_examples=30, deadline=None)
def test_raised_speech_is_as_long_and_never_passes_the_ceiling(volume_db: float, seed: int, n: int) -> None:
    samples = words(seed)[:n]
    out = turned(samples, volume_db)
    assert len(out) == n
    assert np.max(np.abs(out), initial=0.0) <= CEILING * (1 + 1e-6)


@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6), volume_db=st.sampled_from((-7.0, 5.0, 20.0)))
@settings(max_examples=30, deadline=None)
def test_pieces_change_nothing(sizes: list[int], volume_db: float) -> None:
    samples = words()
    whole = turned(samples, volume_db, (len(samples),))
    assert turned(samples, volume_db, tuple(sizes)).tobytes() == whole.tobytes()


def test_sound_comes_at_most_two_strides_later() -> None:
    volume, got = Volume(RATE, 6.0), 0
    for at in range(0, RATE, 16):
        got += len(volume.push(words()[at : at + 16]))
        assert at + 16 - got <= 2 * STRIDE_S * RATE + 16


def test_limiting_a_steady_tone_only_makes_it_softer() -> None:
    samples = sine(100, 2.0, 0.8)
    out = turned(samples, 12.0)[RATE // 2 :]
    shape = samples[RATE // 2 :]
    fitted = shape * (np.dot(out, shape) / np.dot(shape, shape))
    # At 100 Hz the gain rises by 0.3 dB between two peaks; a clipper would leave -8 dB.
    assert decibels(float(np.std(out - fitted) / np.std(out))) < -30


def test_the_volume_comes_back_after_a_peak() -> None:
    quiet = sine(200, 1.0, 0.05)
    out = turned(np.concatenate((quiet, sine(200, 0.1, 1.0), quiet)), 12.0)
    wanted = 0.05 * 10 ** (12 / 20)
    assert np.max(np.abs(out[: RATE - 200])) == pytest.approx(wanted, rel=0.01)
    assert np.max(np.abs(out[-RATE // 2 :])) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("volume_db", [-20.1, 20.1, float("nan")])
def test_a_volume_out_of_range_is_refused(volume_db: float) -> None:
    with pytest.raises(ValueError, match="volume_db"):
        Volume(RATE, volume_db)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_a_full_tone_has_the_loudness_that_the_standard_gives_it(rate: int) -> None:
    assert loudness_lufs(sine(997, 3.0, 1.0, rate), rate) == pytest.approx(-3.01, abs=0.05)


def test_ears_hear_treble_better_than_bass() -> None:
    bass, treble = (loudness_lufs(sine(hz, 3.0, 0.1, 48000), 48000) for hz in (38.1355, 10000))
    assert treble - bass == pytest.approx(4 + 6, abs=0.4)  # the shelf, and half the amplitude at the high-pass's corner


def test_pauses_do_not_count() -> None:
    said = words()
    assert loudness_lufs(np.concatenate((said, np.zeros(5 * RATE, np.float32), said)), RATE) == pytest.approx(
        loudness_lufs(said, RATE), abs=0.3
    )


def test_silence_is_as_silent_as_can_be() -> None:
    assert loudness_lufs(np.zeros(RATE, np.float32), RATE) == SILENT_LUFS
    assert loudness_lufs(np.zeros(0, np.float32), RATE) == SILENT_LUFS


@pytest.mark.parametrize("level_db", [-40.0, -20.0, -6.0])
def test_recordings_come_to_one_loudness(level_db: float) -> None:
    samples = words() * np.float32(10 ** (level_db / 20))
    assert loudness_lufs(at_loudness(samples, RATE), RATE) == pytest.approx(REFERENCE_LUFS, abs=0.05)


def test_a_recording_with_one_high_peak_is_not_clipped() -> None:
    samples = sine(200, 3.0, 0.001)
    samples[RATE] = 0.9
    out = at_loudness(samples, RATE)
    assert np.max(np.abs(out)) == pytest.approx(CEILING)
    np.testing.assert_allclose(out, samples * (CEILING / np.float32(0.9)), rtol=1e-5)


def test_a_silent_recording_stays_silent() -> None:
    assert not at_loudness(np.zeros(RATE, np.float32), RATE).any()


def test_a_long_recording_is_as_loud_as_its_parts() -> None:
    half_minute = np.tile(words(), 9)
    assert loudness_lufs(np.tile(half_minute, 4), RATE) == pytest.approx(loudness_lufs(half_minute, RATE), abs=0.1)


def test_less_than_a_step_has_a_loudness_too() -> None:
    assert loudness_lufs(sine(997, 0.05, 1.0), RATE) == pytest.approx(-3.0, abs=0.5)
