"""Everything that leaves a session, in order: the only thing that the writer of its socket reads.

Knows which turns may still sound, how much waits, that nothing of a turn follows its end, and what was written lately. Does not know JSON,
sockets or time: the session puts encoded messages in, the task that has the socket takes them out and writes them. It outlives a socket:
without one, events wait and audio is not asked for. All calls come from the thread of the event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from realtime.replay import Have, Replay, Span

# A client may ask for 200 answers a second; one that leaves five seconds of them unread is not reading.
MAX_EVENTS = 1024
ROOM_BYTES = (
    64 * 1024
)  # of audio; a third of a second of the largest format, so that a cancelled turn has little to drop


@dataclass(frozen=True, slots=True)
class Close:
    """The last message: close the socket."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Audio:
    n: int
    message: bytes | str
    sent: Callable[[float], None]
    span: Span


class Outbox:
    """A queue with one reader. `wake` is called whenever a message is there to take."""

    def __init__(self, wake: Callable[[], None], replay_s: float = 30.0) -> None:
        """`replay_s`: for so long what was taken can be had again."""
        self.overflowed = False  # the peer left MAX_EVENTS messages unread: abort the socket
        self.audio_bytes = 0  # of the audio that waits
        self.attached = True  # somebody takes what is put
        self.leg: Outbox | None = None  # gets every event as well, and the audio of the turns that are opened meanwhile
        self._wake = wake
        self._replay = Replay(replay_s)
        self._queue: deque[str | _Audio | Close] = deque()
        self._events = 0
        self._open: set[int] = set()  # turns that may still sound
        self._closing = False

    @property
    def has_room(self) -> bool:
        """Whether more audio should be put: not while there is no socket. A hint: `audio` never refuses for lack of room."""
        return self.attached and self.audio_bytes < ROOM_BYTES

    def open_turn(self, n: int) -> Outbox:
        """From here on, audio of turn `n` is taken: by the outbox that this returns."""
        self._open.add(n)
        return self if self.leg is None else self.leg.open_turn(n)

    def event(self, text: str) -> None:
        """Put a control message."""
        if self._closing or self.overflowed:
            return
        if self.leg is not None:
            self.leg.event(text)
        if self._events >= MAX_EVENTS:
            self.overflowed = True
        else:
            self._events += 1
            self._queue.append(text)
        self._wake()

    def audio(self, n: int, message: bytes | str, sent: Callable[[float], None], span: Span) -> None:
        """Put a message of turn `n`; `sent(now)` is called when the writer takes it. Dropped if the turn is over."""
        if self._closing or n not in self._open:
            return
        self._queue.append(_Audio(n, message, sent, span))
        self.audio_bytes += len(message)
        self._wake()

    def close_turn(self, n: int, done: str, withdrawn: bool = False) -> None:
        """Drop what waits of turn `n`, refuse what still comes, and put its one terminal event.

        `withdrawn`: it was interrupted, and a client that returns must not hear more of it than it has.
        """
        assert n in self._open, f"turn {n} ends once"
        self._drop(n)
        if self.leg is not None:
            self.leg._drop(n)
        if withdrawn:
            self.withdraw(n)
        self.event(done)

    def _drop(self, n: int) -> None:
        self._open.discard(n)
        dropped = [item for item in self._queue if isinstance(item, _Audio) and item.n == n]
        if dropped:
            self.audio_bytes -= sum(len(item.message) for item in dropped)
            self._queue = deque(item for item in self._queue if not (isinstance(item, _Audio) and item.n == n))

    def withdraw(self, n: int) -> None:
        """What was written of turn `n` is not written again: it was cut after its end."""
        self._replay.withdraw(n)

    def detach(self, now: float) -> None:
        """The socket is gone; nothing is taken until `attached` is set again."""
        self.attached = False
        self._replay.forget_old(now)

    def written_after(self, have: Have | None) -> list[bytes | str]:
        """What was taken and may not have arrived, see `Replay.after`."""
        return self._replay.after(have)

    def close(self, code: int, reason: str) -> None:
        """Put the end: what waits is still written, nothing more is taken."""
        if self.leg is not None:
            self.leg.close(code, reason)
        if not self._closing:
            self._closing = True
            self._queue.append(Close(code, reason))
            self._wake()

    def take(self, now: float) -> str | bytes | Close | None:
        """The next message to write, at once and whole, or None. Taking audio counts as sending it."""
        if not self._queue:
            return None
        item = self._queue.popleft()
        if isinstance(item, _Audio):
            self.audio_bytes -= len(item.message)
            item.sent(now)
            self._replay.record(item.message, item.span, now)
            return item.message
        if isinstance(item, str):
            self._events -= 1
            self._replay.record(item, None, now)
        return item
