"""What a client raises.

Knows what can happen to a connection, a command and a turn, and carries it in fields. Does not know sockets.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.events import ErrorEvent


class ClientError(Exception):
    """Base of what a client raises."""


@dataclass(eq=False)
class Refused(ClientError):
    """The server did not accept the connection."""

    status: int | None  # HTTP; None: it could not be reached, or does not speak WebSocket
    detail: str
    retry_after_s: float | None = None  # when it is worth another try, where the server said so

    def __str__(self) -> str:
        return f"connection refused{f' with {self.status}' if self.status else ''}: {self.detail}"


@dataclass(eq=False)
class ConnectionLost(ClientError):
    """The socket is closed; what was not finished never will be."""

    code: int | None  # WebSocket close code; None: without a closing handshake
    reason: str

    def __str__(self) -> str:
        return f"connection closed{f' with {self.code}' if self.code else ' abruptly'}{': ' + self.reason if self.reason else ''}"


@dataclass(eq=False)
class ServerError(ClientError):
    """The server refused a command, failed a turn, or closed the connection with an error."""

    event: ErrorEvent

    @property
    def code(self) -> str:
        """See protocol.errors.ErrorCode; a newer server may say something else."""
        return str(self.event.code)

    def __str__(self) -> str:
        where = f" ({self.event.param})" if self.event.param else ""
        return f"{self.code}{where}: {self.event.message}"


@dataclass(eq=False)
class Overrun(ClientError):
    """More audio came than was read."""

    unread_bytes: int

    def __str__(self) -> str:
        return f"{self.unread_bytes} bytes of audio were not read; the turn was cancelled"


@dataclass(eq=False)
class SessionEnded(ClientError):
    """The turn was spoken in a session that the server has ended; the client goes on in another. What was heard of it is not known."""

    session: str

    def __str__(self) -> str:
        return f"session {self.session} ended before the turn did"
