"""The marks of one turn: places in its text that a client wants to be told of when the speech comes there.

Knows where in the text they stand, once it was spoken where in the audio, and what is told of them. Does not know clocks, or how words
are timed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from protocol.events import MarkEvent, MarkState
from realtime.alignment import Word

SLACK_MS: Final = 1e-3  # a clock that was asked when it comes to a place may then be a rounding error before it


class Marks:
    """In the order of the text, which is that of the audio. What a method returns is to be sent."""

    def __init__(self, turn_id: str) -> None:
        self.count = 0  # added so far
        self._turn_id = turn_id
        self._waiting: deque[tuple[str, int]] = deque()  # name, code point of the raw text; not spoken yet
        self._placed: deque[tuple[str, float]] = deque()  # name, ms of the turn's audio; not heard yet

    @property
    def waiting(self) -> bool:
        """Whether `place` could do something."""
        return bool(self._waiting)

    @property
    def next_ms(self) -> float | None:
        """Where in the audio the next one is that the listener has not heard."""
        return self._placed[0][1] if self._placed else None

    def add(self, name: str, char: int) -> None:
        """One at this code point of the turn's raw text, behind all others."""
        self.count += 1
        self._waiting.append((name, char))

    def place(self, raw: str, spoken_chars: int, words: Sequence[Word]) -> list[MarkEvent]:
        """What was spoken up to code point `spoken_chars` of `raw`, in these words: the marks that are known now."""
        placed: list[tuple[str, float]] = []
        while self._waiting:
            name, char = self._waiting[0]
            if char > spoken_chars and raw[spoken_chars:char].strip():
                break
            self._waiting.popleft()
            placed.append((name, _time(char, words)))
        return self._put(placed)

    def place_rest(self, end_ms: float) -> list[MarkEvent]:
        """Everything was spoken and the audio ends here: so do the marks that are left, and no mark is behind it."""
        self._placed = deque((name, min(at_ms, end_ms)) for name, at_ms in self._placed)
        rest = [(name, end_ms) for name, _ in self._waiting]
        self._waiting.clear()
        return self._put(rest)

    def played(self, ms: float) -> list[MarkEvent]:
        """Those that the listener has come to, each once."""
        played: list[MarkEvent] = []
        while self._placed and self._placed[0][1] <= ms + SLACK_MS:
            name, at_ms = self._placed.popleft()
            played.append(self._event(name, at_ms, MarkState.PLAYED))
        return played

    def cut(self, ms: float) -> list[MarkEvent]:
        """The listener will hear no more than this: what is behind it is dropped, the rest is still waited for."""
        dropped: list[MarkEvent] = []
        while self._placed and self._placed[-1][1] > ms + SLACK_MS:
            name, at_ms = self._placed.pop()
            dropped.insert(0, self._event(name, at_ms, MarkState.DROPPED))
        dropped += [self._event(name, None, MarkState.DROPPED) for name, _ in self._waiting]
        self._waiting.clear()
        return dropped

    def _put(self, placed: list[tuple[str, float]]) -> list[MarkEvent]:
        self._placed.extend(placed)
        return [self._event(name, at_ms, MarkState.GENERATED) for name, at_ms in placed]

    def _event(self, name: str, at_ms: float | None, state: MarkState) -> MarkEvent:
        return MarkEvent(turn=self._turn_id, name=name, at_ms=None if at_ms is None else round(at_ms), state=state)


def _time(char: int, words: Sequence[Word]) -> float:
    """When the text before `char` has been said; inside a word, in proportion."""
    time = 0.0
    for word in words:
        if word.char_start >= char:
            break
        share = min(1.0, (char - word.char_start) / max(1, word.char_end - word.char_start))
        time = word.start_ms + share * (word.end_ms - word.start_ms)
    return time
