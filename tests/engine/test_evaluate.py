"""`python -m engine.evaluate` as a person or a program meets it: what it prints, what it refuses, and how figures are judged."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from engine.api import SamplingParams
from engine.evaluate import carry, clarity, tags, trial, voices
from engine.evaluate.__main__ import main
from engine.evaluate.listening import Ear
from engine.evaluate.report import Row, json_line, share, table
from engine.evaluate.speaking import Mouth, Setting
from engine.evaluate.trial import Sizes, Trial, middle
from engine.evaluate.weights import weights_sha256
from engine.train.speaker_net import SpeakerNet
from tests.engine.evaluating import MINI, ROOT, TEXTS, teacher, untrained

TINY = Sizes(2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


@pytest.fixture
def one_thread() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Run:
    """The command on the mini and two sentences, with networks that know nothing, in this process."""
    monkeypatch.setattr("engine.evaluate.__main__.QUICK", TINY)
    recognizer, speaker = untrained(tmp_path)
    (tmp_path / "own.txt").write_text(f"{TEXTS[0]}\n\n  {TEXTS[3]}\n", encoding="utf-8")

    def call(*options: str, checkpoint: str = "mini", sentences: Path = tmp_path / "own.txt") -> int:
        fixed = [checkpoint, "--quick", "--workers", "0", "--device", "cpu", "--sentences", str(sentences)]
        listen = ["--recognizer-weights", str(recognizer), "--speaker-weights", str(speaker)]
        return main([*fixed, *listen, *options])

    return call


def test_a_table_is_printed_and_the_last_line_is_one_json_object(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("--only", "clarity", "--json-out", str(tmp_path / "out.json")) == 0
    printed = capsys.readouterr()
    *lines, last = printed.out.splitlines()
    figures = json.loads(last)
    assert {
        "phoneme_error_rate",
        "teacher_phoneme_error_rate",
        "retrieval_top1",
        "last_word_recognised",
        "opening_duration_in_range",
    } <= figures.keys()
    assert all(0 <= value <= 1 for name, value in figures.items() if isinstance(value, float) and "error" not in name)
    assert figures["conditions"]["sentences"] == 2
    assert figures["conditions"]["weights"] == weights_sha256(MINI)
    assert any(line.startswith("phoneme error rate") and "<=" in line for line in lines)
    assert "everything that needs no history" in printed.err
    assert json.loads((tmp_path / "out.json").read_text()) == figures


def test_the_figures_say_in_which_arithmetic_they_came_about(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--only", "clarity", "--dtype", "bfloat16", "--quantize", "fp8") == 0
    conditions = json.loads(capsys.readouterr().out.splitlines()[-1])["conditions"]
    assert conditions["dtype"] == "bfloat16, slow stack fp8"
    assert conditions["plain"] is False


def test_sentences_are_cut_behind_openings_of_three_to_twelve_words_without_a_sign() -> None:
    long = " ".join("word" for _ in range(20))
    texts = [f"{long}."] * 11 + ["Yes, of course I would like that.", "Two words."]
    found = clarity.openings(texts, 12)
    assert [len(text[:at].split()) for text, at in found] == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 3]
    assert all(text[at] == " " for text, at in found)
    assert clarity.openings(["Yes, of course.", "No."], 5) == []
    assert len(clarity.openings(texts, 2)) == 2


def test_the_sentences_given_are_the_ones_spoken(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = tmp_path / "work"
    run("--only", "clarity", "--work", str(work))
    kept = len(list(work.glob("*.npz")))
    other = tmp_path / "other.txt"
    other.write_text("One, two.\nThree, four.\n")
    run("--only", "clarity", "--work", str(work), sentences=other)
    assert len(list(work.glob("*.npz"))) > kept
    run("--only", "clarity", "--work", str(work))
    assert "turns" not in capsys.readouterr().err.rpartition("turns at once")[2]  # the third run found everything kept


def test_what_cannot_be_measured_is_refused_in_one_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in MINI.iterdir():
        if file.is_file():
            (broken / file.name).symlink_to(file)
    (broken / "config.json").unlink()
    (broken / "config.json").write_text("{}")
    for refused in (
        lambda: run(sentences=empty),
        lambda: run(sentences=tmp_path / "missing.txt"),
        lambda: run(checkpoint="no such model"),
        lambda: run(checkpoint=str(broken)),
        lambda: run("--recognizer-weights", str(tmp_path / "missing.pt")),
        lambda: run("--seed-tts", str(empty)),
        lambda: run("--speaker-model", "x"),
        lambda: run("--rows", "0"),
        lambda: run("--workers", "-1"),
        lambda: run("--temperature", "0"),
        lambda: run("--top-p", "1.1"),
        lambda: run("--device", "abacus"),
        lambda: run("--plain"),
        lambda: run("--json-out", str(tmp_path / "nowhere" / "out.json")),
        lambda: run("--json-out", str(tmp_path)),
        lambda: run("--espeak-data", str(tmp_path)),
        lambda: run("--work", str(empty)),
    ):
        assert refused() == 2
        told = capsys.readouterr()
        assert not told.out
        assert len([line for line in told.err.splitlines() if "turns at once" not in line]) == 1, told.err


def test_a_recogniser_that_cannot_be_loaded_is_known_before_anything_is_spoken(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="needs the optional extra `evaluate`")
    assert run("--recognizer", str(tmp_path / "nothing")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"there is no folder {tmp_path / 'nothing'}"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL], ids=lambda sent: sent.name)
def test_the_processes_that_speak_end_with_the_command(sent: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C in a terminal reaches all of them, here while they still start; a kill reaches only the first."""
    (tmp_path / "two.txt").write_text("\n".join(TEXTS[:2]))
    command = ["env", "--default-signal=INT"]  # where the tests run in the background it is ignored, and inherited so
    command += [sys.executable, "-m", "engine.evaluate", "mini", "--quick", "--only", "carry", "--workers", "2"]
    command += ["--device", "cpu", "--sentences", str(tmp_path / "two.txt")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        while "needs no history" not in (line := process.stderr.readline()):
            assert line, "it ended"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        watched = [os.pidfd_open(int(child)) for child in children]
        (os.killpg if sent is signal.SIGINT else os.kill)(process.pid, sent)
        try:
            assert len(watched) == 3  # two that speak, and one of Python's own
            for descriptor in watched:
                ended, _, _ = select.select([descriptor], [], [], 180)
                assert ended
            assert process.wait(timeout=180) == (130 if sent is signal.SIGINT else -sent)
            told = process.stderr.read()
        finally:
            for child, descriptor in zip(children, watched, strict=True):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
                os.close(descriptor)
    if sent is signal.SIGINT:
        assert told == "interrupted; with --work DIR a run can go on\n"


def a_trial(folder: Path, mouth: Mouth | None) -> Trial:
    recognizer, _ = untrained(folder)
    ear, net = Ear(recognizer, torch.device("cpu")), SpeakerNet(16).eval()
    return Trial(mouth, ear, net, teacher(), TEXTS, ["Guten Tag."], TINY)


def test_every_group_of_figures_survives_a_model_that_says_nothing(
    s2pro: Path, tmp_path: Path, one_thread: None
) -> None:
    """Random weights, cut after a quarter of a second of noise. The figures must say so instead of failing."""
    with Mouth(Setting(s2pro, "random", "cpu", SamplingParams(max_frames=6), 0, 8)) as mouth:
        found = a_trial(tmp_path, mouth)
        groups = [clarity.rows, tags.rows, voices.rows, carry.rows]
        found.rehearse(groups)
        figures = {row.key: row for group in groups for rows in group(found).values() for row in rows}
    assert len(figures) > 50
    for key in (
        "tag_slow",
        "tag_pause",
        "duration_in_range",
        "retrieval_top1",
        "last_word_recognised",
        "ended_by_itself",
    ):
        assert figures[key].value == 0, key
    assert figures["phoneme_error_rate"].value > 0.8


def test_a_rehearsal_asks_for_everything_but_second_turns_at_once(
    s2pro: Path, tmp_path: Path, one_thread: None
) -> None:
    told: list[str] = []
    with Mouth(Setting(s2pro, "random", "cpu", SamplingParams(max_frames=2), 0, 8), None, told.append) as mouth:
        found = a_trial(tmp_path, mouth)
        found.rehearse([carry.rows])
        told.clear()
        carry.rows(found)
    assert [line.partition(":")[0] for line in told] == ["second turns"]


def test_targets_are_bounds_on_the_right_side() -> None:
    assert Row("a", "", 0.95, 0.95).passed is True
    assert Row("a", "", 0.949, 0.95).passed is False
    assert Row("a", "", 0.05, 0.05, at_most=True).passed is True
    assert Row("a", "", 0.051, 0.05, at_most=True).passed is False
    assert Row("a", "", 0.0).passed is None


def test_a_share_of_nothing_is_no_success() -> None:
    assert share("a", "", [], 0.5).passed is False


def test_the_table_says_what_failed_and_how_many_were_reached() -> None:
    text = table({"Group": [Row("a", "good", 1.0, 0.9), Row("b", "bad", 0.1, 0.9, teacher=1.0, count=7)]})
    assert "1 of 2 targets reached" in text
    (bad,) = [line for line in text.splitlines() if line.startswith("bad")]
    assert bad.split()[1:] == ["0.100", ">=", "0.900", "FAIL", "1.000", "7"]


def test_two_figures_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="a"):
        json_line({"Group": [Row("a", "", 1.0), Row("a", "", 0.5)]}, {})


def test_a_tag_stands_between_plain_words_near_the_middle() -> None:
    reading = teacher().read(TEXTS[1])
    at = middle(reading)
    assert at in reading.borders
    assert len(TEXTS[1]) / 4 < at < 3 * len(TEXTS[1]) / 4
    assert middle(teacher().read("Yes, no.")) is None


def test_texts_are_spread_over_all_there_are(tmp_path: Path) -> None:
    found = a_trial(tmp_path, None)
    assert found.some(2) == [TEXTS[0], TEXTS[2]]
    assert found.some(2, 1) == [TEXTS[1], TEXTS[3]]
    assert len(found.some(99)) == len(TEXTS)


@pytest.mark.parametrize("aloud", [False, True])
def test_a_tag_that_the_teacher_reads_out_is_noticed(aloud: bool) -> None:
    """What the recogniser would hear if it made no mistakes."""
    text, words = TEXTS[3], f"sarcastic {TEXTS[3]}"
    said = teacher().read(words if aloud else text)
    heard = clarity.Heard(np.zeros((1, 2), np.float32), said.phones)
    assert clarity.spoken_aloud(heard, teacher().read(text), teacher().read(words)) is aloud


def test_the_full_sizes_are_at_least_the_quick_ones() -> None:
    assert all(getattr(trial.FULL, name) > getattr(trial.QUICK, name) for name in Sizes.__slots__)


def test_recognisers_from_outside_add_their_rows_to_the_same_table(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="needs the optional extra `evaluate`")
    from tests.engine.outside_models import save_ctc

    listen = save_ctc(tmp_path / "ctc", 1)
    soundfile.write(tmp_path / "a.wav", teacher().say(TEXTS[2]), 22050)
    (tmp_path / "meta.lst").write_text(f"a|{TEXTS[2]}|a.wav|{TEXTS[0]}\n")
    outside = ["--recognizer", str(listen), "--seed-tts", str(tmp_path / "meta.lst")]
    assert run("--only", "clarity", *outside) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])
    assert {"phoneme_error_rate", "word_error_rate", "seed_tts_word_error_rate"} <= figures.keys()
    assert "speaker similarity is left out" in printed.err
