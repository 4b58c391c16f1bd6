"""Levels by time."""

from __future__ import annotations

from realtime.sent_levels import SentLevels


def three_packets() -> SentLevels:
    levels = SentLevels()
    for index, level in enumerate((-60.0, -20.4, -30.0)):
        levels.put(index * 20, index * 20 + 20, level)
    return levels


def test_the_loudest_packet_that_a_stretch_of_time_touches_counts() -> None:
    levels = three_packets()
    assert levels.loudest_db(0, 19) == -60
    assert levels.loudest_db(15, 45) == -20
    assert levels.loudest_db(41, 70) == -30


def test_before_and_after_the_turn_there_is_no_level() -> None:
    levels = three_packets()
    assert levels.loudest_db(60, 92) is None
    assert levels.loudest_db(-52, -20) is None
    assert levels.loudest_db(-20, 12) == -60


def test_what_is_sent_again_does_not_move_what_follows() -> None:
    levels = three_packets()
    levels.put(20, 40, -50.0)
    assert [levels.loudest_db(at, at + 10) for at in (10, 20, 30, 40, 50, 60)] == [-60, -50, -50, -30, -30, None]


def test_the_first_packet_of_opus_is_shorter_and_others_begin_between_cells() -> None:
    levels = SentLevels()
    levels.put(0, 13.5, -10.0)
    levels.put(13.5, 33.5, -40.0)
    assert levels.loudest_db(0, 10) == -10
    assert levels.loudest_db(20, 33) == -40


def test_what_was_left_out_is_silent() -> None:
    levels = SentLevels()
    levels.put(40, 60, -20.0)
    assert levels.loudest_db(0, 32) == -127


def test_levels_that_no_ear_tells_apart_fit_all_the_same() -> None:
    levels = SentLevels()
    levels.put(0, 20, -1000.0)
    levels.put(20, 40, 1000.0)
    assert (levels.loudest_db(0, 1), levels.loudest_db(20, 21)) == (-127, 20)
