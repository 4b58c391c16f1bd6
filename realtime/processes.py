"""A server of several processes before one engine: for more listeners than the loop of one process of Python can serve.

Knows the port, the engine's worker and the processes: starts them, hands each connection to the one with the fewest sessions, starts one
anew that died, and passes on what signals say. Does not know what they serve (`realtime.server_process`). To clients they are one server: a
session lives in one of them, and whatever belongs to it finds its way there (`realtime.elsewhere`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Final

from engine.api import EngineError, ModelInfo
from engine.fronts import Fronts
from engine.process import EngineWorker
from realtime.handing import hand
from realtime.server import address_of, listen
from realtime.settings import Settings, SettingsError, check_binding
from realtime.shared import Count, SharedFolder
from realtime.tls import Certificate, certificate

log = logging.getLogger("parley.processes")

# That a process is to carry: at 1.2 to 1.6 ms of a core for each frame, half to three quarters of what fills it.
TALKERS: Final = 20
MOST: Final = 16
_PREFIX: Final = "parley-processes-"  # whatever is called so and not locked is removed
_ACCEPTED_AT_ONCE: Final = 64  # then reports of the engine get their turn
_RECENT_S: Final = 1.0  # a connection has its session by then, if it gets one
_RETRY_S: Final = 1.0  # where descriptors have run out, say
_POLL_S: Final = 0.02
_LEAVE_S: Final = 5.0  # from the end of its link to its own
_HEALTHY_S: Final = 30.0  # who lived longer did not die of being started
_BACKOFF_S: Final = 0.2
_MOST_BACKOFF_S: Final = 10.0
# See `engine.process`: the same modules, whatever folder the server was started in.
_BOOTSTRAP: Final = """import sys
sys.path[:] = sys.argv[3:]
from realtime.server_process import main
main(int(sys.argv[1]), int(sys.argv[2]))"""
_LONGEST_PLACE: Final = 70  # the path of a Unix socket, which lies two levels below it, may have 107 bytes


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a process of the server is to do: its first message."""

    settings: Settings
    certificate: Certificate | None
    folder: Path  # that the processes share
    index: int  # of this one, from 0
    count: int
    info: ModelInfo
    max_streams: int  # of all processes


@dataclass(frozen=True, slots=True)
class Up:
    """From a process: a turn that came now would be spoken."""


@dataclass(frozen=True, slots=True)
class Refused:
    """From a process: with these settings it cannot serve. Text for the operator."""

    why: str


class ProcessEnded(EngineError):
    """A process of the server ended while it was starting."""


def sensible_number(max_streams: int, processors: int) -> int:
    """Of processes, where nobody says: one does up to TALKERS streams, and a quarter of the machine is left to the engine."""
    return max(1, min(MOST, processors * 3 // 4, -(-max_streams // TALKERS))) if processors > 2 else 1


async def serve_in_processes(
    settings: Settings,
    worker: Callable[[], AbstractAsyncContextManager[EngineWorker]],
    count: int,
    *,
    listening: Callable[[str], None] | None = None,
) -> None:
    """As `server.serve`, with so many processes. Raises ProcessEnded as well."""
    check_binding(settings)
    shown = certificate(settings)
    with listen(settings.host, settings.port) as sock, _folder() as folder:
        SharedFolder.create(folder, count)
        children = [_Child(index) for index in range(count)]
        try:
            for child in children:
                child.start()  # they import what they need while the model is loaded
            async with worker() as running:
                await _Hub(sock, settings, shown, folder, running, children).run(listening)
        finally:
            for child in children:
                child.kill()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """An empty folder that is nobody else's and goes at the end; or, where a process is killed, when the next one begins.

    It is locked: that says whose owner is still there, and keeps systemd-tmpfiles from tidying it up. Not in /dev/shm, where logind
    removes a user's files when they log out, whoever runs on in their name.
    """
    place = Path(gettempdir())
    if len(os.fsencode(place)) > _LONGEST_PLACE:
        place = Path("/tmp")
    for left in place.glob(f"{_PREFIX}*/"):
        with contextlib.suppress(OSError), _locked(left):
            shutil.rmtree(left)
    with contextlib.ExitStack() as held:
        while True:
            name = held.enter_context(TemporaryDirectory(prefix=_PREFIX, dir=place, ignore_cleanup_errors=True))
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                if os.fstat(held.enter_context(_locked(Path(name)))).st_nlink:
                    break
            # Another server, which began at the same time, took it for left behind.
        yield Path(name)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """The descriptor of a folder that nobody else has locked. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


class _Child:
    """One place among the processes, and whoever has it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.up = False
        self.lost = asyncio.Event()  # its link is
        self.channel: socket.socket | None = None  # for connections
        self._link: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """A new process, which waits for its Assignment. Raises OSError."""
        self.up, self.lost = False, asyncio.Event()
        ours, theirs = socket.socketpair()
        give, take = socket.socketpair()
        with theirs, take:
            fds = [theirs.fileno(), take.fileno()]
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _BOOTSTRAP, *map(str, fds), *sys.path],
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for us, who pass it on
                )
            except OSError:
                ours.close()
                give.close()
                raise
        ours.setblocking(False)
        give.setblocking(False)
        self._link, self.channel = ours, give

    def take_link(self) -> socket.socket:
        """Our end of it, once: for a transport."""
        assert self._link is not None, "it was started and nobody has it"
        link, self._link = self._link, None
        return link

    def tell(self, signal_: signal.Signals) -> None:
        """Nothing happens where there is no process."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal_)

    async def ended(self) -> int:
        """Its exit code, soon after its link is lost."""
        await self.lost.wait()
        self.up = False
        assert self._process is not None, "it was started"
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LEAVE_S
        while self._process.poll() is None:
            if loop.time() >= deadline:
                self._process.kill()
            await asyncio.sleep(_POLL_S)
        self.kill()
        return self._process.returncode

    def kill(self) -> None:
        """End it now, if it is there. Blocks until it has."""
        for sock in (self._link, self.channel):
            if sock is not None:
                sock.close()
        self._link = self.channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class _Hub:
    """While the engine runs."""

    def __init__(
        self,
        sock: socket.socket,
        settings: Settings,
        shown: Certificate | None,
        folder: Path,
        worker: EngineWorker,
        children: list[_Child],
    ) -> None:
        self._sock = sock
        self._settings = settings
        self._certificate = shown
        self._folder = folder
        self._worker = worker
        self._children = children
        self._shared = SharedFolder(folder, 0, len(children))  # only to ask
        self._fronts = Fronts(worker, len(children), asyncio.get_running_loop().time)
        self._loop = asyncio.get_running_loop()
        self._all_up = self._loop.create_future()
        self._signals = 0
        self._ending = asyncio.Event()  # there was one
        self._accepting = False
        self._recent: deque[tuple[float, int]] = deque()  # when a connection was handed to which process

    async def run(self, listening: Callable[[str], None] | None) -> None:
        """Until every process has ended after a signal. Raises SettingsError, ProcessEnded, OSError."""
        self._sock.setblocking(False)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._on_signal)
        minding = [asyncio.create_task(self._mind(child)) for child in self._children]
        together = asyncio.gather(*minding)
        try:
            await asyncio.wait([together, self._all_up], return_when=asyncio.FIRST_COMPLETED)
            if self._all_up.done():
                self._all_up.result()  # or one of them refused
            if self._all_up.done() and listening is not None and not self._signals:
                listening(address_of(self._sock, tls=self._certificate is not None))
            await together
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._loop.remove_signal_handler(number)
            self._accept_no_more()
            for task in minding:
                task.cancel()
            await asyncio.gather(*minding, together, return_exceptions=True)
            self._fronts.close()
            self._all_up.cancel()

    def _on_signal(self) -> None:
        """The first asks for a drain, the second for the end: each process counts for itself."""
        self._signals += 1
        self._ending.set()
        for child in self._children:
            child.tell(signal.SIGTERM)

    async def _mind(self, child: _Child) -> None:
        """Keep a place taken until the server is told to end."""
        failures = 0
        while True:
            started = self._loop.time()
            await self._employ(child)
            code = await child.ended()
            if self._signals:
                return
            try:
                SharedFolder.clear(self._folder, child.index)
            except OSError as error:  # clients of the one that died come to the next one, who has no session of theirs
                log.error("what a process held cannot be cleared: %s", error)
            if not self._all_up.done():
                raise ProcessEnded(f"a process of the server ended with exit code {code} while it was starting")
            log.error("a process of the server ended", extra={"index": child.index, "exit_code": code})
            failures = 0 if self._loop.time() - started > _HEALTHY_S else failures + 1
            while not await self._restarted(child, failures):
                if self._signals:
                    return
                failures += 1

    async def _restarted(self, child: _Child, failures: int) -> bool:
        """False: the server is to end, which nobody would have told the new process, or the system has none to give."""
        if failures:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), min(_BACKOFF_S * 2**failures, _MOST_BACKOFF_S))
        if self._signals:
            return False
        try:
            child.start()
        except OSError as error:
            log.error("a process of the server could not be started: %s", error)
            return False
        return True

    async def _employ(self, child: _Child) -> None:
        def heard(message: object) -> None:
            if isinstance(message, Up):
                self._came_up(child)
            elif isinstance(message, Refused) and not self._all_up.done():
                self._all_up.set_exception(SettingsError(message.why))

        def lost() -> None:
            child.lost.set()

        link = self._fronts.link(child.index, heard, lost)
        await self._loop.create_unix_connection(lambda: link, sock=child.take_link())
        assignment = Assignment(
            self._settings,
            self._certificate,
            self._folder,
            child.index,
            len(self._children),
            self._worker.info,
            self._worker.limits.max_streams,
        )
        self._fronts.send(child.index, assignment)

    def _came_up(self, child: _Child) -> None:
        child.up = True
        self._accept()
        if all(each.up for each in self._children) and not self._all_up.done():
            self._all_up.set_result(None)

    def _accept(self) -> None:
        if not self._accepting:
            self._accepting = True
            self._loop.add_reader(self._sock, self._on_connections)

    def _accept_no_more(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._sock)

    def _on_connections(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if not any(child.up for child in self._children):
                self._accept_no_more()  # they wait for the next process that is up
                return
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("cannot accept connections: %s", error)
                self._accept_no_more()
                self._loop.call_later(_RETRY_S, self._accept)
                return
            with connection:
                self._give(connection)

    def _give(self, connection: socket.socket) -> None:
        """To the process with the fewest sessions; to another where that one takes none. It is dropped where nobody does.

        While the server is full: to one where a session would give way to a new one, if there is any.
        """
        now = self._loop.time()
        while self._recent and self._recent[0][0] < now - _RECENT_S:
            self._recent.popleft()
        coming = [index for _, index in self._recent]
        full = self._shared.total(Count.SESSIONS) >= self._settings.max_sessions

        def wish(child: _Child) -> tuple[bool, int]:
            gives_way = self._shared.of(Count.WAITING, child.index) > 0
            return full and not gives_way, self._sessions(child.index) + coming.count(child.index)

        for child in sorted((each for each in self._children if each.up and each.channel is not None), key=wish):
            assert child.channel is not None, "asked above"
            with contextlib.suppress(OSError):
                hand(child.channel, connection)
                self._recent.append((now, child.index))
                return
        log.error("no process takes a connection")

    def _sessions(self, index: int) -> int:
        return self._shared.of(Count.SESSIONS, index) + self._shared.of(Count.UNAUTHENTICATED, index)
