"""The caller's side of an engine: streams as objects, events as async iterators, whatever carries the messages.

Knows which streams and jobs are open, hands reports to them, and refuses what the core must never see. Does not know threads, processes or
tensors: `send` is given. All of it runs on the event loop's thread, and none of it takes long there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import numpy as np

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

MAX_JOBS = 8  # waiting or in hand; they are done one after the other, so more would only wait longer
MAX_RECORDING_S = 600.0  # far more than any model listens to; bounds what the engine's process holds
PIECE_SAMPLES = 1 << 16  # of a recording in one message: 256 KiB, copied in less than a millisecond


class StreamHandle:
    """One open stream; see `engine.api.Stream`."""

    def __init__(
        self, key: int, conversation: str, send: Callable[[c.Command], None], closed: Callable[[int], None]
    ) -> None:
        self.conversation = conversation
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
        assert segment, "an empty segment was pushed"
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


class Seats(Protocol):
    """How many streams there may be, where several fronts have one engine."""

    def take(self) -> bool:
        """One more of ours. False: there are as many as there may be."""

    def give_back(self) -> None:
        """One of ours is over."""

    def taken(self) -> int:
        """Streams of all fronts."""


class OwnSeats:
    """Of the only front."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0

    def take(self) -> bool:
        """See `Seats`."""
        if self._taken >= self._most:
            return False
        self._taken += 1
        return True

    def give_back(self) -> None:
        """See `Seats`."""
        self._taken -= 1

    def taken(self) -> int:
        """See `Seats`."""
        return self._taken


@dataclass(slots=True, eq=False)
class _Job:
    """One that somebody waits for."""

    over: asyncio.Future[None]
    pieces: list[Codes | Samples] = field(default_factory=list)  # of its result


class EngineFront:
    """Implements `engine.api.Engine` on top of `send`; the owner calls `deliver` with every report and `fail` when the core is gone."""

    def __init__(
        self,
        info: ModelInfo,
        max_streams: int,
        send: Callable[[c.Command], None],
        writable: Callable[[], Awaitable[None]],
        seats: Seats | None = None,
        keys: Iterator[int] | None = None,
    ) -> None:
        """send: never blocks. writable: waits while what was sent piles up; only pieces of recordings wait for it.

        seats, keys: of several fronts; no two of them give out the same key.
        """
        self._info = info
        self._max_streams = max_streams
        self._send = send
        self._writable = writable
        self._seats = seats if seats is not None else OwnSeats(max_streams)
        self._keys = keys if keys is not None else count(1)
        self._streams: dict[int, StreamHandle] = {}
        self._load: c.Load | None = None  # as the core told it last; None: it has not
        self._jobs: dict[int, _Job] = {}

    @property
    def info(self) -> ModelInfo:
        return self._info

    def capacity(self) -> Capacity:
        return Capacity(self._seats.taken(), self._max_streams, own=len(self._streams))

    def prefetch(self, conversation: Conversation, voice: Voice) -> None:
        self._send(c.Prefetch(conversation, voice))

    def open(self, conversation: Conversation, voice: Voice, params: SamplingParams, turn: int) -> StreamHandle:
        open_now = self._streams.values()
        assert all(s.conversation != conversation.id for s in open_now), "a conversation has one stream at a time"
        if self._is_loaded() or not self._seats.take():
            raise Busy(self._load.retry_s) if self._load is not None else Busy()
        key = next(self._keys)
        stream = StreamHandle(key, conversation.id, self._send, self._forget_stream)
        self._streams[key] = stream
        self._send(c.Open(key, conversation, voice, params, turn))
        return stream

    def _is_loaded(self) -> bool:
        """Another stream would be one too many for all of them to be heard without gaps."""
        return self._load is not None and self._seats.taken() >= self._load.carries

    def _forget_stream(self, key: int) -> None:
        if self._streams.pop(key, None) is not None:
            self._seats.give_back()

    def forget(self, conversation_id: str) -> None:
        self._send(c.Forget(conversation_id))

    async def encode(self, samples: Samples, sample_rate: int) -> Codes:
        """See `engine.api.Engine.encode`."""
        _check_recording(samples, sample_rate)
        key, job = self._new_job()
        try:
            self._send(c.Encode(key, sample_rate, samples.size))
            for start in range(0, samples.size, PIECE_SAMPLES):
                await self._writable()
                if job.over.done():
                    break
                self._send(c.Recording(key, samples[start : start + PIECE_SAMPLES].astype(np.float32)))
            await job.over
        finally:
            self._end_job(key)
        return np.concatenate(job.pieces, axis=1)

    async def decode(self, codes: Codes) -> Samples:
        """See `engine.api.Engine.decode`."""
        _check_codes(codes, self._info.codebooks)
        key, job = self._new_job()
        try:
            self._send(c.Decode(key, codes.astype(np.int16)))
            await job.over
        finally:
            self._end_job(key)
        return np.concatenate(job.pieces)

    def _new_job(self) -> tuple[int, _Job]:
        if len(self._jobs) >= MAX_JOBS:
            raise Busy()
        key = next(self._keys)
        self._jobs[key] = job = _Job(asyncio.get_running_loop().create_future())
        return key, job

    def _end_job(self, key: int) -> None:
        job = self._jobs.pop(key)
        if not job.over.done() or job.over.cancelled():
            self._send(c.Abandon(key))
        else:
            job.over.exception()  # seen, even if the caller was cancelled before it came to look

    def deliver(self, report: c.Report) -> None:
        """Hand a step's events and results to whoever waits for them; what nobody waits for any more is dropped."""
        self._load = report.load or self._load
        for key, event in report.events:
            if (stream := self._streams.get(key)) is not None:
                stream.deliver(event)
        for key, piece in report.pieces:
            if (job := self._jobs.get(key)) is not None:
                job.pieces.append(piece)
        for key, error in report.done.items():
            if (job := self._jobs.get(key)) is not None:
                _settle(job, error)

    def fail(self, error: EngineDied) -> None:
        """The core is gone: every open stream and job ends with `error`."""
        self._load = None
        for stream in list(self._streams.values()):
            stream.deliver(c.Ended(error))
        for job in self._jobs.values():
            _settle(job, error)


def _settle(job: _Job, error: EngineError | None) -> None:
    if job.over.done():
        return
    if error is None:
        job.over.set_result(None)
    else:
        job.over.set_exception(error)


def _check_recording(samples: Samples, sample_rate: int) -> None:
    """Raises SynthesisFailed for what cannot be encoded, as far as that shows without looking at every sample."""
    if samples.ndim != 1 or not samples.size:
        raise SynthesisFailed("bad_audio", f"a recording is one channel of samples, got shape {samples.shape}")
    if not 8000 <= sample_rate <= 192000:
        raise SynthesisFailed("bad_audio", f"sample rate {sample_rate} Hz is outside 8000..192000 Hz")
    if samples.size > MAX_RECORDING_S * sample_rate:
        seconds = samples.size / sample_rate
        raise SynthesisFailed("bad_audio", f"recording of {seconds:.0f} s exceeds {MAX_RECORDING_S:.0f} s")


def _check_codes(codes: Codes, codebooks: int) -> None:
    """Raises SynthesisFailed for what is no codes."""
    if codes.ndim != 2 or codes.shape[0] != codebooks or not codes.shape[1] or codes.dtype.kind not in "iu":
        detail = f"codes are integers [{codebooks}, frames >= 1], got {codes.dtype} {list(codes.shape)}"
        raise SynthesisFailed("bad_codes", detail)
    if codes.min() < 0 or codes.max() > np.iinfo(np.int16).max:
        raise SynthesisFailed("bad_codes", f"codes lie in {codes.min()}..{codes.max()}, which no codebook does")
