"""An HTTP request that another process answers, where that process does not behave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.types import Message

from realtime.relayed_request import relay_request
from realtime.tunnel import Unreachable

pytestmark = pytest.mark.anyio

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HALF = b"HTTP/1.1 200 OK\r\nContent-Type: audio/pcm\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\nDate: today\r\nX-Any: thing\r\n\r\nbody"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # which is what uvicorn runs on


@asynccontextmanager
async def answering(path: Path, serve: Serve) -> AsyncIterator[None]:
    """Somebody at the socket."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(served, path)
    try:
        yield
    finally:
        server.close()


class Client:
    """Of an ASGI server."""

    def __init__(self, *body: bytes, **scope: Any) -> None:
        headers = [(b"host", b"any"), (b"transfer-encoding", b"chunked"), (b"connection", b"keep-alive")]
        self.scope = {"type": "http", "method": "POST", "raw_path": b"/a", "query_string": b"b=c", "headers": headers}
        self.scope |= scope
        self.sent: list[Message] = []
        self.leaves = anyio.Event()
        self.reads = anyio.Event()
        self.reads.set()
        self._body = list(body)

    async def receive(self) -> Message:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(0), "more_body": bool(self._body)}
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)

    async def ask(self, path: Path, patience_s: float = 10.0) -> None:
        await relay_request(path, None, self.scope, self.receive, self.send, patience_s)


async def test_what_concerns_one_connection_stays_with_it(tmp_path: Path) -> None:
    asked = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked = await reader.readuntil(b"0\r\n\r\n")
        writer.write(WHOLE)
        await writer.drain()

    async with answering(tmp_path / "s", serve):
        client = Client(b"one", b"two")
        await client.ask(tmp_path / "s")
    assert (
        asked
        == b"POST /a?b=c HTTP/1.1\r\nhost: any\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    )
    start, *rest = client.sent
    assert start["status"] == 200 and start["headers"] == [(b"content-length", b"4"), (b"x-any", b"thing")]
    assert [(each["body"], each["more_body"]) for each in rest] == [(b"body", True), (b"", False)]


async def test_an_answer_that_breaks_off_is_not_called_complete(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(HALF)
        await writer.drain()

    async with answering(tmp_path / "s", serve):
        client = Client(b"body")
        await client.ask(tmp_path / "s")
    assert [each["type"] for each in client.sent] == ["http.response.start", "http.response.body"]
    assert client.sent[-1]["more_body"]


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", b"nothing of the kind\r\n\r\n"])
async def test_without_an_answer_nothing_is_sent(tmp_path: Path, said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)

    async with answering(tmp_path / "s", serve):
        client = Client(b"x" * 100_000, b"x" * 100_000)
        with pytest.raises(Unreachable):
            await client.ask(tmp_path / "s")
    assert not client.sent
    with pytest.raises(Unreachable):
        await client.ask(tmp_path / "missing")


async def test_an_answer_that_comes_before_the_end_of_the_body_arrives(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(WHOLE)
        await writer.drain()
        await reader.read()

    async with answering(tmp_path / "s", serve):
        client = Client(*[b"x" * 100_000] * 50)
        await client.ask(tmp_path / "s")
    assert client.sent[0]["status"] == 200 and not client.sent[-1]["more_body"]


async def test_who_answers_hears_that_the_client_has_left(tmp_path: Path) -> None:
    left = anyio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"0\r\n\r\n")
        client.leaves.set()
        assert await reader.read() == b""
        left.set()

    async with answering(tmp_path / "s", serve):
        client = Client(b"body")
        await client.ask(tmp_path / "s")
        await left.wait()
    assert not client.sent


async def test_a_client_that_takes_nothing_is_not_waited_for(tmp_path: Path) -> None:
    written = 0
    left = anyio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(HALF)
        client.reads = anyio.Event()
        try:
            while True:
                writer.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")
                await writer.drain()
                written += 0x1000
        except OSError:
            left.set()

    async with answering(tmp_path / "s", serve):
        client = Client(b"body")
        await client.ask(tmp_path / "s", patience_s=0.2)
        await left.wait()
    assert written < 2_000_000, "what nobody takes is not read"
