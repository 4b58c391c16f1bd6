"""Marks: places in the text, found again in the audio."""

from __future__ import annotations

import pytest

from protocol.config import Limits
from protocol.messages import ContextUpdated, ErrorEvent, MarkEvent, TurnDone, TurnStarted
from realtime.alignment import Word
from realtime.marks import Marks
from tests.realtime.stage import Stage, words

RAW = "One two. Three"
SAID = [Word("One", 0, 400, 0, 3, None), Word("two.", 500, 900, 4, 8, None), Word("Three", 1200, 1700, 9, 14, None)]


def made(*marks: tuple[str, int]) -> Marks:
    found = Marks("t")
    for name, char in marks:
        found.add(name, char)
    return found


def told_of(events: list[MarkEvent]) -> list[tuple[str, int | None, str]]:
    assert all(event.turn == "t" for event in events)
    return [(event.name, event.at_ms, str(event.state)) for event in events]


@pytest.mark.parametrize(("char", "at_ms"), [(0, 0), (3, 400), (4, 400), (6, 700), (8, 900), (9, 900), (14, 1700)])
def test_a_mark_is_where_the_text_before_it_has_been_said(char: int, at_ms: int) -> None:
    assert told_of(made(("m", char)).place(RAW, len(RAW), SAID)) == [("m", at_ms, "generated")]


def test_a_mark_waits_for_the_text_before_it_but_not_for_space() -> None:
    marks = made(("m", 9), ("n", 10))
    assert told_of(marks.place(RAW, 8, SAID)) == [("m", 900, "generated")] and marks.waiting


def test_marks_are_played_once_each_in_order() -> None:
    marks = made(("a", 3), ("b", 8), ("c", 14))
    marks.place(RAW, 14, SAID)
    assert marks.next_ms == 400
    assert told_of(marks.played(900)) == [("a", 400, "played"), ("b", 900, "played")]
    assert marks.played(900) == [] and marks.next_ms == 1700


def test_marks_behind_a_cut_are_dropped_and_those_before_it_waited_for() -> None:
    marks = made(("a", 3), ("b", 8), ("c", 14), ("d", 20))
    marks.place(RAW + " and more.", 14, SAID)
    assert told_of(marks.cut(500)) == [("b", 900, "dropped"), ("c", 1700, "dropped"), ("d", None, "dropped")]
    assert marks.next_ms == 400 and not marks.waiting


def test_what_is_left_at_the_end_is_at_the_end_and_nothing_is_behind_it() -> None:
    marks = made(("a", 14))
    marks.place(RAW, 14, SAID)
    marks.add("b", 14)
    assert told_of(marks.place_rest(1650.0)) == [("b", 1650, "generated")]
    assert told_of(marks.played(1650.0)) == [("a", 1650, "played"), ("b", 1650, "played")]


def marked(**config: object) -> Stage:
    """A turn of two sentences with a mark before, between and behind them."""
    stage = Stage()
    stage.configure(**config)
    stage.send("mark", name="start")
    stage.send("text.append", text="Good morning to you. ")
    stage.send("mark", name="middle")
    stage.send("text.append", text="And good night.")
    stage.send("mark", name="end")
    stage.send("turn.end")
    return stage


def told(stage: Stage) -> list[tuple[str, str]]:
    return [(event.name, str(event.state)) for event in stage.all(MarkEvent)]


def test_marks_are_generated_and_then_played() -> None:
    stage = marked()
    done = stage.run_until_done()
    stage.run(10.0)
    names = ["start", "middle", "end"]
    assert [name for name, state in told(stage) if state == "generated"] == names
    assert [name for name, state in told(stage) if state == "played"] == names
    times = [event.at_ms for event in stage.all(MarkEvent) if event.state == "played"]
    assert times[0] == 0 and times[1] is not None and 0 < times[1] < (times[2] or 0) <= done.audio_ms
    at = dict(zip(map(id, stage.written), stage.written_at, strict=True))
    (middle,) = [event for event in stage.all(MarkEvent) if (event.name, event.state) == ("middle", "played")]
    assert at[id(middle)] - at[id(stage.all(TurnStarted)[0])] == pytest.approx(times[1] / 1000, abs=0.005)


def test_a_mark_is_not_told_before_its_turn_has_started() -> None:
    stage = marked()
    stage.run(5.0)
    kinds = [type(message) for message in stage.written]
    assert kinds.index(TurnStarted) < kinds.index(MarkEvent)


def test_without_a_playback_clock_marks_are_only_generated() -> None:
    stage = marked(pacing={"clock": "none"})
    stage.run(10.0)
    assert told(stage) == [(name, "generated") for name in ("start", "middle", "end")]


def test_marks_that_were_not_heard_are_dropped_before_the_turn_is_done() -> None:
    stage = marked()
    stage.run(0.6)
    stage.send("turn.cancel", played_ms=300)
    assert told(stage)[-2:] == [("middle", "dropped"), ("end", "dropped")]
    assert isinstance(stage.written[-1], TurnDone)
    stage.run(5.0)
    assert ("start", "played") in told(stage) and len(told(stage)) == len(set(told(stage)))


def test_marks_of_a_done_turn_that_is_cut_are_dropped() -> None:
    stage = marked(pacing={"lead_ms": 10_000, "burst_ms": 10_000})
    stage.run_until_done()
    stage.send("turn.cancel", played_ms=300)
    assert {name: state for name, state in told(stage)} == {"start": "played", "middle": "dropped", "end": "dropped"}
    assert isinstance(stage.written[-1], ContextUpdated)


def test_a_mark_of_a_turn_without_sound_is_told_all_the_same() -> None:
    stage = Stage()
    stage.send("mark", name="m", turn="a")
    stage.send("turn.end", turn="a")
    stage.run(1.0)
    assert told(stage) == [("m", "generated"), ("m", "played")]


def test_marks_are_counted_and_belong_to_an_open_turn() -> None:
    stage = Stage(limits=Limits(turn_marks=2))
    for name in "abc":
        stage.send("mark", name=name, turn="t")
    assert stage.one(ErrorEvent).code == "limit_exceeded"
    stage.send("turn.end", turn="t")
    stage.run(1.0)
    stage.send("mark", name="d", turn="t")
    assert stage.one(ErrorEvent).code == "invalid_value"


def test_a_mark_follows_the_speed_of_its_turn() -> None:
    def middle(speed: float) -> int:
        stage = marked(speed=speed)
        stage.run(20.0)
        return next(event.at_ms or 0 for event in stage.all(MarkEvent) if event.name == "middle")

    assert middle(2.0) == pytest.approx(middle(1.0) / 2, abs=2)


def test_a_longer_story_is_marked_while_it_is_spoken() -> None:
    stage = Stage()
    for index in range(4):
        stage.send("text.append", text=words(10) + " ")
        stage.send("mark", name=f"m{index}")
    stage.send("turn.end")
    stage.run(60.0)
    assert [name for name, state in told(stage) if state == "played"] == ["m0", "m1", "m2", "m3"]


def test_marks_of_a_turn_that_failed_are_played_as_far_as_it_was_sent() -> None:
    stage = marked(pacing={"lead_ms": 10_000, "burst_ms": 10_000})
    stage.run(0.3)
    assert not [state for name, state in told(stage) if (name, state) == ("middle", "played")]
    stage.engine.die()
    stage.run(10.0)
    assert stage.one(TurnDone).status == "failed"
    assert {name: state for name, state in told(stage)} == {"start": "played", "middle": "played", "end": "dropped"}
