"""Where in its text a segment was, frame by frame, as the model's own attention has it; and from that, when each word was spoken.

Knows places in the text that the engine got, and the map from there to the turn's input. Does not know the model, estimates or ms.
"""

from __future__ import annotations

from bisect import bisect_left

from realtime.segmenter import Segment


class Trail:
    """The places of one segment's frames. A place may be taken back by a later one that is further left: speech never goes back."""

    def __init__(self, segment: Segment) -> None:
        self._text = segment.text
        self._origin = segment.origin
        self._places: list[int] = []  # of each frame
        # The places that were not taken back, ascending, each with the last frame that has it.
        self._kept: list[int] = []
        self._frames: list[int] = []

    def __len__(self) -> int:
        """Frames so far."""
        return len(self._places)

    @property
    def place(self) -> int:
        """Where the speech is now: the code point of the engine's text that the last frame speaks; -1 before the first."""
        return self._kept[-1] if self._kept else -1

    def add(self, place: int) -> None:
        """The next frame speaks this code point of the engine's text."""
        while self._kept and self._kept[-1] >= place:
            self._kept.pop()
            self._frames.pop()
        self._kept.append(place)
        self._frames.append(len(self._places))
        self._places.append(place)

    def sound(self, start: int, end: int) -> tuple[int, int] | None:
        """Where a stretch of the turn's input is in the engine's text, from its first letter or digit (or, without any, from its first
        sign) to behind the last one. None: nothing of it is there.
        """
        first, behind = bisect_left(self._origin, start), bisect_left(self._origin, end)
        heard = [at for at in range(first, behind) if self._text[at].isalnum()] or range(first, behind)
        return (heard[0], heard[-1] + 1) if heard else None

    def reached(self, char: int) -> float | None:
        """When the speech came to a code point of the engine's text, in frames from the segment's start; None: it has not yet.

        Between the middle of the last frame that is before it and that of the next one, in proportion to how far either is away.
        """
        at = bisect_left(self._kept, char)
        if at == len(self._kept):
            return None
        if at == 0:
            return 0.0
        last = self._frames[at - 1]
        before, behind = self._places[last], self._places[last + 1]
        return last + 0.5 + (char - before) / (behind - before)
