"""Golden transcripts of Fish Audio's live protocol: what clients say, and what is done and said then."""

from __future__ import annotations

from typing import Any

import ormsgpack
import pytest

from protocol.dialects.fish import FishLive
from protocol.dialects.interface import Opening, PrepareVoice, Refused
from protocol.errors import ErrorCode, ProtocolError
from protocol.events import ErrorEvent, Status, TurnPlayed
from tests.dialects.desk import Desk

FINISHED = {"event": "finish", "reason": "stop"}


def packed(event: str, **fields: Any) -> bytes:
    return ormsgpack.packb({"event": event, **fields})


def start(**request: Any) -> bytes:
    return packed("start", request={"text": "", "format": "pcm", **request})


def audio(data: bytes, time_ms: int = 0) -> dict[str, object]:
    return {"event": "audio", "audio": data, "time": time_ms}


def unpacked(outputs: list[object]) -> list[object]:
    return [ormsgpack.unpackb(output) if isinstance(output, bytes) else output for output in outputs]


def append(turn: str, text: str) -> dict[str, str]:
    return {"type": "text.append", "text": text, "turn": turn}


def flush(turn: str) -> dict[str, str]:
    return {"type": "text.flush", "turn": turn}


def end(turn: str) -> dict[str, str]:
    return {"type": "turn.end", "turn": turn}


def cancel(turn: str) -> dict[str, str]:
    return {"type": "turn.cancel", "turn": turn, "scope": "turn", "reason": "barge_in"}


@pytest.fixture
def desk() -> Desk:
    return Desk(FishLive)


def test_the_sdk_speaks_one_turn(desk: Desk) -> None:
    assert desk.first == []
    assert desk.says(start()) == []
    assert desk.says(packed("text", text="Hello ")) == ["session.update", append("t1", "Hello ")]
    assert desk.says(packed("text", text="there.")) == [append("t1", "there.")]
    assert desk.says(packed("stop")) == [end("t1")]
    desk.started("t1")
    assert unpacked(desk.sound("t1", b"\1" * 2000)) == [audio(b"\1" * 2000)]
    assert unpacked(desk.ends("t1")) == [FINISHED]
    assert desk.leaves() == [], "all was sent after the stop: it is being listened to"


def test_livekit_speaks_again_on_the_same_socket(desk: Desk) -> None:
    desk.says(start(), packed("text", text="One."), packed("stop"))
    desk.started("t1")
    desk.ends("t1")
    assert desk.says(start(format="mp3", mp3_bitrate=64)) == []
    assert desk.says(packed("text", text="Two.")) == ["session.update", append("t2", "Two.")]
    desk.says(packed("stop"))
    desk.started("t2")
    desk.now += 0.25
    assert unpacked(desk.sound("t2", b"\2" * 10)) == [audio(b"\2" * 10, 250)]
    assert unpacked(desk.ends("t2")) == [audio(b"<end>", 250), FINISHED], "a container of its own"


def test_pipecat_speaks_many_turns_after_one_start(desk: Desk) -> None:
    desk.says(start())
    said = desk.says(packed("text", text="One."), packed("flush"), packed("text", text="Two."), packed("flush"))
    assert said == ["session.update", append("t1", "One."), flush("t1"), append("t1", " Two."), flush("t1")]
    assert desk.says(packed("flush")) == [end("t1")], "a second flush ends the turn"
    assert desk.says(packed("flush")) == [], "and a third says nothing"
    desk.started("t1")
    assert unpacked(desk.ends("t1")) == [], "no finish: the start still stands"
    assert desk.says(packed("text", text="Three."))[-1] == append("t2", "Three.")


def test_pipecat_interrupts_with_a_stop_and_a_close(desk: Desk) -> None:
    desk.says(start(), packed("text", text="One."), packed("flush"), packed("flush"))
    desk.started("t1")
    desk.sound("t1")
    desk.ends("t1")  # all was sent, a second of it is still to be heard
    assert unpacked(desk.says(packed("stop"))) == [FINISHED]
    assert desk.leaves() == [cancel("t1")]


def test_a_turn_that_was_heard_is_not_cut(desk: Desk) -> None:
    desk.says(start(), packed("text", text="One."), packed("flush"), packed("flush"))
    desk.started("t1")
    desk.ends("t1")
    desk.hears(TurnPlayed(turn="t1", ms=1000))
    desk.says(packed("stop"))
    assert desk.leaves() == []


def test_livekit_interrupts_by_leaving(desk: Desk) -> None:
    desk.says(start(), packed("text", text="One. "), packed("stop"))
    desk.started("t1")
    desk.sound("t1")
    assert desk.leaves() == [cancel("t1")]


def test_the_start_may_have_the_first_text(desk: Desk) -> None:
    assert desk.says(start(text="Hello.")) == ["session.update", append("t1", "Hello.")]


def test_a_flush_waits_for_the_end_of_a_tag(desk: Desk) -> None:
    desk.says(start())
    assert desk.says(packed("text", text="Well [soft. "), packed("flush"))[1:] == [append("t1", "Well [soft. ")]
    assert desk.says(packed("text", text="And slow] no."), packed("flush")) == [
        append("t1", "And slow] no."),
        flush("t1"),
    ]


def test_space_alone_opens_no_turn(desk: Desk) -> None:
    assert desk.says(start(), packed("text", text="  "), packed("flush")) == []
    assert unpacked(desk.says(packed("stop"))) == [FINISHED]


def test_small_pieces_of_samples_wait_for_more() -> None:
    desk = Desk(FishLive)
    desk.says(start(sample_rate=8000), packed("text", text="Hello."), packed("stop"))
    desk.started("t1")
    assert desk.sound("t1", b"a" * 640) == []
    assert unpacked(desk.sound("t1", b"b" * 640)) == [audio(b"a" * 640 + b"b" * 640)]
    assert desk.sound("t1", b"c" * 100) == []
    assert unpacked(desk.ends("t1")) == [audio(b"c" * 100), FINISHED], "and the last do not get lost"


def test_a_turn_that_fails_ends_with_an_error(desk: Desk) -> None:
    desk.says(start(), packed("text", text="Hello."), packed("stop"))
    (said,) = unpacked(desk.ends("t1", Status.FAILED, reason="synthesis_failed"))
    assert said == {"event": "finish", "reason": "error", "message": "synthesis_failed"}
    assert desk.says(start(), packed("text", text="Again."))[-1] == append("t2", "Again.")


def test_what_is_refused_ends_with_one_error(desk: Desk) -> None:
    desk.says(start(), packed("text", text="Hello."))
    refused = ErrorEvent.of(ProtocolError(ErrorCode.VOICE_NOT_FOUND, "no voice", event_id="t-c1"))
    cancelled, said = unpacked(desk.hears(refused))
    assert cancelled == {"type": "turn.cancel", "turn": "t1", "scope": "turn", "reason": "failed"}
    assert said == {"event": "finish", "reason": "error", "message": "no voice"}
    assert desk.hears(refused) == []


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"format": "tape"}, "no format 'tape'"),
        ({"prosody": {"speed": 9}}, "prosody.speed: Input should be less than or equal to 4"),
        ({"sample_rate": "high"}, "sample_rate: Input should be a valid integer, unable to parse string as an integer"),
    ],
)
def test_a_start_that_cannot_be_is_answered_with_an_error(desk: Desk, request_: dict[str, Any], why: str) -> None:
    assert unpacked(desk.says(start(**request_))) == [{"event": "finish", "reason": "error", "message": why}]
    assert desk.says(packed("text", text="Hello.")) == []


def test_what_is_no_messagepack_is_answered_with_an_error(desk: Desk) -> None:
    (said,) = unpacked(desk.says(b"\xc1"))
    assert isinstance(said, dict) and said["reason"] == "error"
    assert desk.says("text messages are no part of this", packed("ping"), ormsgpack.packb([1])) == []


def test_references_become_a_voice_before_anything_is_said(desk: Desk) -> None:
    (wanted,) = desk.says(start(text="Hello.", references=[{"audio": b"RIFF", "text": "one"}]))
    assert isinstance(wanted, PrepareVoice) and wanted.recordings == ((b"RIFF", "one"),)
    update, said = wanted.then("inline-1")
    assert update.voice == "inline-1" and said.text == "Hello."  # type: ignore[union-attr]
    assert unpacked(list(wanted.refused(Refused(400, "too short")))) == [
        {"event": "finish", "reason": "error", "message": "too short"}
    ]


def test_a_long_text_goes_on_in_another_turn(desk: Desk) -> None:
    desk.says(start())
    desk.says(packed("text", text="a" * 19_999 + " "))
    assert desk.says(packed("text", text="More.")) == [end("t1"), "session.update", append("t2", "More.")]


def test_settings_are_what_was_asked_for() -> None:
    desk = Desk(FishLive, Opening(session="s"))
    machine = desk.dialect
    outputs = machine.received(
        start(
            text="Hello.",
            sample_rate=16000,
            reference_id="anna",
            latency="normal",
            temperature=0.5,
            top_p=0.6,
            repetition_penalty=1.3,
            normalize=False,
            max_new_tokens=100,
            seed=7,
            prosody={"speed": 1.5, "volume": -3},
            features=["new"],
            chunk_length=None,
        ),
        0.0,
    )
    update = outputs[0]
    assert (update.voice, update.speed, update.volume_db, update.normalize) == ("anna", 1.5, -3.0, False)  # type: ignore[union-attr]
    assert update.latency == "quality"  # type: ignore[union-attr]
    sampling = update.sampling  # type: ignore[union-attr]
    assert (sampling.temperature, sampling.top_p, sampling.repetition_penalty) == (0.5, 0.6, 1.3)
    assert (sampling.max_frames, sampling.seed) == (100, 7)
    assert desk.host.encoders[-1].format.rate == 16_000
    assert update.pacing == desk.host.pacing  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("request_", "fmt"),
    [
        ({"format": "pcm"}, ("pcm", 24_000, None)),
        ({"format": "wav"}, ("wav", 24_000, None)),
        ({"format": "mp3"}, ("mp3", None, 128_000)),
        ({"format": "mp3", "mp3_bitrate": 192, "sample_rate": 32_000}, ("mp3", 32_000, 192_000)),
        ({"format": "opus"}, ("opus", None, 32_000)),
        ({"format": "opus", "opus_bitrate": -1000}, ("opus", None, None)),
        ({"format": "opus", "opus_bitrate": 24_000, "sample_rate": 24_000}, ("opus", None, 24_000)),
    ],
)
def test_formats_have_the_rates_and_bitrates_that_clients_mean(
    desk: Desk, request_: dict[str, Any], fmt: tuple[str, int | None, int | None]
) -> None:
    desk.says(start(**request_))
    made = desk.host.encoders[-1].format
    assert (made.name, made.rate, made.bitrate) == fmt


def test_several_reference_ids_are_several_speakers(desk: Desk) -> None:
    update = desk.dialect.received(start(text="Hi.", reference_id=["anna", "unheard-of"]), 0.0)[0]
    assert update.voices == {"0": "anna", "1": "default"}  # type: ignore[union-attr]


def test_on_a_socket_of_its_own_nothing_is_cut_that_was_sent() -> None:
    desk = Desk(FishLive, paced=False)
    desk.says(start(), packed("text", text="One."), packed("flush"), packed("flush"))
    desk.started("t1")
    desk.ends("t1")
    assert desk.leaves() == []
