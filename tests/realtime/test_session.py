"""The session alone, in virtual time: what each command means, and what is true of every turn."""

from __future__ import annotations

import math

import pytest

from protocol.audio_frame import AudioFrame
from protocol.config import Limits
from protocol.messages import (
    ContextUpdated,
    ErrorEvent,
    SessionCreated,
    TurnDone,
    TurnStarted,
)
from realtime.scripted import MINI_LIKE
from tests.realtime.stage import Stage, history, remembered, squeezed, words

K = MINI_LIKE.codebooks


def test_the_smallest_client_hears_its_text_and_one_end() -> None:
    stage = Stage()
    text = "Hello there, how are you today?"
    stage.say(text)
    done = stage.run_until_done()
    assert (done.status, done.heard.text, done.heard.remaining) == ("completed", text, "")
    assert done.audio_ms == done.sent_ms == done.heard.ms == round(stage.sent_ms(1)) > 0
    assert done.context.kept_ms == pytest.approx(done.audio_ms, abs=1) and done.context.kept_chars == len(text)
    kinds = [type(message) for message in stage.written]
    assert kinds.index(TurnStarted) + 1 == kinds.index(AudioFrame)
    assert kinds[-1] is TurnDone


def test_a_session_begins_with_what_the_client_needs_to_know() -> None:
    created = Stage().one(SessionCreated)
    assert (created.session, created.model, created.sample_rate) == ("s-1", "scripted", 22050)
    assert created.config.history.max_s == 60.0
    assert created.limits == Limits()
    assert created.expires_at == Limits().session_s * 1000


def test_speech_starts_before_the_text_ends() -> None:
    stage = Stage()
    stage.send("text.append", text="Good morning to you, my friend")
    stage.run(0.1)
    assert stage.all(TurnStarted) and stage.sent_ms(1) > 0
    assert not stage.all(TurnDone)


@pytest.mark.parametrize("text", ["", "   ", "\n\n", "...", "?!", "<|speaker:0|>"])
def test_text_that_cannot_be_spoken_completes_in_silence(text: str) -> None:
    stage = Stage()
    stage.say(text)
    done = stage.one(TurnDone)
    assert (done.status, done.audio_ms, done.sent_ms, done.heard.text, done.heard.source) == (
        "completed",
        0,
        0,
        text,
        "none",
    )
    assert not stage.all(TurnStarted) and not stage.all(ErrorEvent) and not stage.engine.opened


def test_an_end_without_any_text_is_a_turn_like_any_other() -> None:
    stage = Stage()
    stage.send("turn.end")
    assert stage.one(TurnDone).status == "completed"


def test_a_flush_speaks_what_is_there() -> None:
    stage = Stage()
    stage.configure(latency="quality")
    stage.send("text.append", text="one two three")
    stage.run(0.1)
    assert not stage.engine.opened
    stage.send("text.flush")
    stage.run(0.1)
    assert stage.sent_ms(1) > 0


def test_a_turn_remembers_what_was_heard_before_it() -> None:
    stage = Stage()
    stage.say("First thing.")
    stage.run_until_done()
    stage.say("Second thing.")
    stage.run_until_done("turn-2")
    assert history(stage) == ["First thing."]
    codes = stage.engine.opened[-1].conversation.history[0].codes
    assert codes.shape == (K, len("First thing."))


# Interruptions


def interrupted(played_ms: int | None, **fields: object) -> tuple[Stage, TurnDone]:
    """A turn of 40 words, cancelled after two seconds of playing."""
    stage = Stage()
    stage.say(words(40))
    stage.run(2.0)
    stage.send("turn.cancel", **({} if played_ms is None else {"played_ms": played_ms}), **fields)
    return stage, stage.one(TurnDone)


def test_a_cancel_is_answered_at_once_and_silences_the_turn() -> None:
    stage, done = interrupted(1500, event_id="e-1")
    assert (done.status, done.reason, done.event_id) == ("cancelled", "barge_in", "e-1")
    assert (done.heard.ms, done.heard.source) == (1500, "client")
    assert done.heard.text + done.heard.remaining == words(40)
    sent = len(stage.written)
    stage.run(5.0)
    assert len(stage.written) == sent
    assert not stage.engine.streams, "the engine's row is free"


def test_the_next_turn_remembers_exactly_what_was_heard() -> None:
    stage, done = interrupted(1500)
    stage.say("Next.")
    stage.run(0.1)
    assert remembered(stage) == squeezed(done.heard.text)
    kept = sum(segment.codes.shape[1] for segment in stage.engine.opened[-1].conversation.history)
    frame_ms = stage.engine.info.frame_s * 1000
    assert done.context.kept_ms == pytest.approx(kept * frame_ms, abs=1)
    assert 1500 - 400 < done.context.kept_ms < 1500 + 400, "cut within a word of what was heard"


def test_a_cut_between_two_segments_keeps_as_many_characters_as_it_tells() -> None:
    stage = Stage()
    stage.configure(latency="quality")
    stage.say("This is the first sentence of two. " + words(40))
    stage.run(2.0)
    stage.send("turn.cancel", played_ms=math.ceil(34 * stage.engine.info.frame_s * 1000))
    done = stage.one(TurnDone)
    assert done.heard.text == "This is the first sentence of two."
    assert done.context.kept_chars == done.heard.char_end == 34
    stage.send("context.append", text="Aha.")
    assert stage.one(ContextUpdated).text_chars == 34


def test_what_was_played_is_never_more_than_was_sent() -> None:
    _, done = interrupted(3_600_000)
    assert done.heard.ms == done.sent_ms


def test_nothing_heard_removes_the_turn() -> None:
    stage, done = interrupted(0)
    assert (done.heard.text, done.context.kept_ms, done.context.kept_chars) == ("", 0, 0)
    stage.say("Next.")
    stage.run(0.1)
    assert history(stage) == []


def test_without_the_clients_word_the_clock_says_what_was_heard() -> None:
    _, done = interrupted(None)
    assert done.heard.source == "clock"
    assert done.heard.ms == pytest.approx(2000 - 100, abs=30), (
        "real time since the first audio, less a listener's buffer"
    )


def test_a_file_counts_as_heard_as_far_as_it_was_sent() -> None:
    stage = Stage()
    stage.configure(pacing={"clock": "none"})
    stage.say(words(40))
    stage.run(0.2)
    stage.send("turn.cancel")
    done = stage.one(TurnDone)
    assert done.heard.ms == done.sent_ms > 500


def test_cancelling_twice_is_cancelling_once() -> None:
    stage, done = interrupted(1500)
    stage.send("turn.cancel")
    stage.send("turn.cancel", turn=done.turn, played_ms=100)
    stage.run(1.0)
    assert not stage.all(TurnDone) and not stage.all(ErrorEvent)


def test_cancelling_nothing_is_no_error() -> None:
    stage = Stage()
    stage.send("turn.cancel")
    assert not stage.all(ErrorEvent) and not stage.all(TurnDone)


def test_a_cancel_ends_the_queued_turns_too() -> None:
    stage = Stage()
    for name in "abc":
        stage.say(words(20), turn=name)
    stage.run(1.0)
    stage.send("turn.cancel", played_ms=500, reason="user")
    done = stage.all(TurnDone)
    assert [(event.turn, event.status, event.reason) for event in done] == [
        (name, "cancelled", "user") for name in "abc"
    ]
    assert [event.heard.ms for event in done] == [500, 0, 0]
    assert [event.heard.remaining for event in done[1:]] == [words(20)] * 2


def test_a_cancel_of_one_turn_leaves_the_others() -> None:
    stage = Stage()
    for name in "abc":
        stage.say(words(6), turn=name)
    stage.run(0.2)
    stage.send("turn.cancel", scope="turn", turn="b")
    assert [event.turn for event in stage.all(TurnDone)] == ["b"]
    stage.run_until_done("c")
    assert {event.turn: event.status for event in stage.all(TurnDone)} == {
        "a": "completed",
        "b": "cancelled",
        "c": "completed",
    }
    assert remembered(stage) == squeezed(words(6))


def test_a_cancel_of_a_queued_turn_leaves_the_one_that_speaks() -> None:
    stage = Stage()
    for name in "abc":
        stage.say(words(6), turn=name)
    stage.run(0.2)
    stage.send("turn.cancel", turn="b")
    assert [event.turn for event in stage.all(TurnDone)] == ["b", "c"]
    assert stage.run_until_done("a").status == "completed"


def test_a_turn_generated_upon_a_history_that_was_not_heard_is_generated_again() -> None:
    stage = Stage(step_s=0.001)
    stage.say(words(12), turn="a")
    stage.run(0.5)
    stage.say(words(12), turn="b")
    stage.run(0.5)
    assert len(stage.engine.opened) == 2, "the second was generated while the first was sent"
    assert "b" not in [event.turn for event in stage.all(TurnStarted)]
    stage.send("turn.cancel", scope="turn", played_ms=800)
    cut = stage.one(TurnDone)
    stage.run_until_done("b")
    assert len(stage.engine.opened) == 3
    assert remembered(stage) == squeezed(cut.heard.text) != squeezed(words(12))


def test_a_start_may_interrupt() -> None:
    stage = Stage()
    stage.say(words(30), turn="a")
    stage.run(1.0)
    stage.send("turn.start", turn="b", after="interrupt")
    done = stage.one(TurnDone)
    assert (done.turn, done.status, done.reason, done.heard.source) == ("a", "cancelled", "superseded", "clock")
    stage.say("Stop.", turn="b")
    assert stage.run_until_done("b").status == "completed"


def test_a_start_that_is_refused_interrupts_nobody() -> None:
    stage = Stage()
    stage.say(words(30), turn="a")
    stage.run(1.0)
    stage.send("turn.start", turn="b", after="interrupt", voice="nobody")
    assert stage.one(ErrorEvent).code == "voice_not_found"
    assert not stage.all(TurnDone)


# A turn that is done but still being heard


def played_out() -> Stage:
    """A turn whose audio has all been sent, and that will be heard for more than a second still."""
    stage = Stage(step_s=0.001)
    stage.configure(pacing={"lead_ms": 10_000, "burst_ms": 10_000})
    stage.say(words(8))
    assert stage.one(TurnDone).status == "completed" if stage.all(TurnDone) else stage.run_until_done()
    return stage


def test_a_completed_turn_is_cut_while_it_is_still_playing() -> None:
    stage = played_out()
    stage.run(1.0)
    stage.send("turn.cancel", played_ms=700, event_id="e-2")
    updated = stage.one(ContextUpdated)
    assert updated.turn == "turn-1" and updated.event_id == "e-2"
    assert updated.heard is not None
    assert (updated.heard.ms, updated.heard.source) == (700, "client")
    assert updated.heard.text + updated.heard.remaining == words(8)
    assert updated.text_chars == len(updated.heard.text) < len(words(8))
    stage.say("Next.")
    stage.run(0.1)
    assert remembered(stage) == squeezed(updated.heard.text)


def test_a_completed_turn_is_cut_by_the_clock_where_the_client_says_nothing() -> None:
    stage = played_out()
    stage.run(1.0)
    stage.send("turn.cancel")
    updated = stage.one(ContextUpdated)
    assert updated.heard is not None and updated.heard.source == "clock"
    assert 500 < updated.heard.ms < 1300
    stage.send("turn.cancel")
    assert not stage.all(ContextUpdated), "its clock stopped when it was cut"


def test_a_turn_that_was_played_to_its_end_is_not_cut() -> None:
    stage = played_out()
    stage.run(30.0)
    stage.send("turn.cancel")
    assert not stage.all(ContextUpdated)


def test_who_tells_late_how_much_was_played_is_believed() -> None:
    stage = played_out()
    stage.run(30.0)
    stage.send("turn.cancel", turn="turn-1", played_ms=700)
    updated = stage.one(ContextUpdated)
    assert updated.heard is not None and updated.heard.ms == 700


def test_interrupting_a_playing_turn_interrupts_the_one_that_follows() -> None:
    stage = played_out()
    stage.say(words(8), turn="b")
    stage.say(words(40), turn="c")
    stage.run(1.0)
    stage.send("turn.cancel", played_ms=300)
    cut = stage.all(ContextUpdated)
    assert [(event.turn, event.heard.ms) for event in cut if event.heard is not None] == [("turn-1", 300), ("b", 0)]
    done = stage.all(TurnDone)[-1]
    assert (done.turn, done.status, done.heard.ms) == ("c", "cancelled", 0)
    stage.say("Next.")
    stage.run(0.1)
    assert remembered(stage) == squeezed(cut[0].heard.text if cut[0].heard else "")


# Order and queue


def test_turns_speak_one_after_the_other() -> None:
    stage = Stage(step_s=0.001)
    for name in "abc":
        stage.say(words(4), turn=name)
    stage.run_until_done("c")
    numbers = [message.n for message in stage.written if isinstance(message, AudioFrame)]
    assert numbers == sorted(numbers) and set(numbers) == {1, 2, 3}
    assert [event.turn for event in stage.all(TurnDone)] == ["a", "b", "c"]


def test_a_queued_turn_is_sent_before_the_one_before_it_has_been_heard() -> None:
    stage = Stage(step_s=0.001)
    stage.say(words(4), turn="a")
    stage.say(words(4), turn="b")
    first = stage.run_until_done("a")
    stage.run(0.1)
    sent_at = {
        event.turn: at
        for event, at in zip(stage.written, stage.written_at, strict=True)
        if isinstance(event, TurnStarted)
    }
    assert sent_at["b"] < 1000.0 + first.audio_ms / 1000


def test_no_more_turns_wait_than_the_limit_says() -> None:
    stage = Stage()
    for index in range(9):
        stage.send("turn.start", turn=f"t{index}")
    assert not stage.all(ErrorEvent)
    stage.send("turn.start", turn="t9")
    error = stage.one(ErrorEvent)
    assert (error.code, error.fatal, error.turn) == ("limit_exceeded", False, "t9")
    stage.send("text.append", turn="t10", text="a")
    assert stage.one(ErrorEvent).code == "limit_exceeded"


def test_text_without_an_id_belongs_to_the_open_turn() -> None:
    stage = Stage()
    stage.send("turn.start", turn="a")
    stage.send("text.append", text="Hello ")
    stage.send("text.append", text="there.")
    stage.send("turn.end")
    assert stage.run_until_done("a").heard.text == "Hello there."


def test_a_new_id_opens_a_new_turn() -> None:
    stage = Stage()
    stage.send("text.append", turn="a", text="One.")
    stage.send("text.append", turn="b", text="Two.")
    stage.send("turn.end", turn="a")
    stage.send("turn.end", turn="b")
    stage.run_until_done("b")
    assert [(event.turn, event.heard.text) for event in stage.all(TurnDone)] == [("a", "One."), ("b", "Two.")]


def test_a_minted_id_is_never_one_that_the_client_has_used() -> None:
    stage = Stage()
    stage.say("One.", turn="turn-2")
    stage.say("Two.")
    stage.run(5.0)
    assert len({event.turn for event in stage.all(TurnDone)}) == 2
