"""Levels by time."""

from __future__ import annotations

from realtime.sent_levels import SentLevels


def test_the_loudest_packet_that_a_stretch_of_time_touches_counts() -> None:
    levels = SentLevels(20)
    for level in (-60.0, -20.4, -30.0):
        levels.add(level)
    assert levels.loudest_db(0, 19) == -60
    assert levels.loudest_db(15, 45) == -20
    assert levels.loudest_db(41, 70) == -30


def test_before_and_after_the_turn_there_is_no_level() -> None:
    levels = SentLevels(20)
    assert levels.loudest_db(0, 32) is None
    levels.add(-20.0)
    assert levels.loudest_db(20, 52) is None
    assert levels.loudest_db(-52, -20) is None
    assert levels.loudest_db(-20, 12) == -20


def test_levels_that_no_ear_tells_apart_fit_all_the_same() -> None:
    levels = SentLevels(20)
    levels.add(-1000.0)
    levels.add(1000.0)
    assert (levels.loudest_db(0, 1), levels.loudest_db(20, 21)) == (-127, 20)
