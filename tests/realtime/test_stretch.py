"""Faster and slower speech: exact in length, the same pitch, no seams, the same however it comes in pieces."""

from math import ceil

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.sound_report import pitch_ratios
from realtime.stretch import BLOCK_S, MAX_HOLD_S, MAX_SHIFT_S, MAX_SPEED, MIN_SPEED, TimeStretch

Samples = npt.NDArray[np.float32]

RATES = (22050, 44100)
SPEEDS = (0.25, 0.5, 0.8, 0.97, 1.03, 1.25, 2.0, 3.0, 4.0)
every_speed = pytest.mark.parametrize("speed", SPEEDS)
every_rate = pytest.mark.parametrize("rate", RATES)


def stretched(samples: Samples, rate: int, speed: float, sizes: tuple[int, ...] = (1024,)) -> Samples:
    stretch, parts, at, turn = TimeStretch(rate, speed), [np.zeros(0, np.float32)], 0, 0
    while at < len(samples):
        size = sizes[turn % len(sizes)]
        parts.append(stretch.push(samples[at : at + size]))
        at, turn = at + size, turn + 1
    return np.concatenate([*parts, stretch.finish()])


def tone(hz: float, seconds: float, rate: int) -> Samples:
    """Harmonics of one pitch, up to 3 kHz."""
    when = np.arange(round(seconds * rate)) / rate
    samples: Samples = (
        sum(0.1 * np.sin(2 * np.pi * hz * k * when + k * k) / k for k in range(1, int(3000 / hz)))
    ).astype(np.float32)
    return samples


def glide(low_hz: float, seconds: float, rate: int) -> Samples:
    """A voice whose pitch wanders between `low_hz` and 1.5 times as much."""
    when = np.arange(round(seconds * rate)) / rate
    hz = low_hz * (1.25 - 0.25 * np.cos(2 * np.pi * 0.8 * when))
    phase = 2 * np.pi * np.cumsum(hz) / rate
    samples: Samples = (sum(0.1 * np.sin(k * phase + k * k) / k**1.2 for k in range(1, 25))).astype(np.float32)
    return samples


def noise(seconds: float, rate: int, level: float = 0.1) -> Samples:
    samples: Samples = (level * np.random.default_rng(1).standard_normal(round(seconds * rate))).astype(np.float32)
    return samples


def talk(rate: int) -> Samples:
    """A second and more of voice, noise and silence in turn, with hard beginnings."""
    return np.concatenate(
        (
            glide(110, 0.4, rate),
            noise(0.15, rate),
            np.zeros(rate // 10, np.float32),
            noise(0.02, rate),
            tone(210, 0.4, rate),
        )
    )


def power_db(samples: Samples) -> float:
    return float(10 * np.log10(np.mean(samples.astype(np.float64) ** 2) + 1e-20))


@given(
    n=st.integers(0, 8000),
    speed=st.floats(MIN_SPEED, MAX_SPEED),
    rate=st.sampled_from((8000, 22050, 24000, 44100, 48000)),
)
@settings(max_examples=60, deadline=None)
def test_the_output_is_as_long_as_the_speed_says(n: int, speed: float, rate: int) -> None:
    head = min(3, n // ceil(BLOCK_S * rate)) * ceil(BLOCK_S * rate) if speed > 1 else 0
    assert len(stretched(talk(rate)[:n], rate, speed)) == max(round(n / speed), head)


@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6), speed=st.floats(MIN_SPEED, MAX_SPEED))
@settings(max_examples=40, deadline=None)
def test_pieces_change_nothing(sizes: list[int], speed: float) -> None:
    samples = talk(22050)
    whole = stretched(samples, 22050, speed, (len(samples),))
    assert stretched(samples, 22050, speed, tuple(sizes)).tobytes() == whole.tobytes()


@every_speed
@every_rate
@pytest.mark.parametrize("low_hz", [75.0, 140.0, 230.0])
def test_the_pitch_stays_wherever_it_wanders(low_hz: float, rate: int, speed: float) -> None:
    samples = glide(low_hz, 2.5 if speed < 1 else 4.0, rate)  # two of its waves are heard in either
    ratios = pitch_ratios(samples, stretched(samples, rate, speed), rate, speed)
    assert len(ratios) > 100
    assert abs(np.median(ratios) - 1) < 0.01
    assert np.quantile(np.abs(ratios - 1), 0.9) < 0.035


@every_speed
@every_rate
@pytest.mark.parametrize("hz", [110.0, 137.0, 220.0, 331.0])
def test_a_steady_tone_has_no_seams(hz: float, rate: int, speed: float) -> None:
    out = stretched(tone(hz, 2.0, rate), rate, speed)[rate // 20 : -rate // 20]
    window = rate // 20
    harmonics = np.arange(1, int(3000 / hz))[:, None] * 2 * np.pi * hz * np.arange(window) / rate
    basis = np.concatenate((np.cos(harmonics), np.sin(harmonics))).T
    parts = out[: len(out) // window * window].reshape(-1, window).T
    rest = parts - basis @ np.linalg.lstsq(basis, parts, rcond=None)[0]
    # What is not the tone. A splice at a random place gives -3 dB, one that is off by a sample at 22 kHz -25 dB.
    assert power_db(rest) - power_db(out) < -20


@every_speed
def test_noise_stays_noise(speed: float) -> None:
    rate = 22050
    samples = noise(4.0, rate)
    out = stretched(samples, rate, speed)
    assert abs(power_db(out) - power_db(samples)) < 0.3
    spectrum = np.abs(np.fft.rfft(out, 1 << (2 * len(out)).bit_length())) ** 2
    repeats = np.fft.irfft(spectrum)
    # Noise has 0.007 by chance; searched places gave 0.3 at speed 0.25, and a buzz.
    assert np.max(np.abs(repeats[rate // 500 : rate // 20])) / repeats[0] < 0.03


@pytest.mark.parametrize("speed", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("gap_ms", [25, 40, 200])
def test_an_onset_is_heard_once(gap_ms: int, speed: float) -> None:
    rate, bursts = 22050, 12
    parts = []
    for index in range(bursts):
        silence = np.zeros(rate * gap_ms // 1000 + 37 * index, np.float32)  # so that it falls anywhere in a block
        parts += [noise(0.06, rate), silence]
    out = stretched(np.concatenate(parts), rate, speed)
    step = rate // 500
    loud = np.mean(out[: len(out) // step * step].reshape(-1, step) ** 2, axis=1) > 1e-4
    onsets = int(loud[0]) + int(np.sum(loud[1:] & ~loud[:-1]))
    assert onsets == bursts


@every_speed
def test_silence_stays_silence(speed: float) -> None:
    assert not stretched(np.zeros(22050, np.float32), 22050, speed).any()


@every_speed
def test_time_does_not_drift(speed: float) -> None:
    rate = 22050
    samples = np.concatenate(
        [part for _ in range(20) for part in (tone(150, 0.5, rate), np.zeros(rate // 2, np.float32))]
    )
    out = stretched(samples, rate, speed)
    loud = np.abs(out) > 0.01
    ends = np.array(
        [np.flatnonzero(loud[: round((second + 0.75) / speed * rate)])[-1] / rate * speed for second in range(20)]
    )
    assert np.max(np.abs(ends - np.arange(20) - 0.5)) < MAX_SHIFT_S + MAX_HOLD_S + BLOCK_S * max(1, speed / 2)


@every_speed
@every_rate
def test_sound_comes_at_most_30_ms_later_than_it_could(rate: int, speed: float) -> None:
    for samples in (glide(80, 1.0, rate), noise(1.0, rate), np.zeros(rate, np.float32)):
        stretch, known, got = TimeStretch(rate, speed), 0, 0
        for at in range(0, rate, 64):
            got += len(stretch.push(samples[at : at + 64]))
            known += len(samples[at : at + 64])
            # A block more, because sound comes in blocks.
            assert known / rate - (got / rate + BLOCK_S) * speed < 0.030


@every_speed
@every_rate
def test_a_first_packet_comes_out_of_the_first_codec_frame(rate: int, speed: float) -> None:
    frame = glide(110, 1.0, rate)[: round(rate * 1024 / 22050)]
    assert len(TimeStretch(rate, speed).push(frame)) >= min(0.030, 0.030 / speed + 0.0225) * rate


@pytest.mark.parametrize("speed", [1.03, 1.5, 2.0, 3.0, 4.0])
def test_a_fast_turn_has_caught_up_soon(speed: float) -> None:
    rate, middle_s = 22050, 0.14 * speed
    samples = np.concatenate((tone(200, middle_s, rate), np.zeros(rate, np.float32)))
    loud = np.flatnonzero(np.abs(stretched(samples, rate, speed)) > 0.02)
    assert loud[-1] / rate == pytest.approx(0.14, abs=0.02)


def test_memory_is_bounded() -> None:
    stretch = TimeStretch(22050, 4.0)
    for _ in range(200):
        stretch.push(noise(0.05, 22050))
    assert len(stretch._held) < 22050 * 0.2


@pytest.mark.parametrize("speed", [0.0, 0.24, 4.01, -1.0, float("nan"), float("inf")])
def test_a_speed_out_of_range_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        TimeStretch(22050, speed)
