"""`parley bench --dialect`: the same figures, by clients of other vendors' protocols."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from realtime.arguments_bench import DIALECTS
from realtime.bench_speakers import SPEAKERS
from realtime.cli import main
from realtime.scripted import Script
from realtime.settings import Settings
from tests.realtime.running import running_server
from tests.realtime.test_bench import SHORT, run


def test_the_command_knows_every_dialect() -> None:
    assert tuple(SPEAKERS) == DIALECTS


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_is_measured_like_our_own_protocol(dialect: str) -> None:
    key = "a-key-for-the-bench"
    with running_server(Script(frames_per_char=SHORT), Settings(port=0, keys=(SecretStr(key),))) as (url, engine):
        code, result, table = run(url, turns=2, dialect=dialect, key=key)
        turns = [one.turn for one in engine.opened[1:]]
    assert code == 0, result
    assert turns[:3] == [1, 2, 3], "one conversation, one warms up"
    assert result["conditions"]["dialect"] == dialect
    assert result["turns"] == {"measured": 2, "failed": 0, "failures": {}, "cancelled": 0}
    assert 0 < result["first_audible_ms"]["waiting_for_engine"]["p50"] < 2000
    assert result["speech_s"] > 0.3 and "first audible" in table


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_is_interrupted_as_its_clients_do(dialect: str) -> None:
    with running_server(Script(frames_per_char=0.3)) as (url, _):
        code, result, _ = run(url, turns=1, dialect=dialect, cancel_every=1)
    assert code == 0, result
    assert result["turns"]["cancelled"] == 1 and 0 <= result["cancel_ms"]["p50"] < 2000


def test_a_server_that_refuses_fails_the_turns() -> None:
    with running_server(Script(frames_per_char=SHORT), Settings(port=0, max_sessions=1)) as (url, _):
        code, result, _ = run(url, streams=2, dialect="fish", turns=1)
    assert code == 1 and result["turns"]["failed"] >= 1


@pytest.mark.parametrize("option", [["--latency", "quality"], ["--clock", "none"], ["--format", "pcm"]])
def test_what_is_of_our_own_protocol_is_refused_beside_a_dialect(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--dialect", "fish", *option]) == 2
    assert option[0] in capsys.readouterr().err
