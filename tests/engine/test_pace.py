"""What steps of known times say about how many streams a device carries."""

from __future__ import annotations

import random

import pytest

from engine.pace import GROWTH, MOST, Held, Pace, room_for
from engine.scheduler import BESIDE_SPEECH_S

FRAME_S = 0.05


class Device:
    """Steps one after the other, each as long as it should be."""

    def __init__(self, begins_s: float, row_s: float, position_s: float = 0.0, prefill_s: float = 0.0) -> None:
        """prefill_s: of a prefill, however short."""
        self.pace = Pace(FRAME_S)
        self.begins_s, self.row_s, self.position_s, self.prefill_s = begins_s, row_s, position_s, prefill_s
        self.now = 0.0

    def steps(self, *rows: int, positions: int = 0, times: float = 1.0) -> Pace:
        for count in rows:
            began = self.now
            prefill_s = self.prefill_s + self.position_s * positions if positions else 0.0
            self.now += times * (self.begins_s + self.row_s * count + prefill_s)
            self.pace.step(count, positions, began, self.now)
        return self.pace


def test_nothing_is_known_before_the_first_step() -> None:
    pace = Pace(FRAME_S)
    assert pace.carries() == 0 and pace.load([], 1000, working=False) is None


def test_as_many_streams_are_carried_as_a_step_has_time_for_in_nine_tenths_of_a_frame() -> None:
    pace = Device(0.010, 0.002).steps(*range(1, 13))
    assert pace.carries() == int((0.9 * FRAME_S - 0.010) / 0.002)


def test_the_step_itself_is_told_from_its_rows() -> None:
    assert Device(0.020, 0.001).steps(1, 8).step_s(16) == pytest.approx(0.036)


def test_one_number_of_rows_tells_nothing_apart_and_is_taken_for_all_rows() -> None:
    assert Device(0.010, 0.004).steps(*[4] * 20).carries() == int(0.9 * FRAME_S / (0.026 / 4))


def test_a_device_that_takes_any_number_of_rows_in_the_same_time_carries_any_number() -> None:
    assert Device(0.005, 0.0).steps(1, 8, 64).carries() == MOST


def test_a_fast_device_that_never_sees_large_steps_still_learns_what_they_would_take() -> None:
    """It was rehearsed without history to read; with it each row takes four times as long, and steps have eight rows or so."""
    device, rng = Device(0.006, 0.00002), random.Random(0)
    assert device.steps(1, 2, 4, 8, 16, 32, 64, 128, 256).carries() > 1500
    device.row_s = 0.00008
    for _ in range(6000):
        device.steps(rng.randint(4, 14), times=rng.uniform(0.97, 1.05))
    assert device.pace.carries() == pytest.approx((0.9 * FRAME_S - 0.006) / 0.00008, rel=0.35)


def test_a_device_that_carries_one_with_little_to_spare_carries_no_second_one() -> None:
    assert Device(0.030, 0.018).steps(1, 2).carries() == 1
    assert Device(0.048, 0.0).steps(1, 2).carries() == 1
    assert Device(0.080, 0.0).steps(1, 2).carries() == 1


def test_a_device_that_is_too_slow_for_anybody_refuses_nobody() -> None:
    """There, sound is made for files."""
    pace = Device(0.100, 0.010).steps(1, 2)
    for _ in range(50):
        pace.find(True)
    told = pace.load([Held("a", 0, 100)], 1 << 20, working=True)
    assert told is not None and told.carries > 100


def test_one_slow_step_changes_little_and_a_device_that_became_slower_much() -> None:
    device = Device(0.010, 0.002)
    before = device.steps(*[1, 4, 8] * 20).carries()
    assert device.steps(8, times=20).carries() >= before - 2
    assert device.steps(*[1, 4, 8] * 40, times=2).carries() < before / 2


def test_steps_whose_times_spread_count_more_than_their_median() -> None:
    device, rng = Device(0.010, 0.002), random.Random(0)
    for _ in range(2000):
        device.steps(rng.choice((2, 6, 12)), times=rng.uniform(0.8, 1.2))
    assert 1.0 < device.pace.step_s(8) / 0.026 < 1.2


def test_prefill_is_timed_beside_rows_and_leaves_less_for_them() -> None:
    device = Device(0.010, 0.001, position_s=0.0001)
    alone = device.steps(*range(1, 17)).carries()
    for _ in range(200):
        device.steps(8, positions=100)
        device.steps(8)
    assert device.pace.prefill_time.of(100) == pytest.approx(0.01, rel=0.05)
    assert device.pace.carries() < alone


def test_what_a_prefill_takes_however_short_it_is_is_told_from_its_positions() -> None:
    device, rng = Device(0.010, 0.001, position_s=0.00001, prefill_s=0.004), random.Random(0)
    device.steps(*range(1, 17))
    for _ in range(100):
        device.steps(8, positions=rng.choice((40, 60, 200, 512)), times=rng.uniform(0.97, 1.03))
        device.steps(8)
    assert device.pace.prefill_time.of(512) == pytest.approx(0.00912, rel=0.15)
    assert device.pace.prefill_time.of(40) == pytest.approx(0.0044, rel=0.35)


def test_prefills_of_about_one_length_do_not_say_that_a_longer_one_costs_no_more() -> None:
    device, rng = Device(0.010, 0.001, position_s=0.001), random.Random(0)
    device.steps(*range(1, 17))
    for _ in range(100):
        device.steps(8, positions=rng.randint(39, 41), times=rng.uniform(0.9, 1.1))
        assert device.pace.prefill_time.of(512) > 0.2


def test_prefill_beside_speech_gets_less_the_more_often_somebody_was_short() -> None:
    pace = Pace(FRAME_S)
    assert pace.beside_s == BESIDE_SPEECH_S
    for _ in range(16):
        pace.find(True)
    assert 0 < pace.beside_s < BESIDE_SPEECH_S / 2
    for _ in range(100):
        pace.find(False)
    assert pace.beside_s == pytest.approx(BESIDE_SPEECH_S, rel=0.01)


def test_waits_between_steps_are_theirs() -> None:
    device = Device(0.010, 0.001)
    for rows in (*range(1, 17), *[16] * 8):
        device.pace.wait(device.now, device.now + 0.005)
        device.now += 0.005
        device.steps(rows)
    assert device.pace.step_s(16) == pytest.approx(0.031)
    assert device.pace.carries() in (29, 30), "(0.9 * FRAME_S - 0.015) / 0.001"


def test_256_streams_whose_step_fits_a_frame_are_carried_with_prefill_beside_and_more_are_not() -> None:
    """As they are expected on an H200: a step of 256 rows takes 38 of 46.4 ms, 6 of them for newcomers, of whom there are two in each."""
    device = Device(0.005, 0.0001035, position_s=0.00003)
    device.pace = Pace(0.0464)
    for rows in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        device.steps(rows, rows, rows)
    for _ in range(1000):
        device.steps(256, positions=200)
    assert 256 <= device.pace.carries() < 300
    device.row_s *= 1.4
    for _ in range(1000):
        device.steps(256, positions=200)
    assert 180 <= device.pace.carries() < 235, "the frames of 256 take 48 ms now, and of 235 nine tenths of a frame"


def test_what_was_made_while_it_worked_is_carried_whatever_the_line_says() -> None:
    """By the line nothing fits beside steps that take this long, however few rows they have."""
    device, rng = Device(0.046, 0.0), random.Random(0)
    for _ in range(2000):
        device.steps(rng.randint(150, 250))
    assert device.pace.carries() == pytest.approx(0.9 * FRAME_S * 200 / 0.046, rel=0.05)


def test_a_device_that_prefills_in_every_step_still_learns_what_its_rows_take() -> None:
    device = Device(0.010, 0.001, position_s=0.0001)
    device.steps(*range(1, 9))
    device.row_s = 0.002
    device.steps(*[2, 8, 5] * 100, positions=40)
    assert device.pace.step_s(8) + device.pace.prefill_time.of(40) == pytest.approx(0.010 + 0.016 + 0.004, rel=0.15)


HELD = [Held("a", 300, 500), Held("a", 300, 700), Held("b", 200, 600)]


def test_there_is_room_for_streams_like_those_that_are_open_until_they_are_over() -> None:
    """What they hold is 2300 positions, a voice counted once; each may grow, and a fourth one is as large as they are."""
    enough = 2300 + 3 * GROWTH
    assert room_for(HELD, enough) == 3
    assert room_for(HELD, enough + 600 + GROWTH) == 4
    assert room_for(HELD, enough - 1) == 2
    assert room_for(HELD, 100) == 1


def test_the_cache_bounds_what_a_fast_device_carries() -> None:
    pace = Device(0.001, 0.0001).steps(8, 16)
    full = pace.load(HELD, 2300 + 3 * GROWTH, working=True)
    assert full is not None and full.carries == 3


def test_who_finds_somebody_short_again_and_again_takes_nobody_more_until_there_is_nothing_to_do() -> None:
    pace = Device(0.001, 0.0001).steps(8, 16)
    for short, most in ((False, pace.carries()), (True, pace.carries())):  # a hiccup
        pace.find(short)
        told = pace.load(HELD, 1 << 20, working=True)
        assert told is not None and told.carries == most
    for _ in range(16):
        pace.find(True)
    for working, most in ((True, 3), (False, pace.carries())):
        told = pace.load(HELD, 1 << 20, working=working)
        assert told is not None and told.carries == most


def test_a_place_is_free_the_sooner_the_more_there_are() -> None:
    pace = Device(0.001, 0.0001).steps(8, 16)
    for _ in range(100):
        pace.close(4.0)
    few, many = (pace.load([Held("a", 0, 10)] * n, 1 << 20, working=True) for n in (4, 10))
    assert few is not None and few.retry_s == pytest.approx(1.0, rel=0.01)
    assert many is not None and many.retry_s == pytest.approx(0.4, rel=0.01)
