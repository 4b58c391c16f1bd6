"""Golden transcripts of Deepgram's second socket, `/v2/speak`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocol.commands import SessionUpdate
from protocol.dialects.deepgram_flux import FluxSocket
from protocol.dialects.interface import CloseSocket, Opening, Refused
from protocol.errors import ErrorCode
from protocol.events import ContextUpdated, ErrorEvent, Heard, HeardSource, Status
from tests.dialects.desk import Desk, done

QUERY = {"model": "flux-heather-en", "encoding": "linear16", "sample_rate": "24000"}
FLUSH = json.dumps({"type": "Flush"})
CLOSE = json.dumps({"type": "Close"})


def speak(text: str) -> str:
    return json.dumps({"type": "Speak", "text": text})


def interrupt(offset_ms: int | None = None) -> str:
    offset = {} if offset_ms is None else {"playback_offset": {"type": "time_ms", "value": offset_ms}}
    return json.dumps({"type": "Interrupt", **offset})


def configure(speed: object) -> str:
    return json.dumps({"type": "Configure", "speed": speed})


def append(turn: str, text: str) -> dict[str, str]:
    return {"type": "text.append", "text": text, "turn": turn}


def end(turn: str) -> dict[str, str]:
    return {"type": "turn.end", "turn": turn}


def cancel(turn: str, reason: str = "barge_in", **played: int) -> dict[str, Any]:
    return {"type": "turn.cancel", "turn": turn, "scope": "turn", "reason": reason, **played}


def heard(text: str, remaining: str, ms: int) -> Heard:
    return Heard(ms=ms, text=text, remaining=remaining, char_end=len(text), source=HeardSource.CLOCK)


def read(outputs: list[object]) -> list[Any]:
    return [json.loads(output) if isinstance(output, str) and output[:1] == "{" else output for output in outputs]


def kinds(outputs: list[object]) -> list[object]:
    return [output["type"] if isinstance(output, dict) else output for output in read(outputs)]


def warned(outputs: list[object]) -> list[str]:
    return [output["code"] for output in read(outputs) if output["type"] == "Warning"]


def cut(desk: Desk, turn: str, what: Heard) -> list[Any]:
    """The turn ends, as it does after a cancel."""
    return read(desk.hears(done(turn, Status.CANCELLED, 3000).model_copy(update={"heard": what})))


@pytest.fixture
def desk() -> Desk:
    return Desk(FluxSocket, Opening(query=QUERY))


def test_pipecat_speaks_a_turn(desk: Desk) -> None:
    (connected,) = read(desk.first)
    assert connected["type"] == "Connected"
    assert {"request_id", "model_name", "model_version", "model_uuids"} < connected.keys()
    settings, text, started = read(desk.says(speak("One. ")))
    assert (settings, text, started["type"]) == ("session.update", append("t1", "One. "), "SpeechStarted")
    name = started["speech_id"]
    assert name.startswith("dg_sp_") and len(name) == 18
    assert desk.says(speak("Two.")) == [append("t1", "Two.")]
    assert read(desk.says(FLUSH)) == [{"type": "Flushed", "speech_id": name}, end("t1")]
    desk.started("t1")
    assert desk.sound("t1", b"ab") == [b"ab"]
    (metadata,) = read(desk.ends("t1", sent_ms=1200))
    controls = {"pronunciations_applied": 0, "breaks_applied": 0, "pronunciation_warnings": 0}
    assert metadata == {
        "type": "SpeechMetadata",
        "speech_id": name,
        "audio_duration_ms": 1200,
        "input_character_count": 9,
        "billable_character_count": 9,
        "controls_applied": controls,
    }


def test_the_next_turn_takes_text_while_the_last_one_is_spoken(desk: Desk) -> None:
    desk.says(speak("One."), FLUSH)
    assert kinds(desk.says(speak("Two."))) == ["session.update", "text.append", "SpeechStarted"]
    assert kinds(desk.ends("t1")) == ["SpeechMetadata"]


def test_pipecats_interrupt_says_what_was_heard(desk: Desk) -> None:
    desk.says(speak("One two three."), FLUSH)
    desk.started("t1")
    assert desk.says(interrupt()) == [cancel("t1")]
    assert desk.sound("t1") == [], "no sound after it"
    (told,) = cut(desk, "t1", heard("One two", " three.", 700))
    assert (told["type"], told["audio_played_ms"]) == ("SpeechInterrupted", 700)
    assert (told["text_spoken"], told["text_remaining"]) == ("One two", " three.")
    assert told["metadata"]["input_character_count"] == 14
    assert told["metadata"]["audio_duration_ms"] == 3000


def test_an_offset_counts_from_the_beginning_of_the_connection(desk: Desk) -> None:
    desk.says(speak("One."), FLUSH)
    desk.started("t1")
    desk.ends("t1", sent_ms=1000)
    desk.says(speak("Two three."), FLUSH)
    desk.started("t2")
    assert desk.says(interrupt(1400)) == [cancel("t2", played_ms=400), cancel("t1", played_ms=1400)]
    desk.hears(done("t2", Status.CANCELLED, 2000).model_copy(update={"heard": heard("Two", " three.", 400)}))
    (told,) = read(
        desk.hears(ContextUpdated(turn="t1", heard=heard("One.", "", 1000), turns=1, audio_s=1, text_chars=4))
    )
    assert (told["audio_played_ms"], told["text_spoken"], told["text_remaining"]) == (1400, "One.Two", " three.")


def test_an_interrupt_moves_the_clock_to_what_was_played(desk: Desk) -> None:
    desk.says(speak("One two."), FLUSH)
    desk.started("t1")
    desk.says(interrupt(600))
    cut(desk, "t1", heard("One", " two.", 600))
    desk.says(speak("Three four."), FLUSH)
    desk.started("t2")
    assert desk.says(interrupt(1000)) == [cancel("t2", played_ms=400)]


def test_an_offset_before_the_last_interrupt_is_refused(desk: Desk) -> None:
    desk.says(speak("One two."), FLUSH)
    desk.started("t1")
    desk.says(interrupt(600))
    cut(desk, "t1", heard("One", " two.", 600))
    desk.says(speak("Three."), FLUSH)
    assert warned(desk.says(interrupt(500))) == ["INVALID_INTERRUPT_OFFSET"]
    assert warned(desk.says(json.dumps({"type": "Interrupt", "playback_offset": "x"}))) == []


def test_an_interrupt_of_nothing_is_a_warning(desk: Desk) -> None:
    assert warned(desk.says(interrupt())) == ["NO_ACTIVE_SPEECH"]
    assert warned(desk.says(FLUSH)) == ["NO_ACTIVE_SPEECH"]


def test_an_interrupt_before_any_sound_stops_the_turn(desk: Desk) -> None:
    desk.says(speak("One."))
    assert desk.says(interrupt()) == [cancel("t1")]
    (told,) = cut(desk, "t1", heard("", "One.", 0))
    assert (told["audio_played_ms"], told["text_spoken"], told["text_remaining"]) == (0, "", "One.")


def test_a_second_interrupt_waits_for_the_first(desk: Desk) -> None:
    desk.says(speak("One."))
    desk.says(interrupt(), speak("Two."))
    assert warned(desk.says(interrupt())) == ["INTERRUPT_IN_PROGRESS"]


def test_the_next_speech_starts_behind_the_answer(desk: Desk) -> None:
    desk.says(speak("One."))
    desk.says(interrupt())
    assert kinds(desk.says(speak("Two."))) == ["session.update", "text.append"]
    assert kinds(cut(desk, "t1", heard("", "One.", 0))) == ["SpeechInterrupted", "SpeechStarted"]


def test_an_interrupt_is_answered_though_nobody_says_what_was_heard(desk: Desk) -> None:
    desk.says(speak("One."), FLUSH)
    desk.started("t1")
    desk.ends("t1", sent_ms=800)
    assert desk.says(interrupt(700)) == [cancel("t1", played_ms=700)]
    desk.now = desk.dialect.deadline
    (told,) = read(desk._plain(desk.dialect.tick(desk.now)))
    assert (told["type"], told["audio_played_ms"]) == ("SpeechInterrupted", 700)


def test_who_knows_what_was_played_can_interrupt_what_was_sent_at_once() -> None:
    desk = Desk(FluxSocket, Opening(query=QUERY), paced=False)
    desk.says(speak("One two."), FLUSH)
    desk.started("t1")
    desk.ends("t1", sent_ms=800)
    assert warned(desk.says(interrupt())) == ["NO_ACTIVE_SPEECH"]
    assert desk.says(interrupt(300)) == [{"type": "context.truncate", "turn": "t1", "played_ms": 300}]
    context = ContextUpdated(turn="t1", heard=heard("One", " two.", 300), turns=1, audio_s=1, text_chars=3)
    (told,) = read(desk.hears(context))
    assert (told["audio_played_ms"], told["text_spoken"]) == (300, "One")


def test_speed_changes_from_the_next_turn_on(desk: Desk) -> None:
    desk.says(speak("One."))
    assert read(desk.says(configure(1.25))) == [{"type": "ConfigureSuccess", "applied": {"speed": 1.25}}]
    desk.says(FLUSH)
    update = desk.dialect.received(speak("Two."), 0.0)[0]
    assert isinstance(update, SessionUpdate) and update.speed == 1.25


@pytest.mark.parametrize("speed", [9, "fast", True])
def test_a_speed_out_of_range_is_not_taken(desk: Desk, speed: object) -> None:
    (told,) = read(desk.says(configure(speed)))
    assert (told["type"], told["code"], told["field"]) == ("ConfigureFailure", "SPEED_OUT_OF_RANGE", "speed")


def test_close_lets_the_rest_be_spoken_and_gives_totals(desk: Desk) -> None:
    desk.says(speak("One."), FLUSH)
    desk.ends("t1", sent_ms=500)
    desk.says(speak("Two."))
    assert desk.says(CLOSE) == [end("t2")]
    metadata, totals, closed = read(desk.ends("t2", sent_ms=700))
    assert metadata["type"] == "SpeechMetadata"
    assert totals == {
        "type": "SessionMetadata",
        "total_audio_duration_ms": 1200,
        "total_input_character_count": 8,
        "total_billable_character_count": 8,
    }
    assert closed == CloseSocket()


def test_text_without_anything_to_speak_is_over_with_a_warning(desk: Desk) -> None:
    desk.says(speak("..."), FLUSH)
    told = desk.ends("t1", sent_ms=0)
    assert kinds(told) == ["Warning", "SpeechMetadata"]
    assert warned(told[:1]) == ["NO_SYNTHESIZABLE_TEXT"]


def test_a_turn_that_fails_is_told_and_over(desk: Desk) -> None:
    desk.says(speak("One."), FLUSH)
    told = desk.hears(ErrorEvent(code=ErrorCode.SYNTHESIS_FAILED, message="broken", turn="t1"))
    assert kinds(told) == ["turn.cancel", "Error", "SpeechMetadata"]
    assert desk.ends("t1", Status.FAILED) == []


def test_a_client_that_waits_gets_a_harmless_word(desk: Desk) -> None:
    desk.says(speak("One."))
    desk.now = 5.0
    assert kinds(desk._plain(desk.dialect.tick(desk.now))) == ["SpeechStarted"]


def test_a_closed_socket_is_an_interruption(desk: Desk) -> None:
    desk.says(speak("One."), FLUSH)
    desk.started("t1")
    assert desk.leaves() == [cancel("t1")]


@pytest.mark.parametrize("message", ["{", json.dumps({"type": "Sing"})])
def test_a_message_that_makes_no_sense_is_an_error(desk: Desk, message: str) -> None:
    (told,) = read(desk.says(message))
    assert (told["type"], told["code"]) == ("Error", "MESSAGE-0000")


def test_a_query_that_makes_no_sense_is_refused_at_the_handshake() -> None:
    with pytest.raises(Refused):
        Desk(FluxSocket, Opening(query={"encoding": "opus"}))
