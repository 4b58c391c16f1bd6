"""Where a text of any length becomes turns that a server takes.

Knows how long a turn may get and which places in a text are good to part it. Does not know segments: those are the server's matter, and
inside a turn nothing changes by it. The parts joined are the text. Where it was parted depends on the text alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import anyio

# Characters of a turn, from which on it may end at ... 5,000 characters are some six minutes of speech; a server stops a turn at ten.
PARAGRAPH_FROM: Final = 2_000
SENTENCE_FROM: Final = 3_000
SPACE_FROM: Final = 4_500
ANYWHERE_FROM: Final = 5_000
MOST_WAITING: Final = 16  # parts that were read and not yet sent
LONGEST_TAG: Final = 80  # a bracket that is open for longer is no tag

_FENCES: Final = ("```", "~~~")
_SENTENCE_ENDS: Final = frozenset(".!?…؟।")
_WIDE_SENTENCE_ENDS: Final = frozenset("。！？")  # no space follows these


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of text for the turn that is open."""

    text: str
    ends_turn: bool


class TurnCutter:
    """Give it text as it comes; what it returns is to be sent as it stands."""

    def __init__(self) -> None:
        self._length = 0  # of the open turn
        self._before = ""  # the character before
        self._bracket: int | None = None  # characters since a `[` or `<` that is still open
        self._line = ""  # the first characters of the line, without white space
        self._fenced = False  # inside a block of code: its end in another turn would be taken for the start of one

    def push(self, text: str) -> list[Part]:
        """Everything that was pushed, at once: nothing is held back."""
        parts: list[Part] = []
        start = 0
        for index, char in enumerate(text):
            self._length += 1
            self._note_bracket(char)
            self._note_fence(char)
            if self._may_end(char):
                parts.append(Part(text[start : index + 1], ends_turn=True))
                start, self._length = index + 1, 0
            self._before = char
        if start < len(text):
            parts.append(Part(text[start:], ends_turn=False))
        return parts

    def _note_bracket(self, char: str) -> None:
        if char in "[<":
            self._bracket = 0
        elif char in "]>" or (self._bracket is not None and self._bracket >= LONGEST_TAG):
            self._bracket = None
        elif self._bracket is not None:
            self._bracket += 1

    def _note_fence(self, char: str) -> None:
        if char == "\n":
            self._line = ""
        elif len(self._line) < len(_FENCES[0]) and not char.isspace():
            self._line += char
            self._fenced ^= self._line in _FENCES

    def _may_end(self, char: str) -> bool:
        """Whether the turn ends behind this character. A tag is never parted."""
        if self._length < PARAGRAPH_FROM or self._bracket is not None:
            return False
        if self._length >= ANYWHERE_FROM:
            return True
        if self._fenced:
            return False
        if char == "\n":
            return True
        if self._length >= SPACE_FROM and char.isspace():
            return True
        ended = char in _WIDE_SENTENCE_ENDS or (char.isspace() and self._before in _SENTENCE_ENDS)
        return self._length >= SENTENCE_FROM and ended


class Parts:
    """The parts of a text that somebody still writes. One task fills it, one empties it; neither loses anything when it is cancelled."""

    def __init__(self) -> None:
        self._waiting: deque[Part] = deque()
        self._ended = False
        self._changed = anyio.Event()

    async def fill(self, text: AsyncIterator[str]) -> None:
        """Take in a text to its end; waits while parts wait to be taken, so that a pipe's writer waits, too."""
        cutter = TurnCutter()
        async for delta in text:
            self._waiting += cutter.push(delta)
            self._change()
            while len(self._waiting) > MOST_WAITING:
                await self._changed.wait()
        self._ended = True
        self._change()

    async def more(self) -> bool:
        """Wait for a part to take; False: the text has ended."""
        while not self._waiting and not self._ended:
            await self._changed.wait()
        return bool(self._waiting)

    def take(self) -> Part:
        """The next part; `more` said that there is one."""
        part = self._waiting.popleft()
        self._change()
        return part

    def _change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
