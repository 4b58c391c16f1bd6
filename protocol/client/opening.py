"""A client's way in: a session at an address, for as long as a block lasts.

Knows how a session is opened and closed. Does not know what happens in between (`session`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import anyio

from protocol.client.session import Client
from protocol.client.socket import open_socket
from protocol.commands import SessionUpdate
from protocol.events import Event

MAX_UNREAD_BYTES: Final = 128 * 2**20  # the longest turn, ten minutes, as 48 kHz float samples
RENEW_S: Final = 120.0  # a server that was restarted has to load its model


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    config: SessionUpdate | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    open_timeout_s: float = 10.0,
    unread_bytes: int = MAX_UNREAD_BYTES,
    renew_s: float = RENEW_S,
) -> AsyncIterator[Client]:
    """A session at `url` (ws:// or wss://), configured, until the block ends; turns that still speak are then cut off.

    A socket that is lost is replaced, as long as the server keeps the session: turns go on where they were, and on_event gets another
    SessionCreated. A session that the server has ended (it restarts, the session is too old, or it was forgotten) is followed by another,
    for which the server is asked for `renew_s`, or never if that is 0: on_event gets a SessionCreated that is not `resumed`. It has the
    settings of the one before and knows nothing of its conversation; turns of which nothing was heard are said in it, the others raise
    SessionEnded. Only when that fails do calls and turns raise.

    on_event gets, in the task that reads, every event that concerns neither a turn nor a call. Raises Refused, ServerError, ConnectionLost.
    """
    socket = await open_socket(url, token, open_timeout_s)
    try:
        async with anyio.create_task_group() as group:
            client = Client(
                partial(open_socket, token=token, timeout_s=open_timeout_s),
                url,
                group,
                on_event,
                unread_bytes,
                renew_s,
            )
            try:
                group.start_soon(client._read, socket)
                await client._wait_for_session(open_timeout_s)
                if config is not None:
                    await client.update(config)
                yield client
            finally:
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await client._close()
    except BaseExceptionGroup as errors:
        # The group wraps what the caller's block raised; our own tasks raise nothing.
        if len(errors.exceptions) == 1:
            raise errors.exceptions[0] from errors.exceptions[0].__cause__
        raise
