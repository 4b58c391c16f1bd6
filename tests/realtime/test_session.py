"""The session alone, in virtual time: what each command means, and what is true of every turn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.api import EngineDied, Reference, SynthesisFailed
from protocol.audio_frame import AudioFrame
from protocol.config import Limits
from protocol.messages import (
    Alignment,
    ContextUpdated,
    ErrorEvent,
    Pong,
    SessionClosing,
    SessionCreated,
    SessionUpdated,
    TurnDone,
    TurnStarted,
    WarningEvent,
)
from realtime.outbox import Close
from realtime.scripted import MINI_LIKE, Cut, Script, ScriptedEngine
from realtime.voices import VoiceStore
from tests.realtime.stage import Stage, words

K = MINI_LIKE.codebooks


def history(stage: Stage) -> list[str]:
    """The heard texts that the newest stream was given."""
    return [segment.text for segment in stage.engine.opened[-1].conversation.history]


def remembered(stage: Stage) -> str:
    """The same as one text, spaces aside: the engine gets a segment without those at its ends."""
    return squeezed("".join(history(stage)))


def squeezed(text: str) -> str:
    return text.replace(" ", "")


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


# Refusals


@pytest.mark.parametrize("command", ["turn.end", "turn.cancel", "text.flush"])
def test_an_unknown_turn_is_an_error(command: str) -> None:
    stage = Stage()
    stage.send(command, turn="nobody", event_id="e-3")
    error = stage.one(ErrorEvent)
    assert (error.code, error.fatal, error.turn, error.event_id) == ("unknown_turn", False, "nobody", "e-3")


@pytest.mark.parametrize("command", [{"kind": "turn.start"}, {"kind": "text.append", "text": "again"}])
def test_the_id_of_a_finished_turn_cannot_be_used_again(command: dict[str, str]) -> None:
    stage = Stage()
    stage.say("One.", turn="a")
    stage.run_until_done("a")
    stage.send(**command, turn="a")
    error = stage.one(ErrorEvent)
    assert (error.code, error.param, error.turn) == ("invalid_value", "turn", "a")


def test_text_after_the_end_of_its_turn_is_an_error() -> None:
    stage = Stage()
    stage.say(words(10), turn="a")
    stage.send("text.append", turn="a", text="more")
    assert stage.one(ErrorEvent).code == "invalid_value"
    assert stage.run_until_done("a").heard.text == words(10)


def test_ending_a_turn_twice_is_no_error() -> None:
    stage = Stage()
    stage.say("One.", turn="a")
    stage.send("turn.end", turn="a")
    stage.run_until_done("a")
    stage.send("turn.end", turn="a")
    assert not stage.all(ErrorEvent)


def test_too_much_text_in_a_turn_is_refused_whole() -> None:
    stage = Stage(limits=Limits(turn_chars=100))
    stage.send("text.append", text="a" * 90, turn="a")
    stage.send("text.append", text="b" * 11, turn="a", event_id="e")
    error = stage.one(ErrorEvent)
    assert (error.code, error.event_id, error.turn) == ("text_overflow", "e", "a")
    stage.send("text.append", text=" ok", turn="a")
    stage.send("turn.end", turn="a")
    assert stage.run_until_done("a").heard.text == "a" * 90 + " ok"


def test_too_much_text_that_waits_is_refused() -> None:
    stage = Stage(limits=Limits(pending_chars=100))
    stage.say("a" * 60, turn="a")
    stage.send("text.append", text="b" * 60, turn="b")
    assert stage.one(ErrorEvent).code == "text_overflow"
    assert len(stage.session.floor.turns) == 1, "the turn was not opened"
    stage.run_until_done("a")
    stage.send("text.append", text="b" * 60, turn="b")
    assert not stage.all(ErrorEvent)


def test_an_unknown_voice_changes_nothing() -> None:
    stage = Stage()
    stage.all(SessionUpdated)
    before = len(stage.written)
    stage.configure(voice="nobody", latency="quality", event_id="e")
    error = stage.one(ErrorEvent)
    assert (error.code, error.param, error.event_id, error.fatal) == ("voice_not_found", "voice", "e", False)
    assert len(stage.written) == before
    stage.configure()
    assert stage.all(SessionUpdated)[-1].config.latency == "low"


# Configuration


def test_an_update_holds_from_the_next_turn() -> None:
    stage = Stage()
    stage.send("turn.start", turn="a")
    stage.configure(sampling={"seed": 7}, audio={"output": {"format": "mulaw"}})
    updated = stage.all(SessionUpdated)[-1]
    assert updated.from_turn == 2 and updated.config.audio.output.rate == 8000
    stage.say("One.", turn="a")
    stage.run_until_done("a")
    assert stage.engine.opened[0].params.seed == 0
    assert len(stage.audio(1)) / 2 / 24 == pytest.approx(stage.one(TurnDone).audio_ms, abs=1), "still 16 bits at 24 kHz"


def test_a_turns_own_options_are_its_own(tmp_path: Path) -> None:
    VoiceStore(tmp_path, K).add("anna", [Reference("Hi.", np.ones((K, 3), np.int16))], [b"wav"])
    stage = Stage(voices=tmp_path)
    stage.configure(sampling={"seed": 5, "top_k": 10})
    stage.send("turn.start", turn="a", voice="anna", sampling={"seed": 9})
    stage.say("One.", turn="a")
    stage.say("Two.", turn="b")
    stage.run_until_done("b")
    first, second = stage.engine.opened
    assert (first.voice.references[0].text, first.params.seed, first.params.top_k) == ("Hi.", 9, 10)
    assert (second.voice.references, second.params.seed, second.params.top_k) == ((), 5, 10)


def test_sampling_reaches_the_engine_within_the_limit_of_a_turn() -> None:
    stage = Stage(limits=Limits(turn_audio_s=2))
    stage.configure(sampling={"temperature": 0.5, "top_p": 0.7, "repetition_penalty": 1.5, "max_frames": 10_000})
    stage.say(words(40))
    done = stage.run_until_done()
    params = stage.engine.opened[0].params
    assert (params.temperature, params.top_p, params.repetition_penalty) == (0.5, 0.7, 1.5)
    assert params.max_frames == 43
    assert done.audio_ms <= 2000
    assert {event.code for event in stage.all(WarningEvent)} == {"speech_cut"}


def test_a_start_prepares_the_engine_before_text_comes() -> None:
    stage = Stage()
    stage.say("One.")
    stage.run_until_done()
    stage.send("turn.start")
    conversation, voice = stage.engine.prefetched[-1]
    assert [segment.text for segment in conversation.history] == ["One."] and voice.id == "default"


def test_words_are_aligned_only_where_asked_for() -> None:
    stage = Stage()
    stage.say("Hello there, friend.")
    stage.run_until_done()
    assert not stage.all(Alignment)
    stage.configure(alignment="word")
    stage.say("Hello there, friend.")
    stage.run_until_done("turn-2")
    items = {item[3]: item for event in stage.all(Alignment) if event.final for item in event.items}
    assert [item.text for item in items.values()] == ["Hello", "there,", "friend."]
    assert all(event.turn == "turn-2" for event in stage.all(Alignment))


def test_characters_are_aligned_where_asked_for() -> None:
    stage = Stage()
    stage.configure(alignment="char")
    stage.say("Hello there.")
    stage.run_until_done()
    items = [item for event in stage.all(Alignment) if event.final for item in event.items]
    assert "".join(item.text for item in items) == "Hellothere."
    assert [item.char_start for item in items] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert all(item.start_ms <= item.end_ms for item in items)


def test_word_times_come_between_the_start_and_the_end_of_their_turn() -> None:
    stage = Stage()
    stage.configure(alignment="word")
    stage.say(words(30))
    stage.run_until_done()
    kinds = [type(message) for message in stage.written if not isinstance(message, SessionCreated | SessionUpdated)]
    assert kinds[0] is TurnStarted and kinds[-1] is TurnDone


# History


def test_the_context_is_cleared_on_demand() -> None:
    stage = Stage()
    stage.say("One.")
    stage.run_until_done()
    stage.send("context.clear", event_id="e")
    updated = stage.one(ContextUpdated)
    assert (updated.turns, updated.audio_s, updated.text_chars, updated.event_id) == (0, 0.0, 0, "e")
    stage.say("Two.")
    stage.run(0.1)
    assert history(stage) == []


def test_clearing_the_context_may_give_up_the_voice(tmp_path: Path) -> None:
    VoiceStore(tmp_path, K).add("anna", [Reference("Hi.", np.ones((K, 3), np.int16))], [b"wav"])
    stage = Stage(voices=tmp_path)
    stage.configure(voice="anna")
    stage.send("context.clear")
    stage.send("turn.start", turn="a")
    stage.send("context.clear", keep_voice=False)
    stage.say("One.", turn="a")
    stage.say("Two.", turn="b")
    stage.run_until_done("b")
    assert [len(opened.voice.references) for opened in stage.engine.opened] == [1, 0]


def test_a_turn_that_nobody_has_heard_of_forgets_a_cleared_context_too() -> None:
    stage = Stage(step_s=0.001)
    stage.say(words(12), turn="a")
    stage.run(0.3)
    stage.say(words(12), turn="b")
    stage.run(0.3)
    assert len(stage.engine.opened) == 2
    stage.send("context.clear")
    stage.run_until_done("b")
    assert remembered(stage) == squeezed(words(12)), "what still speaks when the context is cleared is heard afterwards"


def test_history_stays_within_what_was_asked_for() -> None:
    stage = Stage()
    stage.configure(history={"max_turns": 2}, pacing={"clock": "none"})
    for index in range(4):
        stage.say(f"Number {index}.")
        stage.run_until_done(f"turn-{index + 1}")
    assert history(stage) == ["Number 1.", "Number 2."]
    stage.configure(history={"max_s": 0})
    stage.say("Last.")
    stage.run(0.1)
    assert history(stage) == []


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


def test_who_waits_too_long_for_the_engine_is_told_when_to_come_back() -> None:
    stage = Stage(Script(max_streams=0, retry_after_s=0.7), admission_timeout_s=2.0)
    stage.say("One.")
    stage.run(1.9)
    assert not stage.all(TurnDone)
    stage.run(1.0)
    error = stage.one(ErrorEvent)
    assert (error.code, error.retry_after_ms, error.turn, error.fatal) == ("no_capacity", 700, "turn-1", False)
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


# Silence, age and the end


def test_an_open_turn_without_text_is_ended() -> None:
    stage = Stage()
    stage.send("turn.start", turn="a")
    stage.send("text.append", text="Hello there, ")
    stage.run(29.9)
    assert not stage.all(WarningEvent)
    stage.run(0.2)
    assert stage.one(WarningEvent).code == "turn_idle_closed"
    assert stage.run_until_done("a").status == "completed"


def test_a_session_that_nobody_uses_is_closed() -> None:
    stage = Stage()
    stage.run(599.0)
    stage.send("ping")
    stage.run(599.0)
    assert not stage.all(Close)
    stage.run(2.0)
    assert stage.one(SessionClosing).reason == "idle"
    assert stage.one(Close).code == 4408


def test_a_peer_that_answers_pings_is_there() -> None:
    stage = Stage()
    for _ in range(100):
        stage.run(15.0)
        stage.session.alive(stage.now)
    assert not stage.all(Close)


def test_a_session_does_not_live_for_ever() -> None:
    stage = Stage(limits=Limits(session_s=100))
    stage.run(71.0)
    closing = stage.one(SessionClosing)
    assert (closing.reason, closing.in_ms) == ("expired", 30_000)
    stage.send("turn.start", turn="a")
    stage.run(30.0)
    assert stage.one(TurnDone).status == "cancelled"
    assert stage.one(ErrorEvent).code == "session_expired"
    assert stage.one(Close).code == 4410


def test_a_close_lets_what_was_asked_for_be_spoken() -> None:
    stage = Stage()
    stage.send("text.append", text="One thing more.")
    stage.send("session.close")
    stage.send("text.append", text="Too late.", turn="b")
    assert stage.one(ErrorEvent).code == "invalid_value"
    assert stage.run_until_done().heard.text == "One thing more."
    assert stage.written[-1] == Close(1000, "closed")


def test_a_close_without_a_drain_is_at_once() -> None:
    stage = Stage()
    stage.say(words(30))
    stage.run(0.5)
    stage.send("session.close", drain=False)
    assert stage.one(TurnDone).reason == "closed"
    assert stage.written[-1] == Close(1000, "closed")
    stage.send("ping")
    stage.run(1.0)
    assert not stage.all(Pong)


def test_a_server_that_ends_lets_running_turns_be_spoken() -> None:
    stage = Stage()
    stage.say(words(10))
    stage.run(0.2)
    stage.session.drain(20.0, stage.now)
    stage.run(0.1)
    closing = stage.one(SessionClosing)
    assert (closing.reason, closing.in_ms) == ("restart", 20_000)
    stage.send("turn.start")
    assert stage.one(ErrorEvent).code == "invalid_value"
    assert stage.run_until_done().status == "completed"
    assert stage.written[-1] == Close(1012, "restart")


def test_a_server_that_ends_does_not_wait_for_ever() -> None:
    stage = Stage()
    stage.send("turn.start")
    stage.session.drain(3.0, stage.now)
    stage.run(3.1)
    assert (stage.one(TurnDone).reason, stage.one(Close).code) == ("restart", 1012)


def test_a_client_that_leaves_frees_the_engine() -> None:
    stage = Stage()
    stage.say(words(30))
    stage.run(0.5)
    stage.session.disconnect(stage.now)
    assert not stage.engine.streams and stage.engine.forgotten == ["s-1"]


def test_a_ping_is_answered_with_where_the_session_is() -> None:
    stage = Stage()
    stage.run(0.5)
    stage.send("ping", t={"a": [1]}, event_id="e")
    pong = stage.one(Pong)
    assert (pong.t, pong.session_ms, pong.turn, pong.event_id) == ({"a": [1]}, 500, None, "e")
    stage.say(words(20))
    stage.run(0.5)
    stage.send("ping")
    pong = stage.one(Pong)
    assert pong.turn == "turn-1" and pong.sent_ms == round(stage.sent_ms(1))


def test_a_seed_gives_the_same_turn_again() -> None:
    def spoken() -> bytes:
        stage = Stage(engine=ScriptedEngine())
        stage.say("Hello there, friend.")
        stage.run_until_done()
        return stage.audio(1)

    assert spoken() == spoken()


def test_a_long_message_is_read_in_slices_between_which_others_get_their_turn() -> None:
    stage = Stage()
    text = words(500)[:4096]
    stage.send("text.append", text=text)
    assert len("".join(stage.engine.streams["s-1"].pushed)) < 300, "the first slice alone"
    stage.run(0.0)
    stage.send("turn.end")
    stage.send("turn.cancel")
    assert stage.one(TurnDone).heard.remaining == text


def test_a_flush_behind_a_long_message_speaks_all_of_it() -> None:
    stage = Stage()
    stage.configure(latency="quality")
    text = "word " * 100
    stage.send("text.append", text=text)
    stage.send("text.flush")
    stage.run(0.1)
    assert squeezed("".join(stage.engine.streams["s-1"].pushed)) == squeezed(text)


def test_flushing_a_turn_that_has_ended_is_no_error() -> None:
    stage = Stage()
    stage.say(words(5), turn="a")
    stage.send("text.flush", turn="a")
    assert stage.run_until_done("a").status == "completed"


def test_word_times_do_not_wait_for_more_text() -> None:
    stage = Stage()
    stage.configure(alignment="word")
    stage.send("text.append", text="Hello there, my")
    stage.run(0.25)
    assert stage.engine.streams["s-1"].pushed == ["Hello there,"]
    (final,) = [event for event in stage.all(Alignment) if event.final]
    assert [item.text for item in final.items] == ["Hello", "there,"]
    assert stage.written[-1] is final, "behind the audio that it is about"


# A socket that is lost


def test_a_turn_goes_on_when_its_socket_comes_back_in_time() -> None:
    stage = Stage()
    stage.say(words(20))
    stage.run(1.0)
    stage.lose_socket()
    stage.run(2.9)
    stage.find_socket()
    assert stage.run_until_done().status == "completed"


def test_a_turn_whose_listener_stays_away_is_cancelled_by_the_clock() -> None:
    stage = Stage()
    stage.say(words(40))
    stage.run(1.0)
    stage.lose_socket()
    stage.run(3.1)
    assert not stage.session.floor.turns and not stage.engine.streams
    stage.find_socket()
    done = stage.one(TurnDone)
    assert (done.status, done.reason, done.heard.source) == ("cancelled", "disconnected", "clock")
    assert done.heard.ms <= done.sent_ms < 3000
    stage.say("Again.")
    stage.run(0.1)
    assert remembered(stage) == squeezed(done.heard.text)


def test_a_session_without_a_socket_ends_after_its_time_to_live() -> None:
    stage = Stage()
    stage.lose_socket()
    stage.run(59.9)
    assert not stage.session.closed
    stage.run(0.2)
    assert stage.session.closed


def test_who_resumes_learns_what_of_his_text_arrived() -> None:
    stage = Stage()
    stage.say("Hello there, my friend.", turn="a")
    stage.send("text.append", turn="b", text="And ")
    stage.run(10.0)
    created = stage.session.created(5_000_000, stage.now, "token", resumed=True)
    assert [(turn.turn, turn.n, turn.text_chars, turn.text_ended) for turn in created.turns] == [("b", 2, 4, False)]
    assert created.resumed and created.resume_token == "token"
    assert created.expires_at == 5_000_000 + Limits().session_s * 1000 - 10_000


# Voices, speed, other people's words, and being ready


def voices(folder: Path, *names: str) -> Path:
    store = VoiceStore(folder, K)
    for index, name in enumerate(names):
        store.add(name, [Reference(f"I am {name}.", np.full((K, 3), index, np.int16))], [b"wav%d" % index])
    return folder


def test_voices_of_speakers_reach_the_engine_as_one(tmp_path: Path) -> None:
    stage = Stage(voices=voices(tmp_path, "anna", "ben"))
    stage.configure(voices={"0": "ben", "1": "anna"})
    stage.say("<|speaker:0|>Hello. <|speaker:1|>Hi.")
    stage.run_until_done()
    voice = stage.engine.opened[0].voice
    assert [reference.text for reference in voice.references] == [
        "<|speaker:0|>I am ben.",
        "<|speaker:1|>I am anna.",
    ]
    stage.configure(voices={"0": "anna", "1": "ben"})
    stage.say("Again.")
    stage.run_until_done("turn-2")
    assert stage.engine.opened[1].voice.id != voice.id, "the id is a cache key"


def test_an_unknown_voice_of_a_speaker_is_named() -> None:
    stage = Stage()
    stage.configure(voices={"0": "nobody"})
    error = stage.one(ErrorEvent)
    assert (error.code, error.param) == ("voice_not_found", "voices.0")


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_speed_changes_how_long_it_lasts_and_nothing_else_that_is_told(speed: float) -> None:
    def spoken(**config: object) -> tuple[Stage, TurnDone]:
        stage = Stage(step_s=0.001)
        stage.configure(alignment="word", **config)
        stage.say(words(20))
        return stage, stage.run_until_done(seconds=120.0)

    (plain_stage, plain), (stage, done) = spoken(), spoken(speed=speed)
    assert done.audio_ms == done.sent_ms == round(stage.sent_ms(1)) == pytest.approx(plain.audio_ms / speed, rel=0.03)
    assert done.heard.text == words(20) and done.context.kept_ms == pytest.approx(done.audio_ms, abs=60)
    assert done.metrics.audio_tokens == plain.metrics.audio_tokens

    def starts(stage: Stage) -> list[int]:
        return [item.start_ms for event in stage.all(Alignment) if event.final for item in event.items]

    assert starts(stage) == pytest.approx([ms / speed for ms in starts(plain_stage)], abs=2)


def test_what_was_heard_of_a_faster_turn_is_what_was_said_by_then() -> None:
    def heard(speed: float, played_ms: int) -> str:
        stage = Stage(step_s=0.001)
        stage.send("turn.start", speed=speed)
        stage.say(words(20))
        stage.run(1.5)
        stage.send("turn.cancel", played_ms=played_ms)
        return stage.one(TurnDone).heard.text

    assert heard(2.0, 500) == heard(1.0, 1000) != heard(1.0, 500)


def test_a_faster_turn_is_generated_far_enough_ahead() -> None:
    stage = Stage(step_s=0.001)
    stage.configure(speed=4.0)
    stage.say(words(300))
    stage.run(3.0)
    ahead_ms = stage.engine.steps * stage.engine.info.frame_s * 1000 / 4 - 3000
    assert 2700 < ahead_ms <= 3020


def test_volume_is_heard() -> None:
    def level(db: float) -> float:
        stage = Stage()
        stage.configure(volume_db=db)
        stage.say("Hello there, friend.")
        stage.run_until_done()
        return float(np.sqrt(np.mean(np.frombuffer(stage.audio(1), "<i2").astype(float) ** 2)))

    assert level(-20.0) == pytest.approx(level(0.0) / 10, rel=0.05)


def test_what_others_say_is_kept_and_counted_and_conditions_nothing() -> None:
    stage = Stage(limits=Limits(context_chars=20))
    for text in ("Where is my order?", "Hello?", "Hm."):
        stage.send("context.append", role="user", text=text, event_id="e")
    assert [(event.messages, event.used, event.event_id) for event in stage.all(ContextUpdated)] == [
        (1, False, "e"),
        (1, False, "e"),
        (2, False, "e"),
    ]
    stage.send("context.clear")
    assert stage.all(ContextUpdated)[-1].messages == 0
    stage.say("One.")
    assert stage.run_until_done().status == "completed"


def test_another_voice_is_prepared_before_anybody_speaks(tmp_path: Path) -> None:
    stage = Stage(voices=voices(tmp_path, "anna"))
    count = len(stage.engine.prefetched)
    stage.configure(latency="quality")
    assert len(stage.engine.prefetched) == count, "nothing to prepare"
    stage.configure(voice="anna")
    conversation, voice = stage.engine.prefetched[-1]
    assert (conversation.id, len(voice.references)) == ("s-1", 1)


def test_the_conversation_is_prepared_again_when_a_turn_is_over() -> None:
    stage = Stage()
    stage.say("One.")
    stage.run_until_done()
    conversation, _ = stage.engine.prefetched[-1]
    assert [segment.text for segment in conversation.history] == ["One."]
