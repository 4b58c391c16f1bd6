"""The sending half of a session, over one socket after the other, and what all its turns share.

Knows the order of messages, the server's message rate, how much audio is unread, and why nothing works any more. Does not know turns.

Between two sockets nothing is sent and nothing is kept here: whoever said something remembers it until the server has answered, and says it
again once the session is resumed (`session`).
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
    """One per session."""

    def __init__(
        self,
        group: anyio.abc.TaskGroup,
        unread_limit: int,
        on_lost: Callable[[ClientError], None],
    ) -> None:
        """on_lost is called once, when `failure` was set."""
        self.failure: ClientError | None = None  # why nothing works any more
        self.limits = Limits()  # the server's own once session.created came
        self.lasting = False  # a socket that breaks is replaced
        self.unread_limit: Final = unread_limit
        self.unread = 0  # bytes of audio that came and were not read, over all turns
        self._socket: ClientConnection | None = None
        self._group = group
        self._on_lost = on_lost
        self._open = anyio.Event()  # set: the server knows where we are, so that messages may go
        self._text_may_go = anyio.Event()  # not set: the last text message went a moment ago
        self._text_may_go.set()

    @property
    def has_socket(self) -> bool:
        """Whether there is a socket that may be told things."""
        return self._socket is not None

    @property
    def is_open(self) -> bool:
        """Whether what is posted now leaves now."""
        return self._open.is_set()

    def attach(self, socket: ClientConnection) -> None:
        """Use this socket from now on; nothing is posted on it before `open`."""
        self._socket = socket

    def open(self) -> None:
        """Messages may go."""
        self._open.set()

    def detach(self) -> None:
        """The socket is gone; another will come."""
        self._socket = None
        if self._open.is_set():  # else somebody waits for it already
            self._open = anyio.Event()

    async def until_open(self) -> None:
        """Wait for a socket that takes messages. Raises why there will be none."""
        while not self._open.is_set() and self.failure is None:
            await self._open.wait()
        self.raise_failure()

    async def post(self, command: Command) -> None:
        """Send it if there is a socket; messages leave in the order of the calls. Raises why the connection was lost for good."""
        self.raise_failure()
        if self._open.is_set():
            await self.say(command)

    async def post_bytes(self, message: bytes) -> None:
        """`post` for a binary message."""
        self.raise_failure()
        if self._open.is_set():
            await self._send(message)

    async def say(self, command: Command) -> None:
        """`post`, also before `open`."""
        await self._send(encode_command(command))

    async def _send(self, message: str | bytes) -> None:
        if self._socket is None:
            return
        try:
            await self._socket.send(message)
        except ConnectionClosed as error:
            if not self.lasting:
                raise self.lose(closed(error)) from error

    async def send_text(self, command: Callable[[], Command | None]) -> None:
        """Post what `command` returns once the server's message rate has room; None: nothing any more."""
        while not self._text_may_go.is_set():
            await self._text_may_go.wait()
        if not self._open.is_set():  # what is taken now would be lost
            return
        text = command()
        if text is not None:
            self._text_may_go = anyio.Event()
            self.spawn(self._cool_down)
            await self.post(text)

    def spawn(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Do `work` in the background, as long as the session lasts at most. It must not raise."""
        self._group.start_soon(work)

    def lose(self, failure: ClientError) -> ClientError:
        """Nothing works any more. Returns why: the first reason stays."""
        if self.failure is None:
            self.failure = failure
            self._open.set()
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
