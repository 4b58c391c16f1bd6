"""Speech over HTTP: as it is, and in lines of JSON."""

from __future__ import annotations

import base64
import json

import pytest

from protocol.dialects.elevenlabs_http import errors, speech, speech_with_timestamps, timed_speech
from protocol.dialects.interface import CloseSocket, Opening, Refused, StartResponse
from protocol.events import Alignment, AlignmentItem, Status
from tests.dialects.desk import Desk
from tests.dialects.test_elevenlabs import UPDATE, append, cancel, end


def opening(query: dict[str, str] | None = None, **body: object) -> Opening:
    return Opening(path={"voice": "anna"}, query=query or {}, body=json.dumps(body).encode())


def test_an_answer_of_sound() -> None:
    one = Desk(speech, opening({"output_format": "mp3_44100_128"}, text="Hello.", model_id="eleven_flash_v2_5"))
    assert one.first == [UPDATE, append("Hello."), end()]
    one.started("t1")
    assert one.sound("t1", b"sound") == [StartResponse(200, "audio/mp3", {}), b"sound"]
    assert one.ends("t1") == [b"<end>", CloseSocket()]


def test_an_answer_with_times() -> None:
    one = Desk(speech_with_timestamps, opening({"output_format": "pcm_24000"}, text="Hello you."))
    one.started("t1")
    head, line = one.sound("t1", b"\1\2")
    assert head == StartResponse(200, "application/json", {})
    assert json.loads(str(line)) == {
        "audio_base64": base64.b64encode(b"\1\2").decode(),
        "alignment": None,
        "normalized_alignment": None,
    }
    assert one.hears(Alignment(turn="t1", items=(AlignmentItem("Hello", 100, 600, 0, 5),), final=False)) == []
    [line] = one.sound("t1")
    times = json.loads(str(line))["alignment"]
    assert times == {
        "characters": [*"Hello"],
        "character_start_times_seconds": [0.1, 0.2, 0.3, 0.4, 0.5],
        "character_end_times_seconds": [0.2, 0.3, 0.4, 0.5, 0.6],
    }
    one.hears(Alignment(turn="t1", items=(AlignmentItem("you.", 700, 1100, 6, 10),), final=True))
    line, close = one.ends("t1")
    assert str(line).endswith("\n")
    found = json.loads(str(line))
    assert found["audio_base64"] == "", "clients decode it without a look"
    assert found["alignment"]["characters"] == [*" you. "]
    assert found["alignment"]["character_start_times_seconds"][1] == 0.7, "from the start of the answer"
    assert close == CloseSocket()


def test_an_answer_with_times_in_one_piece() -> None:
    one = Desk(timed_speech, opening({"output_format": "mp3_44100_128"}, text="Hello you."))
    one.started("t1")
    assert one.sound("t1", b"\1\2") == [], "it is answered when all is known"
    one.hears(Alignment(turn="t1", items=(AlignmentItem("Hello", 100, 600, 0, 5),), final=False))
    assert one.sound("t1", b"\3") == []
    one.hears(Alignment(turn="t1", items=(AlignmentItem("you.", 700, 1100, 6, 10),), final=True))
    head, body, close = one.ends("t1")
    assert (head, close) == (StartResponse(200, "application/json", {}), CloseSocket())
    found = json.loads(str(body))
    assert base64.b64decode(found["audio_base64"]) == b"\1\2\3<end>"
    assert found["alignment"]["characters"] == [*"Hello you. "] == found["normalized_alignment"]["characters"]


def test_an_answer_in_one_piece_that_fails_in_the_middle_is_an_error() -> None:
    one = Desk(timed_speech, opening({"output_format": "pcm_24000"}, text="Hello you."))
    one.started("t1")
    one.sound("t1")
    head, body, _ = one.ends("t1", Status.FAILED, reason="engine_restarted")
    assert head == StartResponse(503, "application/json") and "detail" in json.loads(str(body))


def test_a_turn_that_fails_before_its_first_sound_is_an_error() -> None:
    one = Desk(speech, opening(text="Hello."))
    head, body, close = one.ends("t1", Status.FAILED, reason="no_capacity")
    assert head == StartResponse(503, "application/json") and close == CloseSocket()
    assert json.loads(str(body))["detail"]["status"] == "no_capacity"


def test_a_client_that_hangs_up_cancels() -> None:
    assert Desk(speech, opening(text="Hello.")).leaves() == [cancel(reason="disconnected")]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 422, "invalid_value"),
        (b"{}", 422, "invalid_value"),
        (b'{"text": " "}', 422, "empty_text"),
        (b'{"text": "a", "voice_settings": {"speed": 9}}', 422, "invalid_value"),
        (b'{"text": "a", "seed": -1}', 422, "invalid_value"),
        (b'{"text": "' + b"a " * 20_000 + b'"}', 400, "max_character_limit_exceeded"),
    ],
)
def test_what_cannot_be_done_is_refused_in_their_words(body: bytes, status: int, code: str) -> None:
    with pytest.raises(Refused) as refused:
        Desk(speech, Opening(path={"voice": "anna"}, body=body))
    assert refused.value.status == status
    media_type, told = errors(refused.value)
    detail = json.loads(told)["detail"]
    assert media_type == "application/json" and detail["code"] == detail["status"] == code and detail["message"]


def test_half_a_character_is_none() -> None:
    body = Opening(path={"voice": "anna"}, body=b'{"text": "Good \\ud83d"}')
    assert Desk(speech, body).first == [UPDATE, append("Good \ufffd"), end()]


def test_null_is_absent_and_unknown_fields_are_let_pass() -> None:
    body = opening(text="Hello.", voice_settings=None, seed=None, language_code="de", previous_text="Yes?", what="ever")
    assert Desk(speech, body).first == [UPDATE, append("Hello."), end()]
