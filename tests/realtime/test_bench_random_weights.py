"""`parley bench --random-weights`: a server of its own with a model of nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.api import Admission
from realtime import cli
from realtime.arguments import build_parser
from realtime.arguments_bench import OWN_SERVER, RANDOM_SHAPES
from realtime.bench_server import serve_command
from realtime.failure import MISUSED


@pytest.mark.torch
def test_the_command_knows_every_shape() -> None:
    from engine.random_weights import SHAPES

    assert sorted(SHAPES) == sorted(RANDOM_SHAPES)


@pytest.mark.torch
def test_the_server_gets_a_complete_model_folder_that_is_gone_afterwards() -> None:
    from engine.model_files import missing_files

    args = build_parser("0").parse_args(["bench", "--random-weights", "tiny"])
    with cli._random_weights(args) as given:
        folder = given["model"]
        assert isinstance(folder, Path) and missing_files(folder) == ()
        assert str(folder) in serve_command(given, 1)
    assert not folder.exists()


def test_without_it_nothing_is_given() -> None:
    for command in (["bench"], ["bench", "conversation"]):
        with cli._random_weights(build_parser("0").parse_args(command)) as given:
            assert given == {}


@pytest.mark.parametrize(
    ("other", "said"), [(["--model", "mini"], "leave --model out"), (["--url", "ws://x"], "would change nothing")]
)
def test_it_is_refused_beside_a_model_or_a_server_that_runs(
    other: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "--random-weights", "tiny", *other]) == MISUSED
    assert said in capsys.readouterr().err


@pytest.mark.torch
@pytest.mark.parametrize(("given", "wanted"), [([], None), (["--admission", "measured"], Admission.MEASURED)])
def test_who_is_let_in_is_told_to_the_engine(given: list[str], wanted: Admission | None) -> None:
    from engine.hub import resolve

    args = build_parser("0").parse_args(["serve", "mini", *given])
    assert cli._spec(args, resolve("mini")).limits.admission is wanted
    own = build_parser("0").parse_args(["bench", *given])
    passed = {name: getattr(own, name) for name in OWN_SERVER if getattr(own, name) is not None}
    assert serve_command(passed, 1)[-len(given) or None :] == (given or serve_command({}, 1))
