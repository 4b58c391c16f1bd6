"""Faster, slower, louder and softer turns of a session: everything that is told is in the time that the listener hears."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from protocol.audio_frame import AudioFrame
from protocol.messages import ContextUpdated, ErrorEvent, MarkEvent, TurnDone, TurnResumed
from realtime.scripted import AMPLITUDE, MINI_LIKE, Script
from tests.realtime.stage import PCM, Stage

TEXT = "The first of these words is as long as the last one is."
RATE = 24000
FRAME_MS = MINI_LIKE.frame_s * 1000


def stage_at(**session: object) -> Stage:
    stage = Stage(Script(follows=True))
    stage.configure(**PCM, latency="quality", alignment="word", **session)
    return stage


def said(**session: object) -> tuple[Stage, TurnDone]:
    stage = stage_at(**session)
    stage.say(TEXT)
    return stage, stage.run_until_done()


def sound(stage: Stage, n: int = 1) -> npt.NDArray[np.float64]:
    frames = [frame.payload for frame in stage.all(AudioFrame) if frame.n == n]
    return np.frombuffer(b"".join(frames), "<i2") / 32768


@pytest.mark.parametrize("speed", [0.25, 0.5, 1.25, 4.0])
def test_a_turn_is_as_long_as_its_speed_says(speed: float) -> None:
    stage, done = said(speed=speed)
    wanted_ms = len(TEXT) * FRAME_MS / speed
    assert done.audio_ms == done.sent_ms == done.heard.ms == pytest.approx(wanted_ms, abs=1)
    assert len(sound(stage)) / RATE == pytest.approx(wanted_ms / 1000, abs=0.001)
    assert done.context.kept_ms == pytest.approx(wanted_ms, abs=1)
    assert done.metrics.audio_tokens == len(TEXT)
    assert done.heard.text == TEXT


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.6, 3.0])
def test_what_was_heard_does_not_depend_on_the_speed(speed: float) -> None:
    for heard_ms in (300, 900, 1700):
        found = []
        for rate in (1.0, speed):
            stage = stage_at(speed=rate, pacing={"clock": "none"})
            stage.say(TEXT)
            stage.run_until_done()
            stage.send("turn.cancel", turn=stage.all(TurnDone)[0].turn, played_ms=round(heard_ms / rate))
            heard = stage.all(ContextUpdated)[-1].heard
            assert heard is not None and heard.ms == round(heard_ms / rate)
            found.append((heard.text, heard.remaining))
        assert found[0] == found[1]
        assert "".join(found[0]) == TEXT


def test_the_listener_plays_a_slow_turn_in_its_own_time() -> None:
    stage = stage_at(speed=0.5, pacing={"lead_ms": 500, "clock": "realtime"})
    stage.say(TEXT)
    stage.run(2.0)
    # So much was played, 0.5 s lead: never the 2.5 s that have been generated.
    assert len(sound(stage)) / RATE == pytest.approx(2.5, abs=0.1)


def test_generation_keeps_the_same_lead_at_any_speed() -> None:
    tokens = {}
    for speed in (0.5, 1.0, 2.0):
        stage = stage_at(speed=speed, pacing={"lead_ms": 300, "clock": "realtime"})
        stage.say(TEXT * 4)
        stage.run(1.0)
        tokens[speed] = stage.engine.steps
    assert tokens[0.5] * 2 == pytest.approx(tokens[1.0], abs=8)
    assert tokens[1.0] * 2 == pytest.approx(tokens[2.0], abs=8)


@pytest.mark.parametrize("volume_db", [-12.0, 6.0])
def test_volume_changes_the_level_and_nothing_else(volume_db: float) -> None:
    plain, _ = said()
    stage, done = said(volume_db=volume_db)
    assert done.audio_ms == pytest.approx(len(TEXT) * FRAME_MS, abs=1)
    change = 20 * np.log10(np.std(sound(stage)) / np.std(sound(plain)))
    assert change == pytest.approx(volume_db, abs=0.1)


def test_volume_never_passes_full_scale() -> None:
    assert AMPLITUDE * 10 > 1
    assert np.max(np.abs(sound(said(volume_db=20.0)[0]))) < 0.99


def test_a_turn_may_have_its_own_speed_and_volume() -> None:
    stage = stage_at(speed=0.5)
    stage.send("turn.start", turn="quick", speed=2.0, volume_db=-6.0)
    stage.say(TEXT, "quick")
    quick = stage.run_until_done("quick")
    stage.say(TEXT, "usual")
    usual = stage.run_until_done("usual")
    assert quick.audio_ms * 4 == pytest.approx(usual.audio_ms, abs=4)
    assert np.std(sound(stage, quick.n)) * 2 == pytest.approx(np.std(sound(stage, usual.n)), rel=0.05)


def test_an_update_leaves_the_turn_that_speaks_alone() -> None:
    stage = stage_at()
    stage.send("text.append", turn="old", text=TEXT)
    stage.configure(speed=2.0)
    stage.send("turn.end", turn="old")
    stage.say(TEXT, "new")
    assert stage.run_until_done("new").audio_ms * 2 == pytest.approx(stage.run_until_done("old").audio_ms, abs=2)


@pytest.mark.parametrize("field", [{"speed": 0.2}, {"speed": 4.1}, {"volume_db": 20.5}, {"volume_db": -21}])
def test_what_is_out_of_range_is_refused(field: dict[str, float]) -> None:
    stage = Stage()
    with pytest.raises(Exception, match=next(iter(field))):
        stage.send("session.update", **field)
    assert not stage.all(ErrorEvent)


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_marks_and_resumed_speech_stand_where_they_are_heard(speed: float) -> None:
    at_ms = {}
    for rate in (1.0, speed):
        stage = stage_at(speed=rate, pacing={"lead_ms": 200, "burst_ms": 200})
        stage.send("text.append", text=TEXT[:27])
        stage.send("mark", name="middle")
        stage.send("text.append", text=TEXT[27:])
        stage.send("turn.end")
        stage.run(1.5 / rate)
        stage.send("turn.pause", played_ms=round(1000 / rate))
        stage.send("turn.resume", from_ms=round(1000 / rate))
        stage.run_until_done()
        mark = stage.all(MarkEvent)[0].at_ms
        assert mark is not None
        at_ms[rate] = (mark, stage.one(TurnResumed).at_ms)
    mark, resumed = at_ms[speed]
    assert mark == pytest.approx(at_ms[1.0][0] / speed, abs=2)
    assert resumed == pytest.approx(at_ms[1.0][1] / speed, abs=20)  # at the packet in which the word begins
