"""One turn of a benchmark's client that speaks another vendor's protocol, written down as the native client's are.

Knows what such a client can see: when text was written and when samples came. Does not know any protocol. What the server measures itself
is not told in these protocols: the record has no real-time factor and no word times.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from typing import Final

import anyio
import numpy as np

from protocol.config import Latency
from protocol.events import Heard, HeardSource, Kept, Status, TurnDone, TurnMetrics
from realtime.bench_dialects import RATE_HZ, DialectFailed, Speaker
from realtime.bench_endpoints import Refused
from realtime.bench_figures import Delta, Failure, Outcome, Packet, Refusal, TurnRecord, first_audible
from realtime.bench_text import typed
from realtime.failure import leaf

PATIENCE_S: Final = 180.0  # for one turn; a turn is some eight seconds of speech


def without_turn(error: DialectFailed) -> Refusal | Failure:
    """What came instead of a turn."""
    return Refusal(str(error), error.retry_after_s) if isinstance(error, Refused) else Failure(str(error))


class Foreigner:
    """A client and its listener, for one turn."""

    def __init__(
        self,
        speaker: Speaker,
        text_rate: float,
        latency: Latency,
        now: Callable[[], float],
        rate_hz: Callable[[], int] = lambda: RATE_HZ,
        whole_text: bool = False,
    ) -> None:
        """rate_hz: of the samples that are heard; constant within a turn. whole_text: see TurnRecord."""
        self._speaker = speaker
        self._rate_hz = rate_hz
        self._whole_text = whole_text
        self._text_rate = text_rate
        self._latency = latency
        self._now = now
        self._deltas: list[Delta] = []
        self._ended_at = 0.0
        self._packets: list[Packet] = []
        self._starts_at = -math.inf  # s, when a listener began who had waited before instead of in the middle
        self._audible_ms: float | None = None
        self._odd = b""  # half a sample
        self._samples = 0
        self._first = anyio.Event()  # sound came
        self._over = False
        self._cancelled_at: float | None = None
        self._let_go_at = 0.0

    async def turn(self, text: str, cancel_after_s: float | None) -> Outcome:
        """Speak `text`; None: to its end. Raises TimeoutError, OSError."""
        try:
            with anyio.fail_after(PATIENCE_S):
                async with anyio.create_task_group() as tasks:
                    if cancel_after_s is not None:
                        tasks.start_soon(self._interrupt, cancel_after_s)
                    await self._speaker.speak(self._typed(text), self._hear)
                    self._over = True
                    if self._cancelled_at is None:
                        tasks.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            if not isinstance(error := leaf(errors), DialectFailed):
                raise
            return without_turn(error)
        done_at = self._let_go_at if self._cancelled_at is not None else self._now()
        if self._audible_ms is None:
            return Failure("nothing audible came")
        if self._cancelled_at is None:
            await self._sleep_until(self._starts_at + self._samples / self._rate_hz())
        return self._record(text, done_at)

    async def _typed(self, text: str) -> AsyncIterator[str]:
        begun = self._now()
        for due_s, delta in typed(text, self._text_rate):
            await self._sleep_until(begun + due_s)
            self._deltas.append(Delta(self._now(), delta))
            yield delta
        self._ended_at = self._now()

    async def _sleep_until(self, at: float) -> None:
        await anyio.sleep(max(0.0, at - self._now()))

    def _hear(self, data: bytes) -> None:
        now = self._now()
        data = self._odd + data
        data, self._odd = data[: len(data) & ~1], data[len(data) & ~1 :]
        samples = np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
        rate_hz = self._rate_hz()
        start_ms = self._samples * 1000 / rate_hz
        if self._audible_ms is None and (index := first_audible(samples)) is not None:
            self._audible_ms = start_ms + index * 1000 / rate_hz
        self._samples += len(samples)
        self._packets.append(Packet(now, start_ms, self._samples * 1000 / rate_hz))
        self._starts_at = max(self._starts_at, now - start_ms / 1000)
        self._first.set()

    async def _interrupt(self, after_s: float) -> None:
        await self._first.wait()
        await anyio.sleep(after_s)
        if not self._over:
            self._cancelled_at = self._now()
            await self._speaker.interrupt()
            self._let_go_at = self._now()

    def _record(self, text: str, done_at: float) -> TurnRecord:
        audio_ms = round(self._samples * 1000 / self._rate_hz())
        cancelled = self._cancelled_at is not None
        done = TurnDone(
            turn="foreign",
            n=0,
            status=Status.CANCELLED if cancelled else Status.COMPLETED,
            audio_ms=audio_ms,
            sent_ms=audio_ms,
            heard=Heard(ms=audio_ms, text=text, remaining="", char_end=len(text), source=HeardSource.NONE),
            context=Kept(kept_ms=audio_ms, kept_chars=len(text)),
            metrics=TurnMetrics(text_chars=len(text)),
        )
        return TurnRecord(
            deltas=tuple(self._deltas),
            ended_at=self._ended_at or self._now(),
            packets=tuple(self._packets),
            audible_ms=self._audible_ms,
            words=(),
            latency=self._latency,
            done=done,
            cancelled_at=self._cancelled_at,
            done_at=done_at,
            whole_text=self._whole_text,
        )
