"""One engine for the fronts of several processes: a hub has the engine's process, and a link to each process that has a front.

Knows which process a stream or a job belongs to (by its key), hands each its part of a report, and cleans up after one that is gone. Does
not know what the processes do, or who starts them. To unpack a report of 256 frames and to pack it again in eight parts takes 1.6 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Final

from engine import commands as c
from engine.api import EngineDied, ModelInfo
from engine.front import EngineFront, Seats
from engine.process import EngineWorker
from engine.wire import LoopPeer

LOAD_EVERY_S: Final = 0.5  # a front that has nothing to hear from a step learns so often what the engine can take on


class Fronts:
    """The hub's side: the links to `count` processes. Make it on the event loop that the worker belongs to."""

    def __init__(self, worker: EngineWorker, count: int, now: Callable[[], float]) -> None:
        """now: seconds, monotonic."""
        self._worker = worker
        self._links: list[_FrontLink | None] = [None] * count
        self._now = now
        self._held: asyncio.Task[None] | None = None  # until the worker reads again
        worker.serve(self._deliver, self._fail)

    def link(self, index: int, spare: Callable[[object], None], lost: Callable[[], None]) -> asyncio.Protocol:
        """For the connection to process `index`, from 0. spare: gets its messages that are no commands. lost: it is gone; what it had open
        is cancelled by then.
        """
        assert self._links[index] is None, "a process has one link"
        link = self._links[index] = _FrontLink(self, index, spare, lost)
        return link

    def send(self, index: int, message: object) -> None:
        """Something that is no report. Does nothing for a process that is gone."""
        link = self._links[index]
        if link is not None:
            link.send(message)

    def close(self) -> None:
        """Drop all links."""
        for link in self._links:
            if link is not None:
                link.drop()

    def command(self, link: _FrontLink, command: c.Command) -> None:
        """From a process."""
        if link.mourning:
            return  # its front has ended it already
        if link.held or (isinstance(command, c.Open) and not self._has_row()):
            link.held.append(command)
            return
        match command:
            case c.Open():
                link.streams.add(command.stream)
            case c.Cancel():
                link.streams.discard(command.stream)
            case c.Encode() | c.Decode():
                link.jobs.add(command.job)
            case c.Abandon():
                link.jobs.discard(command.job)
            case _:
                pass
        self._worker.send(command)
        if isinstance(command, c.Recording) and self._held is None:
            self._held = asyncio.get_running_loop().create_task(self._hold())
        elif isinstance(command, c.Cancel):
            self._let_in()

    def _has_row(self) -> bool:
        """Whether the engine could take one more stream. Where it cannot, somebody gave his seat back, and his Cancel, which was sent
        before, comes by another link.
        """
        return sum(len(link.streams) for link in self._links if link is not None) < self._worker.limits.max_streams

    def _let_in(self) -> None:
        """A row may have become free: carry out what was held, each link's commands in their order."""
        for link in self._links:
            if link is not None and link.held and self._has_row():
                held, link.held = link.held, []
                for command in held:
                    self.command(link, command)

    def forget(self, link: _FrontLink) -> None:
        """A process is gone: nobody waits for what it had asked for."""
        self._links[link.index] = None
        for stream in link.streams:
            self._worker.send(c.Cancel(stream))
        for job in link.jobs:
            self._worker.send(c.Abandon(job))
        self._let_in()

    async def _hold(self) -> None:
        """Recordings are large: read no more of them than the worker does."""
        links = [link for link in self._links if link is not None]
        for link in links:
            link.pause()
        try:
            await self._worker.until_writable()
        finally:
            self._held = None
            for link in links:
                link.resume()

    def _deliver(self, report: c.Report) -> None:
        parts = [c.Report(load=report.load) for _ in self._links]
        of = len(parts)
        for stream, event in report.events:
            parts[stream % of].events.append((stream, event))
            if isinstance(event, c.Ended) and (link := self._links[stream % of]) is not None:
                link.streams.discard(stream)
        for job, piece in report.pieces:
            parts[job % of].pieces.append((job, piece))
        for job, error in report.done.items():
            parts[job % of].done[job] = error
            if (link := self._links[job % of]) is not None:
                link.jobs.discard(job)
        now = self._now()
        for link, part in zip(self._links, parts, strict=True):
            if link is not None and (part or link.wants_load(part.load, now)):
                link.load, link.load_at = part.load, now
                link.send(part)
        if report.events:
            self._let_in()

    def _fail(self, error: EngineDied) -> None:
        for link in self._links:
            if link is not None and link.transport is not None:  # else nobody is there to be told, or to answer
                link.streams.clear()
                link.jobs.clear()
                link.held.clear()
                link.load = None
                link.mourning += 1
                link.send(c.Died(error))


class _FrontLink(LoopPeer):
    """The hub's end of the connection to one process."""

    def __init__(self, fronts: Fronts, index: int, spare: Callable[[object], None], lost: Callable[[], None]) -> None:
        super().__init__(self._receive)
        self.index = index
        self.streams: set[int] = set()  # open ones
        self.jobs: set[int] = set()
        self.held: list[c.Command] = []  # the first opens a stream for which the engine has no row yet
        self.load: c.Load | None = None  # that it was told last
        self.load_at = 0.0  # on the clock of Fronts
        self.mourning = 0  # deaths of the engine that it has not answered to
        self._fronts = fronts
        self._spare = spare
        self._lost = lost

    def _receive(self, message: object) -> None:
        if isinstance(message, c.Command):
            self._fronts.command(self, message)
        elif isinstance(message, c.Mourned):
            self.mourning -= 1
        else:
            self._spare(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._fronts.forget(self)
        self._lost()

    def wants_load(self, load: c.Load | None, now: float) -> bool:
        """Whether it must be told although it has nothing else to hear."""
        if load is None or load == self.load:
            return False
        return self.load is None or load.carries != self.load.carries or now >= self.load_at + LOAD_EVERY_S

    def pause(self) -> None:
        if self.transport is not None:
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()

    def drop(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class DistantEngine(EngineFront):
    """See `engine.api.Engine`: the front of one process, whose engine a hub has. The hub gives it `max_streams` and the seats."""

    def __init__(
        self, info: ModelInfo, max_streams: int, index: int, processes: int, seats: Seats, link: HubLink
    ) -> None:
        """index: of this process, from 0."""
        super().__init__(
            info, max_streams, link.send, link.until_writable, seats, keys=count(index + processes, processes)
        )
        link.serve(self.deliver, self.fail)


class HubLink(LoopPeer):
    """The process's end of the connection to the hub."""

    def __init__(self, first: Callable[[object], None], lost: Callable[[], None]) -> None:
        """first: gets what comes before anybody serves. lost: the hub is gone."""
        super().__init__(self._receive)
        self._first = first
        self._lost = lost
        self._deliver: Callable[[c.Report], None] | None = None
        self._fail: Callable[[EngineDied], None] | None = None

    def serve(self, deliver: Callable[[c.Report], None], fail: Callable[[EngineDied], None]) -> None:
        """From now on reports go there."""
        self._deliver, self._fail = deliver, fail

    def _receive(self, message: object) -> None:
        if isinstance(message, c.Report):
            if self._deliver is not None:  # else nothing can be open yet
                self._deliver(message)
        elif isinstance(message, c.Died):
            if self._fail is not None:
                self._fail(message.error)
            self.send(c.Mourned())
        else:
            self._first(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._lost()

    async def until_writable(self) -> None:
        """Wait while what was sent piles up."""
        await self.writable.wait()

    async def flushed(self) -> None:
        """Wait until the system has all of it: before this process ends."""
        while self.transport is not None and self.transport.get_write_buffer_size():
            await asyncio.sleep(0.001)
