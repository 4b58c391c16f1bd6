"""What a client has received, so that it can go on with a session over another socket and take nothing twice.

Knows which events and samples came. A server that resumes a session says again what follows the last audio that we have: events among it
may have come already. Does not know sockets or turns.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

REMEMBERED: Final = 2_048  # messages; a server repeats those of 30 s at most, and writes some ten events a second


class Memory:
    """Of one session."""

    def __init__(self) -> None:
        self.have: tuple[int, int] | None = None  # turn n, sample before which nothing is missing
        self._events: deque[str] = deque(maxlen=REMEMBERED)  # as they came
        self._repeatable: Counter[str] | None = None  # while the server repeats: what it may
        self._positions: dict[int, int] = {}  # of the newest message of a turn, by n

    @property
    def repeating(self) -> bool:
        """Whether the server says again what we may have."""
        return self._repeatable is not None

    def expect_repeats(self) -> None:
        """Another socket is there; until `all_new` some of what comes came before."""
        self._repeatable = Counter(self._events)

    def all_new(self) -> None:
        """From now on everything is new."""
        self._repeatable = None

    def event(self, message: str) -> bool:
        """An event came; whether it is new."""
        if self._repeatable is not None and self._repeatable[message]:
            self._repeatable[message] -= 1
            return False
        self._events.append(message)
        return True

    def audio(self, n: int, position: int) -> bool:
        """The audio message of turn `n` that begins at this sample came; whether it is new."""
        if self.repeating and position <= self._positions.get(n, -1):
            return False
        if self.have is None or n >= self.have[0]:
            # Of the newest message only the beginning is known: it will come again, and is then no news.
            self.have = (n, position)
        if n not in self._positions:
            self._positions = {known: place for known, place in self._positions.items() if known >= n - 1}
        self._positions[n] = position
        return True

    def rewound(self, n: int) -> None:
        """The server goes back in turn `n`, as it was asked to."""
        self._positions.pop(n, None)
