"""No new turn while the server itself is late: those who listen keep their pace, and who comes waits, or is told when to come again.

Knows an engine and how late what it makes is on its way out. Does not know why. An engine counts its own streams; that the samples of so
many cannot be encoded and sent in time by this process, only the process itself sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from engine.api import Busy, Capacity, Codes, Conversation, Engine, ModelInfo, Samples, SamplingParams, Stream, Voice

# Below what is encoded ahead (`speech.READY_MS`), and far below the lead of who has listened for a while: nobody has run short yet.
# Above what a step of 256 rows costs one thread, 0.1 s.
LATE_S: Final = 0.3
RETRY_S: Final = 0.5
# Once the server was late, those who wait come in no faster than others leave: what a newcomer costs shows only after a while, and all who
# wait would come in at the first moment that is good. Until it was not late for so long.
CAREFUL_S: Final = 5.0
TURN_S: Final = 8.0  # that a stream is taken to be open


@dataclass
class Late(Busy):
    """The server has no time for another stream."""

    def __str__(self) -> str:
        return f"the server has no time for another stream; retry after {self.retry_after_s:g} s"


class AdmittingEngine:
    """`engine.api.Engine`: another one, whose streams are refused while `late_s()` says that the server is late."""

    def __init__(self, engine: Engine, late_s: Callable[[], float], now: Callable[[], float]) -> None:
        """`now`: seconds, monotonic."""
        self._engine = engine
        self._late_s = late_s
        self._now = now
        self._careful_until = -math.inf
        self._next_at = -math.inf  # when the next may come in, while we are careful

    @property
    def info(self) -> ModelInfo:
        return self._engine.info

    def capacity(self) -> Capacity:
        return self._engine.capacity()

    def prefetch(self, conversation: Conversation, voice: Voice) -> None:
        self._engine.prefetch(conversation, voice)

    def open(self, conversation: Conversation, voice: Voice, params: SamplingParams, turn: int) -> Stream:
        """See `engine.api.Engine.open`. Raises Busy as well while the server is late."""
        now = self._now()
        if self._late_s() > LATE_S:
            self._careful_until = now + CAREFUL_S
            raise Late(RETRY_S)
        if now < min(self._next_at, self._careful_until):
            raise Late(RETRY_S)
        stream = self._engine.open(conversation, voice, params, turn)
        self._next_at = now + min(RETRY_S, TURN_S / max(1, self._engine.capacity().own))
        return stream

    def forget(self, conversation_id: str) -> None:
        self._engine.forget(conversation_id)

    async def encode(self, samples: Samples, sample_rate: int) -> Codes:
        return await self._engine.encode(samples, sample_rate)

    async def decode(self, codes: Codes) -> Samples:
        return await self._engine.decode(codes)
