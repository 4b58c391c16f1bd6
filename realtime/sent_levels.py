"""How loud a turn is at each of its moments, for whoever must know whether a microphone hears it.

Knows the level of what was sent, by its time in the turn. Does not know clocks or sound. One byte for 10 ms: ten minutes are 60 KB.
"""

from __future__ import annotations

import math
from array import array
from typing import Final

CELL_MS: Final = 10  # the shortest packet
QUIETEST_DB: Final = -127  # what a byte holds
LOUDEST_DB: Final = 20  # more than full scale ever is


class SentLevels:
    """The packets of one turn. What is sent again takes the place of what was sent before."""

    def __init__(self) -> None:
        self._cells = array("b")  # dB below full scale, rounded: nobody tells less than 1 dB

    def put(self, start_ms: float, end_ms: float, level_db: float) -> None:
        """A packet. level_db: RMS below full scale."""
        first, last = int(start_ms // CELL_MS), math.ceil(end_ms / CELL_MS)
        level = round(max(QUIETEST_DB, min(LOUDEST_DB, level_db)))
        self._cells.extend([QUIETEST_DB] * (first - len(self._cells)))
        self._cells[first:last] = array("b", [level] * (last - first))

    def loudest_db(self, start_ms: float, end_ms: float) -> float | None:
        """Between two times of the turn's audio; None where nothing was sent."""
        cells = self._cells[max(0, int(start_ms // CELL_MS)) : max(0, math.ceil(end_ms / CELL_MS))]
        return float(max(cells)) if cells else None
