"""The command passes on the reference fixture and notices what is wrong with a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.verify import main, verify
from engine.verify_report import Report

pytestmark = pytest.mark.torch


@pytest.fixture
def folder(s2pro: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    shutil.copytree(s2pro, tmp_path, dirs_exist_ok=True)
    return tmp_path


def change(folder: Path, alter: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    alter(tensors)
    save_file(tensors, folder / "model.safetensors")


def keep(folder: Path, wanted: Callable[[str], bool]) -> None:
    """Leave only some of the expected arrays."""
    with np.load(folder / "expected.npz") as arrays:
        left = {name: arrays[name] for name in arrays.files if wanted(name)}
    np.savez(folder / "expected.npz", **left)


def failed(report: Report) -> set[str]:
    return {row.what for row in report.rows if row.ok is False}


def absent(report: Report) -> set[str]:
    return {row.what for row in report.rows if row.ok is None}


def test_every_number_of_the_reference_fixture_is_reproduced(s2pro: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(s2pro)]) == 0
    table = capsys.readouterr().out
    assert "FAIL" not in table
    assert "88 comparisons, 0 failed, 2 with nothing to compare with" in table
    assert "looked at by no check: codec_margin" in table
    for what in ("ref: embeddings", "eos: greedy", "sampled_ras: frames", "ref_bf16: cached logits", "codec: codes"):
        assert f"\n{what} " in table
    (line,) = (line for line in table.splitlines() if line.startswith("multiturn: fast logits"))
    assert line.split()[-2:] == ["absent", "-"]


def test_a_sharded_folder_is_read_as_well(folder: Path) -> None:
    keep(folder, lambda name: name.startswith("plain_"))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for shard in set(places.values()):
        save_file({name: tensors[name] for name in names if places[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    report = verify(folder)
    assert report.ok
    assert "ref: prompt 0" in absent(report)


def test_a_wrong_weight_shows_where_it_acts_and_nowhere_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(folder, lambda name: name.startswith(("plain_", "eos_", "codec_dec_")))

    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors["audio_decoder.layers.1.ffn_norm.weight"][:4] *= 1.5

    change(folder, spoil)
    assert main([str(folder), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert not result["ok"]
    wrong = {row["what"] for row in result["rows"] if row["ok"] is False}
    assert {"plain: fast logits", "plain: fast logits, cached"} <= wrong
    assert wrong.isdisjoint({"plain: prompt 0", "plain: cached logits", "plain: fast input", "codec: wave"})


def test_a_wrong_codec_shows(folder: Path) -> None:
    keep(folder, lambda name: name.startswith("codec_"))
    state = torch.load(folder / "codec.pth", weights_only=True)
    state["decoder.model.5.alpha"] *= 1.01
    torch.save(state, folder / "codec.pth")
    assert failed(verify(folder)) == {"codec: wave", "codec: wave of these codes"}


def test_what_is_too_short_too_long_or_not_a_number_fails() -> None:
    report = Report({"a": np.zeros(3), "b": np.zeros(3)}, torch.device("cpu"))
    report.close("short", torch.zeros(2), "a", 1.0)
    report.close("nan", torch.tensor([0.0, float("nan"), 0.0]), "b", 1.0)
    report.equal("longer", torch.zeros(4), "a")
    assert failed(report) == {"short", "nan", "longer"}


def test_a_folder_with_nothing_to_compare_is_not_ok(folder: Path) -> None:
    keep(folder, lambda name: False)
    (folder / "ids.json").unlink()
    report = verify(folder)
    assert not report.ok
    assert not failed(report)
    assert {"plain: prompt 0", "probs_logits", "codec_dec_codes"} <= absent(report)


@pytest.mark.parametrize("lost", ["expected.npz", "scenarios.json", "tokenizer.json", "model.safetensors", "codec.pth"])
def test_a_folder_that_cannot_be_read_is_one_line_on_standard_error(
    folder: Path, lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / lost).unlink()
    assert main([str(folder)]) == 2
    out, error = capsys.readouterr()
    assert not out
    assert error.count("\n") == 1
    assert str(folder) in error
