"""The sending half of a client's socket, and what all turns of a session share.

Knows the order of messages, the server's message rate, how much audio is unread, and why nothing works any more. Does not know turns.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Final

import anyio
import anyio.abc
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from protocol.client.errors import ClientError, ConnectionLost
from protocol.commands import Command
from protocol.config import Limits
from protocol.connection import encode_command

MESSAGE_SHARE: Final = 0.8  # of the server's messages_per_s goes to text; the rest is for control messages


class Link:
    """One per connection."""

    def __init__(
        self,
        socket: ClientConnection,
        group: anyio.abc.TaskGroup,
        unread_limit: int,
        on_lost: Callable[[ClientError], None],
    ) -> None:
        """on_lost is called once, when `failure` was set."""
        self.failure: ClientError | None = None  # why nothing works any more
        self.limits = Limits()  # the server's own once session.created came
        self.unread_limit: Final = unread_limit
        self.unread = 0  # bytes of audio that came and were not read, over all turns
        self._socket = socket
        self._group = group
        self._on_lost = on_lost
        self._text_may_go = anyio.Event()  # not set: the last text message went a moment ago
        self._text_may_go.set()

    async def send(self, command: Command) -> None:
        """Messages leave in the order of the calls. Raises why the connection was lost."""
        self.raise_failure()
        try:
            await self._socket.send(encode_command(command))
        except ConnectionClosed as error:
            raise self.lose(closed(error)) from error

    async def send_text(self, command: Callable[[], Command | None]) -> None:
        """Send what `command` returns once the server's message rate has room; None: nothing any more."""
        while not self._text_may_go.is_set():
            await self._text_may_go.wait()
        text = command()
        if text is not None:
            self._text_may_go = anyio.Event()
            self.spawn(self._cool_down)
            await self.send(text)

    def spawn(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Do `work` in the background, as long as the session lasts at most. It must not raise."""
        self._group.start_soon(work)

    def lose(self, failure: ClientError) -> ClientError:
        """Nothing works any more. Returns why: the first reason stays."""
        if self.failure is None:
            self.failure = failure
            self._on_lost(failure)
        return self.failure

    def raise_failure(self) -> None:
        """Raise why nothing works any more, if so."""
        if self.failure is not None:
            raise self.failure

    async def _cool_down(self) -> None:
        await anyio.sleep(1 / (MESSAGE_SHARE * self.limits.messages_per_s))
        self._text_may_go.set()


def closed(error: ConnectionClosed) -> ConnectionLost:
    """What the websockets library knows of the end, in our terms."""
    return ConnectionLost(error.rcvd.code, error.rcvd.reason) if error.rcvd else ConnectionLost(None, "")
