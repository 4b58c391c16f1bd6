"""The server over real sockets on loopback, with an engine that speaks tones."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import anyio.abc
import httpx
import numpy as np
import pytest
from anyio.from_thread import start_blocking_portal
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from engine.api import Conversation, ModelInfo, SamplingParams, Voice
from protocol.audio_frame import Flag, unpack
from protocol.config import Limits
from realtime.scripted import MINI_LIKE, Script, ScriptedEngine, ScriptedStream
from realtime.server import create_app, serve
from realtime.settings import Settings

KEY = "a-key-for-the-tests"
RIGHT = {"Authorization": f"Bearer {KEY}"}
WRONG = {"Authorization": "Bearer wrong-wrong-wrong"}
# The engine's own rate, so that samples can be compared; as fast as they come.
PLAIN: dict[str, Any] = {"audio": {"output": {"format": "pcm_f32le", "rate": 22050}}, "pacing": {"clock": "none"}}


@contextmanager
def serving(engine: ScriptedEngine, settings: Settings | None = None) -> Iterator[str]:
    """A server's address. It runs in a thread with an event loop of its own; look at the engine only while nothing speaks."""

    @asynccontextmanager
    async def running() -> AsyncIterator[ScriptedEngine]:
        yield engine

    async def run(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        await serve(settings or Settings(port=0), running, listening=task_status.started)

    with start_blocking_portal() as portal:
        task, address = portal.start_task(run)
        try:
            yield address
        finally:
            task.cancel()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ScriptedEngine(Script(step_s=0.001, max_streams=64))) as address:
        yield address


def live(url: str) -> str:
    return url.replace("http", "ws", 1) + "/v1/live"


@contextmanager
def client(url: str, **options: Any) -> Iterator[ClientConnection]:
    """A connected socket; session.created has been read."""
    with connect(live(url), compression=None, proxy=None, **options) as ws:
        assert json.loads(ws.recv(10))["type"] == "session.created"
        yield ws


def send(ws: ClientConnection, kind: str, **fields: Any) -> None:
    ws.send(json.dumps({"type": kind, **fields}))


def receive(ws: ClientConnection, kind: str) -> dict[str, Any]:
    """The next event of this type; audio and other events before it are read over."""
    while True:
        message = ws.recv(10)
        if isinstance(message, str) and json.loads(message)["type"] == kind:
            event: dict[str, Any] = json.loads(message)
            return event


def say(ws: ClientConnection, text: str) -> tuple[bytes, dict[str, Any]]:
    """Speak a turn: its audio and its turn.done."""
    send(ws, "text.append", text=text)
    send(ws, "turn.end")
    audio = b""
    while True:
        message = ws.recv(10)
        if isinstance(message, bytes):
            audio += unpack(message).payload
        elif (event := json.loads(message))["type"] == "turn.done":
            return audio, event


def to_the_end(ws: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """What the server still says, and its close code."""
    said: list[dict[str, Any]] = []
    with pytest.raises(ConnectionClosed) as end:
        while True:
            message = ws.recv(10)
            if isinstance(message, str):
                said.append(json.loads(message))
    assert end.value.rcvd is not None
    return said, end.value.rcvd.code


class Watched(ScriptedEngine):
    """Tells a test in another thread when a conversation was forgotten, which is the last thing that happens to one."""

    def __init__(self, script: Script | None = None, info: ModelInfo = MINI_LIKE) -> None:
        super().__init__(script, info)
        self.gone = threading.Event()

    def forget(self, conversation_id: str) -> None:
        super().forget(conversation_id)
        if conversation_id != "warm-up":
            self.gone.set()


# Speaking


def test_the_client_hears_what_the_engine_said(url: str) -> None:
    with client(url) as ws:
        send(ws, "session.update", **PLAIN)
        send(ws, "text.append", text="Hello there, friend.")
        send(ws, "turn.end")
        assert receive(ws, "turn.started")["n"] == 1
        frames = []
        while isinstance(message := ws.recv(10), bytes):
            frames.append(unpack(message))
    assert json.loads(message)["type"] == "turn.done"
    assert [frame.position for frame in frames] == list(np.cumsum([0] + [len(frame.payload) // 4 for frame in frames]))[
        :-1
    ]
    assert frames[0].flags == Flag.FIRST and frames[-1].flags == Flag.LAST
    heard = np.frombuffer(b"".join(frame.payload for frame in frames), "<f4")
    assert np.array_equal(heard, tones("Hello there,") + tones("friend."))


def tones(*segments: str) -> Any:
    """What the scripted engine makes of segments."""
    engine = ScriptedEngine()
    stream = engine.open(Conversation("c"), Voice("v"), SamplingParams(), 1)
    for segment in segments:
        stream.push(segment)
    stream.finish()
    stream.allow(10_000)
    return [sample for event in iter(stream.step, None) if hasattr(event, "samples") for sample in event.samples]


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
            message = ws.recv(10)
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


def test_a_cancel_silences_the_turn_within_milliseconds(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """From a client's send to its receipt of turn.done: an upper bound of the time from the read to the turn's last write."""
    waits: list[float] = []
    with client(url) as ws:
        for index in range(100):
            send(ws, "text.append", text="A sentence that goes on for quite some time, about this and that. " * 2)
            receive(ws, "turn.started")
            for _ in range(index % 7):
                ws.recv(10)
            started = time.perf_counter()
            send(ws, "turn.cancel", played_ms=10)
            done = receive(ws, "turn.done")
            waits.append(time.perf_counter() - started)
            assert done["status"] == "cancelled"
        send(ws, "ping", t=1)
        assert json.loads(ws.recv(10))["type"] == "pong", "nothing of the last turn came after its end"
    waits.sort()
    p50, p99 = (1000 * waits[int(share * len(waits))] for share in (0.5, 0.99))
    with capsys.disabled():
        print(f"\n  cancel to turn.done over loopback: p50 {p50:.2f} ms, p99 {p99:.2f} ms, of {len(waits)}")
    assert p99 < 100


# Who is let in


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    settings = Settings(port=0, keys=(KEY,), limits=Limits(unauthenticated_s=1), max_unauthenticated=2)  # type: ignore[arg-type]
    with serving(ScriptedEngine(), settings) as address:
        yield address


ROUTES = ["/", "/app.js", "/health/live", "/health/ready", "/v1/models", "/nothing"]


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_asks_for_the_key(guarded: str, route: str) -> None:
    with httpx.Client(base_url=guarded, trust_env=False) as web:
        for headers in ({}, WRONG):
            refused = web.get(route, headers=headers)
            assert refused.status_code == 401 and refused.json()["error"]["code"] == "unauthorized"
            assert "Bearer" in refused.headers["www-authenticate"] and "Basic" in refused.headers["www-authenticate"]
        assert web.get(route, headers=RIGHT).status_code == (404 if route == "/nothing" else 200)
        assert web.get(route, auth=("anybody", KEY)).status_code == (404 if route == "/nothing" else 200)


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
        assert json.loads(ws.recv(10))["type"] == "session.created"
        updated = json.loads(ws.recv(10))
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
        (b"\x02" * 20, "unsupported"),
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


def test_text_that_is_not_utf_8_closes_the_socket(url: str) -> None:
    with client(url) as ws:
        ws.send(b"\xff\xfe", text=True)
        assert to_the_end(ws)[1] == 1007


def test_a_flood_is_refused_and_survived(url: str) -> None:
    with client(url) as ws:
        for index in range(400):
            send(ws, "ping", t=index)
        kinds = [json.loads(ws.recv(10)) for _ in range(400)]
        assert {event.get("code") for event in kinds} == {None, "rate_limited"}
        assert sum(event["type"] == "pong" for event in kinds) >= 200


# Trouble


def test_a_client_that_vanishes_in_mid_turn_frees_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    engine = Watched(Script(step_s=0.01))
    with serving(engine) as url, client(url) as ws:
        send(ws, "text.append", text="A long story. " * 20)
        receive(ws, "turn.started")
        ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        ws.socket.close()
        assert engine.gone.wait(10)
        assert not engine.streams
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")], "nobody's mistake"


def test_a_client_that_does_not_read_is_dropped_and_disturbs_nobody() -> None:
    engine = Watched(Script())
    with serving(engine, Settings(port=0, limits=Limits(drain_s=1))) as url, client(url) as other:
        with closing(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            key = base64.b64encode(bytes(16)).decode()
            sock.sendall(
                f"GET /v1/live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            assert b"101" in sock.recv(64)
            for message in (
                {"type": "session.update", "audio": {"output": {"format": "pcm_f32le"}}, "pacing": {"clock": "none"}},
                {"type": "text.append", "text": "A long story, told to nobody. " * 100},
                {"type": "turn.end"},
            ):
                sock.sendall(masked(json.dumps(message).encode()))
            send(other, "session.update", **PLAIN)
            assert say(other, "Meanwhile.")[1]["status"] == "completed"
            assert engine.gone.wait(10), "the silent one was dropped"
            assert len(engine.forgotten) == 2, "the warm-up and that one"
        assert say(other, "Afterwards.")[1]["status"] == "completed"


def masked(payload: bytes) -> bytes:
    """A client's text frame, masked with zeros."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + payload


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


def test_a_dead_engine_is_not_ready_until_it_has_spoken_again() -> None:
    engine = Watched(Script())
    with serving(engine) as url, client(url) as ws, httpx.Client(base_url=url, trust_env=False) as web:
        assert web.get("/health/ready").status_code == 200
        send(ws, "turn.start")
        send(ws, "text.append", text="Hello there, my friend")
        receive(ws, "turn.started")
        engine.script = Script(max_streams=0)  # nothing can be opened: it is restarting
        engine.die()
        send(ws, "text.append", text=" and all of you. How do you do? And ")
        assert receive(ws, "error")["code"] == "engine_restarted"
        assert receive(ws, "turn.done")["status"] == "failed"
        assert web.get("/health/ready").json() == {"status": "warming_up"}
        engine.script = Script()
        send(ws, "turn.end")
        assert say(ws, "Again.")[1]["status"] == "completed"


# HTTP


def test_an_engine_that_has_not_spoken_is_live_and_not_ready() -> None:
    async def scene() -> None:
        app = create_app(Settings(), ScriptedEngine())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as web:
            assert (await web.get("/health/live")).json() == {"status": "live"}
            ready = await web.get("/health/ready")
            assert ready.status_code == 503 and ready.json() == {"status": "warming_up"}

    asyncio.run(scene())


def test_the_model_is_listed_with_what_must_be_said_of_it(tmp_path: Path) -> None:
    info = ModelInfo("fishaudio/s2-pro", 44100, 2048, 10, 40.0, attribution="This model is licensed.")

    async def scene() -> dict[str, Any]:
        app = create_app(Settings(voices_dir=tmp_path), ScriptedEngine(info=info))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as web:
            listed: dict[str, Any] = (await web.get("/v1/models")).json()
            return listed

    listed = asyncio.run(scene())
    (model,) = listed["data"]
    assert listed["object"] == "list" and model["id"] == "fishaudio/s2-pro" and model["voices"] == ["default"]
    assert model["attribution"] == "This model is licensed."
    assert (model["sample_rate"], model["device"], model["dtype"]) == (44100, "cpu", "float32")
    assert "scripts" not in model, "it takes every text"


def test_the_page_is_served_with_a_strict_policy_and_asks_nobody_else(url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False) as web:
        page = web.get("/")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "http://" not in page.text and "https://" not in page.text
        assert web.get("/../pyproject.toml").status_code == 404
        assert web.get("/%2e%2e/pyproject.toml").status_code == 404
        assert web.post("/v1/models").status_code == 405


# The end


def test_a_signal_lets_the_turn_be_spoken_and_lets_nobody_in() -> None:
    """In a process of its own, as an operator's would be."""
    program = """
import asyncio, contextlib, sys
from realtime.scripted import Script, ScriptedEngine
from realtime.server import serve
from realtime.settings import Settings

@contextlib.asynccontextmanager
async def engine():
    yield ScriptedEngine(Script(step_s=0.001))
    print("engine closed", flush=True)

asyncio.run(serve(Settings(port=0), engine, listening=lambda url: print(url, flush=True)))
print("ended", flush=True)
"""
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        with client(url) as ws:
            send(
                ws,
                "session.update",
                audio={"output": {"format": "pcm_s16le"}},
                pacing={"lead_ms": 500, "burst_ms": 100},
            )
            send(ws, "text.append", text="This will be spoken, whatever comes.")
            receive(ws, "turn.started")
            os.kill(server.pid, signal.SIGTERM)
            closing_event = receive(ws, "session.closing")
            assert closing_event["reason"] == "restart" and closing_event["in_ms"] == 30_000
            with pytest.raises(InvalidStatus) as refusal:
                connect(live(url), proxy=None)
            assert refusal.value.response.status_code == 503 and "Retry-After" in refusal.value.response.headers
            send(ws, "turn.end")
            done = receive(ws, "turn.done")
            assert done["status"] == "completed"
            assert to_the_end(ws)[1] == 1012
        assert server.wait(20) == 0
        assert server.stdout.read().split("\n") == ["engine closed", "ended", ""]
