"""An engine without a model: it speaks every text as a tone, deterministically, and fails when told to.

Implements `engine.api.Engine` exactly, so that the server and its tests, the page and a load test run without torch or
weights. Knows the contract of streams (order, credit, cancel, errors). Does not know speech.

What is unrealistic: the length of a segment follows from its character count alone; sampling parameters other than `seed`
and `max_frames` change nothing; voice and history are recorded, not heard; every stream is paced for itself, while a real
engine steps all rows at once; a step never takes longer because others wait; prefill costs nothing; `encode` hears only
one pitch per frame.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from engine.api import (
    Busy,
    Capacity,
    Codes,
    Conversation,
    EngineDied,
    EngineError,
    Frame,
    ModelInfo,
    Samples,
    SamplingParams,
    SegmentEnd,
    SegmentRetried,
    StreamEvent,
    SynthesisFailed,
    Voice,
)

TONES = 1024  # entries of the semantic codebook; entry i sounds at 110 * 2 ** (i / 256) Hz, four octaves
AMPLITUDE = 0.3  # loud enough to be told from silence in every format, far from clipping after resampling

MINI_LIKE = ModelInfo(name="scripted", sample_rate=22050, frame_samples=1024, codebooks=6, max_history_s=60.0)


@dataclass(frozen=True, slots=True)
class Cut:
    """End a segment early, as a guard does, or a model that takes it for complete."""

    frames: int  # frames delivered before the end
    why: str | None  # SegmentEnd.cut


@dataclass(frozen=True, slots=True)
class Script:
    """How the engine behaves. Segment numbers count from 0 over all streams of the engine, in the order of the pushes."""

    frames_per_char: float = 1.0  # a segment of n characters lasts ceil(n * frames_per_char) frames, at least one
    step_s: float = 0.0  # seconds a frame takes; 0: as fast as the event loop turns
    max_streams: int = 8
    errors: Mapping[int, EngineError] = field(default_factory=dict)  # step number -> raised instead of its frame
    retries: Mapping[int, str] = field(default_factory=dict)  # segment number -> why it is generated a second time
    cuts: Mapping[int, Cut] = field(default_factory=dict)  # segment number -> where it ends early
    retry_after_s: float = 0.2  # of Busy
    follows: bool = False  # its frames say where in the text they are: a steady speaker's, letter for letter


@dataclass(frozen=True, slots=True)
class Opened:
    """What one `open` was asked for."""

    conversation: Conversation
    voice: Voice
    params: SamplingParams
    turn: int


class ScriptedEngine:
    """Tones on demand. `sleep` is the only source of time: give a virtual one to run without waiting."""

    def __init__(
        self,
        script: Script | None = None,
        info: ModelInfo = MINI_LIKE,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.script = script or Script()
        self.opened: list[Opened] = []  # every successful open, in order
        self.prefetched: list[tuple[Conversation, Voice]] = []
        self.forgotten: list[str] = []
        self.steps = 0  # frames generated, over all streams
        self.streams: dict[str, ScriptedStream] = {}  # open streams by conversation id
        self._info = info
        self._sleep = sleep
        self._segments = 0

    @property
    def info(self) -> ModelInfo:
        return self._info

    def capacity(self) -> Capacity:
        return Capacity(len(self.streams), self.script.max_streams, own=len(self.streams))

    def prefetch(self, conversation: Conversation, voice: Voice) -> None:
        self.prefetched.append((conversation, voice))

    def open(self, conversation: Conversation, voice: Voice, params: SamplingParams, turn: int) -> ScriptedStream:
        assert conversation.id not in self.streams, "a conversation has one stream at a time"
        if len(self.streams) >= self.script.max_streams:
            raise Busy(self.script.retry_after_s)
        stream = ScriptedStream(self, conversation.id, params, turn)
        self.streams[conversation.id] = stream
        self.opened.append(Opened(conversation, voice, params, turn))
        return stream

    def forget(self, conversation_id: str) -> None:
        self.forgotten.append(conversation_id)

    async def encode(self, samples: Samples, sample_rate: int) -> Codes:
        frame = round(self._info.frame_samples * sample_rate / self._info.sample_rate)
        if len(samples) < frame:
            raise SynthesisFailed(
                "bad_audio", f"a recording of {len(samples)} samples is shorter than one frame of {frame}"
            )
        codes = np.zeros((self._info.codebooks, len(samples) // frame), dtype=np.int16)
        for index in range(codes.shape[1]):
            spectrum = np.abs(np.fft.rfft(samples[index * frame : (index + 1) * frame]))
            pitch_hz = max(float(spectrum.argmax()) * sample_rate / frame, 110.0)
            codes[:3, index] = (int(min(256 * np.log2(pitch_hz / 110.0), TONES - 1)), *_halves(index))
        return codes

    async def decode(self, codes: Codes) -> Samples:
        if codes.shape[1] == 0:
            return np.zeros(0, dtype=np.float32)
        return np.concatenate([self.sound(codes[:, index]) for index in range(codes.shape[1])])

    def sound(self, codes: np.ndarray[tuple[int, ...], np.dtype[np.int16]]) -> Samples:
        """Samples of one frame. codes [K]: the tone, then the frame's index within its segment in two halves (phase)."""
        index = int(codes[1]) + 1024 * int(codes[2])
        t = (index * self._info.frame_samples + np.arange(self._info.frame_samples)) / self._info.sample_rate
        samples: Samples = (AMPLITUDE * np.sin(2 * np.pi * 110.0 * 2.0 ** (int(codes[0]) / 256) * t)).astype(np.float32)
        return samples

    def codes(self, text: str, index: int, seed: int, turn: int) -> Codes:
        """Codes [K, 1] of frame `index` of a segment. Rows 0 to 2 make the sound; the rest depend on seed and turn."""
        codes = np.zeros((self._info.codebooks, 1), dtype=np.int16)
        codes[:3, 0] = (zlib.crc32(text.encode()) % TONES, *_halves(index))
        for row in range(3, self._info.codebooks):
            codes[row, 0] = zlib.crc32(f"{seed}/{turn}/{index}/{row}".encode()) % 1024
        return codes

    def die(self, detail: str = "killed") -> None:
        """End every open stream with EngineDied, as when the engine's process is killed; later calls of `open` work."""
        for stream in list(self.streams.values()):
            stream.fail(EngineDied(detail))

    def next_segment(self) -> int:
        """A number for the segment that is being pushed."""
        self._segments += 1
        return self._segments - 1

    async def pace(self) -> None:
        """Take as long as a step takes."""
        await self._sleep(self.script.step_s)


class ScriptedStream:
    """`engine.api.Stream`. Beside the iterator, `step` makes the next event at once, for tests without an event loop."""

    def __init__(self, engine: ScriptedEngine, conversation: str, params: SamplingParams, turn: int) -> None:
        self.cancelled = False
        self.credit = 0  # frames below this index may be generated
        self.pushed: list[str] = []
        self._engine = engine
        self._conversation = conversation
        self._params = params
        self._turn = turn
        self._numbers: list[int] = []  # the engine's number of each pushed segment
        self._finished = False
        self._error: EngineError | None = None
        self._closed = False  # nothing follows
        self._segment = 0  # index of the segment being spoken
        self._spoken = 0  # frames of it
        self._frames = 0  # frames of the turn
        self._retried: set[int] = set()
        self._wake = asyncio.Event()

    def push(self, segment: str) -> None:
        assert not self._finished, "push after finish"
        assert segment, "an empty segment"
        self.pushed.append(segment)
        self._numbers.append(self._engine.next_segment())
        self._wake.set()

    def finish(self) -> None:
        self._finished = True
        self._wake.set()

    def allow(self, frame_index: int) -> None:
        assert frame_index >= self.credit, f"credit fell from {self.credit} to {frame_index}"
        self.credit = frame_index
        self._wake.set()

    def cancel(self) -> None:
        self.cancelled = True
        self._close()

    def fail(self, error: EngineError) -> None:
        """Make the next step raise `error`."""
        self._error = error
        self._wake.set()

    @property
    def ended(self) -> bool:
        """True once no event will follow."""
        if not self._closed and self._finished and self._segment == len(self.pushed) and self._error is None:
            self._close()
        return self._closed

    def step(self) -> StreamEvent | None:
        """The next event, or None: it waits for text or credit, or has ended. Raises EngineError at most once."""
        if self._closed:
            return None
        if self._error is not None:
            self._close()
            raise self._error
        if self._segment == len(self.pushed):
            return None
        number = self._numbers[self._segment]
        if number in self._engine.script.retries and number not in self._retried:
            self._retried.add(number)
            return SegmentRetried(self._segment, self._engine.script.retries[number])
        return self._speak(number)

    def _speak(self, number: int) -> StreamEvent | None:
        text, script = self.pushed[self._segment], self._engine.script
        planned = max(1, -int(-len(text) * script.frames_per_char // 1))
        end = min(planned, script.cuts[number].frames) if number in script.cuts else planned
        if self._frames >= self._params.max_frames:
            self._close()  # segments that wait are not spoken
            return self._end("length")
        if self._spoken >= end:
            return self._end(script.cuts[number].why if number in script.cuts else None)
        if self._frames >= self.credit:
            return None
        error = script.errors.get(self._engine.steps)
        self._engine.steps += 1
        if error is not None:
            self._close()
            raise error
        codes = self._engine.codes(text, self._spoken, self._params.seed, self._turn)[:, 0]
        place = min(len(text) - 1, int(self._spoken / script.frames_per_char)) if script.follows else None
        frame = Frame(self._segment, self._frames, codes, self._engine.sound(codes), place)
        self._spoken += 1
        self._frames += 1
        return frame

    def _end(self, why: str | None) -> SegmentEnd:
        event = SegmentEnd(self._segment, self._spoken, why)
        self._segment += 1
        self._spoken = 0
        return event

    def _close(self) -> None:
        self._closed = True
        self._wake.set()
        if self._engine.streams.get(self._conversation) is self:
            del self._engine.streams[self._conversation]

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        while not self.ended:
            self._wake.clear()
            event = self.step()
            if event is None:
                await self._wake.wait()
                continue
            if isinstance(event, Frame):
                await self._engine.pace()
                if self.cancelled:
                    return
            yield event


def _halves(index: int) -> tuple[int, int]:
    """A frame index below 2 ** 20 as two entries below 1024: codes are 16 bits."""
    return index % 1024, index // 1024 % 1024
