"""The engine itself: streams in, one batched step at a time, frames out.

Knows what each stream is doing (waiting for text, prefilling, decoding), how a turn's prompt grows, and what to do when output is not
speech. Does not know tensors (`engine.runner`), who is served next (`engine.scheduler`) or what is cached (`engine.cache`).
Single-threaded: whoever owns it calls `handle` for each command and `step` while `has_work`.

One stream, one turn: every pushed segment becomes a user/assistant pair of the prompt (s2pro.md 3.2). A finished pair joins `past`, so
the next segment's prompt continues it and the cache finds everything but the new text already computed.

A frame is drawn in one step and delivered in that step, or, where it is decoded beside what follows, as soon as it is or behind the draw of
the frame after it; or a few steps later, where a GPU decodes several at once for a listener who has enough to play
(`engine.decode_queue`). If one is found not sane, the draws ahead of it are taken back, and everything is as it would be with each judged
before the next.

What a caller may have got wrong (codes that no codebook has, text that is no Unicode, a prompt too long) ends its own stream with an
error. Anything else that goes wrong is a bug and ends the core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from engine import commands as c
from engine.api import (
    Admission,
    Conversation,
    EngineLimits,
    Frame,
    ModelInfo,
    Samples,
    SegmentEnd,
    SegmentRetried,
    SynthesisFailed,
    Voice,
)
from engine.cache import ConversationCache
from engine.decode_queue import DecodeQueue, DrawnFrame
from engine.following import Follower
from engine.gaze import Gaze, Look, TextSpan
from engine.guard import Fault, SegmentGuard
from engine.jobs import Jobs
from engine.kv import Columns, OutOfPages
from engine.pace import Pace
from engine.prefetch import Prefetches
from engine.prompt import PromptBuilder, check_unicode, joined
from engine.rehearsal import rehearse
from engine.runner import Drawn, FrameDrawn, Outcome, Runner
from engine.scheduler import Plan, plan
from engine.stream import OpenStream, Segment

MAX_ATTEMPTS = 2  # a segment that came out degenerate before any of it was sent is tried once more
JOB_PATIENCE = 8  # steps that a job waits for a relaxed one before it gets a slice all the same
PATIENCE_S = 0.002  # for frames that are being decoded; then commands that have come meanwhile are handled
LOOK_S = 5e-5  # between two looks whether they are
# That a listener must have to play if a frame may wait for the next ones; they are drawn within a fifth of it.
ENOUGH_S = 0.5


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
        self._decoding = DecodeQueue(runner.decoder)
        self._jobs = Jobs(runner.codec, runner.streaming, runner.spare_row, runner.graphed)
        self._jobs_waited = 0  # steps since the last slice of a job
        self._prefetches = Prefetches(self.cache, runner)
        self._streams: dict[int, OpenStream] = {}
        self._free_rows = list(reversed(range(limits.max_streams)))
        self._pace = Pace(info.frame_s)
        self._measures = limits.admission is Admission.MEASURED or (limits.admission is None and info.device != "cpu")
        self._report = c.Report()

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
                    self._allow(s, frame_index)
            case c.Cancel(stream):
                if stream in self._streams:
                    self._close(self._streams[stream])
            case c.Prefetch(conversation, voice):
                self._prefetch(conversation, voice)
            case c.Forget(conversation):
                self._prefetches.drop(conversation)
                self.cache.forget(conversation)
            case c.Encode() | c.Recording() | c.Decode() | c.Abandon():
                self._jobs.handle(command)

    def has_work(self) -> bool:
        """A step would do something. It then gets something done, or has waited for it a little, so stepping while there is work ends."""
        return bool(self._report or self._decoding or self._jobs or self._prefetches or self._streams_work())

    def _streams_work(self) -> bool:
        return any(stream.view(self._clock(), self.info.frame_s) for stream in self._streams.values())

    @property
    def most_positions(self) -> int:
        """That one prompt and what is said behind it may have."""
        return min(self._runner.max_positions, self.limits.kv_positions)

    def rehearse(self) -> None:
        """Learn how long steps take, before the first stream, where that decides who is let in."""
        if self._measures:
            rehearse(self._runner, self._pace, self.limits.max_streams, self._clock)

    def close(self) -> None:
        """End what works beside this process. No other call follows."""
        self._decoding.decoder.close()

    def _open(self, command: c.Open) -> None:
        assert self._free_rows, "the front admits no more streams than there are rows"
        conversation, voice = command.conversation, command.voice
        self._prefetches.drop(conversation.id)
        try:
            past = self._prompts.history(conversation, voice)
        except ValueError as error:
            self._report.events.append((command.stream, c.Ended(SynthesisFailed("bad_input", str(error)))))
            return
        most_s = self.info.max_history_s if conversation.max_s is None else conversation.max_s
        stream = OpenStream(
            key=command.stream,
            row=self._free_rows.pop(),
            conversation=conversation.id,
            voice=voice.id,
            params=command.params,
            past=past,
            most=round(most_s / self.info.frame_s),
            opened_s=self._clock(),
        )
        self._streams[stream.key] = stream
        self.cache.acquire(conversation.id)
        self._runner.open_row(stream.row, command.params, command.turn)
        self._aim(stream, joined(*past), keep_last=False)

    def _aim(self, stream: OpenStream, target: Columns, *, keep_last: bool, room: int = 1) -> None:
        """Make `target` what the stream's sequence is to become. room: positions that must be left behind it."""
        if target.shape[1] + room > self._runner.max_positions:
            most = self._runner.max_positions
            detail = f"a prompt of {target.shape[1]} positions and {room} frames exceed the model's {most} positions"
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
            stream.forgive(self._clock(), self.info.frame_s)
            stream.segment = Segment(stream.begun, text, SegmentGuard.of(text, self.info.frame_s))
            stream.begun += 1
            self._prompt_segment(stream, stream.segment)
        elif stream.finished:
            self._end(stream, c.Ended())

    def _prompt_segment(self, stream: OpenStream, segment: Segment) -> None:
        try:
            check_unicode(segment.text)
        except UnicodeEncodeError as error:
            self._fail(stream, SynthesisFailed("bad_input", str(error)))
            return
        self._runner.begin_segment(stream.row, segment.text)
        past = joined(*stream.past)
        column, starts = self._prompts.text_starts(segment.text)
        segment.span = TextSpan(past.shape[1] + column, len(starts))
        segment.follower = Follower(starts) if len(starts) else None
        target = joined(past, self._prompts.user(segment.text))
        self._aim(stream, target, keep_last=True, room=max(1, segment.guard.least_frames))

    def _allow(self, stream: OpenStream, frame_index: int) -> None:
        if not stream.has_credit:
            stream.forgive(self._clock(), self.info.frame_s)
        stream.allowed = max(stream.allowed, frame_index)

    def _end(self, stream: OpenStream, ended: c.Ended) -> None:
        self._report.events.append((stream.key, ended))
        self._close(stream)

    def _fail(self, stream: OpenStream, error: SynthesisFailed) -> None:
        self._end(stream, c.Ended(error))

    def _close(self, stream: OpenStream) -> None:
        del self._streams[stream.key]
        self._decoding.forget(stream)
        self._pace.close(self._clock() - stream.opened_s)
        self._free_rows.append(stream.row)
        self._runner.close_row(stream.row)
        self.cache.release(stream.conversation)

    def _prefetch(self, conversation: Conversation, voice: Voice) -> None:
        if any(stream.conversation == conversation.id for stream in self._streams.values()):
            return  # its stream has done this already
        try:
            pieces = self._prompts.history(conversation, voice)
        except ValueError:
            return  # a hint; the turn itself will say what is wrong
        target = joined(*pieces)
        if target.shape[1] < self.most_positions:
            self._prefetches.add(conversation.id, voice.id, target, pieces[0].shape[1])

    def step(self) -> c.Report:
        """Prefill what is planned, generate one frame for every stream that is planned, and say what happened.

        Where frames that are being decoded come first and are not there yet, this only waits a little.
        """
        now = self._clock()
        views = [view for stream in self._streams.values() if (view := stream.view(now, self.info.frame_s))]
        planned = plan(views, self._pace.prefill_time, self._pace.beside_s)
        if self._decoding.started and (not planned.decode or self._impatient(planned)):
            done = self._decoded()
            if done:
                self._deliver()  # and whatever is planned in the next step
            if self._measures:
                self._pace.wait(now, self._clock())
            if not done:
                return self._said()
        elif planned:
            self._pace.find(any(not view.missing and (view.lead_s or 0.0) < 0 for view in views))
            rows = self._execute(planned)
            self._pace.step(rows, sum(positions for _, positions in planned.prefill), now, self._clock())
        elif self._decoding:
            self._decoding.release()
        elif self._prefetches:
            self._prefetches.step()
        self._jobs_waited += 1
        if planned.relaxed or self._jobs_waited > JOB_PATIENCE:
            self._jobs_waited = 0
            self._jobs.step(self._report)
        report = self._said()
        if self._measures:
            held = [stream.held for stream in self._streams.values()]
            report.load = self._pace.load(held, self.limits.kv_positions, self._streams_work())
        return report

    def _said(self) -> c.Report:
        report, self._report = self._report, c.Report()
        return report

    def _execute(self, planned: Plan) -> int:
        """Returns how many rows it drew."""
        prefilling = [
            (stream, new)
            for stream, positions in ((self._streams[key], positions) for key, positions in planned.prefill)
            if (new := self._begin_prefill(stream, positions))
        ]
        decoding = [self._streams[key] for key in planned.decode if self._can_extend(self._streams[key])]
        if self._decoding.holding and (prefilling or decoding != [self._decoding.holding]):
            self._decoding.release()
        # Of those who speak, in their order; none at all where nobody has chosen heads.
        gazes = self._gaze(decoding) if decoding else []
        prefills = [
            (stream.extendable, new, next(iter(self._gaze([stream]) if self._will_speak(stream) else []), None))
            for stream, new in prefilling
        ]
        states, decoded = self._runner.advance(prefills, [stream.extendable for stream in decoding], *gazes)
        gazes += [gaze for *_, gaze in prefills if gaze is not None]
        speaking, hidden = decoding, [] if decoded is None else [decoded]
        for (stream, new), last in zip(prefilling, states, strict=True):
            if self._prefilled(stream, new):
                speaking.append(stream)
                hidden.append(last)
        segments = [stream.current for stream in speaking]
        rows, sequences = [stream.row for stream in speaking], [stream.extendable for stream in speaking]
        drawn = self._runner.draw(hidden, rows, sequences)
        if not all(isinstance(out, FrameDrawn) for out in drawn):
            self._decoding.release()  # a segment ends with all its frames judged
        self._deliver()
        self._settle(speaking, segments, drawn, [look for gaze in gazes for look in gaze.looks()])
        if not self._decoding.decoder.beside:
            self._deliver()
        return len(speaking)

    def _impatient(self, planned: Plan) -> bool:
        """Frames that are being decoded should not wait for this step: it takes long, or one of them is the first of its turn."""
        return bool(planned.prefill) or any(
            not item.stream.frames and self._is_open(item.stream) for item in self._decoding.started
        )

    def _gaze(self, streams: Sequence[OpenStream]) -> list[Gaze]:
        """One for a pass after which these draw, or none."""
        gaze = self._runner.gaze([stream.current.span for stream in streams])
        return [] if gaze is None else [gaze]

    def _begin_prefill(self, stream: OpenStream, positions: int) -> int:
        """Own the next positions of the prompt, at most so many. Returns how many; 0: there is no room for them."""
        target, sequence = stream.target, stream.extendable
        assert target is not None, "a stream that misses positions has a target"
        columns = target[:, sequence.length :][:, :positions]
        return columns.shape[1] if self._extend(stream, columns) else 0

    def _will_speak(self, stream: OpenStream) -> bool:
        """Its prompt is complete with what is being prefilled, and a segment waits for it."""
        return not stream.missing and stream.segment is not None

    def _prefilled(self, stream: OpenStream, new: int) -> bool:
        """So many positions of the prompt are computed. Returns whether it draws from the last one."""
        sequence, speaks = stream.extendable, self._will_speak(stream)
        self.cache.counters.prefilled += new
        if sequence.length >= stream.prefix:
            self.cache.share_voice(stream.voice, sequence, stream.prefix)
        if not stream.missing:
            stream.target = None
        return speaks

    def _can_extend(self, stream: OpenStream) -> bool:
        assert stream.column is not None, "a stream decodes from its last frame"
        if stream.extendable.length >= self._runner.max_positions:
            if not stream.ahead:  # else it is delivered first
                self._cut(stream, "length")
            return False
        return self._extend(stream, stream.column)

    def _extend(self, stream: OpenStream, columns: Columns) -> bool:
        try:
            self.cache.extend(stream.extendable, columns)
        except OutOfPages:
            if stream.ahead:  # is delivered first; then this is tried again
                return False
            detail = f"no room for {columns.shape[1]} more positions: every page of KV is in use by a speaking stream"
            self._fail(stream, SynthesisFailed("out_of_memory", detail))
            return False
        return True

    def _settle(
        self, speaking: Sequence[OpenStream], segments: Sequence[Segment], drawn: Sequence[Drawn], looks: Sequence[Look]
    ) -> None:
        """Take what was drawn for these segments of these streams, but not what a segment drew that has been ended meanwhile.

        looks: what each looked at in its text meanwhile; empty: nobody knows.
        """
        wanted: list[DrawnFrame] = []
        seen: Sequence[Look | None] = looks or [None] * len(speaking)
        for stream, segment, out, look in zip(speaking, segments, drawn, seen, strict=True):
            if not self._is_open(stream):
                continue
            if stream.segment is not segment:
                self._runner.take_back(stream.row)
            elif isinstance(out, FrameDrawn):
                stream.draw(out.column)
                wanted.append(DrawnFrame(stream, segment, out.codes, segment.follow(look)))
            elif out is Outcome.NAN:
                self.cache.poison(stream.conversation, stream.voice)
                self._degenerate(stream, segment, Fault.NAN)
            else:
                self._ended_by_model(stream, segment)
        if wanted:
            self._decoding.give(wanted, len(speaking) == 1 and self._may_wait(wanted[0].stream))

    def _may_wait(self, stream: OpenStream) -> bool:
        """Its next frame follows, and it is early enough for its listener to have this one then."""
        lead_s = stream.lead_s(self._clock(), self.info.frame_s)
        return stream.has_credit and lead_s is not None and lead_s > ENOUGH_S

    def _decoded(self) -> bool:
        """Wait a little for the frames that are being decoded. Returns whether they are there."""
        until = self._clock() + PATIENCE_S
        while not self._decoding.decoder.is_done():
            if self._clock() >= until:
                return False
            time.sleep(LOOK_S)
        return True

    def _deliver(self) -> None:
        """Wait for the frames that are being decoded, judge them and say what they sound like."""
        decoded, now = list(self._decoding.finish()), self._clock()
        for item, wave in decoded:
            if self._is_open(item.stream):  # nobody has cancelled it
                item.stream.ahead -= 1
                if item.stream.segment is item.segment:
                    self._take_frame(item, wave, now)
                else:  # one before it has ended its segment
                    self._runner.take_back(item.stream.row)

    def _is_open(self, stream: OpenStream) -> bool:
        return self._streams.get(stream.key) is stream

    def _take_frame(self, item: DrawnFrame, samples: Samples, now: float) -> None:
        stream, segment = item.stream, item.segment
        fault = segment.guard.frame(samples, item.text_at) if self._guarded else None
        if fault is Fault.NAN:
            self._decoding.decoder.reset(stream.row)  # it is the codec's: what the frame was drawn from was finite
        if fault is not None:
            self._degenerate(stream, segment, fault)
            return
        frame = Frame(segment.index, stream.frames, item.codes, samples, item.text_at)
        self._report.events.append((stream.key, frame))
        stream.deliver(item.codes, now, self.info.frame_s)
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
        """Not speech: once more with other noise while nothing of the segment was sent, else end it where it was last sane.

        An error where that leaves nothing of the whole turn, unless the segment asked for nothing: a laugh may be silent.
        """
        if not segment.frames and segment.attempt + 1 < MAX_ATTEMPTS:
            self._report.events.append((stream.key, SegmentRetried(segment.index, fault.value)))
            guard = SegmentGuard.of(segment.text, self.info.frame_s)
            stream.segment = Segment(segment.index, segment.text, guard, segment.attempt + 1)
            self._prompt_segment(stream, stream.segment)
        elif (self._sane(segment) and fault is not Fault.SHORT) or stream.sane or not segment.guard.wanted:
            self._cut(stream, fault.value)
        else:
            detail = f"the model produced no speech for segment {segment.index} ({fault.value} after {len(segment.frames)} frames)"
            self._fail(stream, SynthesisFailed("degenerate", detail))

    def _sane(self, segment: Segment) -> int:
        return segment.guard.sane_frames if self._guarded else len(segment.frames)

    def _cut(self, stream: OpenStream, why: str) -> None:
        segment = stream.current
        self._complete(stream, segment, self._sane(segment), why)

    def _complete(self, stream: OpenStream, segment: Segment, sane: int, cut: str | None) -> None:
        self._report.events.append((stream.key, SegmentEnd(segment.index, sane, cut)))
        stream.segment = None
        stream.column = None
        if sane:
            stream.sane = True
            asked, said = self._prompts.user(segment.text), self._prompts.spoken(segment.codes(sane))
            stream.remember(asked, said)
        self._begin_segment(stream)
