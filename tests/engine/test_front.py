"""Streams and jobs on the caller's side, against a list of sent commands instead of a core."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from engine import commands as c
from engine.api import (
    Busy,
    Conversation,
    EngineDied,
    Frame,
    ModelInfo,
    SamplingParams,
    SegmentEnd,
    SynthesisFailed,
    Voice,
)
from engine.front import EngineFront, StreamHandle

INFO = ModelInfo("test", 22050, 1024, 8, 60.0)


def frame(index: int) -> Frame:
    return Frame(0, index, np.zeros(8, np.int16), np.zeros(1024, np.float32))


def front(max_streams: int = 2) -> tuple[EngineFront, list[c.Command]]:
    sent: list[c.Command] = []
    return EngineFront(INFO, max_streams, sent.append), sent


def opened(engine: EngineFront, name: str = "c") -> StreamHandle:
    return engine.open(Conversation(name), Voice("v"), SamplingParams(), 1)


def report(*events: tuple[int, Any]) -> c.Report:
    return c.Report(events=list(events))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 5))


def key_of(sent: list[c.Command]) -> int:
    command = sent[-1]
    assert isinstance(command, c.Open)
    return command.stream


def test_events_come_in_order_and_then_the_iterator_ends() -> None:
    async def test() -> None:
        engine, sent = front()
        stream = opened(engine)
        key = key_of(sent)
        engine.deliver(report((key, frame(0)), (key, frame(1))))
        engine.deliver(report((key, SegmentEnd(0, 2)), (key, c.Ended())))
        got = [event async for event in stream]
        assert [type(event) for event in got] == [Frame, Frame, SegmentEnd]
        assert engine.capacity().streams == 0

    run(test)


def test_a_waiting_reader_is_woken_by_cancel_and_gets_nothing_more() -> None:
    async def test() -> None:
        engine, sent = front()
        stream = opened(engine)
        key = key_of(sent)
        reader = asyncio.ensure_future(_collect(stream))
        await asyncio.sleep(0)
        engine.deliver(report((key, frame(0))))
        stream.cancel()
        stream.cancel()
        engine.deliver(report((key, frame(1)), (key, c.Ended(SynthesisFailed("degenerate", "late")))))
        assert await reader == []
        assert sent.count(c.Cancel(key)) == 1

    run(test)


async def _collect(stream: StreamHandle) -> list[object]:
    return [event async for event in stream]


def test_an_error_is_raised_once_after_the_frames_before_it() -> None:
    async def test() -> None:
        engine, sent = front()
        stream = opened(engine)
        key = key_of(sent)
        engine.deliver(report((key, frame(0)), (key, c.Ended(SynthesisFailed("degenerate", "no speech")))))
        iterator = stream.__aiter__()
        assert isinstance(await iterator.__anext__(), Frame)
        with pytest.raises(SynthesisFailed, match="no speech"):
            await iterator.__anext__()
        with pytest.raises(StopAsyncIteration):
            await iterator.__anext__()

    run(test)


def test_no_more_streams_than_rows_are_admitted_and_a_cancelled_one_makes_room() -> None:
    async def test() -> None:
        engine, _ = front(max_streams=1)
        stream = opened(engine)
        with pytest.raises(Busy):
            opened(engine, "d")
        stream.cancel()
        opened(engine, "d")

    run(test)


def test_credit_only_grows_and_is_sent_only_when_it_does() -> None:
    async def test() -> None:
        engine, sent = front()
        stream = opened(engine)
        for index in (5, 3, 5, 9):
            stream.allow(index)
        assert [command.frame_index for command in sent if isinstance(command, c.Allow)] == [5, 9]

    run(test)


def test_a_core_that_is_gone_ends_streams_and_jobs() -> None:
    async def test() -> None:
        engine, _ = front()
        stream = opened(engine)
        job = asyncio.ensure_future(engine.encode(np.zeros(10, np.float32), 22050))
        await asyncio.sleep(0)
        engine.fail(EngineDied("killed"))
        with pytest.raises(EngineDied):
            await job
        with pytest.raises(EngineDied):
            await _collect(stream)
        assert engine.capacity().streams == 0

    run(test)


def test_a_job_gets_its_own_result() -> None:
    async def test() -> None:
        engine, sent = front()
        job = asyncio.ensure_future(engine.decode(np.zeros((8, 3), np.int16)))
        await asyncio.sleep(0)
        command = sent[-1]
        assert isinstance(command, c.Decode)
        samples = np.ones(3072, np.float32)
        engine.deliver(c.Report(results={command.job + 1: np.zeros(0, np.float32), command.job: samples}))
        assert await job is samples

    run(test)
