"""Real clients against a real server: the embedded model behind the dialects, and programs that speak through vendors' SDKs.

The programs run in `.venv-dialects`, which `make setup-dialects` makes. Everything is real, also the time: audio is paced as it is heard.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.abc
import pytest
from anyio.from_thread import start_blocking_portal
from pydantic import SecretStr

from engine.api import Conversation, EngineLimits, SamplingParams, Voice
from engine.commands import WorkerSpec
from engine.front import StreamHandle
from engine.hub import resolve
from engine.process import EngineProcess
from realtime.server import serve
from realtime.settings import Settings

KEY = "a-key-for-the-clients"
ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-dialects" / "bin" / "python"
CLIENTS = Path(__file__).parent / "clients"
PATIENCE_S = 120.0  # for a program that takes some 15 s on a machine with nothing else to do


class Watched(EngineProcess):
    """The real engine; it remembers with which conversation each turn was opened."""

    opened: list[Conversation]

    def open(self, conversation: Conversation, voice: Voice, params: SamplingParams, turn: int) -> StreamHandle:
        self.opened.append(conversation)
        return super().open(conversation, voice, params, turn)


@dataclass
class Served:
    """A server with the embedded model. Look at the engine only while nothing speaks."""

    url: str  # http://host:port
    engine: Watched

    def client(self, name: str, folder: Path, *arguments: str, url: str | None = None) -> dict[str, Any]:
        """What the program `clients/<name>.py` found out."""
        if not PYTHON.exists():
            pytest.skip("needs the clients of other vendors: make setup-dialects")
        command = [str(PYTHON), str(CLIENTS / f"{name}.py"), url or self.url, str(folder), KEY, *arguments]
        run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        assert run.returncode == 0, run.stderr[-4000:]
        found: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
        return found

    def heard(self, beginning: str) -> str:
        """All text that the conversation which begins so remembered when its last turn was opened, without speakers and double spaces."""
        talks = [_words(talk) for talk in self.engine.opened]
        return [talk for talk in talks if talk.startswith(beginning)][-1]


def _words(talk: Conversation) -> str:
    text = " ".join(segment.text for segment in talk.history)
    return " ".join(re.sub(r"<\|speaker:\d\|>", "", text).split())


@contextmanager
def served_mini(settings: Settings | None = None) -> Iterator[Served]:
    """Needs torch."""
    engines: list[Watched] = []

    @asynccontextmanager
    async def engine() -> AsyncIterator[Watched]:
        model = resolve("mini", None, None, lambda progress: None)
        spec = WorkerSpec(model.folder, model.name, "cpu", "float32", EngineLimits(threads=1), None)
        running = await Watched.start(spec)
        assert isinstance(running, Watched)
        running.opened = []
        engines.append(running)
        try:
            yield running
        finally:
            await running.close()

    async def run(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        await serve(settings or Settings(port=0, keys=(SecretStr(KEY),)), engine, listening=task_status.started)

    with start_blocking_portal() as portal:
        server, url = portal.start_task(run)
        try:
            yield Served(url, engines[0])
        finally:
            server.cancel()
