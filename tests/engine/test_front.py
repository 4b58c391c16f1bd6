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
from engine.front import MAX_JOBS, PIECE_SAMPLES, EngineFront, StreamHandle

INFO = ModelInfo("test", 22050, 1024, 8, 60.0)
CODES = np.zeros((8, 3), np.int16)


def frame(index: int) -> Frame:
    return Frame(0, index, np.zeros(8, np.int16), np.zeros(1024, np.float32))


class Gate:
    """Lets so many pieces of a recording through before the core is slow to read."""

    def __init__(self, pieces: int) -> None:
        self.left = asyncio.Semaphore(pieces)

    async def __call__(self) -> None:
        await self.left.acquire()


def front(max_streams: int = 2, pieces: int = 1000) -> tuple[EngineFront, list[c.Command]]:
    sent: list[c.Command] = []
    return EngineFront(INFO, max_streams, sent.append, Gate(pieces)), sent


def opened(engine: EngineFront, name: str = "c") -> StreamHandle:
    return engine.open(Conversation(name), Voice("v"), SamplingParams(), 1)


def report(*events: tuple[int, Any]) -> c.Report:
    return c.Report(events=list(events))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def key_of(sent: list[c.Command]) -> int:
    command = sent[-1]
    assert isinstance(command, c.Open)
    return command.stream


async def collect(stream: StreamHandle) -> list[object]:
    return [event async for event in stream]


async def begun(sent: list[c.Command], job: Coroutine[Any, Any, Any]) -> tuple[asyncio.Task[Any], int]:
    """A job that is waiting for its result, and its number."""
    task = asyncio.create_task(job)
    before = len(sent)
    while len(sent) == before:
        await asyncio.sleep(0)
    command = sent[before]
    assert isinstance(command, c.Encode | c.Decode)
    return task, command.job


# -- streams ------------------------------------------------------------------------------------------------------------------------------


def test_events_come_in_order_and_then_the_iterator_ends() -> None:
    async def test() -> None:
        engine, sent = front()
        stream = opened(engine)
        key = key_of(sent)
        engine.deliver(report((key, frame(0)), (key, frame(1))))
        engine.deliver(report((key, SegmentEnd(0, 2)), (key, c.Ended())))
        got = await collect(stream)
        assert [type(event) for event in got] == [Frame, Frame, SegmentEnd]
        assert engine.capacity().streams == 0

    run(test)


def test_a_waiting_reader_is_woken_by_cancel_and_gets_nothing_more() -> None:
    async def test() -> None:
        engine, sent = front()
        stream = opened(engine)
        key = key_of(sent)
        reader = asyncio.create_task(collect(stream))
        await asyncio.sleep(0)
        engine.deliver(report((key, frame(0))))
        stream.cancel()
        stream.cancel()
        engine.deliver(report((key, frame(1)), (key, c.Ended(SynthesisFailed("degenerate", "late")))))
        assert await reader == []
        assert sent.count(c.Cancel(key)) == 1

    run(test)


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


def test_a_reader_that_was_cancelled_loses_no_event() -> None:
    async def test() -> None:
        engine, sent = front()
        stream = opened(engine)
        key = key_of(sent)
        reader = asyncio.create_task(collect(stream))
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader])
        engine.deliver(report((key, frame(0)), (key, c.Ended())))
        assert len(await collect(stream)) == 1

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


def test_no_more_streams_are_admitted_than_the_core_says_it_carries() -> None:
    async def test() -> None:
        engine, _ = front(max_streams=9)
        streams = [opened(engine, "a"), opened(engine, "b")]
        engine.deliver(c.Report(load=c.Load(carries=2, retry_s=0.7)))
        with pytest.raises(Busy) as refused:
            opened(engine, "c")
        assert refused.value.retry_after_s == 0.7
        engine.deliver(c.Report())  # says nothing new
        streams[0].cancel()
        opened(engine, "c")
        with pytest.raises(Busy):
            opened(engine, "d")
        engine.deliver(c.Report(load=c.Load(carries=3, retry_s=0.7)))
        opened(engine, "d")

    run(test)


def test_what_a_core_carried_that_is_gone_says_nothing_about_the_next_one() -> None:
    async def test() -> None:
        engine, _ = front(max_streams=9)
        engine.deliver(c.Report(load=c.Load(carries=1, retry_s=0.7)))
        opened(engine, "a")
        engine.fail(EngineDied("killed"))
        assert opened(engine, "b") is not opened(engine, "c"), "both are let in"

    run(test)


def test_a_conversation_has_one_stream_at_a_time() -> None:
    async def test() -> None:
        engine, sent = front()
        first = opened(engine)
        with pytest.raises(AssertionError, match="one stream"):
            opened(engine)
        first.cancel()
        opened(engine)
        engine.deliver(report((key_of(sent), c.Ended())))
        opened(engine)

    run(test)


def test_nothing_is_said_about_a_stream_that_is_over() -> None:
    async def test() -> None:
        engine, sent = front()
        stream = opened(engine)
        engine.deliver(report((key_of(sent), c.Ended())))
        before = len(sent)
        stream.push("Late.")
        stream.allow(9)
        stream.finish()
        stream.cancel()
        assert len(sent) == before

    run(test)


def test_an_empty_segment_is_a_bug_of_the_caller() -> None:
    engine, _ = front()
    with pytest.raises(AssertionError, match="empty"):
        opened(engine).push("")


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
        engine, sent = front()
        stream = opened(engine)
        job, _ = await begun(sent, engine.encode(np.zeros(10, np.float32), 22050))
        engine.fail(EngineDied("killed"))
        with pytest.raises(EngineDied):
            await job
        with pytest.raises(EngineDied):
            await collect(stream)
        assert engine.capacity().streams == 0

    run(test)


# -- jobs ---------------------------------------------------------------------------------------------------------------------------------


def test_a_job_gets_its_own_result_whole() -> None:
    async def test() -> None:
        engine, sent = front()
        task, job = await begun(sent, engine.decode(CODES))
        first, second = np.ones(2048, np.float32), np.zeros(1024, np.float32)
        engine.deliver(c.Report(pieces=[(job, first), (job + 1, first)], done={job + 1: None}))
        engine.deliver(c.Report(pieces=[(job, second)], done={job: None}))
        assert (await task == np.concatenate([first, second])).all()

    run(test)


def test_a_job_that_fails_raises_why_and_the_next_one_is_not_touched() -> None:
    async def test() -> None:
        engine, sent = front()
        task, job = await begun(sent, engine.decode(CODES))
        engine.deliver(c.Report(done={job: SynthesisFailed("bad_audio", "no")}))
        with pytest.raises(SynthesisFailed, match="no"):
            await task
        task, job = await begun(sent, engine.decode(CODES))
        engine.deliver(c.Report(pieces=[(job, np.zeros(3072, np.float32))], done={job: None}))
        assert (await task).shape == (3072,)

    run(test)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_recording_crosses_in_small_pieces(dtype: type[np.floating[Any]]) -> None:
    async def test() -> None:
        engine, sent = front()
        samples = np.random.default_rng(0).standard_normal(2 * PIECE_SAMPLES + 7).astype(dtype)
        task, job = await begun(sent, engine.encode(samples, 44100))
        await asyncio.sleep(0)
        assert sent[0] == c.Encode(job, 44100, samples.size)
        pieces = [command.samples for command in sent if isinstance(command, c.Recording)]
        assert max(piece.size for piece in pieces) == PIECE_SAMPLES
        assert all(piece.dtype == np.float32 and piece.base is None for piece in pieces)
        assert (np.concatenate(pieces) == samples.astype(np.float32)).all()
        engine.deliver(c.Report(pieces=[(job, CODES), (job, CODES)], done={job: None}))
        assert (await task).shape == (8, 6)

    run(test)


def test_a_recording_waits_for_a_core_that_is_slow_to_read_and_other_commands_pass_it() -> None:
    async def test() -> None:
        engine, sent = front(pieces=1)
        task, job = await begun(sent, engine.encode(np.zeros(5 * PIECE_SAMPLES, np.float32), 44100))
        await asyncio.sleep(0)
        opened(engine)
        assert [type(command) for command in sent] == [c.Encode, c.Recording, c.Open]
        task.cancel()
        await asyncio.wait([task])
        assert sent[-1] == c.Abandon(job)

    run(test)


def test_a_core_that_dies_under_a_recording_gets_no_more_of_it() -> None:
    async def test() -> None:
        engine, sent = front(pieces=0)
        gate = engine._writable
        assert isinstance(gate, Gate)
        task, _ = await begun(sent, engine.encode(np.zeros(5 * PIECE_SAMPLES, np.float32), 44100))
        engine.fail(EngineDied("killed"))
        gate.left.release()
        with pytest.raises(EngineDied):
            await task
        assert [type(command) for command in sent] == [c.Encode]

    run(test)


def test_a_job_that_nobody_waits_for_is_abandoned_and_its_result_dropped() -> None:
    async def test() -> None:
        engine, sent = front()
        task, job = await begun(sent, engine.decode(CODES))
        task.cancel()
        await asyncio.wait([task])
        assert sent[-1] == c.Abandon(job)
        engine.deliver(c.Report(pieces=[(job, np.zeros(3072, np.float32))], done={job: None}))

    run(test)


def test_too_many_jobs_are_refused() -> None:
    async def test() -> None:
        engine, sent = front()
        tasks = [(await begun(sent, engine.decode(CODES)))[0] for _ in range(MAX_JOBS)]
        with pytest.raises(Busy):
            await engine.decode(CODES)
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        task, _ = await begun(sent, engine.decode(CODES))
        engine.fail(EngineDied("over"))
        await asyncio.wait([*tasks, task])
        assert all(isinstance(t.exception(), EngineDied) for t in [*tasks[1:], task])

    run(test)


@pytest.mark.parametrize(
    ("samples", "rate", "what"),
    [
        (np.zeros(0, np.float32), 44100, "shape"),
        (np.zeros((2, 100), np.float32), 44100, "one channel"),
        (np.zeros(100, np.float32), 7999, "7999"),
        (np.zeros(100, np.float32), 192001, "192001"),
        (np.broadcast_to(np.float32(0), 601 * 192000), 192000, "601 s exceeds"),
    ],
    ids=["empty", "stereo", "slow", "fast", "long"],
)
def test_a_recording_that_cannot_be_encoded_is_refused_before_anything_is_sent(
    samples: np.ndarray, rate: int, what: str
) -> None:
    async def test() -> None:
        engine, sent = front()
        with pytest.raises(SynthesisFailed, match=what) as refused:
            await engine.encode(samples, rate)
        assert refused.value.code == "bad_audio" and sent == []

    run(test)


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((8, 0), np.int16),
        np.zeros((7, 3), np.int16),
        np.zeros(8, np.int16),
        np.zeros((8, 3), np.float32),
        np.full((8, 3), -1, np.int16),
        np.full((8, 3), 40_000, np.int64),
    ],
    ids=["empty", "codebooks", "flat", "float", "negative", "beyond int16"],
)
def test_what_is_no_codes_is_refused_before_anything_is_sent(codes: np.ndarray) -> None:
    async def test() -> None:
        engine, sent = front()
        with pytest.raises(SynthesisFailed) as refused:
            await engine.decode(codes)
        assert refused.value.code == "bad_codes" and sent == []

    run(test)
