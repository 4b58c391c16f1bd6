"""The report measures what it says, and notices what is broken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from realtime import hearing_report
from realtime.hearing_report import Alarms, Starts, alone, broken_promises, in_noise, in_silence, main
from realtime.hearing_sounds import NoSpeech, Phrase, echo, noises, over_noise, phrases, speech_db
from tests.realtime.hearing_fixtures import FOLDER, recorded

GOOD = Starts("quiet room", 40, 0, 0, 0, 220, 300, 500, True)


def test_what_is_measured_of_recorded_phrases_keeps_the_promises() -> None:
    said = [Phrase("wait", recorded("wait")), Phrase("moment", recorded("moment"))]
    answer = recorded("answer")
    starts, alarms = in_noise(said), in_silence(5.0, said) + alone(answer[: len(answer) // 2])
    assert broken_promises(starts, alarms) == []
    assert all(row.missed == row.early == 0 and 100 < row.delay_p50_ms < 400 for row in starts)
    assert all(row.unguarded for row in alarms if "own voice" in row.condition), (
        "without the guard it interrupts itself"
    )


def test_silence_that_is_called_speech_is_missed_speech() -> None:
    quiet = Phrase("nothing", np.zeros(16_000, np.float32))
    rows = in_noise([quiet])
    assert all(row.missed == 1 for row in rows)
    assert any("1 of 1 starts were missed" in text for text in broken_promises(rows, []))


@pytest.mark.parametrize("change", [{"missed": 2}, {"delay_p50_ms": 261.0}, {"delay_p95_ms": 451.0}])
def test_a_broken_promise_is_named(change: dict[str, float]) -> None:
    row = replace(GOOD, **change)  # type: ignore[arg-type]
    assert len(broken_promises([GOOD, row], [])) == 1
    assert broken_promises([replace(row, promised=False)], []) == []


def test_false_alarms_break_a_promise_where_there_is_one() -> None:
    rows = [Alarms("pink", 2.0, 1), Alarms("babble", 2.0, 9, promised=False), Alarms("hum", 2.0, 0)]
    assert broken_promises([], rows) == ["pink: 0.50 false alarms a minute"]


def test_the_command_prints_tables_and_one_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The parts that take long are measured above.
    monkeypatch.setattr(hearing_report, "in_noise", lambda said: [replace(GOOD, phrases=len(said), missed=1)])
    monkeypatch.setattr(hearing_report, "over_own_voice", lambda said, own: [])
    monkeypatch.setattr(hearing_report, "alone", lambda own: [])
    soundfile.write(tmp_path / "wait.wav", recorded("wait"), 16_000)
    assert main(["--quick", "--speech", str(tmp_path), "--voice", str(FOLDER)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "| quiet room | 1 | 1 | 0 | 0 | 220 ms | 300 ms | 500 ms |" in lines
    assert "quiet room: 1 of 1 starts were missed" in json.loads(lines[-1])["broken"]


def test_without_speech_the_command_says_what_would_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--speech", str(tmp_path)]) == 2
    assert "has no .wav, .flac or .ogg file" in capsys.readouterr().err
    with pytest.raises(NoSpeech):
        phrases(tmp_path)


def test_recordings_are_cut_to_what_is_audible_and_made_equally_loud(tmp_path: Path) -> None:
    loud = np.concatenate((np.zeros(8_000), 3.0 * recorded("wait"), np.zeros(8_000)))
    soundfile.write(tmp_path / "wait.flac", loud, 16_000)
    (phrase,) = phrases(tmp_path)
    assert len(phrase.sound) == pytest.approx(len(recorded("wait")), abs=320)
    assert speech_db(phrase.sound) == pytest.approx(-26.0, abs=0.1)


def test_noise_lies_as_far_below_speech_as_asked_for() -> None:
    added = over_noise(np.zeros(16_000, np.float32), 10, noises(1.5)["pink"])
    assert 10 * np.log10(np.mean(added**2)) == pytest.approx(-36.0, abs=0.1)


def test_an_echo_is_late_and_as_loud_as_asked_for() -> None:
    answer = recorded("answer")
    heard = echo(answer, -12, 0.25, 0.3)
    assert not heard[: int(0.25 * 16_000)].any()
    assert speech_db(heard) == pytest.approx(speech_db(answer) - 12, abs=0.1)
