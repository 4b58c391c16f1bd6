"""What the processes of one server have in common, with two of them in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware

from engine.api import Codes, Samples
from protocol.errors import ErrorCode, ProtocolError
from realtime.entrance import Shown
from realtime.http import GuardedHttp, routes
from realtime.scripted import MINI_LIKE, ScriptedEngine
from realtime.service import Service
from realtime.settings import Settings
from realtime.shared import Count, SharedFolder, token_name
from realtime.voice_folder import NewSource, VoiceFolder
from tests.realtime.sockets import KEY, RIGHT
from tests.realtime.speechlike import clean, file


class Listening(ScriptedEngine):
    """Says how often it encoded."""

    encoded = 0

    async def encode(self, samples: Samples, sample_rate: int) -> Codes:
        self.encoded += 1
        return await super().encode(samples, sample_rate)


def of_two(
    folder: Path, test: Callable[[Sequence[Service], Sequence[Listening]], Coroutine[Any, Any, None]], **settings: Any
) -> None:
    """Run `test` while both processes' services run, the second of which began first."""

    async def main() -> None:
        shared = folder / "shared"
        shared.mkdir()
        SharedFolder.create(shared, 2)
        engines = [Listening(info=MINI_LIKE) for _ in range(2)]
        now = asyncio.get_running_loop().time
        services = [
            Service(Settings(port=0, **settings), engine, now, lambda: 0.0, shared=SharedFolder(shared, index, 2))
            for index, engine in enumerate(engines)
        ]
        async with anyio.create_task_group() as tasks:
            for service in reversed(services):
                tasks.start_soon(service.run)
                await service.until_ready()
            with anyio.fail_after(60):
                await test(services, engines)
            for service in services:
                for session in service.sessions:
                    session.end()
            await anyio.wait_all_tasks_blocked()
            assert services[0].shared.total(Count.SESSIONS) == 0
            tasks.cancel_scope.cancel()

    anyio.run(main)


def http(service: Service) -> httpx.AsyncClient:
    app = Starlette(routes=routes(), middleware=[Middleware(GuardedHttp, gate=service.gate, headers={})])
    app.state.service = service
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://parley", headers=RIGHT)


def test_a_secret_asked_of_one_process_opens_its_session_in_another_once(tmp_path: Path) -> None:
    async def test(services: Sequence[Service], engines: Sequence[Listening]) -> None:
        here, there = services
        async with http(here) as client:
            made = (await client.post("/v1/sessions")).json()
        shown = there.door.in_message(made["client_secret"], there.clock())
        session = await there.open_session(shown)
        assert session.id == made["session"] and here.shared.holder(session.id) == 1
        for service in services:
            with pytest.raises(ProtocolError, match="wrong key"):
                service.door.in_message(made["client_secret"], service.clock())

    of_two(tmp_path, test, keys=(KEY,))


def test_a_session_is_known_to_the_other_process_from_its_first_moment_to_its_end(tmp_path: Path) -> None:
    async def test(services: Sequence[Service], engines: Sequence[Listening]) -> None:
        here, there = services
        session = await here.open_session(Shown("key-0"))
        token = session._token
        assert token is not None and here.sessions.find(token) is session and there.sessions.find(token) is None
        assert there.shared.holder(session.id) == there.shared.holder(token_name(token)) == 0
        assert there.shared.place_of_room(session.id) == 0
        session.end()
        assert there.shared.holder(session.id) is there.shared.holder(token_name(token)) is None

    of_two(tmp_path, test)


def test_no_process_takes_more_sessions_than_all_may_have(tmp_path: Path) -> None:
    async def test(services: Sequence[Service], engines: Sequence[Listening]) -> None:
        here, there = services
        sessions = [await service.open_session(Shown("key-0")) for service in (here, there)]
        for service in services:
            refusal = service.refusal()
            assert refusal is not None and refusal.code is ErrorCode.TOO_MANY_SESSIONS
            assert refusal.message == "there are 2 sessions: max_sessions=2"
            with pytest.raises(ProtocolError, match="there are 2 sessions"):
                await service.open_session(Shown("key-0"))
        async with http(here) as client:
            answer = await client.post("/v1/sessions")
            assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
        sessions[0].end()
        assert [service.refusal() for service in services] == [None, None]
        await there.open_session(Shown("key-0"))
        assert (len(here.sessions), len(there.sessions)) == (0, 2) and here.refusal() is not None

    of_two(tmp_path, test, keys=(KEY,), max_sessions=2)


def test_strangers_are_counted_over_all_processes(tmp_path: Path) -> None:
    async def test(services: Sequence[Service], engines: Sequence[Listening]) -> None:
        here, there = services
        with here.stranger():
            assert there.refusal_of_strangers() is None
            with there.stranger():
                for service in services:
                    refusal = service.refusal_of_strangers()
                    assert refusal is not None and "2 connections have not shown a key" in refusal.message
            assert here.refusal_of_strangers() is None
        assert here.shared.total(Count.UNAUTHENTICATED) == 0

    of_two(tmp_path, test, max_unauthenticated=2)


def test_each_process_warms_the_engine_up_with_a_conversation_of_its_own(tmp_path: Path) -> None:
    async def test(services: Sequence[Service], engines: Sequence[Listening]) -> None:
        opened = [[one.conversation.id for one in engine.opened] for engine in engines]
        assert opened == [["warm-up-0"], ["warm-up-1"]] == [engine.forgotten for engine in engines]

    of_two(tmp_path, test)


def test_one_process_encodes_what_lies_in_the_folder_and_the_others_find_it(tmp_path: Path) -> None:
    voices = tmp_path / "voices"
    VoiceFolder(voices).add("anna", [NewSource(file(clean(3.0, 1)), "Eins.")])

    async def test(services: Sequence[Service], engines: Sequence[Listening]) -> None:
        here, there = services
        while there.voices.missing("anna"):
            await anyio.sleep(0)
        assert [engine.encoded for engine in engines] == [1, 0], "the second began first, and left it to the first"
        assert there.voices.get("anna").id == here.voices.get("anna").id == (await there.encoder.ready("anna")).id
        assert engines[1].encoded == 0

    of_two(tmp_path, test, voices_dir=voices)
