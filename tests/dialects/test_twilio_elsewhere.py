"""Calls that come to a process of the server which does not have their session, as a message says first."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed

from protocol.client import connect
from protocol.messages import Dtmf, Event
from realtime.settings import Settings
from tests.dialects.phone import QUIET, Phone, call_into_a_session, dtmf, media, start
from tests.realtime.several import Member, name_in, several
from tests.realtime.sockets import KEY, live

pytestmark = pytest.mark.anyio

KEYS = Settings(port=0, keys=(SecretStr(KEY),))
ELSEWHERE = name_in(1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the websockets library knows no other


def twilio(member: Member) -> str:
    return member.url.replace("http", "ws", 1) + "/twilio"


async def test_a_call_is_a_leg_of_a_session_in_another_process(tmp_path: Path) -> None:
    with several(tmp_path, KEYS) as (here, there):
        phone, keys = await call_into_a_session(live(there.url), twilio(here))
    assert phone.code == 1000 and phone.heard.strip(b"\xff")
    assert keys == [Dtmf(leg=1, digit="4", action="none")]


async def test_what_a_caller_does_right_after_the_start_is_not_lost(tmp_path: Path) -> None:
    """In one piece with the start, and with a message that is cut in two."""
    events: list[Event] = []
    with several(tmp_path) as (here, there):
        async with (
            connect(live(there.url), on_event=events.append) as client,
            open_socket(twilio(here), proxy=None) as ws,
        ):
            messages = [*start({"session": client.session.session}), dtmf("1"), *[media(QUIET)] * 50, dtmf("2")]
            for message in messages:
                ws.protocol.send_text(message.encode())
            sent = b"".join(ws.protocol.data_to_send())
            for piece in (sent[:700], sent[700:-20], sent[-20:]):
                ws.transport.write(piece)
                await anyio.sleep(0.01)
            while sum(isinstance(event, Dtmf) for event in events) < 2:
                await anyio.sleep(0.01)
            await ws.close()
    assert [event.digit for event in events if isinstance(event, Dtmf)] == ["1", "2"]


async def test_a_room_has_one_place_for_all_calls_that_name_it(tmp_path: Path) -> None:
    with several(tmp_path) as (here, there):
        for member in (here, there):
            phone = Phone()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(phone.run, twilio(member), {"session": ELSEWHERE, "text": "Hello there, my friend."})
                await phone.until_heard(600)
                phone.hang_up()
        assert len(here.engine.opened) == 1 and len(there.engine.opened) == 3
        (said,) = there.engine.opened[2].conversation.history
        assert said.text.startswith("Hello"), "as far as the first caller heard it"


@pytest.mark.parametrize("parameters", [{}, {"token": "wrong-wrong-wrong"}])
async def test_whoever_has_the_session_judges_the_caller(tmp_path: Path, parameters: dict[str, str]) -> None:
    with several(tmp_path, KEYS) as (here, there):
        ends = []
        for member in (here, there):
            async with open_socket(twilio(member), proxy=None) as ws:
                for message in start({"session": ELSEWHERE, **parameters}):
                    await ws.send(message)
                with pytest.raises(ConnectionClosed) as end:
                    await ws.recv()
            assert end.value.rcvd is not None
            ends.append((end.value.rcvd.code, end.value.rcvd.reason))
    assert ends == [(1008, "unauthorized")] * 2


async def test_a_call_for_a_process_that_is_gone_is_told_so(tmp_path: Path) -> None:
    with several(tmp_path) as (here, there):
        there.kill()
        async with open_socket(twilio(here), proxy=None) as ws:
            for message in start({"session": ELSEWHERE}):
                await ws.send(message)
            with pytest.raises(ConnectionClosed) as end:
                await ws.recv()
        assert end.value.rcvd is not None and (end.value.rcvd.code, end.value.rcvd.reason) == (1008, "no_capacity")


async def test_who_says_much_before_it_says_what_it_wants_is_dropped(tmp_path: Path) -> None:
    with several(tmp_path) as (here, _):
        async with open_socket(twilio(here), proxy=None) as ws:
            with pytest.raises(ConnectionClosed) as end:
                for _ in range(100):
                    await ws.send(json.dumps({"event": "connected", "much": "x" * 10_000}))
                await ws.recv()
        assert end.value.rcvd is None
