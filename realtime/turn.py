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
    SegmentEnd,
    SegmentRetried,
    StreamEvent,
)
from protocol.config import AlignmentMode, Clock
from protocol.connection import encode_event
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
from realtime.context import HeardTurn
from realtime.delivery import AT_ONCE, Delivery
from realtime.intake import Intake
from realtime.lead import LeadGauge
from realtime.marks import Marks
from realtime.notices import TextNotices
from realtime.outbox import Outbox
from realtime.playout import PlayClock
from realtime.repertoire import Repertoire
from realtime.segmenter import Segment
from realtime.speech import LeftOut, Speech
from realtime.turn_options import TurnOptions
from realtime.utterance import NOTHING, Cut
from realtime.wording import Wording

# Generation stops this far beyond the lead: enough to ride out a slow step, little to waste on a barge-in.
RUN_AHEAD_MS = 1000.0
# Without a playback clock: beyond what the socket took, so that a reader who stalls bounds our memory.
FILE_AHEAD_MS = 10_000.0
MIN_RETRY_S = 0.05  # an engine that says "at once" is not asked in a loop


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
        config, model = options.config, engine.info
        wording = Wording.of(config, model.numbers_in_words)
        self.text = Intake(config.latency, config.tags, Repertoire.of(model.scripts), wording)
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
        self._notices = TextNotices()
        self._marks = Marks(turn_id)
        self._lead = LeadGauge()
        self.delivery = Delivery(turn_id, n, config.audio.transport, config.pacing, options.fmt.rate, outbox)

    @property
    def clock(self) -> PlayClock | None:
        """How far its listener is; None: none of it may leave yet."""
        return self.delivery.clock

    @property
    def paused_at(self) -> float | None:
        """Since when it is paused."""
        return self.delivery.paused_at

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
        """Whether all of its audio was written to the socket, and none is wanted again: a paused turn may still be."""
        return self.generated and self.delivery.written and (self.speech is None or self.speech.exhausted)

    @property
    def started(self) -> bool:
        """Whether any of its audio left, or is about to."""
        return self.delivery.started

    @property
    def wants_speech(self) -> bool:
        """Whether there is something to speak and no stream for it yet."""
        return self.speech is None and self.wanted_at is not None

    @property
    def waits_for_writer(self) -> bool:
        """Whether more could be done now that all of its audio in the outbox was written."""
        return self.delivered or self.delivery.waits_for_writer(self.speech)

    @property
    def sent_ms(self) -> float:
        """Audio written to the socket."""
        return self.delivery.sent_ms

    def append(self, text: str, now: float) -> None:
        """More text. The caller has checked that the turn's text has not ended, and the bounds."""
        self.text.push(text)
        self.touched_at = now
        if self._first_text_at is None:
            self._first_text_at = now

    def mark(self, name: str) -> None:
        """Tell the client when the speech comes to the end of the text so far. The caller has checked the bound."""
        self._marks.add(name, self.text.chars)

    @property
    def mark_count(self) -> int:
        """Marks so far."""
        return self._marks.count

    def take_text(self, now: float) -> None:
        """Move what the segmenter gives up towards the engine, and give the engine credit."""
        for segment in self.text.take(now, self._lead_s(now)):
            self._segments.append(segment)
            for code, message in self._notices.of(segment):
                self._warn(code, message)
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
        aligned_for = self.id if config.alignment is not AlignmentMode.NONE else None
        self.speech = Speech(stream, self._engine.info, self.options, rate, aligned_for)
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

    def on_event(self, speech: Speech, event: StreamEvent, now: float) -> bool:
        """Something came out of the engine. Returns whether `advance` could do more now: mostly a frame only adds to what waits."""
        if speech is not self.speech or self.over:
            return False
        match event:
            case Frame():
                self._note_lead(speech, now)
                packets = speech.frame(event, now)
                if self._audible_at is None:
                    self._audible_at = now
                return packets or self._marks.waiting
            case SegmentEnd():
                left_out = speech.segment_ended(event, now)
                if event.cut is not None:
                    self._warn(WarningCode.SPEECH_CUT, f"segment {event.segment} was ended early: {event.cut}")
                if left_out is not None:
                    self._warn_of(left_out)
            case SegmentRetried():
                self._warn(WarningCode.SPEECH_RETRIED, f"segment {event.segment} is drawn again: {event.why}")
        return True

    def on_end(self, speech: Speech, now: float) -> None:
        """The stream ended by itself."""
        if speech is self.speech and not self.over:
            speech.end()

    def release(self, now: float, after: PlayClock | None) -> None:
        """Hand what is due to the outbox. Only the turn that speaks may; `after`: of the turn that plays before it."""
        self.delivery.begin(after, now)
        for _ in range(AT_ONCE):
            self._tell_words()
            if not self.delivery.is_due(self.speech, now):
                return
            packet = self.delivery.next_packet(self.speech)
            if packet is not None:
                if not self.started:
                    self._start(now)
                self.delivery.put(packet, now)
        self._tell_words()

    def tell_marks(self, now: float) -> None:
        """Tell of the marks that were generated or heard since the last call."""
        speech, clock = self.speech, self.clock
        if self.started and speech is not None and self._marks.waiting and not self.over:
            self._tell(self._marks.place(self.text.raw, speech.spoken_chars, speech.words()))
        if clock is not None and clock.paced and (self.started or self.over):
            self._tell(self._marks.played(clock.played_ms(now)))

    def mark_at(self) -> float:
        """When the listener will come to the next mark; infinity: not as it stands."""
        next_ms, clock = self._marks.next_ms, self.clock
        return clock.reaches_at(next_ms) if next_ms is not None and clock is not None and clock.paced else math.inf

    def pause(self, played_ms: float | None, now: float) -> float:
        """Stand still: nothing leaves, and nothing more is heard. Returns what was heard. Idempotent."""
        self.delivery.pause(now)
        if played_ms is not None and self.clock is not None:
            self.clock.report(played_ms, playing=False, now=now)
        return self.played(None, now).ms

    def resume(self, from_ms: float | None, now: float) -> float:
        """Go on behind what was sent or, not once it is over, from the start of the word at `from_ms`. Returns where the listener does."""
        self.delivery.go_on(now)
        if from_ms is None:
            return self.played(None, now).ms
        assert not self.over, "no audio follows the end of a turn"
        starts = [word.start_ms for word in self.speech.words()] if self.speech is not None else []
        border_ms = max((ms for ms in starts if ms <= from_ms), default=0.0)
        return self.delivery.rewind(min(border_ms, self.sent_ms), now)

    def text_deadline(self, now: float) -> float:
        """When there could be a segment to speak although no text came; infinity: never."""
        deadline = self.text.deadline(now, self._lead_s(now))
        return math.inf if deadline is None else deadline

    def release_at(self) -> float:
        """When `release` could do more, if nothing else happens; infinity: something else must."""
        return self.delivery.wake_at(self.speech)

    def played(self, played_ms: float | None, now: float) -> Played:
        """How much was heard: what the client says, else what the clock says, never more than was sent."""
        if not self.sent_ms or self.clock is None:
            return Played(0.0, HeardSource.NONE)
        if played_ms is not None:
            return Played(min(played_ms, self.sent_ms), HeardSource.CLIENT)
        told = HeardSource.MARK if self.options.leg else HeardSource.ACK
        source = told if self.clock.reported else HeardSource.CLOCK
        return Played(self.clock.heard_ms(now), source)

    def sounding_db(self, start: float, end: float) -> float | None:
        """Level of what the listener plays of it between two times, in dB below full scale; None: nothing, or nobody knows."""
        clock = self.clock
        if clock is None or clock.first_sent_at is None or clock.stopped or not clock.paced:
            return None
        start_ms, end_ms = clock.position_ms(start), clock.position_ms(end)
        return self.delivery.levels.loudest_db(start_ms, end_ms) if start_ms < end_ms else None  # else it stands

    def close(self, status: Status, reason: str | None, played: Played | None, event_id: str | None) -> Cut:
        """End it: the engine's row is freed, unsent audio is dropped, and its one terminal event is put. `played` None: all was heard.

        Returns what is left of it.
        """
        assert not self.over, "a turn ends once"
        self.over = True
        self.delivery.paused_at = None
        if self.speech is not None and not self.speech.finished:
            self.speech.stream.cancel()
        cut = self.cut(played)
        if played is None:
            self._tell(self._marks.place_rest(self.sent_ms))
        else:
            self._cut_marks(played.ms, silent=status is Status.CANCELLED)
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
            context=Kept(
                kept_ms=round(cut.kept_ms / self.options.speed), kept_chars=cut.char_end if cut.segments else 0
            ),
            metrics=self._metrics(),
            event_id=event_id,
        )
        self._outbox.close_turn(self.n, encode_event(done), withdrawn=status is Status.CANCELLED)
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
        ms = utterance.generated_ms if played is None else played.ms * self.options.speed
        return utterance.cut(self.text.raw, ms, self.options.config.cut)

    def recut(self, played: Played) -> Cut:
        """Cut it after its end: what was written of it is not written again, and its marks are not waited for."""
        self._outbox.withdraw(self.n)
        self.delivery.paused_at = None
        self._cut_marks(played.ms, silent=True)
        return self.cut(played)

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
            speech.end_text(now)
        ahead_ms = self.options.config.pacing.lead_ms + RUN_AHEAD_MS
        if self.options.config.pacing.clock is Clock.NONE:
            ahead_ms = FILE_AHEAD_MS
        played_ms = self.clock.played_ms(now) if self.clock is not None else 0.0
        speech.allow(int((played_ms + ahead_ms) * self.options.speed / (self._engine.info.frame_s * 1000)), now)

    def _lead_s(self, now: float) -> float:
        """How long the listener can do without new text, where that matters."""
        if self.speech is None or not self.text.asks_lead(now):
            return 0.0
        played_ms = self.clock.played_ms(now) if self.clock is not None else 0.0
        utterance = self.speech.utterance
        will_have_ms = (utterance.generated_ms + utterance.timeline.pending_ms) / self.options.speed
        return (will_have_ms - played_ms) / 1000

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

    def _note_lead(self, speech: Speech, now: float) -> None:
        """A frame came: how close was it? A listener who waits for text, or is paused, is not one who waits for the engine."""
        clock = self.clock
        if clock is None or clock.first_sent_at is None or not clock.pace.realtime or self.paused_at is not None:
            return
        if speech.busy_since is None or speech.busy_since > clock.ends_at:
            return
        lead_ms = self._generated_ms - clock.position_ms(now)
        if self._lead.note(lead_ms, clock.sent_ms):
            self._warn(WarningCode.UNDERRUN, f"the listener ran out of audio {-lead_ms:.0f} ms ago; told once a turn")

    def _cut_marks(self, heard_ms: float, *, silent: bool) -> None:
        """No more than this is heard of it. `silent`: and that was now."""
        if silent and self.clock is not None and self.clock.paced:
            self._tell(self._marks.played(heard_ms))
        self._tell(self._marks.cut(heard_ms))

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            self._emit(event)

    def _metrics(self) -> TurnMetrics:
        speech = self.speech
        generated_s = speech.utterance.generated_ms / 1000 if speech is not None else 0.0
        return TurnMetrics(
            text_to_first_audio_ms=self._first_audio_ms,
            queue_ms=self._queue_ms,
            chunks=speech.chunks if speech is not None else 0,
            rtf=round(speech.busy_s / generated_s, 4) if speech is not None and generated_s else None,
            min_lead_ms=self._lead.min_ms,
            underruns=self._lead.underruns,
            text_chars=self.text.chars,
            audio_tokens=speech.utterance.frames if speech is not None else 0,
        )

    @property
    def _generated_ms(self) -> float:
        """In the turn's time: what is slowed down lasts longer."""
        return self.speech.utterance.generated_ms / self.options.speed if self.speech is not None else 0.0

    def _warn_of(self, left_out: LeftOut) -> None:
        what = f"characters {left_out.start} to {left_out.end} were left out"
        self._warn(WarningCode.TEXT_LEFT_OUT, f"{what} and are spoken now" if left_out.again else what)

    def _warn(self, code: WarningCode, message: str) -> None:
        self._emit(WarningEvent(code=code, turn=self.id, message=message))

    def _emit(self, event: Event) -> None:
        self._outbox.event(encode_event(event))
