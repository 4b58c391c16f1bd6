"""The benchmark's clients that speak other vendors' protocols: how each of them opens a turn, hears it and interrupts it.

Knows the wire of each dialect as a client writes it. Does not know load, texts or figures. Samples are asked for as 16 bit at 24 kHz, which
all of them have, below /s/{session}/, so that they are paced as they are heard.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol
from urllib.parse import urlsplit, urlunsplit

import anyio
import httpx2
import ormsgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from realtime.failure import leaf

RATE_HZ: Final = 24_000
CONNECT_S: Final = 10.0
CHUNK_BYTES: Final = RATE_HZ * 2 // 50  # of an HTTP answer are looked at together: 20 ms

Hear = Callable[[bytes], None]  # gets samples as they come


class DialectFailed(Exception):
    """A turn did not come to a proper end."""


async def dialled(url: str, headers: dict[str, str]) -> ClientConnection:
    """A socket to a dialect's path. Raises DialectFailed where it is refused."""
    try:
        return await connect(url, additional_headers=headers, compression=None, proxy=None, open_timeout=CONNECT_S)
    except InvalidHandshake as error:
        raise DialectFailed(f"no handshake: {error}") from error


class Speaker(Protocol):
    """One conversation in one dialect. Close it at the end."""

    async def speak(self, deltas: AsyncIterator[str], hear: Hear) -> None:
        """A turn. Returns at its end, or once it was interrupted. Raises DialectFailed, OSError."""

    async def interrupt(self) -> None:
        """As this vendor's clients do; returns when the server has let go."""

    async def close(self) -> None:
        """Leave."""


class Wire(Protocol):
    """A dialect over a WebSocket whose clients interrupt by leaving: they connect again for the next turn."""

    path: str

    def begin(self) -> Sequence[str | bytes]:
        """Before the first text of a turn."""

    def text(self, delta: str) -> str | bytes:
        """More of it."""

    def end(self) -> Sequence[str | bytes]:
        """Behind the last."""

    def sound(self, message: str | bytes) -> bytes | None:
        """Samples, none of them, or (None) the turn is over. Raises DialectFailed."""


class Fish:
    """Fish Audio live, as fish-audio-sdk speaks it."""

    path = "/v1/tts/live"

    def begin(self) -> Sequence[bytes]:
        request = {"text": "", "format": "pcm", "sample_rate": RATE_HZ, "latency": "low"}
        return [_packed("start", request=request)]

    def text(self, delta: str) -> bytes:
        return _packed("text", text=delta)

    def end(self) -> Sequence[bytes]:
        return [_packed("stop")]

    def sound(self, message: str | bytes) -> bytes | None:
        fields = ormsgpack.unpackb(message) if isinstance(message, bytes) else {}
        if fields.get("event") == "audio":
            return bytes(fields["audio"])
        if fields.get("reason") == "error":
            raise DialectFailed(str(fields.get("message")))
        return None if fields.get("event") == "finish" else b""


def _packed(event: str, **fields: object) -> bytes:
    return ormsgpack.packb({"event": event, **fields})


class OpenAIStream:
    """Text in pieces as self-hosted servers take it, beside OpenAI's speech."""

    path = "/v1/audio/speech/stream"

    def begin(self) -> Sequence[str]:
        fields = {"type": "session.config", "response_format": "pcm", "sample_rate": RATE_HZ, "stream_audio": True}
        return [json.dumps(fields)]

    def text(self, delta: str) -> str:
        return json.dumps({"type": "input.text", "text": delta})

    def end(self) -> Sequence[str]:
        return [json.dumps({"type": "input.done"})]

    def sound(self, message: str | bytes) -> bytes | None:
        if isinstance(message, bytes):
            return message
        fields: dict[str, Any] = json.loads(message)
        if fields["type"] == "error":
            raise DialectFailed(str(fields["message"]))
        return None if fields["type"] == "session.done" else b""


class OnSocket:
    """See `Speaker`."""

    def __init__(self, wire: Wire, url: str, session: str, key: str | None) -> None:
        """url: of the server, its scheme http or ws, its path is not looked at."""
        self._wire = wire
        parts = urlsplit(url)
        scheme = "wss" if parts.scheme in ("https", "wss") else "ws"
        self._url = urlunsplit((scheme, parts.netloc, f"/s/{session}{wire.path}", "", ""))
        self._headers = _headers(key)
        self._socket: ClientConnection | None = None
        self._left = False

    async def speak(self, deltas: AsyncIterator[str], hear: Hear) -> None:
        """See `Speaker`."""
        self._left = False
        socket = await self._connected()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, socket, deltas)
                while (sound := self._wire.sound(await socket.recv())) is not None:
                    if sound:
                        hear(sound)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            if not isinstance(error := leaf(errors), ConnectionClosed):
                raise error from None
            self._socket = None
            if not self._left:
                raise DialectFailed("the server closed the connection") from None

    async def interrupt(self) -> None:
        """See `Speaker`."""
        self._left = True
        await self.close()

    async def close(self) -> None:
        """See `Speaker`."""
        if self._socket is not None:
            await self._socket.close()

    async def _connected(self) -> ClientConnection:
        if self._socket is None:
            self._socket = await dialled(self._url, self._headers)
        return self._socket

    async def _write(self, socket: ClientConnection, deltas: AsyncIterator[str]) -> None:
        with suppress(ConnectionClosed):  # whoever listens is told as well
            for message in self._wire.begin():
                await socket.send(message)
            async for delta in deltas:
                await socket.send(self._wire.text(delta))
            for message in self._wire.end():
                await socket.send(message)


class OpenAI:
    """OpenAI's speech: a request when all of the text is there. Interrupted by hanging up."""

    def __init__(self, url: str, session: str, key: str | None) -> None:
        """url: as `OnSocket`'s."""
        parts = urlsplit(url)
        scheme = "https" if parts.scheme in ("https", "wss") else "http"
        self._url = urlunsplit((scheme, parts.netloc, f"/s/{session}/v1/audio/speech", "", ""))
        self._http = httpx2.AsyncClient(headers=_headers(key), timeout=None, trust_env=False)
        self._answer: httpx2.Response | None = None
        self._scope = anyio.CancelScope()
        self._gone = anyio.Event()

    async def speak(self, deltas: AsyncIterator[str], hear: Hear) -> None:
        """See `Speaker`."""
        self._scope, self._gone = anyio.CancelScope(), anyio.Event()
        fields = {"model": "parley", "voice": "default", "response_format": "pcm", "sample_rate": RATE_HZ}
        try:
            with self._scope:
                body = {**fields, "input": "".join([delta async for delta in deltas])}
                async with self._http.stream("POST", self._url, json=body) as answer:
                    if answer.status_code != 200:
                        raise DialectFailed(
                            f"{answer.status_code}: {(await answer.aread()).decode('utf-8', 'replace')}"
                        )
                    async for chunk in answer.aiter_bytes(CHUNK_BYTES):
                        hear(chunk)
        except httpx2.HTTPError as error:
            raise DialectFailed(str(error) or type(error).__name__) from error
        finally:
            self._gone.set()

    async def interrupt(self) -> None:
        """See `Speaker`."""
        self._scope.cancel()
        await self._gone.wait()

    async def close(self) -> None:
        """See `Speaker`."""
        await self._http.aclose()


def _headers(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key is not None else {}
