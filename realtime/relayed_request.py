"""An HTTP request that another process answers: sent on as it comes, and the answer likewise.

Knows HTTP/1.1 and ASGI's messages. Does not know which process, or why. What concerns one connection alone stays with it: how a body is
framed, and whether the connection is kept.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final, cast

import anyio
import h11
from starlette.types import Message, Receive, Scope, Send

from realtime.tunnel import Unreachable

log = logging.getLogger("parley.server")

CONNECT_S: Final = 10.0  # which takes less than a millisecond
READ_BYTES: Final = 64 * 1024
# RFC 9110, 7.6.1. The server adds its own date, and writes a body of unknown length as its client understands it.
_OF_THE_CONNECTION: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"http2-settings")
)
_OF_THE_ANSWER: Final = _OF_THE_CONNECTION | {b"transfer-encoding", b"date"}


async def relay_request(
    path: Path, tls: ssl.SSLContext | None, scope: Scope, receive: Receive, send: Send, patience_s: float
) -> None:
    """Have the server at a Unix socket answer. patience_s: a client that takes nothing for so long is dropped.

    Raises Unreachable, and nothing was sent, where it does not.
    """
    stream = _Stream()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_S):
            await loop.create_unix_connection(lambda: stream, str(path), ssl=tls, server_hostname="" if tls else None)
    except OSError as error:
        raise Unreachable(str(error) or type(error).__name__) from error
    try:
        await _Exchange(stream, receive, send, patience_s).run(scope)
    finally:
        stream.transport.abort()


class _Stream(asyncio.Protocol):
    """A connection of which nothing is lost that came before its end, even where that is an error: perhaps it is why."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._came = bytearray()
        self._to_read = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._came += data
        self._to_read.set()
        if len(self._came) > READ_BYTES:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._to_read.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def read(self) -> bytes:
        """What has come; nothing at the end."""
        await self._to_read.wait()
        came, self._came = bytes(self._came), bytearray()
        if not self._lost:
            self._to_read.clear()
            self.transport.resume_reading()
        return came

    async def write(self, data: bytes) -> None:
        """Waits while the peer takes nothing, and does nothing once it is gone: what it said last tells why."""
        if not self._lost:
            self.transport.write(data)
        await self._writable.wait()
        await asyncio.sleep(
            0
        )  # an answer that is there already is read before more is written, which fails if it was the last


class _Exchange:
    def __init__(self, stream: _Stream, receive: Receive, send: Send, patience_s: float) -> None:
        self._stream = stream
        self._receive = receive
        self._send = send
        self._patience_s = patience_s
        self._wire = h11.Connection(h11.CLIENT)
        self._wanted = asyncio.Event()  # the body, by whoever answers
        self._begun = False  # the answer
        self._broken: Exception | None = None

    async def run(self, scope: Scope) -> None:
        """Until the answer is complete, or one side has left. Raises Unreachable."""
        # The connection is not asked to be closed: an answer that came before the end of the body might be lost with it.
        headers = list(_without(_OF_THE_CONNECTION, scope["headers"]))
        names = {name for name, _ in headers}
        if b"host" not in names:
            headers.append((b"host", b"localhost"))  # HTTP/1.0 needs none
        if b"expect" not in names:
            self._wanted.set()
        query: bytes = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        await self._put(h11.Request(method=scope["method"], target=target, headers=headers))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hand_on, tasks.cancel_scope)
            await self._answer()
            tasks.cancel_scope.cancel()
        if self._broken is not None and not self._begun:
            raise Unreachable(str(self._broken)) from self._broken

    async def _hand_on(self, scope: anyio.CancelScope) -> None:
        """The body; then only wait for the client to leave."""
        await self._wanted.wait()
        more = True
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                scope.cancel()
                return
            if more and not self._begun:  # who has answered wants no more of it
                more = message.get("more_body", False)
                if message.get("body"):
                    await self._put(h11.Data(data=message["body"]))
                if not more:
                    await self._put(h11.EndOfMessage())

    async def _put(self, event: h11.Event) -> None:
        data = self._wire.send(event)
        if data:
            await self._stream.write(data)

    async def _answer(self) -> None:
        while (event := await self._next()) is not None:
            if isinstance(event, h11.InformationalResponse):
                self._wanted.set()
                continue
            more = not isinstance(event, h11.EndOfMessage)
            if isinstance(event, h11.Response):
                self._begun = True
                headers = list(_without(_OF_THE_ANSWER, event.headers))
                message: Message = {"type": "http.response.start", "status": event.status_code, "headers": headers}
            else:
                body = bytes(event.data) if isinstance(event, h11.Data) else b""
                message = {"type": "http.response.body", "body": body, "more_body": more}
            with anyio.move_on_after(self._patience_s) as patience:
                await self._send(message)
            if patience.cancelled_caught:
                log.warning("slow consumer dropped")
            if patience.cancelled_caught or not more:
                return

    async def _next(self) -> h11.Event | None:
        """None: it broke off."""
        try:
            while (event := self._wire.next_event()) is h11.NEED_DATA:
                self._wire.receive_data(await self._stream.read())
        except h11.RemoteProtocolError as error:
            self._broken = error
            if self._begun:
                log.warning("an answer broke off: %s", error)
            return None
        assert isinstance(event, h11.Event), "nothing is asked for after the end of the answer"
        return event


def _without(names: frozenset[bytes], headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
    return ((name, value) for name, value in headers if name not in names)
