"""`parley bench conversation` against a real server: it finds promises kept where they are, and broken where they are not."""

import io
import json
from collections.abc import Sequence
from typing import Any

import anyio
import numpy as np
import pytest

from engine.api import SynthesisFailed
from protocol.audio_frame import Flag
from protocol.client import AudioChunk, ConnectionLost
from realtime.arguments import build_parser
from realtime.arguments_bench import PROBE_NAMES, REPORT_NAMES
from realtime.bench import live_url
from realtime.bench_conversation import PROBES, ConversationOptions, bench_conversation
from realtime.bench_probes_sound import _pitch_ratio
from realtime.bench_promises import Promise
from realtime.bench_reports import REPORTS, Report, reported
from realtime.bench_stage import Stage, Take, network
from realtime.cli import main
from realtime.failure import MISUSED
from realtime.scripted import Script
from tests.realtime.running import running_server


def run(url: str, probes: Sequence[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, the object of the last line, and what was printed before it."""
    out = io.StringIO()
    options = ConversationOptions(live_url(url), None, 4, 2, 0, probes)
    code = bench_conversation(options, False, out)
    *lines, last = out.getvalue().splitlines()
    return code, json.loads(last), "\n".join(lines)


@pytest.mark.parametrize(
    ("frames_per_char", "probes"),
    [(0.6, ["talk", "silence", "pacing", "pause", "lost socket", "marks"]), (1.2, ["words"])],
)
def test_a_server_that_keeps_its_promises_is_found_to(frames_per_char: float, probes: list[str]) -> None:
    """All that does not listen to real speech. The engine is twenty times quicker than life, as far as it is let."""
    with running_server(Script(frames_per_char=frames_per_char, step_s=0.002)) as (url, engine):
        code, result, shown = run(url, probes)
        assert not engine.streams
    assert list(result["found"]) == probes
    broken = [
        f"{probe}: {found}" for probe in probes for found in result["found"][probe] if not found.get("kept", True)
    ]
    assert broken == []
    assert (code, result["broken"]) == (0, 0)
    assert shown.endswith("every promise kept")
    assert result["conditions"]["model"] == "scripted"


def test_a_server_that_fails_a_turn_is_found_out() -> None:
    script = Script(frames_per_char=0.1, errors={5: SynthesisFailed("degenerate", "it came out silent")})
    with running_server(script) as (url, _):
        code, result, shown = run(url, ["talk"])
    assert code == 1
    assert result["found"]["talk"] == [
        {
            "name": "broke off",
            "figure": 1.0,
            "bound": "<= 0",
            "unit": "times",
            "kept": False,
            "detail": "synthesis_failed: degenerate: it came out silent",
        }
    ]
    assert shown.endswith("1 promises broken")


def test_probes_for_which_no_time_is_left_are_named_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime.bench_conversation.BUDGET_S", 0.0)
    with running_server(Script(frames_per_char=0.1)) as (url, _):
        code, result, shown = run(url, ["silence", "talk"])
    assert (code, result["broken"]) == (1, 2)
    assert [found["name"] for probe in ("silence", "talk") for found in result["found"][probe]] == 2 * [
        "not done in time"
    ]
    assert shown.count("not done in time") == 2 and shown.endswith("2 promises broken")


def test_sound_that_is_missing_or_comes_twice_is_counted() -> None:
    take = Take("", 8000)
    for position in (0, 160, 160, 480):
        take.add(AudioChunk("t", 1, position, bytes(320), Flag.NONE), 0.0)
    assert take.broken() == 2


@pytest.mark.parametrize("higher", [0.9, 1.0, 1.1])
def test_a_pitch_is_compared_where_the_same_is_said(higher: float) -> None:
    """A glide from 100 to 200 Hz, once slowly and once twice as fast and higher."""
    plain, fast = Take("", 16000), Take("", 16000)
    for take, seconds, factor in ((plain, 2.0, 1.0), (fast, 1.0, higher)):
        at = np.arange(int(16000 * seconds)) / 16000
        phase = 2 * np.pi * factor * (100 * at + 50 * at**2 / seconds)
        wave = sum(np.sin(k * phase) / k for k in range(1, 6)) / 4
        payload = (wave * 20000).astype("<i2").tobytes()
        take.add(AudioChunk("t", 1, 0, payload, Flag.NONE), 0.0)
    assert _pitch_ratio(fast, plain, 2.0) == pytest.approx(higher, rel=0.02)


def test_a_network_that_is_cut_loses_its_connections_and_takes_new_ones() -> None:
    async def play(url: str) -> None:
        stage = Stage(url, None, lambda: 0.0, 0, None, 1, 1)
        async with network(url) as (way, near):
            async with stage.client({}, near) as client:
                way.cut()
                assert (await client.ping()).type == "pong"  # it came back by itself
            async with stage.client({}, near) as client:
                client._link.lasting = False
                way.cut()
                with pytest.raises(ConnectionLost):
                    await client.ping()

    with running_server() as (url, _):
        anyio.run(play, live_url(url))


def test_the_names_of_the_command_line_are_those_of_the_probes() -> None:
    assert tuple(PROBES) == PROBE_NAMES


def test_options_of_a_load_change_nothing_about_a_conversation_and_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = build_parser("0")
    args = parser.parse_args(["bench", "conversation", "--turns", "7"])
    assert (args.bench_command, args.turns, args.barge_ins, args.model) == ("conversation", 7, 10, None)
    assert parser.parse_args(["bench", "--turns", "7"]).bench_command is None
    with pytest.raises(SystemExit):
        parser.parse_args(["bench", "--streams", "7", "conversation"])
    assert "--streams belongs behind `conversation`" in capsys.readouterr().err


def test_a_report_is_read_from_its_last_line() -> None:
    told = {
        "sessions": 64,
        "cancels": 768,
        "cancel_p99_ms": 3.0,
        "lag_p99_ms": 3.5,
        "lag_p999_ms": 9.0,
        "broken": ["loop lag p99 3.50 ms exceeds 3 ms"],
    }
    found = REPORTS["reactions"].read(told)
    assert [finding.kept for finding in found if isinstance(finding, Promise)] == [True, False, True, False]


@pytest.mark.parametrize("module", ["realtime.failure", "realtime.nowhere"])
def test_a_report_that_says_nothing_is_a_promise_broken(module: str) -> None:
    (found,) = anyio.run(reported, Report(module, (), lambda told: ()))
    assert isinstance(found, Promise)
    assert (found.name, found.kept) == ("broke off", False)


def test_reports_say_nothing_about_a_server_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(REPORTS) == REPORT_NAMES
    assert main(["bench", "conversation", "--url", "ws://127.0.0.1:1", "--only", "hearing"]) == MISUSED
    assert "--only hearing would say nothing about the server at ws://127.0.0.1:1" in capsys.readouterr().err
