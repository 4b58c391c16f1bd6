from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from realtime.shared import Alone, Count, Shared, SharedFolder, token_name

DIGEST = bytes(range(32))
PROCESSES = 4

Several = Callable[[int], Shared]  # a process by its index


@pytest.fixture(params=["alone", "folder"])
def one(request: pytest.FixtureRequest, tmp_path: Path) -> Shared:
    """Either way to keep it, as a single process sees it."""
    if request.param == "alone":
        return Alone()
    SharedFolder.create(tmp_path, 1)
    return SharedFolder(tmp_path, 0, 1)


@pytest.fixture
def each(tmp_path: Path) -> Several:
    SharedFolder.create(tmp_path, PROCESSES)
    made = [SharedFolder(tmp_path, index, PROCESSES) for index in range(PROCESSES)]
    return made.__getitem__


def test_who_registers_a_name_holds_it_until_it_is_released(one: Shared) -> None:
    for _ in range(2):
        one.register("s-1")
    assert one.holder("s-1") == 0 and one.holder("s-2") is None
    for _ in range(2):
        one.release("s-1")
    assert one.holder("s-1") is None


def test_what_is_given_back_can_be_taken_again(one: Shared) -> None:
    assert [one.take(Count.STREAMS, 2) for _ in range(3)] == [True, True, False]
    assert one.take(Count.SESSIONS, 1), "each is counted for itself"
    one.give_back(Count.STREAMS)
    assert one.total(Count.STREAMS) == one.of(Count.STREAMS, 0) == 1 and one.take(Count.STREAMS, 2)


def test_nothing_is_given_back_that_was_not_taken(one: Shared) -> None:
    with pytest.raises(AssertionError):
        one.give_back(Count.SESSIONS)


def test_what_is_told_is_the_newest(one: Shared) -> None:
    for number in (3, 1):
        one.tell(Count.WAITING, number)
    assert one.of(Count.WAITING, 0) == one.total(Count.WAITING) == 1


def test_a_secret_is_taken_once(one: Shared) -> None:
    assert one.keep_secret(DIGEST, b"grant", 10, 60.0, 0.0)
    assert one.take_secret(bytes(32), 1.0) is None
    assert one.take_secret(DIGEST, 59.999) == b"grant" and one.take_secret(DIGEST, 1.0) is None


@pytest.mark.parametrize("now", [60.0, 60.1, 1e9])
def test_an_expired_secret_opens_nothing(one: Shared, now: float) -> None:
    assert one.keep_secret(DIGEST, b"grant", 10, 60.0, 0.0)
    assert one.take_secret(DIGEST, now) is None and one.secrets_expire_at(0.0) == []


def test_unused_secrets_are_bounded_until_they_expire(one: Shared) -> None:
    for index in range(3):
        assert one.keep_secret(bytes([index]), b"", 3, 10.0 + index, 0.0)
    assert not one.keep_secret(DIGEST, b"", 3, 20.0, 9.9)
    assert one.secrets_expire_at(9.9) == pytest.approx([10.0, 11.0, 12.0])
    assert one.keep_secret(DIGEST, b"", 3, 20.0, 10.0)
    assert one.secrets_expire_at(10.0) == pytest.approx([11.0, 12.0, 20.0])


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a/b", "\0", "\udcff", "ü" * 10_000])
def test_any_text_is_a_name(one: Shared, name: str) -> None:
    one.register(name)
    assert one.holder(name) == 0 == one.place_of_room(name)
    one.release(name)
    assert one.holder(name) is None and one.place_of_room(name) == 0


def test_a_token_is_registered_under_a_name_that_does_not_tell_it() -> None:
    assert "prt_secret" not in token_name("prt_secret") != token_name("prt_other")
    assert token_name("\udcff")


def test_a_single_process_has_nobody_to_relay_to() -> None:
    with pytest.raises(LookupError):
        Alone().relay_path(0)


def test_the_others_know_who_holds_a_name(each: Several) -> None:
    each(2).register("s-1")
    assert [each(index).holder("s-1") for index in range(PROCESSES)] == [2] * PROCESSES
    each(1).release("s-1")
    assert each(0).holder("s-1") == 2, "only who holds it releases it"


def test_a_room_lives_with_the_session_of_its_name_or_else_always_in_the_same_process(each: Several) -> None:
    usual = {name: each(0).place_of_room(name) for name in map(str, range(100))}
    assert {each(index).place_of_room(name) == place for name, place in usual.items() for index in range(4)} == {True}
    assert set(usual.values()) == set(range(PROCESSES)), "not all in one"
    elsewhere = (usual["0"] + 1) % PROCESSES
    each(elsewhere).register("0")
    assert each(0).place_of_room("0") == elsewhere
    each(elsewhere).release("0")
    assert each(0).place_of_room("0") == usual["0"]


def test_the_limit_holds_for_all_together_and_each_knows_its_own(each: Several) -> None:
    assert each(0).take(Count.SESSIONS, 3) and each(3).take(Count.SESSIONS, 3) and each(3).take(Count.SESSIONS, 3)
    assert not each(1).take(Count.SESSIONS, 3)
    assert [each(1).of(Count.SESSIONS, index) for index in range(PROCESSES)] == [1, 0, 0, 2]
    each(0).give_back(Count.SESSIONS)
    assert each(1).take(Count.SESSIONS, 3) and each(2).total(Count.SESSIONS) == 3


def test_what_each_tells_adds_up(each: Several) -> None:
    for index in range(PROCESSES):
        each(index).tell(Count.WAITING, index + 1)
    assert [each(0).of(Count.WAITING, index) for index in range(PROCESSES)] == [1, 2, 3, 4]
    assert each(1).total(Count.WAITING) == 10


def test_a_secret_of_one_process_is_redeemed_in_another(each: Several) -> None:
    assert each(0).keep_secret(DIGEST, b"grant", 1, 60.0, 0.0)
    assert not each(1).keep_secret(bytes(32), b"", 1, 60.0, 0.0), "the bound is that of all together"
    assert each(1).take_secret(DIGEST, 1.0) == b"grant" and each(0).take_secret(DIGEST, 1.0) is None


def test_what_a_dead_process_held_is_forgotten_and_its_secrets_are_not(each: Several, tmp_path: Path) -> None:
    for index in (1, 2):
        each(index).register(f"s-{index}")
        assert each(index).take(Count.SESSIONS, 9) and each(index).take(Count.STREAMS, 9)
    assert each(1).keep_secret(DIGEST, b"grant", 9, 60.0, 0.0)
    each(1).relay_path(1).touch()
    SharedFolder.clear(tmp_path, 1)
    assert (each(0).holder("s-1"), each(0).holder("s-2")) == (None, 2) and not each(1).relay_path(1).exists()
    assert [each(0).of(Count.SESSIONS, index) for index in range(PROCESSES)] == [0, 0, 1, 0]
    assert each(0).total(Count.STREAMS) == 1 and each(0).take_secret(DIGEST, 1.0) == b"grant"
    again = SharedFolder(tmp_path, 1, PROCESSES)  # which is started in its place
    again.register("s-1")
    assert again.take(Count.SESSIONS, 9) and each(0).holder("s-1") == 1 and each(0).total(Count.SESSIONS) == 2


def test_nothing_is_laid_out_over_what_is_there(tmp_path: Path) -> None:
    SharedFolder.create(tmp_path, 2)
    with pytest.raises(FileExistsError):
        SharedFolder.create(tmp_path, 2)


def test_what_lies_in_the_folder_tells_no_name_and_no_secret(each: Several, tmp_path: Path) -> None:
    each(0).register("s-name")
    each(0).keep_secret(DIGEST, b"grant", 9, 60.0, 0.0)
    assert not [path for path in tmp_path.rglob("*") if "s-name" in path.name]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "counters"]
    assert len(files) == 2 and all(path.stat().st_mode & 0o077 == 0 for path in files)


TRIES = 300


def _take_all(folder: Path, index: int, most: int) -> int:
    """Take and give back many times, then take as many as there are; how many that was, and -1 if the limit was once exceeded."""
    shared = SharedFolder(folder, index, PROCESSES)
    for _ in range(TRIES):
        if shared.take(Count.SESSIONS, most):
            exceeded = shared.total(Count.SESSIONS) > most
            shared.give_back(Count.SESSIONS)
            if exceeded:
                return -1
    taken = 0
    while shared.take(Count.SESSIONS, most):
        taken += 1
    return taken


def _take_secrets(folder: Path, index: int, most: int) -> int:
    shared = SharedFolder(folder, index, PROCESSES)
    return sum(shared.take_secret(number.to_bytes(2, "big"), 0.0) is not None for number in range(TRIES))


def _keep_secrets(folder: Path, index: int, most: int) -> int:
    shared = SharedFolder(folder, index, PROCESSES)
    own = [bytes([index, number]) for number in range(100)]
    return sum(shared.keep_secret(digest, b"", most, 60.0, 0.0) for digest in own)


_together: threading.Barrier  # of the processes below


def _begin(together: threading.Barrier) -> None:
    global _together
    _together = together


def _at_once(act: Callable[[Path, int, int], int], folder: Path, index: int, most: int) -> int:
    _together.wait(30)
    return act(folder, index, most)


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, context, initializer=_begin, initargs=(together,)) as pool:
        yield pool


def at_once(pool: ProcessPoolExecutor, act: Callable[[Path, int, int], int], folder: Path, most: int = 0) -> list[int]:
    """What it returns in each of the processes, which begin together."""
    begun = [pool.submit(_at_once, act, folder, index, most) for index in range(PROCESSES)]
    return [each.result(timeout=60) for each in begun]


@pytest.mark.parametrize("most", [1, 2, 50])
def test_processes_that_take_at_once_never_have_more_than_the_limit(
    processes: ProcessPoolExecutor, tmp_path: Path, most: int
) -> None:
    SharedFolder.create(tmp_path, PROCESSES)
    taken = at_once(processes, _take_all, tmp_path, most)
    assert min(taken) >= 0 and sum(taken) == most == SharedFolder(tmp_path, 0, PROCESSES).total(Count.SESSIONS)


def test_each_secret_goes_to_one_of_the_processes_that_redeem_it_at_once(
    processes: ProcessPoolExecutor, tmp_path: Path
) -> None:
    SharedFolder.create(tmp_path, PROCESSES)
    here = SharedFolder(tmp_path, 0, PROCESSES)
    for number in range(TRIES):
        assert here.keep_secret(number.to_bytes(2, "big"), b"grant", TRIES, 60.0, 0.0)
    assert sum(at_once(processes, _take_secrets, tmp_path)) == TRIES


def test_processes_that_keep_secrets_at_once_never_have_more_than_the_limit(
    processes: ProcessPoolExecutor, tmp_path: Path
) -> None:
    SharedFolder.create(tmp_path, PROCESSES)
    assert sum(at_once(processes, _keep_secrets, tmp_path, 150)) == 150
    assert len(SharedFolder(tmp_path, 0, PROCESSES).secrets_expire_at(0.0)) == 150


def _die_while_taking(folder: Path, begun: threading.Event) -> None:
    shared = SharedFolder(folder, 1, 2)
    begun.set()
    while True:
        if shared.take(Count.SESSIONS, 1):
            shared.give_back(Count.SESSIONS)


def test_a_process_that_dies_while_it_counts_keeps_nobody_waiting(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    SharedFolder.create(tmp_path, 2)
    here, begun = SharedFolder(tmp_path, 0, 2), context.Event()
    other = context.Process(target=_die_while_taking, args=(tmp_path, begun))
    other.start()
    assert begun.wait(30) and other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    other.join(30)
    assert other.exitcode == -signal.SIGKILL
    SharedFolder.clear(tmp_path, 1)
    assert here.take(Count.SESSIONS, 1) and not here.take(Count.SESSIONS, 1)
