"""The benchmark's clients that interrupt by a message, against a real server: a turn, one that is interrupted, and a last one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from realtime.bench_dialects import RATE_HZ
from realtime.bench_steered import STEERED
from tests.realtime.running import running_server

LONG = "The captain painted the boat and went home, and slept there for a long time, and dreamt of the sea and of many ships."


async def words(text: str) -> AsyncIterator[str]:
    for word in text.split(" "):
        yield word + " "


class Ear:
    """What was heard."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.enough = anyio.Event()

    def __call__(self, samples: bytes) -> None:
        self.seconds += len(samples) / 2 / RATE_HZ
        if self.seconds >= 0.5:
            self.enough.set()


async def talk(url: str, name: str) -> None:
    speaker = STEERED[name](url, f"bench-{name}", None)
    one, two, three = Ear(), Ear(), Ear()
    await speaker.speak(words("Hello there, how are you?"), one)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(speaker.speak, words(LONG), two)
        await two.enough.wait()
        await speaker.interrupt()
    await speaker.speak(words("Hello there, how are you?"), three)
    await speaker.close()
    assert one.seconds > 0.8, name
    assert 0.5 <= two.seconds < 3, name
    assert three.seconds == pytest.approx(one.seconds, abs=0.1), "nothing of the interrupted turn"


@pytest.mark.anyio
async def test_turns_come_whole_and_interruptions_stop_them() -> None:
    with running_server() as (url, _):
        async with anyio.create_task_group() as tasks:
            for name in STEERED:
                tasks.start_soon(talk, url, name)


@pytest.mark.anyio
async def test_an_interruption_before_a_response_was_asked_for_stops_the_text() -> None:
    async def slow() -> AsyncIterator[str]:
        yield "Hello "
        await anyio.sleep_forever()

    with running_server() as (url, _):
        speaker, ear = STEERED["openai-realtime"](url, "bench-early", None), Ear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(speaker.speak, slow(), ear)
            await anyio.wait_all_tasks_blocked()
            await speaker.interrupt()
        await speaker.close()
    assert ear.seconds == 0
