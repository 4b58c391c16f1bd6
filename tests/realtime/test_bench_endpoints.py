"""Somebody else's endpoints, measured as ours: fakes that are not Parley, and Parley's own routes without a session."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from pydantic import SecretStr

from realtime.arguments_bench import ENDPOINT_KEYS
from realtime.bench_dialects import DialectFailed
from realtime.bench_endpoints import Samples
from realtime.bench_options import Arrivals, Endpoint
from realtime.cli import main
from realtime.scripted import Script
from realtime.settings import KEYS_VARIABLE, Settings
from tests.realtime.foreign_endpoint import Foreign, over_http, over_websocket
from tests.realtime.running import running_server
from tests.realtime.test_bench import SHORT, run

Serve = Callable[[Foreign], AbstractContextManager[str]]
KINDS: list[tuple[Serve, str, str, int]] = [  # who serves, dialect, path, rate that is asked for
    (over_http, "openai", "/v1/audio/speech", 24_000),
    (over_http, "fish", "/v1/tts", 44_100),
    (over_websocket, "fish", "/v1/tts/live", 44_100),
]
EACH = pytest.mark.parametrize(("serve", "dialect", "path", "rate"), KINDS, ids=["openai", "fish", "fish-live"])
FEW = Arrivals(per_s=8.0, duration_s=0.5, warm_up_s=0.3)


def endpoint(rate: int, **extra: object) -> Endpoint:
    return Endpoint("a-model", "a-voice", rate, extra)


@EACH
def test_an_endpoint_is_measured_like_a_server_of_ours(serve: Serve, dialect: str, path: str, rate: int) -> None:
    foreign = Foreign(first_s=0.1)
    with serve(foreign) as base:
        code, result, table = run(base + path, dialect=dialect, endpoint=endpoint(rate), turns=2)
    assert code == 0, result
    assert result["turns"] == {"measured": 2, "failed": 0, "failures": {}, "cancelled": 0}
    assert 100 <= result["first_audible_ms"]["waiting_for_engine"]["p50"] < 2000
    assert result["speech_s"] == pytest.approx(2 * 145 * foreign.char_s, rel=0.35)
    assert (
        result["conditions"] | {"rate": rate, "model": "a-model", "endpoint": True, "voice": "a-voice"}
        == result["conditions"]
    )
    assert "first audible" in table


@EACH
def test_strangers_come_to_an_endpoint_too(serve: Serve, dialect: str, path: str, rate: int) -> None:
    with serve(Foreign()) as base:
        code, result, _ = run(base + path, dialect=dialect, endpoint=endpoint(rate), arrivals=FEW)
    assert code == 0, result
    assert result["turns"]["measured"] > 0 and result["refused"]["turns"] == 0


@EACH
def test_who_is_refused_is_counted_apart_with_what_he_was_told(
    serve: Serve, dialect: str, path: str, rate: int
) -> None:
    with serve(Foreign(most=0, retry_after="3")) as base:
        code, result, table = run(base + path, dialect=dialect, endpoint=endpoint(rate), arrivals=FEW)
    refused = result["refused"]
    assert code == 0 and result["turns"]["measured"] == 0 and refused["turns"] > 0
    assert refused["told_when"] == refused["turns"] and refused["retry_after_ms"]["p50"] == 3000
    assert "told to come again after 3000 ms" in table


@EACH
def test_a_key_that_is_wrong_fails_the_turns(serve: Serve, dialect: str, path: str, rate: int) -> None:
    with serve(Foreign(key="right")) as base:
        code, result, _ = run(base + path, dialect=dialect, endpoint=endpoint(rate), key="wrong", turns=1)
        right, _, _ = run(base + path, dialect=dialect, endpoint=endpoint(rate), key="right", turns=1)
    assert (code, right) == (1, 0)
    assert "401" in next(iter(result["turns"]["failures"]))


@EACH
def test_an_endpoint_is_interrupted_by_leaving(serve: Serve, dialect: str, path: str, rate: int) -> None:
    foreign = Foreign(char_s=0.05, speed=1.2)
    with serve(foreign) as base:
        code, result, _ = run(base + path, dialect=dialect, endpoint=endpoint(rate), turns=1, cancel_every=1)
        assert foreign.hung_up.wait(10.0)
    assert code == 0, result
    assert result["turns"]["cancelled"] == 1


def test_an_endpoint_that_is_slower_than_speech_is_seen_to_be() -> None:
    with over_http(Foreign(speed=0.5)) as base:
        _, result, _ = run(base + "/v1/audio/speech", dialect="openai", endpoint=endpoint(24_000))
    assert result["short_by_ms"]["worst"] > 100 and result["never_short_by_more"]["50"]["turns"] == 0


def test_a_header_tells_the_rate() -> None:
    with over_http(Foreign(wav=True)) as base:
        code, result, _ = run(base + "/v1/audio/speech", dialect="openai", endpoint=endpoint(24_000), turns=1)
    assert code == 0 and result["conditions"]["rate"] == 16_000


def test_whose_text_must_be_whole_is_waited_for_from_its_end_on() -> None:
    """140 characters at 400 a second."""
    with over_http(Foreign()) as base:
        _, result, _ = run(base + "/v1/tts", dialect="fish", endpoint=endpoint(44_100), text_rate=400.0, turns=1)
    waiting = result["first_audible_ms"]
    assert waiting["waiting_for_text"]["p50"] > 200
    assert waiting["waiting_for_engine"]["p50"] == pytest.approx(
        waiting["from_turn_start"]["p50"] - waiting["waiting_for_text"]["p50"], abs=1
    )


def test_what_is_asked_is_what_the_vendors_document_and_what_the_operator_adds() -> None:
    foreign = Foreign()
    with over_http(foreign) as base:
        run(base + "/v1/audio/speech", dialect="openai", endpoint=endpoint(24_000, stream=True), turns=1, key="k")
        first = foreign.asked[0]
        asked = len(foreign.asked)
        run(base + "/v1/tts", dialect="fish", endpoint=endpoint(16_000, latency="normal"), turns=1)
    text = first.pop("input")
    assert len(text) > 100
    assert first == {
        "path": "/v1/audio/speech",
        "model": "a-model",
        "voice": "a-voice",
        "response_format": "pcm",
        "stream": True,
    }
    assert foreign.headers[0]["authorization"] == "Bearer k"
    fish = foreign.asked[asked]
    del fish["text"]
    assert fish == {
        "path": "/v1/tts",
        "format": "pcm",
        "sample_rate": 16_000,
        "latency": "normal",
        "reference_id": "a-voice",
    }
    assert foreign.headers[asked]["model"] == "a-model" and "authorization" not in foreign.headers[asked]


@pytest.mark.parametrize(
    ("dialect", "path"), [("openai", "/v1/audio/speech"), ("fish", "/v1/tts"), ("fish", "/v1/tts/live")]
)
def test_our_own_routes_are_endpoints_as_well(dialect: str, path: str) -> None:
    key = "a-key-for-the-bench"
    with running_server(Script(frames_per_char=SHORT), Settings(port=0, keys=(SecretStr(key),))) as (url, _):
        url = url.replace("http://", "ws://") if path.endswith("live") else url
        asked = Endpoint("parley", "default" if dialect == "openai" else None, 24_000)
        code, result, _ = run(url + path, dialect=dialect, endpoint=asked, key=key, turns=2)
    assert code == 0, result
    assert result["turns"]["measured"] == 2 and result["speech_s"] > 0.2


HEADER = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 22_050, 44_100, 2, 16)


@pytest.mark.parametrize("cut", range(1, 60))
def test_samples_are_the_same_wherever_an_answer_is_cut(cut: int) -> None:
    for header, rate in ((b"", 8000), (HEADER + b"LIST\x02\0\0\0ab" + b"data\xff\xff\xff\xff", 22_050)):
        heard: list[bytes] = []
        samples, whole = Samples(heard.append, 8000), header + bytes(range(40))
        for start in range(0, len(whole), cut):
            samples.take(whole[start : start + cut])
        assert b"".join(heard) == bytes(range(40)) and samples.rate_hz == rate


@pytest.mark.parametrize(
    "answer", [b"ID3\x04" + bytes(9), b"OggS" + bytes(9), HEADER.replace(b"\x01\0\x01\0", b"\x01\0\x02\0")]
)
def test_what_is_not_sixteen_bits_of_one_channel_is_refused(answer: bytes) -> None:
    with pytest.raises(DialectFailed):
        Samples(lambda data: None, 8000).take(answer)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--speech-model", "tts-1"], "is for an endpoint"),
        (["--dialect", "openai", "--url", "http://127.0.0.1:1", "--extra", "{}"], "is for an endpoint"),
        (["--dialect", "openai", "--voice", "anna"], "is not asked for below"),
        (["--dialect", "openai", "--url", "http://127.0.0.1:1/v1/audio/speech", "--extra", "["], "is no JSON"),
        (["--dialect", "fish", "--url", "http://127.0.0.1:1/v1/tts", "--extra", "3"], "is no JSON object"),
        (["--dialect", "fish", "--url", "http://127.0.0.1:1/v1/tts", "--threads", "3"], "would change nothing"),
    ],
)
def test_options_that_change_nothing_are_refused(
    line: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *line]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("dialect", "path"), [("openai", "/v1/audio/speech"), ("fish", "/v1/tts")])
def test_an_endpoint_never_gets_a_key_of_ours(
    dialect: str, path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, "ours")
    monkeypatch.delenv(ENDPOINT_KEYS[dialect], raising=False)
    foreign = Foreign(char_s=0.002)
    with over_http(foreign) as base:
        line = ["bench", "--dialect", dialect, "--url", base + path, "--turns", "1", "--text-rate", "0", "--pause", "0"]
        assert main(line) == 0
        asked = len(foreign.headers)
        monkeypatch.setenv(ENDPOINT_KEYS[dialect], "theirs")
        assert main(line) == 0
        last = len(foreign.headers)
        assert main([*line, "--key", "given"]) == 0
    keys = [headers.get("authorization") for headers in foreign.headers]
    assert keys[0] is None and keys[asked] == "Bearer theirs" and keys[last] == "Bearer given"
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["conditions"]["model"] == {"openai": "tts-1", "fish": "s1"}[dialect]
    assert math.isclose(result["conditions"]["rate"], {"openai": 24_000, "fish": 44_100}[dialect])
