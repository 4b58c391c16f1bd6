"""multi-stream-input: what pipecat and LiveKit say, as it was seen on the wire, and what is done about it."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.dialects.elevenlabs import UNNAMED, MultiStream, key_in_message
from protocol.dialects.interface import CloseSocket, Opening, Refused
from protocol.errors import ErrorCode
from protocol.events import Alignment, AlignmentItem, ErrorEvent, Status
from tests.dialects.desk import Desk

UPDATE = "session.update"


def desk(paced: bool = True, **query: str) -> Desk:
    query = {"output_format": "pcm_24000", "auto_mode": "true", **query}
    return Desk(MultiStream, Opening(path={"voice": "anna"}, query=query), paced)


def say(**fields: object) -> str:
    return json.dumps(fields)


def spoken(outputs: list[object]) -> list[object]:
    """Messages as what they hold; commands as they are."""
    return [json.loads(output) if isinstance(output, str) and output != UPDATE else output for output in outputs]


def append(text: str, turn: str = "t1") -> dict[str, str]:
    return {"type": "text.append", "text": text, "turn": turn}


def flush(turn: str = "t1") -> dict[str, str]:
    return {"type": "text.flush", "turn": turn}


def end(turn: str = "t1") -> dict[str, str]:
    return {"type": "turn.end", "turn": turn}


def cancel(turn: str = "t1", reason: str = "barge_in") -> dict[str, str]:
    return {"type": "turn.cancel", "turn": turn, "scope": "turn", "reason": reason}


def final(context: str = "c1") -> dict[str, object]:
    return {"audio": None, "isFinal": True, "contextId": context}


def words(text: str, turn: str = "t1", start_ms: int = 0, last: bool = True) -> Alignment:
    return Alignment(turn=turn, items=(AlignmentItem(text, start_ms, start_ms + 400, 0, len(text)),), final=last)


def talking(paced: bool = True, **query: str) -> Desk:
    """A turn of pipecat's is spoken."""
    one = desk(paced, **query)
    one.says(say(text=" ", context_id="c1"), say(text="Hello.", context_id="c1"))
    one.started("t1")
    one.sound("t1")
    return one


def test_a_turn_of_pipecat() -> None:
    one = desk()
    assert one.says(say(text=" ", context_id="c1", voice_settings={"stability": 0.5})) == []
    assert one.says(say(text="Hello there.", context_id="c1")) == [UPDATE, append("Hello there."), flush()]
    assert one.says(say(text="How are you?", context_id="c1")) == [append(" How are you?"), flush()]
    assert one.says(say(context_id="c1", flush=True)) == []
    assert one.says(say(context_id="c1", close_context=True)) == [end()]
    one.started("t1")
    [message] = spoken(one.sound("t1", b"\1\2"))
    assert message == {
        "audio": base64.b64encode(b"\1\2").decode(),
        "isFinal": None,
        "normalizedAlignment": None,
        "alignment": None,
        "contextId": "c1",
    }
    assert spoken(one.ends("t1"))[-1] == final()


def test_a_turn_of_livekit() -> None:
    one = desk(output_format="mp3_22050_32", sync_alignment="true")
    assert one.says(say(text=" ", voice_settings={}, context_id="c1")) == []
    assert one.says(say(text="Hello there. ", context_id="c1", flush=True)) == [
        UPDATE,
        append("Hello there. "),
        flush(),
    ]
    assert one.says(say(text="", context_id="c1", flush=True), say(context_id="c1", close_context=True)) == [end()]
    one.started("t1")
    one.sound("t1")
    *rest, last = spoken(one.ends("t1"))
    assert base64.b64decode(rest[-1]["audio"]) == b"<end>", "the stream of mp3 is whole"
    assert last == final()


def test_nothing_is_opened_without_words() -> None:
    one = desk()
    assert one.says(say(text=" ", context_id="c1"), say(context_id="c1", flush=True)) == []
    assert spoken(one.says(say(context_id="c1", close_context=True))) == [final()]


@pytest.mark.parametrize("fields", [{"text": ""}, {"text": "", "context_id": "c1"}, {"context_id": "c2", "text": ""}])
def test_a_keepalive_does_nothing(fields: dict[str, object]) -> None:
    one = desk()
    one.says(say(text="Hello.", context_id="c1"), say(context_id="c1", flush=True))
    assert one.says(say(**fields)) == []
    assert one.says(say(context_id="c1", close_context=True)) == [end()], "and what came before it still counts"


def test_text_waits_for_the_chunker_without_auto_mode() -> None:
    one = desk(auto_mode="false")
    assert one.says(say(text="Hel", context_id="c1"), say(text="lo", context_id="c1")) == [
        UPDATE,
        append("Hel"),
        append("lo"),
    ]
    assert one.says(say(text="", context_id="c1", flush=True)) == [flush()]


def test_a_tag_that_was_split_is_not_parted_by_a_flush() -> None:
    one = desk()
    assert one.says(say(text="Well [laugh", context_id="c1")) == [UPDATE, append("Well [laugh")]
    assert one.says(say(text="ing] yes.", context_id="c1")) == [append("ing] yes."), flush()]


def test_a_character_that_was_cut_in_half_is_put_together() -> None:
    one = desk(auto_mode="false")
    assert one.says('{"text": "Good \\ud83d"}', '{"text": "\\ude00 day"}') == [
        UPDATE,
        append("Good "),
        append("\U0001f600 day"),
    ]


def test_a_break_is_a_pause_even_if_it_comes_in_pieces() -> None:
    one = desk(auto_mode="false")
    assert one.says(say(text="Well. <bre"), say(text='ak time="1s"/> Yes <')) == [
        UPDATE,
        append("Well. "),
        append("[ long pause] Yes "),
    ]
    assert one.says(say(text="", flush=True), say(close_context=True)) == [flush(), append("<"), end()]


def test_text_without_a_context_has_one_of_its_own() -> None:
    one = desk()
    one.says(say(text="Hello."))
    one.started("t1")
    assert spoken(one.sound("t1"))[0]["contextId"] == UNNAMED


def test_a_close_in_the_middle_of_text_is_an_interruption() -> None:
    one = talking()
    assert spoken(one.says(say(context_id="c1", close_context=True))) == [cancel(), final()]
    assert one.sound("t1") == []
    assert one.ends("t1", Status.CANCELLED) == []


def test_a_close_behind_words_that_were_flushed_is_an_interruption() -> None:
    one = desk(sync_alignment="true")
    one.says(say(text=" ", context_id="c1"), say(text="Hello. ", context_id="c1", flush=True))
    assert spoken(one.says(say(context_id="c1", close_context=True))) == [cancel(), final()]


def test_a_second_close_interrupts_what_is_still_sent() -> None:
    one = talking()
    assert one.says(say(context_id="c1", flush=True), say(context_id="c1", close_context=True)) == [end()]
    assert spoken(one.says(say(context_id="c1", close_context=True))) == [cancel(), final()]


def test_a_close_of_what_is_over_or_unknown_does_nothing() -> None:
    one = talking()
    one.says(say(context_id="c1", flush=True), say(context_id="c1", close_context=True))
    one.ends("t1")
    assert one.says(say(context_id="c1", close_context=True), say(context_id="c9", close_context=True)) == []
    assert one.says(say(context_id="c9", flush=True)) == []


def test_a_client_that_says_all_and_closes_at_once_is_heard_where_nothing_is_paced() -> None:
    one = desk(paced=False)
    one.says(say(text="Hello.", context_id="c1"))
    assert one.says(say(context_id="c1", close_context=True)) == [end()]


def test_a_last_word_in_the_closing_message_is_spoken() -> None:
    one = talking()
    assert one.says(say(text="Bye.", context_id="c1", close_context=True)) == [append(" Bye."), flush(), end()]


def test_livekit_begins_anew_without_a_word_about_what_it_has_interrupted() -> None:
    one = talking(sync_alignment="true")
    one.says(say(text="", context_id="c1", flush=True), say(context_id="c1", close_context=True))
    assert one.says(say(text=" ", context_id="c2")) == []
    outputs = spoken(one.says(say(text="No? ", context_id="c2", flush=True)))
    assert outputs == [cancel(), final(), UPDATE, append("No? ", "t2"), flush("t2")]


def test_others_have_several_things_to_say() -> None:
    one = talking()
    one.says(say(context_id="c1", flush=True), say(context_id="c1", close_context=True))
    assert one.says(say(text="And?", context_id="c2")) == [UPDATE, append("And?", "t2"), flush("t2")]


def test_times_count_from_the_message_before() -> None:
    one = talking()
    one.hears(words("Hello.", start_ms=100))
    [first] = spoken(one.sound("t1"))
    assert first["alignment"]["chars"] == [*"Hello. "]
    assert first["alignment"]["charStartTimesMs"] == [100, 166, 233, 300, 366, 433, 500]
    assert first["alignment"]["charDurationsMs"] == [66, 67, 67, 66, 67, 67, 0]
    assert first["normalizedAlignment"] == first["alignment"]
    assert spoken(one.sound("t1"))[0]["alignment"] is None, "they are told once"
    one.says(say(text="Bye.", context_id="c1"))
    one.hears(Alignment(turn="t1", items=(AlignmentItem("Bye.", 700, 900, 7, 11),), final=True))
    [second] = spoken(one.sound("t1"))
    assert second["alignment"]["chars"] == [*"Bye. "]
    assert second["alignment"]["charStartTimesMs"][0] == 200


def test_times_count_from_the_start_where_they_are_to_be_in_step() -> None:
    one = talking(sync_alignment="true")
    one.hears(words("Hello.", start_ms=100, last=False))
    one.sound("t1")
    one.says(say(text="Bye.", context_id="c1"))
    one.hears(Alignment(turn="t1", items=(AlignmentItem("Bye.", 700, 900, 7, 11),), final=True))
    [second] = spoken(one.sound("t1"))
    assert second["normalizedAlignment"]["chars"] == [*" Bye. "]
    assert second["normalizedAlignment"]["charStartTimesMs"][:2] == [500, 700]


def test_words_at_the_very_end_come_before_the_end() -> None:
    one = talking()
    one.says(say(context_id="c1", flush=True), say(context_id="c1", close_context=True))
    one.hears(words("Hello."))
    message, last = spoken(one.ends("t1"))
    assert message["audio"] is None and message["alignment"]["chars"] == [*"Hello. "]
    assert last == final()


def test_a_context_that_outgrows_a_turn_goes_on_in_another() -> None:
    one = desk(auto_mode="false")
    text = "word " * 3500
    one.says(say(text=text, context_id="c1"))
    outputs = one.says(say(text=text, context_id="c1"))
    assert outputs[:2] == [end("t1"), UPDATE] and outputs[2]["turn"] == "t2"
    one.says(say(text="", flush=True, context_id="c1"), say(close_context=True, context_id="c1"))
    one.started("t1")
    assert final() not in spoken(one.ends("t1"))
    one.started("t2")
    one.hears(Alignment(turn="t2", items=(AlignmentItem("word", 0, 100, 0, 4),), final=False))
    [message] = spoken(one.sound("t2"))
    assert message["contextId"] == "c1" and "w" in message["alignment"]["chars"]
    assert spoken(one.ends("t2"))[-1] == final()


def test_a_client_that_leaves_politely_hears_the_end() -> None:
    one = talking()
    assert one.says(say(close_socket=True)) == [end()]
    outputs = one.ends("t1")
    assert spoken(outputs[:-1])[-1] == final() and outputs[-1] == CloseSocket(1000)
    assert one.leaves() == []


def test_a_client_that_leaves_and_has_nothing_open_is_let_go_at_once() -> None:
    assert desk().says(say(close_socket=True)) == [CloseSocket(1000)]
    one = desk()
    one.says(say(text=" ", context_id="c1"), say(text=" ", context_id="c2"))
    assert one.says(say(close_socket=True))[-1] == CloseSocket(1000)


def test_a_client_that_is_gone_has_interrupted() -> None:
    assert talking().leaves() == [cancel()]


def test_twenty_contexts_live_at_a_time_and_the_session_gets_a_few_turns_of_them() -> None:
    one = desk()
    outputs: list[object] = []
    for n in range(20):
        outputs += one.says(say(text="Hello.", context_id=f"c{n}"), say(text=" More.", context_id=f"c{n}"))
        outputs += one.says(say(context_id=f"c{n}", flush=True), say(context_id=f"c{n}", close_context=True))
    whole = [UPDATE, append("Hello."), flush(), append(" More."), flush(), end()]
    assert outputs[:6] == whole and [each for each in outputs if isinstance(each, dict)][-1] == end("t4")
    for n in range(20):
        one.started(f"t{n + 1}")
        one.sound(f"t{n + 1}")
        _, *rest = spoken(one.ends(f"t{n + 1}"))  # the times of its words, its end, and the next one that is let in
        assert rest[0] == final(f"c{n}")
        assert len(rest[1:]) == (6 if n < 16 else 0)


def test_a_context_that_waits_can_be_interrupted_and_nobody_hears_of_it() -> None:
    one = desk()
    for n in range(5):
        one.says(say(text="Hello.", context_id=f"c{n}"))
    assert spoken(one.says(say(context_id="c4", close_context=True))) == [final("c4")]
    one.says(say(context_id="c0", flush=True, close_context=True))
    assert UPDATE not in one.ends("t1"), "it is not let in"


def test_a_context_that_waits_is_let_in_when_another_was_interrupted() -> None:
    one = desk()
    for n in range(5):
        one.says(say(text="Hello.", context_id=f"c{n}"))
    assert spoken(one.says(say(context_id="c0", close_context=True))) == [cancel(), final("c0")]
    assert one.ends("t1", Status.CANCELLED) == [UPDATE, append("Hello.", "t5"), flush("t5")]


def test_too_much_text_that_waits_is_refused() -> None:
    one = desk()
    for n in range(5):
        one.says(say(text="Hello.", context_id=f"c{n}"))
    error, last = spoken(one.says(say(text="word " * 50_000, context_id="c4")))
    assert error["error"] == "text_overflow" and error["contextId"] == "c4" and last == final("c4")
    assert one.says(say(text="More.", context_id="c0")) == [append(" More."), flush()]


def test_an_error_about_a_turn_that_is_over_concerns_no_other_context() -> None:
    one = talking()
    assert one.hears(ErrorEvent(code=ErrorCode.UNKNOWN_TURN, message="no turn", turn="t0")) == []


def test_a_context_too_many_is_refused_and_the_socket_lives() -> None:
    one = desk()
    for n in range(64):
        one.says(say(text=" ", context_id=f"c{n}"))
    error, last = spoken(one.says(say(text="Hello.", context_id="one more")))
    assert error["error"] == "too_many_contexts" and error["contextId"] == "one more" and last["isFinal"]
    assert one.says(say(text="Hello.", context_id="c0"))[0] == UPDATE


def test_a_turn_that_fails_is_an_error_of_its_context() -> None:
    one = talking()
    error, last = spoken(one.ends("t1", Status.FAILED, reason="engine_restarted"))
    assert error["error"] == "engine_restarted" and error["contextId"] == "c1" and error["code"] == 1008
    assert last == final(), "pipecat waits for it"
    assert one.says(say(text="Again.", context_id="c2"))[0] == UPDATE


def test_settings_that_are_refused_are_an_error_of_the_context() -> None:
    one = talking()
    refusal = ErrorEvent(code=ErrorCode.VOICE_NOT_FOUND, message="no such voice")
    outputs = spoken(one.hears(refusal))
    assert outputs[0] == cancel(reason="failed") and outputs[1]["message"] == "no such voice" and outputs[2] == final()


@pytest.mark.parametrize("message", ["{", "[]", '"text"'])
def test_what_is_no_message_is_an_error_and_the_socket_lives(message: str) -> None:
    one = desk()
    [error] = spoken(one.says(message))
    assert error["error"] == "invalid_json" and "contextId" not in error
    assert one.says(say(text="Hello."))[0] == UPDATE


def test_a_speed_that_there_is_not_is_an_error_of_the_context() -> None:
    [error, last] = spoken(desk().says(say(text=" ", context_id="c1", voice_settings={"speed": 9})))
    assert error["error"] == "invalid_value" and "speed" in error["message"] and last == final()


@pytest.mark.parametrize("name", ["pcm_1", "pcm", "aac_44100", "mp3_44100_128_2", ""])
def test_a_format_that_there_is_not_is_refused_at_the_handshake(name: str) -> None:
    with pytest.raises(Refused) as refused:
        desk(output_format=name)
    assert refused.value.code == "output_format_not_allowed" and refused.value.status == 422


@pytest.mark.parametrize(
    ("name", "native", "rate", "bitrate"),
    [
        ("pcm_16000", "pcm", 16_000, None),
        ("ulaw_8000", "mulaw", 8_000, None),
        ("alaw_8000", "alaw", 8_000, None),
        ("mp3_22050_32", "mp3", 22_050, 32_000),
        ("opus_48000_96", "opus", None, 96_000),
    ],
)
def test_formats(name: str, native: str, rate: int | None, bitrate: int | None) -> None:
    one = desk(output_format=name)
    one.says(say(text="Hello."))
    fmt = one.host.encoders[-1].format
    assert (fmt.name, fmt.rate, fmt.bitrate) == (native, rate, bitrate)


@pytest.mark.parametrize("name", ["xi_api_key", "xi-api-key", "authorization"])
def test_a_key_may_come_with_the_first_message(name: str) -> None:
    assert key_in_message(say(text=" ", **{name: "secret"})) == "secret"
    assert key_in_message(say(text=" ", **{name: "Bearer secret"})) == "secret"


@pytest.mark.parametrize("message", ['{"text": " "}', "{", "[]", b"\1"])
def test_a_first_message_may_have_no_key(message: str | bytes) -> None:
    assert key_in_message(message) is None


@given(st.data())
def test_whatever_is_said_a_context_ends_once_and_nothing_follows_its_end(data: st.DataObject) -> None:
    paced, livekit = data.draw(st.booleans()), data.draw(st.booleans())
    one = desk(paced, sync_alignment=str(livekit).lower(), auto_mode=str(data.draw(st.booleans())).lower())
    messages = st.fixed_dictionaries(
        {},
        optional={
            "context_id": st.sampled_from(["a", "b", None, 7]),
            "text": st.sampled_from(["", " ", "Hi.", "Well [la", "ugh] ", "<break", 'time="1s"/>', "\ud83d", None, 3]),
            "flush": st.sampled_from([True, False, None]),
            "close_context": st.sampled_from([True, False, "yes"]),
            "close_socket": st.sampled_from([False, False, False, True]),
            "voice_settings": st.sampled_from([None, {}, {"speed": 1.1}, {"speed": 99}, 5]),
        },
    )
    live: list[str] = []  # turns that the session has
    ended: set[str] = set()
    closed = False
    for _ in range(data.draw(st.integers(1, 25))):
        what = data.draw(st.sampled_from(["say", "say", "say", "sound", "end", "fail"]))
        if what == "say":
            outputs = one.says(json.dumps(data.draw(messages)))
        elif not live:
            continue
        elif what == "sound":
            outputs = one.sound(live[0])
        else:
            outputs = one.ends(live.pop(0), Status.COMPLETED if what == "end" else Status.FAILED)
        for output in spoken(outputs):
            assert not closed, "the close is the last"
            if isinstance(output, CloseSocket):
                closed = True
            elif isinstance(output, dict) and output.get("type") == "text.append":
                live += [] if output["turn"] in live else [output["turn"]]
                assert "\ud83d" not in output["text"]
            elif isinstance(output, dict) and output.get("type") == "turn.cancel":
                assert output["turn"] in live
            elif isinstance(output, dict) and output.get("audio"):
                assert output["contextId"] in {"a", "b", UNNAMED} and not ended & {live[0]}
        if closed:
            break
        ended |= {output["turn"] for output in outputs if isinstance(output, dict) and output["type"] == "turn.cancel"}
    one.leaves()
