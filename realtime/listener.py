"""Somebody who hears one answer: through the speakers, or, where there are none, for as long as it would have taken.

Knows how much was heard, and keeps just that. Does not know text or messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import anyio
import numpy as np

from protocol.config import MAX_LEAD_MS, Format
from realtime.audio import to_int16
from realtime.decoding import Samples, TurnDecoder
from realtime.playback import Playback, Player
from realtime.playout import Pace, PlayClock
from realtime.wavefile import Pcm

TICK_S: Final = 0.02  # how exactly the end is noticed


class Listener:
    """One answer's. Make it with `await Listener.start(...)`; end it with `play_out` or `hush`."""

    def __init__(
        self, fmt: Format, rate: int, pre_skip: int, playback: Playback | None, now: Callable[[], float]
    ) -> None:
        self._rate = rate
        self._playback = playback
        self._now = now  # seconds, monotonic
        self._clock = PlayClock(Pace(MAX_LEAD_MS, MAX_LEAD_MS, realtime=True), -math.inf)
        self._decoder = TurnDecoder(fmt, pre_skip)
        self._pcm: list[Pcm] = []
        self._samples = 0
        self._stopped_ms: float | None = None  # nothing is heard after this

    @classmethod
    async def start(
        cls, player: Player | None, fmt: Format, rate: int, pre_skip: int, now: Callable[[], float]
    ) -> Listener:
        """player: made ready for `rate` Hz; None: nobody hears it, but the time passes. Raises OSError."""
        playback = await Playback.start(player, rate) if player is not None else None
        return cls(fmt, rate, pre_skip, playback, now)

    @property
    def heard_ms(self) -> float:
        """How much of the answer was heard."""
        if self._stopped_ms is not None:
            return self._stopped_ms
        # A player holds some sound back; without one nothing stands between a sample and its listener.
        return self._clock.heard_ms(self._now()) if self._playback is not None else self._clock.played_ms(self._now())

    def heard(self) -> Pcm:
        """The samples that were heard."""
        pcm = np.concatenate(self._pcm) if self._pcm else np.zeros(0, np.int16)
        return pcm[: round(self.heard_ms * self._rate / 1000)]

    async def packet(self, payload: bytes, last: bool) -> None:
        """The next packet. Raises ValueError for a broken one, PlayerFailed."""
        await self._hear(self._decoder.decode(payload, last))

    async def end(self, audio_ms: int) -> None:
        """There are no more packets, and the answer was so long."""
        await self._hear(self._decoder.rest(round(audio_ms * self._rate / 1000)))

    async def play_out(self) -> None:
        """Wait until all of it was heard. Raises PlayerFailed."""
        if self._playback is not None:
            await self._playback.finish()
        while self._playback is None and self._now() < self._clock.ends_at:
            await anyio.sleep(min(TICK_S, self._clock.ends_at - self._now()))
        self._stopped_ms = self._clock.sent_ms

    async def hush(self) -> None:
        """Silence, now. Idempotent, and harmless behind the end."""
        self._stopped_ms = self.heard_ms
        if self._playback is not None:
            await self._playback.stop()

    async def _hear(self, samples: Samples) -> None:
        pcm = to_int16(samples)
        self._pcm.append(pcm)
        self._samples += len(pcm)
        self._clock.sent(self._samples * 1000 / self._rate, self._now())
        if self._playback is not None and len(pcm):
            await self._playback.write(pcm)
