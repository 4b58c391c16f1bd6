"""The engine in its own process, killed and restarted; and the same engine in a thread."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.api import Conversation, EngineDied, EngineLimits, Frame, SamplingParams, SegmentEnd, SpokenSegment, Voice
from engine.commands import WorkerSpec
from engine.front import EngineFront, StreamHandle
from engine.inprocess import InProcessEngine
from engine.process import EngineProcess, EngineUnavailable
from tests.engine.core_driver import tiny_core

PARAMS = SamplingParams(max_frames=8)
LIMITS = EngineLimits(max_streams=2, kv_positions=4096, threads=1)


def spec(folder: Path) -> WorkerSpec:
    return WorkerSpec(folder, "tiny", "cpu", "float32", LIMITS, None, guarded=False)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))


def speak(
    engine: EngineFront, conversation: Conversation, params: SamplingParams = PARAMS, credit: int = 100
) -> StreamHandle:
    stream = engine.open(conversation, Voice("none"), params, 1)
    stream.push("Hello there.")
    stream.finish()
    stream.allow(credit)
    return stream


async def codes_of(stream: StreamHandle) -> np.ndarray:
    return np.stack([event.codes async for event in stream if isinstance(event, Frame)], axis=1)


def test_a_killed_engine_ends_its_turn_once_and_the_next_turn_keeps_the_context(s2pro: Path) -> None:
    async def test() -> None:
        engine = await EngineProcess.start(spec(s2pro))
        history = (SpokenSegment("Before.", np.ones((10, 12), np.int16)),)
        expected = await codes_of(speak(engine, Conversation("a", history)))
        doomed = speak(engine, Conversation("b"), SamplingParams(max_frames=2000), credit=3)
        got, errors = 0, 0
        pid = engine.pid
        assert pid is not None
        try:
            async for event in doomed:
                got += isinstance(event, Frame)
                if got == 3:
                    os.kill(pid, signal.SIGKILL)
        except EngineDied:
            errors += 1
        assert (got, errors) == (3, 1)
        assert not engine.ready
        again = await codes_of(speak(engine, Conversation("a", history)))  # waits for the restart
        assert (again == expected).all()
        assert engine.ready and engine.pid != pid
        await engine.close()

    run(test)


def test_a_folder_without_a_model_is_reported_in_words(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(EngineUnavailable, match=r"config\.json"):
            await EngineProcess.start(spec(tmp_path))

    run(test)


def test_closing_leaves_no_process_behind(s2pro: Path) -> None:
    async def test() -> None:
        engine = await EngineProcess.start(spec(s2pro))
        stream = speak(engine, Conversation("a"), credit=1)
        pid = engine.pid
        assert pid is not None
        await engine.close()
        with pytest.raises(EngineDied):
            await codes_of(stream)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(test)


def test_a_thread_and_a_process_say_the_same(s2pro: Path) -> None:
    async def test() -> None:
        process = await EngineProcess.start(spec(s2pro))
        thread = InProcessEngine(tiny_core(s2pro))
        codes = [await codes_of(speak(engine, Conversation("a"))) for engine in (process, thread)]
        assert (codes[0] == codes[1]).all()
        ends = [event async for event in speak(thread, Conversation("a")) if isinstance(event, SegmentEnd)]
        assert [(end.segment, end.cut) for end in ends] == [(0, "length")]
        await process.close()
        await thread.close()

    run(test)


def test_a_recording_goes_to_codes_and_back_while_a_stream_speaks(s2pro: Path) -> None:
    async def test() -> None:
        engine = InProcessEngine(tiny_core(s2pro))
        stream = speak(engine, Conversation("a"))
        samples = np.sin(np.arange(44100 // 2) / 20).astype(np.float32) * 0.3
        codes, spoken = await asyncio.gather(engine.encode(samples, 44100), codes_of(stream))
        assert codes.shape == (10, -(-samples.size // engine.info.frame_samples))
        assert spoken.shape[1] == 8
        wave = await engine.decode(codes)
        assert wave.shape == (codes.shape[1] * engine.info.frame_samples,)
        await engine.close()

    run(test)
