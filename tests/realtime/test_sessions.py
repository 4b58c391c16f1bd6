from __future__ import annotations

import pytest

from realtime.sessions import Sessions


class Person:
    """A session that only waits or does not."""

    def __init__(self, waiting_since: float | None = None) -> None:
        self.waiting_since = waiting_since
        self.ended = False

    def end(self) -> None:
        self.ended = True


def test_a_secret_finds_its_session_and_no_other() -> None:
    sessions = Sessions[Person](10)
    people = [Person() for _ in range(3)]
    tokens = [sessions.add(person) for person in people]
    assert [sessions.find(token) for token in tokens] == people == list(sessions)
    assert len(set(tokens)) == 3 and all(len(token) >= 40 for token in tokens)


@pytest.mark.parametrize("guess", ["", "prt_", "\udcff", "x" * 100_000])
def test_a_guess_finds_nobody(guess: str) -> None:
    sessions = Sessions[Person](10)
    sessions.add(Person())
    assert sessions.find(guess) is None


def test_who_has_left_is_not_found() -> None:
    sessions = Sessions[Person](10)
    person = Person()
    token = sessions.add(person)
    sessions.discard(person)
    sessions.discard(person)
    assert sessions.find(token) is None and len(sessions) == 0


def test_a_full_house_takes_nobody_while_everybody_is_there() -> None:
    sessions = Sessions[Person](2)
    for _ in range(2):
        assert sessions.has_room and sessions.make_room()
        sessions.add(Person())
    assert not sessions.has_room and not sessions.make_room() and len(sessions) == 2


def test_who_has_waited_longest_without_a_socket_gives_way_first() -> None:
    sessions = Sessions[Person](3)
    late, early, present = Person(20.0), Person(10.0), Person()
    for person in (late, early, present):
        sessions.add(person)
    assert sessions.has_room and not early.ended, "asking ends nobody"
    assert sessions.make_room() and list(sessions) == [late, present] and early.ended
    assert not late.ended and not present.ended


def test_nobody_is_ended_while_there_is_room() -> None:
    sessions = Sessions[Person](2)
    waiting = Person(1.0)
    sessions.add(waiting)
    assert sessions.make_room() and not waiting.ended
