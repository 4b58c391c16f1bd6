"""Where a client's sound goes: into a file, through the speakers, or nowhere; and how far a listener has come.

Knows the order of turns and one clock for each. Does not know messages or text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from protocol.config import MAX_LEAD_MS, Format
from realtime.audio import to_int16
from realtime.decoding import Samples, TurnDecoder
from realtime.playback import Playback
from realtime.playout import Pace, PlayClock
from realtime.wavefile import WaveWriter


@dataclass(frozen=True, slots=True)
class Place:
    """Where the listener is."""

    turn: int  # index, from 0
    ms: float  # of its audio


class Sink:
    """The sound of several turns, one after the other. Close it at the end."""

    def __init__(
        self,
        fmt: Format,
        rate: int,
        pre_skip: int,
        output: Path | None,
        playback: Playback | None,
        now: Callable[[], float],
    ) -> None:
        """rate: Hz, of the samples. output: written from the first sample on. now: seconds, monotonic."""
        self._format = fmt
        self._rate = rate
        self._pre_skip = pre_skip
        self._output = output
        self._playback = playback
        self._now = now
        self._wave: WaveWriter | None = None
        self._clocks: list[PlayClock] = []  # of the turns begun
        self._decoder: TurnDecoder | None = None  # of the last one
        self._samples = 0  # of it, so far

    def begin(self) -> None:
        """The next packets are another turn's."""
        # Without a player, what was received counts as heard.
        pace = Pace(MAX_LEAD_MS, MAX_LEAD_MS, realtime=self._playback is not None)
        self._clocks.append(PlayClock(pace, self._clocks[-1].ends_at if self._clocks else -math.inf))
        self._decoder = TurnDecoder(self._format, self._pre_skip)
        self._samples = 0

    async def packet(self, payload: bytes, last: bool) -> None:
        """One packet of the turn. Raises ValueError for a broken one, OSError, PlayerFailed."""
        assert self._decoder is not None, "begin comes first"
        await self._put(self._decoder.decode(payload, last))

    async def end(self, audio_ms: int) -> None:
        """The turn has no more packets, and was so long."""
        assert self._decoder is not None, "begin comes first"
        await self._put(self._decoder.rest(round(audio_ms * self._rate / 1000)))

    async def play_out(self) -> None:
        """Wait until the listener has heard everything."""
        if self._playback is not None:
            await self._playback.finish()

    async def hush(self) -> None:
        """Silence, now."""
        if self._playback is not None:
            await self._playback.stop()

    def place(self) -> Place | None:
        """Where the listener is now; None: before the first turn."""
        now = self._now()
        playing = [turn for turn, clock in enumerate(self._clocks) if clock.pace.realtime and now < clock.ends_at]
        turn = playing[0] if playing else len(self._clocks) - 1
        return Place(turn, self._clocks[turn].heard_ms(now)) if self._clocks else None

    async def close(self) -> None:
        """Let go of file and player. Idempotent."""
        if self._wave is not None:
            self._wave.close()
        await self.hush()

    async def _put(self, samples: Samples) -> None:
        pcm = to_int16(samples)
        if self._output is not None:
            self._wave = self._wave or WaveWriter(self._output, self._rate)
            self._wave.write(pcm)
        self._samples += len(pcm)
        self._clocks[-1].sent(self._samples * 1000 / self._rate, self._now())
        if self._playback is not None and len(pcm):
            await self._playback.write(pcm)
