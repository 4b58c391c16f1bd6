"""One socket of a session that is not its own any more. Unrealistic: the socket takes everything at once, and the session is an outbox."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from protocol.config import Limits, Transport
from realtime.live import Attachment
from realtime.outbox import Outbox
from realtime.replay import Span
from realtime.transport import EXTENSION


class Ends:
    """What an attachment sees of socket, session and service."""

    def __init__(self) -> None:
        writable = asyncio.Event()
        writable.set()
        self.written: list[bytes | str] = []
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.handled: list[object] = []
        self.socket = SimpleNamespace(
            writable=writable,
            pong_at=0.0,
            farewell=False,
            unread=False,
            abort=lambda: None,
            corked=contextlib.nullcontext,
            put=self.written.append,
        )
        self.scope = {"extensions": {EXTENSION: self.socket}}
        self.outbox = Outbox(lambda: self.attachment.wake())
        self.outbox.open_turn(1)
        session = SimpleNamespace(
            id="s-1",
            outbox=self.outbox,
            attach=lambda *_, **__: [],
            detach=lambda *_, **__: None,
            written=lambda: None,
            handle=self.handled.append,
        )
        service = SimpleNamespace(sockets=0, clock=time.monotonic, settings=SimpleNamespace(limits=Limits()))
        connection = SimpleNamespace(receive_text=lambda text, now: text)
        self.attachment = Attachment(*map(cast, [Any] * 4, [self, connection, service, session]))

    async def receive(self) -> dict[str, Any]:
        return await self.incoming.get()


async def _attached(ends: Ends) -> asyncio.Task[None]:
    wish = SimpleNamespace(have=None, resume=None)
    task = asyncio.create_task(ends.attachment.run(cast(Any, wish), None))
    ends.outbox.audio(1, b"first", lambda now: None, Span(1, 0, 10, Transport.BINARY))
    while not ends.written:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)  # the writer waits again
    return task


@pytest.mark.parametrize("passes", range(4))
def test_a_writer_that_was_just_woken_takes_nothing_once_another_socket_speaks(passes: int) -> None:
    async def test() -> None:
        ends = Ends()
        task = await _attached(ends)
        for _ in range(passes):
            await asyncio.sleep(0)
        ends.outbox.audio(1, b"second", lambda now: None, Span(1, 10, 10, Transport.BINARY))
        ends.attachment.leave(None)
        await task
        assert ends.written == [b"first"]
        assert ends.outbox.take(time.monotonic()) == b"second", "it is for the socket that speaks now"

    asyncio.run(test())


def test_what_a_client_said_before_another_took_over_is_not_carried_out_after_that() -> None:
    async def test() -> None:
        ends = Ends()
        task = await _attached(ends)
        ends.incoming.put_nowait({"type": "websocket.receive", "text": "turn.cancel"})
        ends.attachment.leave(None)
        await task
        assert ends.handled == []

    asyncio.run(test())
