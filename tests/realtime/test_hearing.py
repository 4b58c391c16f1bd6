"""What a session tells and does when its client's side speaks."""

from __future__ import annotations

import base64
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.audio_frame import AudioFrame, Flag, Kind
from protocol.commands import AudioInput, InputAudioAppend
from protocol.errors import ErrorCode, ProtocolError
from protocol.events import Event, SpeechAction, SpeechStarted, SpeechStopped
from realtime.ear import MUTE_S
from realtime.hearing import Hearing
from realtime.voice_activity import Samples, SileroModel
from tests.realtime.hearing_fixtures import in_quiet, messages, recorded, silence

BORN = 1000.0


class Floor:
    """A speaking side that notes what is done to it; one turn, "t"."""

    def __init__(self) -> None:
        self.state = "speaks"
        self.events: list[Event] = []

    def speaking_turn(self, now: float) -> str | None:
        return "t" if self.state == "speaks" else None

    def sounding_turn(self, now: float) -> str | None:
        return self.speaking_turn(now)

    def played_db(self, start: float, end: float) -> float | None:
        return None

    def pause_turn(self, turn: str, now: float) -> None:
        self.state = "paused"

    def resume_turn(self, turn: str, now: float) -> bool:
        if self.state != "paused":
            return False
        self.state = "speaks"
        return True

    def cancel_turn(self, turn: str, now: float) -> None:
        self.state = "over"

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def told(self) -> list[tuple[str, SpeechAction | str, str | None]]:
        speech = [event for event in self.events if isinstance(event, SpeechStarted | SpeechStopped)]
        return [(event.type, event.action, event.turn) for event in speech]


class Room:
    """A session's hearing, and a client that sends 20 ms at a time."""

    def __init__(self, model: type[SileroModel] = SileroModel, **announced: Any) -> None:
        self.floor = Floor()
        self.hearing = Hearing(self.floor, model, 100, BORN)
        self.now = BORN + 5.0
        self.position = 0
        self.hearing.announce(AudioInput(**announced), self.now)

    def hear(self, sound: Any, flags: Flag = Flag.NONE) -> None:
        for payload in messages(sound):
            self.now += 0.02
            self.hearing.frame(AudioFrame(Kind.UPLINK, flags, 0, 0, self.position, payload), self.now)
            self.position += len(payload) // 2

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.hearing.deadline) <= end:
            self.now = max(self.now, due)
            self.hearing.tick(self.now)
            assert self.hearing.deadline > self.now, "what was due is done"
        self.now = end


def refused(error: pytest.ExceptionInfo[ProtocolError]) -> tuple[ErrorCode, str | None]:
    return error.value.code, error.value.param


def test_speech_is_told_with_the_time_at_which_it_was() -> None:
    room = Room()
    room.hear(in_quiet("wait"))
    assert room.floor.told() == [("speech.started", "none", "t"), ("speech.stopped", "none", "t")]
    started, stopped = room.floor.events
    assert isinstance(started, SpeechStarted) and isinstance(stopped, SpeechStopped)
    assert started.session_ms == pytest.approx(6000, abs=160)
    assert stopped.session_ms == pytest.approx(6000 + len(recorded("wait")) / 16, abs=250)
    assert room.floor.state == "speaks"


def test_with_cancel_the_turn_is_over_before_the_phrase_is() -> None:
    room = Room(barge_in="cancel")
    room.hear(in_quiet("wait", after_s=0.0)[: int(1.4 * 16_000)])
    assert room.floor.state == "over"
    assert room.floor.told() == [("speech.started", "cancelled", "t")]


def test_a_false_alarm_pauses_the_turn_and_it_goes_on() -> None:
    room = Room(barge_in="pause", resume_after_ms=1500)
    room.hear(in_quiet("halt", after_s=0.8))
    assert room.floor.state == "paused"
    spoken_until = 6.0 + len(recorded("halt")) / 16_000
    room.wait(BORN + spoken_until + 1.2 - room.now)
    assert room.floor.state == "paused"
    room.wait(0.5)
    assert room.floor.state == "speaks"
    assert room.floor.told() == [
        ("speech.started", "paused", "t"),
        ("speech.stopped", "none", "t"),
        ("speech.stopped", "resumed", "t"),
    ]
    assert room.hearing.deadline == math.inf


def test_with_no_time_to_wait_the_turn_goes_on_as_the_speech_ends() -> None:
    room = Room(barge_in="pause", resume_after_ms=0)
    room.hear(in_quiet("halt", after_s=0.8))
    assert room.floor.told() == [("speech.started", "paused", "t"), ("speech.stopped", "resumed", "t")]


def test_a_client_that_decides_keeps_the_turn_from_going_on() -> None:
    room = Room(barge_in="pause")
    room.hear(in_quiet("halt"))
    room.hearing.decided()
    room.wait(60.0)
    assert room.floor.state == "paused"


def test_null_leaves_the_decision_to_the_client() -> None:
    room = Room(barge_in="pause", resume_after_ms=None)
    room.hear(in_quiet("halt"))
    room.wait(60.0)
    assert room.floor.state == "paused"


def test_a_turn_that_ended_in_its_pause_is_not_said_to_go_on() -> None:
    room = Room(barge_in="pause")
    room.hear(in_quiet("halt"))
    room.floor.state = "over"
    room.wait(60.0)
    assert [action for _, action, _ in room.floor.told()] == ["paused", "none"]


def test_speech_during_a_pause_of_the_clients_changes_nothing() -> None:
    room = Room(barge_in="pause")
    room.floor.state = "paused"
    room.hear(in_quiet("wait"))
    room.wait(60.0)
    assert room.floor.told() == [("speech.started", "none", None), ("speech.stopped", "none", None)]
    assert room.floor.state == "paused"


def test_somebody_whose_messages_stop_has_stopped() -> None:
    room = Room()
    room.hear(in_quiet("wait", after_s=0.0)[: int(1.6 * 16_000)])
    assert [kind for kind, _, _ in room.floor.told()] == ["speech.started"]
    room.wait(MUTE_S + 0.1)
    assert [kind for kind, _, _ in room.floor.told()] == ["speech.started", "speech.stopped"]


def test_a_microphone_that_is_closed_ends_the_speech() -> None:
    room = Room()
    room.hear(in_quiet("wait", after_s=0.0)[: int(1.6 * 16_000)])
    room.hear(silence(0.02), Flag.LAST)
    assert [kind for kind, _, _ in room.floor.told()] == ["speech.started", "speech.stopped"]


def test_the_first_flag_begins_another_recording() -> None:
    room = Room()
    room.hear(silence(0.1))
    room.position = 0
    room.hear(silence(0.02), Flag.FIRST)
    room.position = 0
    with pytest.raises(ProtocolError, match="heard already"):
        room.hear(silence(0.02))


def test_sound_in_text_messages_is_heard_like_any_other() -> None:
    room = Room()
    for payload in messages(in_quiet("yes")):
        room.now += 0.02
        room.hearing.append(InputAudioAppend(audio=base64.b64encode(payload).decode()), room.now)
    assert [kind for kind, _, _ in room.floor.told()] == ["speech.started", "speech.stopped"]


def test_a_new_announcement_ends_what_was_heard_before() -> None:
    room = Room(barge_in="pause")
    room.hear(in_quiet("wait", after_s=0.0)[: int(1.6 * 16_000)])
    room.hearing.announce(AudioInput(), room.now)
    room.wait(60.0)
    assert [action for _, action, _ in room.floor.told()] == ["paused", "none"]
    assert room.floor.state == "paused", "it is the client's decision now"


def test_sound_before_an_announcement_is_refused() -> None:
    hearing = Hearing(Floor(), SileroModel, 100, BORN)
    with pytest.raises(ProtocolError, match="before an audio") as error:
        hearing.frame(AudioFrame(Kind.UPLINK, Flag.NONE, 0, 0, 0, b"\0\0"), BORN)
    assert refused(error) == (ErrorCode.INVALID_VALUE, "audio")
    with pytest.raises(ProtocolError, match="before an audio"):
        hearing.append(InputAudioAppend(audio="AAAA"), BORN)
    assert hearing.deadline == math.inf


@pytest.mark.parametrize(
    ("frame", "param"),
    [
        (AudioFrame(Kind.UPLINK, Flag.NONE, 3, 0, 0, b"\0\0"), "leg"),
        (AudioFrame(Kind.UPLINK, Flag.NONE, 0, 7, 0, b"\0\0"), "n"),
        (AudioFrame(Kind.UPLINK, Flag.NONE, 0, 0, 0, b"\0"), "audio"),
        (AudioFrame(Kind.UPLINK, Flag.NONE, 0, 0, 0, b"\0" * 3202), "audio"),
    ],
)
def test_frames_that_make_no_sense_are_refused(frame: AudioFrame, param: str) -> None:
    room = Room()
    with pytest.raises(ProtocolError) as error:
        room.hearing.frame(frame, room.now)
    assert refused(error) == (ErrorCode.INVALID_VALUE, param)


def test_text_that_is_no_base64_is_refused() -> None:
    room = Room()
    with pytest.raises(ProtocolError, match="base64") as error:
        room.hearing.append(InputAudioAppend(audio="!!!"), room.now)
    assert refused(error) == (ErrorCode.INVALID_VALUE, "audio")


def test_a_refused_announcement_leaves_the_one_before_in_force() -> None:
    room = Room()
    with pytest.raises(ProtocolError, match="8000 Hz, not 16000") as error:
        room.hearing.announce(AudioInput(format="mulaw", rate=16_000), room.now)
    assert refused(error) == (ErrorCode.INVALID_VALUE, "rate")
    room.hear(in_quiet("wait"))
    assert len(room.floor.told()) == 2


class Moody(SileroModel):
    """Calls it speech where the sound is loud: what it says follows from what is sent, and no hop costs anything."""

    def __init__(self) -> None:
        self.hops = 0

    def probability(self, hop: Samples) -> float:
        return float(np.abs(hop).max() > 0.25)

    def reset(self) -> None:
        self.hops = 0


sounds = st.builds(
    lambda level, size: np.full(size, level, "<i2").tobytes(), st.sampled_from([0, 20_000]), st.integers(0, 1700)
)
steps = st.one_of(
    st.tuples(st.just("frame"), sounds | st.binary(max_size=9), st.integers(0, 7), st.integers(-400, 4000)),
    st.tuples(st.just("append"), sounds),
    st.tuples(st.just("announce"), st.sampled_from(["off", "pause", "cancel"]), st.sampled_from([0, 500, None])),
    st.tuples(st.just("wait"), st.floats(0, 3)),
    st.sampled_from([("mute",), ("decided",), ("turn ends",), ("turn begins",)]),
)


@settings(max_examples=60)
@given(st.lists(steps, max_size=40))
def test_whatever_is_sent_starts_and_stops_alternate_and_no_turn_is_left_paused_unasked(script: list[Any]) -> None:
    room = Room(Moody)
    for kind, *values in script:
        room.now += 0.02
        try:
            if kind == "frame":
                payload, flags, step = values
                position = max(0, room.position + step) if not flags & Flag.FIRST else 0
                room.hearing.frame(AudioFrame(Kind.UPLINK, Flag(flags), 0, 0, position, payload), room.now)
                room.position = position + len(payload) // 2
            elif kind == "append":
                room.hearing.append(InputAudioAppend(audio=base64.b64encode(values[0]).decode()), room.now)
            elif kind == "announce":
                room.hearing.announce(
                    AudioInput(barge_in=values[0], resume_after_ms=values[1], min_speech_ms=64), room.now
                )
                room.position = 0
            elif kind == "wait":
                room.wait(values[0])
            elif kind == "turn ends":
                room.floor.state = "over"
            elif kind == "turn begins" and room.floor.state == "over":
                room.floor.state = "speaks"
            elif kind == "mute":
                room.hearing.mute(room.now)
            elif kind == "decided":
                room.hearing.decided()
        except ProtocolError as error:
            assert not error.fatal
    room.wait(60.0)
    told = room.floor.told()
    letters = "".join("R" if action == "resumed" else name[9] for name, action, _ in told)
    assert re.fullmatch("(a(oR?|R))*", letters), "each start has its stop, and a turn goes on at most once for it"
    assert room.hearing.deadline == math.inf, "in the end nothing is due any more"
