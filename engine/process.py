"""An engine in a process of its own, started, watched and restarted from the server's event loop.

Knows how to bring the worker up, carry messages, and what to tell open streams when it dies. Does not know what happens in a step.
A CUDA fault is sticky and kills its process; so does the kernel when memory runs out. Then every open stream gets EngineDied, the
worker is started again, and since a Conversation carries its whole history, the next turn goes on as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import Callable

from engine import commands as c
from engine.api import EngineDied, EngineError, ModelInfo
from engine.commands import WorkerSpec
from engine.front import EngineFront
from engine.wire import LoopPeer

log = logging.getLogger("parley.engine")

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 10.0  # between two starts, for as long as it takes: whatever hinders the engine may pass
MAX_FAILURES = 5  # in a row; then streams fail at once instead of waiting for an engine that will not speak
HEALTHY_S = 30.0  # who lived longer and then died did not die of being started
CLOSE_GRACE_S = 5.0
_POLL_S = 0.02

# The worker imports what we import. `-m engine.worker` would look for it in the folder that the server was started in, whatever that
# holds, and `-P` keeps that folder out even of the bootstrap's own imports.
_BOOTSTRAP = "import sys; sys.path[:] = sys.argv[2:]; from engine.worker import main; main(int(sys.argv[1]))"


class EngineUnavailable(EngineError):
    """The engine process could not be started; the text says why."""


class _Link(LoopPeer):
    """One life of the worker: its process, its socket, its messages."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(self._receive)
        self.process = process
        self.ready: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        self.lost = False
        self.why = ""  # it ended, as far as it could still say
        self.on_report: Callable[[c.Report], None] | None = None  # set by the engine that takes the link over
        self.on_lost: Callable[[_Link], None] | None = None

    def _receive(self, message: object) -> None:
        if isinstance(message, c.Report) and self.on_report is not None:
            self.on_report(message)
        elif isinstance(message, c.Ready) and not self.ready.done():
            self.ready.set_result(message.info)
        elif isinstance(message, c.Failed):
            self.why = message.detail

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self.lost = True
        if not self.ready.done():
            self.ready.set_exception(EngineUnavailable(self.why or "the engine process ended while it was loading"))
        if self.on_lost is not None:
            self.on_lost(self)

    async def end(self, grace_s: float) -> None:
        """Close the socket, which ends the worker; kill it if it does not go. Safe to call for a dead one.

        No process is left behind, even if this is cancelled.
        """
        self.on_lost = None
        if self.transport is not None:
            self.transport.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        try:
            while self.process.poll() is None:
                if loop.time() >= deadline:
                    self.process.kill()
                await asyncio.sleep(_POLL_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it now. Blocks until it has."""
        self.ready.cancel()
        self.on_lost = None
        if self.transport is not None:
            self.transport.abort()
        self.process.kill()
        self.process.wait()


def _spawn(spec: WorkerSpec) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A worker that waits for its first message, and our end of its socket. Raises OSError."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOTSTRAP, str(theirs.fileno()), *sys.path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the server
            )
    except OSError:
        ours.close()
        raise
    ours.setblocking(False)
    return process, ours


async def _start(spec: WorkerSpec) -> tuple[_Link, ModelInfo]:
    """A worker that has loaded its model. Raises EngineUnavailable; leaves no process behind then, or when cancelled."""
    try:
        process, ours = _spawn(spec)
    except OSError as error:
        raise EngineUnavailable(f"no process could be started: {error}") from error
    link = _Link(process)
    info: ModelInfo | None = None
    try:
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
        link.send(spec)
        info = await link.ready
    except EngineUnavailable:
        await link.end(grace_s=0)
        raise
    finally:
        if info is None:
            link.kill()
    return link, info


class _Backlog:
    """Commands given while no worker is up, without what was taken back meanwhile: no more than is open."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, object], list[c.Command]] = {}  # by the stream, conversation or job they are about

    def add(self, command: c.Command) -> None:
        """Keep it, or drop what it takes back."""
        match command:
            case c.Cancel(stream):
                self._kept.pop(("stream", stream), None)
            case c.Abandon(job):
                self._kept.pop(("job", job), None)
            case c.Forget(conversation):
                self._kept.pop(("prefetch", conversation), None)
            case c.Prefetch(conversation, _):
                self._kept[("prefetch", conversation.id)] = [command]
            case c.Encode(job=job) | c.Recording(job=job) | c.Decode(job=job):
                self._kept.setdefault(("job", job), []).append(command)
            case c.Open() | c.Push() | c.Finish() | c.Allow():
                self._kept.setdefault(("stream", command.stream), []).append(command)

    def take(self) -> list[c.Command]:
        """All of it, in an order in which it can be carried out."""
        kept, self._kept = self._kept, {}
        return [command for commands in kept.values() for command in commands]


class EngineWorker:
    """The engine's process, kept up: commands go in, reports come out, whoever makes the ones and wants the others.

    Make it with `await EngineWorker.start(spec)`, give it somebody to talk to with `serve`, end it with `await close()`.
    """

    def __init__(self, spec: WorkerSpec, link: _Link, info: ModelInfo) -> None:
        self.info = info
        self.limits = spec.limits
        self._spec = spec
        self._deliver: Callable[[c.Report], None] = _unheard
        self._fail: Callable[[EngineDied], None] = _unheard
        self._link: _Link | None = None  # to the worker that is up
        self._dead: _Link | None = None  # to the one before, which may have to be buried
        self._up_since = 0.0  # loop time
        self._settled = asyncio.Event()  # a worker is up, or nobody waits for one
        self._backlog = _Backlog()
        self._failures = 0  # starts that failed or were soon undone, in a row
        self._closing = False
        self._restarting: asyncio.Task[None] | None = None
        self._take_over(link)

    @classmethod
    async def start(cls, spec: WorkerSpec) -> EngineWorker:
        """Start the process and wait until the model is loaded. Raises EngineUnavailable."""
        link, info = await _start(spec)
        return cls(spec, link, info)

    def serve(self, deliver: Callable[[c.Report], None], fail: Callable[[EngineDied], None]) -> None:
        """From now on `deliver` gets every report. `fail`: whatever is open has ended with this error; what comes next may work again."""
        self._deliver, self._fail = deliver, fail

    @property
    def ready(self) -> bool:
        """A process is up and loaded."""
        return self._link is not None

    @property
    def pid(self) -> int | None:
        """The id of the process, or None while there is none."""
        return None if self._link is None else self._link.process.pid

    async def close(self) -> None:
        """End the process. What is open ends with EngineDied, and so does everything later."""
        self._closing = True
        self._settled.set()
        link, self._link = self._link, None
        self._fail(EngineDied("the server is closing"))
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.wait([self._restarting])
        if self._dead is not None:
            await self._dead.end(grace_s=0)  # a restart that was cancelled before it began has not done it
        if link is not None:
            await link.end(CLOSE_GRACE_S)

    def send(self, command: c.Command) -> None:
        """Never blocks. What comes while no process is up is kept for the next one."""
        if self._link is not None:
            self._link.send(command)
        elif self._closing:
            self._fail(EngineDied("the server is closing"))
        elif self._failures >= MAX_FAILURES:
            self._fail(EngineDied("it could not be restarted"))
        else:
            self._backlog.add(command)

    async def until_writable(self) -> None:
        """Wait while what was sent piles up."""
        await self._settled.wait()
        if self._link is not None:
            await self._link.writable.wait()

    def _take_over(self, link: _Link) -> None:
        link.on_report = self._report
        link.on_lost = self._lose
        self._link = link
        self._up_since = asyncio.get_running_loop().time()
        self._settled.set()
        if link.lost:
            self._lose(link)

    def _report(self, report: c.Report) -> None:
        self._deliver(report)

    def _lose(self, link: _Link) -> None:
        self._link, self._dead = None, link
        healthy = asyncio.get_running_loop().time() - self._up_since > HEALTHY_S
        self._failures = 0 if healthy else self._failures + 1
        self._settled.clear()
        self._fail(EngineDied("its connection was lost"))
        self._restarting = asyncio.get_running_loop().create_task(self._restart(link))

    async def _restart(self, old: _Link) -> None:
        await old.end(grace_s=0)
        log.error("the engine process ended%s", old.why and f": {old.why}", extra={"exit_code": old.process.returncode})
        while True:
            if self._failures >= MAX_FAILURES:
                self._settled.set()
                self._backlog.take()
                self._fail(EngineDied("it could not be restarted"))
            if self._failures > 1:  # the first death may be an accident
                await asyncio.sleep(min(FIRST_BACKOFF_S * 2**self._failures, MAX_BACKOFF_S))
            try:
                link, _ = await _start(self._spec)
            except EngineUnavailable as error:
                self._failures += 1
                log.error("the engine process did not come up: %s", error)
                continue
            break
        log.info("the engine process is up again", extra={"pid": link.process.pid})
        self._take_over(link)
        for command in self._backlog.take():
            self.send(command)


def _unheard(_: object) -> None:
    """Before anybody serves, nothing is open."""


class EngineProcess(EngineFront):
    """See `engine.api.Engine`: the streams of one process of a server. Make it with `await EngineProcess.start(spec)`; end it with
    `await close()`.
    """

    def __init__(self, worker: EngineWorker) -> None:
        super().__init__(worker.info, worker.limits.max_streams, worker.send, worker.until_writable)
        self.worker = worker
        worker.serve(self.deliver, self.fail)

    @classmethod
    async def start(cls, spec: WorkerSpec) -> EngineProcess:
        """Start the process and wait until the model is loaded. Raises EngineUnavailable."""
        return cls(await EngineWorker.start(spec))

    @property
    def ready(self) -> bool:
        """See `EngineWorker.ready`."""
        return self.worker.ready

    @property
    def pid(self) -> int | None:
        """See `EngineWorker.pid`."""
        return self.worker.pid

    async def close(self) -> None:
        """See `EngineWorker.close`."""
        await self.worker.close()
