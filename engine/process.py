"""An engine in a process of its own, started, watched and restarted from the server's event loop.

Knows how to bring the worker up, carry messages, and what to tell open streams when it dies. Does not know what the messages mean.
A CUDA fault is sticky and kills its process; so does the kernel when memory runs out. Then every open stream gets EngineDied, the
worker is started again, and since a Conversation carries its whole history, the next turn goes on as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from engine import commands as c
from engine.api import EngineDied, EngineError, ModelInfo
from engine.commands import WorkerSpec
from engine.front import EngineFront
from engine.wire import Unpacker, pack

log = logging.getLogger("parley.engine")

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
MAX_FAILED_RESTARTS = 5  # in a row; then streams fail at once instead of waiting for an engine that cannot load
CLOSE_GRACE_S = 5.0


class EngineUnavailable(EngineError):
    """The engine process could not be started; the text says why."""


class _Link(asyncio.Protocol):
    """One life of the worker: its process, its socket, its messages."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.ready: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        self.lost = False
        self.on_report: Callable[[c.Report], None] | None = None  # set by the engine that takes the link over
        self.on_lost: Callable[[_Link], None] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._unpacker = Unpacker()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._unpacker.feed(data):
            if isinstance(message, c.Report) and self.on_report is not None:
                self.on_report(message)
            elif isinstance(message, c.Ready):
                self.ready.set_result(message.info)
            elif isinstance(message, c.LoadFailed):
                self.ready.set_exception(EngineUnavailable(message.detail))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.ready.done():
            self.ready.set_exception(EngineUnavailable("the engine process ended while it was loading"))
        if self.on_lost is not None:
            self.on_lost(self)

    def send(self, message: object) -> None:
        """Never blocks: what the worker is slow to read waits in the transport."""
        assert self._transport is not None
        self._transport.write(pack(message))

    async def end(self) -> None:
        """Close the socket, which ends the worker; kill it if it does not go. Safe to call for a dead one."""
        self.on_lost = None
        if self._transport is not None:
            self._transport.close()
        deadline = time.monotonic() + CLOSE_GRACE_S
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                self.process.kill()
            await asyncio.sleep(0.02)


async def _spawn(spec: WorkerSpec) -> _Link:
    """Start a worker and connect to it; it is loading when this returns."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    loop = asyncio.get_running_loop()
    _, link = await loop.create_unix_connection(lambda: _Link(process), sock=ours)
    link.send(spec)
    return link


class EngineProcess(EngineFront):
    """See `engine.api.Engine`. Make it with `await EngineProcess.start(spec)`; end it with `await close()`."""

    def __init__(self, spec: WorkerSpec, link: _Link, info: ModelInfo) -> None:
        super().__init__(info, spec.limits.max_streams, self._send_or_keep)
        self._spec = spec
        self._link: _Link | None = None
        self._backlog: list[c.Command] = []  # commands given while no worker is up; sent when it is
        self._failed_restarts = 0
        self._closing = False
        self._restart_task: asyncio.Task[None] | None = None
        self._take_over(link)

    @classmethod
    async def start(cls, spec: WorkerSpec) -> EngineProcess:
        """Start the worker and wait until the model is loaded. Raises EngineUnavailable."""
        link = await _spawn(spec)
        try:
            info = await link.ready
        except EngineUnavailable:
            await link.end()
            raise
        return cls(spec, link, info)

    @property
    def ready(self) -> bool:
        """A worker is up and loaded."""
        return self._link is not None

    @property
    def pid(self) -> int | None:
        """The worker's process id, or None while there is none."""
        return None if self._link is None else self._link.process.pid

    async def close(self) -> None:
        """End the worker. Open streams end with EngineDied."""
        self._closing = True
        if self._restart_task is not None:
            self._restart_task.cancel()
        link, self._link = self._link, None
        self.fail(EngineDied("the server is closing"))
        if link is not None:
            await link.end()

    def _take_over(self, link: _Link) -> None:
        link.on_report = self.deliver
        link.on_lost = self._link_lost
        self._link = link
        if link.lost:
            self._link_lost(link)

    def _send_or_keep(self, command: c.Command) -> None:
        if self._link is not None:
            self._link.send(command)
        elif not self._closing and self._failed_restarts < MAX_FAILED_RESTARTS:
            self._backlog.append(command)
        else:
            self.fail(EngineDied("it could not be restarted"))

    def _link_lost(self, link: _Link) -> None:
        if self._closing:
            return
        self._link = None
        code = link.process.poll()
        log.error("the engine process ended", extra={"exit_code": code})
        self.fail(EngineDied(f"exit code {code}" if code is not None else "its connection was lost"))
        self._restart_task = asyncio.get_running_loop().create_task(self._restart(link))

    async def _restart(self, old: _Link) -> None:
        await old.end()
        while self._failed_restarts < MAX_FAILED_RESTARTS:
            if self._failed_restarts:
                await asyncio.sleep(min(FIRST_BACKOFF_S * 2**self._failed_restarts, MAX_BACKOFF_S))
            link = await _spawn(self._spec)
            try:
                await link.ready
            except EngineUnavailable as error:
                self._failed_restarts += 1
                log.error("the engine process did not come up: %s", error)
                await link.end()
                continue
            self._failed_restarts = 0
            self._take_over(link)
            backlog, self._backlog = self._backlog, []
            for command in backlog:
                self._send_or_keep(command)
            log.info("the engine process is up again", extra={"pid": link.process.pid})
            return
        self._backlog.clear()
        self.fail(EngineDied("it could not be restarted"))
