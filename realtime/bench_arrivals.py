"""The benchmark's load of strangers: turns that come at random, each with a connection of its own, however many are there by then.

So the load does not wait for a server that is slow, as conversations would. Knows when who comes. Does not know how a turn is spoken
(`bench_talkers`), or what the records mean (`bench_figures`).
"""

from __future__ import annotations

import random
from collections.abc import Callable

import anyio

from protocol.client import ClientError
from realtime.bench_dialects import DialectFailed
from realtime.bench_endpoints import Pool, pool
from realtime.bench_figures import Outcome
from realtime.bench_load import CANCEL_AFTER_S, HEARTBEAT_S, Measured, feel_pulse
from realtime.bench_options import Arrivals, BenchOptions
from realtime.bench_talkers import outcome_of, talking
from realtime.bench_text import text_of_length


class Strangers:
    """One run. `now`: seconds, monotonic. `progress` is called with the number of measured turns that are over."""

    def __init__(self, options: BenchOptions, now: Callable[[], float], progress: Callable[[int], None]) -> None:
        assert options.arrivals is not None, "the options are those of arrivals"
        self._arrivals: Arrivals = options.arrivals
        self._options = options
        self._now = now
        self._progress = progress
        self._measured = Measured([])
        self._there = 0  # that came and have not left

    async def run(self) -> Measured:
        """Until everybody has left who came within the time that is measured."""
        rng = random.Random(f"{self._options.seed}/arrivals")
        begins, over = self._now(), anyio.Event()
        async with pool() as http, anyio.create_task_group() as tasks:
            tasks.start_soon(feel_pulse, self._measured, self._now)
            tasks.start_soon(self._count)
            tasks.start_soon(self._come, rng, begins, http, over)
            await over.wait()
            self._measured.ended_at = self._now()
            tasks.cancel_scope.cancel()
        return self._measured

    async def _come(self, rng: random.Random, begins: float, http: Pool, over: anyio.Event) -> None:
        """Drawn before anything is known of the server, so that every server gets the same."""
        arrivals, number, at = self._arrivals, 0, 0.0
        self._measured.begun_at = begins + arrivals.warm_up_s
        async with anyio.create_task_group() as there:
            while (at := at + rng.expovariate(arrivals.per_s)) < arrivals.warm_up_s + arrivals.duration_s:
                await anyio.sleep(max(0.0, begins + at - self._now()))
                outcomes: list[Outcome] | None = [] if at >= arrivals.warm_up_s else None
                if outcomes is not None:
                    self._measured.outcomes.append(outcomes)
                there.start_soon(self._stranger, number, outcomes, http)
                number += 1
        over.set()

    async def _stranger(self, number: int, outcomes: list[Outcome] | None, http: Pool) -> None:
        """Connect, speak one turn, leave. outcomes: where it is written down; None: it warms up."""
        options = self._options
        rng = random.Random(f"{options.seed}/{number}")
        cancel = options.cancel_every is not None and number % options.cancel_every == 0
        after_s, came_at = rng.uniform(*CANCEL_AFTER_S) if cancel else None, self._now()
        self._there += 1
        outcome: Outcome | None = None
        try:
            async with talking(options, number, self._now, http, self._tell) as talk:
                if outcomes is not None:
                    self._measured.connecting_s.append(self._now() - came_at)
                outcome = await talk(text_of_length(options.seed, number), after_s)
        except (ClientError, DialectFailed, OSError, BaseExceptionGroup) as error:
            outcome = outcome or outcome_of(error)
            if outcome is None:
                raise
        finally:
            self._there -= 1
        assert outcome is not None, "a turn ends with one, or raises"
        if outcomes is not None:
            outcomes.append(outcome)
            self._progress(sum(map(len, self._measured.outcomes)))

    async def _count(self) -> None:
        """How many are there, while arrivals are measured. Never returns."""
        await anyio.sleep(self._arrivals.warm_up_s)
        with anyio.move_on_after(self._arrivals.duration_s):
            while True:
                self._measured.at_once.append(self._there)
                await anyio.sleep(HEARTBEAT_S)

    def _tell(self, model: str, rate: int) -> None:
        self._measured.model, self._measured.rate = model or self._measured.model, rate
