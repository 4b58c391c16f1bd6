"""What a format costs the embedded model, on frames that it has spoken itself: little, and it still stops where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import engine
from engine.load import load_model
from engine.quantize import FORMATS
from engine.quantize_report import Decisions, Difference, Forced, compare, difference, main, speak
from engine.random_weights import write_folder

pytestmark = pytest.mark.torch

MINI = Path(engine.__file__).parent / "mini"
TEXTS = ["Where is the nearest station?", "I told you, not on Mondays!", "Two more, please.", "It rained all night."]


@pytest.fixture(scope="module")
def fed() -> list[Forced]:
    torch.set_num_threads(1)
    return speak(load_model(MINI, "mini", "cpu", "float32", None), TEXTS)


@pytest.fixture(scope="module")
def found(fed: list[Forced]) -> dict[str, Difference]:
    return {one.format: one for one in compare(MINI, fed, FORMATS, "cpu")}


def test_what_the_model_said_is_what_it_is_fed(fed: list[Forced]) -> None:
    assert len(fed) == len(TEXTS)
    for one in fed:
        assert one.frames > 10
        assert one.columns.shape[1] == one.first + 1 + one.frames


def test_8_bits_of_what_is_stored_in_8_bits_change_nothing(found: dict[str, Difference]) -> None:
    assert found["int8"].head_error < 1e-5
    assert (found["int8"].top_1, found["int8"].endings) == (1, 1)


# Measured on 40 sentences: SPEED.md. The bounds leave half as much again.
@pytest.mark.parametrize(("format", "most", "same"), [("fp8", 0.06, 0.92), ("nf4", 0.25, 0.8)])
def test_fewer_bits_keep_most_decisions(found: dict[str, Difference], format: str, most: float, same: float) -> None:
    assert 0.005 < found[format].head_error < most
    assert 0.005 < found[format].fast_error < most
    assert found[format].top_1 > same


@pytest.mark.parametrize("format", FORMATS)
def test_segments_end_where_they_ended(fed: list[Forced], found: dict[str, Difference], format: str) -> None:
    assert sum(one.frames for one in fed) > 100
    assert found[format].endings >= 0.99


def test_differences_are_those_of_the_decisions() -> None:
    exact = Decisions(torch.tensor([[2.0, 0, 0], [0, 0, 2.0]]), torch.tensor([[[1.0, -1]], [[1.0, -1]]]))
    same = difference("int8", 1.0, exact, Decisions(exact.head + 5, exact.fast - 3))
    assert (same.head_error, same.top_1, same.endings, same.end_shift, same.fast_error, same.fast_top_1) == (
        pytest.approx(0, abs=1e-6), 1, 1, pytest.approx(0, abs=1e-6), 0, 1
    )  # fmt: skip
    other = Decisions(torch.tensor([[0, 2.0, 0], [2.0, 0, 0]]), torch.tensor([[[1.0, -1]], [[-1.0, 1]]]))
    far = difference("nf4", 1.0, exact, other)
    assert (far.top_1, far.endings, far.fast_top_1) == (0, 0.5, 0.5)
    assert far.end_shift == pytest.approx(float(exact.head[1].softmax(0)[2] - other.head[1].softmax(0)[2]))
    assert far.fast_error == pytest.approx(2**0.5)


def test_the_report_is_a_table_and_a_line_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder("tiny", tmp_path)
    assert main([str(tmp_path), "--formats", "nf4", "--sentences", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "1 sentences" in lines[0]
    assert lines[2].startswith("nf4")
    (row,) = json.loads(lines[-1])
    assert row["format"] == "nf4"
    assert row["megabytes"] > 0
