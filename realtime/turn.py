"""One utterance of the agent, from its first delta to its one terminal event: it owns everything that an interruption must drop.

Knows its text, its speech, its place in time and what its listener heard. Does not know the other turns, the conversation, or sockets.
No method waits; an interruption takes the turn out of the session and calls `close`, and nothing is ever reset.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.api import (
    Busy,
    Conversation,
    Engine,
    Frame,
    SamplingParams,
    SegmentEnd,
    SegmentRetried,
    StreamEvent,
    Voice,
)
from protocol.audio_frame import Flag
from protocol.config import AlignmentMode, Clock, SessionConfig
from protocol.connection import encode_audio, encode_event
from protocol.events import (
    Event,
    Heard,
    HeardSource,
    Kept,
    Status,
    TurnDone,
    TurnMetrics,
    TurnStarted,
    WarningCode,
    WarningEvent,
)
from realtime.audio import AudioPacket, OutputFormat
from realtime.context import HeardTurn
from realtime.intake import Intake
from realtime.outbox import Outbox
from realtime.playout import Pace, PlayClock
from realtime.repertoire import Repertoire, Unread
from realtime.segmenter import Segment
from realtime.speech import Speech
from realtime.utterance import NOTHING, Cut

RUN_AHEAD_MS = (
    1000.0  # generation stops this far beyond the lead: enough to ride out a slow step, little to waste on a barge-in
)
FILE_AHEAD_MS = (
    10_000.0  # without a playback clock: beyond what the socket took, so that a reader who stalls bounds our memory
)
MIN_RETRY_S = 0.05  # an engine that says "at once" is not asked in a loop
COALESCE_S = 0.02  # with a comfortable lead packets leave in pairs: half the wake-ups, and the lead is never exceeded
COMFORTABLE_LEAD_MS = 200
AT_ONCE = 4  # packets encoded without a pause: 0.6 ms of Opus


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """What a turn was opened with; later updates of the session do not touch it."""

    config: SessionConfig
    voice: Voice
    params: SamplingParams
    fmt: OutputFormat


@dataclass(frozen=True, slots=True)
class Played:
    """How much of a turn was heard, and who says so."""

    ms: float
    source: HeardSource


class Turn:
    """One turn. `advance` does whatever has become possible; `deadline` says when to call it although nothing happened."""

    def __init__(self, turn_id: str, n: int, options: TurnOptions, engine: Engine, outbox: Outbox, now: float) -> None:
        self.id = turn_id
        self.n = n
        self.options = options
        self.touched_at = now  # last text
        self.speech: Speech | None = None
        self.clock: PlayClock | None = None  # from when its audio may leave
        self.text = Intake(options.config.latency, options.config.tags, Repertoire.of(engine.info.scripts))
        self.wanted_at: float | None = None  # since when there is something to speak
        self.retry_at = 0.0  # when to ask a busy engine again
        self.refused_since: float | None = None  # the engine has been full since then
        self.over = False
        self._engine = engine
        self._outbox = outbox
        self._segments: list[Segment] = []  # taken from the segmenter
        self._fed = 0  # of those, given to the present speech
        self._first_text_at: float | None = None
        self._opened_at: float | None = None  # a place in the engine was found
        self._audible_at: float | None = None  # the first packet existed
        self._first_audio_ms: int | None = None  # from the first text to turn.started
        self._queue_ms = 0
        self._unread_scripts: set[str] = set()  # which the client was told of
        self._unwritten = 0  # packets in the outbox
        self._ran_short_at_ms: list[float] = []  # where the listener had to wait for the engine
        self._min_lead_ms: float | None = None
        outbox.open_turn(n)

    @property
    def pending_chars(self) -> int:
        """Characters received and not yet spoken."""
        return self.text.chars - (self.speech.begun_chars if self.speech is not None else 0)

    @property
    def generated(self) -> bool:
        """Whether everything was generated: no text can follow and the engine is done with what there was."""
        if not self.text.emptied:
            return False
        return self.speech.finished if self.speech is not None else self.wanted_at is None

    @property
    def delivered(self) -> bool:
        """Whether all of its audio was written to the socket."""
        return self.generated and not self._unwritten and (self.speech is None or self.speech.exhausted)

    @property
    def started(self) -> bool:
        """Whether any of its audio left, or is about to."""
        return self._first_audio_ms is not None

    @property
    def wants_speech(self) -> bool:
        """Whether there is something to speak and no stream for it yet."""
        return self.speech is None and self.wanted_at is not None

    @property
    def waits_for_writer(self) -> bool:
        """Whether more could be done now that all of its audio in the outbox was written."""
        return not self._unwritten and (self.delivered or self._due_at() is not None)

    @property
    def sent_ms(self) -> float:
        """Audio written to the socket."""
        return 0.0 if self.clock is None else self.clock.sent_ms

    def append(self, text: str, now: float) -> None:
        """More text. The caller has checked that the turn's text has not ended, and the bounds."""
        self.text.push(text)
        self.touched_at = now
        if self._first_text_at is None:
            self._first_text_at = now

    def take_text(self, now: float) -> None:
        """Move what the segmenter gives up towards the engine, and give the engine credit."""
        for segment in self.text.take(now, self._lead_s(now)):
            self._segments.append(segment)
            self._warn_of_scripts(segment.unread)
            if segment.speakable and self.wanted_at is None:
                self.wanted_at = now
        if self.speech is not None:
            self._feed(self.speech, now)

    def open_speech(self, conversation: Conversation, rate: float, now: float) -> Speech:
        """Ask the engine for a stream. Raises Busy (then ask again from `retry_at` on) and what else `Engine.open` raises.

        `rate`: how fast the turn before was spoken, as its timeline measured it.
        """
        try:
            stream = self._engine.open(conversation, self.options.voice, self.options.params, self.n)
        except Busy as busy:
            self.retry_at = now + max(busy.retry_after_s, MIN_RETRY_S)
            self.refused_since = now if self.refused_since is None else self.refused_since
            raise
        self.refused_since = None
        config = self.options.config
        aligned_for = self.id if config.alignment is AlignmentMode.WORD else None
        self.speech = Speech(stream, self._engine.info, self.options.fmt, config.tags, rate, aligned_for)
        self._fed = 0
        if self._opened_at is None:
            self._opened_at = now
        self._feed(self.speech, now)
        return self.speech

    def withdraw_speech(self) -> None:
        """Generate it all again later, because its history has changed. Only before any of it was sent."""
        assert not self.started, "audio of this history was sent"
        if self.speech is not None:
            self.speech.stream.cancel()
            self.speech = None

    def on_event(self, speech: Speech, event: StreamEvent, now: float) -> None:
        """Something came out of the engine."""
        if speech is not self.speech or self.over:
            return
        match event:
            case Frame():
                self._note_lead(speech, now)
                speech.frame(event, now)
                if self._audible_at is None:
                    self._audible_at = now
            case SegmentEnd():
                speech.segment_ended(event)
                if event.cut is not None:
                    self._warn(WarningCode.SPEECH_CUT, f"segment {event.segment} was ended early: {event.cut}")
            case SegmentRetried():
                self._warn(WarningCode.SPEECH_RETRIED, f"segment {event.segment} is drawn again: {event.why}")

    def on_end(self, speech: Speech, now: float) -> None:
        """The stream ended by itself."""
        if speech is self.speech and not self.over:
            speech.end()

    def release(self, now: float, not_before: float) -> None:
        """Hand what is due to the outbox. Only the turn that speaks may; `not_before`: when those before it have been played."""
        if self.clock is None:
            pacing = self.options.config.pacing
            self.clock = PlayClock(
                Pace(pacing.lead_ms, pacing.burst_ms, pacing.clock is not Clock.NONE), max(not_before, now)
            )
        for _ in range(AT_ONCE):
            self._tell_words()
            due_at = self._due_at()
            if due_at is None or due_at > now or not self._outbox.has_room:
                return
            self._send_next(now)
        self._tell_words()

    def text_deadline(self, now: float) -> float:
        """When there could be a segment to speak although no text came; infinity: never."""
        deadline = self.text.deadline(now, self._lead_s(now))
        return math.inf if deadline is None else deadline

    def release_at(self) -> float:
        """When `release` could do more, if nothing else happens; infinity: something else must."""
        due_at = self._due_at()
        if due_at is None or not self._outbox.has_room:
            return math.inf
        patience = COALESCE_S if self.started and self.options.config.pacing.lead_ms >= COMFORTABLE_LEAD_MS else 0.0
        return due_at + patience

    def played(self, played_ms: float | None, now: float) -> Played:
        """How much was heard: what the client says, else what the clock says, never more than was sent."""
        if not self.sent_ms or self.clock is None:
            return Played(0.0, HeardSource.NONE)
        if played_ms is not None:
            return Played(min(played_ms, self.sent_ms), HeardSource.CLIENT)
        return Played(self.clock.heard_ms(now), HeardSource.CLOCK)

    def close(self, status: Status, reason: str | None, played: Played | None, event_id: str | None) -> Cut:
        """End it: the engine's row is freed, unsent audio is dropped, and its one terminal event is put. `played` None: all was heard.

        Returns what is left of it.
        """
        assert not self.over, "a turn ends once"
        self.over = True
        if self.speech is not None and not self.speech.finished:
            self.speech.stream.cancel()
        cut = self.cut(played)
        if played is None:
            played = Played(self.sent_ms, HeardSource.CLOCK if self.sent_ms else HeardSource.NONE)
        done = TurnDone(
            turn=self.id,
            n=self.n,
            status=status,
            reason=reason,
            audio_ms=round(self.sent_ms if self.delivered else max(self.sent_ms, self._generated_ms)),
            sent_ms=round(self.sent_ms),
            heard=self.heard(cut, played),
            context=Kept(kept_ms=round(cut.kept_ms), kept_chars=cut.char_end if cut.segments else 0),
            metrics=self._metrics(),
            event_id=event_id,
        )
        self._outbox.close_turn(self.n, encode_event(done))
        return cut

    def whole(self) -> HeardTurn:
        """What the conversation keeps if all that was generated is heard."""
        return self.kept(self.cut(None))

    def kept(self, cut: Cut) -> HeardTurn:
        """As the conversation remembers it."""
        return HeardTurn(self.n, cut.segments)

    def cut(self, played: Played | None) -> Cut:
        """What is left of it for someone who heard so much; None: everything."""
        if self.speech is None:
            return NOTHING if played is not None else replace(NOTHING, char_end=self.text.chars)
        utterance = self.speech.utterance
        ms = utterance.generated_ms if played is None else played.ms
        return utterance.cut(self.text.raw, ms, self.options.config.cut)

    def heard(self, cut: Cut, played: Played) -> Heard:
        """As it is told to the client."""
        raw = self.text.raw
        return Heard(
            ms=round(played.ms),
            text=raw[: cut.char_end],
            remaining=raw[cut.char_end :],
            char_end=cut.char_end,
            source=played.source,
        )

    def _feed(self, speech: Speech, now: float) -> None:
        for segment in self._segments[self._fed :]:
            speech.feed(segment, now)
        self._fed = len(self._segments)
        if self.text.emptied:
            speech.end_text()
        ahead_ms = self.options.config.pacing.lead_ms + RUN_AHEAD_MS
        if self.options.config.pacing.clock is Clock.NONE:
            ahead_ms = FILE_AHEAD_MS
        played_ms = self.clock.played_ms(now) if self.clock is not None else 0.0
        speech.allow(int((played_ms + ahead_ms) / (self._engine.info.frame_s * 1000)), now)

    def _lead_s(self, now: float) -> float:
        """How long the listener can do without new text."""
        if self.speech is None:
            return 0.0
        played_ms = self.clock.played_ms(now) if self.clock is not None else 0.0
        utterance = self.speech.utterance
        return (utterance.generated_ms + utterance.timeline.pending_ms - played_ms) / 1000

    def _due_at(self) -> float | None:
        """When the next packet may leave; None: there is none, or another turn speaks."""
        span = self.speech.next_span() if self.speech is not None else None
        if span is None or self.clock is None:
            return None
        start, end = span
        return self.clock.due_at(start * 1000 / self.options.fmt.rate, end * 1000 / self.options.fmt.rate)

    def _send_next(self, now: float) -> None:
        assert self.speech is not None, "something is due"
        packet = self.speech.pull()
        if packet is not None:
            first = not self.started
            if first:
                self._start(now)
            self._put(packet, first)

    def _tell_words(self) -> None:
        """Word times leave as soon as the audio has that they are about."""
        if self.speech is not None and self.started:
            for words in self.speech.pull_words():
                self._emit(words)

    def _start(self, now: float) -> None:
        """Say that the turn speaks."""
        waited_s = (self._opened_at or now) - (self.wanted_at or now) + now - (self._audible_at or now)
        self._queue_ms = round(waited_s * 1000)
        self._first_audio_ms = round((now - (self._first_text_at or now)) * 1000)
        self._emit(TurnStarted(turn=self.id, n=self.n, queue_ms=self._queue_ms, first_audio_ms=self._first_audio_ms))

    def _put(self, packet: AudioPacket, first: bool) -> None:
        flags = (Flag.FIRST if first else Flag.NONE) | (Flag.LAST if packet.last else Flag.NONE)
        transport = self.options.config.audio.transport
        message = encode_audio(transport, self.id, self.n, flags, packet.position, packet.payload)
        until_ms = (packet.position + packet.samples) * 1000 / self.options.fmt.rate
        self._unwritten += 1
        self._outbox.audio(self.n, message, lambda now: self._written(until_ms, now))

    def _written(self, until_ms: float, now: float) -> None:
        assert self.clock is not None and not self.over, "only the turn that speaks is written"
        self._unwritten -= 1
        self.clock.sent(until_ms, now)

    def _note_lead(self, speech: Speech, now: float) -> None:
        """A frame came: how close was it? A listener who waits for text is not one who waits for the engine."""
        clock = self.clock
        if clock is None or clock.first_sent_at is None or not clock.pace.realtime:
            return
        if speech.busy_since is None or speech.busy_since > clock.ends_at:
            return
        lead_ms = speech.utterance.generated_ms - clock.position_ms(now)
        self._min_lead_ms = lead_ms if self._min_lead_ms is None else min(lead_ms, self._min_lead_ms)
        if lead_ms < 0 and clock.sent_ms not in self._ran_short_at_ms:
            self._ran_short_at_ms.append(clock.sent_ms)
            if len(self._ran_short_at_ms) == 1:
                self._warn(
                    WarningCode.UNDERRUN, f"the listener ran out of audio {-lead_ms:.0f} ms ago; told once a turn"
                )

    def _metrics(self) -> TurnMetrics:
        speech = self.speech
        generated_s = self._generated_ms / 1000
        return TurnMetrics(
            text_to_first_audio_ms=self._first_audio_ms,
            queue_ms=self._queue_ms,
            chunks=speech.chunks if speech is not None else 0,
            rtf=round(speech.busy_s / generated_s, 4) if speech is not None and generated_s else None,
            min_lead_ms=round(self._min_lead_ms) if self._min_lead_ms is not None else None,
            underruns=len(self._ran_short_at_ms),
            text_chars=self.text.chars,
            audio_tokens=speech.utterance.frames if speech is not None else 0,
        )

    @property
    def _generated_ms(self) -> float:
        return self.speech.utterance.generated_ms if self.speech is not None else 0.0

    def _warn_of_scripts(self, unread: Sequence[Unread]) -> None:
        """Tell the client what is left out, each script once."""
        for stretch in unread:
            if stretch.script not in self._unread_scripts:
                self._unread_scripts.add(stretch.script)
                self._warn(WarningCode.UNSUPPORTED_SCRIPT, f"{stretch}; told once a turn")

    def _warn(self, code: WarningCode, message: str) -> None:
        self._emit(WarningEvent(code=code, turn=self.id, message=message))

    def _emit(self, event: Event) -> None:
        self._outbox.event(encode_event(event))
