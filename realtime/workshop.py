"""Where work is done that would keep the event loop from being on time: resampling, stretching and encoding.

Knows how work gets to a thread and its result back, in order. Does not know what the work is. Threads pay because libopus and numpy's
products run without the interpreter's lock; plain Python would only wait for the same lock elsewhere. But each time such a piece of work is
over it waits for the lock, up to SWITCH_S: of a process that has many siblings, each with a few listeners, the loop itself does it, in
slices: with 31 listeners each in two processes on two EPYC cores, 48 to 86 % of turns were in time beside a thread, 87 to 100 % without.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

log = logging.getLogger("parley.workshop")

MAX_THREADS: Final = 4  # at 0.4 ms a frame one thread encodes for a hundred listeners
# For the loop: where threads take all, it waits for the interpreter's lock after every call into the kernel.
KEPT_PROCESSORS: Final = 1
# That wait: some 15 ms, of a lead of seconds; a batch of 64 streams' frames passes it for a moment only.
BUSY_JOBS: Final = 6
# Open benches, 86 % of a thread at 0.4 ms a frame and 21.5 frames a second. A backlog alone would show too late that a thread has its
# share: turns that begin together all find it empty.
FULL_BENCHES: Final = 100
URGENT_JOBS: Final = 8  # of a bench that is new: nobody who is about to begin to hear waits for those who have a lead
# Of results that came together, or of work; then the loop looks at its sockets before it goes on.
SLICE_S: Final = 0.001

ResultT = TypeVar("ResultT")


class Bench:
    """One owner's place in the workshop: what is handed in here is done one after the other."""

    def __init__(
        self, worker: _Worker | _OnLoop, failed: Callable[[Exception], None], now: Callable[[], float], patient: bool
    ) -> None:
        self.closed = False  # nobody wants the results any more
        self.patient = patient
        self.worker = worker
        self._failed = failed
        self._now = now
        self._urgent = 0 if patient else URGENT_JOBS  # jobs that still are
        worker.benches.add(self)

    def do(self, job: Callable[[], ResultT], done: Callable[[ResultT], None]) -> None:
        """Have `job` done in a thread, then `done` called with its result on the event loop; an exception goes to `failed`.

        The first few jobs pass those of benches that had theirs: never one of the same bench, all of whose earlier jobs passed as well.
        """
        handed = _Job(self, job, done, self._now())
        self.worker.put(handed, urgent=self._urgent > 0)
        self._urgent = max(0, self._urgent - 1)

    def give_up_place(self) -> None:
        """Little is still to come: others may have this one's share of the thread. Idempotent."""
        self.worker.benches.discard(self)

    def close(self) -> None:
        """Forget what was handed in: a job that was not begun never is, and no result comes. Idempotent."""
        self.closed = True
        self.give_up_place()

    def fail(self, error: Exception) -> None:
        """A job, or what was to be done with its result, broke."""
        self.close()
        self._failed(error)


@dataclass(frozen=True, slots=True)
class _Job:
    bench: Bench
    work: Callable[[], Any]
    done: Callable[[Any], None]
    at: float  # when it was handed in, s


class _Look:
    """In the queue: there is something urgent, or was."""


_LOOK: Final = _Look()


@dataclass(frozen=True, slots=True)
class _Result:
    job: _Job
    value: Any
    error: Exception | None


class Workshop:
    """The threads of one event loop. Close it at the end; benches may be used until then."""

    def __init__(self, now: Callable[[], float], threads: int | None = None) -> None:
        """Call it on the loop. `now`: seconds, monotonic.

        threads: 0: the loop does it; None: one for each processor but the loop's, at most MAX_THREADS.
        """
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._results: deque[_Result] = deque()
        self._called = False  # the loop is about to look at the results
        spare = max(1, len(os.sched_getaffinity(0)) - KEPT_PROCESSORS)
        number = min(MAX_THREADS, spare) if threads is None else threads
        self._workers: list[_Worker | _OnLoop]
        if number:
            started = [_Worker(self._finished, f"encoder-{index}") for index in range(number)]
            for worker in started:
                worker.start()
            self._workers = [*started]
        else:
            self._workers = [_OnLoop(self._finished_here, self._loop, now)]

    def bench(self, failed: Callable[[Exception], None], patient: bool = False) -> Bench:
        """A place for one turn's work. `failed` is called on the loop. patient: nobody listens, and it may be as late as it likes.

        In the first thread that keeps up and has room: each more that is awake costs the loop a wait for the interpreter's lock now and
        then. Where none does, in the one with the fewest.
        """
        keep_up = (w for w in self._workers if w.waiting < BUSY_JOBS and len(w.benches) < FULL_BENCHES)
        worker = next(keep_up, None) or min(self._workers, key=lambda w: (len(w.benches), w.waiting))
        return Bench(worker, failed, self._now, patient)

    def late_s(self) -> float:
        """How long somebody who listens has waited for a result that is still to come; those who are new and pass are not asked."""
        now = self._now()
        handed = [worker.at for worker in self._workers]  # once: the threads change them
        if self._results and not (first := self._results[0].job).bench.patient:
            handed.append(first.at)
        return now - min((at for at in handed if at is not None), default=now)

    def close(self) -> None:
        """End the threads. What they have not begun is left undone."""
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            worker.join()

    def _finished(self, result: _Result) -> None:
        """Called by the workers. Many results that come together wake the loop once."""
        self._results.append(result)
        if not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _finished_here(self, result: _Result) -> None:
        """The same, called on the loop."""
        self._results.append(result)
        if not self._called:
            self._called = True
            self._loop.call_soon(self._deliver)

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
        self.benches: weakref.WeakSet[Bench] = weakref.WeakSet()  # that are open
        self.at: float | None = None  # when the job in hand, or the last before it, was handed in; None: nobody waits
        self._jobs: queue.SimpleQueue[_Job | _Look | None] = queue.SimpleQueue()
        self._urgent: deque[_Job] = deque()  # done before the others
        self._ended = False
        self._finished = finished

    @property
    def waiting(self) -> int:
        """Jobs that have not been begun."""
        return self._jobs.qsize()

    def put(self, job: _Job, urgent: bool) -> None:
        """Have it done; an urgent one before those that are not."""
        if urgent:
            self._urgent.append(job)
            self._jobs.put(_LOOK)
        else:
            self._jobs.put(job)

    def end(self) -> None:
        """Begin no other job; then `join` returns soon."""
        self._ended = True
        self._jobs.put(None)

    def run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._ended:
            while self._urgent:
                _work(self._urgent.popleft(), self._finished)
            if isinstance(job, _Job):
                self.at = None if job.bench.patient else job.at
                _work(job, self._finished)
            if self._jobs.empty():
                self.at = None


class _OnLoop:
    """The same without a thread: the loop does a slice of it, and then whatever else there is."""

    def __init__(
        self, finished: Callable[[_Result], None], loop: asyncio.AbstractEventLoop, now: Callable[[], float]
    ) -> None:
        self.benches: weakref.WeakSet[Bench] = weakref.WeakSet()
        self._jobs: deque[_Job] = deque()
        self._urgent: deque[_Job] = deque()
        self._called = False  # the loop is about to go on
        self._ended = False
        self._finished = finished
        self._loop = loop
        self._now = now

    @property
    def waiting(self) -> int:
        """See `_Worker`."""
        return len(self._jobs) + len(self._urgent)

    @property
    def at(self) -> float | None:
        """See `_Worker`."""
        return next((job.at for job in self._jobs if not job.bench.patient), None)

    def put(self, job: _Job, urgent: bool) -> None:
        """See `_Worker`."""
        (self._urgent if urgent else self._jobs).append(job)
        self._call()

    def end(self) -> None:
        """See `_Worker`."""
        self._ended = True

    def join(self) -> None:
        """Nothing goes on elsewhere."""

    def _call(self) -> None:
        if not self._called:
            self._called = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._called = False
        until = self._now() + SLICE_S
        while (queue_ := self._urgent or self._jobs) and not self._ended:
            _work(queue_.popleft(), self._finished)
            if self._now() >= until:
                break
        if self.waiting and not self._ended:
            self._call()


def _work(job: _Job, finished: Callable[[_Result], None]) -> None:
    if job.bench.closed:
        return
    try:
        result = _Result(job, job.work(), None)
    except Exception as error:  # supervisor: told to the owner on the loop
        result = _Result(job, None, error)
    finished(result)
