"""One of several processes of a server: the whole of it but the port and the engine, which the process that started it has.

Knows its link to that process. Does not know the other processes, but for what they share.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys

import anyio

from engine.fronts import DistantEngine, HubLink
from realtime.handing import HandedSocket
from realtime.processes import Assignment, Refused, Up
from realtime.server import BACKLOG, serve_on
from realtime.settings import SettingsError
from realtime.shared import Count, Shared, SharedFolder
from realtime.terminal import log_to_stderr

log = logging.getLogger("parley.server")


class SharedSeats:
    """See `engine.front.Seats`."""

    def __init__(self, shared: Shared, most: int) -> None:
        self._shared = shared
        self._most = most

    def take(self) -> bool:
        """See `Seats`."""
        return self._shared.take(Count.STREAMS, self._most)

    def give_back(self) -> None:
        """See `Seats`."""
        self._shared.give_back(Count.STREAMS)

    def taken(self) -> int:
        """See `Seats`."""
        return self._shared.total(Count.STREAMS)


def main(link: int, connections: int) -> None:
    """Entry of the process. link: our end of the socket pair for messages; connections: of that for accepted ones."""
    # SIGTERM comes from the process that started us; a terminal's Ctrl-C goes there alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(anyio.run(_serve, socket.socket(fileno=link), HandedSocket(fileno=connections)))


async def _serve(sock: socket.socket, connections: HandedSocket) -> int:
    loop = asyncio.get_running_loop()
    assigned: asyncio.Future[Assignment] = loop.create_future()

    def first(message: object) -> None:
        assert isinstance(message, Assignment), "the first message says what to do"
        assigned.set_result(message)

    sock.setblocking(False)
    link = HubLink(first, _orphaned)
    await loop.create_unix_connection(lambda: link, sock=sock)
    told = await assigned
    log_to_stderr(told.settings.log_level)
    shared = SharedFolder(told.folder, told.index, told.count)
    seats = SharedSeats(shared, told.max_streams)
    engine = DistantEngine(told.info, told.max_streams, told.index, told.count, seats, link)
    with connections, _siblings(shared) as siblings:
        try:
            await serve_on(
                connections,
                told.settings,
                engine,
                lambda _: link.send(Up()),
                shown=told.certificate,
                shared=shared,
                siblings=siblings,
            )
        except SettingsError as error:
            link.send(Refused(str(error)))
            await link.flushed()
            return 1
    return 0


def _siblings(shared: Shared) -> socket.socket:
    """Where the other processes bring what belongs here. Raises OSError."""
    path = shared.relay_path(shared.index)
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _orphaned() -> None:
    """The process that has the engine and the port is gone: nothing can be spoken or saved here any more."""
    log.error("the server's first process is gone")
    os._exit(1)
