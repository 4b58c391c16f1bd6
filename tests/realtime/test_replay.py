from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.audio_frame import Flag, unpack
from protocol.config import Transport
from protocol.connection import encode_audio
from realtime.replay import KEPT_BYTES, Have, Replay, Span

PACKET = 480  # samples
KEPT_S = 30.0


def audio(n: int, index: int, transport: Transport = Transport.BINARY) -> tuple[bytes | str, Span]:
    """Packet `index` of turn `n`; its payload says which it is."""
    position = index * PACKET
    flags = Flag.FIRST if index == 0 else Flag.NONE
    message = encode_audio(transport, f"turn-{n}", n, flags, position, f"{n}/{index}".encode())
    return message, Span(n, position, PACKET, transport)


def two_turns(ring: Replay, now: float = 0.0) -> None:
    for n in (1, 2):
        ring.record(f"started {n}", None, now)
        for index in range(3):
            ring.record(*audio(n, index), now)
        ring.record(f"done {n}", None, now)


def told(messages: list[bytes | str]) -> list[str]:
    return [message if isinstance(message, str) else unpack(message).payload.decode() for message in messages]


def flags(message: bytes | str) -> Flag:
    assert isinstance(message, bytes)
    return unpack(message).flags


@pytest.mark.parametrize(
    "text", ["", "1", "1:", ":1", "1:2:3", "-1:2", "1:-2", "1.0:2", " 1:2", "١:2", "1" * 11 + ":2"]
)
def test_a_place_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="n:position"):
        Have.parse(text)


def test_a_place_is_a_turn_and_a_sample() -> None:
    assert Have.parse("3:48000") == Have(3, 48000)


def test_who_has_nothing_gets_everything_in_order() -> None:
    ring = Replay(KEPT_S)
    two_turns(ring)
    expected = [word for n in (1, 2) for word in (f"started {n}", f"{n}/0", f"{n}/1", f"{n}/2", f"done {n}")]
    assert told(ring.after(None)) == expected


@pytest.mark.parametrize(
    ("have", "first"),
    [
        (Have(1, 0), "started 1"),
        (Have(1, PACKET), "1/1"),
        (Have(1, PACKET + 1), "1/1"),  # half of a packet is no packet
        (Have(1, 3 * PACKET), "done 1"),
        (Have(2, 0), "done 1"),
        (Have(2, 2 * PACKET), "2/2"),
        (Have(2, 99 * PACKET), "done 2"),
        (Have(7, 0), "done 2"),
    ],
)
def test_what_follows_the_listeners_place_is_told_again(have: Have, first: str) -> None:
    ring = Replay(KEPT_S)
    two_turns(ring)
    everything, again = told(ring.after(None)), told(ring.after(have))
    assert again[0] == first and again == everything[everything.index(first) :]


def test_asking_changes_nothing() -> None:
    ring = Replay(KEPT_S)
    two_turns(ring)
    assert ring.after(Have(1, PACKET)) == ring.after(Have(1, PACKET))


def test_what_is_old_is_forgotten() -> None:
    ring = Replay(KEPT_S)
    ring.record("old", None, 100.0)
    ring.record("new", None, 101.0)
    ring.record("newest", None, 100.5 + KEPT_S)
    assert told(ring.after(None)) == ["new", "newest"]
    ring.forget_old(200.0)
    assert len(ring) == 0


def test_memory_is_bounded() -> None:
    ring = Replay(KEPT_S)
    for index in range(8):
        ring.record(bytes(KEPT_BYTES // 4), Span(1, index, 1, Transport.RAW), 0.0)
    assert len(ring) == 4


def test_a_message_larger_than_the_bound_leaves_nothing() -> None:
    ring = Replay(KEPT_S)
    ring.record(bytes(KEPT_BYTES + 1), Span(1, 0, 1, Transport.RAW), 0.0)
    assert len(ring) == 0


def test_a_gap_is_marked_on_the_first_audio_after_it_alone() -> None:
    ring = Replay(KEPT_S)
    for index in range(5, 8):
        ring.record(*audio(1, index), 0.0)
    first, second, third = ring.after(Have(1, 3 * PACKET))
    assert flags(first) == Flag.DISCONTINUITY and flags(second) == flags(third) == Flag.NONE
    assert unpack(first).position == 5 * PACKET if isinstance(first, bytes) else False


@pytest.mark.parametrize("have", [Have(1, 5 * PACKET), Have(1, 6 * PACKET), Have(1, 5 * PACKET + 7)])
def test_where_nothing_is_missing_nothing_is_marked(have: Have) -> None:
    ring = Replay(KEPT_S)
    for index in range(5, 8):
        ring.record(*audio(1, index), 0.0)
    assert all(flags(message) == Flag.NONE for message in ring.after(have))


def test_the_beginning_of_a_later_turn_is_no_gap_and_its_middle_is() -> None:
    whole, middle = Replay(KEPT_S), Replay(KEPT_S)
    whole.record(*audio(2, 0), 0.0)
    middle.record(*audio(2, 1), 0.0)
    assert flags(whole.after(Have(1, PACKET))[0]) == Flag.FIRST
    assert flags(middle.after(Have(1, PACKET))[0]) == flags(middle.after(None)[0]) == Flag.DISCONTINUITY


def test_a_gap_is_marked_in_json_too_and_raw_audio_stays_as_it_is() -> None:
    ring = Replay(KEPT_S)
    ring.record(*audio(1, 5, Transport.JSON), 0.0)
    (message,) = ring.after(None)
    assert isinstance(message, str) and json.loads(message)["flags"] == 4
    raw = Replay(KEPT_S)
    raw.record(*audio(1, 5, Transport.RAW), 0.0)
    assert raw.after(None) == [b"1/5"]


def test_interrupted_audio_is_never_told_again_and_its_events_are() -> None:
    ring = Replay(KEPT_S)
    two_turns(ring)
    ring.withdraw(2)
    ring.withdraw(9)
    assert told(ring.after(None)) == ["started 1", "1/0", "1/1", "1/2", "done 1", "started 2", "done 2"]


@given(st.lists(st.sampled_from(["audio", "event", "turn"]), max_size=40), st.integers(0, 12), st.integers(0, 12))
def test_what_was_had_and_what_is_told_again_are_everything(course: list[str], n: int, packets: int) -> None:
    """Nobody loses audio, and nobody gets again what he said he has."""
    ring, written, place, index = Replay(KEPT_S), list[str](), 1, 0
    for kind in course:
        if kind == "turn":
            place, index = place + 1, 0
        elif kind == "event":
            ring.record("event", None, 0.0)
        else:
            ring.record(*audio(place, index), 0.0)
            written.append(f"{place}/{index}")
            index += 1
    have = Have(n, packets * PACKET)
    again = [name for name in told(ring.after(have)) if name != "event"]
    had = [name for name in written if tuple(map(int, name.split("/"))) < (n, packets)]
    assert had + again == written
