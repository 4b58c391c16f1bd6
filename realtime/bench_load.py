"""The benchmark's load of conversations: N clients that speak one turn after the other.

Knows when whose turn is. Does not know how a turn is spoken (`bench_talkers`), or what the records mean (`bench_figures`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

import anyio

from protocol.client import ClientError
from realtime.bench_dialects import DialectFailed
from realtime.bench_endpoints import Pool, pool
from realtime.bench_figures import Failure, Outcome, Refusal
from realtime.bench_options import BenchOptions
from realtime.bench_talkers import outcome_of, talking
from realtime.bench_text import text_of

SPREAD_S: Final = 2.0  # conversations begin at random within; together they would all prefill in the same step, which no real load does
CANCEL_AFTER_S: Final = (0.3, 1.5)  # of speech: early enough to be in the middle of every turn
HEARTBEAT_S: Final = 0.05


@dataclass(slots=True)
class Measured:
    """What the clients wrote down."""

    outcomes: list[list[Outcome]]  # of each stream, of its measured turns, in order
    model: str = ""
    rate: int = 0  # Hz, of the audio as it was sent
    begun_at: float = 0.0  # s
    ended_at: float = 0.0  # s, the last measured turn was over
    late_s: list[float] = field(default_factory=list)  # how late this process noticed each heartbeat
    connecting_s: list[float] = field(default_factory=list)  # of arrivals: until the connection stood
    at_once: list[int] = field(default_factory=list)  # of arrivals: how many were there at each heartbeat


async def feel_pulse(measured: Measured, now: Callable[[], float]) -> None:
    """Note how late this process notices that some time has passed. Never returns."""
    while True:
        due = now() + HEARTBEAT_S
        await anyio.sleep(HEARTBEAT_S)
        measured.late_s.append(now() - due)


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
        async with pool() as http, anyio.create_task_group() as tasks:
            tasks.start_soon(feel_pulse, self._measured, self._now)
            for stream in range(self._options.streams):
                tasks.start_soon(self._stream, stream, http)
            await self._all_measured.wait()
            self._measured.ended_at = self._now()
            tasks.cancel_scope.cancel()
        return self._measured

    async def _stream(self, stream: int, http: Pool) -> None:
        """One conversation. When its connection fails, so do the turns that it has left."""
        outcomes = self._measured.outcomes[stream]
        try:
            await self._converse(stream, http, outcomes)
        except (ClientError, DialectFailed, OSError, BaseExceptionGroup) as error:
            failed = outcome_of(error)
            if failed is None:
                raise
            while len(outcomes) < self._options.turns:
                self._write_down(outcomes, failed)

    async def _converse(self, stream: int, http: Pool, outcomes: list[Outcome]) -> None:
        options = self._options
        rng = random.Random(f"{options.seed}/{stream}")
        await anyio.sleep(rng.uniform(0.0, SPREAD_S) if options.streams > 1 else 0.0)
        async with talking(options, stream, self._now, http, self._tell) as talk:
            for number in count():  # the first one warms up: it prefills the voice and fills caches
                measured = 1 <= number <= options.turns
                cancel = measured and options.cancel_every is not None and number % options.cancel_every == 0
                after_s = rng.uniform(*CANCEL_AFTER_S) if cancel else None
                outcome = await talk(text_of(options.seed, stream, number), after_s)
                if measured:
                    self._write_down(outcomes, outcome)
                await anyio.sleep(rng.uniform(0.5, 1.5) * options.pause_s)

    def _tell(self, model: str, rate: int) -> None:
        self._measured.model, self._measured.rate = model, rate

    def _write_down(self, outcomes: list[Outcome], outcome: Outcome) -> None:
        if isinstance(outcome, Refusal):
            outcome = Failure(outcome.reason)  # of a conversation that goes on, each turn is wanted
        outcomes.append(outcome)
        self._progress(sum(map(len, self._measured.outcomes)))
        if len(outcomes) == self._options.turns:
            self._busy -= 1
            if not self._busy:
                self._all_measured.set()
