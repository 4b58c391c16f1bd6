"""alignment.json: what is written is read, and only for the weights that it was made for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from engine.config import ConfigError, StackConfig
from engine.heads import ChosenHeads, Head, weights_id
from engine.hub import resolve

STACK = StackConfig(dim=8, n_layer=3, n_head=4, n_kv_head=2, head_dim=4, ffn_dim=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 3000)
    return tmp_path


def write(folder: Path, **changes: object) -> None:
    raw = {"heads": [[1, 2]], "weights": weights_id(folder), "score": 0.9} | changes
    (folder / "alignment.json").write_text(json.dumps(raw))


def test_what_is_saved_is_loaded(folder: Path) -> None:
    chosen = ChosenHeads((Head(0, 3), Head(2, 1)), weights_id(folder), 0.812)
    chosen.save(folder)
    assert ChosenHeads.load(folder, STACK) == chosen


def test_a_folder_without_the_file_has_no_chosen_heads(folder: Path) -> None:
    assert ChosenHeads.load(folder, STACK) is None


def test_heads_of_other_weights_are_not_used_and_said_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(folder)
    (folder / "model.safetensors").write_bytes(bytes(range(255, -1, -1)) * 3000)
    with caplog.at_level(logging.WARNING):
        assert ChosenHeads.load(folder, STACK) is None
    assert "other weights" in caplog.text


@pytest.mark.parametrize("heads", [[[3, 0]], [[0, 4]], [[-1, 0]], [], [[0]], "all", None])
def test_heads_that_the_model_does_not_have_are_refused(folder: Path, heads: object) -> None:
    write(folder, heads=heads)
    with pytest.raises(ConfigError, match=r"alignment\.json"):
        ChosenHeads.load(folder, STACK)


def test_weights_have_the_same_id_until_they_change_anywhere(folder: Path) -> None:
    path = folder / "model.safetensors"
    first = weights_id(folder)
    assert weights_id(folder) == first
    for at in (0, path.stat().st_size // 2, path.stat().st_size - 1):
        changed = bytearray(path.read_bytes())
        changed[at] ^= 1
        path.write_bytes(bytes(changed))
        assert weights_id(folder) != first


def test_the_mini_s_heads_were_chosen_on_its_present_weights() -> None:
    mini = resolve("mini").folder
    raw = json.loads((mini / "alignment.json").read_text())
    assert raw["weights"] == weights_id(mini), "run `python -m engine.align mini` after every export"
