from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from realtime.sessions import Sessions
from realtime.shared import Alone, Count, SharedFolder, token_name

numbers = count()


class Person:
    """A session that only waits or does not."""

    def __init__(self, waiting_since: float | None = None) -> None:
        self.id = f"s-{next(numbers)}"
        self.waiting_since = waiting_since
        self.ended = False

    def end(self) -> None:
        self.ended = True


def house(most: int = 10) -> Sessions[Person]:
    return Sessions[Person](most, Alone())


def let_in(sessions: Sessions[Person], person: Person) -> str:
    assert sessions.make_room()
    return sessions.add(person)


def test_a_secret_finds_its_session_and_no_other() -> None:
    sessions = house()
    people = [Person() for _ in range(3)]
    tokens = [let_in(sessions, person) for person in people]
    assert [sessions.find(token) for token in tokens] == people == list(sessions)
    assert len(set(tokens)) == 3 and all(len(token) >= 40 for token in tokens)


@pytest.mark.parametrize("guess", ["", "prt_", "\udcff", "x" * 100_000])
def test_a_guess_finds_nobody(guess: str) -> None:
    sessions = house()
    let_in(sessions, Person())
    assert sessions.find(guess) is None


def test_who_has_left_is_not_found() -> None:
    sessions = house()
    person = Person()
    token = let_in(sessions, person)
    sessions.discard(person)
    sessions.discard(person)
    assert sessions.find(token) is None and len(sessions) == 0


def test_a_full_house_takes_nobody_while_everybody_is_there() -> None:
    sessions = house(2)
    for _ in range(2):
        assert sessions.has_room
        let_in(sessions, Person())
    assert not sessions.has_room and not sessions.make_room() and len(sessions) == 2


def test_who_has_waited_longest_without_a_socket_gives_way_first() -> None:
    sessions = house(3)
    late, early, present = Person(20.0), Person(10.0), Person()
    for person in (late, early, present):
        let_in(sessions, person)
    assert sessions.has_room and not early.ended, "asking ends nobody"
    assert sessions.make_room() and list(sessions) == [late, present] and early.ended
    assert not late.ended and not present.ended


def test_nobody_is_ended_while_there_is_room() -> None:
    sessions = house(2)
    waiting = Person(1.0)
    let_in(sessions, waiting)
    assert sessions.make_room() and not waiting.ended


def two_houses(folder: Path, most: int) -> tuple[list[Sessions[Person]], list[SharedFolder]]:
    """Of two processes."""
    SharedFolder.create(folder, 2)
    shared = [SharedFolder(folder, index, 2) for index in range(2)]
    return [Sessions[Person](most, each) for each in shared], shared


def test_the_other_process_knows_where_a_session_lives_as_long_as_it_does(tmp_path: Path) -> None:
    (_, sessions), (other, _) = two_houses(tmp_path, 5)
    person = Person()
    token = let_in(sessions, person)
    assert other.holder(person.id) == other.holder(token_name(token)) == 1 == other.total(Count.SESSIONS)
    for _ in range(2):
        sessions.discard(person)
    assert other.holder(person.id) is other.holder(token_name(token)) is None and other.total(Count.SESSIONS) == 0


def test_the_limit_is_that_of_all_processes(tmp_path: Path) -> None:
    (here, there), _ = two_houses(tmp_path, 2)
    person = Person()
    let_in(here, person)
    let_in(there, Person())
    assert not here.has_room and not here.make_room() and not there.has_room and not there.make_room()
    assert (len(here), len(there), here.total) == (1, 1, 2)
    here.discard(person)
    assert there.has_room and there.make_room() and not here.make_room(), "a place that is promised is nobody else's"
    there.add(Person())
    assert (len(here), len(there), here.total) == (0, 2, 2)


def test_a_full_house_ends_the_one_that_waits_here_and_its_place_is_not_taken_meanwhile(tmp_path: Path) -> None:
    (here, there), (shared, _) = two_houses(tmp_path, 2)
    taken: list[bool] = []

    class Watched(Person):
        def end(self) -> None:
            taken.append(there.make_room())
            here.discard(self)

    waiting = Watched(1.0)
    let_in(here, waiting)
    let_in(there, Person())
    assert here.make_room() and taken == [False] and shared.total(Count.SESSIONS) == 2
    here.add(Person())
    assert shared.total(Count.SESSIONS) == 2 and shared.holder(waiting.id) is None


def test_a_place_for_which_nobody_came_is_the_next_ones() -> None:
    sessions = house(1)
    assert sessions.make_room() and sessions.make_room() and sessions.has_room
    sessions.add(Person())
    assert sessions.total == 1 and not sessions.make_room()
