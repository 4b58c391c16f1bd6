"""How fast the server reacts while many speak: `python -m realtime.reactions`. There is no model: the engine only hums.

Starts a server in this process and N clients in another, who talk all the time and interrupt every turn. Measures, in the server, how late
the event loop comes to what is due, and how long a `turn.cancel` takes from the read off the transport to the write of its `turn.done`,
behind which no audio of the turn follows. Prints the percentiles and one line of JSON; the exit code is 1 where a promise is broken.

Knows what is promised. Does not know sessions. The clients get what processor time the server leaves. Unrealistic: the engine lives in the
server's process, its frames are all alike, and each of its streams steps for itself, where a real one hands over a frame of every stream at
once: `--together` makes it do that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from websockets.frames import Frame

from engine.api import Codes, Samples
from realtime.bench_figures import percentile
from realtime.scripted import Script, ScriptedEngine
from realtime.server import listen, serve_on
from realtime.settings import Settings
from realtime.transport import LiveWebSocket

PROBE_S: Final = 0.002  # how often the loop is asked to be on time
STEP_S: Final = 0.012  # of the engine: four times as fast as it is heard
CANCEL_P99_MS: Final = 5.0
LAG_P99_MS: Final = 3.0
LAG_P999_MS: Final = 20.0
# Mean, between an interruption and the next turn: who interrupts says something. With next to none of it the load was as high as the
# server was fast: whatever it saved, it got more turns to do.
PAUSE_S: Final = 3.0
LEAST_SAMPLES: Final = 500  # below, a 99th percentile says little
# `parley` where nobody else wants the processor. Clients sit on machines of their own; here each message to them wakes them, and a process
# that was just woken takes the processor from the one that woke it (cancel p99 6.4 ms; in idle time 3.3 to 8.3, four runs).
_IN_IDLE_TIME: Final = """
import os, runpy
if hasattr(os, "SCHED_IDLE"):
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
runpy.run_module("realtime.cli", run_name="__main__", alter_sys=True)
"""


@dataclass
class Reactions:
    """What was measured, in ms."""

    cancel_ms: list[float] = field(default_factory=list)
    lag_ms: list[float] = field(default_factory=list)
    cpu_s: float = 0.0  # of this process, while it measured
    loop_cpu_s: float = 0.0  # of that, of the thread that the event loop is in
    wall_s: float = 0.0

    def broken(self) -> list[str]:
        """The promises that were not kept, for people."""
        checks = [
            ("cancel p99", percentile(self.cancel_ms, 99), CANCEL_P99_MS),
            ("loop lag p99", percentile(self.lag_ms, 99), LAG_P99_MS),
            ("loop lag p99.9", percentile(self.lag_ms, 99.9), LAG_P999_MS),
        ]
        told = [f"{name} {value:.2f} ms exceeds {bound:g} ms" for name, value, bound in checks if value > bound]
        if len(self.cancel_ms) < LEAST_SAMPLES:
            told.append(f"only {len(self.cancel_ms)} turns were interrupted, fewer than {LEAST_SAMPLES}")
        return told


class Metronome:
    """Lets everybody who waits go on at the same beat, as a batched engine does."""

    def __init__(self, beat_s: float) -> None:
        self._beat_s = beat_s
        self._next: asyncio.Event | None = None

    async def wait(self, seconds: float) -> None:
        """Until the next beat, whatever is asked for; 0 is now."""
        if seconds == 0:
            await asyncio.sleep(0)
            return
        if self._next is None:
            self._next = asyncio.Event()
            asyncio.get_running_loop().call_later(self._beat_s, self._strike)
        await self._next.wait()

    def _strike(self) -> None:
        beat, self._next = self._next, None
        assert beat is not None, "somebody waits for it"
        beat.set()


class Humming(ScriptedEngine):
    """Frames cost nothing: in a server they come from another process, which has processors of its own."""

    def __init__(self, script: Script, sleep: Callable[[float], Awaitable[None]]) -> None:
        super().__init__(script, sleep=sleep)
        self._codes = super().codes("hum", 0, 0, 0)
        self._hum = super().sound(self._codes[:, 0])

    def sound(self, codes: np.ndarray[tuple[int, ...], np.dtype[np.int16]]) -> Samples:
        """The same for all."""
        return self._hum

    def codes(self, text: str, index: int, seed: int, turn: int) -> Codes:
        """The same for all."""
        return self._codes


def watching(reactions: Reactions) -> type[LiveWebSocket]:
    """The server's WebSocket with a stopwatch."""

    class Watched(LiveWebSocket):
        _read_at = 0.0
        _asked_at: float | None = None
        _done = False  # its end was put, and is written with what else is held back

        def data_received(self, data: bytes) -> None:
            self._read_at = self.loop.time()
            super().data_received(data)

        def handle_text(self, event: Frame) -> None:
            if b'"turn.cancel"' in event.data:
                self._asked_at = self._read_at
            super().handle_text(event)

        def put(self, message: bytes | str) -> None:
            super().put(message)
            if self._asked_at is not None and isinstance(message, str) and message.startswith('{"type":"turn.done"'):
                self._done = True

        @contextmanager
        def corked(self) -> Iterator[None]:
            with super().corked():
                yield
            if self._done and self._asked_at is not None:
                reactions.cancel_ms.append((self.loop.time() - self._asked_at) * 1000)
                self._asked_at, self._done = None, False

    return Watched


async def _probe(reactions: Reactions) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + PROBE_S
        await asyncio.sleep(PROBE_S)
        reactions.lag_ms.append((loop.time() - due) * 1000)


async def measure(engine: ScriptedEngine, load: Callable[[str], Sequence[str]]) -> Reactions:
    """Serve while the command `load(url)` runs, and measure. Raises CalledProcessError where it fails."""
    reactions, ready = Reactions(), asyncio.get_running_loop().create_future()
    settings = Settings(port=0, log_level="warning")
    with listen(settings.host, 0) as sock:
        server = asyncio.create_task(
            serve_on(sock, settings, engine, listening=ready.set_result, websocket=watching(reactions))
        )
        url = await ready
        command = load(url)
        clients = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        probe = asyncio.create_task(_probe(reactions))
        wall_s, cpu_s, loop_cpu_s = time.monotonic(), time.process_time(), time.thread_time()
        _, said = await clients.communicate()
        reactions.wall_s, reactions.cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s
        reactions.loop_cpu_s = time.thread_time() - loop_cpu_s
        for task in (probe, server):
            task.cancel()
        await asyncio.gather(probe, server, return_exceptions=True)
        if clients.returncode:
            raise subprocess.CalledProcessError(clients.returncode, command, stderr=said)
    return reactions


def bench_clients(sessions: int, turns: int) -> Callable[[str], Sequence[str]]:
    """The command that lets so many clients talk to a server, as `measure` wants it."""

    def command(url: str) -> Sequence[str]:
        counts = ("--streams", str(sessions), "--turns", str(turns), "--cancel-every", "1", "--pause", str(PAUSE_S))
        return (sys.executable, "-c", _IN_IDLE_TIME, "bench", "--url", url, *counts)

    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and tell; 1: a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m realtime.reactions", description="How fast the server reacts.")
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--turns", type=int, default=12, help="interrupted turns of each")
    parser.add_argument("--together", action="store_true", help="all streams of the engine step at the same moment")
    args = parser.parse_args(argv)
    script = Script(step_s=STEP_S, max_streams=args.sessions)
    wait: Callable[[float], Awaitable[None]] = Metronome(STEP_S).wait if args.together else asyncio.sleep
    engine = Humming(script, wait)
    reactions = asyncio.run(measure(engine, bench_clients(args.sessions, args.turns)))
    print(_told(reactions, args.sessions))
    broken = reactions.broken()
    for line in broken:
        print(f"broken: {line}")
    print(json.dumps(_summary(reactions, args.sessions, args.together, broken)))
    return 1 if broken else 0


def _told(reactions: Reactions, sessions: int) -> str:
    busy = f"{reactions.cpu_s / reactions.wall_s:.2f} cores busy, {reactions.loop_cpu_s / reactions.wall_s:.2f} with the event loop"
    lines = [f"{sessions} sessions, {reactions.wall_s:.0f} s, {busy}"]
    for name, values in (("cancel", reactions.cancel_ms), ("loop lag", reactions.lag_ms)):
        row = "  ".join(f"p{percent:g} {percentile(values, percent):6.2f}" for percent in (50, 99, 99.9, 100))
        lines.append(f"{name:9} ms  {row}  of {len(values)}")
    return "\n".join(lines)


def _summary(reactions: Reactions, sessions: int, together: bool, broken: list[str]) -> dict[str, object]:
    return {
        "sessions": sessions,
        "together": together,
        "cancels": len(reactions.cancel_ms),
        "cancel_p50_ms": round(percentile(reactions.cancel_ms, 50), 3),
        "cancel_p99_ms": round(percentile(reactions.cancel_ms, 99), 3),
        "lag_p50_ms": round(percentile(reactions.lag_ms, 50), 3),
        "lag_p99_ms": round(percentile(reactions.lag_ms, 99), 3),
        "lag_p999_ms": round(percentile(reactions.lag_ms, 99.9), 3),
        "cores": round(reactions.cpu_s / reactions.wall_s, 3),
        "cpu_ms_per_session_s": round(1000 * reactions.cpu_s / (sessions * reactions.wall_s), 3),
        "loop_cpu_ms_per_session_s": round(1000 * reactions.loop_cpu_s / (sessions * reactions.wall_s), 3),
        "broken": broken,
    }


if __name__ == "__main__":
    sys.exit(main())
