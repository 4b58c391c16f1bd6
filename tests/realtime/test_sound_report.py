"""The command that measures the time stretch on recordings."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from realtime.sound_report import SpeedFigures, main, pitch_ratios, pitches

RATE = 22050


def vowel(hz: float, seconds: float = 1.5) -> npt.NDArray[np.float32]:
    when = np.arange(round(seconds * RATE)) / RATE
    sound = sum(0.1 * np.sin(2 * np.pi * hz * k * when + k * k) / k for k in range(1, int(4000 / hz)))
    samples: npt.NDArray[np.float32] = np.asarray(sound, np.float32)
    return samples


@pytest.mark.parametrize("hz", [70.0, 123.4, 250.0, 380.0])
def test_a_steady_pitch_is_found(hz: float) -> None:
    np.testing.assert_allclose(pitches(vowel(hz), RATE), hz, rtol=0.003)


def test_noise_and_silence_have_no_pitch() -> None:
    noise = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
    assert not pitches(noise, RATE).any()
    assert not pitches(np.zeros(RATE, np.float32), RATE).any()


def test_a_changed_pitch_is_seen() -> None:
    assert np.median(pitch_ratios(vowel(150.0), vowel(159.0), RATE, 1.0)) == pytest.approx(1.06, abs=0.002)


def test_the_report_ends_in_json_and_holds_the_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "one.wav", tmp_path / "two.wav"]
    soundfile.write(files[0], vowel(140.0), RATE)
    soundfile.write(files[1], vowel(140.0) * 0.5, RATE)
    assert main([str(file) for file in files]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed[-1])["largest_step_lu"] == pytest.approx(6.02, abs=0.05)
    assert not any("BROKEN" in line for line in printed)


@pytest.mark.parametrize("figure", [{"duration_error": -0.031}, {"pitch_bias": 0.021}, {"delay_ms": 31.0}])
def test_a_broken_promise_is_noticed(figure: dict[str, float]) -> None:
    fine = {"speed": 2.0, "duration_error": 0.0, "pitch_bias": 0.0, "pitch_p90": 0.0, "delay_ms": 9.0, "cpu_ms": 1.0}
    assert not SpeedFigures(voiced=9, **fine).broken
    assert SpeedFigures(voiced=9, **(fine | figure)).broken
