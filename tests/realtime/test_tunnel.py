"""The beginning of a connection through another process. What follows is seen with real clients in `test_elsewhere`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from realtime import tunnel
from realtime.tunnel import Unreachable, ask

pytestmark = pytest.mark.anyio

HEAD = b"GET / HTTP/1.1\r\n\r\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # which is what uvicorn runs on


@asynccontextmanager
async def saying(path: Path, *pieces: bytes, stays: bool = True) -> AsyncIterator[anyio.Event]:
    """Somebody at the socket who says this once asked. The event: whoever asked is gone."""
    gone = anyio.Event()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readuntil(b"\r\n\r\n") == HEAD
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)
        if stays:
            assert await reader.read() == b""
        writer.close()
        gone.set()

    server = await asyncio.start_unix_server(served, path)
    try:
        yield gone
    finally:
        server.close()


async def test_an_answer_is_read_to_the_end_of_its_head_and_what_came_with_it_is_kept(tmp_path: Path) -> None:
    async with saying(tmp_path / "s", b"HTTP/1.1 101 S\r\nA: b\r", b"\n\r\nmore") as gone:
        end = await ask(tmp_path / "s", None, HEAD)
        assert end.head == b"HTTP/1.1 101 S\r\nA: b\r\n\r\n" and bytes(end.came) == end.head + b"more"
        assert not end.transport.is_reading(), "until somebody takes it"
        end.transport.abort()
        await gone.wait()


async def test_who_closes_without_an_answer_is_not_reached(tmp_path: Path) -> None:
    async with saying(tmp_path / "s", b"HTTP/1.1 101 S\r\n", stays=False):
        with pytest.raises(Unreachable):
            await ask(tmp_path / "s", None, HEAD)
    with pytest.raises(Unreachable):
        await ask(tmp_path / "missing", None, HEAD)


async def test_who_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "ANSWER_S", 0.1)
    async with saying(tmp_path / "s") as gone:
        with pytest.raises(Unreachable):
            await ask(tmp_path / "s", None, HEAD)
        await gone.wait()
