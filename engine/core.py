"""The engine itself: streams in, one batched step at a time, frames out.

Knows what each stream is doing (waiting for text, prefilling, decoding), how a turn's prompt grows, and what to do when output is not
speech. Does not know tensors (`engine.runner`), who is served next (`engine.scheduler`) or what is cached (`engine.cache`).
Single-threaded: whoever owns it calls `handle` for each command and `step` while `has_work`.

One stream, one turn: every pushed segment becomes a user/assistant pair of the prompt (s2pro.md 3.2). A finished pair joins `past`, so
the next segment's prompt continues it and the cache finds everything but the new text already computed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine import commands as c
from engine.api import (
    Codes,
    Conversation,
    EngineLimits,
    Frame,
    ModelInfo,
    SamplingParams,
    SegmentEnd,
    SegmentRetried,
    SynthesisFailed,
    Voice,
)
from engine.cache import ConversationCache
from engine.guard import Fault, SegmentGuard
from engine.jobs import Jobs
from engine.kv import CachedSequence, Columns, OutOfPages
from engine.model import Hidden
from engine.prompt import PromptBuilder
from engine.runner import Drawn, Runner
from engine.scheduler import Plan, View, plan

MAX_ATTEMPTS = 2  # a segment that came out degenerate before any of it was sent is tried once more


@dataclass(slots=True)
class Segment:
    """The segment that is being generated."""

    index: int
    text: str
    guard: SegmentGuard
    attempt: int = 0
    frames: list[np.ndarray] = field(default_factory=list)  # codes [K] of the frames delivered


@dataclass(slots=True)
class OpenStream:
    """One turn inside the core. It is dropped whole; nothing in it is ever reset."""

    key: int
    row: int  # of the runner's per-row state
    conversation: str
    voice: str
    params: SamplingParams
    turn: int
    past: list[Columns]  # prompt pieces before the current segment: system, history, this turn's finished segments
    prefix: int  # positions of the system message
    opened_s: float
    texts: deque[str] = field(default_factory=deque)  # segments not begun
    begun: int = 0  # segments begun
    finished: bool = False  # no text follows
    segment: Segment | None = None
    target: Columns | None = None  # prompt being prefilled; None once it is complete
    sequence: CachedSequence | None = None
    column: Columns | None = None  # [K + 1, 1]: the last frame, fed by the next decode step
    frames: int = 0  # delivered in the turn
    allowed: int = 0
    first_frame_s: float | None = None
    sane: bool = False  # something worth hearing was delivered
    waiting_since_s: float = 0.0

    @property
    def missing(self) -> int:
        """Prompt positions still to be computed."""
        if self.target is None or self.sequence is None:
            return 0
        return int(self.target.shape[1]) - self.sequence.length

    @property
    def has_credit(self) -> bool:
        return self.frames < self.allowed

    def view(self, now: float, frame_s: float) -> View | None:
        """What the scheduler should know, or None while there is nothing to do."""
        if self.segment is None:
            return View(self.key, self.missing, True, self.waiting_since_s, None) if self.missing else None
        if not self.has_credit:
            return None
        lead = None if self.first_frame_s is None else self.frames * frame_s - (now - self.first_frame_s)
        return View(self.key, self.missing, True, self.waiting_since_s, lead)


@dataclass(slots=True)
class _Prefetch:
    """Prefill for a conversation that has no stream yet."""

    conversation: str
    voice: str
    prefix: int
    target: Columns
    sequence: CachedSequence


class EngineCore:
    """See the module. `clock` gives monotonic seconds."""

    def __init__(
        self,
        runner: Runner,
        prompts: PromptBuilder,
        info: ModelInfo,
        limits: EngineLimits,
        *,
        guarded: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """guarded: watch for degenerate output. Off for exactness checks on random weights, which produce nothing else."""
        self.info = info
        self.limits = limits
        self.cache = ConversationCache(runner.pool, info.codebooks)
        self._runner = runner
        self._prompts = prompts
        self._guarded = guarded
        self._clock = clock
        self._jobs = Jobs(runner.codec, info)
        self._streams: dict[int, OpenStream] = {}
        self._free_rows = list(reversed(range(limits.max_streams)))
        self._prefetches: dict[str, _Prefetch] = {}
        self._report = c.Report()

    # -- commands ---------------------------------------------------------------------------------------------------------------------

    def handle(self, command: c.Command) -> None:
        """Apply one command. What is said about a stream that is over is ignored: messages cross."""
        match command:
            case c.Open():
                self._open(command)
            case c.Push(stream, text):
                if (s := self._streams.get(stream)) is not None:
                    s.texts.append(text)
                    self._begin_segment(s)
            case c.Finish(stream):
                if (s := self._streams.get(stream)) is not None:
                    s.finished = True
                    self._begin_segment(s)
            case c.Allow(stream, frame_index):
                if (s := self._streams.get(stream)) is not None:
                    s.allowed = max(s.allowed, frame_index)
            case c.Cancel(stream):
                if stream in self._streams:
                    self._close(self._streams[stream])
            case c.Prefetch(conversation, voice):
                self._prefetch(conversation, voice)
            case c.Forget(conversation):
                self._drop_prefetch(conversation)
                self.cache.forget(conversation)
            case c.Encode() | c.Decode():
                self._jobs.add(command)

    def has_work(self) -> bool:
        """A step would do something."""
        now = self._clock()
        return bool(
            self._report
            or self._jobs
            or self._prefetches
            or any(stream.view(now, self.info.frame_s) for stream in self._streams.values())
        )

    def _open(self, command: c.Open) -> None:
        assert self._free_rows, "the front admits no more streams than there are rows"
        conversation, voice = command.conversation, command.voice
        self._drop_prefetch(conversation.id)
        past, prefix = self._history(conversation, voice)
        stream = OpenStream(
            key=command.stream,
            row=self._free_rows.pop(),
            conversation=conversation.id,
            voice=voice.id,
            params=command.params,
            turn=command.turn,
            past=past,
            prefix=prefix,
            opened_s=self._clock(),
        )
        self._streams[stream.key] = stream
        self.cache.acquire(conversation.id)
        self._runner.open_row(stream.row, command.params, command.turn)
        self._aim(stream, np.concatenate(past, axis=1), keep_last=False)

    def _history(self, conversation: Conversation, voice: Voice) -> tuple[list[Columns], int]:
        """Prompt pieces of voice and history, and how many positions the voice takes."""
        system = self._prompts.system(voice)
        pieces = [system]
        for spoken in conversation.history:
            pieces += [self._prompts.user(spoken.text), self._prompts.spoken(spoken.codes)]
        return pieces, system.shape[1]

    def _aim(self, stream: OpenStream, target: Columns, *, keep_last: bool) -> None:
        """Make `target` what the stream's sequence is to become."""
        if target.shape[1] >= self._runner.max_positions:
            detail = f"a prompt of {target.shape[1]} positions exceeds the model's {self._runner.max_positions}"
            self._fail(stream, SynthesisFailed("too_long", detail))
            return
        stream.sequence = self.cache.resume(stream.conversation, stream.voice, target, keep_last)
        stream.target = target
        stream.column = None
        stream.waiting_since_s = self._clock()

    def _begin_segment(self, stream: OpenStream) -> None:
        """Start the next segment if none is being generated; end the turn if there is none."""
        if stream.segment is not None:
            return
        if stream.texts:
            text = stream.texts.popleft()
            now = self._clock()
            if stream.first_frame_s is not None:  # a gap while there was no text is nobody's debt
                stream.first_frame_s = max(stream.first_frame_s, now - stream.frames * self.info.frame_s)
            stream.segment = Segment(stream.begun, text, SegmentGuard.of(text, self.info.frame_s))
            stream.begun += 1
            self._prompt_segment(stream, stream.segment)
        elif stream.finished:
            self._end(stream, c.Ended())

    def _prompt_segment(self, stream: OpenStream, segment: Segment) -> None:
        self._runner.begin_segment(stream.row)
        self._aim(stream, np.concatenate([*stream.past, self._prompts.user(segment.text)], axis=1), keep_last=True)

    def _end(self, stream: OpenStream, ended: c.Ended) -> None:
        self._report.events.append((stream.key, ended))
        self._close(stream)

    def _fail(self, stream: OpenStream, error: SynthesisFailed) -> None:
        self._end(stream, c.Ended(error))

    def _close(self, stream: OpenStream) -> None:
        del self._streams[stream.key]
        self._free_rows.append(stream.row)
        self._runner.close_row(stream.row)
        self.cache.release(stream.conversation)

    def _prefetch(self, conversation: Conversation, voice: Voice) -> None:
        if any(stream.conversation == conversation.id for stream in self._streams.values()):
            return  # its stream has done this already
        pieces, prefix = self._history(conversation, voice)
        target = np.concatenate(pieces, axis=1)
        if target.shape[1] < self._runner.max_positions:
            self.cache.acquire(conversation.id)
            sequence = self.cache.resume(conversation.id, voice.id, target, keep_last=False)
            self._prefetches[conversation.id] = _Prefetch(conversation.id, voice.id, prefix, target, sequence)

    # -- one step ---------------------------------------------------------------------------------------------------------------------

    def step(self) -> c.Report:
        """Prefill what is planned, generate one frame for every stream that is planned, and say what happened."""
        now = self._clock()
        views = [view for stream in self._streams.values() if (view := stream.view(now, self.info.frame_s))]
        planned = plan(views)
        if planned:
            self._execute(planned)
        elif self._prefetches:
            self._step_prefetch()
        self._jobs.step(self._report.results)
        report, self._report = self._report, c.Report()
        return report

    def _execute(self, planned: Plan) -> None:
        speaking: list[OpenStream] = []
        hidden: list[Hidden] = []
        for key, positions in planned.prefill:
            stream = self._streams[key]
            last = self._prefill(stream, positions)
            if last is not None:
                speaking.append(stream)
                hidden.append(last)
        decoding = [self._streams[key] for key in planned.decode if self._can_extend(self._streams[key])]
        if decoding:
            speaking = [*decoding, *speaking]
            hidden = [self._runner.decode([_sequence(stream) for stream in decoding]), *hidden]
        if speaking:
            drawn = self._runner.frames(hidden, [stream.row for stream in speaking])
            self._settle(speaking, drawn)

    def _prefill(self, stream: OpenStream, positions: int) -> Hidden | None:
        """Compute some of the prompt. Returns the hidden state to draw from once it is complete and a segment waits for it."""
        target, sequence = stream.target, _sequence(stream)
        assert target is not None
        start = sequence.length
        columns = target[:, start : start + positions]
        if not self._extend(stream, columns):
            return None
        last = self._runner.prefill(sequence, columns.shape[1])
        self.cache.counters.prefilled += columns.shape[1]
        if start < stream.prefix <= sequence.length:
            self.cache.share_voice(stream.voice, sequence, stream.prefix)
        if sequence.length < target.shape[1]:
            return None
        stream.target = None
        return last if stream.segment is not None else None

    def _can_extend(self, stream: OpenStream) -> bool:
        assert stream.column is not None, "a stream decodes from its last frame"
        if _sequence(stream).length + 1 >= self._runner.max_positions:
            self._cut(stream, "length")
            return False
        return self._extend(stream, stream.column)

    def _extend(self, stream: OpenStream, columns: Columns) -> bool:
        try:
            self.cache.extend(_sequence(stream), columns)
        except OutOfPages:
            detail = f"no room for {columns.shape[1]} more positions: every page of KV is in use by a speaking stream"
            self._fail(stream, SynthesisFailed("out_of_memory", detail))
            return False
        return True

    def _step_prefetch(self) -> None:
        job = next(iter(self._prefetches.values()))
        columns = job.target[:, job.sequence.length :][:, :256]
        try:
            if columns.shape[1]:
                self.cache.extend(job.sequence, columns)
                self._runner.prefill(job.sequence, columns.shape[1])
                self.cache.counters.prefilled += columns.shape[1]
        except OutOfPages:
            self._drop_prefetch(job.conversation)  # a hint; the turn itself will say what is short
            return
        if job.sequence.length == job.target.shape[1]:
            self.cache.share_voice(job.voice, job.sequence, job.prefix)
            self._drop_prefetch(job.conversation)

    def _drop_prefetch(self, conversation: str) -> None:
        if self._prefetches.pop(conversation, None) is not None:
            self.cache.release(conversation)

    # -- what came out ----------------------------------------------------------------------------------------------------------------

    def _settle(self, speaking: Sequence[OpenStream], drawn: Sequence[Drawn]) -> None:
        for stream, out in zip(speaking, drawn, strict=True):
            segment = stream.segment
            assert segment is not None
            if out.codes is None:
                self._ended_by_model(stream, segment)
            else:
                self._take_frame(stream, segment, out)

    def _take_frame(self, stream: OpenStream, segment: Segment, out: Drawn) -> None:
        assert out.codes is not None and out.samples is not None
        fault = segment.guard.frame(out.samples) if self._guarded else None
        if fault is Fault.NAN:
            self.cache.poison(stream.conversation, stream.voice)
            self._runner.reset_codec(stream.row)
        if fault is not None:
            self._degenerate(stream, segment, fault)
            return
        self._report.events.append((stream.key, Frame(segment.index, stream.frames, out.codes, out.samples)))
        segment.frames.append(out.codes)
        stream.frames += 1
        stream.column = out.column
        if stream.first_frame_s is None:
            stream.first_frame_s = self._clock()
        if stream.frames >= stream.params.max_frames:
            stream.texts.clear()
            stream.finished = True
            self._cut(stream, "length")

    def _ended_by_model(self, stream: OpenStream, segment: Segment) -> None:
        fault = segment.guard.end() if self._guarded else None
        if fault is not None:
            self._degenerate(stream, segment, fault)
        else:
            self._complete(stream, segment, len(segment.frames), None)

    def _degenerate(self, stream: OpenStream, segment: Segment, fault: Fault) -> None:
        """Not speech: once more with other noise while nothing of the segment was sent, else end it where it was last sane."""
        if not segment.frames and segment.attempt + 1 < MAX_ATTEMPTS:
            self._report.events.append((stream.key, SegmentRetried(segment.index, fault.value)))
            segment.attempt += 1
            segment.guard = SegmentGuard.of(segment.text, self.info.frame_s)
            self._prompt_segment(stream, segment)
        elif (segment.guard.sane_frames and fault is not Fault.SHORT) or stream.sane:
            self._cut(stream, fault.value)
        else:
            detail = f"the model produced no speech for segment {segment.index} ({fault.value} after {len(segment.frames)} frames)"
            self._fail(stream, SynthesisFailed("degenerate", detail))

    def _cut(self, stream: OpenStream, why: str) -> None:
        segment = stream.segment
        assert segment is not None
        sane = segment.guard.sane_frames if self._guarded else len(segment.frames)
        self._complete(stream, segment, sane, why)

    def _complete(self, stream: OpenStream, segment: Segment, sane: int, cut: str | None) -> None:
        self._report.events.append((stream.key, SegmentEnd(segment.index, sane, cut)))
        stream.segment = None
        stream.column = None
        if sane:
            stream.sane = True
            codes: Codes = np.stack(segment.frames[:sane], axis=1)
            stream.past += [self._prompts.user(segment.text), self._prompts.spoken(codes)]
        self._begin_segment(stream)


def _sequence(stream: OpenStream) -> CachedSequence:
    assert stream.sequence is not None, "an open stream has a sequence"
    return stream.sequence
