from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from realtime.reactions import LEAST_SAMPLES, Humming, Metronome, Reactions, measure
from realtime.scripted import Script

CLIENT = """
import json, sys
from websockets.sync.client import connect

with connect(sys.argv[1].replace("http", "ws", 1) + "/v1/live", compression=None, proxy=None) as ws:
    for _ in range(5):
        ws.send(json.dumps({"type": "text.append", "text": "Something that is going to be interrupted soon. "}))
        while '"turn.started"' not in str(ws.recv()):
            pass
        ws.send(json.dumps({"type": "turn.cancel"}))
        while '"turn.done"' not in str(ws.recv()):
            pass
"""


@pytest.mark.alone
def test_every_interruption_and_the_loops_lateness_are_measured() -> None:
    engine = Humming(Script(step_s=0.01), asyncio.sleep)
    reactions = asyncio.run(measure(engine, lambda url: (sys.executable, "-c", CLIENT, url)))
    assert len(reactions.cancel_ms) == 5 and 0 < min(reactions.cancel_ms) < max(reactions.cancel_ms) < 1000
    assert len(reactions.lag_ms) > 20 and reactions.wall_s > 0 and reactions.cpu_s > 0


def test_a_load_that_fails_is_no_measurement() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        asyncio.run(
            measure(Humming(Script(), asyncio.sleep), lambda url: (sys.executable, "-c", "raise SystemExit(3)"))
        )


@pytest.mark.parametrize(
    ("cancel_ms", "lag_ms", "broken"),
    [
        ([1.0] * LEAST_SAMPLES, [0.1] * 1000, []),
        ([1.0] * LEAST_SAMPLES + [6.0] * 9, [0.1] * 1000, ["cancel p99"]),
        ([1.0] * LEAST_SAMPLES, [0.1] * 980 + [3.5] * 20, ["loop lag p99 "]),
        ([1.0] * LEAST_SAMPLES, [0.1] * 998 + [25.0] * 2, ["loop lag p99.9"]),
        ([1.0] * (LEAST_SAMPLES - 1), [0.1] * 1000, ["only 499"]),
    ],
)
def test_a_broken_promise_is_named(cancel_ms: list[float], lag_ms: list[float], broken: list[str]) -> None:
    told = Reactions(cancel_ms, lag_ms).broken()
    assert len(told) == len(broken) and all(line.startswith(start) for line, start in zip(told, broken, strict=True))


@pytest.mark.alone
def test_streams_that_step_together_go_on_at_the_same_moment() -> None:
    async def scene() -> set[int]:
        metronome, beats = Metronome(0.01), list[float]()

        async def step() -> None:
            await metronome.wait(0.01)
            beats.append(time.monotonic())

        started = time.monotonic()
        await asyncio.gather(*(step() for _ in range(8)))
        return {int((beat - started) > 0.009) for beat in beats}

    assert asyncio.run(scene()) == {1}
