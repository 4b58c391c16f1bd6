from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.config import Transport
from realtime.outbox import MAX_EVENTS, ROOM_BYTES, Close, Outbox
from realtime.replay import Have, Span


def outbox() -> tuple[Outbox, list[str]]:
    wakes: list[str] = []
    return Outbox(lambda: wakes.append("wake")), wakes


def put(box: Outbox, n: int, message: bytes, sent: list[float] | None = None) -> None:
    box.audio(n, message, sent.append if sent is not None else lambda now: None, Span(n, 0, 1, Transport.RAW))


def drained(box: Outbox) -> list[object]:
    taken: list[object] = []
    while (item := box.take(1.0)) is not None:
        taken.append(item)
    return taken


def test_messages_leave_in_the_order_they_were_put() -> None:
    box, _ = outbox()
    box.open_turn(1)
    box.event("started")
    put(box, 1, b"a")
    box.event("pong")
    put(box, 1, b"b")
    assert drained(box) == ["started", b"a", "pong", b"b"]


def test_a_closed_turn_leaves_only_its_end() -> None:
    box, _ = outbox()
    box.open_turn(1)
    box.open_turn(2)
    put(box, 1, b"a")
    put(box, 2, b"b")
    box.event("pong")
    box.close_turn(1, "done 1")
    put(box, 1, b"late")
    assert drained(box) == [b"b", "pong", "done 1"]


def test_audio_of_a_turn_that_was_never_opened_is_refused() -> None:
    box, _ = outbox()
    put(box, 7, b"a")
    assert drained(box) == [] and box.audio_bytes == 0


def test_a_turn_cannot_end_twice() -> None:
    box, _ = outbox()
    box.open_turn(1)
    box.close_turn(1, "done")
    with pytest.raises(AssertionError, match="ends once"):
        box.close_turn(1, "done")


def test_audio_counts_as_sent_when_it_is_taken_and_not_when_it_is_dropped() -> None:
    box, _ = outbox()
    sent: list[float] = []
    box.open_turn(1)
    put(box, 1, b"a", sent)
    put(box, 1, b"b", sent)
    box.take(3.5)
    box.close_turn(1, "done")
    assert drained(box) == ["done"] and sent == [3.5]


def test_room_is_for_audio_alone() -> None:
    box, _ = outbox()
    box.open_turn(1)
    box.event("x" * ROOM_BYTES)
    assert box.has_room
    put(box, 1, b"a" * ROOM_BYTES)
    assert not box.has_room
    box.take(0.0)
    box.take(0.0)
    assert box.has_room
    put(box, 1, b"a" * ROOM_BYTES)
    box.close_turn(1, "done")
    assert box.has_room, "what was dropped takes no room"


def test_a_peer_that_leaves_too_many_answers_unread_has_overflowed() -> None:
    box, wakes = outbox()
    for index in range(MAX_EVENTS):
        box.event(str(index))
    assert not box.overflowed
    box.event("one more")
    assert box.overflowed and len(wakes) == MAX_EVENTS + 1
    assert len(drained(box)) == MAX_EVENTS


def test_reading_makes_place_for_more_answers() -> None:
    box, _ = outbox()
    for _ in range(3 * MAX_EVENTS):
        box.event("x")
        box.take(0.0)
    assert not box.overflowed


def test_nothing_follows_the_close() -> None:
    box, _ = outbox()
    box.open_turn(1)
    box.event("last")
    box.close(1000, "closed")
    box.event("late")
    put(box, 1, b"late")
    box.close(1011, "late")
    assert drained(box) == ["last", Close(1000, "closed")]


def test_every_put_wakes_the_writer() -> None:
    box, wakes = outbox()
    box.open_turn(1)
    box.event("a")
    put(box, 1, b"b")
    box.close_turn(1, "c")
    box.close(1000, "")
    assert len(wakes) == 4


actions = st.one_of(
    st.tuples(st.just("audio"), st.integers(0, 4)),
    st.tuples(st.just("end"), st.integers(0, 4)),
    st.tuples(st.just("event"), st.just(0)),
    st.tuples(st.just("take"), st.just(0)),
)


@given(st.lists(actions, max_size=60))
def test_no_audio_ever_follows_the_end_of_its_turn(course: list[tuple[str, int]]) -> None:
    box, _ = outbox()
    ended: set[int] = set()
    for n in range(5):
        box.open_turn(n)
    taken: list[object] = []
    for kind, n in course:
        if kind == "audio":
            put(box, n, bytes([n]))
        elif kind == "end" and n not in ended:
            ended.add(n)
            box.close_turn(n, f"done {n}")
        elif kind == "event":
            box.event("pong")
        elif kind == "take":
            taken.append(box.take(0.0))
    taken += drained(box)
    assert box.audio_bytes == 0
    for n in ended:
        assert taken.count(f"done {n}") == 1
        assert bytes([n]) not in taken[taken.index(f"done {n}") :]


# Without a socket


def span(n: int, index: int) -> Span:
    return Span(n, index * 10, 10, Transport.RAW)


def test_what_was_taken_can_be_had_again_from_where_the_listener_is() -> None:
    box, _ = outbox()
    box.open_turn(1)
    box.event("started")
    for index in range(3):
        box.audio(1, bytes([index]), lambda now: None, span(1, index))
    assert drained(box) == ["started", b"\0", b"\1", b"\2"]
    box.event("waits")
    assert box.written_after(Have(1, 10)) == [b"\1", b"\2"] and drained(box) == ["waits"]


def test_without_a_socket_there_is_room_for_no_audio_and_events_wait() -> None:
    box, _ = outbox()
    assert box.has_room
    box.detach(0.0)
    box.event("done")
    assert not box.has_room
    box.attached = True
    assert box.has_room and drained(box) == ["done"]


def test_what_was_written_long_before_the_socket_was_lost_is_not_told_again() -> None:
    box, _ = outbox()
    box.event("old")
    box.take(0.0)
    box.event("new")
    box.take(25.0)
    box.detach(40.0)
    assert box.written_after(None) == ["new"]


def test_audio_of_an_interrupted_turn_is_not_written_again_and_that_of_another_is() -> None:
    box, _ = outbox()
    for n in (1, 2):
        box.open_turn(n)
        box.audio(n, bytes([n]), lambda now: None, span(n, 0))
    drained(box)
    box.close_turn(2, "done 2", withdrawn=True)
    box.close_turn(1, "done 1", withdrawn=False)
    drained(box)
    assert box.written_after(None) == [b"\1", "done 2", "done 1"]
    box.withdraw(1)
    assert box.written_after(None) == ["done 2", "done 1"]


# With a leg


def test_a_leg_gets_the_audio_of_the_turns_that_are_opened_meanwhile_and_every_event() -> None:
    box, _ = outbox()
    leg, _ = outbox()
    before = box.open_turn(1)
    box.leg = leg
    during = box.open_turn(2)
    assert (before, during) == (box, leg)
    before.audio(1, b"1", lambda now: None, span(1, 0))
    during.audio(2, b"2", lambda now: None, span(2, 0))
    box.event("told")
    assert (drained(box), drained(leg)) == ([b"1", "told"], [b"2", "told"])
    box.leg = None
    box.event("alone")
    assert (drained(box), drained(leg)) == (["alone"], [])


def test_what_waits_of_a_turn_at_a_leg_is_dropped_at_its_end() -> None:
    box, _ = outbox()
    leg, _ = outbox()
    box.leg = leg
    box.open_turn(1).audio(1, b"1", lambda now: None, span(1, 0))
    box.close_turn(1, "done 1", withdrawn=True)
    leg.audio(1, b"late", lambda now: None, span(1, 1))
    assert (drained(box), drained(leg)) == (["done 1"], ["done 1"]) and leg.audio_bytes == 0


def test_the_end_of_a_session_is_the_end_of_its_leg() -> None:
    box, _ = outbox()
    box.leg, _ = outbox()
    box.close(1000, "closed")
    assert box.leg.take(0.0) == box.take(0.0) == Close(1000, "closed")
