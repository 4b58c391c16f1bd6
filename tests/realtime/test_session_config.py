"""The session alone: what it refuses, what a client can set, and what it remembers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.api import Reference
from protocol.config import Limits
from protocol.messages import (
    Alignment,
    ContextUpdated,
    ErrorEvent,
    SessionCreated,
    SessionUpdated,
    TurnDone,
    TurnStarted,
    WarningEvent,
)
from realtime.scripted import MINI_LIKE
from realtime.voices import VoiceStore
from tests.realtime.stage import Stage, history, remembered, squeezed, words

K = MINI_LIKE.codebooks


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


def test_a_long_turn_stays_within_what_was_asked_for_as_well() -> None:
    stage = Stage()
    stage.configure(history={"max_s": 12.5})
    stage.say("One.")
    assert stage.engine.opened[-1].conversation.max_s == 12.5


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
