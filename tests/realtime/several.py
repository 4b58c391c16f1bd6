"""The processes of one server, as far as their clients notice, in a single one: each has an engine, a port, and a socket for the others."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import anyio.abc
from anyio.from_thread import start_blocking_portal

from realtime.scripted import Script
from realtime.server import listen, serve_on
from realtime.settings import Settings
from realtime.shared import SharedFolder
from realtime.tls import Certificate
from tests.realtime.sockets import Watched


@dataclass(frozen=True)
class Member:
    """One of them. Look at the engine only while nothing speaks."""

    url: str
    engine: Watched
    shared: SharedFolder
    kill: Callable[[], None]  # it is gone, and nobody has cleared up behind it


@contextmanager
def several(
    folder: Path, settings: Settings | None = None, script: Script | None = None, shown: Certificate | None = None
) -> Iterator[tuple[Member, Member]]:
    """Two of them, each in a thread with an event loop of its own."""
    SharedFolder.create(folder, 2)
    with ExitStack() as running:
        yield (
            running.enter_context(_member(folder, 0, settings, script, shown)),
            running.enter_context(_member(folder, 1, settings, script, shown)),
        )


@contextmanager
def _member(
    folder: Path, index: int, settings: Settings | None, script: Script | None, shown: Certificate | None
) -> Iterator[Member]:
    settings, engine = settings or Settings(port=0), Watched(script or Script(step_s=0.001))
    shared = SharedFolder(folder, index, 2)
    with ExitStack() as opened, start_blocking_portal() as portal:
        sock = opened.enter_context(listen("127.0.0.1", 0))
        siblings = opened.enter_context(socket.socket(socket.AF_UNIX))
        siblings.bind(str(shared.relay_path(index)))
        siblings.listen()

        async def run(*, task_status: anyio.abc.TaskStatus[str]) -> None:
            await serve_on(sock, settings, engine, task_status.started, shown=shown, shared=shared, siblings=siblings)

        task, url = portal.start_task(run)

        def kill() -> None:
            task.cancel()
            wait([task])

        try:
            yield Member(url, engine, shared, kill)
        finally:
            task.cancel()


def name_in(index: int) -> str:
    """A room's name that belongs to that one of two."""
    return next(name for name in (f"room{number}" for number in range(100)) if crc32(name.encode()) % 2 == index)
