"""The three policies, and false alarms."""

from __future__ import annotations

import math

import pytest

from protocol.commands import BargeIn
from protocol.events import SpeechAction
from realtime.barge_in import BargeInPolicy


def test_with_barge_in_off_speech_does_nothing() -> None:
    policy = BargeInPolicy(BargeIn.OFF, 2.0)
    assert policy.started("t") is SpeechAction.NONE
    policy.stopped(10.0)
    assert policy.deadline == math.inf


def test_with_cancel_the_turn_that_speaks_ends_and_nothing_goes_on_later() -> None:
    policy = BargeInPolicy(BargeIn.CANCEL, 2.0)
    assert policy.started("t") is SpeechAction.CANCELLED
    policy.stopped(10.0)
    assert policy.deadline == math.inf


@pytest.mark.parametrize("mode", BargeIn)
def test_where_nobody_speaks_there_is_nothing_to_interrupt(mode: BargeIn) -> None:
    assert BargeInPolicy(mode, 2.0).started(None) is SpeechAction.NONE


def test_a_false_alarm_goes_on_so_long_after_the_speech_ended() -> None:
    policy = BargeInPolicy(BargeIn.PAUSE, 2.0)
    assert policy.started("t") is SpeechAction.PAUSED
    assert policy.deadline == math.inf, "while somebody speaks nothing goes on"
    policy.stopped(10.0)
    assert policy.deadline == 12.0
    assert policy.resumes(11.99) is None
    assert policy.resumes(12.0) == "t"
    assert policy.resumes(13.0) is None, "it is told once"


def test_who_speaks_again_is_waited_for_again() -> None:
    policy = BargeInPolicy(BargeIn.PAUSE, 2.0)
    policy.started("t")
    policy.stopped(10.0)
    assert policy.started(None) is SpeechAction.NONE, "the turn is paused already"
    assert policy.resumes(20.0) is None
    policy.stopped(21.0)
    assert policy.resumes(23.0) == "t"


def test_a_turn_about_which_the_client_decided_does_not_go_on_by_itself() -> None:
    policy = BargeInPolicy(BargeIn.PAUSE, 2.0)
    policy.started("t")
    policy.decided()
    policy.stopped(10.0)
    assert policy.deadline == math.inf
    policy.started("u")
    policy.stopped(20.0)
    policy.decided()
    assert policy.resumes(30.0) is None


def test_without_a_time_to_go_on_a_pause_stays_one() -> None:
    policy = BargeInPolicy(BargeIn.PAUSE, math.inf)
    policy.started("t")
    policy.stopped(10.0)
    assert policy.resumes(1e9) is None
