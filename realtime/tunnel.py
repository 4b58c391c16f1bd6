"""Two connections that are made one: what comes in at one end goes out at the other, byte for byte.

Knows transports, and when one of them must wait for the other. Does not know what the bytes mean, except where the head of an HTTP answer
ends. A WebSocket that goes through keeps its pings, close codes, sizes of messages and pace: nobody looks at its frames here.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from realtime.transport import HIGH_WATER_BYTES, LAST_WORDS_S, LiveSocket

log = logging.getLogger("parley.server")

ANSWER_S: Final = 10.0  # for the head of an answer, which takes milliseconds
# For what is still to be written when one end is gone; uvicorn waits as long for the answer to a close.
LINGER_S: Final = 10.0
END_OF_HEAD: Final = b"\r\n\r\n"


class Unreachable(Exception):
    """Whoever should have answered is not there, or says nothing."""


class End(asyncio.Protocol):
    """One of the two connections. Until it has another it keeps what comes, up to the end of a head, and then is not read."""

    def __init__(self, lost: Callable[[Exception | None], None] | None = None) -> None:
        """lost: who else is told."""
        self.transport: asyncio.Transport
        self.lost = asyncio.Event()
        self.answered = asyncio.Event()  # a head is there, or never will be
        self.came = bytearray()
        self._tell_lost = lost
        self._other: asyncio.Transport | None = None
        self._leaving = False
        self._patience_s: float | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def join(self, other: asyncio.Transport, patience_s: float | None = None) -> None:
        """Hand what comes to `other` from now on. patience_s: a peer here that takes nothing for so long is dropped; None: it may."""
        self._other, self._patience_s = other, patience_s

    def leave(self) -> None:
        """Close, once what was written is on its way and the peer has done so too, or soon after where it cannot know.

        With something unread, closing at once would tear the connection down, and what was written last with it.
        """
        if self.lost.is_set():
            return
        self._other, self._leaving = None, True
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            asyncio.get_running_loop().call_later(LAST_WORDS_S, self.transport.close)

    @property
    def head(self) -> bytes:
        """Of the answer."""
        return bytes(self.came[: self.came.index(END_OF_HEAD) + len(END_OF_HEAD)])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.write(data)
            return
        if self._leaving:
            return
        self.came += data
        if END_OF_HEAD in self.came:
            self.transport.pause_reading()
            self.answered.set()

    def pause_writing(self) -> None:
        if self._other is None or self._other.is_closing():
            return
        self._other.pause_reading()
        if self._patience_s is not None:
            # The other peer may have gone meanwhile, which nobody notices who does not read.
            self._stalled = asyncio.get_running_loop().call_later(self._patience_s, self._drop)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        if self._other is not None and not self._other.is_closing():
            self._other.resume_reading()

    def _drop(self) -> None:
        log.warning("slow consumer dropped")
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        self.lost.set()
        self.answered.set()
        if self._tell_lost is not None:
            self._tell_lost(exc)


async def ask(path: Path, tls: ssl.SSLContext | None, head: bytes) -> End:
    """Send the head of a request to a Unix socket; the end that has received the head of the answer. Raises Unreachable."""
    end, asked = End(), False
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(ANSWER_S):
            await loop.create_unix_connection(
                lambda: end, str(path), ssl=tls, server_hostname=None if tls is None else ""
            )
            end.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
            end.transport.write(head)
            await end.answered.wait()
        if end.lost.is_set():
            raise Unreachable("the connection was closed")
        asked = True
    except OSError as error:
        raise Unreachable(str(error) or type(error).__name__) from error
    finally:
        if not asked:
            _abort(end)
    return end


async def tunnel(far: End, socket: LiveSocket, patience_s: float, skip: int = 0) -> None:
    """Join the client of `socket` and the peer of `far`, until both connections are lost. Raises OSError where the client's is already.

    far: see `ask`; patience_s: see `End.join`, for the client. skip: so many bytes of the answer are not the client's.
    """
    near = End(socket.connection_lost)
    try:
        asked = socket.hand_over(near)
        near.transport.write(bytes(far.came[skip:]))
        far.transport.write(asked)
        near.join(far.transport, patience_s)
        far.join(near.transport)
        far.transport.resume_reading()
        await _first(near.lost, far.lost)
        far.transport.close()  # in memory, where what was written is read even so
        near.leave()
        async with asyncio.timeout(LINGER_S):
            await near.lost.wait()
            await far.lost.wait()
    except TimeoutError:
        return  # one does not take what it was sent last
    finally:
        _abort(far)
        _abort(near)


async def _first(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


def _abort(end: End) -> None:
    if hasattr(end, "transport"):
        end.transport.abort()
