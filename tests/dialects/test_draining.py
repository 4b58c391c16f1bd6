"""A server that is told to end, with clients of other vendors at it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import ormsgpack
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

PATIENCE_S = 30.0
PROGRAM = """
import asyncio, contextlib
from realtime.scripted import ScriptedEngine
from realtime.server import serve
from realtime.settings import Settings

@contextlib.asynccontextmanager
async def engine():
    yield ScriptedEngine()

asyncio.run(serve(Settings(port=0), engine, listening=lambda url: print(url, flush=True)))
"""


def test_what_was_begun_is_spoken_and_nobody_is_let_in() -> None:
    """In a process of its own, as an operator's would be."""
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, cwd=root) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            base = url.replace("http", "ws", 1)
            with (
                httpx.Client(base_url=url, timeout=PATIENCE_S) as http,
                connect(base + "/s/quiet/v1/tts/live", compression=None, proxy=None) as quiet,
                connect(base + "/s/talk/v1/tts/live", compression=None, proxy=None) as talking,
                http.stream("POST", "/s/read/v1/audio/speech", json={"input": "One two three four."}) as answer,
            ):
                quiet.send(ormsgpack.packb({"event": "start", "request": {"text": "", "format": "pcm"}}))
                talking.send(
                    ormsgpack.packb({"event": "start", "request": {"text": "One two three.", "format": "pcm"}})
                )
                talking.send(ormsgpack.packb({"event": "stop"}))
                assert ormsgpack.unpackb(talking.recv(PATIENCE_S))["event"] == "audio"
                chunks = answer.iter_raw()
                size = len(next(chunks))
                os.kill(server.pid, signal.SIGTERM)
                with pytest.raises(ConnectionClosed) as closed:
                    quiet.recv(PATIENCE_S)
                assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
                refused = http.post("/v1/tts", json={"text": "Hi."})
                assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
                with (
                    pytest.raises(InvalidStatus) as status,
                    connect(base + "/v1/tts/live", compression=None, proxy=None),
                ):
                    pass
                assert status.value.response.status_code == 503
                size += sum(map(len, chunks))
                assert size > 44 + 2 * 24_000 // 2, "the body came to its proper end"
                while (message := ormsgpack.unpackb(talking.recv(PATIENCE_S)))["event"] == "audio":
                    pass
                assert message == {"event": "finish", "reason": "stop"}
            assert server.wait(PATIENCE_S) == 0
        finally:
            server.kill()
