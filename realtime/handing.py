"""Connections that one process accepted and another one serves: descriptors that travel over a Unix socket.

Knows sockets. Does not know why, or what is spoken on them.
"""

from __future__ import annotations

import socket
from typing import Any

_ONE = b"\0"  # a descriptor travels with at least one byte, and no two descriptors share theirs


def hand(channel: socket.socket, connection: socket.socket) -> None:
    """Give `connection` to the process at the other end of `channel`; ours may be closed then. Raises OSError where it does not take it."""
    socket.send_fds(channel, [_ONE], [connection.fileno()])


class HandedSocket(socket.socket):
    """A listening socket, as far as an event loop can tell, that accepts what `hand` gives: for `loop.create_server(sock=...)`."""

    def listen(self, backlog: int = 0) -> None:
        """It does already."""

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection and its peer's address. Raises BlockingIOError where there is none, ConnectionAbortedError where none comes
        any more, or its peer is gone.
        """
        data, descriptors, _, _ = socket.recv_fds(self, len(_ONE), 1)
        if not data or not descriptors:
            raise ConnectionAbortedError("no connection is handed over any more")
        connection = socket.socket(fileno=descriptors[0])
        try:
            return connection, connection.getpeername()
        except OSError as error:
            connection.close()
            raise ConnectionAbortedError("the peer is gone") from error
