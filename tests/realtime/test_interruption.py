"""What a client says about its listener, and what comes of it: reports, pauses, truncation, the end of playing."""

from __future__ import annotations

import pytest

from protocol.audio_frame import AudioFrame, Flag
from protocol.config import Limits
from protocol.messages import (
    ContextUpdated,
    ErrorEvent,
    TurnDone,
    TurnPaused,
    TurnPlayed,
    TurnResumed,
    TurnStarted,
    WarningEvent,
)
from realtime.delivery import COALESCE_S
from realtime.playout import CATCH_UP
from tests.realtime.stage import Stage, words

GROUP_MS = COALESCE_S * 1000  # packets leave together that far behind the first one's time


def speaking(count: int = 40, seconds: float = 2.0, **config: object) -> Stage:
    """A turn `a` of so many words that has been speaking for so long."""
    stage = Stage(step_s=0.001)
    if config:
        stage.configure(**config)
    stage.say(words(count), turn="a")
    stage.run(seconds)
    return stage


def report(stage: Stage, played_ms: float, state: str = "playing", turn: str = "a") -> None:
    stage.send("playback.update", turn=turn, played_ms=round(played_ms), state=state)


def remembered(stage: Stage) -> str:
    """What the model knows of the conversation, without spaces, once a next turn speaks."""
    stage.say("Next.", turn="next")
    stage.run(0.1)
    return "".join(segment.text for segment in stage.engine.opened[-1].conversation.history).replace(" ", "")


# Reports


def test_what_was_heard_is_what_was_reported_and_the_time_since() -> None:
    stage = speaking(seconds=1.0)
    report(stage, 500)
    stage.run(0.4)
    stage.send("turn.cancel")
    heard = stage.one(TurnDone).heard
    assert heard.source == "ack" and heard.ms == pytest.approx(900, abs=2)


def test_a_listener_who_stalls_hears_nothing_until_it_plays_on() -> None:
    stage = speaking(seconds=1.0)
    report(stage, 800, "stalled")
    stage.run(5.0)
    report(stage, 800)
    stage.run(0.1)
    stage.send("turn.cancel")
    assert stage.one(TurnDone).heard.ms == pytest.approx(900, abs=2)


def test_no_more_than_the_lead_is_sent_to_a_listener_who_stalls() -> None:
    stage = speaking(200, 1.0)
    report(stage, 800, "stalled")
    stage.run(10.0)
    assert 2800 - GROUP_MS <= stage.sent_ms(1) <= 2800
    generated_ms = stage.engine.steps * stage.engine.info.frame_s * 1000
    assert generated_ms <= 1000 + 2000 + 1000 + 50, "generation stops a second beyond the lead at the time it stalled"
    report(stage, 800)
    stage.run(1.0)
    assert 3800 - GROUP_MS <= stage.sent_ms(1) <= 3800


def test_a_listener_behind_its_clock_is_not_flooded() -> None:
    stage = speaking(200, 5.0)
    report(stage, 3000)
    before = stage.sent_ms(1)
    stage.run(1.0)
    assert stage.sent_ms(1) == before, "two seconds further than the server had thought is too far ahead"
    stage.run(3.0)
    assert stage.sent_ms(1) == pytest.approx(3000 + 4000 + 2000, abs=GROUP_MS)


def test_nobody_has_heard_more_than_was_sent() -> None:
    stage = speaking(seconds=1.0)
    report(stage, 80_000)
    stage.send("turn.cancel")
    done = stage.one(TurnDone)
    # What leaves upon the report was not heard: the packets of a group, which follow each other faster than they are played.
    assert done.sent_ms - CATCH_UP * GROUP_MS - 20 <= done.heard.ms <= done.sent_ms


def test_a_report_never_falls() -> None:
    stage = speaking()
    report(stage, 1000)
    report(stage, 999)
    error = stage.one(ErrorEvent)
    assert (error.code, error.param, error.turn) == ("invalid_value", "played_ms", "a")
    stage.send("turn.cancel")
    assert stage.one(TurnDone).heard.ms == 1000


def test_a_report_of_what_was_not_sent_is_refused() -> None:
    stage = Stage()
    stage.send("turn.start", turn="a")
    report(stage, 0)
    assert stage.one(ErrorEvent).code == "invalid_value"
    report(stage, 0, turn="nobody")
    assert stage.one(ErrorEvent).code == "unknown_turn"


def test_a_clock_of_real_time_takes_no_reports() -> None:
    stage = speaking(pacing={"clock": "realtime"})
    report(stage, 100)
    assert stage.one(ErrorEvent).code == "invalid_value"


def test_who_takes_everything_at_once_may_still_tell_what_was_heard() -> None:
    stage = speaking(pacing={"clock": "none"})
    report(stage, 700)
    stage.run(0.3)
    stage.send("turn.cancel")
    heard = (stage.all(ContextUpdated) or stage.all(TurnDone))[-1].heard
    assert heard is not None and (heard.source, heard.ms) == ("ack", pytest.approx(1000, abs=2))


def test_a_report_that_comes_after_a_cancel_changes_nothing() -> None:
    stage = speaking()
    stage.send("turn.cancel", played_ms=500)
    report(stage, 700)
    assert not stage.all(ErrorEvent)
    heard = stage.one(TurnDone).heard
    assert remembered(stage) == heard.text.replace(" ", "")


# Played to the end


def test_a_turn_is_played_when_its_last_sound_was() -> None:
    stage = speaking(10, 0.1)
    done = stage.run_until_done("a")
    assert not stage.all(TurnPlayed)
    stage.run(30.0)
    played = stage.one(TurnPlayed)
    assert (played.turn, played.ms) == ("a", done.audio_ms)


def test_the_end_of_playing_is_when_the_listener_says_so() -> None:
    stage = speaking(10, 0.1)
    done = stage.run_until_done("a")
    report(stage, done.audio_ms - 500, "stalled")
    stage.run(30.0)
    assert not stage.all(TurnPlayed)
    report(stage, done.audio_ms - 15, "ended")
    assert stage.one(TurnPlayed).ms == done.audio_ms
    stage.send("turn.cancel")
    assert not stage.all(ContextUpdated), "it can no longer be cancelled"


def test_without_a_playback_clock_nothing_is_played() -> None:
    stage = speaking(10, 60.0, pacing={"clock": "none"})
    assert stage.one(TurnDone).status == "completed" and not stage.all(TurnPlayed)


def test_a_turn_that_was_cut_is_not_played() -> None:
    stage = speaking(10, 0.1)
    stage.run_until_done("a")
    stage.send("turn.cancel", played_ms=100)
    stage.run(30.0)
    assert stage.one(ContextUpdated) and not stage.all(TurnPlayed)


def test_a_turn_is_heard_behind_one_that_stalls() -> None:
    stage = speaking(8, 0.1, pacing={"lead_ms": 10_000, "burst_ms": 10_000})
    first = stage.run_until_done("a")
    stage.say(words(8), turn="b")
    stage.run(0.5)
    report(stage, 300, "stalled")
    stage.run(60.0)
    stage.send("turn.cancel", scope="turn")
    assert stage.one(ContextUpdated).turn == "a", "it is still the one that is heard"
    assert first.audio_ms > 300 and not stage.all(TurnPlayed)
    stage.run(30.0)
    assert stage.one(TurnPlayed).turn == "b"


# Pause and resume


def test_a_pause_silences_and_a_resume_goes_on_without_generating_again() -> None:
    whole = speaking(30, 60.0)
    stage = speaking(30)
    stage.send("turn.pause", event_id="p")
    paused = stage.one(TurnPaused)
    assert (paused.turn, paused.event_id) == ("a", "p") and 1800 <= paused.at_ms <= 2000
    sent = len(stage.written)
    stage.run(9.0)
    assert len(stage.written) == sent, "nothing is sent"
    stage.send("turn.resume", event_id="r")
    resumed = stage.one(TurnResumed)
    assert (resumed.turn, resumed.at_ms, resumed.event_id) == ("a", paused.at_ms, "r")
    assert stage.run_until_done("a").status == "completed"
    assert stage.audio(1) == whole.audio(1) and len(stage.engine.opened) == 1


def test_what_a_client_says_it_played_is_where_it_is_paused() -> None:
    stage = speaking()
    stage.send("turn.pause", played_ms=1234)
    assert stage.one(TurnPaused).at_ms == 1234
    stage.run(5.0)
    stage.send("turn.cancel")
    heard = stage.one(TurnDone).heard
    assert (heard.ms, heard.source) == (1234, "ack")


def test_nothing_is_generated_for_a_turn_that_stays_paused() -> None:
    stage = speaking(400)
    stage.send("turn.pause")
    stage.run(2.0)
    steps = stage.engine.steps
    stage.run(7.0)
    assert stage.engine.steps == steps


def test_a_pause_that_lasts_becomes_a_cancel() -> None:
    stage = speaking()
    stage.say(words(10), turn="b")
    stage.send("turn.pause", played_ms=1000)
    stage.run(9.9)
    assert not stage.all(TurnDone)
    stage.run(0.2)
    done = stage.all(TurnDone)
    assert [(event.turn, event.status, event.reason, event.heard.ms) for event in done] == [
        ("a", "cancelled", "pause_ttl", 1000),
        ("b", "cancelled", "pause_ttl", 0),
    ]


def test_text_for_a_turn_that_was_paused_for_too_long_is_late() -> None:
    stage = Stage()
    stage.send("text.append", text=words(20))
    stage.run(1.0)
    stage.send("turn.pause")
    stage.run(10.1)
    assert stage.one(TurnDone).reason == "pause_ttl"
    stage.send("text.append", text="more")
    assert [event.code for event in stage.all(WarningEvent)] == ["late_text"]
    assert not stage.session.floor.turns


def test_a_paused_turn_takes_text_and_can_be_cancelled() -> None:
    stage = Stage(step_s=0.001)
    stage.send("text.append", text=words(10))
    stage.run(0.5)
    stage.send("turn.pause")
    stage.send("text.append", text=" and more.")
    stage.send("turn.end")
    stage.run(3.0)
    stage.send("turn.cancel", played_ms=400)
    done = stage.one(TurnDone)
    assert done.heard.ms == 400 and done.heard.text + done.heard.remaining == words(10) + " and more."
    stage.run(20.0)
    assert not stage.all(TurnDone)


def test_turns_behind_a_paused_one_wait() -> None:
    stage = speaking(10, 0.5)
    stage.say(words(4), turn="b")
    stage.send("turn.pause")
    stage.run(9.0)
    assert [event.turn for event in stage.all(TurnStarted)] == ["a"]
    stage.send("turn.resume")
    assert stage.run_until_done("b").status == "completed"


def test_pausing_twice_is_pausing_once() -> None:
    stage = speaking()
    stage.send("turn.pause")
    stage.run(1.0)
    stage.send("turn.pause", turn="a")
    first, second = stage.all(TurnPaused)
    assert first.at_ms == second.at_ms


def test_a_turn_that_is_done_but_heard_is_paused_and_goes_on() -> None:
    stage = speaking(8, 0.1, pacing={"lead_ms": 10_000, "burst_ms": 10_000})
    done = stage.run_until_done("a")
    stage.send("turn.pause")
    stage.run(8.0)
    assert not stage.all(TurnPlayed)
    stage.send("turn.resume", from_ms=0)
    error = stage.one(ErrorEvent)
    assert (error.code, error.param) == ("invalid_value", "from_ms"), "no audio follows a turn.done"
    stage.send("turn.resume")
    stage.run(30.0)
    assert stage.one(TurnPlayed).ms == done.audio_ms


def test_a_turn_that_is_done_and_paused_for_too_long_is_cut() -> None:
    stage = speaking(8, 0.1, pacing={"lead_ms": 10_000, "burst_ms": 10_000})
    stage.run_until_done("a")
    stage.send("turn.pause", played_ms=600)
    stage.run(10.1)
    heard = stage.one(ContextUpdated).heard
    assert heard is not None and heard.ms == 600
    assert remembered(stage) == heard.text.replace(" ", "")


@pytest.mark.parametrize("command", ["turn.pause", "turn.resume"])
def test_where_nothing_speaks_nothing_is_paused_or_resumed(command: str) -> None:
    stage = Stage()
    stage.send(command, event_id="e")
    error = stage.one(ErrorEvent)
    assert (error.code, error.event_id, error.fatal) == ("unknown_turn", "e", False)


def test_only_the_turn_that_speaks_is_paused_and_only_a_paused_one_resumed() -> None:
    stage = speaking()
    stage.say("Later.", turn="b")
    for command in ({"kind": "turn.pause", "turn": "b"}, {"kind": "turn.resume", "turn": "a"}):
        stage.send(**command)
        assert stage.one(ErrorEvent).code == "invalid_value"
    stage.send("turn.pause", turn="nobody")
    assert stage.one(ErrorEvent).code == "unknown_turn"


def test_a_resume_from_a_time_sends_again_from_the_start_of_its_word() -> None:
    stage = speaking(40, 3.0, alignment="word")
    stage.send("turn.pause", played_ms=1500)
    before = stage.audio(1)
    count = len(stage.all(AudioFrame))
    stage.send("turn.resume", from_ms=1500)
    at_ms = stage.one(TurnResumed).at_ms
    assert 900 < at_ms <= 1500
    steps = stage.engine.steps
    stage.run(0.3)
    frames = stage.all(AudioFrame)[count:]
    assert frames[0].flags & Flag.DISCONTINUITY and not any(frame.flags & Flag.DISCONTINUITY for frame in frames[1:])
    start = frames[0].position
    assert start == round(at_ms * 24) or abs(start - at_ms * 24) < 24
    again = b"".join(frame.payload for frame in frames)
    assert before[start * 2 :][: len(again)] == again[: len(before) - start * 2]
    assert stage.engine.steps - steps < 30, "only what comes next is generated"
    stage.send("turn.cancel")
    assert at_ms <= stage.one(TurnDone).heard.ms <= at_ms + 300


def test_a_turn_resumed_from_a_time_is_sent_to_its_end() -> None:
    whole = speaking(20, 60.0).audio(1)
    stage = speaking(20, 1.0)
    stage.send("turn.pause", played_ms=800)
    stage.send("turn.resume", from_ms=800)
    at_ms = stage.one(TurnResumed).at_ms
    done = stage.run_until_done("a")
    assert done.status == "completed" and done.audio_ms == done.sent_ms == round(len(whole) / 48)
    frames = stage.all(AudioFrame)
    index = next(index for index, frame in enumerate(frames) if frame.flags & Flag.DISCONTINUITY)
    assert b"".join(frame.payload for frame in frames[index:]) == whole[round(at_ms * 24) * 2 :]


# Truncation


def test_a_better_word_on_what_was_heard_is_taken_until_a_later_turn_sounds() -> None:
    stage = speaking()
    stage.send("turn.cancel")
    first = stage.one(TurnDone)
    stage.send("context.truncate", turn="a", played_ms=700, event_id="t")
    updated = stage.one(ContextUpdated)
    assert updated.event_id == "t" and updated.turn == "a" and updated.heard is not None
    assert (updated.heard.ms, updated.heard.source) == (700, "client")
    assert updated.heard.char_end < first.heard.char_end
    assert updated.heard.text + updated.heard.remaining == words(40)
    assert remembered(stage) == updated.heard.text.replace(" ", "")
    stage.run(0.5)
    assert any(event.turn == "next" for event in stage.all(TurnStarted))
    stage.send("context.truncate", turn="a", played_ms=100, event_id="u")
    error = stage.one(ErrorEvent)
    assert (error.code, error.turn, error.event_id, error.fatal) == ("truncate_too_late", "a", "u", False)


def test_a_truncation_may_find_that_more_was_heard() -> None:
    stage = speaking()
    stage.send("turn.cancel", played_ms=0)
    assert stage.one(TurnDone).heard.text == ""
    stage.send("context.truncate", turn="a", played_ms=1500)
    heard = stage.one(ContextUpdated).heard
    assert heard is not None and heard.text
    assert remembered(stage) == heard.text.replace(" ", "")


def test_a_turn_that_lives_is_not_truncated_but_cancelled() -> None:
    stage = speaking()
    stage.send("context.truncate", turn="a", played_ms=100)
    assert stage.one(ErrorEvent).code == "invalid_value"
    stage.send("context.truncate", turn="nobody", played_ms=100)
    assert stage.one(ErrorEvent).code == "unknown_turn"


def test_turns_keep_their_order_when_one_turns_out_to_have_been_heard() -> None:
    stage = speaking()
    stage.say(words(3), turn="b")
    stage.send("turn.cancel", scope="turn", played_ms=0)
    stage.run(0.1)
    stage.send("turn.cancel", turn="b", played_ms=0)
    stage.send("context.truncate", turn="b", played_ms=60)
    stage.send("context.clear")
    stage.send("context.truncate", turn="a", played_ms=900)
    assert stage.all(ContextUpdated)[-1].turns == 0, "what was cleared stays cleared"


def test_a_client_that_starts_and_cancels_without_end_is_not_remembered_without_end() -> None:
    stage = Stage(limits=Limits())
    for index in range(100):
        stage.send("turn.start", turn=f"t{index}")
        stage.send("turn.cancel")
    assert len(stage.session.floor._over) <= 17
