"""A real WebSocket server on loopback whose every step a test writes down.

Unlike the real server it does nothing by itself: it neither answers nor closes unless the script says so, and it takes any number of
messages a second.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeVar

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from protocol.audio_frame import Flag
from protocol.client import Client, connect
from protocol.config import Limits, SessionConfig, Transport
from protocol.connection import Connection, encode_audio, encode_event
from protocol.events import Kept, TurnMetrics
from protocol.messages import (
    Command,
    Event,
    Heard,
    HeardSource,
    SessionCreated,
    Status,
    TextAppend,
    TurnDone,
    TurnStarted,
)

_Command = TypeVar("_Command", bound=Command)


class Peer:
    """The server's end of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self._connection = Connection(Limits())
        self._now = count()

    async def hears(self, kind: type[_Command]) -> _Command:
        """The next command, which must be of this kind."""
        message = await self.socket.recv()
        assert isinstance(message, str)
        command = self._connection.receive_text(message, float(next(self._now)))
        assert isinstance(command, kind), f"expected {kind.__name__}, got {command!r}"
        return command

    async def hears_text_until(self, kind: type[_Command]) -> tuple[list[str], _Command]:
        """The text messages before the next command of this kind, and that command."""
        texts: list[str] = []
        while True:
            command = await self.hears(object)  # type: ignore[type-var]
            if isinstance(command, kind):
                return texts, command
            assert isinstance(command, TextAppend), f"expected text or {kind.__name__}, got {command!r}"
            texts.append(command.text)

    async def says(self, event: Event) -> None:
        await self.socket.send(encode_event(event))

    async def opens(self, limits: Limits | None = None) -> None:
        created = SessionCreated(
            session="s1",
            config=SessionConfig(),
            limits=limits or Limits(),
            model="tones",
            sample_rate=24_000,
            pre_skip=312,
            server_time=0,
            expires_at=1,
        )
        await self.says(created)

    async def starts(self, turn: str, n: int = 1) -> None:
        await self.says(TurnStarted(turn=turn, n=n, queue_ms=0, first_audio_ms=5))

    async def sounds(
        self, payload: bytes, n: int = 1, position: int = 0, transport: Transport = Transport.BINARY
    ) -> None:
        await self.socket.send(encode_audio(transport, "t1", n, Flag.NONE, position, payload))

    async def ends(self, turn: str, n: int = 1, status: Status = Status.COMPLETED, reason: str | None = None) -> None:
        heard = Heard(ms=0, text="", remaining="", char_end=0, source=HeardSource.NONE)
        kept, metrics = Kept(kept_ms=0, kept_chars=0), TurnMetrics()
        await self.says(
            TurnDone(
                turn=turn,
                n=n,
                status=status,
                reason=reason,
                audio_ms=0,
                sent_ms=0,
                heard=heard,
                context=kept,
                metrics=metrics,
            )
        )

    async def stays(self) -> None:
        """Until the client has closed."""
        await self.socket.wait_closed()


@asynccontextmanager
async def serving(
    script: Callable[[Peer], Awaitable[None]],
    on_request: Callable[[ServerConnection, Request], Response | None] | None = None,
) -> AsyncIterator[str]:
    """The URL of a server that plays `script` to each client and closes at its end. What a script raises, the block raises."""
    failures: list[Exception] = []

    async def play(socket: ServerConnection) -> None:
        try:
            await script(Peer(socket))
        except Exception as failure:  # supervisor: an assertion in the script fails the test, not the server
            failures.append(failure)

    protocols = [Subprotocol("live.v1")]
    async with serve(
        play, "127.0.0.1", 0, subprotocols=protocols, compression=None, process_request=on_request
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        try:
            yield f"ws://127.0.0.1:{port}/v1/live"
        except Exception as broken:
            # The script saw the cause; a script that only lost its client did not.
            for failure in failures:
                if not isinstance(failure, ConnectionClosed):
                    raise failure from broken
            raise
    if failures:
        raise failures[0]


@asynccontextmanager
async def connected(script: Callable[[Peer], Awaitable[None]], **options: Any) -> AsyncIterator[Client]:
    """A client of a server that plays `script`."""
    async with serving(script) as url, connect(url, **options) as client:
        yield client
