from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from realtime.workshop import BUSY_JOBS, FULL_BENCHES, URGENT_JOBS, Bench, Workshop


@asynccontextmanager
async def workshop(threads: int = 2) -> AsyncIterator[Workshop]:
    made = Workshop(asyncio.get_running_loop().time, threads)
    try:
        yield made
    finally:
        made.close()


def never(error: Exception) -> None:
    raise AssertionError("nothing may fail") from error


def test_work_is_done_in_a_thread_and_its_result_comes_back_to_the_loop() -> None:
    async def scene() -> None:
        async with workshop() as shop:
            loop = asyncio.get_running_loop()
            came: asyncio.Future[tuple[int, int]] = loop.create_future()
            shop.bench(never).do(threading.get_ident, lambda ident: came.set_result((ident, threading.get_ident())))
            ident, here = await came
            assert here == threading.get_ident() != ident

    asyncio.run(scene())


def test_one_owners_work_keeps_its_order_among_that_of_others() -> None:
    async def scene() -> None:
        async with workshop(3) as shop:
            results: list[list[int]] = [[] for _ in range(5)]
            all_there = asyncio.Event()

            def note(owner: int, number: int) -> None:
                results[owner].append(number)
                if sum(map(len, results)) == 5 * 200:
                    all_there.set()

            benches = [shop.bench(never) for _ in results]
            for number in range(200):
                for owner, bench in enumerate(benches):
                    bench.do(partial(int, number), partial(note, owner))
            await all_there.wait()
            assert results == [list(range(200))] * 5

    asyncio.run(scene())


def test_nothing_comes_after_a_bench_was_closed() -> None:
    async def scene() -> None:
        async with workshop(1) as shop:
            gate, came = threading.Event(), list[str]()
            begun: list[str] = []
            first, second = shop.bench(never), shop.bench(never)
            done = asyncio.Event()

            def wait() -> str:
                begun.append("first")
                gate.wait(60)
                return "first"

            def work() -> str:
                begun.append("never")
                return "never"

            first.do(wait, came.append)
            first.do(work, came.append)
            second.do(lambda: "second", lambda word: (came.append(word), done.set()))
            first.close()
            gate.set()
            await done.wait()
            assert came == ["second"] and "never" not in begun

    asyncio.run(scene())


@pytest.mark.parametrize("in_thread", [True, False])
def test_a_mistake_is_told_to_its_owner_once_and_disturbs_nobody_else(in_thread: bool) -> None:
    async def scene() -> None:
        async with workshop(1) as shop:
            errors: list[Exception] = []
            done = asyncio.Event()
            broken, sane = shop.bench(errors.append), shop.bench(never)

            def fall(_: object = None) -> None:
                raise ZeroDivisionError("a bug")

            job: Callable[[], None] = fall if in_thread else (lambda: None)
            broken.do(job, fall)
            broken.do(job, fall)
            sane.do(lambda: None, lambda _: done.set())
            await done.wait()
            assert [str(error) for error in errors] == ["a bug"]

    asyncio.run(scene())


def test_the_loop_breathes_between_results_that_came_together() -> None:
    async def scene() -> None:
        async with workshop(1) as shop:
            loop = asyncio.get_running_loop()
            order: list[str] = []
            done, gate = asyncio.Event(), threading.Event()
            bench = shop.bench(never)
            bench.do(lambda: gate.wait(60), lambda _: None)

            def slow(number: int) -> None:
                order.append("result")
                end = loop.time() + 0.002
                while loop.time() < end:
                    pass
                if number == 0:
                    loop.call_soon(order.append, "other")
                if number == 4:
                    done.set()

            for number in range(5):
                bench.do(partial(int, number), slow)
            gate.set()
            await done.wait()
            assert order.index("other") < 4, "what else is due does not wait for all of them"

    asyncio.run(scene())


def test_another_thread_begins_where_the_first_does_not_keep_up() -> None:
    async def scene() -> None:
        async with workshop(2) as shop:
            gate, done = threading.Event(), asyncio.Event()
            threads: list[int] = []
            first = shop.bench(never)
            first.do(lambda: gate.wait(60), lambda _: None)
            for _ in range(BUSY_JOBS):
                first.do(threading.get_ident, threads.append)
            second = shop.bench(never)  # would wait behind all that
            second.do(threading.get_ident, lambda ident: (threads.append(ident), done.set()))
            await done.wait()
            (other,) = threads
            gate.set()
            third_done = asyncio.Event()
            while len(threads) < BUSY_JOBS + 1:
                await asyncio.sleep(0)
            third = shop.bench(never)
            third.do(threading.get_ident, lambda ident: (threads.append(ident), third_done.set()))
            await third_done.wait()
            assert other not in threads[1:] and len(set(threads[1:])) == 1, "one thread does it all while it can"

    asyncio.run(scene())


def threads_of(benches: list[Bench]) -> list[int]:
    """How many of them each thread has, the busiest first."""
    return sorted(Counter(bench.worker for bench in benches).values(), reverse=True)


def test_turns_that_begin_together_are_shared_out_before_any_of_them_has_work() -> None:
    async def scene() -> None:
        async with workshop(3) as shop:
            benches = [shop.bench(never) for _ in range(FULL_BENCHES)]
            assert threads_of(benches) == [FULL_BENCHES], "one thread has time for so many"
            benches += [shop.bench(never) for _ in range(3 * FULL_BENCHES)]
            assert threads_of(benches) == [134, 133, 133]
            for bench in benches[:50]:
                bench.give_up_place()
            for bench in benches[50:FULL_BENCHES]:
                bench.close()
            first = benches[0].worker
            assert shop.bench(never).worker == first, "those that are as good as over take no place"

    asyncio.run(scene())


def test_who_begins_passes_those_who_have_begun_and_keeps_its_own_order() -> None:
    async def scene() -> None:
        async with workshop(1) as shop:
            gate, done = threading.Event(), asyncio.Event()
            came: list[str] = []
            old, new = shop.bench(never), shop.bench(never)
            old.do(lambda: gate.wait(60), lambda _: None)
            for _ in range(URGENT_JOBS - 1):
                old.do(lambda: None, lambda _: None)
            for number in range(3):
                old.do(partial("old{}".format, number), came.append)
            for number in range(URGENT_JOBS + 2):
                new.do(partial("new{}".format, number), came.append)
            old.do(lambda: None, lambda _: done.set())
            gate.set()
            await done.wait()
            first = [f"new{number}" for number in range(URGENT_JOBS)]
            rest = [f"new{number}" for number in range(URGENT_JOBS, URGENT_JOBS + 2)]
            assert came == [*first, "old0", "old1", "old2", *rest]

    asyncio.run(scene())


@pytest.mark.parametrize("patient", [False, True])
def test_the_shop_is_as_late_as_what_a_listener_waits_for(patient: bool) -> None:
    async def scene() -> None:
        now = 100.0
        shop = Workshop(lambda: now, 1)
        try:
            begun, gate, done = threading.Event(), threading.Event(), asyncio.Event()
            bench = shop.bench(never, patient)
            assert shop.late_s() == 0
            for _ in range(URGENT_JOBS):
                bench.do(lambda: None, lambda _: None)
            bench.do(lambda: (begun.set(), gate.wait(60)), lambda _: None)
            bench.do(lambda: None, lambda _: done.set())
            begun.wait(60)
            now = 100.5
            assert shop.late_s() == (0 if patient else 0.5)
            gate.set()
            await done.wait()
            while shop.late_s():  # until the thread has seen that nothing is left
                await asyncio.sleep(0)
        finally:
            shop.close()

    asyncio.run(scene())


def test_a_closed_workshop_leaves_no_thread() -> None:
    async def scene() -> None:
        before = threading.active_count()
        async with workshop(3):
            assert threading.active_count() == before + 3
        assert threading.active_count() == before

    asyncio.run(scene())


# On the loop itself


def test_without_threads_the_loop_does_the_work_in_order_and_who_begins_passes() -> None:
    async def scene() -> None:
        before = threading.active_count()
        async with workshop(0) as shop:
            came: list[str] = []
            done = asyncio.Event()
            old, new, gone = shop.bench(never), shop.bench(never), shop.bench(never)
            for _ in range(URGENT_JOBS):
                old.do(threading.get_ident, lambda ident: came.append(str(ident == threading.get_ident())))
            for number in range(2):
                old.do(partial("old{}".format, number), came.append)
            for number in range(URGENT_JOBS + 1):
                new.do(partial("new{}".format, number), came.append)
            gone.do(partial(str, "gone"), came.append)
            gone.close()
            old.do(lambda: None, lambda _: done.set())
            assert not came and threading.active_count() == before, "nothing is done before whoever asked has gone on"
            await done.wait()
            first = [f"new{number}" for number in range(URGENT_JOBS)]
            assert came == [*["True"] * URGENT_JOBS, *first, "old0", "old1", f"new{URGENT_JOBS}"]

    asyncio.run(scene())


def test_without_threads_work_is_done_in_slices_and_a_mistake_ends_its_owner_alone() -> None:
    async def scene() -> None:
        async with workshop(0) as shop:
            loop = asyncio.get_running_loop()
            order: list[str] = []
            errors: list[Exception] = []
            done = asyncio.Event()
            bench, broken = shop.bench(never), shop.bench(errors.append)

            def slow(number: int) -> int:
                order.append("work")
                end = loop.time() + 0.002
                while loop.time() < end:
                    pass
                return number

            def fall() -> None:
                raise ZeroDivisionError("a bug")

            broken.do(fall, lambda _: None)
            for number in range(5):
                bench.do(partial(slow, number), lambda number: done.set() if number == 4 else None)
            loop.call_soon(order.append, "other")
            await done.wait()
            assert order.index("other") < 4, "what else is due does not wait for all of it"
            assert [str(error) for error in errors] == ["a bug"]

    asyncio.run(scene())


def test_without_threads_the_shop_is_late_while_somebody_waits() -> None:
    async def scene() -> None:
        now = 100.0
        shop = Workshop(lambda: now, 0)
        bench, patient, done = shop.bench(never), shop.bench(never, patient=True), asyncio.Event()
        patient.do(lambda: None, lambda _: None)
        for _ in range(URGENT_JOBS):
            bench.do(lambda: None, lambda _: None)
        now = 100.5
        assert shop.late_s() == 0, "who is new passes, and who does not listen may wait"
        bench.do(lambda: None, lambda _: done.set())
        now = 100.7
        assert shop.late_s() == pytest.approx(0.2)
        await done.wait()
        assert shop.late_s() == 0
        shop.close()

    asyncio.run(scene())
