from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.bench import limit_memory, main, peak_memory
from engine.bench_parts import frame_bytes
from engine.bench_rows import PARTS, spread
from engine.load import Loaded, load_model
from engine.random_weights import write_folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("tiny")
    write_folder("tiny", folder)
    return load_model(folder, "tiny", "cpu", "float32", None)


@pytest.mark.parametrize("graphs", [[], ["--graphs"]], ids=["plain", "fixed shapes"])
def test_every_part_is_measured_and_the_last_line_says_so(
    graphs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (
        "--random-weights tiny --device cpu --streams 1 2 --steps 3 --prefix 40 --history 20 --prefill 32 --warm-up 0.1 --seconds 0.3 "
        "--newcomers 8 --newcomer-positions 60 --cancels 20 --recording 0.3 --positions 64 128"
    )
    parts = ["--parts", *PARTS, "--json", str(tmp_path / "out.json")]
    assert main([*command.split(), *graphs, *parts]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads((tmp_path / "out.json").read_text())
    assert [row["streams"] for row in result["pieces"]] == [1, 2]
    pieces = result["pieces"][1]
    assert all(pieces[name]["p50"] > 0 for name in ("slow", "draw", "codec", "sampling", "all"))
    assert pieces["all"]["roof"] > 0
    assert result["prefill"][0]["positions"] == 32 and result["prefill"][0]["p50"] > 0
    assert result["codec"][0]["snr_db"] > 50
    assert [row["streams"] for row in result["serve"]] == [1, 2, 2, 2]
    loads = {row["load"]: row for row in result["serve"]}
    assert all(row["failed"] == 0 and row["frames_s"] > 0 for row in loads.values())
    assert {"newcomer_first_ms", "newcomer_short_ms"} == loads["beside newcomers"].keys() - loads[""].keys() - {
        "turned_away"
    }
    assert "cancel_ms" in loads["interrupted"]
    assert {row["positions"]: row["streams"] in (0, 1, 2) for row in result["capacity"]} == {64: True, 128: True}
    (clone,) = result["clone"]
    assert clone["ready_ms"]["p50"] > 0 and clone["computed"] == clone["positions"] and not any(clone["known_turn"])
    assert [row["positions"] for row in result["memory"][1:]] == [64, 128]
    assert result["ready"][0]["core_s"] > 0 and result["load_s"] > 0 and result["python_s"] > 0
    compiled = {name: made["functions"] for name, made in result["compiled"].items()}
    assert compiled == dict.fromkeys(["load", *PARTS], 0), "nothing is fused"
    assert "files" in result["compile_caches_after"]["torch"]


def test_a_profile_is_a_trace_and_a_table(tmp_path: Path) -> None:
    command = "--random-weights tiny --device cpu --steps 2 --prefix 40 --history 20 --parts pieces --profile"
    assert main([*command.split(), str(tmp_path)]) == 0
    assert (tmp_path / "steps-1.json.gz").stat().st_size > 0
    assert "aten::" in (tmp_path / "steps-1.txt").read_text()


def test_a_frame_reads_the_slow_stack_once_and_the_fast_one_for_every_residual_codebook(tiny: Loaded) -> None:
    sizes = frame_bytes(tiny, 100)
    blocks = sum(p.numel() for p in tiny.model.layers.parameters() if p.dim() == 2)
    assert sizes["slow"] == 4 * (blocks + 65 * 64)
    fast = sum(p.numel() for p in tiny.model.fast_layers.parameters() if p.dim() == 2)
    assert sizes["fast"] == 3 * 4 * (fast + 32 * 64)
    assert sizes["kv"] == 100 * 2 * 2 * 2 * 16 * 4


def test_percentiles_are_values_that_occurred() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"p50": 2.0, "p95": 3.0, "p99": 3.0, "max": 3.0}
    assert spread([])["p50"] is None


def test_quantised_matrices_are_fewer_bytes_to_read(tiny: Loaded, tmp_path: Path) -> None:
    write_folder("tiny", tmp_path)
    before = frame_bytes(tiny, 100)
    for format, bits in (("int8", 8), ("fp8", 8), ("nf4", 4.25)):
        loaded = load_model(tmp_path, "tiny", "cpu", "float32", None, quantize=format)
        sizes = frame_bytes(loaded, 100)
        matrices = before["slow"] - 4 * 65 * 64
        scales = 0 if format == "nf4" else 2 * 2 * (128 + 64 + 256 + 64)
        assert sizes["slow"] == matrices / 4 * bits / 8 + scales + 4 * 65 * 64
        assert (sizes["fast"], sizes["kv"]) == (before["fast"], before["kv"])


def test_a_quantised_model_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    command = "--random-weights tiny --device cpu --quantize nf4 --steps 2 --prefix 40 --history 20 --parts pieces"
    assert main(command.split()) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["quantize"] == "nf4"
    assert result["dtype"] == "float32, slow stack nf4"
    assert result["pieces"][0]["all"]["p50"] > 0


GIB = 1 << 30


def test_a_limit_leaves_what_a_card_of_that_size_would(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *device: (79 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *device: GIB // 2)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", given.append)
    assert limit_memory(12) == {"limit_gb": 12, "context_gb": 0.5}
    assert given == [11.5 / 80]
    with pytest.raises(ValueError, match=r"0\.5 GB are less than the 0\.5 that the driver takes"):
        limit_memory(0.5)


def test_peaks_count_what_is_not_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 9 * GIB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 11 * GIB)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 10 * GIB)
    assert peak_memory(torch.device("cuda")) == {"peak_gb": 10, "reserved_gb": 11, "device_gb": 12}


def test_kernels_without_compiled_blocks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--random-weights", "tiny", "--kernels"])
    assert "need --fused" in capsys.readouterr().err


def test_a_limit_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["--random-weights", "tiny", "--memory-limit-gb", "8"])
    assert "limits a GPU's memory, and there is none" in capsys.readouterr().err
