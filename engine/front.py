"""The caller's side of an engine: streams as objects, events as async iterators, whatever carries the messages.

Knows which streams and jobs are open and hands reports to them. Does not know threads, processes or tensors: `send` is given. All of it
runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import cast

from engine import commands as c
from engine.api import (
    Busy,
    Capacity,
    Codes,
    Conversation,
    EngineDied,
    EngineError,
    ModelInfo,
    Samples,
    SamplingParams,
    StreamEvent,
    SynthesisFailed,
    Voice,
)


class StreamHandle:
    """One open stream; see `engine.api.Stream`."""

    def __init__(self, key: int, send: Callable[[c.Command], None], closed: Callable[[int], None]) -> None:
        self._key = key
        self._send = send
        self._closed = closed  # tells the front that the row is free
        self._events: deque[StreamEvent] = deque()  # bounded by the credit that the caller gives
        self._ended: c.Ended | None = None
        self._cancelled = False
        self._finished = False
        self._allowed = 0
        self._waiter: asyncio.Future[None] | None = None

    def push(self, segment: str) -> None:
        assert not self._finished, "a segment was pushed after finish"
        self._command(c.Push(self._key, segment))

    def finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._command(c.Finish(self._key))

    def allow(self, frame_index: int) -> None:
        if frame_index > self._allowed:
            self._allowed = frame_index
            self._command(c.Allow(self._key, frame_index))

    def cancel(self) -> None:
        if self._cancelled:
            return
        self._command(c.Cancel(self._key))
        self._cancelled = True
        self._events.clear()
        self._wake()
        self._closed(self._key)

    def _command(self, command: c.Command) -> None:
        if self._ended is None and not self._cancelled:
            self._send(command)

    def deliver(self, event: StreamEvent | c.Ended) -> None:
        """Called by the front; an event that crossed our cancel on its way is dropped."""
        if self._cancelled:
            return
        if isinstance(event, c.Ended):
            self._ended = event
            self._closed(self._key)
        else:
            self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        return self

    async def __anext__(self) -> StreamEvent:
        while True:
            if self._events:
                return self._events.popleft()
            if self._cancelled:
                raise StopAsyncIteration
            if self._ended is not None:
                error, self._ended = self._ended.error, c.Ended()  # raised once, then the iterator is merely over
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None


class EngineFront:
    """Implements `engine.api.Engine` on top of `send`; the owner calls `deliver` with every report and `fail` when the core is gone."""

    def __init__(self, info: ModelInfo, max_streams: int, send: Callable[[c.Command], None]) -> None:
        self._info = info
        self._max_streams = max_streams
        self._send = send
        self._keys = count(1)
        self._streams: dict[int, StreamHandle] = {}
        self._jobs: dict[int, asyncio.Future[Codes | Samples]] = {}

    @property
    def info(self) -> ModelInfo:
        return self._info

    def capacity(self) -> Capacity:
        return Capacity(streams=len(self._streams), max_streams=self._max_streams)

    def prefetch(self, conversation: Conversation, voice: Voice) -> None:
        self._send(c.Prefetch(conversation, voice))

    def open(self, conversation: Conversation, voice: Voice, params: SamplingParams, turn: int) -> StreamHandle:
        if len(self._streams) >= self._max_streams:
            raise Busy()
        key = next(self._keys)
        stream = StreamHandle(key, self._send, self._forget_stream)
        self._streams[key] = stream
        self._send(c.Open(key, conversation, voice, params, turn))
        return stream

    def _forget_stream(self, key: int) -> None:
        self._streams.pop(key, None)

    def forget(self, conversation_id: str) -> None:
        self._send(c.Forget(conversation_id))

    async def encode(self, samples: Samples, sample_rate: int) -> Codes:
        return cast(Codes, await self._job(lambda job: c.Encode(job, samples, sample_rate)))

    async def decode(self, codes: Codes) -> Samples:
        return cast(Samples, await self._job(lambda job: c.Decode(job, codes)))

    async def _job(self, command: Callable[[int], c.Command]) -> Codes | Samples:
        job = next(self._keys)
        future: asyncio.Future[Codes | Samples] = asyncio.get_running_loop().create_future()
        self._jobs[job] = future
        self._send(command(job))
        try:
            return await future
        finally:
            self._jobs.pop(job, None)

    def deliver(self, report: c.Report) -> None:
        """Hand a step's events and results to whoever waits for them; what nobody waits for any more is dropped."""
        for key, event in report.events:
            stream = self._streams.get(key)
            if stream is not None:
                stream.deliver(event)
        for job, result in report.results.items():
            self._settle(job, result)

    def _settle(self, job: int, result: Codes | Samples | EngineError) -> None:
        future = self._jobs.get(job)
        if future is None or future.done():
            return
        if isinstance(result, EngineError):
            future.set_exception(result)
        else:
            future.set_result(result)

    def fail(self, error: EngineDied | SynthesisFailed) -> None:
        """The core is gone: every open stream and job ends with `error`."""
        for stream in list(self._streams.values()):
            stream.deliver(c.Ended(error))
        for job in list(self._jobs):
            self._settle(job, error)
