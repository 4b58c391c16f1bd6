"""`--quantize`: the command line's formats are the engine's, and what was given reaches the engine, or is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.api import EngineLimits
from engine.commands import WorkerSpec
from engine.hub import resolve
from engine.process import EngineProcess, EngineUnavailable
from engine.quantize import FORMATS
from engine.random_weights import write_folder
from realtime import cli
from realtime.argument_groups import QUANTIZE
from realtime.arguments import build_parser
from realtime.bench_server import serve_command

pytestmark = pytest.mark.torch


def test_the_formats_are_the_engines() -> None:
    assert QUANTIZE == FORMATS


@pytest.mark.parametrize("command", [["serve", "mini"], ["generate", "Hello.", "-o", "codes.npy"]], ids=" ".join)
def test_a_format_is_told_to_the_engine(command: list[str]) -> None:
    parser = build_parser("0")
    for given, wanted in (([], None), (["--quantize", "nf4"], "nf4")):
        assert cli._spec(parser.parse_args([*command, *given]), resolve("mini")).quantize == wanted


def test_the_server_of_a_bench_gets_the_format() -> None:
    args = build_parser("0").parse_args(["bench", "--quantize", "int8"])
    assert serve_command({"quantize": args.quantize}, 1)[-2:] == ["--quantize", "int8"]


def spec(folder: Path, quantize: str) -> WorkerSpec:
    return WorkerSpec(folder, "tiny", "cpu", "float32", EngineLimits(2, 1024, threads=1), None, quantize=quantize)


@pytest.mark.anyio
async def test_an_engine_serves_what_it_was_told(tmp_path: Path) -> None:
    write_folder("tiny", tmp_path)
    engine = await EngineProcess.start(spec(tmp_path, "nf4"))
    await engine.close()
    assert engine.info.dtype == "float32, slow stack nf4"


@pytest.mark.anyio
async def test_an_engine_that_cannot_says_why_and_nothing_else(tmp_path: Path) -> None:
    write_folder("tiny", tmp_path)
    with pytest.raises(EngineUnavailable) as raised:
        await EngineProcess.start(spec(tmp_path, "int3"))
    assert str(raised.value) == "quantize 'int3' is not one of int8, fp8, nf4"
