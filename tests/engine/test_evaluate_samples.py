"""What people listen to is what the model says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from engine.evaluate.measure import longest_pause, sound, voicing
from engine.evaluate.samples import PLAIN, main
from engine.resample import resample
from tests.engine.evaluating import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib", reason="the picture needs the optional extra `train`")
    threads, made = torch.get_num_threads(), tmp_path_factory.mktemp("samples") / "new"
    assert main([str(made)]) == 0
    torch.set_num_threads(threads)
    return made


def heard(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(path, dtype="float32")
    return samples, rate


def test_every_sample_is_speech_and_has_its_place_in_the_picture(folder: Path) -> None:
    names = {path.stem for path in folder.glob("*.ogg")}
    assert names == {*PLAIN, "carried", "recording", "clone"}
    for name in names:
        samples, rate = heard(folder / f"{name}.ogg")
        assert 1.0 < len(samples) / rate < 12.0 and np.abs(samples).max() > 0.05, name
    assert (folder / "spectrograms.png").read_bytes().startswith(b"\x89PNG")


def test_the_tags_are_heard(folder: Path) -> None:
    sounds = {
        name: sound(resample(*heard(folder / f"{name}.ogg"), 22050))
        for name in ("plain", "whisper", "carried", "pause")
    }
    assert voicing(sounds["whisper"]) < voicing(sounds["plain"]) / 2
    whole = sounds["carried"]
    assert voicing(whole.part(whole.seconds / 2, whole.seconds)) < voicing(sounds["plain"]) / 2
    assert longest_pause(sounds["pause"])[0] > 0.3


def test_the_committed_ones_are_all_linked() -> None:
    linked = set(re.findall(r"web-demo/samples/([\w.]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert linked == {path.name for path in (ROOT / "web-demo" / "samples").iterdir()}


def test_a_checkpoint_that_is_none_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "out"), "--checkpoint", str(tmp_path)]) == 2
    assert "not a complete model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
