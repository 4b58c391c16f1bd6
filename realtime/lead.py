"""How close a turn's audio came to running out: for its metrics, and to tell of an underrun once.

Knows leads in ms. Does not know clocks, or whether a listener waits for the engine or for text: its owner asks where the engine is meant.
"""

from __future__ import annotations


class LeadGauge:
    """Of one turn."""

    def __init__(self) -> None:
        self._least_ms: float | None = None
        self._ran_short_at_ms: set[float] = set()  # where in the audio the listener had to wait

    def note(self, lead_ms: float, sent_ms: float) -> bool:
        """A frame came with so much audio ahead of the listener, who was sent so much. True: the first time that it came too late."""
        self._least_ms = lead_ms if self._least_ms is None else min(lead_ms, self._least_ms)
        if lead_ms >= 0 or sent_ms in self._ran_short_at_ms:
            return False
        self._ran_short_at_ms.add(sent_ms)
        return len(self._ran_short_at_ms) == 1

    @property
    def min_ms(self) -> int | None:
        """The least audio ahead of the listener; None: none came while it listened."""
        return None if self._least_ms is None else round(self._least_ms)

    @property
    def underruns(self) -> int:
        """How often the listener ran out."""
        return len(self._ran_short_at_ms)
