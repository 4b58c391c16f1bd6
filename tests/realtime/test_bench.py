"""`parley bench` as a whole: real clients, a real server, an engine that speaks tones."""

import io
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.api import SynthesisFailed
from protocol.config import Clock, Format, Latency
from realtime.bench import bench, live_url, loaded_model
from realtime.bench_options import Arrivals, BenchOptions
from realtime.bench_server import server_of_its_own
from realtime.failure import CommandFailed
from realtime.scripted import MINI_LIKE, Script
from realtime.settings import Settings
from tests.realtime.running import running_server

SHORT = 0.06  # frames a character: a turn lasts some 0.4 s, and the bench listens to it in real time


def options(url: str, **changes: object) -> BenchOptions:
    plain: dict[str, object] = {
        "url": url if "endpoint" in changes else live_url(url),
        "key": None,
        "streams": 1,
        "turns": 1,
        "text_rate": 0.0,
        "cancel_every": None,
        "pause_s": 0.0,
        "latency": Latency.LOW,
        "fmt": Format.PCM_S16LE,
        "clock": Clock.REALTIME,
        "seed": 0,
    }
    return BenchOptions(**{**plain, **changes})  # type: ignore[arg-type]


def run(url: str, **changes: object) -> tuple[int, dict[str, Any], str]:
    """Exit code, the object of the last line, and the table."""
    out = io.StringIO()
    code = bench(options(url, **changes), False, out, io.StringIO())
    *table, last = out.getvalue().splitlines()
    return code, json.loads(last), "\n".join(table)


def test_the_last_line_holds_every_figure_and_the_conditions() -> None:
    with running_server(Script(frames_per_char=SHORT)) as (url, engine):
        code, result, table = run(url, turns=2)
        opened = engine.opened[1:]
    assert code == 0
    assert [params.turn for params in opened][:3] == [1, 2, 3]  # one warms up, two are measured
    assert result["turns"] == {"measured": 2, "failed": 0, "failures": {}, "cancelled": 0}
    assert 0 < result["first_audible_ms"]["waiting_for_engine"]["p50"] < 1000
    assert result["first_audible_ms"]["waiting_for_text"]["p50"] == pytest.approx(0, abs=50)
    assert result["never_short_by_more"]["200"] == {"turns": 1.0, "streams": 1.0}
    assert 0 < result["real_time_factor"]["worst"] < 1
    assert result["speech_s"] == pytest.approx(2 * 140 * SHORT * MINI_LIKE.frame_s, rel=0.4)
    assert result["conditions"]["model"] == "scripted"
    assert result["conditions"]["rate"] == MINI_LIKE.sample_rate
    assert result["conditions"]["cpus"] >= 1
    assert "waiting for engine" in table


def test_typing_is_waited_for_and_counted_apart() -> None:
    with running_server(Script(frames_per_char=SHORT)) as (url, _):
        code, result, _ = run(url, text_rate=100.0, fmt=Format.OPUS)
    waiting = result["first_audible_ms"]
    assert code == 0
    assert waiting["waiting_for_text"]["p50"] > 50  # a clause has ten characters at least
    assert waiting["waiting_for_engine"]["p50"] < waiting["from_turn_start"]["p50"]
    assert result["conditions"]["rate"] == 48000


@pytest.mark.parametrize("text_rate", [0.0, 40.0])
def test_a_turn_can_be_interrupted_also_while_it_is_being_typed(text_rate: float) -> None:
    with running_server(Script(frames_per_char=0.35)) as (
        url,
        _,
    ):  # more than the 1.5 s after which it comes at the latest
        code, result, _ = run(url, turns=1, cancel_every=1, text_rate=text_rate)
    assert code == 0
    assert result["turns"]["cancelled"] == 1
    assert 0 < result["cancel_ms"]["p50"] < 1000


def test_an_engine_that_is_too_slow_is_seen_to_be() -> None:
    """Each frame takes 100 ms and lasts 46; a listener runs short by the difference, frame after frame."""
    with running_server(Script(frames_per_char=SHORT, step_s=0.1)) as (url, _):
        _, result, _ = run(url)
    assert result["real_time_factor"]["worst"] > 1.2
    assert result["short_by_ms"]["worst"] > 100
    assert result["never_short_by_more"]["100"]["turns"] == 0


def test_as_fast_as_possible_measures_throughput_and_waits_for_no_listener() -> None:
    """A frame takes 10 ms and lasts 46: some 0.22, and a turn of 3 s is over long before a listener would have heard it."""
    with running_server(Script(frames_per_char=0.5, step_s=0.01)) as (url, _):
        code, result, table = run(url, turns=2, clock=Clock.NONE)
    assert code == 0
    assert result["real_time_factor"]["shows"] == "throughput"
    assert 0.2 < result["real_time_factor"]["worst"] < 0.8
    assert result["real_time_factor"]["worst"] <= result["elapsed_per_speech"] < 0.9
    assert result["wall_s"] < result["speech_s"]
    assert "is throughput" in table


def test_the_roof_stands_beside_the_figures_of_a_server_that_tells_it() -> None:
    with running_server(Script(frames_per_char=SHORT), info=replace(MINI_LIKE, roof_s=0.00341)) as (url, _):
        _, result, table = run(url)
    assert result["roof"] == {"frame_ms": 3.41, "real_time_factor": round(3.41 / result["conditions"]["frame_ms"], 4)}
    assert "the roof is 0.0734" in table


def test_strangers_come_at_random_and_each_has_a_session_of_its_own() -> None:
    with running_server(Script(frames_per_char=SHORT)) as (url, engine):
        code, result, table = run(url, arrivals=Arrivals(per_s=10.0, duration_s=1.5, warm_up_s=1.0))
        opened = engine.opened[1:]
    assert code == 0, result
    assert len({one.conversation.id for one in opened}) == len(opened)
    measured = result["turns"]["measured"]
    assert 4 <= measured < len(opened), "some warm up"
    assert result["turns"]["failed"] == result["refused"]["turns"] == 0
    assert 0 < result["connecting_ms"]["p50"] < 2000 and 0 < result["at_once"]["mean"] <= result["at_once"]["most"]
    assert result["first_audible_ms"]["waiting_for_text"]["p50"] == pytest.approx(0, abs=50)
    assert "10 turns a second at random for 1.5 s of scripted" in table and "turns besides were refused" in table


def test_the_same_seed_brings_the_same_strangers() -> None:
    texts = []
    for seed in (3, 3, 4):
        with running_server(Script(frames_per_char=0.01)) as (url, engine):
            run(url, seed=seed, arrivals=Arrivals(per_s=10.0, duration_s=1.0, warm_up_s=0.0))
            texts.append(sorted(one.params.seed for one in engine.opened[1:]))
    assert texts[0] == texts[1] != texts[2]


ONE_PLACE = Script(frames_per_char=0.2, step_s=0.04, max_streams=1)  # some 0.7 s for each, as it is made


def test_strangers_whom_the_engine_has_no_place_for_are_refused_and_not_failed() -> None:
    with running_server(ONE_PLACE, Settings(port=0, admission_timeout_s=0)) as (url, _):
        code, result, table = run(url, arrivals=Arrivals(per_s=10.0, duration_s=1.0, warm_up_s=0.0))
    refused = result["refused"]
    assert code == 0 and refused["turns"] > 0 and result["turns"]["failed"] == 0
    assert refused["told_when"] == refused["turns"] and refused["retry_after_ms"]["p50"] == 200
    assert result["turns"]["measured"] == len(result["short_by_ms"]["streams"]) > 0
    assert "no_capacity" in table


def test_strangers_whom_the_server_does_not_let_in_are_refused_too() -> None:
    with running_server(ONE_PLACE, Settings(port=0, max_sessions=1)) as (url, _):
        _, result, _ = run(url, arrivals=Arrivals(per_s=10.0, duration_s=1.0, warm_up_s=0.0))
    assert result["refused"]["turns"] > 0 and result["turns"]["failed"] == 0
    assert result["refused"]["retry_after_ms"]["p50"] == 5000


def test_strangers_are_interrupted_too() -> None:
    with running_server(Script(frames_per_char=2.0)) as (url, _):
        code, result, _ = run(url, cancel_every=1, arrivals=Arrivals(per_s=4.0, duration_s=1.0, warm_up_s=0.0))
    assert code == 0 and result["turns"]["cancelled"] == result["turns"]["measured"] > 0


def test_a_turn_that_fails_is_counted_and_the_command_fails() -> None:
    script = Script(frames_per_char=SHORT, errors={12: SynthesisFailed("degenerate", "it came out silent")})
    with running_server(script) as (url, _):
        code, result, table = run(url, turns=2)
    assert code == 1
    assert result["turns"]["failed"] == 1
    assert "it came out silent" in table


def test_a_stream_that_is_not_let_in_fails_all_its_turns_and_the_others_are_measured() -> None:
    settings = Settings(port=0, max_sessions=1)
    with running_server(Script(frames_per_char=SHORT), settings) as (url, _):
        code, result, _ = run(url, streams=2)
    assert code == 1
    assert result["turns"]["measured"] == 2
    assert result["turns"]["failed"] == 1
    assert "max_sessions" in next(iter(result["turns"]["failures"]))


def test_nobody_at_the_address_is_said_before_anything_is_measured() -> None:
    with pytest.raises(CommandFailed, match=r"^no server answers at ws://127.0.0.1:1/v1/live; leave --url out"):
        run("ws://127.0.0.1:1")


def test_a_server_with_keys_is_asked_with_one() -> None:
    settings = Settings(port=0, keys=("a-long-key",))  # type: ignore[arg-type]
    with running_server(settings=settings) as (url, _):
        assert loaded_model(live_url(url), "a-long-key")["id"] == "scripted"
        with pytest.raises(CommandFailed, match="401: show a key"):
            loaded_model(live_url(url), None)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8300", "ws://127.0.0.1:8300/v1/live"),
        ("https://voice.example.org/", "wss://voice.example.org/v1/live"),
        ("ws://[::1]:9000/a/live?x=1", "ws://[::1]:9000/a/live?x=1"),
    ],
)
def test_a_web_address_names_its_websocket(text: str, url: str) -> None:
    assert live_url(text) == url


@pytest.mark.parametrize("text", ["127.0.0.1:8300", "localhost", "ftp://x/v1/live", "ws:///v1/live", ""])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(CommandFailed, match="is no address of a server"):
        live_url(text)


SERVER = "import signal; print('Somebody', flush=True); print('  listening on http://127.0.0.1:9', flush=True); signal.pause()"


def test_a_server_of_its_own_is_waited_for_and_ended() -> None:
    with server_of_its_own([sys.executable, "-c", SERVER], "listening on ", io.StringIO()) as url:
        assert url == "ws://127.0.0.1:9/v1/live"


def test_a_bench_that_is_told_to_end_ends_its_server_first(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    server = [sys.executable, "-c", f"held = open({str(alive)!r}, 'wb'); {SERVER}"]
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    with (
        pytest.raises(KeyboardInterrupt),
        server_of_its_own(server, "listening on ", io.StringIO()),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
    assert os.read(reader, 1) == b""  # nobody holds the other end any more
    os.close(reader)


def test_a_server_that_does_not_start_is_an_error() -> None:
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    with (
        pytest.raises(CommandFailed, match="did not start; it ended with exit code 3"),
        server_of_its_own(command, "listening on ", io.StringIO()),
    ):
        raise AssertionError("there is no server")
