"""The benchmark's load: N clients that hold conversations, type at a steady rate, play what they hear, and write down when what came.

Knows how a client behaves. Does not know what the records mean (`bench_figures`), and does no work while it measures that could wait.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

import anyio

from protocol.audio_frame import Flag
from protocol.client import AudioChunk, Client, ClientError, ServerError, Turn, connect
from protocol.config import (
    AlignmentMode,
    AudioConfig,
    Clock,
    Format,
    Latency,
    OutputConfig,
    PacingConfig,
    SamplingConfig,
)
from protocol.messages import Alignment, SessionUpdate, Status, TurnDone
from realtime.audio import PCM_RATES_HZ
from realtime.bench_dialects import RATE_HZ, DialectFailed
from realtime.bench_figures import Delta, Failure, Outcome, Packet, TurnRecord, first_audible
from realtime.bench_foreigner import Foreigner
from realtime.bench_speakers import SPEAKERS, MakeSpeaker
from realtime.bench_text import text_of, typed
from realtime.decoding import TurnDecoder
from realtime.failure import leaf
from realtime.opus import OPUS_RATE_HZ

SPREAD_S: Final = 2.0  # conversations begin at random within; together they would all prefill in the same step, which no real load does
CANCEL_AFTER_S: Final = (0.3, 1.5)  # of speech: early enough to be in the middle of every turn
MAX_PACKET_MS: Final = 100.0  # protocol section 2
PATIENCE_S: Final = 180.0  # for one turn; a turn is some eight seconds of speech
HEARTBEAT_S: Final = 0.05
CLOSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is asked of the server."""

    url: str
    key: str | None
    streams: int
    turns: int  # measured, of each stream
    text_rate: float  # characters a second; 0: all at once
    cancel_every: int | None  # every so many measured turns of a stream one is interrupted
    pause_s: float  # mean
    latency: Latency
    fmt: Format
    clock: Clock  # realtime: clients that listen; none: clients that store what comes as fast as it comes
    seed: int
    dialect: str | None = None  # of another vendor, see `bench_speakers.SPEAKERS`; None: our own protocol


@dataclass(slots=True)
class Measured:
    """What the clients wrote down."""

    outcomes: list[list[Outcome]]  # of each stream, of its measured turns, in order
    model: str = ""
    rate: int = 0  # Hz, of the audio as it was sent
    begun_at: float = 0.0  # s
    ended_at: float = 0.0  # s, the last measured turn was over
    late_s: list[float] = field(default_factory=list)  # how late this process noticed each heartbeat


class Load:
    """One run. `now`: seconds, monotonic. `progress` is called with the number of measured turns that are over."""

    def __init__(self, options: BenchOptions, now: Callable[[], float], progress: Callable[[int], None]) -> None:
        self._options = options
        self._now = now
        self._progress = progress
        self._measured = Measured([[] for _ in range(options.streams)])
        self._busy = options.streams  # streams that have measured turns left
        self._all_measured = anyio.Event()

    async def run(self) -> Measured:
        """Until every stream has had its measured turns; those that have had them go on so that the load stays."""
        self._measured.begun_at = self._now()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._feel_pulse)
            for stream in range(self._options.streams):
                tasks.start_soon(self._stream, stream)
            await self._all_measured.wait()
            self._measured.ended_at = self._now()
            tasks.cancel_scope.cancel()
        return self._measured

    async def _feel_pulse(self) -> None:
        while True:
            due = self._now() + HEARTBEAT_S
            await anyio.sleep(HEARTBEAT_S)
            self._measured.late_s.append(self._now() - due)

    async def _stream(self, stream: int) -> None:
        """One conversation. When its connection fails, so do the turns that it has left."""
        outcomes = self._measured.outcomes[stream]
        try:
            if self._options.dialect is None:
                await self._converse(stream, outcomes)
            else:
                await self._converse_in(SPEAKERS[self._options.dialect], stream, outcomes)
        except (ClientError, DialectFailed, OSError, BaseExceptionGroup) as error:
            reason = leaf(error)
            if not isinstance(reason, ClientError | DialectFailed | OSError):
                raise
            while len(outcomes) < self._options.turns:
                self._write_down(outcomes, Failure(str(reason) or type(reason).__name__))

    async def _converse(self, stream: int, outcomes: list[Outcome]) -> None:
        options = self._options
        rng = random.Random(f"{options.seed}/{stream}")
        await anyio.sleep(rng.uniform(0.0, SPREAD_S) if options.streams > 1 else 0.0)
        async with connect(options.url, token=options.key, renew_s=0) as client:
            rate, pre_skip = await self._configure(client, stream)
            self._measured.model, self._measured.rate = client.session.model, rate
            for number in count():  # the first one warms up: it prefills the voice and fills caches
                measured = 1 <= number <= options.turns
                cancel = measured and options.cancel_every is not None and number % options.cancel_every == 0
                after_s = rng.uniform(*CANCEL_AFTER_S) if cancel else None
                text = text_of(options.seed, stream, number)
                outcome = await _Client(options, client, rate, pre_skip, self._now).turn(text, after_s)
                if measured:
                    self._write_down(outcomes, outcome)
                await anyio.sleep(rng.uniform(0.5, 1.5) * options.pause_s)

    async def _converse_in(self, dialect: MakeSpeaker, stream: int, outcomes: list[Outcome]) -> None:
        """The same, in another vendor's protocol. A session of its own: others may have measured this server before."""
        options = self._options
        rng = random.Random(f"{options.seed}/{stream}")
        await anyio.sleep(rng.uniform(0.0, SPREAD_S) if options.streams > 1 else 0.0)
        self._measured.rate = RATE_HZ
        speaker = dialect(options.url, f"bench-{secrets.token_hex(8)}", options.key)
        try:
            for number in count():
                measured = 1 <= number <= options.turns
                cancel = measured and options.cancel_every is not None and number % options.cancel_every == 0
                after_s = rng.uniform(*CANCEL_AFTER_S) if cancel else None
                text = text_of(options.seed, stream, number)
                outcome = await Foreigner(speaker, options.text_rate, options.latency, self._now).turn(text, after_s)
                if measured:
                    self._write_down(outcomes, outcome)
                await anyio.sleep(rng.uniform(0.5, 1.5) * options.pause_s)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_S):
                await speaker.close()

    async def _configure(self, client: Client, stream: int) -> tuple[int, int]:
        """The rate and the pre-skip of what will come. A lead is the protocol's default, that of a client who listens."""
        rate = client.session.sample_rate if client.session.sample_rate in PCM_RATES_HZ else PCM_RATES_HZ[-1]
        rate = OPUS_RATE_HZ if self._options.fmt is Format.OPUS else rate
        update = SessionUpdate(
            audio=AudioConfig(output=OutputConfig(format=self._options.fmt, rate=rate)),
            pacing=PacingConfig(clock=self._options.clock),
            latency=self._options.latency,
            alignment=AlignmentMode.WORD,
            sampling=SamplingConfig(seed=self._options.seed * 10_000 + stream),
        )
        return rate, (await client.update(update)).pre_skip

    def _write_down(self, outcomes: list[Outcome], outcome: Outcome) -> None:
        outcomes.append(outcome)
        self._progress(sum(map(len, self._measured.outcomes)))
        if len(outcomes) == self._options.turns:
            self._busy -= 1
            if not self._busy:
                self._all_measured.set()


class _Client:
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
            return Failure(str(error))
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
