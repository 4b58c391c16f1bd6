"""The endpoint over real sockets on loopback, with an engine that speaks tones."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from engine.api import Conversation, SamplingParams, Voice
from protocol.audio_frame import Flag, unpack
from protocol.config import Limits
from realtime.scripted import Script, ScriptedEngine, ScriptedStream
from realtime.settings import Settings
from realtime.voice_folder import NewSource, VoiceFolder
from tests.realtime.sockets import (
    KEY,
    PATIENCE_S,
    PLAIN,
    RIGHT,
    WRONG,
    Watched,
    answer_to_a_message_too_large,
    client,
    handshake,
    live,
    masked,
    raw,
    receive,
    say,
    send,
    serving,
    to_the_end,
    tones,
    vanish,
)
from tests.realtime.speechlike import clean, file


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ScriptedEngine(Script(step_s=0.001, max_streams=64))) as address:
        yield address


# Speaking


def test_the_client_hears_what_the_engine_said(url: str) -> None:
    with client(url) as ws:
        send(ws, "session.update", **PLAIN)
        send(ws, "text.append", text="Hello there, friend.")
        send(ws, "turn.end")
        assert receive(ws, "turn.started")["n"] == 1
        frames = []
        while isinstance(message := ws.recv(PATIENCE_S), bytes):
            frames.append(unpack(message))
    assert json.loads(message)["type"] == "turn.done"
    assert [frame.position for frame in frames] == list(np.cumsum([0] + [len(frame.payload) // 4 for frame in frames]))[
        :-1
    ]
    assert frames[0].flags == Flag.FIRST and frames[-1].flags == Flag.LAST
    heard = np.frombuffer(b"".join(frame.payload for frame in frames), "<f4")
    assert np.array_equal(heard, tones("Hello there,") + tones("friend."))


def test_two_turns_of_one_session_and_a_farewell(url: str) -> None:
    with client(url, subprotocols=["live.v1"]) as ws:
        assert ws.subprotocol == "live.v1"
        send(ws, "session.update", **PLAIN)
        assert say(ws, "One.")[1]["turn"] == "turn-1"
        assert say(ws, "Two.")[1]["turn"] == "turn-2"
        send(ws, "session.close")
        assert to_the_end(ws) == ([], 1000)


@pytest.mark.parametrize("transport", ["raw", "json"])
def test_audio_travels_as_the_client_asked(url: str, transport: str) -> None:
    with client(url) as ws:
        send(
            ws,
            "session.update",
            audio={"output": PLAIN["audio"]["output"], "transport": transport},
            pacing={"clock": "none"},
        )
        send(ws, "text.append", text="Hello.")
        send(ws, "turn.end")
        audio = b""
        while True:
            message = ws.recv(PATIENCE_S)
            if isinstance(message, bytes):
                audio += message
            elif (event := json.loads(message))["type"] == "audio":
                audio += base64.b64decode(event["data"])
            elif event["type"] == "turn.done":
                break
    assert np.array_equal(np.frombuffer(audio, "<f4"), tones("Hello."))


def test_many_conversations_at_once_hear_their_own_words(url: str) -> None:
    def conversation(index: int) -> bool:
        text = f"This is speaker number {index}."
        with client(url) as ws:
            send(ws, "session.update", **PLAIN)
            audio, done = say(ws, text)
            return done["status"] == "completed" and np.array_equal(np.frombuffer(audio, "<f4"), tones(text))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(conversation, range(16)))


@pytest.mark.alone
def test_a_cancel_silences_the_turn_within_milliseconds(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """From a client's send to its receipt of turn.done: an upper bound of the time from the read to the turn's last write."""
    waits: list[float] = []
    with client(url) as ws:
        for index in range(100):
            send(ws, "text.append", text="A sentence that goes on for quite some time, about this and that. " * 2)
            receive(ws, "turn.started")
            for _ in range(index % 7):
                ws.recv(PATIENCE_S)
            started = time.perf_counter()
            send(ws, "turn.cancel", played_ms=10)
            done = receive(ws, "turn.done")
            waits.append(time.perf_counter() - started)
            assert done["status"] == "cancelled"
        send(ws, "ping", t=1)
        assert json.loads(ws.recv(PATIENCE_S))["type"] == "pong", "nothing of the last turn came after its end"
    waits.sort()
    p50, p99 = (1000 * waits[int(share * len(waits))] for share in (0.5, 0.99))
    with capsys.disabled():
        print(f"\n  cancel to turn.done over loopback: p50 {p50:.2f} ms, p99 {p99:.2f} ms, of {len(waits)}")
    assert p99 < 100


@pytest.mark.parametrize("asked", [{"voice": "anna"}, {"voices": {"0": "anna"}}])
def test_who_asks_for_a_voice_right_after_it_was_added_gets_it(tmp_path: Path, asked: dict[str, Any]) -> None:
    with serving(ScriptedEngine(), Settings(port=0, voices_dir=tmp_path)) as url, client(url) as ws:
        VoiceFolder(tmp_path).add("anna", [NewSource(file(clean(3.0, 1)), "Eins.")])
        send(ws, "session.update", **asked)
        answer = json.loads(ws.recv(PATIENCE_S))
        assert answer["type"] == "session.updated", answer


# Who is let in


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    settings = Settings(port=0, keys=(KEY,), limits=Limits(unauthenticated_s=1), max_unauthenticated=2)  # type: ignore[arg-type]
    with serving(ScriptedEngine(), settings) as address:
        yield address


def test_the_key_opens_the_socket(guarded: str) -> None:
    with client(guarded, additional_headers=RIGHT) as ws:
        send(ws, "ping")
        assert receive(ws, "pong")


def test_a_wrong_key_is_refused_before_the_handshake(guarded: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        connect(live(guarded), proxy=None, additional_headers=WRONG)
    response = refusal.value.response
    assert response.status_code == 401 and response.body is not None
    assert json.loads(response.body)["error"]["code"] == "unauthorized"
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_a_browser_is_told_after_the_handshake(guarded: str) -> None:
    origin: Any = guarded
    with connect(live(guarded), proxy=None, additional_headers=WRONG, origin=origin) as ws:
        said, code = to_the_end(ws)
    assert [event["code"] for event in said] == ["unauthorized"] and said[0]["fatal"]
    assert code == 4401


def test_a_page_shows_the_key_in_its_first_message(guarded: str) -> None:
    with connect(live(guarded), proxy=None) as ws:
        send(ws, "session.update", token=KEY, latency="quality", event_id="e")
        assert json.loads(ws.recv(PATIENCE_S))["type"] == "session.created"
        updated = json.loads(ws.recv(PATIENCE_S))
        assert (updated["type"], updated["event_id"], updated["config"]["latency"]) == (
            "session.updated",
            "e",
            "quality",
        )
        assert KEY not in json.dumps(updated)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "session.update", "token": "wrong-wrong-wrong"},
        {"type": "session.update"},
        {"type": "text.append", "text": "Hello."},
        {"type": "session.update", "token": KEY, "metadata": {"a": "x" * 4096}},
        {"nonsense": 1},
    ],
)
def test_any_other_first_message_closes_the_socket(guarded: str, message: dict[str, Any]) -> None:
    with connect(live(guarded), proxy=None) as ws:
        ws.send(json.dumps(message))
        said, code = to_the_end(ws)
    assert [event["code"] for event in said] == ["unauthorized"] and code == 4401


def test_who_shows_no_key_is_not_waited_for(guarded: str) -> None:
    with connect(live(guarded), proxy=None) as ws:
        assert to_the_end(ws)[1] == 4401


def test_only_so_many_may_be_without_a_key(guarded: str) -> None:
    with connect(live(guarded), proxy=None), connect(live(guarded), proxy=None):
        with pytest.raises(InvalidStatus) as refusal:
            connect(live(guarded), proxy=None)
        assert refusal.value.response.status_code == 429


def test_a_wrong_key_later_closes_the_socket(guarded: str) -> None:
    with client(guarded, additional_headers=RIGHT) as ws:
        send(ws, "session.update", token="wrong-wrong-wrong")
        assert to_the_end(ws)[1] == 4401


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_a_foreign_page_may_not_connect(url: str, origin: Any) -> None:
    with connect(live(url), proxy=None, origin=origin) as ws:
        said, code = to_the_end(ws)
    assert said[0]["code"] == "forbidden" and code == 4403


def test_the_servers_own_page_may_connect(url: str) -> None:
    origin: Any = url
    with client(url, origin=origin) as ws:
        send(ws, "ping")
        assert receive(ws, "pong")


def test_a_full_server_says_when_to_come_back() -> None:
    with serving(ScriptedEngine(), Settings(port=0, max_sessions=1)) as url, client(url):
        with pytest.raises(InvalidStatus) as refusal:
            connect(live(url), proxy=None)
        response = refusal.value.response
        assert response.status_code == 429 and int(response.headers["Retry-After"]) > 0
        origin: Any = url
        with connect(live(url), proxy=None, origin=origin) as ws:
            said, code = to_the_end(ws)
        assert said[0]["code"] == "too_many_sessions" and said[0]["retry_after_ms"] > 0 and code == 4429


def test_a_place_is_taken_by_who_has_shown_a_key() -> None:
    settings = Settings(port=0, keys=(KEY,), max_sessions=1)  # type: ignore[arg-type]
    with (
        serving(ScriptedEngine(), settings) as url,
        connect(live(url), proxy=None) as late,
        client(url, additional_headers=RIGHT),
    ):
        send(late, "session.update", token=KEY)
        said, code = to_the_end(late)
    assert said[0]["code"] == "too_many_sessions" and code == 4429


# What is refused


def test_three_messages_that_are_no_json_close_the_socket(url: str) -> None:
    with client(url) as ws:
        for _ in range(3):
            ws.send("{")
        said, code = to_the_end(ws)
    assert [(event["code"], event["fatal"]) for event in said] == [("bad_message", False)] * 2 + [("bad_message", True)]
    assert code == 4400


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "turn.sing"}, "unsupported"),
        ({"type": "turn.cancel", "played": 5}, "unsupported"),
        ({"type": "turn.cancel", "played_ms": "5"}, "invalid_value"),
        ({"type": "turn.end", "turn": "nobody"}, "unknown_turn"),
        ({"type": "session.update", "voice": "nobody"}, "voice_not_found"),
        ({"type": "text.append", "text": "x" * 4097}, "invalid_value"),
        (b"\x02" * 20, "invalid_value"),  # sound that was not announced
    ],
)
def test_a_refused_message_is_told_and_the_session_lives(url: str, message: Any, code: str) -> None:
    with client(url) as ws:
        ws.send(message if isinstance(message, bytes) else json.dumps(message))
        error = receive(ws, "error")
        assert (error["code"], error["fatal"]) == (code, False)
        send(ws, "session.update", **PLAIN)
        assert say(ws, "Still here.")[1]["status"] == "completed"


@pytest.mark.parametrize(("size", "close_code"), [(65_537, 4413), (262_144, 4413), (262_145, 1009)])
def test_a_message_that_is_too_large_closes_the_socket(url: str, size: int, close_code: int) -> None:
    with client(url) as ws:
        padding = size - len(json.dumps({"type": "ping", "t": ""}))
        ws.send(json.dumps({"type": "ping", "t": "x" * padding}))
        assert to_the_end(ws)[1] == close_code


def test_what_a_message_that_is_too_large_was_refused_with_arrives_while_it_is_still_sent(url: str) -> None:
    assert answer_to_a_message_too_large(url, "/v1/live") == 1009


def test_text_that_is_not_utf_8_closes_the_socket(url: str) -> None:
    with client(url) as ws:
        ws.send(b"\xff\xfe", text=True)
        assert to_the_end(ws)[1] == 1007


def test_a_flood_is_refused_and_survived(url: str) -> None:
    with client(url) as ws:
        for index in range(400):
            send(ws, "ping", t=index)
        kinds = [json.loads(ws.recv(PATIENCE_S)) for _ in range(400)]
        assert {event.get("code") for event in kinds} == {None, "rate_limited"}
        assert sum(event["type"] == "pong" for event in kinds) >= 200


# Trouble


def test_a_client_that_vanishes_in_mid_turn_frees_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    engine = Watched(Script(step_s=0.01))
    settings = Settings(port=0, limits=Limits(disconnect_grace_ms=50, resume_ttl_s=1))
    with serving(engine, settings) as url, client(url) as ws:
        send(ws, "text.append", text="A long story. " * 20)
        receive(ws, "turn.started")
        vanish(ws)
        assert engine.gone.wait(PATIENCE_S)
        assert not engine.streams
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")], "nobody's mistake"


def test_a_client_that_does_not_read_is_dropped_and_disturbs_nobody() -> None:
    engine = Watched(Script())
    with serving(engine, Settings(port=0, limits=Limits(drain_s=1, resume_ttl_s=0))) as url, client(url) as other:
        with raw(url) as sock:
            sock.sendall(handshake("/v1/live"))
            assert b"101" in sock.recv(64)
            for message in (
                {"type": "session.update", "audio": {"output": {"format": "pcm_f32le"}}, "pacing": {"clock": "none"}},
                {"type": "text.append", "text": "A long story, told to nobody. " * 100},
                {"type": "turn.end"},
            ):
                sock.sendall(masked(json.dumps(message).encode()))
            send(other, "session.update", **PLAIN)
            assert say(other, "Meanwhile.")[1]["status"] == "completed"
            assert engine.gone.wait(PATIENCE_S), "the silent one was dropped"
            assert len(engine.forgotten) == 2, "the warm-up and that one"
        assert say(other, "Afterwards.")[1]["status"] == "completed"


def test_a_bug_ends_its_own_connection_alone() -> None:
    class Broken(Watched):
        def open(self, conversation: Conversation, voice: Voice, params: SamplingParams, turn: int) -> ScriptedStream:
            if params.seed == 13:
                raise ZeroDivisionError("a bug")
            return super().open(conversation, voice, params, turn)

    with serving(Broken()) as url, client(url) as other, client(url) as ws:
        send(ws, "session.update", sampling={"seed": 13})
        send(ws, "text.append", text="Hello there.")
        send(ws, "turn.end")
        said, code = to_the_end(ws)
        assert (said[-1]["code"], said[-1]["message"], code) == ("internal", "the server made a mistake", 1011)
        send(other, "session.update", **PLAIN)
        assert say(other, "Hello.")[1]["status"] == "completed"
