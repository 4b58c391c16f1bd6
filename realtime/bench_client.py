"""One turn of a benchmark's client in our own protocol: it types at a steady rate, plays what it hears, and writes down when what came.

Knows how such a client behaves. Does not know load, or what the record means (`bench_figures`), and does no work while it measures that
could wait.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from typing import Final

import anyio

from protocol.audio_frame import Flag
from protocol.client import AudioChunk, Client, ServerError, Turn
from protocol.config import (
    AlignmentMode,
    AudioConfig,
    Clock,
    Format,
    OutputConfig,
    PacingConfig,
    SamplingConfig,
)
from protocol.errors import ErrorCode
from protocol.messages import Alignment, SessionUpdate, Status, TurnDone
from realtime.audio import PCM_RATES_HZ
from realtime.bench_figures import Delta, Failure, Outcome, Packet, Refusal, TurnRecord, first_audible
from realtime.bench_options import BenchOptions
from realtime.bench_text import typed
from realtime.decoding import TurnDecoder
from realtime.failure import leaf
from realtime.opus import OPUS_RATE_HZ

MAX_PACKET_MS: Final = 100.0  # protocol section 2
REFUSING: Final = (ErrorCode.NO_CAPACITY, ErrorCode.TOO_MANY_SESSIONS)
PATIENCE_S: Final = 180.0  # for one turn; a turn is some eight seconds of speech


def without_turn(error: ServerError) -> Refusal | Failure:
    """What came instead of a turn."""
    if error.code not in REFUSING:
        return Failure(str(error))
    told_ms = error.event.retry_after_ms
    return Refusal(str(error), None if told_ms is None else told_ms / 1000)


async def configure(client: Client, options: BenchOptions, stream: int) -> tuple[int, int]:
    """The rate and the pre-skip of what will come. A lead is the protocol's default, that of a client who listens."""
    rate = client.session.sample_rate if client.session.sample_rate in PCM_RATES_HZ else PCM_RATES_HZ[-1]
    rate = OPUS_RATE_HZ if options.fmt is Format.OPUS else rate
    update = SessionUpdate(
        audio=AudioConfig(output=OutputConfig(format=options.fmt, rate=rate)),
        pacing=PacingConfig(clock=options.clock),
        latency=options.latency,
        alignment=AlignmentMode.WORD,
        sampling=SamplingConfig(seed=options.seed * 10_000 + stream),
    )
    if options.voice is not None:
        update = update.model_copy(update={"voice": options.voice})
    return rate, (await client.update(update)).pre_skip


class Native:
    """One turn, from the first delta until its listener has heard the last sample, or, where nobody listens, until it has come."""

    def __init__(
        self, options: BenchOptions, client: Client, rate: int, pre_skip: int, now: Callable[[], float]
    ) -> None:
        self._options = options
        self._client = client
        self._rate = rate
        self._now = now
        self._decoder = TurnDecoder(options.fmt, pre_skip)
        self._deltas: list[Delta] = []
        self._ended_at = 0.0
        self._arrivals: list[float] = []  # s, of each packet
        self._starts_ms: list[float] = []  # within the turn's audio
        self._starts_at = -math.inf  # s, when a listener began who had waited before instead of in the middle
        self._audible_ms: float | None = None
        self._words: dict[int, float] = {}  # char_start -> end_ms
        self._cancelled_at: float | None = None

    async def turn(self, text: str, cancel_after_s: float | None) -> Outcome:
        """Speak `text`. Raises ClientError where the conversation cannot go on, TimeoutError after PATIENCE_S."""
        turn = self._client.speak(self._typed(text))
        try:
            with anyio.fail_after(PATIENCE_S):
                async with anyio.create_task_group() as tasks:
                    first_packet = anyio.Event()
                    if cancel_after_s is not None:
                        tasks.start_soon(self._interrupt, turn, first_packet, cancel_after_s)
                    await self._listen(turn, first_packet)
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            if not isinstance(error := leaf(errors), ServerError):
                raise
            return without_turn(error)
        done_at = self._now()
        assert turn.done is not None, "an iteration that ends without raising ends with turn.done"
        listens = self._options.clock is not Clock.NONE
        if listens and turn.done.status is not Status.CANCELLED and self._arrivals:
            await self._sleep_until(self._starts_at + turn.done.audio_ms / 1000)
        return self._outcome(text, turn.done, done_at)

    async def _typed(self, text: str) -> AsyncIterator[str]:
        begun = self._now()
        for due_s, delta in typed(text, self._options.text_rate):
            await self._sleep_until(begun + due_s)
            self._deltas.append(Delta(self._now(), delta))
            yield delta
        self._ended_at = self._now()

    async def _sleep_until(self, at: float) -> None:
        await anyio.sleep(max(0.0, at - self._now()))

    async def _listen(self, turn: Turn, first_packet: anyio.Event) -> None:
        async for item in turn:
            match item:
                case AudioChunk():
                    self._hear(item, self._now())
                    first_packet.set()
                case Alignment():
                    self._words.update((word.char_start, float(word.end_ms)) for word in item.items)

    def _hear(self, chunk: AudioChunk, now: float) -> None:
        start_ms = chunk.position * 1000 / self._rate
        self._arrivals.append(now)
        self._starts_ms.append(start_ms)
        self._starts_at = max(self._starts_at, now - start_ms / 1000)
        if self._audible_ms is None:
            samples = self._decoder.decode(chunk.payload, Flag.LAST in chunk.flags)
            if (index := first_audible(samples)) is not None:
                self._audible_ms = start_ms + index * 1000 / self._rate

    async def _interrupt(self, turn: Turn, first_packet: anyio.Event, after_s: float) -> None:
        await first_packet.wait()
        await anyio.sleep(after_s)
        if turn.done is None:
            self._cancelled_at = self._now()
            played_ms = round(1000 * (self._cancelled_at - self._starts_at))
            await turn.cancel(played_ms=max(0, played_ms), reason="barge_in")

    def _outcome(self, text: str, done: TurnDone, done_at: float) -> Outcome:
        told = done.heard.text + done.heard.remaining
        if told != text and not (
            self._cancelled_at is not None and text.startswith(told)
        ):  # interrupted while it was typed
            return Failure("heard and remaining text together are not the text")
        if done.status is Status.COMPLETED and done.heard.remaining.strip():
            return Failure("completed, but not all of the text was spoken")
        if self._audible_ms is None:
            return Failure("nothing audible came")
        starts = self._starts_ms
        ends = [*starts[1:], min(float(done.sent_ms), starts[-1] + MAX_PACKET_MS)]
        return TurnRecord(
            deltas=tuple(self._deltas),
            ended_at=self._ended_at,
            packets=tuple(map(Packet, self._arrivals, starts, ends)),
            audible_ms=self._audible_ms,
            words=tuple(sorted((end_ms, char) for char, end_ms in self._words.items())),
            latency=self._options.latency,
            done=done,
            cancelled_at=self._cancelled_at if done.status is Status.CANCELLED else None,
            done_at=done_at,
        )
