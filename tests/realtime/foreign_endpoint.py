"""Speech endpoints that are not ours: OpenAI's and Fish Audio's requests over real HTTP, Fish Audio's socket over a real WebSocket.

They speak every text as a tone, at a speed and with faults that a test chooses. What is unrealistic: the length of the sound follows from
the number of characters alone, each request is served by itself however many there are (until `most` are), and nothing that was asked for
but the text, the format and the rate changes the sound.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import ormsgpack
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

CHUNK_S = 0.05


@dataclass
class Foreign:
    """How it behaves, and what it was asked."""

    char_s: float = 0.004  # of sound for each character
    speed: float = 10.0  # seconds of sound that are made in a second
    first_s: float = 0.0  # before the first of it
    wav: bool = False  # a header, and a rate of its own: 16 kHz
    channels: int = 1  # that the header claims
    key: str | None = None
    most: int = 1000  # at once; more are refused
    retry_after: str | None = "2"
    asked: list[dict[str, Any]] = field(default_factory=list)  # bodies, in order
    headers: list[dict[str, str]] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)  # a client left in the middle of an answer
    speaking: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def chunks(self, text: str, rate: int) -> Iterator[bytes]:
        """The sound, 16 bit, as it is made; after a header that does not know how long it will be."""
        if self.wav:
            rate = 16_000
            begin, sizes = b"RIFF\xff\xff\xff\xffWAVE", (16, 1, self.channels, rate, 2 * rate, 2, 16)
            yield begin + b"LIST" + struct.pack("<I", 3) + b"abc\0" + b"fmt " + struct.pack("<IHHIIHH", *sizes)
            yield b"data\xff\xff\xff\xff"
        time.sleep(self.first_s)
        samples = round(len(text) * self.char_s * rate)
        tone = (9000 * np.sin(np.arange(samples) * 2 * np.pi * 330 / rate)).astype("<i2").tobytes()
        step = 2 * round(CHUNK_S * rate) - 1  # odd: a chunk may end within a sample
        for start in range(0, len(tone), step):
            time.sleep(CHUNK_S / self.speed)
            yield tone[start : start + step]

    def refusal(self, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and words."""
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return 401, "wrong key"
        return (429, "too many at once") if self.speaking >= self.most else None

    @contextmanager
    def place(self) -> Iterator[None]:
        """For one that speaks."""
        with self.lock:
            self.speaking += 1
        try:
            yield
        finally:
            with self.lock:
                self.speaking -= 1


@contextmanager
def over_http(foreign: Foreign) -> Iterator[str]:
    """Its base address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            foreign.asked.append({"path": self.path, **body})
            foreign.headers.append(headers)
            if (refused := foreign.refusal(headers)) is not None:
                self._refuse(*refused)
                return
            rate = int(body.get("sample_rate", 24_000))
            self.send_response(200)
            self.send_header("Content-Type", "audio/pcm")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                with foreign.place():
                    for chunk in foreign.chunks(body.get("input") or body["text"], rate):
                        self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                self.wfile.write(b"0\r\n\r\n")
            except ConnectionError:
                foreign.hung_up.set()
                self.close_connection = True

        def _refuse(self, status: int, words: str) -> None:
            self.send_response(status)
            if foreign.retry_after is not None:
                self.send_header("Retry-After", foreign.retry_after)
            self.send_header("Content-Length", str(len(words)))
            self.end_headers()
            self.wfile.write(words.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def over_websocket(foreign: Foreign) -> Iterator[str]:
    """Its base address. A text is spoken when all of it has come."""

    def speak(socket: ServerConnection) -> None:
        text, request = "", {}
        try:
            for message in socket:
                event = ormsgpack.unpackb(message)
                foreign.asked.append(event)
                match event["event"]:
                    case "start":
                        request = event["request"]
                    case "text":
                        text += event["text"]
                    case "stop":
                        break
            with foreign.place():
                for chunk in foreign.chunks(text, request["sample_rate"]):
                    socket.send(ormsgpack.packb({"event": "audio", "audio": chunk}))
            socket.send(ormsgpack.packb({"event": "finish", "reason": "stop"}))
        except ConnectionClosed:
            foreign.hung_up.set()

    def let_in(socket: ServerConnection, request: Any) -> Any:
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        foreign.headers.append(headers)
        if (refused := foreign.refusal(headers)) is None:
            return None
        answer = socket.respond(*refused)
        if foreign.retry_after is not None:
            answer.headers["Retry-After"] = foreign.retry_after
        return answer

    with serve(speak, "127.0.0.1", 0, process_request=let_in) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()
