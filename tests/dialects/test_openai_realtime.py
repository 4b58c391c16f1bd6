"""Golden transcripts of the speaking part of OpenAI's Realtime API: what clients say, and what is done and said then."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from protocol.commands import SessionUpdate
from protocol.dialects.interface import Opening
from protocol.dialects.openai_realtime import RealtimeSocket
from protocol.errors import ErrorCode
from protocol.events import Alignment, AlignmentItem, ContextUpdated, ErrorEvent, Status
from tests.dialects.desk import Desk

MODEL = {"model": "gpt-realtime"}
BETA = {"openai-beta": "realtime=v1"}
WHOLE = [
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]


def event(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


def item(role: str, text: str, **fields: Any) -> str:
    content = [{"type": "output_text" if role == "assistant" else "input_text", "text": text}]
    return event("conversation.item.create", item={"type": "message", "role": role, "content": content, **fields})


def respond(text: str | None = None, **fields: Any) -> str:
    if text is not None:
        message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        fields["input"] = [message]
    return event("response.create", **({"response": fields} if fields else {}))


def append(turn: str, text: str) -> dict[str, str]:
    return {"type": "text.append", "text": text, "turn": turn}


def end(turn: str) -> dict[str, str]:
    return {"type": "turn.end", "turn": turn}


def cancel(turn: str, reason: str = "client_cancelled", **played: int) -> dict[str, Any]:
    return {"type": "turn.cancel", "turn": turn, "scope": "turn", "reason": reason, **played}


def read(outputs: list[object]) -> list[Any]:
    return [json.loads(output) if isinstance(output, str) and output[:1] == "{" else output for output in outputs]


def kinds(outputs: list[object]) -> list[object]:
    return [output["type"] if isinstance(output, dict) else output for output in read(outputs)]


def code(outputs: list[object]) -> str:
    (told,) = read(outputs)
    assert told["type"] == "error" and told["error"]["type"] == "invalid_request_error"
    return str(told["error"]["code"])


def words(turn: str, text: str, start: int, stop: int) -> Alignment:
    return Alignment(turn=turn, items=(AlignmentItem(text, 0, 100, start, stop),), final=False)


@pytest.fixture
def desk() -> Desk:
    return Desk(RealtimeSocket, Opening(query=MODEL))


@pytest.fixture
def beta() -> Desk:
    return Desk(RealtimeSocket, Opening(query=MODEL, headers=BETA))


def test_a_session_shows_itself(desk: Desk) -> None:
    (created,) = read(desk.first)
    assert created["type"] == "session.created" and created["event_id"]
    session = created["session"]
    assert (session["type"], session["object"], session["model"]) == ("realtime", "realtime.session", "gpt-realtime")
    assert session["audio"]["output"] == {
        "format": {"type": "audio/pcm", "rate": 24_000},
        "voice": "alloy",
        "speed": 1.0,
    }


def test_an_update_answers_with_the_whole_session(desk: Desk) -> None:
    output = {"voice": {"id": "ben"}, "format": {"type": "audio/pcmu"}, "speed": 1.2}
    session = {"type": "realtime", "instructions": "Be nice.", "audio": {"output": output}}
    (updated,) = read(desk.says(event("session.update", session=session)))
    assert updated["type"] == "session.updated"
    assert updated["session"]["audio"]["output"] == {"format": {"type": "audio/pcmu"}, "voice": "ben", "speed": 1.2}
    assert updated["session"]["instructions"] == "Be nice."
    update = next(each for each in desk.dialect.received(respond("Hi."), 0.0) if isinstance(each, SessionUpdate))
    assert (update.voice, update.speed) == ("ben", 1.2)
    assert desk.host.encoders[-1].format.name == "mulaw"


def test_a_response_speaks_its_input_as_it_stands(desk: Desk) -> None:
    outputs = read(desk.says(respond("Hello  you.", metadata={"topic": "x"})))
    assert kinds(outputs) == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "session.update",
        "text.append",
        "turn.end",
    ]
    assert outputs[-2:] == [append("t1", "Hello  you."), end("t1")]
    response = outputs[0]["response"]
    assert (response["status"], response["metadata"], response["output"]) == ("in_progress", {"topic": "x"}, [])
    added = outputs[1]
    assert added["response_id"] == response["id"] and added["item"]["role"] == "assistant"
    desk.started("t1")
    (delta,) = read(desk.sound("t1", b"ab"))
    assert (delta["type"], delta["delta"]) == ("response.output_audio.delta", base64.b64encode(b"ab").decode())
    assert (delta["item_id"], delta["response_id"]) == (added["item"]["id"], response["id"])
    (said,) = read(desk.hears(words("t1", "Hello", 0, 5)))
    assert (said["type"], said["delta"]) == ("response.output_audio_transcript.delta", "Hello")
    over = read(desk.ends("t1"))
    assert kinds(over) == ["response.output_audio_transcript.delta", *WHOLE]
    assert over[0]["delta"] == "  you."
    done = over[-1]["response"]
    assert (done["status"], done["status_details"]["type"]) == ("completed", "completed")
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": "Hello  you."}]
    assert len({each["event_id"] for each in over}) == len(over)


def test_a_response_speaks_the_newest_assistant_item_once(desk: Desk) -> None:
    assert kinds(desk.says(item("assistant", "Old."))) == ["conversation.item.added", "conversation.item.done"]
    desk.says(item("assistant", "New."))
    assert append("t1", "New.") in desk.says(respond())
    desk.ends("t1")
    assert code(desk.says(respond())) == "no_responder"


def test_an_item_can_be_named_in_the_input(desk: Desk) -> None:
    desk.says(item("assistant", "Old.", id="one"), item("assistant", "New."))
    assert append("t1", "Old.") in desk.says(respond(input=[{"type": "item_reference", "id": "one"}]))


def test_there_is_nobody_to_think_of_an_answer(desk: Desk) -> None:
    desk.says(item("user", "What is the time?"))
    assert code(desk.says(respond())) == "no_responder"


def test_what_the_user_says_is_remembered(desk: Desk) -> None:
    appended, *told = read(desk.says(item("user", "What is the time?")))
    assert appended == {"type": "context.append", "role": "user", "text": "What is the time?"}
    assert kinds(told) == ["conversation.item.added", "conversation.item.done"]
    assert told[0]["item"]["id"] and told[0]["previous_item_id"] is None
    assert read(desk.says(item("user", "Well?")))[1]["previous_item_id"] == told[0]["item"]["id"]


def test_one_response_at_a_time(desk: Desk) -> None:
    desk.says(respond("One."))
    assert code(desk.says(respond("Two."))) == "conversation_already_has_active_response"
    assert append("t2", "Aside.") in desk.says(respond("Aside.", conversation="none"))


def test_a_response_waits_until_the_one_before_it_was_forgotten(desk: Desk) -> None:
    desk.says(respond("Aside.", conversation="none"))
    began = kinds(desk.says(respond("One.")))
    assert began[0] == "response.created" and "text.append" not in began
    over = read(desk.ends("t1"))
    assert over[0] == {"type": "context.truncate", "turn": "t1", "played_ms": 0}
    assert over[-3:] == ["session.update", append("t2", "One."), end("t2")]


def test_a_response_that_waits_can_be_cancelled(desk: Desk) -> None:
    desk.says(respond("Aside.", conversation="none"))
    name = read(desk.says(respond("One.")))[0]["response"]["id"]
    over = read(desk.says(event("response.cancel", response_id=name)))
    assert over[-1]["response"]["status"] == "cancelled"
    assert "text.append" not in kinds(desk.ends("t1"))


def test_a_response_outside_of_the_conversation_is_not_remembered(desk: Desk) -> None:
    told = desk.says(respond("Aside.", conversation="none"))
    assert "conversation.item.added" not in kinds(told)
    assert read(told)[0]["response"]["conversation_id"] is None
    over = read(desk.ends("t1"))
    assert over[0] == {"type": "context.truncate", "turn": "t1", "played_ms": 0}
    assert "conversation.item.done" not in kinds(over)
    late = ErrorEvent(code=ErrorCode.TRUNCATE_TOO_LATE, message="too late", turn="t1")
    assert desk.hears(late) == []


def test_cancel_ends_the_response_and_the_session_lives(desk: Desk) -> None:
    desk.says(respond("Hello you."))
    desk.started("t1")
    desk.hears(words("t1", "Hello", 0, 5))
    assert desk.says(event("response.cancel")) == [cancel("t1")]
    assert desk.says(event("response.cancel")) == [], "twice is once"
    over = read(desk.ends("t1", Status.CANCELLED))
    assert kinds(over) == WHOLE
    done = over[-1]["response"]
    assert (done["status"], done["status_details"]) == (
        "cancelled",
        {"type": "cancelled", "reason": "client_cancelled"},
    )
    assert done["output"][0]["status"] == "incomplete"
    assert done["output"][0]["content"][0]["transcript"] == "Hello"
    assert append("t2", "Next.") in desk.says(respond("Next."))


def test_cancel_of_nothing_is_an_error(desk: Desk) -> None:
    assert code(desk.says(event("response.cancel"))) == "response_cancel_not_active"
    desk.says(respond("One."))
    assert code(desk.says(event("response.cancel", response_id="other"))) == "response_cancel_not_active"


def truncate(name: str, at_ms: int) -> str:
    return event("conversation.item.truncate", item_id=name, content_index=0, audio_end_ms=at_ms)


def test_truncate_says_what_was_heard_of_a_response_that_is_over(desk: Desk) -> None:
    name = read(desk.says(respond("Hello you.")))[1]["item"]["id"]
    desk.started("t1")
    desk.ends("t1")
    assert desk.says(truncate(name, 640)) == [{"type": "context.truncate", "turn": "t1", "played_ms": 640}]
    (told,) = read(desk.hears(ContextUpdated(turn="t1", turns=1, audio_s=0.6, text_chars=5)))
    assert {**told, "event_id": ""} == {
        "type": "conversation.item.truncated",
        "event_id": "",
        "item_id": name,
        "content_index": 0,
        "audio_end_ms": 640,
    }


def test_truncate_behind_cancel_corrects_it(desk: Desk) -> None:
    name = read(desk.says(respond("Hello you.")))[1]["item"]["id"]
    desk.started("t1")
    assert desk.says(event("response.cancel"), truncate(name, 300)) == [
        cancel("t1"),
        {"type": "context.truncate", "turn": "t1", "played_ms": 300},
    ]
    assert kinds(desk.ends("t1", Status.CANCELLED)) == WHOLE
    assert kinds(desk.hears(ContextUpdated(turn="t1", turns=1, audio_s=0.3, text_chars=5))) == [
        "conversation.item.truncated"
    ]


def test_truncate_of_what_is_still_spoken_stops_it(desk: Desk) -> None:
    name = read(desk.says(respond("Hello you.")))[1]["item"]["id"]
    desk.started("t1")
    assert desk.says(truncate(name, 300)) == [cancel("t1", played_ms=300)]
    assert kinds(desk.ends("t1", Status.CANCELLED)) == [*WHOLE, "conversation.item.truncated"]


def test_truncate_that_comes_too_late_or_means_nothing_is_an_error(desk: Desk) -> None:
    assert code(desk.says(truncate("nothing", 1))) == "item_truncate_invalid_item_id"
    name = read(desk.says(respond("Hello you.")))[1]["item"]["id"]
    desk.ends("t1")
    assert code(desk.says(truncate(name, -1))) == "invalid_value"
    desk.says(truncate(name, 1))
    late = ErrorEvent(code=ErrorCode.TRUNCATE_TOO_LATE, message="a later turn sounds", turn="t1")
    assert code(desk.hears(late)) == "truncate_too_late"


def test_a_turn_that_fails_is_a_response_that_failed(desk: Desk) -> None:
    desk.says(respond("Hello."))
    over = read(desk.hears(ErrorEvent(code=ErrorCode.SYNTHESIS_FAILED, message="broken", turn="t1")))
    assert kinds(over) == ["turn.cancel", *WHOLE]
    response = over[-1]["response"]
    assert (response["status"], response["status_details"]["error"]["message"]) == ("failed", "broken")
    assert desk.ends("t1", Status.FAILED) == []
    assert append("t2", "Next.") in desk.says(respond("Next."))


def test_the_beta_gets_its_own_names(beta: Desk) -> None:
    assert kinds(beta.first) == ["session.created", "conversation.created"]
    session = {"voice": "ben", "output_audio_format": "g711_ulaw"}
    (updated,) = read(beta.says(event("session.update", session=session)))
    assert (updated["session"]["voice"], updated["session"]["output_audio_format"]) == ("ben", "g711_ulaw")
    assert kinds(beta.says(item("user", "Hi.")))[1:] == [
        "conversation.item.created",
        "conversation.item.added",
        "conversation.item.done",
    ]
    assert "conversation.item.created" in kinds(beta.says(respond("Hello.")))
    assert kinds(beta.sound("t1")) == ["response.audio.delta"]
    assert kinds(beta.hears(words("t1", "Hello.", 0, 6))) == ["response.audio_transcript.delta"]
    assert kinds(beta.ends("t1"))[:2] == ["response.audio.done", "response.audio_transcript.done"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_event"),
        (event("input_audio_buffer.append", audio="AAAA"), "unsupported_event"),
        (event("session.update", session={"audio": {"output": {"format": {"type": "audio/ogg"}}}}), "invalid_value"),
        (event("session.update", session={"voice": 7}), "invalid_value"),
        (event("session.update", session={"speed": 40}), "invalid_value"),
        (respond("x" * 20_001), "string_above_max_length"),
    ],
)
def test_what_makes_no_sense_is_an_error_and_the_session_lives(desk: Desk, message: str, expected: str) -> None:
    assert code(desk.says(message)) == expected
    assert append("t1", "Hello.") in desk.says(respond("Hello."))


def test_sound_is_refused_once(desk: Desk) -> None:
    sound = event("input_audio_buffer.append", audio="AAAA")
    assert code(desk.says(sound)) == "unsupported_event"
    assert desk.says(sound, sound) == []
    assert code(desk.says(event("input_audio_buffer.commit"))) == "unsupported_event"


def test_an_error_names_the_event_it_answers(desk: Desk) -> None:
    (told,) = read(desk.says(event("response.cancel", event_id="mine")))
    assert told["error"]["event_id"] == "mine"


def test_a_client_that_is_gone_cancels_what_was_not_sent(desk: Desk) -> None:
    desk.says(respond("Hello you."))
    assert desk.leaves() == [cancel("t1", "disconnected")]


def test_half_a_character_is_replaced(desk: Desk) -> None:
    outputs = read(desk.says(item("user", "Good \ud83d day"), respond("Bad \ud83d day")))
    assert {"type": "context.append", "role": "user", "text": "Good \ufffd day"} in outputs
    assert append("t1", "Bad \ufffd day") in outputs


def test_there_is_an_end_to_responses_at_once(desk: Desk) -> None:
    for _ in range(16):
        assert "error" not in kinds(desk.says(respond("Aside.", conversation="none")))
    assert code(desk.says(respond("Aside.", conversation="none"))) == "rate_limit_exceeded"
