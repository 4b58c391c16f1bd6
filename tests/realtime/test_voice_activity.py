"""Hops, thresholds, and the real model on recorded speech."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.hearing_sounds import noises, over_noise
from realtime.voice_activity import (
    HOP_S,
    HOP_SAMPLES,
    SETTLED_HOPS,
    SILENCE_DB,
    Hop,
    Hops,
    SileroModel,
    SpeechDetector,
    Turned,
    level_db,
)
from tests.realtime.hearing_fixtures import PHRASES, ScriptedModel, in_quiet, recorded, silence


def told(
    verdicts: list[float], min_speech_s: float = 0.2, counts: list[bool] | None = None
) -> list[tuple[int, Turned]]:
    """What a detector says, with the index of the hop at which it does."""
    detector = SpeechDetector(min_speech_s)
    flags = counts or [True] * len(verdicts)
    said = []
    for index, (verdict, flag) in enumerate(zip(verdicts, flags, strict=True)):
        what = detector.hear(Hop((index + 1) * HOP_S, verdict, -20.0), flag)
        if what is not None:
            said.append((index, what))
    return said


YES, NO = [0.9], [0.1]


def test_speech_starts_when_the_least_duration_was_heard_and_stops_after_a_silence() -> None:
    assert told(NO * 5 + YES * 20 + NO * 20) == [(10, Turned.STARTED), (37, Turned.STOPPED)]


def test_without_a_least_duration_the_first_hop_counts() -> None:
    assert told(NO * 3 + YES, 0.0) == [(3, Turned.STARTED)]


def test_a_closure_between_two_sounds_does_not_count_and_does_not_tear() -> None:
    assert told(YES * 3 + NO * 4 + YES * 3) == [(9, Turned.STARTED)]


def test_two_short_sounds_far_apart_are_no_speech() -> None:
    assert told((YES * 4 + NO * 8) * 5) == []


def test_a_pause_within_a_sentence_does_not_end_it() -> None:
    assert told(YES * 10 + NO * 12 + YES * 10) == [(5, Turned.STARTED)]


def test_speech_begins_with_certainty_and_lasts_with_less() -> None:
    assert told([0.45] * 30) == []
    assert told([0.9] + [0.4] * 30) == [(5, Turned.STARTED)]


def test_what_belongs_to_another_voice_does_not_count() -> None:
    assert told(YES * 30, counts=[False] * 30) == []
    assert told(YES * 30, counts=[True] * 10 + [False] * 20) == [(5, Turned.STARTED), (22, Turned.STOPPED)]


def test_the_start_and_the_end_are_those_of_the_sound_not_of_the_decision() -> None:
    detector = SpeechDetector(0.2)
    for index, verdict in enumerate(NO * 5 + YES * 20 + NO * 20):
        detector.hear(Hop((index + 1) * HOP_S, verdict, -20.0), True)
    assert detector.began_s == pytest.approx(5 * HOP_S)
    assert detector.ended_s == pytest.approx(25 * HOP_S)


def test_speech_that_is_cut_off_has_stopped_once() -> None:
    detector = SpeechDetector(0.0)
    detector.hear(Hop(HOP_S, 0.9, -20.0), True)
    assert [detector.stop(), detector.stop()] == [Turned.STOPPED, None]


@given(st.lists(st.floats(0, 1), max_size=200), st.floats(0, 1))
def test_starts_and_stops_alternate(verdicts: list[float], min_speech_s: float) -> None:
    kinds = [what for _, what in told(verdicts, min_speech_s)]
    assert kinds == [Turned.STARTED, Turned.STOPPED] * (len(kinds) // 2) + [Turned.STARTED] * (len(kinds) % 2)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=10))
def test_how_samples_are_cut_into_pieces_changes_no_hop(sizes: list[int]) -> None:
    sound = np.resize(recorded("stop"), sum(sizes))
    cut, whole = Hops(SileroModel()), Hops(SileroModel())
    hops, at = [], 0
    for size in sizes:
        hops += cut.push(sound[at : at + size])
        at += size
        assert cut.fed_s == pytest.approx(at / 16_000)
    assert hops == whole.push(sound)
    assert len(hops) == len(sound) // HOP_SAMPLES


def test_the_model_is_not_asked_about_a_silence_that_lasts() -> None:
    model = ScriptedModel([0.9] * 4 + [0.1] * SETTLED_HOPS + [0.9] * 100)
    hops = Hops(model)
    loud, quiet = np.full(HOP_SAMPLES * 4, 0.1, np.float32), np.full(HOP_SAMPLES * 60, 0.0003, np.float32)
    heard = [*hops.push(loud), *hops.push(quiet), *hops.push(loud)]
    assert model.hops == 4 + SETTLED_HOPS + 4
    asked_again = 4 + 60
    assert [hop.probability for hop in heard[4 + SETTLED_HOPS : asked_again]] == [0.0] * (60 - SETTLED_HOPS)
    assert [hop.probability for hop in heard[asked_again:]] == [0.9] * 4


def test_levels_are_below_full_scale() -> None:
    assert level_db(np.ones(512, np.float32)) == pytest.approx(0.0)
    assert level_db(np.full(512, 0.1, np.float32)) == pytest.approx(-20.0, abs=1e-3)
    assert level_db(np.zeros(512, np.float32)) == SILENCE_DB


def test_a_model_that_was_reset_judges_like_a_new_one() -> None:
    fresh, used = SileroModel(), SileroModel()
    Hops(used).push(recorded("wait"))
    used.reset()
    assert Hops(used).push(recorded("yes")) == Hops(fresh).push(recorded("yes"))


@pytest.mark.parametrize("name", PHRASES)
@pytest.mark.parametrize("snr_db", [40, 10])
def test_the_model_hears_each_phrase_soon_and_once(name: str, snr_db: float) -> None:
    sound = over_noise(in_quiet(name), snr_db, noises(4.0)["pink"])
    detector, said = SpeechDetector(0.2), []
    for hop in Hops(SileroModel()).push(sound):
        if (what := detector.hear(hop, True)) is not None:
            said.append((what, hop.ends_s))
    assert [what for what, _ in said] == [Turned.STARTED, Turned.STOPPED]
    assert 1.1 < said[0][1] < 1.45
    assert abs(detector.began_s - 1.0) < 0.16
    assert said[1][1] - (1.0 + len(recorded(name)) / 16_000) < 0.75


@pytest.mark.parametrize("name", ["white", "pink", "traffic", "hum", "keyboard", "knocks", "coughs", "music"])
def test_the_noises_of_rooms_are_no_speech(name: str) -> None:
    detector = SpeechDetector(0.2)
    hops = Hops(SileroModel()).push(noises(15.0)[name])
    assert [what for hop in hops if (what := detector.hear(hop, True)) is not None] == []


def test_hops_without_samples_are_none() -> None:
    model = ScriptedModel()
    assert Hops(model).push(silence(0.03)) == []
    assert model.hops == 0
