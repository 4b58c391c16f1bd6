"""The server that most browser tests talk to: the real one, with tones instead of a model, and a folder of probes beside the page.

    python -m tests.web.serve [SETTINGS]

SETTINGS: JSON, such as {"max_sessions": 1}.

Prints its address as the first line of its standard output and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from engine.api import Engine
from realtime import server
from realtime.scripted import Script, ScriptedEngine
from realtime.settings import Settings

PROBES = Path(__file__).parent / "probes"


@asynccontextmanager
async def tones() -> AsyncIterator[Engine]:
    """Six times as fast as real time, with word times."""
    yield ScriptedEngine(Script(step_s=0.008, frames_per_char=0.7, follows=True))


async def main(given: dict[str, Any]) -> None:
    made = server.create_app

    def with_probes(*given: Any, **more: Any) -> Starlette:
        app = made(*given, **more)
        app.router.routes.insert(0, Mount("/probes", StaticFiles(directory=PROBES)))
        return app

    server.create_app = with_probes
    with tempfile.TemporaryDirectory() as voices:
        settings = Settings.model_validate({"port": 0, "voices_dir": Path(voices), **given})
        serving = asyncio.create_task(server.serve(settings, tones, listening=partial(print, flush=True)))
        threading.Thread(target=until_told, args=(serving, asyncio.get_running_loop()), daemon=True).start()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


def until_told(serving: asyncio.Task[None], loop: asyncio.AbstractEventLoop) -> None:
    """In a thread that a server which fails need not wait for."""
    sys.stdin.read()
    with contextlib.suppress(RuntimeError):  # it has ended
        loop.call_soon_threadsafe(serving.cancel)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}))
