"""Golden transcripts of text in pieces over a WebSocket, as self-hosted servers offer it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocol.dialects.interface import CloseSocket, PrepareVoice
from protocol.dialects.openai_stream import SpeechStream
from protocol.errors import ErrorCode, ProtocolError
from protocol.events import ErrorEvent, Status
from tests.dialects.desk import Desk


def message(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


def read(outputs: list[object]) -> list[object]:
    return [
        json.loads(output) if isinstance(output, str) and output != "session.update" else output for output in outputs
    ]


@pytest.fixture
def desk() -> Desk:
    return Desk(SpeechStream)


CONFIG = message("session.config", response_format="pcm", voice="anna", stream_audio=True)


def test_two_utterances_on_one_socket(desk: Desk) -> None:
    assert desk.says(CONFIG) == []
    said = desk.says(message("input.text", text="Hello "), message("input.text", text="there."), message("input.done"))
    assert said == [
        "session.update",
        {"type": "text.append", "text": "Hello ", "turn": "t1"},
        {"type": "text.append", "text": "there.", "turn": "t1"},
        {"type": "turn.end", "turn": "t1"},
    ]
    desk.started("t1")
    start, sound = read(desk.sound("t1", b"ab"))
    assert start == {
        "type": "audio.start",
        "utterance_index": 0,
        "sentence_index": 0,
        "sentence_text": "Hello there.",
        "format": "pcm",
        "sample_rate": 24000,
    }
    assert sound == b"ab" and desk.sound("t1", b"cd") == [b"cd"]
    assert read(desk.ends("t1")) == [
        {"type": "audio.done", "utterance_index": 0, "sentence_index": 0, "total_bytes": 4, "error": False},
        {"type": "session.done", "utterance_index": 0, "total_sentences": 1},
    ]
    desk.says(message("input.text", text="Again."), message("input.done"))
    desk.started("t2")
    assert read(desk.sound("t2", b"ab"))[0]["utterance_index"] == 1  # type: ignore[index]


def test_without_stream_audio_the_sound_comes_in_one_piece(desk: Desk) -> None:
    desk.says(
        message("session.config", response_format="mp3"), message("input.text", text="Hi."), message("input.done")
    )
    desk.started("t1")
    assert [one["type"] for one in read(desk.sound("t1", b"ab"))] == ["audio.start"]  # type: ignore[index]
    assert desk.sound("t1", b"cd") == []
    sound, done, _ = read(desk.ends("t1"))
    assert sound == b"abcd<end>" and done["total_bytes"] == 9  # type: ignore[index]


def test_a_large_piece_is_cut_below_what_everybody_takes(desk: Desk) -> None:
    desk.says(message("input.text", text="Hi."), message("input.done"))
    desk.started("t1")
    for _ in range(3):
        desk.sound("t1", b"a" * 400_000)
    pieces = [output for output in desk.ends("t1") if isinstance(output, bytes)]
    assert sum(map(len, pieces)) == 1_200_005 and max(map(len, pieces)) < 2**20


def test_nothing_said_is_nothing_spoken(desk: Desk) -> None:
    assert desk.says(message("input.text", text=" ")) == []
    assert read(desk.says(message("input.done"))) == [
        {"type": "session.done", "utterance_index": 0, "total_sentences": 0}
    ]


def test_a_close_waits_for_what_is_spoken(desk: Desk) -> None:
    desk.says(CONFIG, message("input.text", text="Hi."))
    assert desk.says(message("session.close")) == [{"type": "turn.end", "turn": "t1"}]
    desk.started("t1")
    desk.sound("t1")
    assert desk.ends("t1")[-1] == CloseSocket()
    assert Desk(SpeechStream).says(message("session.close")) == [CloseSocket()]


def test_a_configuration_in_the_middle_of_a_text_is_refused(desk: Desk) -> None:
    desk.says(CONFIG, message("input.text", text="Hi."))
    (said,) = read(desk.says(CONFIG))
    assert said["type"] == "error"  # type: ignore[index]


@pytest.mark.parametrize(
    "wrong", ["{", "[]", message("sing"), message("session.config", response_format="tape"), message("input.text")]
)
def test_what_is_no_message_is_answered_with_an_error(desk: Desk, wrong: str) -> None:
    (said,) = read(desk.says(wrong))
    assert said["type"] == "error"  # type: ignore[index]


def test_references_become_a_voice(desk: Desk) -> None:
    (wanted,) = desk.says(message("session.config", ref_audio="UklGRgAA", ref_text="one"))
    assert isinstance(wanted, PrepareVoice)
    assert list(wanted.then("inline-1")) == []
    update = desk.dialect.received(message("input.text", text="Hi."), 0.0)[0]
    assert update.voice == "inline-1"  # type: ignore[union-attr]


def test_a_failure_is_told_and_ends_the_utterance(desk: Desk) -> None:
    desk.says(CONFIG, message("input.text", text="Hi."))
    error, *cancelled = read(desk.hears(ErrorEvent.of(ProtocolError(ErrorCode.VOICE_NOT_FOUND, "no voice"))))
    assert error == {"type": "error", "message": "no voice"}
    assert cancelled == [{"type": "turn.cancel", "turn": "t1", "scope": "turn", "reason": "failed"}]
    done, over = read(desk.ends("t1", Status.CANCELLED, 0))
    assert done["error"] is True and over["total_sentences"] == 0  # type: ignore[index]


def test_who_leaves_hears_no_more(desk: Desk) -> None:
    desk.says(CONFIG, message("input.text", text="Hi."))
    assert desk.leaves() == [{"type": "turn.cancel", "turn": "t1", "scope": "turn", "reason": "disconnected"}]
