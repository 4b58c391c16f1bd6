"""A turn's text on its way into the segmenter, a slice at a time.

Knows what came and how much of it may be read at once. Does not know segments' borders or speech. Reading costs some 7 us a character: the
4096 characters of one message would keep every other client waiting for 27 ms.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final

from protocol.config import Latency, TagMode
from realtime.repertoire import EVERYTHING, Repertoire
from realtime.segmenter import Segment, Segmenter
from realtime.wording import AS_IT_STANDS, Wording

SLICE_CHARS: Final = 128  # some 1 ms; a delta of a language model is far below


class _Mark(Enum):
    FLUSH = "flush"


class Intake:
    """The text of one turn. As long as `deadline` says now, `take` has more to read."""

    def __init__(
        self,
        latency: Latency,
        tags: TagMode,
        repertoire: Repertoire = EVERYTHING,
        wording: Wording = AS_IT_STANDS,
    ) -> None:
        self.ended = False  # no text follows
        self.emptied = False  # it has ended, and all of it was taken
        self.chars = 0  # of the input so far
        self._segmenter = Segmenter(latency, tags, repertoire=repertoire, wording=wording)
        self._pieces: list[str] = []  # the input so far
        self._unread: deque[str | _Mark] = deque()

    @property
    def raw(self) -> str:
        """All input so far."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def push(self, text: str) -> None:
        """More text."""
        assert not self.ended, "the caller refuses text for a turn whose text has ended"
        if text:
            self.chars += len(text)
            self._pieces.append(text)
            self._unread.append(text)

    def flush(self) -> None:
        """Speak what came before this. Nothing to do where the text has ended: all of it is spoken."""
        if not self.ended:
            self._unread.append(_Mark.FLUSH)

    def end(self) -> None:
        """No text follows. Idempotent."""
        self.ended = True

    def asks_lead(self, now: float) -> bool:
        """Whether what `take` returns depends on the lead; else any will do, and 0 gives a `deadline` that is not too late."""
        return not self.emptied and self._segmenter.asks_lead(now)

    def take(self, now: float, lead_s: float) -> list[Segment]:
        """Read a slice; the segments that are ready then, each once and in order. `lead_s`: see `Segmenter.take`."""
        if self.emptied:
            return []
        left = SLICE_CHARS
        while self._unread and left:
            left -= self._read_next(left, now)
        if self.ended and not self._unread:
            self._segmenter.end()
            self.emptied = True
        return self._segmenter.take(now, lead_s)

    def deadline(self, now: float, lead_s: float) -> float | None:
        """When `take` is worth a call although nothing came; None: not before something does."""
        if self._unread:
            return now
        return None if self.emptied else self._segmenter.deadline(now, lead_s)

    def _read_next(self, most: int, now: float) -> int:
        """Read at most so many characters of what comes next; returns how many."""
        item = self._unread.popleft()
        if isinstance(item, _Mark):
            self._segmenter.flush()
            return 0
        if len(item) > most:
            self._unread.appendleft(item[most:])
            item = item[:most]
        self._segmenter.push(item, now)
        return len(item)
