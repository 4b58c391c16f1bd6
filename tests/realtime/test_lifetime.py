"""When a session ends by itself."""

from __future__ import annotations

import math

from protocol.config import Limits
from protocol.errors import CloseCode
from realtime.lifetime import NOTICE_S, Closing, Due, Lifetime

LIMITS = Limits(session_s=1000, idle_s=100)


def dues(life: Lifetime, now: float, *, speaks: bool = False, silent_at: float = -math.inf) -> list[Due]:
    """Everything that is due at a time; what ends the session would be due for ever."""
    found: list[Due] = []
    while (due := life.due(speaks, silent_at, now)) is not None and due not in found:
        found.append(due)
    return found


def test_a_session_is_told_of_its_age_once_and_then_ends() -> None:
    life = Lifetime(LIMITS, 50.0)
    assert life.deadline(True, 0.0) == 1050.0 - NOTICE_S
    assert dues(life, 1020.0, speaks=True) == [Due.NOTICE]
    assert dues(life, 1049.0, speaks=True) == []
    assert life.deadline(True, 0.0) == 1050.0 and life.left_s(1049.0) == 1.0
    assert dues(life, 1050.0, speaks=True) == [Due.EXPIRED]


def test_a_session_is_idle_since_the_last_sign_of_life_or_the_end_of_what_was_heard() -> None:
    life = Lifetime(LIMITS, 0.0)
    life.touch(10.0)
    life.touch(5.0)
    assert life.deadline(False, 20.0) == 120.0
    assert dues(life, 115.0, silent_at=20.0) == [] and dues(life, 120.0, silent_at=20.0) == [Due.IDLE]


def test_a_listener_who_stands_still_does_not_keep_a_session_for_ever() -> None:
    assert Lifetime(LIMITS, 0.0).deadline(False, math.inf) == 100.0


def test_a_session_that_speaks_is_not_idle() -> None:
    assert dues(Lifetime(LIMITS, 0.0), 500.0, speaks=True) == []


def test_without_a_socket_speech_ends_after_the_grace_and_the_session_after_its_time() -> None:
    life = Lifetime(Limits(disconnect_grace_ms=3000, resume_ttl_s=60), 0.0)
    life.detach(10.0)
    life.detach(12.0)
    assert life.deadline(True, 0.0) == 13.0
    assert dues(life, 13.0) == [Due.HUSH]
    assert life.deadline(False, 0.0) == 70.0 and dues(life, 70.0) == [Due.GONE]


def test_a_socket_that_comes_back_calls_the_end_off() -> None:
    life = Lifetime(LIMITS, 0.0)
    life.detach(10.0)
    life.attach(60.0)
    assert dues(life, 71.0) == [] and life.deadline(False, 0.0) == 160.0
    life.detach(80.0)
    assert dues(life, 83.0) == [Due.HUSH], "the next loss is told anew"


def test_of_two_closes_the_earlier_deadline_holds() -> None:
    life = Lifetime(LIMITS, 0.0)
    life.close(Closing(CloseCode.NORMAL, "closed", math.inf))
    life.close(Closing(CloseCode.SERVICE_RESTART, "restart", 30.0))
    life.close(Closing(CloseCode.NORMAL, "closed", math.inf))
    assert life.closing == Closing(CloseCode.SERVICE_RESTART, "restart", 30.0)
    assert dues(life, 30.0, speaks=True) == [Due.CLOSE]
