"""An echo follows what is played; other people do not. Levels only: whether it works on sound is shown in test_ear."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from realtime.own_voice import MARGIN_DB, MAX_LAG_HOPS, WARM_UP_HOPS, OwnVoice

Levels = npt.NDArray[np.float64]
ROOM_DB = -75.0


def talk(hops: int, seed: int = 0) -> Levels:
    """Levels like those of speech: syllables of some 0.2 s, 10 to 20 dB apart, with pauses."""
    rng = np.random.default_rng(seed)
    syllables = [np.full(rng.integers(3, 8), rng.uniform(-45, -20)) for _ in range(hops // 3)]
    return np.concatenate(syllables)[:hops]


def heard(played: Levels, gain_db: float, lag: int) -> Levels:
    """The microphone's levels: the echo, or the room."""
    late = np.concatenate((np.full(lag, ROOM_DB), played))[: len(played)]
    return np.maximum(late + gain_db, ROOM_DB) + np.random.default_rng(9).uniform(-1.5, 1.5, len(played))


def audible(explained: list[bool], microphone: Levels) -> list[bool]:
    """Only the hops in which there is something to hear but the room: the model calls no other speech."""
    return [one for one, level in zip(explained, microphone, strict=True) if level > ROOM_DB + 5]


def explained(own: OwnVoice, microphone: Levels, played: Levels | None, speaking: bool = False) -> list[bool]:
    """Whether each hop may be our own voice."""
    return [
        own.explains(float(level), None if played is None else float(played[index]), speaking)
        for index, level in enumerate(microphone)
    ]


@pytest.mark.parametrize("lag", [0, 3, 12, MAX_LAG_HOPS])
@pytest.mark.parametrize("gain_db", [-25.0, 0.0, 6.0])
def test_an_echo_is_our_own_voice_whatever_its_delay_and_level(lag: int, gain_db: float) -> None:
    own, played = OwnVoice(), talk(400)
    microphone = heard(played, gain_db, lag)
    assert all(audible(explained(own, microphone, played), microphone))
    assert own.gain_db == pytest.approx(gain_db, abs=2)


def test_who_is_louder_than_the_echo_is_somebody_else() -> None:
    own, played = OwnVoice(), talk(200)
    microphone = heard(played, -20, 5)
    explained(own, microphone[:150], played[:150])
    assert not any(explained(own, np.full(10, -18.0), played[150:160]))
    assert all(explained(own, microphone[160:], played[160:]))


def test_somebody_who_speaks_is_heard_down_to_the_echo() -> None:
    played = np.concatenate((talk(150), np.full(20, -30.0)))
    microphone = heard(played, -20, 5)
    for speaking in (False, True):
        own = OwnVoice()
        explained(own, microphone[:165], played[:165])
        assert own.gain_db == pytest.approx(-20, abs=1)
        little_louder = np.array([-50.0 + MARGIN_DB - 1.5])
        assert explained(own, little_louder, played[165:166], speaking) == [not speaking]


def test_until_it_is_known_whether_there_is_an_echo_everything_may_be_one() -> None:
    own, played = OwnVoice(), talk(WARM_UP_HOPS + 1)
    assert explained(own, talk(WARM_UP_HOPS + 1, seed=4), played)[: WARM_UP_HOPS - 1] == [True] * (WARM_UP_HOPS - 1)


@pytest.mark.parametrize("seed", range(1, 9))
def test_who_talks_over_us_into_a_headset_is_heard_within_three_seconds(seed: int) -> None:
    own, played = OwnVoice(), talk(200)
    assert not any(explained(own, talk(200, seed), played)[100:])


def test_into_a_quiet_headset_the_first_word_is_heard() -> None:
    own, played = OwnVoice(), talk(200)
    explained(own, ROOM_DB + np.random.default_rng(2).uniform(-2, 2, 60), played[:60])
    assert own.gain_db is None
    assert not any(explained(own, np.full(10, -40.0), played[60:70]))


def test_where_nothing_is_played_nothing_is_our_own_voice() -> None:
    own = OwnVoice()
    assert not any(explained(own, talk(100), None))


def test_the_tail_of_what_we_said_still_is_ours() -> None:
    own, played = OwnVoice(), talk(200)
    microphone = heard(np.concatenate((played, np.full(20, -100.0))), -10, 8)
    explained(own, microphone[:200], played)
    tail = audible(explained(own, microphone[200:], None), microphone[200:])
    assert tail == [True] * 8


def test_what_was_learned_in_a_turn_holds_in_the_next() -> None:
    own, played = OwnVoice(), talk(200)
    explained(own, heard(played, -10, 5), played)
    explained(own, np.full(100, ROOM_DB), None)
    second = talk(60, seed=3)
    microphone = heard(second, -10, 5)
    assert all(audible(explained(own, microphone, second), microphone))
    assert not any(explained(own, np.full(5, -8.0), second[:5]))


def test_an_echo_that_was_turned_down_hides_nobody_any_more() -> None:
    own, played = OwnVoice(), talk(600)
    explained(own, heard(played[:300], 0, 5), played[:300])
    explained(own, ROOM_DB + np.random.default_rng(2).uniform(-2, 2, 150), played[300:450])
    assert not any(explained(own, np.full(10, -40.0), played[450:460]))


def test_an_echo_that_appears_is_learned_within_three_seconds() -> None:
    own, played = OwnVoice(), talk(400)
    explained(own, np.full(200, ROOM_DB), played[:200])
    assert own.gain_db is None
    assert all(explained(own, heard(played, -5, 5)[200:], played[200:])[100:])
