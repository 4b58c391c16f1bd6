"""A telephone at a session, in virtual time: what its caller hears of a handset that plays what it gets, and what the client learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.audio_frame import AudioFrame
from protocol.commands import AudioInput
from protocol.dialects.interface import CloseSocket
from protocol.dialects.twilio import MediaStream
from protocol.errors import ErrorCode
from protocol.events import (
    ContextUpdated,
    DetachReason,
    Dtmf,
    ErrorEvent,
    Event,
    HeardSource,
    LegAttached,
    LegDetached,
    SpeechStarted,
    SpeechStopped,
    Status,
    TurnDone,
    TurnPaused,
    TurnPlayed,
    TurnResumed,
)
from realtime.dialects.twilio_line import Line
from realtime.g711_expanding import decode_mulaw
from realtime.hearing_sounds import Sound
from realtime.legs import Call, OnDigit
from realtime.outbox import Close
from realtime.playout import ASSUMED_BUFFER_MS
from tests.dialects.phone import CALL, QUIET, Handset, dtmf, start, stop
from tests.realtime.hearing_fixtures import in_quiet
from tests.realtime.stage import Stage as SocketStage
from tests.realtime.stage import words

LATE_MS = 60  # a tick of the handset and one of the test, and a packet


class Stage(SocketStage):
    """One whose turns may be heard elsewhere: their last flag does not come to the socket."""

    def _check(self, message: Event | AudioFrame | Close) -> None:
        if isinstance(message, TurnDone) and message.n not in self._ends:
            self._last.add(message.n)
        super()._check(message)


class Booth:
    """A telephone on a stage. Time passes in ticks of 20 ms."""

    def __init__(self, stage: Stage, on_digit: OnDigit = OnDigit.TELL, **sound: Any) -> None:
        self.stage = stage
        self.handset = Handset()
        self.closed: CloseSocket | None = None
        stream = MediaStream()
        for message in start():
            stream.received(message, stage.now)
        self.line = Line(stream, lambda act: stage.session.on_leg(act, stage.now), lambda: None)
        heard = AudioInput.model_validate({"format": "mulaw", "rate": 8000, "barge_in": "off", **sound})
        assert self.line.attach(Call("twilio", CALL, heard, on_digit))
        stage.write()

    def passes(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            self.stage.run(0.02)
            self.moves()
            for message in self.handset.tick():
                self.line.received(message, self.stage.now)
            self.moves()

    def moves(self) -> None:
        """What is there is written, and answered."""
        while self.closed is None and (messages := self.line.take(self.stage.now, self._written)):
            for message in messages:
                if isinstance(message, CloseSocket):
                    self.closed = message
                    return
                for answer in self.handset.take(message):
                    self.line.received(answer, self.stage.now)
        self.stage.write()

    def until_done(self, turn: str) -> TurnDone:
        for _ in range(3000):
            found = [done for done in self.stage.all(TurnDone) if done.turn == turn]
            if found:
                return found[0]
            self.passes(0.02)
        raise AssertionError(f"turn {turn} is not done")

    def says(self, sound: Sound) -> None:
        self.handset.say(sound)
        while self.handset.speaking:
            self.passes(0.02)

    def presses(self, digit: str) -> None:
        self.line.received(dtmf(digit), self.stage.now)
        self.moves()

    def hangs_up(self) -> None:
        self.line.received(stop(), self.stage.now)
        self.line.detach()
        self.stage.write()

    @property
    def heard_ms(self) -> float:
        return len(self.handset.heard) / 8

    def _written(self) -> None:
        self.stage.session.on_written(self.stage.now)


def spoken(stage: Stage, text: str) -> bytes:
    """What a caller hears of a turn that is left alone."""
    booth = Booth(Stage(step_s=stage.step_s))
    booth.stage.say(text, "t")
    booth.until_done("t")
    booth.passes(2.0)
    return booth.handset.heard


def test_turns_are_spoken_to_the_telephone_and_told_to_the_socket() -> None:
    stage = Stage()
    booth = Booth(stage)
    attached = stage.one(LegAttached)
    assert (attached.leg, attached.kind, attached.call) == (1, "twilio", CALL)
    stage.say(words(10), "t")
    done = booth.until_done("t")
    booth.passes(2.0)
    assert stage.all(AudioFrame) == []
    assert done.status is Status.COMPLETED
    assert done.heard.text == words(10)
    assert booth.heard_ms == pytest.approx(done.audio_ms, abs=20)
    assert np.abs(decode_mulaw(booth.handset.heard).astype(np.int32)).mean() > 500, "and it is sound"
    assert stage.one(TurnPlayed).ms == done.audio_ms


def test_a_telephone_never_holds_more_than_the_lead() -> None:
    booth = Booth(Stage())
    booth.stage.say(words(40), "t")
    booth.until_done("t")
    assert 400 <= booth.handset.most_buffered / 8 <= 1000 + LATE_MS


def test_turns_follow_each_other_without_a_gap() -> None:
    booth = Booth(Stage())
    booth.stage.say(words(10), "t")
    booth.stage.say(words(10), "u")
    first, second = booth.until_done("t"), booth.until_done("u")
    begun_at = booth.stage.now
    booth.passes(2.0)
    assert booth.heard_ms == pytest.approx(first.audio_ms + second.audio_ms, abs=40)
    assert booth.stage.now - begun_at <= 2.0 + 1e-6


def test_a_cancelled_turn_is_silent_at_once_and_its_marks_tell_what_was_heard() -> None:
    stage = Stage()
    booth = Booth(stage)
    stage.say(words(60), "t")
    booth.passes(2.5)
    stage.send("turn.cancel")
    booth.moves()
    done = stage.one(TurnDone)
    assert booth.handset.buffered == 0 and booth.handset.clears == 1
    assert done.heard.source is HeardSource.MARK
    assert done.heard.ms == pytest.approx(booth.heard_ms, abs=LATE_MS)
    before = booth.heard_ms
    booth.passes(1.0)
    assert booth.heard_ms == before


def test_what_no_mark_has_told_was_not_heard() -> None:
    stage = Stage()
    booth = Booth(stage)
    stage.say(words(60), "t")
    booth.passes(1.1)
    for _ in range(40):  # 0.8 s in which nothing comes from the telephone
        stage.run(0.02)
        booth.moves()
    stage.send("turn.cancel")
    done = stage.one(TurnDone)
    assert booth.heard_ms <= done.heard.ms <= booth.heard_ms + 200


def test_a_caller_who_speaks_interrupts() -> None:
    stage = Stage()
    booth = Booth(stage, barge_in="cancel")
    stage.say(words(60), "t")
    booth.passes(1.0)
    booth.says(in_quiet("wait", before_s=1.0, after_s=0.0))
    started, done = stage.one(SpeechStarted), booth.until_done("t")
    assert (started.leg, started.turn, started.action) == (1, "t", "cancelled")
    assert (done.status, done.reason) == (Status.CANCELLED, "barge_in")
    assert done.heard.ms == pytest.approx(booth.heard_ms, abs=LATE_MS)
    assert 2000 < booth.heard_ms < 2400
    booth.says(in_quiet("yes", before_s=0.0, after_s=1.0))
    assert {event.leg for event in stage.all(SpeechStopped)} == {1}


def test_a_pause_and_its_end_lose_nothing_and_repeat_nothing() -> None:
    stage = Stage()
    booth = Booth(stage, barge_in="pause", resume_after_ms=500)
    stage.say(words(30), "t")
    booth.passes(1.0)
    booth.says(in_quiet("halt", before_s=0.5, after_s=1.5))
    assert len(stage.all(TurnPaused)) == len(stage.all(TurnResumed)) == 1
    done = booth.until_done("t")
    booth.passes(2.0)
    assert done.status is Status.COMPLETED
    whole = spoken(stage, words(30))
    assert abs(len(booth.handset.heard) - len(whole)) <= 2 * 160, "at most the packet that was cut is heard again"


def test_a_key_is_told_and_changes_nothing_unless_it_is_meant_to() -> None:
    stage = Stage()
    booth = Booth(stage)
    stage.say(words(60), "t")
    booth.passes(1.0)
    booth.presses("5")
    assert stage.one(Dtmf) == Dtmf(leg=1, digit="5", turn="t", action="none")
    booth.passes(0.5)
    assert booth.handset.buffered > 0


def test_a_key_can_interrupt() -> None:
    stage = Stage()
    booth = Booth(stage, OnDigit.CANCEL)
    stage.say(words(60), "t")
    stage.say(words(5), "u")
    booth.passes(1.0)
    booth.presses("#")
    assert stage.one(Dtmf) == Dtmf(leg=1, digit="#", turn="t", action="cancelled")
    assert [(done.turn, done.status, done.reason) for done in stage.all(TurnDone)] == [
        ("t", Status.CANCELLED, "dtmf"),
        ("u", Status.CANCELLED, "dtmf"),
    ]
    assert booth.handset.buffered == 0
    booth.presses("0")
    assert stage.all(Dtmf)[-1] == Dtmf(leg=1, digit="0", action="none")


def test_a_turn_that_is_done_and_still_heard_is_cut() -> None:
    stage = Stage()
    booth = Booth(stage, OnDigit.CANCEL)
    stage.say("Hello you.", "t")
    done = booth.until_done("t")
    assert done.status is Status.COMPLETED
    booth.presses("1")
    cut = stage.all(ContextUpdated)[-1]
    assert cut.turn == "t" and cut.heard is not None and cut.heard.remaining
    assert booth.handset.buffered == 0 and booth.handset.clears == 1


def test_who_hangs_up_hears_no_more_and_new_turns_come_to_the_socket() -> None:
    stage = Stage()
    booth = Booth(stage)
    stage.say(words(60), "t")
    stage.say(words(60), "u")
    booth.passes(1.0)
    booth.hangs_up()
    assert stage.one(LegDetached).reason is DetachReason.HANGUP
    assert [(done.turn, done.reason) for done in stage.all(TurnDone)] == [("t", "hangup"), ("u", "hangup")]
    stage.say(words(5), "v")
    assert stage.run_until_done("v").status is Status.COMPLETED
    assert stage.audio(3)


def test_a_turn_of_the_socket_goes_on_there_when_a_telephone_comes() -> None:
    stage = Stage()
    stage.say(words(20), "t")
    stage.run(0.5)
    booth = Booth(stage)
    stage.say(words(5), "u")
    first, second = booth.until_done("t"), booth.until_done("u")
    booth.passes(2.0)
    assert stage.sent_ms(1) == pytest.approx(first.audio_ms, abs=1)
    assert booth.heard_ms == pytest.approx(second.audio_ms, abs=20)


def test_another_call_takes_the_place_of_the_first() -> None:
    stage = Stage()
    first = Booth(stage)
    stage.say(words(60), "t")
    first.passes(1.0)
    second = Booth(stage)
    first.moves()
    assert first.closed is not None, "the first call is ended"
    assert stage.one(LegDetached).reason is DetachReason.REPLACED
    assert [event.leg for event in stage.all(LegAttached)] == [1, 2]
    assert stage.one(TurnDone).reason == "hangup"
    stage.say(words(5), "u")
    second.passes(1.0)
    first.presses("1")
    first.hangs_up()
    assert stage.all(Dtmf) == [], "what the first still says concerns nobody"
    assert second.until_done("u").status is Status.COMPLETED


def test_a_report_for_a_turn_of_the_telephone_is_refused() -> None:
    stage = Stage()
    booth = Booth(stage)
    stage.say(words(20), "t")
    booth.passes(1.0)
    stage.send("playback.update", turn="t", played_ms=10)
    assert stage.one(ErrorEvent).code == ErrorCode.INVALID_VALUE


def test_a_session_that_closes_lets_its_last_words_be_heard() -> None:
    stage = Stage()
    booth = Booth(stage)
    stage.say("Good bye and thank you for calling.", "t")
    stage.send("session.close")
    done = booth.until_done("t")
    assert booth.closed is None and booth.handset.buffered > 0
    booth.passes(2.0)
    assert booth.closed == CloseSocket(1000, "closed")
    assert booth.heard_ms == pytest.approx(done.audio_ms, abs=20)


def test_a_session_that_closes_at_once_ends_the_call_at_once() -> None:
    stage = Stage()
    booth = Booth(stage)
    stage.say(words(60), "t")
    booth.passes(1.0)
    stage.send("session.close", drain=False)
    booth.moves()
    assert booth.closed is not None and booth.handset.buffered == 0


def test_silence_from_the_caller_keeps_a_session_from_idling() -> None:
    stage = Stage()
    booth = Booth(stage)
    booth.line.received(dtmf("1"), stage.now)
    for _ in range(70):
        stage.run(10.0)
        for message in booth.handset.tick():
            booth.line.received(message, stage.now)
    assert not stage.session.closed


STEPS = st.lists(
    st.sampled_from(["say", "cancel", "cancel-one", "pause", "resume", "back", "wait", "wait", "key", "quiet"]),
    max_size=14,
)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_whatever_happens_a_caller_hears_each_turn_from_its_start_in_order_and_nothing_after_its_end(
    steps: list[str],
) -> None:
    stage = Stage()
    booth = Booth(stage, OnDigit.CANCEL)
    count = 0
    for step in steps:
        if step == "say" and count < 4:
            count += 1
            stage.say(words(12), f"t{count}")
        elif step == "cancel":
            stage.send("turn.cancel")
        elif step == "cancel-one" and count:
            stage.send("turn.cancel", turn=f"t{count}", scope="turn")
        elif step == "pause":
            stage.send("turn.pause")
        elif step == "resume":
            stage.send("turn.resume")
        elif step == "back":
            stage.send("turn.resume", from_ms=100)
        elif step == "key":
            booth.presses("1")
        elif step == "quiet":
            booth.passes(0.1)
        else:
            booth.passes(0.7)
        booth.moves()
        paused = [event.turn for event in stage.all(TurnPaused)]
        resumed = [event.turn for event in stage.all(TurnResumed)]
        if len(paused) > len(resumed) and not _over(stage, paused[-1]):
            assert booth.handset.buffered == 0, "a pause is silence"
    stage.send("turn.resume")
    booth.passes(16.0)
    assert booth.handset.buffered == 0
    for done in stage.all(TurnDone):
        assert done.heard.source in (HeardSource.MARK, HeardSource.CLOCK, HeardSource.NONE)
    whole = [done for done in stage.all(TurnDone) if done.status is Status.COMPLETED]
    cut = {event.turn for event in stage.all(ContextUpdated) if event.turn}
    least = sum(done.audio_ms for done in whole if done.turn not in cut)
    assert booth.heard_ms >= least - 20 * len(whole)
    if "back" not in steps:
        # Before the first mark comes back what waits in buffers is only assumed.
        least_sure = [done for done in stage.all(TurnDone) if done.heard.source is HeardSource.CLOCK]
        most = sum(done.audio_ms if done in whole else done.heard.ms + LATE_MS for done in stage.all(TurnDone))
        most += ASSUMED_BUFFER_MS * len(least_sure)
        assert booth.heard_ms <= most + 40 * steps.count("pause") + 20 * count


def _over(stage: Stage, turn: str) -> bool:
    return any(done.turn == turn for done in stage.all(TurnDone))


def test_quiet_is_quiet() -> None:
    assert not decode_mulaw(QUIET).any()
