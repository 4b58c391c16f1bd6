from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.playout import ASSUMED_BUFFER_MS, Pace, PlayClock

REALTIME = Pace(lead_ms=2000, burst_ms=400, realtime=True)
FILE = Pace(lead_ms=2000, burst_ms=400, realtime=False)


def clock(*sent: tuple[float, float], pace: Pace = REALTIME, not_before: float = 0.0) -> PlayClock:
    """A clock after packets that end at `until_ms` left at `now`."""
    made = PlayClock(pace, not_before)
    for until_ms, now in sent:
        made.sent(until_ms, now)
    return made


def test_nothing_is_played_before_anything_was_sent() -> None:
    assert clock().played_ms(50.0) == clock().heard_ms(50.0) == 0.0


def test_playing_runs_in_real_time_from_the_first_packet() -> None:
    playing = clock((500.0, 10.0), (1000.0, 10.1))
    assert playing.played_ms(10.0) == 0.0
    assert playing.played_ms(10.4) == pytest.approx(400.0)
    assert playing.ends_at == pytest.approx(11.0)


def test_no_more_is_played_than_was_sent() -> None:
    assert clock((500.0, 10.0)).played_ms(99.0) == 500.0


def test_playing_stands_still_while_there_is_nothing_to_play() -> None:
    playing = clock((500.0, 10.0), (1000.0, 12.0))
    assert playing.played_ms(12.0) == 500.0
    assert playing.played_ms(12.2) == pytest.approx(700.0)
    assert playing.ends_at == pytest.approx(12.5)


def test_a_turn_is_heard_after_the_one_before_it() -> None:
    playing = clock((500.0, 10.0), not_before=11.0)
    assert playing.played_ms(11.0) == 0.0
    assert playing.played_ms(11.3) == pytest.approx(300.0)


def test_what_waits_in_a_listeners_buffers_was_not_heard() -> None:
    playing = clock((500.0, 10.0))
    assert playing.heard_ms(10.0) == 0.0
    assert playing.heard_ms(10.3) == pytest.approx(300.0 - ASSUMED_BUFFER_MS)
    assert playing.heard_ms(20.0) == 500.0


def test_a_file_is_heard_as_it_is_sent_and_every_packet_is_due() -> None:
    playing = clock((500.0, 10.0), pace=FILE)
    assert playing.played_ms(10.0) == playing.heard_ms(10.0) == 500.0
    assert playing.ends_at == 10.0
    assert playing.due_at(90_000.0, 90_020.0) <= 10.0


def test_the_burst_is_due_at_once_and_the_rest_at_a_quarter_above_real_time() -> None:
    playing = clock((380.0, 10.0))
    assert playing.due_at(380.0, 400.0) <= 10.0
    assert playing.due_at(400.0, 420.0) == pytest.approx(10.0 + 20 / 1250)
    assert playing.due_at(880.0, 900.0) == pytest.approx(10.0 + 500 / 1250)


def test_a_full_lead_goes_on_in_real_time() -> None:
    playing = clock((2000.0, 10.0))
    assert playing.due_at(11_980.0, 12_000.0) == pytest.approx(20.0)


def test_a_turn_behind_another_shares_its_lead() -> None:
    waiting = clock(not_before=15.0)
    assert waiting.due_at(0.0, 20.0) == pytest.approx(15.0 - 1.98)


def test_a_lead_shorter_than_a_packet_sends_each_when_its_turn_to_sound_has_come() -> None:
    playing = clock((20.0, 10.0), pace=Pace(0, 0, True))
    assert playing.due_at(20.0, 40.0) == pytest.approx(10.02)


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(1, 500)), min_size=1, max_size=30),
    st.floats(0, 3000),
    st.floats(0, 3000),
)
def test_what_is_played_never_falls_and_never_exceeds_what_was_sent(
    packets: list[tuple[float, float]], lead_ms: float, burst_ms: float
) -> None:
    playing = PlayClock(Pace(lead_ms, burst_ms, True), 0.0)
    now, sent_ms, before = 5.0, 0.0, 0.0
    for wait_s, length_ms in packets:
        now += wait_s
        assert before <= playing.played_ms(now) <= sent_ms + 1e-6
        sent_ms += length_ms
        playing.sent(sent_ms, now)
        before = playing.played_ms(now)
    assert playing.played_ms(playing.ends_at) == pytest.approx(sent_ms)


# A listener who tells


def test_a_listener_is_where_it_says_and_plays_on_from_there() -> None:
    playing = clock((2000.0, 10.0))
    playing.report(300.0, True, 11.0)
    assert playing.reported and playing.played_ms(11.5) == playing.heard_ms(11.5) == pytest.approx(800.0)
    assert playing.ends_at == pytest.approx(12.7)
    assert playing.reaches_at(1000.0) == pytest.approx(11.7)


def test_a_listener_who_stands_still_gets_the_lead_and_no_more() -> None:
    playing = clock((1000.0, 10.0))
    playing.report(500.0, False, 12.0)
    assert playing.played_ms(50.0) == 500.0
    assert playing.ends_at == playing.reaches_at(501.0) == math.inf
    assert playing.due_at(2400.0, 2500.0) < 50.0
    assert playing.due_at(2401.0, 2501.0) == math.inf


def test_a_listener_who_stands_at_the_end_has_heard_it() -> None:
    playing = clock((1000.0, 10.0))
    playing.report(1000.0, False, 12.0)
    assert playing.ends_at == 12.0


def test_a_file_of_which_the_listener_tells_is_heard_as_it_says() -> None:
    playing = clock((500.0, 10.0), pace=FILE)
    assert not playing.paced
    playing.report(200.0, True, 11.0)
    assert playing.paced and playing.played_ms(11.1) == pytest.approx(300.0)
    assert playing.due_at(90_000.0, 90_020.0) <= 10.0, "it is still sent as it comes"


@pytest.mark.parametrize("pace", [REALTIME, FILE])
def test_a_listener_who_is_held_stands_still_until_it_goes_on(pace: Pace) -> None:
    playing = clock((2000.0, 10.0), pace=pace)
    playing.hold(11.0)
    held_ms = playing.played_ms(11.0)
    playing.hold(12.0)
    assert playing.played_ms(40.0) == held_ms
    playing.go_on(40.0)
    assert playing.played_ms(40.5) == pytest.approx(min(2000.0, held_ms + (500 if pace.realtime else 0)))


def test_what_is_sent_again_has_not_been_sent() -> None:
    playing = clock((2000.0, 10.0))
    playing.report(1500.0, True, 11.0)
    playing.rewind(1200.0, 11.0)
    assert playing.sent_ms == playing.played_ms(11.0) == 1200.0
    assert playing.due_at(1580.0, 1600.0) <= 11.0 < playing.due_at(1600.0, 1620.0), "a new burst"
    playing.sent(1220.0, 11.0)
    playing.report(1210.0, True, 11.1)
    assert playing.played_ms(11.1) == 1210.0


def test_who_is_stopped_hears_no_more() -> None:
    playing = clock((2000.0, 10.0))
    playing.stop(10.5)
    playing.stop(11.0)
    assert playing.stopped and playing.ends_at == 10.5
    assert playing.played_ms(30.0) == playing.heard_ms(30.0) == pytest.approx(500.0)
    assert playing.reaches_at(100.0) == math.inf


def test_a_turn_begins_when_the_one_before_it_really_ends() -> None:
    first = clock((1000.0, 10.0))
    second = PlayClock(REALTIME, 10.2, first)
    second.sent(500.0, 10.2)
    assert second.ends_at == pytest.approx(11.5)
    first.report(200.0, False, 10.5)
    assert second.ends_at == math.inf and second.played_ms(30.0) == 0.0
    assert second.due_at(500.0, 520.0) == math.inf
    first.report(200.0, True, 30.0)
    assert second.ends_at == pytest.approx(31.3) and second.played_ms(31.0) == pytest.approx(200.0)
    first.stop(31.0)
    assert second.played_ms(31.1) == pytest.approx(300.0), "once it was heard, the turn before matters no more"


def test_a_turn_that_was_heard_is_let_go() -> None:
    clocks = [clock((100.0, 10.0))]
    for index in range(5):
        clocks.append(PlayClock(REALTIME, 10.0, clocks[-1]))
        clocks[-1].sent(100.0, 20.0 + index)
    assert all(known._after is None for known in clocks[1:])


def test_a_listener_has_not_come_to_a_place_of_which_it_would_have_told() -> None:
    playing = clock((1000.0, 10.0))
    playing.limit_ms = 200.0
    assert playing.played_ms(10.1) == pytest.approx(100.0)
    assert playing.played_ms(10.5) == playing.heard_ms(10.5) == 200.0
    playing.report(200.0, playing=True, now=10.5)
    playing.limit_ms = 400.0
    assert playing.played_ms(10.6) == pytest.approx(300.0)
    assert playing.played_ms(11.0) == 400.0


def test_a_word_that_never_comes_is_not_waited_for() -> None:
    playing = clock((1000.0, 10.0))
    playing.limit_ms = 200.0
    assert playing.played_ms(11.0) == 1000.0


def test_who_is_held_before_such_a_place_goes_on_from_there() -> None:
    playing = clock((1000.0, 10.0))
    playing.limit_ms = 200.0
    playing.hold(10.5)
    playing.go_on(12.0)
    playing.limit_ms = math.inf
    assert playing.played_ms(12.1) == pytest.approx(300.0)
