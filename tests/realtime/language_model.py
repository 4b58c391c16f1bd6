"""A language model's server on loopback: it speaks OpenAI's chat completions over real HTTP and answers what a test wrote down.

Unlike a real one it writes without thinking, unless a test holds it, and never two answers at once.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WrittenAnswers:
    """What the model will say, and what it was asked."""

    def __init__(self, answers: Sequence[str], models: Sequence[str] = ("toy",), piece_chars: int = 5) -> None:
        self.answers = list(answers)
        self.models = list(models)
        self.piece_chars = piece_chars
        self.asked: list[dict[str, Any]] = []  # bodies, in order
        self.keys: list[str | None] = []  # Authorization headers, in order
        self.status = 200
        self.page = ""  # body of an answer that is not 200
        self.ending: list[str] = ["data: [DONE]"]  # what is sent behind the last piece
        self.hold: Callable[[int], None] = lambda piece: None  # called before each piece, with its number
        self.hung_up = threading.Event()  # a client left in the middle of an answer

    def events(self, text: str) -> Iterator[str]:
        """An answer as lines: a role first, pieces of text, a comment, usage without a choice."""
        yield _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]})
        for number, start in enumerate(range(0, len(text), self.piece_chars)):
            self.hold(number)
            piece = text[start : start + self.piece_chars]
            yield _event({"choices": [{"index": 0, "delta": {"content": piece}}]})
        yield ": still here"
        yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield _event({"choices": [], "usage": {"completion_tokens": 1}})
        yield from self.ending


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}"


@contextmanager
def language_model(model: WrittenAnswers) -> Iterator[str]:
    """Its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

        def do_GET(self) -> None:
            self._head("application/json")
            names = [{"id": name, "object": "model"} for name in model.models]
            self.wfile.write(json.dumps({"object": "list", "data": names}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model.asked.append(body)
            model.keys.append(self.headers.get("Authorization"))
            self._head("text/event-stream")
            if model.status != 200:
                self.wfile.write(model.page.encode())
                return
            try:
                for line in model.events(model.answers.pop(0)):
                    self.wfile.write(f"{line}\n\n".encode())
                    self.wfile.flush()
            except ConnectionError:
                model.hung_up.set()

        def _head(self, kind: str) -> None:
            self.send_response(model.status)
            self.send_header("Content-Type", kind)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()
