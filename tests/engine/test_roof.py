"""What a step must read, and how fast a device can."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.load import load_model
from engine.random_weights import write_folder
from engine.roof import COPIES, TIMES, copy_bandwidth


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    write_folder("tiny", folder)
    return folder


def test_copies_read_and_write_and_their_fastest_time_counts() -> None:
    took = [4.0, 2.0, *[3.0] * (TIMES - 2)]
    times = iter([edge for index, seconds in enumerate(took) for edge in (10.0 * index, 10.0 * index + seconds)])
    assert copy_bandwidth(torch.device("cpu"), 1 << 10, lambda: next(times)) == COPIES * 2 * 1024 / 2.0


def test_a_cpu_has_no_roof_that_one_could_name(folder: Path) -> None:
    assert load_model(folder, "tiny", "cpu", "float32", None).info.roof_s is None


@pytest.mark.gpu
def test_a_gpu_tells_its_roof(folder: Path) -> None:
    roof_s = load_model(folder, "tiny", "cuda", "bfloat16", None).info.roof_s
    assert roof_s is not None and 0 < roof_s < 0.001, "a megabyte"
