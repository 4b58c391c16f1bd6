"""Sockets to a real server on this machine, and an engine that speaks tones behind it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio.abc
import pytest
from anyio.from_thread import start_blocking_portal
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from engine.api import Conversation, ModelInfo, SamplingParams, Voice
from protocol.audio_frame import unpack
from realtime.scripted import MINI_LIKE, Script, ScriptedEngine
from realtime.server import serve
from realtime.settings import Settings

KEY = "a-key-for-the-tests"
PATIENCE_S = 60.0  # for something that takes milliseconds, on a machine that does other things as well
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


def live(url: str) -> str:
    return url.replace("http", "ws", 1) + "/v1/live"


# No pings of the client's own: the thread that would send them draws from `random`, which fails hypothesis in whatever test runs then.
PLAINLY: dict[str, Any] = {"compression": None, "proxy": None, "ping_interval": None}


@contextmanager
def client(url: str, **options: Any) -> Iterator[ClientConnection]:
    """A connected socket; session.created has been read."""
    with connect(live(url), **PLAINLY, **options) as ws:
        assert json.loads(ws.recv(PATIENCE_S))["type"] == "session.created"
        yield ws


def send(ws: ClientConnection, kind: str, **fields: Any) -> None:
    ws.send(json.dumps({"type": kind, **fields}))


def receive(ws: ClientConnection, kind: str) -> dict[str, Any]:
    """The next event of this type; audio and other events before it are read over."""
    while True:
        message = ws.recv(PATIENCE_S)
        if isinstance(message, str) and json.loads(message)["type"] == kind:
            event: dict[str, Any] = json.loads(message)
            return event


def say(ws: ClientConnection, text: str) -> tuple[bytes, dict[str, Any]]:
    """Speak a turn: its audio and its turn.done."""
    send(ws, "text.append", text=text)
    send(ws, "turn.end")
    audio = b""
    while True:
        message = ws.recv(PATIENCE_S)
        if isinstance(message, bytes):
            audio += unpack(message).payload
        elif (event := json.loads(message))["type"] == "turn.done":
            return audio, event


def to_the_end(ws: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """What the server still says, and its close code."""
    said: list[dict[str, Any]] = []
    with pytest.raises(ConnectionClosed) as end:
        while True:
            message = ws.recv(PATIENCE_S)
            if isinstance(message, str):
                said.append(json.loads(message))
    assert end.value.rcvd is not None
    return said, end.value.rcvd.code


def vanish(ws: ClientConnection) -> None:
    """Be gone without a farewell, as a phone is that lost its network."""
    ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    ws.socket.shutdown(socket.SHUT_RDWR)  # wakes the reader of this side; what follows resets the connection
    ws.socket.close()


class Watched(ScriptedEngine):
    """Tells a test in another thread when a conversation was forgotten, which is the last thing that happens to one."""

    def __init__(self, script: Script | None = None, info: ModelInfo = MINI_LIKE) -> None:
        super().__init__(script, info)
        self.gone = threading.Event()

    def forget(self, conversation_id: str) -> None:
        super().forget(conversation_id)
        if not conversation_id.startswith("warm-up-"):
            self.gone.set()


def tones(*segments: str) -> Any:
    """What the scripted engine makes of segments."""
    engine = ScriptedEngine()
    stream = engine.open(Conversation("c"), Voice("v"), SamplingParams(), 1)
    for segment in segments:
        stream.push(segment)
    stream.finish()
    stream.allow(10_000)
    return [sample for event in iter(stream.step, None) if hasattr(event, "samples") for sample in event.samples]


@contextmanager
def raw(url: str) -> Iterator[socket.socket]:
    """A connection that reads only what it is told to, and little at a time."""
    with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), PATIENCE_S) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        yield sock


def handshake(path: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]
    return "\r\n".join(lines).encode()


def answer_to_a_message_too_large(url: str, path: str) -> int:
    """The code that a socket is closed with whose client sends on after that."""
    with raw(url) as sock:
        sock.sendall(handshake(path))
        assert b"101" in sock.recv(12)
        sock.sendall(b"\x81\xff" + (300_000).to_bytes(8, "big") + bytes(4))
        said = bytearray()
        while came := sock.recv(4096):
            said += came
        for _ in range(100):  # to a server that is gone the first would be answered with a reset, and then one fail
            sock.sendall(b"x" * 3000)
    close = said[said.rindex(b"\x88") :]
    return int.from_bytes(close[2:4], "big")


def masked(payload: bytes) -> bytes:
    """A client's text frame, masked with zeros."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + payload
