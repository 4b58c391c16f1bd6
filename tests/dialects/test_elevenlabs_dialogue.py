"""text-to-dialogue: what pipecat and LiveKit say for the models that have no other way, and several voices."""

from __future__ import annotations

import json

import pytest

from protocol.dialects.elevenlabs_dialogue import DialogueStream, dialogue
from protocol.dialects.interface import CloseSocket, Opening, Refused, StartResponse
from protocol.events import Alignment, AlignmentItem, Status
from tests.dialects.desk import Desk
from tests.dialects.test_elevenlabs import UPDATE, append, cancel, end, flush, say, spoken


def desk(paced: bool = True, **query: str) -> Desk:
    query = {"output_format": "pcm_24000", "sync_alignment": "true", **query}
    return Desk(DialogueStream, Opening(query=query), paced)


def final(context: str = "c1") -> dict[str, object]:
    return {"audio": None, "is_final": True, "context_id": context}


def said(*inputs: dict[str, object], context: str = "c1", **fields: object) -> str:
    return say(context_id=context, inputs=list(inputs), **fields)


def anna(text: str, **fields: object) -> dict[str, object]:
    return {"text": text, "voice_id": "anna", **fields}


def ben(text: str) -> dict[str, object]:
    return {"text": text, "voice_id": "ben"}


def talking(paced: bool = True, **query: str) -> Desk:
    one = desk(paced, **query)
    one.says(say(context_id="c1", voices=["anna"]), said(anna("Hello.")))
    one.started("t1")
    return one


def test_a_turn_of_pipecat() -> None:
    one = desk()
    assert one.says(say(context_id="pipecat-keepalive", voices=["anna"])) == []
    assert one.says(say(context_id="c1", voices=["anna"], voice_settings={"stability": 0.5})) == []
    assert one.says(said(anna("Hello there.", new_turn=True))) == [UPDATE, append("Hello there.")]
    assert one.says(said(anna("How are you?", new_turn=False))) == [append(" How are you?")]
    assert one.says(say(context_id="pipecat-keepalive", keep_alive=True)) == []
    assert one.says(say(context_id="c1", flush=True), say(context_id="c1", close_context=True)) == [flush(), end()]
    one.started("t1")
    [message] = spoken(one.sound("t1"))
    assert message.keys() == {"audio", "is_final", "normalized_alignment", "alignment", "context_id"}
    assert spoken(one.ends("t1"))[-1] == final()


def test_a_turn_of_livekit() -> None:
    one = desk(apply_text_normalization="auto")
    assert one.says(say(context_id="c1", voices=["anna"])) == []
    assert one.says(said(anna("Hello there. "), flush=True)) == [UPDATE, append("Hello there. "), flush()]
    assert one.says(said(anna(""), flush=True), say(context_id="c1", close_context=True)) == [end()]


def test_voices_are_speakers_and_their_tokens_are_nobody_s_words() -> None:
    one = desk()
    one.says(say(context_id="c1", voices=["anna", "ben"]))
    assert one.says(said(anna("Hello."), ben("Oh."), ben("Hi."))) == [
        UPDATE,
        append("<|speaker:0|>Hello. <|speaker:1|>Oh. Hi."),
    ]
    assert one.says(said(ben("You?")), said(anna("Fine."))) == [append(" You?"), append(" <|speaker:0|>Fine.")]
    one.started("t1")
    items = (AlignmentItem("Hello.", 0, 400, 13, 19, 0), AlignmentItem("Oh.", 500, 700, 33, 36, 1))
    one.hears(Alignment(turn="t1", items=items, final=False))
    [message] = spoken(one.sound("t1"))
    assert "".join(message["alignment"]["chars"]) == "Hello. Oh."


def test_pipecat_adds_up_what_messages_span() -> None:
    one = talking()
    one.hears(Alignment(turn="t1", items=(AlignmentItem("Hello.", 100, 400, 0, 6),), final=True))
    [first] = spoken(one.sound("t1"))
    assert first["alignment"]["char_start_times_ms"][0] == 100
    one.says(said(anna("Bye.")))
    one.hears(Alignment(turn="t1", items=(AlignmentItem("Bye.", 700, 900, 7, 11),), final=True))
    [second] = spoken(one.sound("t1"))
    assert second["alignment"]["char_start_times_ms"][0] == 300 and second["alignment"]["char_durations_ms"][0] == 50


def test_livekit_adds_up_how_long_messages_sound() -> None:
    one = talking(apply_text_normalization="auto")
    second_of_sound = b"\0" * (4 * 24_000)
    one.sound("t1", second_of_sound)
    one.hears(Alignment(turn="t1", items=(AlignmentItem("Hello.", 100, 400, 0, 6),), final=True))
    [message] = spoken(one.sound("t1", second_of_sound))
    assert message["alignment"]["char_start_times_ms"][0] == 100 - 1000, "it came before the sound that it is sent with"


def test_the_next_words_end_what_was_closed_and_still_speaks() -> None:
    one = talking()
    one.says(say(context_id="c1", flush=True), say(context_id="c1", close_context=True))
    one.says(say(context_id="c2", voices=["anna"]))
    outputs = spoken(one.says(said(anna("No?"), context="c2")))
    assert outputs == [cancel(), final(), UPDATE, append("No?", "t2")]


def test_a_close_in_the_middle_of_text_that_is_heard_is_an_interruption() -> None:
    one = talking()
    one.sound("t1")
    assert spoken(one.says(say(context_id="c1", close_context=True))) == [cancel(), final()]


def test_a_close_speaks_what_was_not_heard_yet_unless_other_words_come() -> None:
    one = talking()
    assert one.says(say(context_id="c1", close_context=True)) == [end()]
    one.says(say(context_id="c2", voices=["anna"]))
    assert spoken(one.says(said(anna("No?"), context="c2"))) == [cancel(), final(), UPDATE, append("No?", "t2")]


def test_a_turn_that_fails_is_told_in_snake_case() -> None:
    error, last = spoken(talking().ends("t1", Status.FAILED, reason="engine_restarted"))
    assert error["context_id"] == "c1" and error["error"] == "engine_restarted" and last == final()


@pytest.mark.parametrize("inputs", [None, 3, [], [3], [{"text": 3}], [{"voice_id": "anna"}]])
def test_inputs_that_are_none_do_nothing(inputs: object) -> None:
    assert desk().says(say(context_id="c1", inputs=inputs)) == []


def test_a_dialogue_over_http() -> None:
    body = json.dumps({"inputs": [anna("Hello."), ben("[laugh] Hi."), {"text": "Well."}], "settings": {"stability": 1}})
    one = Desk(dialogue, Opening(query={"output_format": "pcm_24000"}, body=body.encode()))
    text = "<|speaker:0|>Hello. <|speaker:1|>[laugh] Hi. <|speaker:0|>Well."
    assert one.first == [UPDATE, append(text), end()]
    one.started("t1")
    assert one.sound("t1", b"sound") == [StartResponse(200, "audio/pcm", {}), b"sound"]
    assert one.ends("t1") == [CloseSocket()]


@pytest.mark.parametrize(
    "body", [b"{}", b'{"inputs": []}', b'{"inputs": [{"text": " "}]}', b'{"inputs": [{"text": 3}]}']
)
def test_a_dialogue_without_words_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        Desk(dialogue, Opening(body=body))
    assert refused.value.status == 422
