"""The resampler: exact in time, length and bits, short in delay, clean in sound."""

from math import ceil

import numpy as np
import numpy.typing as npt
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.resample import Resampler

Samples = npt.NDArray[np.float32]

FRAMES = {22050: 1024, 44100: 2048}  # samples of one codec frame (46.4 ms) at the two source rates we meet
TARGETS = (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
PAIRS = [(source, rate) for source in FRAMES for rate in TARGETS if rate != source]
# Rates whose cycle is long and cannot be cut evenly (a prime number of outputs), and rates with a whole-number ratio.
ODD_PAIRS = [(22050, 47675), (44100, 8025), (16000, 48000), (48000, 8000)]

every_pair = pytest.mark.parametrize(("source", "rate"), PAIRS + ODD_PAIRS)


def convert(samples: Samples, source: int, rate: int, pieces: list[int] | None = None) -> Samples:
    """The whole stream, fed in pieces of the given sizes, over and over; in one piece where none are given."""
    resampler, out, at, turn = Resampler(source, rate), [], 0, 0
    while at < len(samples):
        size = len(samples) if pieces is None else pieces[turn % len(pieces)]
        out.append(resampler.push(samples[at : at + size]))
        at, turn = at + size, turn + 1
    out.append(resampler.finish())
    return np.concatenate(out)


def noise(n: int, seed: int = 0) -> Samples:
    return (0.2 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def tone(hz: float, rate: int, seconds: float = 0.5) -> Samples:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def fit(samples: Samples, hz: float, rate: int) -> tuple[float, float, float]:
    """Gain of a `tone` (1 is unchanged), its delay in us, and all that is not the tone in dB below it; away from the ends."""
    when = np.arange(len(samples))[len(samples) // 4 : -len(samples) // 4] / rate
    basis = np.stack([np.sin(2 * np.pi * hz * when), np.cos(2 * np.pi * hz * when)], axis=1)
    middle = samples[len(samples) // 4 : -len(samples) // 4].astype(np.float64)
    (sine, cosine), *_ = np.linalg.lstsq(basis, middle, rcond=None)
    rest = middle - basis @ np.array([sine, cosine])
    delay_us = 1e6 * np.arctan2(-cosine, sine) / (2 * np.pi * hz)
    return float(np.hypot(sine, cosine) / 0.5), float(delay_us), float(20 * np.log10(np.std(rest) / np.std(middle)))


@settings(max_examples=60, deadline=None)
@given(
    pair=st.sampled_from(PAIRS + ODD_PAIRS),
    length=st.integers(1, 6000),
    pieces=st.lists(st.integers(1, 2500), min_size=1, max_size=8),
)
def test_the_pieces_change_nothing_to_the_bit(pair: tuple[int, int], length: int, pieces: list[int]) -> None:
    samples = noise(length)
    assert convert(samples, *pair, pieces).tobytes() == convert(samples, *pair).tobytes()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_pieces_of_a_few_samples_change_nothing_either(size: int) -> None:
    samples = noise(1500)
    assert convert(samples, 22050, 48000, [size]).tobytes() == convert(samples, 22050, 48000).tobytes()


@every_pair
def test_the_length_is_the_duration_rounded_up(source: int, rate: int) -> None:
    for n in (0, 1, 2, 3, 146, 147, 440, 441, 1024, 2048, 5000, source):
        out = convert(noise(n), source, rate, [1024])
        assert len(out) == -(-n * rate // source)
        assert out.dtype == np.float32


@every_pair
def test_a_tone_comes_out_in_phase_and_clean(source: int, rate: int) -> None:
    gain, delay_us, residue_db = fit(convert(tone(1000, source), source, rate), 1000, rate)
    assert abs(20 * np.log10(gain)) < 0.001
    assert abs(delay_us) < 0.02
    assert residue_db < -100


@every_pair
def test_the_pass_band_is_flat_up_to_nine_tenths_of_the_band(source: int, rate: int) -> None:
    for hz in np.linspace(50, 0.45 * min(source, rate), 9):
        gain, _, residue_db = fit(convert(tone(hz, source), source, rate), hz, rate)
        assert abs(20 * np.log10(gain)) < 0.005
        assert residue_db < -95


@pytest.mark.parametrize(("source", "rate"), [pair for pair in PAIRS + ODD_PAIRS if pair[1] < pair[0]])
def test_what_the_output_cannot_carry_is_gone(source: int, rate: int) -> None:
    for hz in np.linspace(0.5 * rate + 1, 0.5 * source - 1, 12):
        out = convert(tone(hz, source), source, rate)
        left = np.std(out[len(out) // 4 : -len(out) // 4]) / np.std(tone(hz, source))
        assert 20 * np.log10(left) < -85


@every_pair
def test_it_agrees_with_soxr_on_speech_band_noise(source: int, rate: int) -> None:
    lower = min(source, rate)
    spectrum = np.fft.rfft(noise(source).astype(np.float64))
    spectrum[np.fft.rfftfreq(source, 1 / source) > 0.43 * lower] = 0
    samples = (np.fft.irfft(spectrum, source) * np.hanning(source)).astype(np.float32)
    ours, theirs = convert(samples, source, rate), soxr.resample(samples, source, rate, quality="VHQ")
    shared = min(len(ours), len(theirs))
    assert abs(len(ours) - len(theirs)) <= 1
    assert (
        20 * np.log10(np.std(ours[:shared] - theirs[:shared]) / np.std(ours)) < -75
    )  # soxr rolls off a little earlier


@pytest.mark.parametrize(("source", "rate"), PAIRS)
def test_the_first_codec_frame_yields_a_packet_and_the_delay_stays(source: int, rate: int) -> None:
    resampler, frame = Resampler(source, rate), FRAMES[source]
    out_samples = 0
    for number in range(1, 60):
        out_samples += len(resampler.push(noise(frame)))
        if number == 1:
            assert out_samples / rate > 0.036  # 20 ms are asked for
        lag_s = number * frame / source - out_samples / rate
        assert 0 < lag_s < 58 / min(source, rate) + 0.0026  # half the filter, and one block of outputs


@every_pair
def test_a_constant_stays_constant_and_silence_silent(source: int, rate: int) -> None:
    out = convert(np.full(source, 0.25, np.float32), source, rate)
    assert np.abs(out[len(out) // 4 : -len(out) // 4] - 0.25).max() < 1e-6
    assert not convert(np.zeros(4000, np.float32), source, rate).any()


def test_the_last_input_sample_is_still_heard() -> None:
    samples = np.zeros(3000, np.float32)
    samples[-1] = 1.0
    out = convert(samples, 22050, 48000, [1024])
    assert int(np.argmax(np.abs(out))) in (ceil(2999 * 48000 / 22050) - 1, ceil(2999 * 48000 / 22050))


def test_a_buffer_may_be_reused_after_it_was_pushed() -> None:
    samples, buffer = noise(4096), np.zeros(512, np.float32)
    resampler, out = Resampler(44100, 24000), []
    for at in range(0, 4096, 512):
        buffer[:] = samples[at : at + 512]
        out.append(resampler.push(buffer))
        buffer[:] = np.nan
    out.append(resampler.finish())
    assert np.concatenate(out).tobytes() == convert(samples, 44100, 24000).tobytes()


@every_pair
def test_a_long_stream_holds_back_a_bounded_number_of_samples(source: int, rate: int) -> None:
    resampler = Resampler(source, rate)
    for _ in range(100):
        resampler.push(noise(1000))
    assert resampler._held.base is None and len(resampler._held) < 1000


@pytest.mark.parametrize(("source", "rate"), [(22050, 22050), (0, 8000), (8000, -1)])
def test_rates_that_leave_nothing_to_convert_are_refused(source: int, rate: int) -> None:
    with pytest.raises(ValueError, match=f"from {source} Hz to {rate} Hz"):
        Resampler(source, rate)
