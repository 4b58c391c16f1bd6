"""The marks of one turn: places in its text that a client wants to be told of when the speech comes there.

Knows where in the text they stand, and once it was spoken, where in the audio. Does not know events, clocks or how words are timed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from realtime.alignment import Word

SLACK_MS: Final = 1e-3  # a clock that was asked when it comes to a place may then be a rounding error before it


@dataclass(frozen=True, slots=True)
class Placed:
    """A mark whose place in the audio is known."""

    name: str
    at_ms: float


class Marks:
    """In the order of the text, which is that of the audio."""

    def __init__(self) -> None:
        self.count = 0  # added so far
        self._waiting: deque[tuple[str, int]] = deque()  # name, code point of the raw text; not spoken yet
        self._placed: deque[Placed] = deque()  # not heard yet

    @property
    def waiting(self) -> bool:
        """Whether `place` could do something."""
        return bool(self._waiting)

    @property
    def next_ms(self) -> float | None:
        """Where in the audio the next one is that the listener has not heard."""
        return self._placed[0].at_ms if self._placed else None

    def add(self, name: str, char: int) -> None:
        """One at this code point of the turn's raw text, behind all others."""
        self.count += 1
        self._waiting.append((name, char))

    def place(self, raw: str, spoken_chars: int, words: Sequence[Word]) -> list[Placed]:
        """What was spoken up to code point `spoken_chars` of `raw`, in these words: the marks that are known now."""
        placed: list[Placed] = []
        while self._waiting:
            name, char = self._waiting[0]
            if char > spoken_chars and raw[spoken_chars:char].strip():
                break
            self._waiting.popleft()
            placed.append(Placed(name, _time(char, words)))
        self._placed.extend(placed)
        return placed

    def place_rest(self, end_ms: float) -> list[Placed]:
        """Everything was spoken and the audio ends here: so do the marks that are left, and no mark is behind it."""
        self._placed = deque(Placed(mark.name, min(mark.at_ms, end_ms)) for mark in self._placed)
        placed = [Placed(name, end_ms) for name, _ in self._waiting]
        self._waiting.clear()
        self._placed.extend(placed)
        return placed

    def played(self, ms: float) -> list[Placed]:
        """Those that the listener has come to, each once."""
        played: list[Placed] = []
        while self._placed and self._placed[0].at_ms <= ms + SLACK_MS:
            played.append(self._placed.popleft())
        return played

    def drop(self) -> list[tuple[str, float | None]]:
        """The listener will hear no more: names of those that are left, with their place where it is known."""
        left: list[tuple[str, float | None]] = [(mark.name, mark.at_ms) for mark in self._placed]
        left += [(name, None) for name, _ in self._waiting]
        self._placed.clear()
        self._waiting.clear()
        return left


def _time(char: int, words: Sequence[Word]) -> float:
    """When the text before `char` has been said; inside a word, in proportion."""
    time = 0.0
    for word in words:
        if word.char_start >= char:
            break
        share = min(1.0, (char - word.char_start) / max(1, word.char_end - word.char_start))
        time = word.start_ms + share * (word.end_ms - word.start_ms)
    return time
