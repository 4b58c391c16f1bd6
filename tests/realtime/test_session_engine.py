"""The session alone: an engine in trouble, and how fast audio leaves."""

from __future__ import annotations

import pytest

from engine.api import EngineDied, SynthesisFailed
from protocol.audio_frame import AudioFrame
from protocol.messages import (
    ErrorEvent,
    TurnDone,
    TurnStarted,
    WarningEvent,
)
from realtime.scripted import Cut, Script
from tests.realtime.stage import Stage, remembered, squeezed, words

# Engine trouble


def test_a_dying_engine_costs_one_turn_and_no_context() -> None:
    stage = Stage()
    stage.say("One.")
    stage.run_until_done()
    stage.say(words(30))
    stage.run(1.0)
    stage.engine.die()
    stage.run(0.1)
    error = stage.one(ErrorEvent)
    assert (error.code, error.turn, error.fatal) == ("engine_restarted", "turn-2", False)
    done = stage.all(TurnDone)[-1]
    assert (done.status, done.reason) == ("failed", "engine_restarted")
    assert done.heard.text + done.heard.remaining == words(30)
    stage.say("Three.")
    assert stage.run_until_done("turn-3").status == "completed"
    assert remembered(stage) == squeezed("One." + done.heard.text)


def test_failed_synthesis_ends_the_turn_and_not_the_session() -> None:
    stage = Stage(Script(errors={20: SynthesisFailed("degenerate", "nothing sane came out")}))
    stage.say(words(30))
    done = stage.run_until_done()
    error = stage.one(ErrorEvent)
    assert (error.code, error.message) == ("synthesis_failed", "degenerate: nothing sane came out")
    assert (done.status, done.reason) == ("failed", "synthesis_failed")
    assert stage.written.index(done) == len(stage.written) - 1, "the error comes first"
    stage.say("Two.")
    assert stage.run_until_done("turn-2").status == "completed"


def test_text_for_a_turn_that_failed_is_dropped_and_told_once() -> None:
    stage = Stage(Script(errors={5: EngineDied()}))
    stage.send("text.append", text=words(10))
    stage.run(0.5)
    assert stage.one(TurnDone).status == "failed"
    stage.send("text.append", text="more ")
    stage.send("text.append", text="and more ", turn="turn-1")
    assert [event.code for event in stage.all(WarningEvent)] == ["late_text"]
    assert not stage.session.floor.turns
    stage.send("turn.end")
    assert not stage.all(TurnDone), "that was the end of the turn that failed"
    stage.say("Fresh.")
    assert stage.run_until_done().heard.text == "Fresh."


@pytest.mark.parametrize("begin", [{"kind": "turn.start"}, {"kind": "text.append", "turn": "new", "text": ""}])
def test_a_new_turn_ends_the_lateness_of_the_old_one(begin: dict[str, str]) -> None:
    stage = Stage(Script(errors={5: EngineDied()}))
    stage.send("text.append", text=words(10))
    stage.run(0.5)
    stage.send(**begin)
    stage.send("text.append", text="Fresh.")
    stage.send("turn.end")
    stage.run(3.0)
    assert stage.all(TurnDone)[-1].heard.text == "Fresh."


def test_a_full_engine_is_waited_for() -> None:
    stage = Stage(Script(max_streams=1))
    other = Stage(engine=stage.engine, session_id="s-2")
    other.send("text.append", text="Somebody else speaks. And")
    other.run(0.1)
    stage.say("One.")
    stage.run(1.0)
    assert not stage.all(TurnStarted)
    other.send("turn.end")
    other.run_until_done()
    stage.run(1.0)
    assert 900 < stage.one(TurnStarted).queue_ms < 1300
    assert stage.run_until_done().metrics.queue_ms > 900


@pytest.mark.parametrize(("free_in_s", "told_ms"), [(3.0, 3000), (0.1, 2000)])
def test_who_waits_too_long_for_the_engine_is_told_when_to_come_back(free_in_s: float, told_ms: int) -> None:
    """Not at once where a place becomes free each moment: he has waited for one in vain."""
    stage = Stage(Script(max_streams=0, retry_after_s=free_in_s), admission_timeout_s=2.0)
    stage.say("One.")
    stage.run(1.9)
    assert not stage.all(TurnDone)
    stage.run(2.0)
    error = stage.one(ErrorEvent)
    assert (error.code, error.retry_after_ms, error.turn, error.fatal) == ("no_capacity", told_ms, "turn-1", False)
    assert stage.one(TurnDone).reason == "no_capacity"


def test_degenerate_speech_is_a_warning() -> None:
    stage = Stage(Script(retries={0: "nan"}, cuts={0: Cut(10, "runaway")}))
    stage.say(words(3))
    done = stage.run_until_done()
    assert [event.code for event in stage.all(WarningEvent)] == ["speech_retried", "speech_cut"]
    assert done.status == "completed" and done.metrics.audio_tokens == 10


# Pacing


def sent_over_time(stage: Stage, seconds: float) -> list[tuple[float, float]]:
    """(seconds since the first audio, ms sent) at each audio message."""
    stage.run(seconds)
    frames = [(at, m) for m, at in zip(stage.written, stage.written_at, strict=True) if isinstance(m, AudioFrame)]
    return [(at - frames[0][0], (frame.position + len(frame.payload) // 2) / 24) for at, frame in frames]


def test_audio_is_sent_ahead_of_the_listener_and_no_further() -> None:
    stage = Stage(step_s=0.001)
    stage.say(words(60))
    course = sent_over_time(stage, 12.0)
    for at, sent_ms in course:
        assert sent_ms <= 400 + 1250 * at + 1, "a burst, then 1.25 times real time"
        assert sent_ms <= 2000 + 1000 * at + 1, "until the lead is full"
    assert course[19][0] == pytest.approx(0.0, abs=0.02), "the burst leaves at once"
    assert course[-1][1] > 2000 + 1000 * course[-1][0] - 60, "the lead stays full"


def test_without_a_clock_audio_is_sent_as_fast_as_it_comes() -> None:
    stage = Stage(step_s=0.001)
    stage.configure(pacing={"clock": "none"})
    stage.say(words(60))
    course = sent_over_time(stage, 2.0)
    assert course[-1][1] > 15_000 and stage.all(TurnDone)


def test_a_lead_shorter_than_a_packet_still_plays() -> None:
    stage = Stage(step_s=0.001)
    stage.configure(pacing={"lead_ms": 0, "burst_ms": 0})
    stage.say(words(6))
    course = sent_over_time(stage, 6.0)
    assert stage.all(TurnDone)[-1].status == "completed"
    assert all(sent_ms <= 1000 * at + 21 for at, sent_ms in course)


def test_generation_stops_a_second_beyond_the_lead() -> None:
    stage = Stage(step_s=0.001)
    stage.say(words(200))
    stage.run(1.0)
    ahead_ms = stage.engine.steps * stage.engine.info.frame_s * 1000 - 1000
    assert ahead_ms <= 3000 + 10


def test_a_reader_who_stalls_bounds_what_is_kept_for_him() -> None:
    stage = Stage(step_s=0.001)
    stage.configure(pacing={"clock": "none"})
    stage.writable = False
    for _ in range(5):
        stage.send("text.append", text=words(150))
    stage.send("turn.end")
    stage.run(5.0)
    assert stage.outbox.audio_bytes < 80 * 1024
    assert stage.engine.steps * stage.engine.info.frame_s < 11
    stage.writable = True
    assert stage.run_until_done().status == "completed"


def test_an_engine_that_is_too_slow_is_an_underrun() -> None:
    stage = Stage(step_s=0.06)
    stage.configure(pacing={"burst_ms": 2000})
    stage.say(words(10))
    metrics = stage.run_until_done().metrics
    assert metrics.underruns > 3 and metrics.min_lead_ms is not None and metrics.min_lead_ms < 0
    assert metrics.rtf == pytest.approx(0.06 / stage.engine.info.frame_s, rel=0.05)
    assert [event.code for event in stage.all(WarningEvent)] == ["underrun"]


def test_waiting_for_text_is_not_an_underrun() -> None:
    stage = Stage()
    stage.send("text.append", text="Hello there, friend. ")
    stage.run(6.0)
    stage.send("text.append", text="Here I am again. ")
    stage.send("turn.end")
    metrics = stage.run_until_done().metrics
    assert metrics.underruns == 0 and metrics.chunks >= 2
    assert metrics.rtf is not None and metrics.rtf < 0.3


def test_the_metrics_tell_how_the_turn_went() -> None:
    stage = Stage()
    stage.send("turn.start")
    stage.run(1.0)
    stage.send("text.append", text="Hello ")
    stage.run(0.2)
    stage.send("text.append", text="there, friend.")
    stage.send("turn.end")
    metrics = stage.run_until_done().metrics
    assert metrics.text_to_first_audio_ms == pytest.approx(200, abs=15)
    assert (metrics.text_chars, metrics.queue_ms) == (20, 0)
    assert metrics.audio_tokens == stage.engine.steps
