"""The WebSocket as uvicorn runs it, with what ASGI hides: how much waits unsent, when the peer last answered, and a hard end.

Knows the socket's buffers. Does not know messages. A subclass of uvicorn's `websockets-sansio` protocol, which is that implementation and
nothing else with some doors in it; the endpoint finds it in `scope["extensions"][EXTENSION]`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol, cast

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import CloseCode as WsCode
from websockets.frames import Frame
from websockets.http11 import Request

EXTENSION: Final = "parley.socket"

# What an interruption cannot take back is in these two buffers: at 32 kbit/s of Opus some 8 s, at 48 kHz PCM 0.3 s. Below, a round
# trip of 200 ms would throttle PCM; the client drops what still comes by its turn number.
HIGH_WATER_BYTES: Final = 32 * 1024
KERNEL_BYTES: Final = 64 * 1024
RELAYED_KERNEL_BYTES: Final = 8 * 1024  # towards a process that hands it on, and has the two buffers above as well
READ_AHEAD: Final = 8  # messages that wait to be carried out; with more, nothing is read
LAST_WORDS_S: Final = 1.0  # for a close frame to arrive where the peer cannot be told otherwise that it was the last


class LiveSocket(Protocol):
    """What the endpoint needs of a socket beyond ASGI."""

    writable: asyncio.Event  # set while less than HIGH_WATER_BYTES wait
    pong_at: float  # when the peer last answered a ping, on the event loop's clock
    farewell: bool  # the peer closed the WebSocket with code 1000 or none: it does not mean to come back

    @property
    def unread(self) -> bool:
        """Whether messages have come that were not taken yet."""

    def abort(self) -> None:
        """Drop the connection and what waits in it, at once."""

    def put(self, message: bytes | str) -> None:
        """Send at once, `writable` or not: by the way of ASGI each message costs three times as much. Raises OSError once it is closed."""

    def take_messages_of(self, most: int) -> None:
        """Let messages have so many bytes, instead of what the server allows in general. Before the handshake is accepted."""

    def keep(self, most: int) -> None:
        """Keep what is read from now on as it comes, for `hand_over`; who sends more than `most` bytes is dropped. 0: nothing is kept."""

    def hand_over(self, to: asyncio.Protocol) -> bytes:
        """Let `to` have the connection; returns what was kept. Nothing that comes is a message any more. Raises OSError where it is lost.

        `to` hands on `connection_lost`, which keeps the server's books; before that the endpoint must not return.
        """

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection that was handed over is lost."""

    def corked(self) -> AbstractContextManager[None]:
        """Hold back what is sent inside, and write it in one piece at the end."""


class LiveWebSocket(WebSocketsSansIOProtocol):
    """One per connection; uvicorn makes it."""

    pong_at = 0.0
    farewell = False
    _most_kept = 0
    _handed_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol. Sets how much may wait unsent (HIGH_WATER_BYTES, KERNEL_BYTES), and that small messages leave at once."""
        super().connection_made(transport)
        self._kept = bytearray()
        self._corkable = _Corkable(self.transport)
        self.transport = cast(asyncio.Transport, self._corkable)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            relayed = sock.family == socket.AF_UNIX
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, RELAYED_KERNEL_BYTES if relayed else KERNEL_BYTES)
            if not relayed:
                # asyncio does it only for a listening socket that was made with proto=IPPROTO_TCP; without it every second small message
                # waits 40 ms for the peer's delayed ACK.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self.close_sent and self.conn.parser_exc is not None:
            return
        if self._most_kept:
            self._kept.extend(data)
            if len(self._kept) > self._most_kept:
                self.transport.abort()
                return
        super().data_received(data)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):  # else the handshake was refused already
            # The endpoint runs in a task of its own, which cannot have begun yet.
            extensions = cast(dict[str, object], self.scope["extensions"])
            extensions[EXTENSION] = self

    def send_receive_event_to_app(self) -> None:
        if self.read_paused or self.queue.qsize() >= READ_AHEAD:
            super().send_receive_event_to_app()
            return
        # uvicorn stops reading at every message until it is taken: two calls into the kernel, for a queue that is nearly always empty.
        self.read_paused = True
        super().send_receive_event_to_app()
        self.read_paused = False

    def handle_pong(self, event: Frame) -> None:
        super().handle_pong(event)
        self.pong_at = self.loop.time()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # it is: refused. uvicorn would log an error for each of them

    def handle_close(self, event: Frame) -> None:
        close = self.conn.close_rcvd
        # A network that changes, a phone that sleeps, a proxy that restarts: 1001, 1006, 1011, 1012, or no close at all.
        self.farewell = close is not None and close.code in (WsCode.NORMAL_CLOSURE, WsCode.NO_STATUS_RCVD)
        super().handle_close(event)

    def handle_parser_exception(self) -> None:
        """What came cannot be read: say why, and read on until the peer is gone.

        A connection that is closed with something unread is torn down, and uvicorn's close frame with it, just where a peer still sends
        the message that was too large.
        """
        assert self.conn.close_sent is not None
        code, reason = self.conn.close_sent.code, self.conn.close_sent.reason
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        wait_s = LAST_WORDS_S  # TLS knows no half of a connection
        if self.transport.can_write_eof():
            self.transport.write_eof()
            wait_s = self.close_timeout
        self.close_timer = self.loop.call_later(wait_s, self.transport.close)

    @property
    def unread(self) -> bool:
        """See `LiveSocket`."""
        return not self.queue.empty()

    def abort(self) -> None:
        self.transport.abort()

    def put(self, message: bytes | str) -> None:
        """See `LiveSocket`."""
        if self.disconnected or self.close_sent:
            raise ClientDisconnected
        try:
            if isinstance(message, str):
                self.conn.send_text(message.encode())
            else:
                self.conn.send_binary(message)
        except InvalidState as error:
            raise ClientDisconnected from error
        self.transport.write(b"".join(self.conn.data_to_send()))

    def take_messages_of(self, most: int) -> None:
        """See `LiveSocket`."""
        self.conn.max_message_size = most

    def keep(self, most: int) -> None:
        """See `LiveSocket`."""
        self._most_kept, self._kept = most, bytearray()

    def hand_over(self, to: asyncio.Protocol) -> bytes:
        """See `LiveSocket`."""
        if self.disconnected or self.close_sent:
            raise ClientDisconnected
        self._handed_over = True
        self.stop_keepalive()
        self.handshake_complete = True  # or will be, by somebody else: uvicorn would log an error and answer 500
        transport = self.transport
        transport.set_protocol(to)
        to.connection_made(transport)
        if self.read_paused:
            self.read_paused = False
            transport.resume_reading()
        kept, self._kept = bytes(self._kept), bytearray()
        return kept

    def shutdown(self) -> None:
        if self._handed_over:
            self.transport.close()  # a frame of ours might fall into the middle of another
        else:
            super().shutdown()

    @contextmanager
    def corked(self) -> Iterator[None]:
        """See `LiveSocket`."""
        self._corkable.cork()
        try:
            yield
        finally:
            self._corkable.uncork()


class _Corkable:
    """A transport that can hold back what is written for a moment. Everything else is the transport's own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] | None = None  # None: nothing is held back

    def write(self, data: bytes) -> None:
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)

    def cork(self) -> None:
        assert self._held is None, "corked once"
        self._held = []

    def uncork(self) -> None:
        held, self._held = self._held, None
        if held:
            self._transport.write(b"".join(held))

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)
