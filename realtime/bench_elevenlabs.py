"""The benchmark's client that speaks ElevenLabs' multi-stream-input, as pipecat and LiveKit do: a context a turn, on one connection.

Knows that wire as a client writes it. Does not know load, texts or figures.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import anyio
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from realtime.bench_dialects import RATE_HZ, DialectFailed, Hear, dialled
from realtime.failure import leaf

PATH: Final = "/v1/text-to-speech/default/multi-stream-input"
END_S: Final = 1.0  # pipecat waits two for the close


class ElevenLabs:
    """See `bench_dialects.Speaker`. Interrupted by closing the context."""

    def __init__(self, url: str, session: str, key: str | None) -> None:
        """url: of the server, its scheme http or ws, its path is not looked at."""
        parts = urlsplit(url)
        scheme = "wss" if parts.scheme in ("https", "wss") else "ws"
        query = f"output_format=pcm_{RATE_HZ}"
        self._url = urlunsplit((scheme, parts.netloc, f"/s/{session}{PATH}", query, ""))
        self._headers = {"xi-api-key": key} if key is not None else {}
        self._socket: ClientConnection | None = None
        self._contexts = 0
        self._left = False
        self._over = anyio.Event()

    async def speak(self, deltas: AsyncIterator[str], hear: Hear) -> None:
        """See `Speaker`."""
        self._left, self._over = False, anyio.Event()
        self._contexts += 1
        socket = await self._connected()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, socket, deltas)
                while not await self._heard(socket, hear):
                    pass
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            if not isinstance(error := leaf(errors), ConnectionClosed):
                raise error from None
            self._socket = None
            raise DialectFailed("the server closed the connection") from None
        finally:
            self._over.set()

    async def interrupt(self) -> None:
        """See `Speaker`. As pipecat closes what it has closed already, if all was said."""
        self._left = True
        if self._socket is not None:
            for _ in range(2):
                await self._say(self._socket, close_context=True)
            await self._over.wait()

    async def close(self) -> None:
        """See `Speaker`."""
        if self._socket is not None:
            with suppress(ConnectionClosed), anyio.move_on_after(END_S):
                await self._socket.send(json.dumps({"close_socket": True}))
                await self._socket.wait_closed()
            await self._socket.close()

    async def _connected(self) -> ClientConnection:
        if self._socket is None:
            self._socket = await dialled(self._url, self._headers)
        return self._socket

    async def _heard(self, socket: ClientConnection, hear: Hear) -> bool:
        """Whether that was the last of it."""
        message: dict[str, Any] = json.loads(await socket.recv())
        if message.get("error"):
            raise DialectFailed(str(message.get("message")))
        if message.get("contextId") != self._context:
            return False
        if message.get("audio"):
            hear(base64.b64decode(message["audio"]))
        return bool(message.get("isFinal"))

    async def _write(self, socket: ClientConnection, deltas: AsyncIterator[str]) -> None:
        with suppress(ConnectionClosed):  # whoever listens is told as well
            await self._say(socket, text=" ")
            async for delta in deltas:
                if self._left:
                    return
                await self._say(socket, text=delta)
            if not self._left:
                await self._say(socket, text="", flush=True)
                await self._say(socket, close_context=True)

    async def _say(self, socket: ClientConnection, **fields: object) -> None:
        await socket.send(json.dumps({**fields, "context_id": self._context}))

    @property
    def _context(self) -> str:
        return f"turn-{self._contexts}"
