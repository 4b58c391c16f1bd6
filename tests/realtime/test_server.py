"""The whole server: its engine, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from realtime.scripted import MINI_LIKE, Script, ScriptedEngine
from realtime.server import listen, serve_on
from realtime.settings import Settings
from tests.realtime.sockets import (
    PATIENCE_S,
    Watched,
    client,
    live,
    receive,
    say,
    send,
    serving,
    to_the_end,
    vanish,
)


def test_a_dead_engine_is_not_ready_until_it_has_spoken_again() -> None:
    engine = Watched(Script())
    with serving(engine) as url, client(url) as ws, httpx.Client(base_url=url, trust_env=False) as web:
        assert web.get("/health/ready").status_code == 200
        send(ws, "turn.start")
        send(ws, "text.append", text="Hello there, my friend")
        receive(ws, "turn.started")
        engine.script = Script(max_streams=0)  # nothing can be opened: it is restarting
        engine.die()
        send(ws, "text.append", text=" and all of you. How do you do? And ")
        assert receive(ws, "error")["code"] == "engine_restarted"
        assert receive(ws, "turn.done")["status"] == "failed"
        assert web.get("/health/ready").json() == {"status": "warming_up"}
        engine.script = Script()
        send(ws, "turn.end")
        assert say(ws, "Again.")[1]["status"] == "completed"


# The end


def test_a_signal_lets_the_turn_be_spoken_and_lets_nobody_in() -> None:
    """In a process of its own, as an operator's would be."""
    program = """
import asyncio, contextlib, sys
from realtime.scripted import Script, ScriptedEngine
from realtime.server import serve
from realtime.settings import Settings

@contextlib.asynccontextmanager
async def engine():
    yield ScriptedEngine(Script(step_s=0.001))
    print("engine closed", flush=True)

asyncio.run(serve(Settings(port=0), engine, listening=lambda url: print(url, flush=True)))
print("ended", flush=True)
"""
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        with connect(live(url), compression=None, proxy=None) as ws:
            created = receive(ws, "session.created")
            send(
                ws,
                "session.update",
                audio={"output": {"format": "pcm_s16le"}},
                pacing={"lead_ms": 500, "burst_ms": 100},
            )
            send(ws, "text.append", text="This will be spoken, whatever comes.")
            receive(ws, "turn.started")
            os.kill(server.pid, signal.SIGTERM)
            closing_event = receive(ws, "session.closing")
            assert closing_event["reason"] == "restart" and closing_event["in_ms"] == 30_000
            with pytest.raises(InvalidStatus) as refusal:
                connect(live(url), proxy=None)
            assert refusal.value.response.status_code == 503 and "Retry-After" in refusal.value.response.headers
            vanish(ws)
        with connect(f"{live(url)}?resume={created['resume_token']}&have=9:0", compression=None, proxy=None) as ws:
            assert receive(ws, "session.created")["resumed"], "whose turn goes on may come back"
            send(ws, "turn.end")
            done = receive(ws, "turn.done")
            assert done["status"] == "completed"
            assert to_the_end(ws)[1] == 1012
        assert server.wait(60) == 0
        assert server.stdout.read().split("\n") == ["engine closed", "ended", ""]


@pytest.mark.parametrize("steps", range(6))
def test_who_connects_while_the_server_ends_is_not_left_hanging(steps: int) -> None:
    """Whether the connection still waits to be accepted, just was, or is known: it ends with the server, not with its garbage."""

    async def play(caller: socket.socket) -> None:
        with listen("127.0.0.1", 0) as sock:
            ready = asyncio.Event()
            engine = ScriptedEngine(Script(), MINI_LIKE)
            server = asyncio.create_task(serve_on(sock, Settings(port=0), engine, lambda _: ready.set()))
            await ready.wait()
            caller.connect(sock.getsockname())
            for _ in range(steps):
                await asyncio.sleep(0)
            server.cancel()
            with pytest.raises(asyncio.CancelledError):
                await server

    with socket.socket() as caller:
        caller.settimeout(PATIENCE_S)
        asyncio.run(play(caller))
        try:
            assert caller.recv(1) == b""
        except ConnectionResetError:
            assert steps < 2, "nobody had taken it"
