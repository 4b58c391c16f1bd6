"""Golden transcripts of Cartesia's WebSocket: what clients say, and what is done and said then."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest

from protocol.commands import SessionUpdate
from protocol.config import AlignmentMode, Language
from protocol.dialects.cartesia import CartesiaSocket
from protocol.errors import ErrorCode
from protocol.events import Alignment, AlignmentItem, ErrorEvent, MarkEvent, MarkState, Status, TurnPlayed
from tests.dialects.desk import Desk

RAW = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24_000}
COMMON: dict[str, Any] = {"model_id": "sonic", "voice": {"mode": "id", "id": "a-vendor's"}, "output_format": RAW}


def request(transcript: str, goes_on: bool = True, context: str | None = "c1", **fields: Any) -> str:
    named = {"context_id": context} if context is not None else {}
    return json.dumps({**COMMON, **named, "transcript": transcript, "continue": goes_on, **fields})


def sentence(transcript: str, goes_on: bool = True, **fields: Any) -> str:
    """As frameworks send it that cut text into sentences themselves."""
    return request(transcript, goes_on, max_buffer_delay_ms=0, **fields)


def cancelled(context: str = "c1") -> str:
    return json.dumps({"context_id": context, "cancel": True})


def append(turn: str, text: str) -> dict[str, str]:
    return {"type": "text.append", "text": text, "turn": turn}


def flush(turn: str) -> dict[str, str]:
    return {"type": "text.flush", "turn": turn}


def end(turn: str) -> dict[str, str]:
    return {"type": "turn.end", "turn": turn}


def cancel(turn: str, reason: str = "barge_in") -> dict[str, str]:
    return {"type": "turn.cancel", "turn": turn, "scope": "turn", "reason": reason}


def read(outputs: list[object]) -> list[object]:
    return [json.loads(output) if isinstance(output, str) and output[:1] == "{" else output for output in outputs]


def chunk(data: bytes, context: str = "c1", step_time: float = 0.0) -> dict[str, object]:
    return {
        "type": "chunk",
        "context_id": context,
        "data": base64.b64encode(data).decode(),
        "done": False,
        "status_code": 206,
        "step_time": step_time,
    }


def finished(context: str = "c1") -> dict[str, object]:
    return {"type": "done", "context_id": context, "done": True, "status_code": 200}


def flushed(number: int, context: str = "c1") -> dict[str, object]:
    return {
        "type": "flush_done",
        "context_id": context,
        "flush_id": number,
        "flush_done": True,
        "done": False,
        "status_code": 206,
    }


def stamps(words: list[str], start: list[float], end: list[float]) -> dict[str, object]:
    times = {"words": words, "start": start, "end": end}
    return {"type": "timestamps", "context_id": "c1", "word_timestamps": times, "done": False, "status_code": 206}


def settings_of(desk: Desk, message: str) -> SessionUpdate:
    outputs = desk.dialect.received(message, desk.now)
    return next(output for output in outputs if isinstance(output, SessionUpdate))


@pytest.fixture
def desk() -> Desk:
    return Desk(CartesiaSocket)


def test_pipecat_speaks_a_turn_sentence_by_sentence(desk: Desk) -> None:
    assert desk.first == []
    assert desk.says(sentence("One.")) == ["session.update", append("t1", "One."), flush("t1")]
    assert desk.says(sentence("Two.")) == [append("t1", " Two."), flush("t1")]
    desk.started("t1")
    assert read(desk.sound("t1", b"\1" * 1920)) == [chunk(b"\1" * 1920)]
    assert desk.says(sentence("", goes_on=False)) == [end("t1")]
    assert read(desk.ends("t1")) == [finished()]


def test_livekit_ends_a_turn_by_a_space(desk: Desk) -> None:
    assert desk.says(sentence("Hello you. ")) == ["session.update", append("t1", "Hello you. "), flush("t1")]
    assert desk.says(sentence(" ", goes_on=False)) == [end("t1")]


def test_a_request_that_does_not_go_on_is_complete(desk: Desk) -> None:
    assert desk.says(request("Hello.", goes_on=False)) == ["session.update", append("t1", "Hello."), end("t1")]
    assert read(desk.ends("t1")) == [finished()]


def test_a_request_without_continue_or_context_is_complete_and_gets_a_name(desk: Desk) -> None:
    assert desk.says(json.dumps({**COMMON, "transcript": "Hi."})) == ["session.update", append("t1", "Hi."), end("t1")]
    assert read(desk.ends("t1")) == [finished("context-1")]


def test_a_context_without_words_is_done_at_once(desk: Desk) -> None:
    assert read(desk.says(sentence(" ", goes_on=False))) == [finished()]


def test_tokens_are_spoken_when_they_have_waited_for_long_enough(desk: Desk) -> None:
    assert desk.says(request("Hel", max_buffer_delay_ms=800)) == ["session.update", append("t1", "Hel")]
    assert desk.dialect.deadline == pytest.approx(0.8)
    desk.now = 0.5
    assert desk.says(request("lo yo", max_buffer_delay_ms=800)) == [append("t1", "lo yo")]
    assert desk.dialect.deadline == pytest.approx(0.8)
    desk.now = 0.8
    assert desk._plain(desk.dialect.tick(desk.now)) == [flush("t1")]
    assert desk.says(request("u", max_buffer_delay_ms=800)) == [append("t1", "u")], "a slow word stays a word"
    assert desk.dialect.deadline == pytest.approx(1.6)


def test_tokens_wait_three_seconds_where_nothing_is_said(desk: Desk) -> None:
    desk.says(request("Hel"))
    assert desk.dialect.deadline == pytest.approx(3)


def test_pipecats_cancel_stops_and_nothing_more_is_said(desk: Desk) -> None:
    desk.says(sentence("One."), sentence("Two."))
    desk.started("t1")
    assert desk.says(cancelled()) == [cancel("t1")]
    assert desk.sound("t1") == []
    assert desk.ends("t1", Status.CANCELLED) == []
    assert desk.dialect.deadline == math.inf


def test_a_cancel_after_done_cuts_what_is_still_being_played(desk: Desk) -> None:
    desk.says(sentence("One.", goes_on=False))
    desk.started("t1")
    desk.ends("t1")
    assert desk.says(cancelled()) == [cancel("t1")]


def test_a_cancel_of_what_was_played_or_never_was_is_nothing(desk: Desk) -> None:
    desk.says(sentence("One.", goes_on=False))
    desk.ends("t1")
    desk.hears(TurnPlayed(turn="t1", ms=1000))
    assert desk.says(cancelled(), cancelled("never")) == []


def test_livekits_closed_socket_is_an_interruption(desk: Desk) -> None:
    desk.says(sentence("One."))
    desk.started("t1")
    assert desk.leaves() == [cancel("t1")]


def test_who_leaves_after_done_has_let_it_be_played(desk: Desk) -> None:
    desk.says(sentence("One.", goes_on=False))
    desk.ends("t1")
    assert desk.leaves() == []


def test_a_finished_context_id_begins_another_context(desk: Desk) -> None:
    desk.says(sentence("One.", goes_on=False))
    desk.ends("t1")
    assert desk.says(sentence("Two.")) == ["session.update", append("t2", "Two."), flush("t2")]


def test_contexts_side_by_side_keep_their_names(desk: Desk) -> None:
    desk.says(sentence("One.", False), sentence("Two.", False, context="c2"))
    desk.started("t1")
    assert read(desk.sound("t1", b"11")) == [chunk(b"11")]
    assert read(desk.ends("t1")) == [finished()]
    desk.started("t2")
    assert read(desk.sound("t2", b"22")) == [chunk(b"22", "c2")]
    assert read(desk.ends("t2")) == [finished("c2")]


def test_words_are_told_once_in_seconds(desk: Desk) -> None:
    desk.says(sentence("One two.", add_timestamps=True))
    one, two = AlignmentItem("One", 0, 300, 0, 3), AlignmentItem("two.", 300, 620, 4, 8)
    assert read(desk.hears(Alignment(turn="t1", items=(one,), final=False))) == [stamps(["One"], [0.0], [0.3])]
    again = (one._replace(end_ms=280), two._replace(start_ms=280))
    assert read(desk.hears(Alignment(turn="t1", items=again, final=True))) == [stamps(["two."], [0.28], [0.62])]


def test_word_times_run_on_where_the_server_ended_a_turn(desk: Desk) -> None:
    desk.says(sentence("One.", add_timestamps=True))
    desk.ends("t1", sent_ms=1500)
    assert desk.says(sentence("Two.")) == ["session.update", append("t2", " Two."), flush("t2")]
    told = desk.hears(Alignment(turn="t2", items=(AlignmentItem("Two.", 10, 200, 1, 5),), final=True))
    assert read(told) == [stamps(["Two."], [1.51], [1.7])]
    desk.says(sentence("", goes_on=False))
    assert read(desk.ends("t2")) == [finished()]


def test_words_are_not_told_unless_they_are_asked_for(desk: Desk) -> None:
    update = settings_of(desk, sentence("One."))
    assert update.alignment is AlignmentMode.NONE
    assert desk.hears(Alignment(turn="t1", items=(AlignmentItem("One.", 0, 300, 0, 4),), final=True)) == []


def test_a_flush_is_told_when_its_sound_was_sent(desk: Desk) -> None:
    mark = {"type": "mark", "name": "1", "turn": "t1"}
    assert desk.says(request("One.", flush=True)) == ["session.update", append("t1", "One."), flush("t1"), mark]
    desk.sound("t1", b"\1" * 4800)  # 100 ms
    assert desk.hears(MarkEvent(turn="t1", name="1", at_ms=200, state=MarkState.GENERATED)) == []
    assert read(desk.sound("t1", b"\1" * 4800))[1:] == [flushed(1)]
    assert desk.hears(MarkEvent(turn="t1", name="1", at_ms=200, state=MarkState.PLAYED)) == []


def test_a_flush_of_nothing_is_told_at_once_and_speaks_nothing(desk: Desk) -> None:
    assert read(desk.says(request("", flush=True))) == [flushed(1)]


def test_a_client_that_waits_gets_a_harmless_word(desk: Desk) -> None:
    desk.says(sentence("One."))
    desk.now = 5.0
    assert read(desk._plain(desk.dialect.tick(desk.now))) == [flushed(0)]
    assert desk.dialect.deadline == pytest.approx(10)


def test_tags_that_a_framework_has_cut_are_not_parted_by_a_flush(desk: Desk) -> None:
    assert desk.says(sentence("Well [cle")) == ["session.update", append("t1", "Well [cle")]
    assert desk.says(sentence("ar throat] yes.")) == [append("t1", "ar throat] yes."), flush("t1")]


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("pcm_s16le", "pcm"), ("pcm_f32le", "pcm_f32le"), ("pcm_mulaw", "mulaw"), ("pcm_alaw", "alaw")],
)
def test_every_raw_encoding_is_spoken(desk: Desk, encoding: str, name: str) -> None:
    desk.says(request("Hi.", output_format={"container": "raw", "encoding": encoding, "sample_rate": 8000}))
    assert (desk.host.encoders[0].format.name, desk.host.encoders[0].format.rate) == (name, 8000)


def test_what_is_said_of_the_voice_acts(desk: Desk) -> None:
    config = {"speed": 1.5, "volume": 2.0, "emotion": "sad"}
    update = settings_of(desk, request("Hallo.", voice="ben", language="de-DE", generation_config=config))
    assert (update.voice, update.language, update.speed) == ("ben", Language.GERMAN, 1.5)
    assert update.volume_db == pytest.approx(6.02, abs=0.01)
    assert desk.says(request("Ja.", generation_config=config)) == [append("t1", " Ja.")]  # the emotion holds already


def test_an_emotion_is_a_tag_in_front(desk: Desk) -> None:
    said = desk.says(request("Hello.", generation_config={"emotion": "sad"}))
    assert said == ["session.update", append("t1", "[sad] Hello.")]


@pytest.mark.parametrize("voice", ["ben", {"id": "ben"}, {"mode": "id", "id": "ben"}])
def test_a_voice_is_a_name_or_an_object(desk: Desk, voice: object) -> None:
    assert settings_of(desk, request("Hello.", voice=voice)).voice == "ben"


@pytest.mark.parametrize("voice", [{"mode": "embedding", "embedding": [0.1]}, "nobody", None])
def test_a_voice_that_we_do_not_have_is_the_default(desk: Desk, voice: object) -> None:
    assert settings_of(desk, request("Hello.", voice=voice)).voice is None


def test_null_is_absent_and_unknown_fields_are_let_pass(desk: Desk) -> None:
    said = desk.says(request("Hello.", language=None, flush=None, generation_config=None, something=1))
    assert said == ["session.update", append("t1", "Hello.")]


@pytest.mark.parametrize(
    ("message", "context"),
    [
        ("{", ""),
        ("[]", ""),
        (request("Hi.", output_format={"container": "mp3"}), "c1"),
        (request("Hi.", output_format={"container": "raw", "encoding": "opus"}), "c1"),
        (request("Hi.", max_buffer_delay_ms=-1), "c1"),
        (request("Hi.", generation_config={"speed": 99}), "c1"),
    ],
)
def test_a_bad_request_is_an_error_of_its_context(desk: Desk, message: str, context: str) -> None:
    (told,) = read(desk.says(message))
    assert isinstance(told, dict)
    assert (told["type"], told["context_id"], told["done"], told["status_code"]) == ("error", context, True, 400)
    assert told["message"] and told["title"] and told["error_code"]


def test_a_turn_that_fails_is_an_error_and_no_done(desk: Desk) -> None:
    desk.says(sentence("One.", goes_on=False))
    failed = ErrorEvent(code=ErrorCode.SYNTHESIS_FAILED, message="broken", turn="t1")
    commands, told = read(desk.hears(failed))[:-1], read(desk.hears(failed) or [])
    assert commands == [cancel("t1", "failed")]
    assert told == []
    assert desk.ends("t1", Status.FAILED) == []


def test_a_refused_turn_is_told_once(desk: Desk) -> None:
    desk.says(sentence("One.", goes_on=False))
    outputs = read(desk.hears(ErrorEvent(code=ErrorCode.LIMIT_EXCEEDED, message="too many", turn="t1")))
    assert isinstance(outputs[-1], dict) and outputs[-1]["error_code"] == "limit_exceeded"
    assert desk.hears(ErrorEvent(code=ErrorCode.UNKNOWN_TURN, message="no turn", turn="t1")) == []


def test_a_context_takes_no_more_text_than_a_turn_may_have(desk: Desk) -> None:
    desk.says(sentence("x" * 15_000))
    (stop, told) = read(desk.says(sentence("x" * 6000)))
    assert stop == cancel("t1", "failed")
    assert isinstance(told, dict) and told["type"] == "error"


def test_a_character_that_was_cut_in_half_is_joined(desk: Desk) -> None:
    said = desk.says(request("Good \ud83d"), request("\ude00 morning", goes_on=False))
    assert (
        "".join(str(output["text"]) for output in said if isinstance(output, dict) and "text" in output)
        == "Good 😀 morning"
    )


@pytest.mark.parametrize(
    ("pieces", "spoken"),
    [
        (['Well, <break time="1s"/> yes.'], "Well, [long pause] yes."),
        (['Well,<break time="300ms" />yes.'], "Well,[short pause]yes."),
        (["Well, <bre", 'ak time="0', '.5s"/> yes.'], "Well, [pause] yes."),
        (['<emotion value="angry" />Go!'], "[angry]Go!"),
        (['<emotion value="angry"/>Go! <emotion value="neutral"/>Please.'], "[angry]Go! [normal]Please."),
        (['<speed ratio="1.2"/>It is <spell>AB12</spell>.'], "It is AB12."),
        (["1 < 2 and 3 > 2."], "1 < 2 and 3 > 2."),
        (["<|speaker:1|>Hi <b>you</b>."], "<|speaker:1|>Hi <b>you</b>."),
        (["Is 1 <"], "Is 1 <"),
        (["Is 1 <", "2?"], "Is 1 <2?"),
    ],
)
def test_markup_acts_or_is_not_read(desk: Desk, pieces: list[str], spoken: str) -> None:
    said = desk.says(*(request(piece) for piece in pieces), request("", goes_on=False))
    assert "".join(str(output["text"]) for output in said if isinstance(output, dict) and "text" in output) == spoken


def test_there_is_an_end_to_contexts(desk: Desk) -> None:
    assert desk.says(*(request(" ", context=f"c{number}") for number in range(256))) == []
    (told,) = read(desk.says(request("Hi.", context="one-more")))
    assert isinstance(told, dict) and (told["type"], told["status_code"]) == ("error", 429)
    desk.says(request("", goes_on=False, context="c7"))
    assert append("t1", "Hi.") in desk.says(request("Hi.", context="one-more"))


def test_more_contexts_than_the_session_takes_wait_for_their_turn(desk: Desk) -> None:
    outputs = desk.says(*(sentence(f"Number {number}.", False, context=f"c{number}") for number in range(12)))
    assert [output["turn"] for output in outputs if isinstance(output, dict) and output["type"] == "turn.end"] == [
        "t1",
        "t2",
        "t3",
        "t4",
    ]
    first, *begun = read(desk.ends("t1"))
    assert first == finished("c0")
    assert begun == ["session.update", append("t5", "Number 4."), end("t5")]
    for number in range(1, 12):
        assert read(desk.ends(f"t{number + 1}"))[0] == finished(f"c{number}")
    assert desk.dialect.deadline == math.inf


def test_a_context_that_waits_can_be_cancelled(desk: Desk) -> None:
    desk.says(*(sentence(f"Number {number}.", False, context=f"c{number}") for number in range(6)))
    assert desk.says(cancelled("c4")) == []
    assert read(desk.ends("t1"))[1:] == ["session.update", append("t5", "Number 5."), end("t5")]


def test_text_that_waits_for_its_turn_has_an_end(desk: Desk) -> None:
    told = desk.says(*(sentence("x" * 15_000, False, context=f"c{number}") for number in range(16)))
    errors = [output for output in read(told) if isinstance(output, dict) and output["type"] == "error"]
    assert [error["status_code"] for error in errors] == [429, 429]
