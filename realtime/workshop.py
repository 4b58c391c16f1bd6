"""Threads for work that would keep the event loop from being on time: resampling, stretching and encoding.

Knows how work gets to a thread and its result back, in order. Does not know what the work is. It pays because libopus and numpy's products
run without the interpreter's lock; plain Python would only wait for the same lock elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

log = logging.getLogger("parley.workshop")

MAX_THREADS: Final = 4  # at 0.4 ms a frame one thread encodes for a hundred listeners
KEPT_PROCESSORS: Final = (
    1  # for the loop: where threads take all, it waits for the interpreter's lock after every call into the kernel
)
BUSY_JOBS: Final = (
    6  # that wait: some 15 ms, of a lead of seconds; a batch of 64 streams' frames passes it for a moment only
)
SLICE_S: Final = 0.001  # of results that came together; then the loop looks at its sockets before it goes on

ResultT = TypeVar("ResultT")


class Bench:
    """One owner's place in the workshop: what is handed in here is done one after the other."""

    def __init__(self, worker: _Worker, failed: Callable[[Exception], None]) -> None:
        self.closed = False  # nobody wants the results any more
        self._worker = worker
        self._failed = failed

    def do(self, job: Callable[[], ResultT], done: Callable[[ResultT], None]) -> None:
        """Have `job` done in a thread, then `done` called with its result on the event loop; an exception goes to `failed`."""
        self._worker.jobs.put(_Job(self, job, done))

    def close(self) -> None:
        """Forget what was handed in: a job that was not begun never is, and no result comes. Idempotent."""
        self.closed = True

    def fail(self, error: Exception) -> None:
        """A job, or what was to be done with its result, broke."""
        self.closed = True
        self._failed(error)


@dataclass(frozen=True, slots=True)
class _Job:
    bench: Bench
    work: Callable[[], Any]
    done: Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class _Result:
    job: _Job
    value: Any
    error: Exception | None


class Workshop:
    """The threads of one event loop. Close it at the end; benches may be used until then."""

    def __init__(self, now: Callable[[], float], threads: int | None = None) -> None:
        """Call it on the loop. `now`: seconds, monotonic. `threads` None: one for each processor but the loop's, at most MAX_THREADS."""
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._results: deque[_Result] = deque()
        self._called = False  # the loop is about to look at the results
        spare = max(1, len(os.sched_getaffinity(0)) - KEPT_PROCESSORS)
        number = min(MAX_THREADS, spare) if threads is None else threads
        self._workers = [_Worker(self._finished, f"encoder-{index}") for index in range(number)]
        for worker in self._workers:
            worker.start()

    def bench(self, failed: Callable[[Exception], None]) -> Bench:
        """A place for one turn's work. `failed` is called on the loop.

        In the first thread that keeps up: each more that is awake costs the loop a wait for the interpreter's lock now and then.
        """
        backlogs = [worker.jobs.qsize() for worker in self._workers]
        index = next((index for index, backlog in enumerate(backlogs) if backlog < BUSY_JOBS), None)
        return Bench(self._workers[backlogs.index(min(backlogs)) if index is None else index], failed)

    def close(self) -> None:
        """End the threads. What they have not begun is left undone."""
        for worker in self._workers:
            worker.ended = True
            worker.jobs.put(None)
        for worker in self._workers:
            worker.join()

    def _finished(self, result: _Result) -> None:
        """Called by the workers. Many results that come together wake the loop once."""
        self._results.append(result)
        if not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._called = False  # before the first look: a result that comes from now on calls again
        until = self._now() + SLICE_S
        while self._results:
            result = self._results.popleft()
            bench = result.job.bench
            if not bench.closed:
                try:
                    if result.error is not None:
                        raise result.error
                    result.job.done(result.value)
                except Exception as error:  # supervisor: a bug ends the session that it is in, and no other
                    bench.fail(error)
            if self._results and self._now() >= until:
                if not self._called:
                    self._called = True
                    self._loop.call_soon(self._deliver)
                return


class _Worker(threading.Thread):
    def __init__(self, finished: Callable[[_Result], None], name: str) -> None:
        super().__init__(name=name, daemon=True)  # a process that is made to end at once does not wait for it
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.ended = False
        self._finished = finished

    def run(self) -> None:
        while (job := self.jobs.get()) is not None and not self.ended:
            if job.bench.closed:
                continue
            try:
                result = _Result(job, job.work(), None)
            except Exception as error:  # supervisor: told to the owner on the loop
                result = _Result(job, None, error)
            self._finished(result)
