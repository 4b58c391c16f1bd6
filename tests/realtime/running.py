"""A real server on a free port of this machine, with an engine that speaks tones, for as long as a test needs it.

It runs in a thread with an event loop of its own, so that a test can call a whole command, which has one, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio.abc
from anyio.from_thread import start_blocking_portal

from engine.api import ModelInfo
from realtime.scripted import MINI_LIKE, Script, ScriptedEngine
from realtime.server import serve
from realtime.settings import Settings


@contextmanager
def running_server(
    script: Script | None = None, settings: Settings | None = None, info: ModelInfo = MINI_LIKE
) -> Iterator[tuple[str, ScriptedEngine]]:
    """The server's web address, and its engine (look at it only while nothing speaks)."""
    engines: list[ScriptedEngine] = []

    @asynccontextmanager
    async def engine() -> AsyncIterator[ScriptedEngine]:
        engines.append(ScriptedEngine(script, info))
        yield engines[0]

    async def run(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        await serve(settings or Settings(port=0), engine, listening=task_status.started)

    with start_blocking_portal() as portal:
        server, url = portal.start_task(run)
        try:
            yield url, engines[0]
        finally:
            server.cancel()
