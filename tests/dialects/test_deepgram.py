"""Golden transcripts of Deepgram's first socket, `/v1/speak`, and of its HTTP requests."""

from __future__ import annotations

import json
import math

import pytest

from protocol.commands import SessionUpdate
from protocol.config import Language
from protocol.dialects.deepgram import SpeakSocket
from protocol.dialects.deepgram_routes import speech
from protocol.dialects.interface import CloseSocket, Opening, Refused, StartResponse
from protocol.errors import ErrorCode
from protocol.events import ErrorEvent, Status
from tests.dialects.desk import Desk

QUERY = {"model": "aura-2-thalia-en", "encoding": "linear16", "sample_rate": "24000", "mip_opt_out": "false"}
FLUSH = json.dumps({"type": "Flush"})
CLEAR = json.dumps({"type": "Clear"})
CLOSE = json.dumps({"type": "Close"})


def speak(text: str) -> str:
    return json.dumps({"type": "Speak", "text": text})


def append(turn: str, text: str) -> dict[str, str]:
    return {"type": "text.append", "text": text, "turn": turn}


def end(turn: str) -> dict[str, str]:
    return {"type": "turn.end", "turn": turn}


def cancel(turn: str, reason: str = "barge_in") -> dict[str, str]:
    return {"type": "turn.cancel", "turn": turn, "scope": "turn", "reason": reason}


def read(outputs: list[object]) -> list[object]:
    return [json.loads(output) if isinstance(output, str) and output[:1] == "{" else output for output in outputs]


def answer(kind: str, number: int) -> dict[str, object]:
    return {"type": kind, "sequence_id": number}


def kinds(outputs: list[object]) -> list[object]:
    return [output["type"] if isinstance(output, dict) else output for output in read(outputs)]


@pytest.fixture
def desk() -> Desk:
    return Desk(SpeakSocket, Opening(query=QUERY))


def test_pipecat_speaks_a_turn(desk: Desk) -> None:
    (metadata,) = read(desk.first)
    assert isinstance(metadata, dict)
    assert metadata["type"] == "Metadata"
    assert {"request_id", "model_name", "model_version", "model_uuid"} < metadata.keys()
    assert desk.says(speak("One. ")) == ["session.update", append("t1", "One. ")]
    assert desk.says(speak("Two. "), FLUSH) == [append("t1", "Two. "), end("t1")]
    desk.started("t1")
    assert desk.sound("t1", b"ab") == [b"ab"]
    assert read(desk.ends("t1")) == [answer("Flushed", 0)]


def test_livekit_speaks_word_by_word(desk: Desk) -> None:
    assert desk.says(speak("Hello "), speak("you. "), FLUSH) == [
        "session.update",
        append("t1", "Hello "),
        append("t1", "you. "),
        end("t1"),
    ]


def test_the_next_turn_takes_text_while_the_last_one_is_spoken(desk: Desk) -> None:
    desk.says(speak("One."), FLUSH)
    assert desk.says(speak("Two."), FLUSH) == ["session.update", append("t2", "Two."), end("t2")]
    assert read(desk.ends("t1")) == [answer("Flushed", 0)]
    assert read(desk.ends("t2")) == [answer("Flushed", 1)]


def test_clear_stops_and_no_sound_follows_it(desk: Desk) -> None:
    desk.says(speak("One."), FLUSH, speak("Two."))
    desk.started("t1")
    assert read(desk.says(CLEAR)) == [cancel("t2"), cancel("t1"), answer("Cleared", 0)]
    assert desk.sound("t1") == []
    assert desk.ends("t1", Status.CANCELLED) == []
    assert desk.ends("t2", Status.CANCELLED) == []
    assert desk.says(speak("Three."), FLUSH) == ["session.update", append("t3", "Three."), end("t3")]
    assert read(desk.ends("t3")) == [answer("Flushed", 1)]


def test_clear_cuts_what_is_sent_and_still_being_played(desk: Desk) -> None:
    desk.says(speak("One."), FLUSH)
    desk.ends("t1")
    assert read(desk.says(CLEAR)) == [cancel("t1"), answer("Cleared", 1)]


def test_clear_of_nothing_is_answered(desk: Desk) -> None:
    assert read(desk.says(CLEAR)) == [answer("Cleared", 0)]


def test_an_empty_flush_speaks_nothing_and_is_answered_in_its_turn(desk: Desk) -> None:
    assert read(desk.says(FLUSH)) == [answer("Flushed", 0)]
    assert desk.says(speak("One."), FLUSH, FLUSH) == ["session.update", append("t1", "One."), end("t1")]
    assert read(desk.ends("t1")) == [answer("Flushed", 1), answer("Flushed", 2)]


def test_text_without_words_opens_no_turn(desk: Desk) -> None:
    assert desk.says(speak(" "), speak("")) == []


def test_close_closes_at_once_where_nothing_is_to_be_said(desk: Desk) -> None:
    assert desk.says(CLOSE) == [CloseSocket()]


def test_close_lets_the_rest_be_spoken(desk: Desk) -> None:
    desk.says(speak("One."))
    assert desk.says(CLOSE) == [end("t1")]
    assert desk.says(speak("Too late.")) == []
    assert read(desk.ends("t1")) == [answer("Flushed", 0), CloseSocket()]
    assert desk.leaves() == []


def test_livekits_flush_and_close_and_gone_is_an_interruption(desk: Desk) -> None:
    desk.says(speak("One. "), FLUSH)
    desk.started("t1")
    desk.sound("t1")
    assert desk.says(FLUSH, CLOSE) == []
    assert desk.leaves() == [cancel("t1")]


def test_a_client_that_waits_gets_metadata(desk: Desk) -> None:
    assert desk.dialect.deadline == math.inf
    desk.now = 1.0
    desk.says(speak("One."))
    assert desk.dialect.deadline == pytest.approx(6)
    desk.now = 6.0
    assert kinds(desk._plain(desk.dialect.tick(desk.now))) == ["Metadata"]
    assert desk.dialect.deadline == pytest.approx(11)


def test_a_turn_that_the_server_ended_goes_on(desk: Desk) -> None:
    desk.says(speak("One. "))
    assert desk.ends("t1") == []
    assert desk.says(speak("Two."), FLUSH) == ["session.update", append("t2", "Two."), end("t2")]
    assert read(desk.ends("t2")) == [answer("Flushed", 0)]


def test_a_turn_that_fails_is_told_and_over(desk: Desk) -> None:
    desk.says(speak("One."), FLUSH)
    told = desk.hears(ErrorEvent(code=ErrorCode.SYNTHESIS_FAILED, message="broken", turn="t1"))
    assert kinds(told) == ["turn.cancel", "Error", "Flushed"]
    assert desk.ends("t1", Status.FAILED) == []


@pytest.mark.parametrize("message", ["{", "[]", json.dumps({"type": "Sing"}), json.dumps({"type": "Speak"})])
def test_a_message_that_makes_no_sense_is_a_warning(desk: Desk, message: str) -> None:
    (told,) = read(desk.says(message))
    assert isinstance(told, dict)
    assert told["type"] == "Warning" and told["description"] and told["code"]


def test_the_query_says_how_it_is_spoken() -> None:
    query = {"model": "ben", "encoding": "mulaw", "sample_rate": "8000", "speed": "1.2", "tag": "x"}
    desk = Desk(SpeakSocket, Opening(query=query))
    assert (desk.host.encoders[0].format.name, desk.host.encoders[0].format.rate) == ("mulaw", 8000)
    update = desk.dialect.received(speak("Hi."), 0.0)[0]
    assert isinstance(update, SessionUpdate)
    assert (update.voice, update.speed, update.language) == ("ben", 1.2, None)


def test_the_language_is_at_the_end_of_the_models_name(desk: Desk) -> None:
    update = desk.dialect.received(speak("Hi."), 0.0)[0]
    assert isinstance(update, SessionUpdate)
    assert update.language is Language.ENGLISH


@pytest.mark.parametrize("query", [{"encoding": "mp3"}, {"sample_rate": "many"}, {"speed": "9"}])
def test_a_query_that_makes_no_sense_is_refused_at_the_handshake(query: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        Desk(SpeakSocket, Opening(query=query))
    assert refused.value.status == 400


def asked(text: str = "Hello.", **query: str) -> Opening:
    return Opening(query={"model": "ben", **query}, body=json.dumps({"text": text}).encode())


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({}, "mp3"),
        ({"encoding": "linear16"}, "wav"),
        ({"encoding": "linear16", "container": "none"}, "pcm"),
        ({"encoding": "mulaw", "container": "none"}, "mulaw"),
        ({"encoding": "opus", "sample_rate": "24000"}, "opus"),
        ({"encoding": "flac"}, "flac"),
    ],
)
def test_a_request_is_answered_with_sound(query: dict[str, str], name: str) -> None:
    desk = Desk(speech, asked(**query))
    assert desk.first == ["session.update", append("t1", "Hello."), end("t1")]
    assert desk.host.encoders[0].format.name == name
    assert desk.sound("t1", b"ab") == [StartResponse(200, f"audio/{name}"), b"ab"]
    assert desk.ends("t1")[-1] == CloseSocket()


@pytest.mark.parametrize("opening", [asked(" "), Opening(body=b"{"), Opening(body=b"[]"), asked(encoding="ape")])
def test_a_request_that_makes_no_sense_is_refused(opening: Opening) -> None:
    with pytest.raises(Refused) as refused:
        Desk(speech, opening)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("pieces", "spoken"),
    [
        ([r'Take \{"word": "dupilumab", "pronounce": "duːpˈɪ"\} now.'], "Take dupilumab now."),
        ([r'Take \{"wo', r'rd": "it", "pronounce": "x"', r"\} now."], "Take it now."),
        ([r"A \{b\} c."], r"A \{b\} c."),
        (["Back", "\\"], "Back\\"),
        (["Back\\", "slash"], "Back\\slash"),
    ],
)
def test_a_pronunciation_is_spoken_as_its_word(desk: Desk, pieces: list[str], spoken: str) -> None:
    said = desk.says(*map(speak, pieces), FLUSH)
    assert "".join(str(output["text"]) for output in said if isinstance(output, dict) and "text" in output) == spoken


def test_more_turns_than_the_session_takes_wait(desk: Desk) -> None:
    for number in range(12):
        desk.says(speak(f"Number {number}."), FLUSH)
    for number in range(12):
        assert read(desk.ends(f"t{number + 1}"))[0] == answer("Flushed", number)
