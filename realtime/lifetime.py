"""When a session ends by itself: its age, idleness, a socket that does not come back, and a close that waits for what is being spoken.

Knows times and the limits. Does not know turns, messages or sockets: it says what is due, the session does it. All times are seconds of one
monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from protocol.config import Limits
from protocol.errors import CloseCode

# A session that reaches its age limit is told so long before: enough to finish a sentence and reconnect.
NOTICE_S: Final = 30.0


class Due(Enum):
    """What a session has to do now."""

    NOTICE = auto()  # tell of the age limit
    EXPIRED = auto()  # the age limit is reached
    IDLE = auto()  # nobody has used it for long
    HUSH = auto()  # the socket has been away for the grace: cancel what speaks
    GONE = auto()  # the socket did not come back
    CLOSE = auto()  # a close has waited for long enough


@dataclass(frozen=True, slots=True)
class Closing:
    """No new turn; the session closes when the last one is over, at the latest at `deadline`."""

    code: CloseCode
    reason: str
    deadline: float


class Lifetime:
    """Of one session. `due` names each thing once; call it again until it says None."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.created_at: Final = now
        self.closing: Closing | None = None
        self._limits = limits
        self._active_at = now  # last sign of life of the client
        self._noticed = False  # of the age limit
        self._detached_at: float | None = None  # since then without a socket
        self._hushed = False  # since then

    def touch(self, now: float) -> None:
        """The client did something, or answered a ping."""
        self._active_at = max(self._active_at, now)

    def left_s(self, now: float) -> float:
        """Until the age limit."""
        return self.created_at + self._limits.session_s - now

    def close(self, closing: Closing) -> None:
        """End when nothing speaks any more. The first to say so is right about code and reason."""
        if self.closing is None or closing.deadline < self.closing.deadline:
            self.closing = closing

    def detach(self, now: float) -> None:
        """The socket is gone. Idempotent."""
        if self._detached_at is None:
            self._detached_at, self._hushed = now, False

    def attach(self, now: float) -> None:
        """There is a socket again."""
        self._detached_at = None
        self.touch(now)

    def deadline(self, speaks: bool, silent_at: float) -> float:
        """When `due` will next name something. speaks: a turn lives. silent_at: when the listener has, or had, heard everything."""
        return min(at for at, _ in self._dues(speaks, silent_at))

    def due(self, speaks: bool, silent_at: float, now: float) -> Due | None:
        """What is due first, or None."""
        at, due = min(self._dues(speaks, silent_at), key=lambda item: item[0])
        if now < at:
            return None
        self._noticed = self._noticed or due is Due.NOTICE
        self._hushed = self._hushed or due is Due.HUSH
        return due

    def _dues(self, speaks: bool, silent_at: float) -> list[tuple[float, Due]]:
        limits = self._limits
        end = self.created_at + limits.session_s
        dues = [(end, Due.EXPIRED) if self._noticed else (end - NOTICE_S, Due.NOTICE)]
        if self.closing is not None:
            dues.append((self.closing.deadline, Due.CLOSE))
        if self._detached_at is not None:
            dues.append((self._detached_at + limits.resume_ttl_s, Due.GONE))
            if not self._hushed:
                dues.append((self._detached_at + limits.disconnect_grace_ms / 1000, Due.HUSH))
        elif not speaks:
            idle_since = max(self._active_at, silent_at if math.isfinite(silent_at) else 0.0)
            dues.append((idle_since + limits.idle_s, Due.IDLE))
        return dues
