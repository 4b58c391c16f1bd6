"""What can go wrong on the wire: error codes, close codes, and the one exception that carries them.

Knows which close code belongs to which error. Does not know messages, sockets or sessions. An error is fatal exactly when it has a
close code, so that the two cannot contradict each other. Close codes are 4000 + the HTTP status that a handshake would be refused with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final

MAX_QUOTED_CHARS: Final = 80  # of a peer's value in a message: enough to recognise it, too little to flood a log


class ErrorCode(StrEnum):
    """Value of `code` in an `error` event. A client treats a code it does not know like `internal`."""

    BAD_MESSAGE = "bad_message"  # not a JSON object with a `type`; the third one closes
    UNSUPPORTED = "unsupported"  # a message type or field that is not in force
    INVALID_VALUE = "invalid_value"  # wrong type or out of bounds
    RATE_LIMITED = "rate_limited"  # too many messages a second; this one was refused
    TEXT_OVERFLOW = "text_overflow"  # too many characters pending or in one turn
    UNKNOWN_TURN = "unknown_turn"
    TRUNCATE_TOO_LATE = "truncate_too_late"  # a later turn has begun to sound
    VOICE_NOT_FOUND = "voice_not_found"
    SYNTHESIS_FAILED = "synthesis_failed"  # ends the turn, not the session
    ENGINE_RESTARTED = "engine_restarted"  # ends the turn, not the session; the next turn works
    LIMIT_EXCEEDED = "limit_exceeded"  # a number of session.created.limits
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    UNKNOWN_SESSION = "unknown_session"  # nothing to resume
    TAKEN_OVER = "taken_over"  # another socket resumed this session
    SESSION_EXPIRED = "session_expired"
    IDLE = "idle"
    TOO_MANY_SESSIONS = "too_many_sessions"
    NO_CAPACITY = "no_capacity"
    INTERNAL = "internal"


class CloseCode(IntEnum):
    """Why the server closed the WebSocket."""

    NORMAL = 1000
    GOING_AWAY = 1001
    MESSAGE_TOO_BIG = 1009
    INTERNAL = 1011
    SERVICE_RESTART = 1012
    BAD_MESSAGE = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    UNKNOWN_SESSION = 4404
    IDLE = 4408
    TAKEN_OVER = 4409
    SESSION_EXPIRED = 4410
    LIMIT_EXCEEDED = 4413
    TOO_MANY_SESSIONS = 4429
    NO_CAPACITY = 4503


CLOSE_CODES: Final[Mapping[ErrorCode, CloseCode]] = MappingProxyType(
    {
        ErrorCode.BAD_MESSAGE: CloseCode.BAD_MESSAGE,
        ErrorCode.UNAUTHORIZED: CloseCode.UNAUTHORIZED,
        ErrorCode.FORBIDDEN: CloseCode.FORBIDDEN,
        ErrorCode.IDLE: CloseCode.IDLE,
        ErrorCode.UNKNOWN_SESSION: CloseCode.UNKNOWN_SESSION,
        ErrorCode.TAKEN_OVER: CloseCode.TAKEN_OVER,
        ErrorCode.SESSION_EXPIRED: CloseCode.SESSION_EXPIRED,
        ErrorCode.LIMIT_EXCEEDED: CloseCode.LIMIT_EXCEEDED,
        ErrorCode.TOO_MANY_SESSIONS: CloseCode.TOO_MANY_SESSIONS,
        ErrorCode.NO_CAPACITY: CloseCode.NO_CAPACITY,
        ErrorCode.INTERNAL: CloseCode.INTERNAL,
    }
)
"""Close code of an error when it is fatal; a code that is not a key never is."""


@dataclass(eq=False)
class ProtocolError(Exception):
    """A message was refused, or the session cannot go on. `messages.Error.of` makes the event of it."""

    code: ErrorCode
    message: str  # for people; gives the value and the bound
    param: str | None = None  # dotted path of the field at fault
    turn: str | None = None  # id of the turn it concerns
    event_id: str | None = None  # of the command at fault
    retry_after_ms: int | None = None
    close_code: CloseCode | None = None  # None: the socket stays open

    @classmethod
    def fatal_error(cls, code: ErrorCode, message: str, *, retry_after_ms: int | None = None) -> ProtocolError:
        """An error that ends the connection with the code's own close code. KeyError for a code that is never fatal."""
        return cls(code, message, retry_after_ms=retry_after_ms, close_code=CLOSE_CODES[code])

    @property
    def fatal(self) -> bool:
        """Whether the socket closes after this error."""
        return self.close_code is not None

    def __str__(self) -> str:
        where = f" ({self.param})" if self.param else ""
        return f"{self.code.value}{where}: {self.message}"


def clipped(text: str) -> str:
    """A peer's string for an error message: at most MAX_QUOTED_CHARS characters, always encodable as UTF-8."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MAX_QUOTED_CHARS else text[: MAX_QUOTED_CHARS - 1] + "…"


def quoted(value: object) -> str:
    """A peer's value for an error message: as JSON, clipped."""
    return clipped(json.dumps(value, ensure_ascii=False, default=repr))
