"""Several fronts before one engine: who gets which part of a report, and what becomes of what a process had open that is gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from engine import commands as c
from engine.api import (
    Busy,
    Capacity,
    Conversation,
    EngineDied,
    EngineLimits,
    Frame,
    ModelInfo,
    SamplingParams,
    SegmentEnd,
    Voice,
)
from engine.front import OwnSeats, StreamHandle
from engine.fronts import LOAD_EVERY_S, DistantEngine, Fronts, HubLink
from engine.wire import pack

INFO = ModelInfo("scripted", 22050, 4, 2, 60.0)
PATIENCE_S = 30.0


class Worker:
    """In the place of an EngineWorker: remembers what it is sent. Unrealistic: it says what the test tells it to."""

    info = INFO
    limits = EngineLimits(max_streams=3)

    def __init__(self) -> None:
        self.sent: list[c.Command] = []
        self.open = asyncio.Event()
        self.open.set()

    def serve(self, deliver: Any, fail: Any) -> None:
        self.deliver, self.fail = deliver, fail

    def send(self, command: c.Command) -> None:
        self.sent.append(command)

    async def until_writable(self) -> None:
        await self.open.wait()

    async def gets(self, kind: type[Any], number: int = 1) -> list[Any]:
        """The first so many of a kind, once they are there."""
        while len(found := [command for command in self.sent if isinstance(command, kind)]) < number:
            await asyncio.sleep(0.001)
        return found


@dataclass
class Together:
    """A hub and the engines of its processes, over real sockets."""

    worker: Worker
    fronts: Fronts
    engines: list[DistantEngine]
    links: list[HubLink]
    ends: list[asyncio.Transport]
    lost: list[int] = field(default_factory=list)
    spare: list[object] = field(default_factory=list)


@asynccontextmanager
async def together(count: int = 2) -> AsyncIterator[Together]:
    loop = asyncio.get_running_loop()
    worker = Worker()
    fronts = Fronts(worker, count, loop.time)  # type: ignore[arg-type]
    all_ = Together(worker, fronts, [], [], [])
    seats = OwnSeats(worker.limits.max_streams)
    for index in range(count):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        hub_link = fronts.link(index, all_.spare.append, lambda index=index: all_.lost.append(index))  # type: ignore[misc]
        await loop.create_unix_connection(lambda hub_link=hub_link: hub_link, sock=ours)  # type: ignore[misc]
        link = HubLink(all_.spare.append, lambda: None)
        transport, _ = await loop.create_unix_connection(lambda link=link: link, sock=theirs)  # type: ignore[misc]
        all_.links.append(link)
        all_.ends.append(transport)
        all_.engines.append(DistantEngine(INFO, worker.limits.max_streams, index, count, seats, link))
    try:
        yield all_
    finally:
        fronts.close()
        for transport in all_.ends:
            transport.abort()
        await asyncio.sleep(0)


def run(test: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(test, PATIENCE_S))


def opened(engine: DistantEngine, name: str) -> StreamHandle:
    return engine.open(Conversation(name), Voice("v"), SamplingParams(), 0)


def frame(index: int) -> Frame:
    return Frame(0, index, np.full(2, index, np.int16), np.full(4, index, np.float32))


def test_each_process_hears_of_its_own_streams_alone() -> None:
    async def test() -> None:
        async with together() as all_:
            streams = [opened(engine, f"c{index}") for index, engine in enumerate(all_.engines)]
            for stream in streams:
                stream.push("Hello.")
            keys = [command.stream for command in await all_.worker.gets(c.Open, 2)]
            assert sorted(key % 2 for key in keys) == [0, 1]
            by_process = sorted(keys, key=lambda key: key % 2)
            events = [(by_process[1], frame(0)), (by_process[0], frame(7)), (by_process[0], SegmentEnd(0, 1))]
            all_.worker.deliver(c.Report(events + [(key, c.Ended()) for key in keys]))
            heard = [[event async for event in stream] for stream in streams]
            assert [event.index for event in heard[0] if isinstance(event, Frame)] == [7]
            assert [type(event) for event in heard[0]] == [Frame, SegmentEnd]
            assert [event.index for event in heard[1] if isinstance(event, Frame)] == [0]

    run(test())


def test_a_stream_for_which_another_process_made_room_waits_for_that_to_be_told() -> None:
    """Seats pass from process to process at once, commands by way of the hub: an engine that has no row for a stream would end."""

    async def test() -> None:
        async with together() as all_:
            first, *_ = [opened(all_.engines[0], f"c{index}") for index in range(3)]
            await all_.worker.gets(c.Open, 3)
            slow = all_.fronts._links[0]
            assert slow is not None
            slow.pause()
            first.cancel()
            late = opened(all_.engines[1], "late")
            late.push("Hello.")
            all_.links[1].send("heard")
            while not all_.spare:
                await asyncio.sleep(0.001)
            assert len(await all_.worker.gets(c.Open, 3)) == 3
            assert not any(isinstance(command, c.Cancel | c.Push) for command in all_.worker.sent)
            slow.resume()
            await all_.worker.gets(c.Push)
            assert [type(command) for command in all_.worker.sent[3:]] == [c.Cancel, c.Open, c.Push]

    run(test())


def test_a_process_that_is_not_connected_yet_is_not_waited_for_when_the_engine_dies() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        worker, heard = Worker(), list[object]()
        fronts = Fronts(worker, 1, asyncio.get_running_loop().time)  # type: ignore[arg-type]
        link = fronts.link(0, heard.append, lambda: None)
        worker.fail(EngineDied("it was killed"))
        ours.setblocking(False)
        with theirs:
            await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
            theirs.sendall(pack(c.Forget("c")))
            assert await worker.gets(c.Forget) == [c.Forget("c")]
            fronts.close()

    run(test())


def test_what_a_lost_process_had_open_is_cancelled_and_nothing_of_another() -> None:
    async def test() -> None:
        async with together() as all_:
            opened(all_.engines[0], "mine")
            ended = opened(all_.engines[0], "over")
            kept = opened(all_.engines[1], "other")
            opens = {command.conversation.id: command.stream for command in await all_.worker.gets(c.Open, 3)}
            all_.worker.deliver(c.Report([(opens["over"], c.Ended())]))
            assert [event async for event in ended] == []
            job = asyncio.create_task(all_.engines[0].decode(np.zeros((2, 3), np.int16)))
            (decode,) = await all_.worker.gets(c.Decode)
            all_.ends[0].abort()
            await all_.worker.gets(c.Abandon)
            cancels = [command.stream for command in all_.worker.sent if isinstance(command, c.Cancel)]
            assert cancels == [opens["mine"]] and all_.worker.sent[-1] == c.Abandon(decode.job)
            assert all_.lost == [0]
            all_.worker.deliver(c.Report([(opens["other"], frame(3)), (opens["mine"], frame(4))]))
            assert isinstance(await anext(kept), Frame)
            job.cancel()

    run(test())


def test_every_process_learns_that_the_engine_died_and_what_crossed_the_news_is_dropped() -> None:
    async def test() -> None:
        async with together() as all_:
            first = opened(all_.engines[0], "a")
            await all_.worker.gets(c.Open)
            all_.worker.sent.clear()
            all_.worker.fail(EngineDied("it is gone"))
            crossing = opened(all_.engines[1], "b")  # its process does not know yet
            with pytest.raises(EngineDied, match="it is gone"):
                await anext(first)
            with pytest.raises(EngineDied, match="it is gone"):
                await anext(crossing)
            opened(all_.engines[1], "c")
            (open_,) = await all_.worker.gets(c.Open)
            assert open_.conversation.id == "c"

    run(test())


def test_all_processes_together_take_no_more_streams_than_there_are_rows() -> None:
    async def test() -> None:
        async with together() as all_:
            streams = [opened(all_.engines[index % 2], f"c{index}") for index in range(3)]
            assert all_.engines[0].capacity() == Capacity(streams=3, max_streams=3, own=2)
            with pytest.raises(Busy):
                opened(all_.engines[1], "one too many")
            streams[0].cancel()
            opened(all_.engines[1], "now")

    run(test())


def test_a_process_with_nothing_to_hear_learns_what_the_engine_carries() -> None:
    async def test() -> None:
        async with together() as all_:
            opened(all_.engines[0], "a")
            (open_,) = await all_.worker.gets(c.Open)
            all_.worker.deliver(c.Report([(open_.stream, frame(0))], load=c.Load(1, 7.5)))
            while all_.engines[1]._load is None:
                await asyncio.sleep(0.001)
            with pytest.raises(Busy) as busy:
                opened(all_.engines[1], "b")
            assert busy.value.retry_after_s == 7.5

    run(test())


def test_load_that_hardly_changes_is_told_now_and_then_only() -> None:
    async def test() -> None:
        async with together() as all_:
            link = all_.fronts._links[0]
            assert link is not None
            link.load, link.load_at = c.Load(4, 1.0), 100.0
            assert not link.wants_load(c.Load(4, 1.5), 100.0 + LOAD_EVERY_S / 2)
            assert link.wants_load(c.Load(4, 1.5), 100.0 + LOAD_EVERY_S)
            assert link.wants_load(c.Load(3, 1.0), 100.0)
            assert not link.wants_load(None, 200.0) and not link.wants_load(link.load, 200.0)

    run(test())


def test_recordings_wait_for_a_worker_that_is_slow_and_commands_pass_again_afterwards() -> None:
    async def test() -> None:
        async with together() as all_:
            all_.worker.open.clear()
            rng = np.random.default_rng(0)
            job = asyncio.create_task(all_.engines[0].encode(rng.random(22050 * 200, np.float32), 22050))
            await all_.worker.gets(c.Recording)
            for _ in range(200):
                await asyncio.sleep(0.001)
            held = len([command for command in all_.worker.sent if isinstance(command, c.Recording)])
            assert held * (1 << 16) < 22050 * 200
            all_.worker.open.set()
            pieces = await all_.worker.gets(c.Recording, -(-22050 * 200 // (1 << 16)))
            all_.worker.deliver(
                c.Report(pieces=[(pieces[0].job, np.ones((2, 3), np.int16))], done={pieces[0].job: None})
            )
            assert (await job).shape == (2, 3)

    run(test())
