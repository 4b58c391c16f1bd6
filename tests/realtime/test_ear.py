"""From messages to the start and the end of speech, with the real model."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.commands import UplinkFormat
from realtime.ear import MUTE_S, Ear, Noticed, PlayedDb
from realtime.hearing_report import nothing, played
from realtime.hearing_sounds import Sound, echo
from realtime.uplink import UplinkAudio
from realtime.voice_activity import SileroModel, SpeechModel, Turned
from tests.realtime.hearing_fixtures import PHRASES, ScriptedModel, in_quiet, messages, recorded, silence

START = 1000.0
PCM = UplinkAudio(UplinkFormat.PCM_S16LE, 16_000)


def an_ear(min_speech_s: float = 0.2, model: SpeechModel | None = None) -> Ear:
    return Ear(PCM, 100, min_speech_s, model or SileroModel())


def listen(ear: Ear, sound: Sound, played_db: PlayedDb = nothing, late_s: float = 0.0) -> list[Noticed]:
    """Each message comes when its last sample was recorded, or so much later."""
    told = []
    for index, payload in enumerate(messages(sound)):
        told += ear.hear(payload, index * 320, START + (index + 1) * 0.02 + late_s, played_db)
    return told


@pytest.mark.parametrize("name", PHRASES)
def test_a_phrase_starts_and_stops_when_it_was_said(name: str) -> None:
    started, stopped = listen(an_ear(), in_quiet(name))
    assert (started.what, stopped.what) == (Turned.STARTED, Turned.STOPPED)
    assert started.at == pytest.approx(START + 1.0, abs=0.16)
    assert stopped.at == pytest.approx(START + 1.0 + len(recorded(name)) / 16_000, abs=0.25)


def test_speech_that_is_shorter_than_asked_for_is_none() -> None:
    assert listen(an_ear(min_speech_s=1.0), in_quiet("stop")) == []


def test_the_agents_own_voice_out_of_a_loudspeaker_is_nobody() -> None:
    answer = recorded("answer")
    microphone = echo(answer, -10, 0.2, 0.4) + silence(12)[: len(answer)]
    assert [item.what for item in listen(an_ear(), microphone)][:1] == [Turned.STARTED], "unguarded, it is"
    shifted = played(answer)
    assert listen(an_ear(), microphone, lambda start, end: shifted(start - START, end - START)) == []


@pytest.mark.parametrize("name", PHRASES)
def test_somebody_who_talks_over_the_agents_echo_is_heard(name: str) -> None:
    answer = recorded("answer")
    said_at = 6.0
    microphone = echo(answer, -20, 0.2, 0.4) + silence(12)[: len(answer)]
    at = int(said_at * 16_000)
    microphone[at : at + len(recorded(name))] += recorded(name)
    shifted = played(answer)
    told = listen(an_ear(), microphone, lambda start, end: shifted(start - START, end - START))
    started = [item.at - START for item in told if item.what is Turned.STARTED]
    assert started[:1] == [pytest.approx(said_at, abs=0.3)]


def test_messages_that_are_late_on_the_way_do_not_move_the_speech() -> None:
    ear, told = an_ear(), []
    for index, payload in enumerate(messages(in_quiet("wait"))):
        late_s = 0.2 if 55 <= index < 70 else 0.03
        told += ear.hear(payload, index * 320, START + (index + 1) * 0.02 + late_s, nothing)
    assert told[0].at == pytest.approx(START + 1.03, abs=0.16)


def test_somebody_who_is_muted_has_stopped() -> None:
    ear = an_ear()
    sound = in_quiet("wait", after_s=0.0)[: int(1.6 * 16_000)]
    assert [item.what for item in listen(ear, sound)] == [Turned.STARTED]
    assert ear.speaking
    assert ear.mute_at == pytest.approx(START + 1.6 + MUTE_S, abs=0.021)
    (stopped,) = ear.mute()
    assert stopped.what is Turned.STOPPED
    assert START + 1.5 < stopped.at <= START + 1.61
    assert not ear.speaking
    assert ear.mute() == []


def test_a_gap_in_the_middle_of_speech_ends_it() -> None:
    ear = an_ear()
    sound = in_quiet("wait", after_s=0.0)[: int(1.6 * 16_000)]
    listen(ear, sound)
    told = ear.hear(b"\0" * 640, 16_000 * 10, START + 10.02, nothing)
    assert [item.what for item in told] == [Turned.STOPPED]


def test_another_recording_begins_at_position_zero_with_a_fresh_model() -> None:
    model = ScriptedModel([0.9] * 20)
    ear = an_ear(model=model)
    assert [item.what for item in listen(ear, silence(0.5))] == [Turned.STARTED]
    assert [item.what for item in ear.restart()] == [Turned.STOPPED]
    assert model.resets == 1
    assert ear.hear(b"\0" * 640, 0, START + 60.0, nothing) == []


def test_a_refused_message_was_not_heard() -> None:
    model = ScriptedModel()
    ear = an_ear(model=model)
    with pytest.raises(ValueError, match="whole number"):
        ear.hear(b"\0" * 1023, 0, START, nothing)
    assert model.hops == 0
    ear.hear(np.zeros(512, "<i2").tobytes(), 0, START, nothing)
    assert model.hops == 1
