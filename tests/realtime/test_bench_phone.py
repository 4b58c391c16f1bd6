"""The benchmark's telephone against a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from realtime.bench_dialects import RATE_HZ
from realtime.bench_phone import Telephone
from realtime.scripted import Script, ScriptedEngine
from tests.realtime.sockets import serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the websockets library knows no other


async def words(count: int) -> AsyncIterator[str]:
    for index in range(count):
        yield f"word{index} "


async def test_a_turn_is_heard_whole_interrupted_and_followed_by_another() -> None:
    with serving(ScriptedEngine(Script(step_s=0.001))) as url, anyio.fail_after(60):
        telephone = Telephone(url, "unused", None)
        heard: list[bytes] = []
        await telephone.speak(words(4), heard.append)
        whole = len(b"".join(heard))
        assert whole / 2 / RATE_HZ > 0.5
        heard.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(telephone.speak, words(200), heard.append)
            while len(b"".join(heard)) < RATE_HZ * 2:
                await anyio.sleep(0.01)
            await telephone.interrupt()
        assert len(b"".join(heard)) / 2 / RATE_HZ < 5.0
        heard.clear()
        await telephone.speak(words(4), heard.append)
        assert len(b"".join(heard)) == pytest.approx(whole, rel=0.2)
        await telephone.close()
