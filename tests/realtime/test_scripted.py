"""The contract of `engine.api` that the server relies on, kept by the scripted engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

import numpy as np
import pytest

from engine.api import (
    Busy,
    Conversation,
    EngineDied,
    EngineError,
    Frame,
    SamplingParams,
    SegmentEnd,
    SegmentRetried,
    StreamEvent,
    SynthesisFailed,
    Voice,
)
from realtime.scripted import MINI_LIKE, Cut, Script, ScriptedEngine, ScriptedStream

T = TypeVar("T")


def run(coroutine: Coroutine[object, object, T]) -> T:
    return asyncio.run(coroutine)


def opened(
    engine: ScriptedEngine, *segments: str, credit: int = 10_000, name: str = "c", seed: int = 0
) -> ScriptedStream:
    stream = engine.open(Conversation(name), Voice("default"), SamplingParams(seed=seed), turn=1)
    for segment in segments:
        stream.push(segment)
    stream.finish()
    stream.allow(credit)
    return stream


async def events(stream: ScriptedStream) -> list[StreamEvent]:
    return [event async for event in stream]


def frames(got: list[StreamEvent]) -> list[Frame]:
    return [event for event in got if isinstance(event, Frame)]


def test_segments_come_in_order_with_frames_without_gaps() -> None:
    got = run(events(opened(ScriptedEngine(), "abc", "de")))
    assert [frame.index for frame in frames(got)] == [0, 1, 2, 3, 4]
    assert [frame.segment for frame in frames(got)] == [0, 0, 0, 1, 1]
    assert [event for event in got if isinstance(event, SegmentEnd)] == [SegmentEnd(0, 3), SegmentEnd(1, 2)]
    assert all(frame.samples.shape == (1024,) and frame.codes.shape == (MINI_LIKE.codebooks,) for frame in frames(got))


def test_the_same_text_and_seed_give_the_same_frames() -> None:
    def codes(text: str, seed: int) -> list[list[int]]:
        return [frame.codes.tolist() for frame in frames(run(events(opened(ScriptedEngine(), text, seed=seed))))]

    assert codes("abc", 1) == codes("abc", 1)
    assert codes("abc", 1) != codes("abc", 2)
    assert codes("abc", 1)[0][0] != codes("abd", 1)[0][0], "another text is another tone"


def test_no_frame_comes_without_credit() -> None:
    stream = opened(ScriptedEngine(), "abcdef", credit=2)
    got = [stream.step() for _ in range(4)]
    assert [isinstance(event, Frame) for event in got] == [True, True, False, False]
    stream.allow(3)
    assert isinstance(stream.step(), Frame) and stream.step() is None


def test_a_consumer_that_waits_goes_on_when_credit_and_text_come() -> None:
    async def scene() -> list[StreamEvent]:
        stream = ScriptedEngine().open(Conversation("c"), Voice("v"), SamplingParams(), 1)
        task = asyncio.ensure_future(events(stream))
        acts: list[Callable[[], None]] = [
            lambda: stream.push("ab"),
            lambda: stream.allow(1),
            lambda: stream.allow(2),
            stream.finish,
        ]
        for act in acts:
            await asyncio.sleep(0)
            assert not task.done()
            act()
        return await task

    assert len(frames(run(scene()))) == 2


def test_a_cancelled_stream_ends_without_another_event_and_frees_its_place() -> None:
    async def scene() -> list[StreamEvent]:
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def sleep(_: float) -> None:
            reached.set()
            await go_on.wait()

        engine = ScriptedEngine(Script(max_streams=1), sleep=sleep)
        stream = opened(engine, "abc")
        task = asyncio.ensure_future(events(stream))
        await reached.wait()
        stream.cancel()
        stream.cancel()
        opened(engine, "next", name="d")
        go_on.set()
        return await task

    assert run(scene()) == []


def test_a_frame_takes_as_long_as_the_script_says() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    run(events(opened(ScriptedEngine(Script(step_s=0.02), sleep=sleep), "abc")))
    assert slept == [0.02] * 3


def test_a_full_engine_is_busy() -> None:
    engine = ScriptedEngine(Script(max_streams=2, retry_after_s=0.5))
    first = opened(engine, "a", name="a")
    opened(engine, "b", name="b")
    assert engine.capacity().streams == engine.capacity().max_streams == 2
    with pytest.raises(Busy) as busy:
        opened(engine, "c", name="c")
    assert busy.value.retry_after_s == 0.5
    run(events(first))
    opened(engine, "c", name="c")


def test_a_conversation_has_one_stream() -> None:
    engine = ScriptedEngine()
    opened(engine, "a")
    with pytest.raises(AssertionError, match="one stream"):
        opened(engine, "b")


@pytest.mark.parametrize("step", range(4))
def test_the_chosen_step_fails_and_nothing_follows(step: int) -> None:
    async def scene() -> tuple[list[StreamEvent], EngineError]:
        stream = opened(ScriptedEngine(Script(errors={step: SynthesisFailed("degenerate", "on purpose")})), "abcd")
        got: list[StreamEvent] = []
        with pytest.raises(SynthesisFailed) as failure:
            async for event in stream:
                got.append(event)
        assert await events(stream) == []
        return got, failure.value

    got, error = run(scene())
    assert len(got) == step and str(error) == "on purpose"


def test_a_dying_engine_ends_every_stream_and_lives_on() -> None:
    async def scene() -> None:
        engine = ScriptedEngine()
        streams = [opened(engine, "abc", credit=0, name=name) for name in "ab"]
        tasks: list[Awaitable[list[StreamEvent]]] = [asyncio.ensure_future(events(stream)) for stream in streams]
        await asyncio.sleep(0)
        engine.die("killed")
        for task in tasks:
            with pytest.raises(EngineDied, match="killed"):
                await task
        assert len(frames(await events(opened(engine, "abc")))) == 3

    run(scene())


def test_a_segment_can_be_retried_and_cut() -> None:
    script = Script(retries={0: "nan"}, cuts={1: Cut(1, "runaway")})
    got = run(events(opened(ScriptedEngine(script), "ab", "abc")))
    assert got[0] == SegmentRetried(0, "nan")
    assert len(frames(got)) == 3 and got[-1] == SegmentEnd(1, 1, "runaway")


def test_a_turn_is_never_longer_than_its_bound() -> None:
    stream = ScriptedEngine().open(Conversation("c"), Voice("v"), SamplingParams(max_frames=4), 1)
    stream.push("abc")
    stream.push("def")
    stream.finish()
    stream.allow(100)
    got = run(events(stream))
    assert len(frames(got)) == 4 and got[-1] == SegmentEnd(1, 1, "length")


def test_codes_decode_to_what_was_heard() -> None:
    engine = ScriptedEngine()
    got = frames(run(events(opened(engine, "hello"))))
    codes = np.stack([frame.codes for frame in got], axis=1)
    assert np.array_equal(run(engine.decode(codes)), np.concatenate([frame.samples for frame in got]))
    assert run(engine.decode(codes[:, :0])).shape == (0,)


def test_a_recording_encodes_to_its_pitch() -> None:
    engine = ScriptedEngine()
    tone = np.sin(2 * np.pi * 440.0 * np.arange(44100) / 44100).astype(np.float32)
    codes = run(engine.encode(tone, 44100))
    assert codes.shape == (MINI_LIKE.codebooks, 21) and np.all(np.abs(codes[0] - 512) < 12), (
        "440 Hz is two octaves above 110"
    )
    with pytest.raises(SynthesisFailed, match="shorter than one frame"):
        run(engine.encode(tone[:100], 44100))


def test_hints_are_noted() -> None:
    engine = ScriptedEngine()
    engine.prefetch(Conversation("c"), Voice("v"))
    engine.forget("c")
    assert engine.prefetched[0][1].id == "v" and engine.forgotten == ["c"]
