"""Cartesia over HTTP: sound as it is, and sound as server-sent events."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from protocol.dialects.cartesia_routes import errors, events, sound
from protocol.dialects.interface import CloseSocket, Opening, Refused, StartResponse
from protocol.events import Alignment, AlignmentItem, Status
from tests.dialects.desk import Desk

RAW = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24_000}


def asked(transcript: str = "Hello.", **fields: Any) -> Opening:
    body = {"model_id": "sonic", "voice": "ben", "output_format": RAW, "transcript": transcript, **fields}
    return Opening(body=json.dumps(body).encode())


def data_of(message: object) -> tuple[str, dict[str, object]]:
    assert isinstance(message, str) and message.endswith("\n\n")
    event, data = message.rstrip("\n").split("\n")
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_livekits_synthesize_gets_raw_sound() -> None:
    desk = Desk(sound, asked())
    assert desk.first == [
        "session.update",
        {"type": "text.append", "text": "Hello.", "turn": "t1"},
        {"type": "turn.end", "turn": "t1"},
    ]
    assert desk.sound("t1", b"ab") == [StartResponse(200, "audio/pcm"), b"ab"]
    assert desk.sound("t1", b"cd") == [b"cd"]
    assert desk.ends("t1") == [CloseSocket()]


@pytest.mark.parametrize("container", ["wav", "mp3"])
def test_files_are_spoken_too(container: str) -> None:
    desk = Desk(sound, asked(output_format={"container": container, "sample_rate": 44_100, "bit_rate": 128_000}))
    assert desk.host.encoders[0].format.name == container
    assert desk.sound("t1", b"ab") == [StartResponse(200, f"audio/{container}"), b"ab"]
    assert desk.ends("t1") == [b"<end>", CloseSocket()]


def test_events_are_the_messages_of_the_socket() -> None:
    desk = Desk(events, asked(add_timestamps=True, context_id="mine"))
    head, first = desk.sound("t1", b"ab")
    assert head == StartResponse(200, "text/event-stream; charset=utf-8")
    name, fields = data_of(first)
    assert (name, fields["type"], fields["context_id"]) == ("chunk", "chunk", "mine")
    assert base64.b64decode(str(fields["data"])) == b"ab"
    (told,) = desk.hears(Alignment(turn="t1", items=(AlignmentItem("Hello.", 0, 400, 0, 6),), final=True))
    assert data_of(told)[1]["word_timestamps"] == {"words": ["Hello."], "start": [0.0], "end": [0.4]}
    end, closed = desk.ends("t1")
    assert data_of(end) == ("done", {"type": "done", "context_id": "mine", "done": True, "status_code": 200})
    assert closed == CloseSocket()


def test_events_that_break_off_end_with_an_error() -> None:
    desk = Desk(events, asked())
    desk.sound("t1", b"ab")
    told, closed = desk.ends("t1", Status.FAILED, reason="synthesis_failed")
    name, fields = data_of(told)
    assert (name, fields["type"], fields["status_code"]) == ("error", "error", 500)
    assert closed == CloseSocket()


@pytest.mark.parametrize(
    ("opening", "param"),
    [
        (Opening(body=b"{"), None),
        (asked("  "), "transcript"),
        (asked("x" * 20_001), "transcript"),
        (asked(output_format={"container": "ogg"}), "output_format"),
    ],
)
def test_what_cannot_be_spoken_is_refused(opening: Opening, param: str | None) -> None:
    with pytest.raises(Refused) as refused:
        Desk(sound, opening)
    assert (refused.value.status, refused.value.param) == (400, param)
    media_type, body = errors(refused.value)
    assert media_type == "application/json"
    assert json.loads(body)["status_code"] == 400


def test_whoever_hangs_up_cancels() -> None:
    desk = Desk(sound, asked())
    assert desk.leaves() == [{"type": "turn.cancel", "turn": "t1", "scope": "turn", "reason": "disconnected"}]
