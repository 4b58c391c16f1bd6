"""How loud a turn is at each of its moments, for whoever must know whether a microphone hears it.

Knows the level of each packet in order. Does not know clocks or sound. One byte a packet: ten minutes are 30 KB.
"""

from __future__ import annotations

from array import array


class SentLevels:
    """The packets of one turn, all of one length but the last."""

    def __init__(self, packet_ms: float) -> None:
        self._packet_ms = packet_ms
        self._levels = array("b")  # dB below full scale, rounded: an ear tells 1 dB at best

    def add(self, level_db: float) -> None:
        """The next packet. level_db: RMS below full scale."""
        self._levels.append(round(max(-127.0, min(20.0, level_db))))

    def loudest_db(self, start_ms: float, end_ms: float) -> float | None:
        """Between two times of the turn's audio; None where it has none."""
        first, last = int(start_ms // self._packet_ms), int(end_ms // self._packet_ms)
        span = self._levels[max(0, first) : max(0, last + 1)]
        return float(max(span)) if span else None
