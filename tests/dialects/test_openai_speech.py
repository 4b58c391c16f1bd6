"""OpenAI's speech as a machine: what a request asks for natively, and what the answer is made of."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from protocol.dialects.interface import CloseSocket, Opening, PrepareVoice, Refused, StartResponse
from protocol.dialects.openai_request import SpeechRequest
from protocol.dialects.openai_speech import errors, session, speech
from protocol.errors import ErrorCode, ProtocolError
from protocol.events import ErrorEvent, Status
from tests.dialects.desk import Desk


def desk(paced: bool = False, **fields: Any) -> Desk:
    return Desk(speech, Opening(body=json.dumps({"input": "Hello.", **fields}).encode()), paced)


def refusal(**fields: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        desk(**fields)
    return refused.value


def test_sound_is_answered_as_it_comes() -> None:
    one = desk(model="tts-1", voice="alloy")
    assert one.first == [
        "session.update",
        {"type": "text.append", "text": "Hello.", "turn": "t1"},
        {"type": "turn.end", "turn": "t1"},
    ]
    assert one.started("t1") == [], "the head of the answer waits for sound, which may fail"
    head, sound = one.sound("t1", b"abc")
    assert head == StartResponse(200, "audio/mp3", {"X-Sample-Rate": "24000"}) and sound == b"abc"
    assert one.sound("t1", b"def") == [b"def"]
    assert one.ends("t1") == [b"<end>", CloseSocket()]
    assert one.leaves() == [], "what was sent whole counts as heard"


def test_events_hold_sound_in_base64_and_end_with_usage() -> None:
    one = desk(stream_format="sse", response_format="pcm")
    one.started("t1")
    head, delta = one.sound("t1", b"abc")
    assert isinstance(head, StartResponse) and head.media_type == "text/event-stream; charset=utf-8"
    assert delta == 'data: {"type": "speech.audio.delta", "audio": "YWJj"}\n\n'
    done, close = one.ends("t1")
    assert json.loads(str(done).removeprefix("data: ")) == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
    }
    assert close == CloseSocket()


def test_a_failure_before_any_sound_is_a_status() -> None:
    one = desk()
    head, body, close = one.ends("t1", Status.FAILED, reason=ErrorCode.NO_CAPACITY.value)
    assert isinstance(head, StartResponse) and head.status == 503
    assert json.loads(str(body))["error"] == {
        "message": "the turn was failed",
        "type": "server_error",
        "param": None,
        "code": "no_capacity",
    }
    assert close == CloseSocket()


def test_a_failure_in_the_middle_breaks_the_answer_off() -> None:
    one = desk()
    one.sound("t1")
    assert one.ends("t1", Status.FAILED, reason="synthesis_failed") == [
        CloseSocket(1011, "synthesis_failed"),
        CloseSocket(),
    ]


def test_a_failure_in_the_middle_of_events_is_an_event() -> None:
    one = desk(stream_format="sse")
    one.sound("t1")
    told, close = one.ends("t1", Status.FAILED, reason="synthesis_failed")
    assert json.loads(str(told).removeprefix("data: "))["type"] == "speech.audio.error" and close == CloseSocket()


def test_what_the_session_refuses_is_refused_and_cancelled() -> None:
    one = desk()
    error = ErrorEvent.of(ProtocolError(ErrorCode.LIMIT_EXCEEDED, "8 turns wait", turn="t1", retry_after_ms=1500))
    cancelled, head, body, _ = one.hears(error)
    assert cancelled == {"type": "turn.cancel", "turn": "t1", "scope": "turn", "reason": "failed"}
    assert isinstance(head, StartResponse) and (head.status, head.headers) == (429, {"Retry-After": "2"})
    assert json.loads(str(body))["error"]["type"] == "rate_limit_error"


def test_a_client_that_leaves_cancels_what_is_spoken() -> None:
    one = desk()
    assert one.leaves() == [{"type": "turn.cancel", "turn": "t1", "scope": "turn", "reason": "disconnected"}]


@pytest.mark.parametrize(
    ("fields", "name", "rate"),
    [
        ({}, "wav", None),
        ({"model": "tts-1"}, "mp3", None),
        ({"model": None, "voice": None, "response_format": None}, "wav", None),
        ({"response_format": "pcm"}, "pcm", 24_000),
        ({"response_format": "pcm", "stream": True}, "pcm", 22_050),
        ({"response_format": "pcm", "sample_rate": 16_000}, "pcm", 16_000),
        ({"response_format": "opus", "sample_rate": 16_000}, "opus", None),
    ],
)
def test_the_format_is_the_one_that_the_client_expects(fields: dict[str, Any], name: str, rate: int | None) -> None:
    made = desk(**fields).host.encoders[0].format
    assert (made.name, made.rate) == (name, rate)


def test_what_can_be_set_is_set() -> None:
    one = SpeechRequest(
        input="Hi.",
        voice={"id": "anna"},  # type: ignore[arg-type]
        speed=1.5,
        language="German",
        temperature=0.5,
        top_p=0.6,
        top_k=7,
        repetition_penalty=1.2,
        seed=3,
        max_new_tokens=50,
    )
    host = desk().host
    update = one.settings(host, one.encoder(host), None)
    assert (update.voice, update.speed, update.language) == ("anna", 1.5, "de")
    drawn = update.sampling
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.repetition_penalty) == (0.5, 0.6, 7, 1.2)
    assert (drawn.seed, drawn.max_frames) == (3, 50)
    assert one.settings(host, one.encoder(host), "inline-1").voice == "inline-1"


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"temperature": 0}, "top_k", 1),
        ({"top_k": -1}, "top_k", 1024),
        ({"top_k": 0}, "top_k", 1024),
        ({"top_p": 0}, "top_p", 1e-6),
        ({"max_new_tokens": 10**9}, "max_frames", 16_384),
    ],
)
def test_values_at_the_edge_mean_what_they_mean_elsewhere(fields: dict[str, Any], name: str, value: float) -> None:
    one, host = SpeechRequest(input="Hi.", **fields), desk().host
    assert getattr(one.settings(host, one.encoder(host), None).sampling, name) == value


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"input": " \n"}, "empty_input", "input"),
        ({"input": None}, "invalid_value", "input"),
        ({"input": "x" * 20_001}, "string_above_max_length", "input"),
        ({"response_format": "tape"}, "invalid_value", "response_format"),
        ({"speed": 5}, "invalid_value", "speed"),
        ({"voice": 7}, "invalid_value", "voice"),
        ({"ref_audio": "UklGRg=="}, "invalid_value", "ref_text"),
        ({"ref_audio": "data:audio/wav;base64,?", "ref_text": "one"}, "invalid_value", "ref_audio"),
        ({"references": [{"text": "one"}]}, "invalid_value", "references.0"),
        ({"references": [{"audio": "UklGRg=="}]}, "invalid_value", "references.0.text"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(fields: dict[str, Any], code: str, param: str) -> None:
    refused = refusal(**fields)
    assert (refused.status, refused.code, refused.param) == (400, code, param)
    assert json.loads(errors(refused)[1])["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        speech(desk().host, Opening(body=body))
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("given", "recording"),
    [
        ("UklGRgAA", b"RIFF\0\0"),
        ("data:audio/wav;base64,UklGRgAA", b"RIFF\0\0"),
        ("//uQxAAA", b"\xff\xfb\x90\xc4\0\0"),  # an mp3 begins like an address without a scheme
        ("https://example.org/a.wav", "https://example.org/a.wav"),
        ("file:///voices/a.wav", "file:///voices/a.wav"),
        ("/voices/a.wav", "/voices/a.wav"),
        ("voices/anna.wav", "voices/anna.wav"),
    ],
)
def test_a_reference_is_a_file_or_where_one_is(given: str, recording: bytes | str) -> None:
    for fields in (
        {"ref_audio": given, "ref_text": "one"},
        {"references": [{"audio_path": given, "text": "one"}]},
        {"references": [{"audio": given, "text": "one"}]},
    ):
        (wanted,) = desk(**fields).first
        assert isinstance(wanted, PrepareVoice) and wanted.recordings == ((recording, "one"),)


def test_a_reference_that_cannot_be_had_is_a_refusal() -> None:
    (wanted,) = desk(ref_audio="UklGRgAA", ref_text="one").first
    assert isinstance(wanted, PrepareVoice)
    head, body, close = wanted.refused(Refused(400, "too short"))
    assert isinstance(head, StartResponse) and head.status == 400 and "too short" in str(body)
    assert close == CloseSocket()


def test_instructions_become_a_tag() -> None:
    one = desk(instructions="[Speak] softly,\n and <slowly>")
    assert one.first[1] == {"type": "text.append", "text": "[Speak softly, and slowly] Hello.", "turn": "t1"}
    long = SpeechRequest(input="Hi.", instructions="very " * 40).text
    assert long.endswith("] Hi.") and long.index("]") <= 80 and "ver]" not in long


def test_the_body_may_name_the_session() -> None:
    assert session(Opening(body=b'{"input": "Hi.", "session": "s1"}')) == "s1"
    assert session(Opening(body=b'{"input": "Hi."}')) is None


def test_base64_of_any_file_is_no_path() -> None:
    data = bytes(range(256)) * 40
    (wanted,) = desk(ref_audio=base64.b64encode(data).decode(), ref_text="one").first
    assert isinstance(wanted, PrepareVoice) and wanted.recordings[0][0] == data
