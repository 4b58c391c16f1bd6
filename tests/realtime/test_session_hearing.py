"""Somebody speaks while a turn does: what a whole session makes of it, with the real model and the real turns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import soxr

from engine.api import Samples
from protocol.audio_frame import AudioFrame, Flag, Kind
from protocol.errors import ErrorCode
from protocol.events import (
    ErrorEvent,
    SpeechAction,
    SpeechStarted,
    SpeechStopped,
    Status,
    TurnDone,
    TurnPaused,
    TurnResumed,
    WarningCode,
    WarningEvent,
)
from realtime.hearing_sounds import Sound, echo
from realtime.scripted import Script, ScriptedEngine
from tests.realtime.hearing_fixtures import in_quiet, messages, recorded, silence
from tests.realtime.stage import Stage, words

PHRASE_S = 1.0  # of silence before each phrase of in_quiet


class Caller:
    """A client with a microphone; time passes as its messages do."""

    def __init__(self, stage: Stage, **announced: object) -> None:
        self.stage = stage
        self.position = 0
        stage.send("audio.input", **announced)

    def sends(self, sound: Sound) -> None:
        for payload in messages(sound):
            self.stage.run(0.02)
            self.stage.session.on_audio(
                AudioFrame(Kind.UPLINK, Flag.NONE, 0, 0, self.position, payload), self.stage.now
            )
            self.stage.write()
            self.position += len(payload) // 2


def speaking_stage() -> Stage:
    """A stage on which a long turn has been speaking for a second."""
    stage = Stage()
    stage.say(words(60), "t")
    stage.run(1.0)
    return stage


def test_speech_without_barge_in_is_told_and_changes_nothing() -> None:
    stage = speaking_stage()
    Caller(stage).sends(in_quiet("wait"))
    assert stage.one(SpeechStarted).action is SpeechAction.NONE
    assert stage.one(SpeechStopped).action is SpeechAction.NONE
    assert stage.run_until_done("t").status is Status.COMPLETED


def test_a_barge_in_ends_the_turn_with_what_was_heard_and_later_text_is_late() -> None:
    stage = speaking_stage()
    stage.send("turn.start", turn="u")
    Caller(stage, barge_in="cancel").sends(in_quiet("wait", after_s=0.0))
    started, done = stage.one(SpeechStarted), stage.run_until_done("t")
    assert (started.turn, started.action) == ("t", SpeechAction.CANCELLED)
    assert (done.status, done.reason) == (Status.CANCELLED, "barge_in")
    assert done.heard.text + done.heard.remaining == words(60)
    # From the second before the microphone, through the silence, to the decision 0.2 to 0.3 s into the phrase; less the assumed buffer.
    assert 1000 + 1000 * PHRASE_S + 50 <= done.heard.ms <= 1000 + 1000 * PHRASE_S + 350


def test_text_for_a_turn_that_the_caller_ended_starts_no_new_one() -> None:
    stage = Stage()
    stage.send("text.append", text=words(60) + " ")
    stage.run(1.0)
    Caller(stage, barge_in="cancel").sends(in_quiet("wait", after_s=0.0))
    stage.send("text.append", text="and so on, ")
    stage.send("text.append", text="and so on.")
    stage.run(1.0)
    assert [event.code for event in stage.all(WarningEvent)] == [WarningCode.LATE_TEXT]
    assert len(stage.all(TurnDone)) == 1


def test_a_cough_pauses_the_turn_and_nothing_of_it_is_lost() -> None:
    stage = speaking_stage()
    Caller(stage, barge_in="pause", resume_after_ms=1000).sends(in_quiet("halt", after_s=0.8))
    assert stage.one(SpeechStarted).action is SpeechAction.PAUSED
    paused = stage.one(TurnPaused)
    stage.run(2.0)
    resumed = stage.one(TurnResumed)
    assert resumed.at_ms == paused.at_ms
    assert [event.action for event in stage.all(SpeechStopped)] == [SpeechAction.NONE, SpeechAction.RESUMED]
    done = stage.run_until_done("t")
    assert done.status is Status.COMPLETED
    assert done.heard.text == words(60)
    assert done.audio_ms == round(stage.sent_ms(1)), "and nothing was sent twice"


@pytest.mark.parametrize(
    ("command", "fields", "status"),
    [("turn.cancel", {}, Status.CANCELLED), ("context.append", {"role": "user", "text": "Halt!"}, Status.CANCELLED)],
)
def test_a_client_that_knows_better_keeps_the_turn_from_going_on(
    command: str, fields: dict[str, str], status: Status
) -> None:
    stage = speaking_stage()
    Caller(stage, barge_in="pause").sends(in_quiet("halt"))
    stage.send(command, **fields)
    assert stage.run_until_done("t", seconds=15.0).status is status
    assert stage.all(TurnResumed) == []


def test_a_pause_that_lasts_too_long_is_a_cancel_and_is_not_said_to_go_on() -> None:
    stage = speaking_stage()
    Caller(stage, barge_in="pause", resume_after_ms=30_000).sends(in_quiet("halt"))
    assert stage.run_until_done("t").reason == "pause_ttl"
    stage.run(60.0)
    assert [event.action for event in stage.all(SpeechStopped)] == [SpeechAction.NONE]


class Announcer(ScriptedEngine):
    """Speaks the recorded answer, whatever it is given."""

    def sound(self, codes: npt.NDArray[np.int16]) -> Samples:
        rate, length = self.info.sample_rate, self.info.frame_samples
        speech = soxr.resample(recorded("answer"), 16_000, rate)
        return np.resize(speech, length * self.steps)[-length:].astype(np.float32)


def heard_by_an_open_microphone(stage: Stage, barge_in: str) -> Caller:
    """The turn "t" speaks through a loudspeaker 20 dB louder than its echo, for ten seconds."""
    stage.say(words(120), "t")
    while not stage.sent_ms(1):
        stage.run(0.01)
    caller = Caller(stage, barge_in=barge_in)
    caller.sends(echo(recorded("answer"), -20, 0.1, 0.3)[: 16_000 * 10])
    return caller


def test_the_turns_own_echo_does_not_interrupt_it() -> None:
    stage = Stage(engine=Announcer())
    heard_by_an_open_microphone(stage, "cancel")
    assert stage.all(SpeechStarted) == []
    assert stage.all(TurnDone) == []


def test_without_a_playback_clock_the_echo_cannot_be_told_from_speech() -> None:
    stage = Stage(engine=Announcer())
    stage.configure(pacing={"clock": "none"})
    heard_by_an_open_microphone(stage, "off")
    assert stage.all(SpeechStarted) != []


def test_somebody_whose_socket_is_lost_has_stopped() -> None:
    stage = speaking_stage()
    Caller(stage).sends(in_quiet("wait", after_s=0.0)[: int(1.6 * 16_000)])
    stage.session.detach(stage.now)
    stage.write()
    assert len(stage.all(SpeechStopped)) == 1


def test_sound_that_nobody_announced_is_refused_and_the_session_lives() -> None:
    stage = speaking_stage()
    stage.session.on_audio(AudioFrame(Kind.UPLINK, Flag.NONE, 0, 0, 0, messages(silence(0.1))[0]), stage.now)
    stage.write()
    error = stage.one(ErrorEvent)
    assert (error.code, error.fatal) == (ErrorCode.INVALID_VALUE, False)
    assert stage.run_until_done("t").status is Status.COMPLETED


def test_a_refused_announcement_names_its_message() -> None:
    stage = Stage()
    stage.send("audio.input", format="opus", rate=16_000, event_id="e7")
    error = stage.one(ErrorEvent)
    assert (error.code, error.param, error.event_id) == (ErrorCode.INVALID_VALUE, "rate", "e7")


def test_the_answer_is_prepared_when_the_caller_has_finished_speaking() -> None:
    stage = Stage()
    stage.say("One.")
    stage.run(5.0)
    count = len(stage.engine.prefetched)
    caller = Caller(stage)
    caller.sends(in_quiet("wait"))
    assert stage.one(SpeechStopped)
    assert len(stage.engine.prefetched) == count + 1
    conversation, _ = stage.engine.prefetched[-1]
    assert [segment.text for segment in conversation.history] == ["One."]


def test_a_turn_that_waits_for_its_text_is_not_interrupted() -> None:
    stage = Stage()
    stage.send("turn.start", turn="answer")
    Caller(stage, barge_in="cancel").sends(in_quiet("wait"))
    assert (stage.one(SpeechStarted).action, stage.all(TurnDone)) == (SpeechAction.NONE, [])
    stage.say("At your service.", "answer")
    assert stage.run_until_done("answer").status is Status.COMPLETED


def test_who_goes_on_speaking_interrupts_an_answer_before_its_first_sound() -> None:
    stage = Stage(Script(max_streams=0))  # the engine has no place yet
    stage.say(words(5), "answer")
    Caller(stage, barge_in="cancel").sends(in_quiet("wait", after_s=0.0))
    done = stage.run_until_done("answer")
    assert (done.status, done.heard.ms, done.heard.text) == (Status.CANCELLED, 0, "")


def talking(**announced: object) -> tuple[Stage, Caller]:
    """A turn was heard in silence, so that the session knows its own voice; then somebody began to speak, and does."""
    stage = Stage()
    caller = Caller(stage, **announced)
    stage.say(words(5), "greeting")
    caller.sends(silence(4.0))
    assert stage.run_until_done("greeting").status is Status.COMPLETED
    stage.run(1.0)
    caller.sends(np.concatenate((silence(1.0), recorded("wait"))))
    started = stage.one(SpeechStarted)
    assert (started.turn, started.action) == (None, SpeechAction.NONE)
    return stage, caller


def long_phrase() -> Sound:
    """Somebody who speaks for some four seconds, with pauses as between words."""
    return np.concatenate([recorded("wait"), recorded("halt")] * 3)


@pytest.mark.parametrize(("barge_in", "action"), [("cancel", "cancelled"), ("pause", "paused")])
def test_who_speaks_already_interrupts_an_answer_by_going_on(barge_in: str, action: str) -> None:
    stage, caller = talking(barge_in=barge_in, min_speech_ms=300)
    stage.say(words(20), "answer")
    caller.sends(long_phrase())
    started = stage.one(SpeechStarted)
    assert (started.turn, started.action) == ("answer", action)
    assert stage.all(SpeechStopped) == [] or barge_in == "pause"
    heard_ms = stage.one(TurnPaused).at_ms if barge_in == "pause" else stage.run_until_done("answer").heard.ms
    assert 150 <= heard_ms <= 600


def test_an_answer_does_not_wait_for_who_has_just_finished() -> None:
    """The client knew it sooner than the silence could tell."""
    stage, caller = talking(barge_in="cancel")
    stage.say(words(5), "answer")
    caller.sends(silence(3.0))
    assert stage.all(SpeechStarted) == []
    assert stage.one(SpeechStopped).turn is None
    assert stage.run_until_done("answer").status is Status.COMPLETED


def test_without_barge_in_an_answer_speaks_over_who_goes_on() -> None:
    stage, caller = talking()
    stage.say(words(5), "answer")
    caller.sends(long_phrase())
    assert stage.all(SpeechStarted) == []
    assert stage.run_until_done("answer").status is Status.COMPLETED


def test_a_turn_that_goes_on_because_the_client_wants_it_is_not_paused_again_by_the_same_speech() -> None:
    stage = speaking_stage()
    caller = Caller(stage, barge_in="pause")
    caller.sends(np.concatenate((silence(1.0), recorded("wait"))))
    assert stage.one(SpeechStarted).action is SpeechAction.PAUSED
    stage.send("turn.resume")
    caller.sends(long_phrase()[:16_000])
    assert stage.all(SpeechStarted) == []
