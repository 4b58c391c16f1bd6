"""No new turn while the server itself is late: those who listen keep their pace, and who comes waits, or is told when to come again.

Knows an engine and how late what it makes is on its way out. Does not know why. An engine counts its own streams; that the samples of so
many cannot be encoded and sent in time by this process, only the process itself sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from engine.api import Busy, Capacity, Codes, Conversation, Engine, ModelInfo, Samples, SamplingParams, Stream, Voice

# Below what is encoded ahead (`speech.READY_MS`), and far below the lead of who has listened for a while: nobody has run short yet. Above
# what many who begin at one moment cost once: 256 turns of 0.4 s, 4 threads and 0.4 ms a frame are 0.22 s.
LATE_S: Final = 0.3
RETRY_S: Final = 0.5


@dataclass
class Late(Busy):
    """The server has no time for another stream."""

    def __str__(self) -> str:
        return f"the server has no time for another stream; retry after {self.retry_after_s:g} s"


class AdmittingEngine:
    """`engine.api.Engine`: another one, whose streams are refused while `late_s()` says that the server is late."""

    def __init__(self, engine: Engine, late_s: Callable[[], float]) -> None:
        self._engine = engine
        self._late_s = late_s

    @property
    def info(self) -> ModelInfo:
        return self._engine.info

    def capacity(self) -> Capacity:
        return self._engine.capacity()

    def prefetch(self, conversation: Conversation, voice: Voice) -> None:
        self._engine.prefetch(conversation, voice)

    def open(self, conversation: Conversation, voice: Voice, params: SamplingParams, turn: int) -> Stream:
        """See `engine.api.Engine.open`. Raises Busy as well while the server is late."""
        if self._late_s() > LATE_S:
            raise Late(RETRY_S)
        return self._engine.open(conversation, voice, params, turn)

    def forget(self, conversation_id: str) -> None:
        self._engine.forget(conversation_id)

    async def encode(self, samples: Samples, sample_rate: int) -> Codes:
        return await self._engine.encode(samples, sample_rate)

    async def decode(self, codes: Codes) -> Samples:
        return await self._engine.decode(codes)
