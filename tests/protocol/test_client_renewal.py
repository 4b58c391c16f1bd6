"""A client whose session the server has ended: it begins another, says so, and says there what was not heard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import anyio
import pytest
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from protocol.client import Client, ConnectionLost, SessionEnded, connect
from protocol.commands import AudioInput
from protocol.config import Limits, SessionConfig
from protocol.errors import CloseCode, ErrorCode
from protocol.events import ClosingReason
from protocol.messages import (
    ErrorEvent,
    Event,
    SessionClosing,
    SessionCreated,
    SessionUpdate,
    SessionUpdated,
    Status,
    TextAppend,
    TurnCancel,
    TurnEnd,
    TurnStart,
)
from tests.protocol.peer import Peer, serving

pytestmark = pytest.mark.anyio

Script = Callable[[Peer], Awaitable[None]]
NOTICE = SessionClosing(reason=ClosingReason.RESTART, in_ms=500, message="the server restarts", retry_after_ms=5500)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the websockets library knows no other


async def opens(peer: Peer, session: str, token: str | None = None) -> None:
    created = SessionCreated(
        session=session,
        resume_token=token,
        resumed=False,
        turns=(),
        config=SessionConfig(),
        limits=Limits(resume_ttl_s=60 if token else 0),
        model="tones",
        sample_rate=24_000,
        pre_skip=312,
        server_time=0,
        expires_at=1,
    )
    await peer.says(created)


async def configures(peer: Peer) -> SessionUpdate:
    """Take the settings of the session before."""
    update = await peer.hears(SessionUpdate)
    voice = update.voice if isinstance(update.voice, str) else None
    config = SessionConfig(voice=voice)
    await peer.says(SessionUpdated(config=config, from_turn=1, pre_skip=0, event_id=update.event_id))
    return update


@asynccontextmanager
async def client_of(*scripts: Script, query: str = "", refusals: int = 0) -> AsyncIterator[tuple[Client, list[Event]]]:
    """A client, and what it was told. After the first socket so many handshakes are refused: the server loads its model."""
    left, events, asked, refused = (
        list(scripts),
        list[Event](),
        list[str](),
        [HTTPStatus.SERVICE_UNAVAILABLE] * refusals,
    )

    async def play(peer: Peer) -> None:
        await left.pop(0)(peer)

    def on_request(connection: ServerConnection, request: Request) -> Response | None:
        asked.append(request.path)
        if "resume" in request.path:
            return connection.respond(HTTPStatus.NOT_FOUND, "gone")
        return connection.respond(refused.pop(), "loading") if len(asked) > 1 and refused else None

    async with serving(play, on_request) as url, connect(url + query, on_event=events.append) as client:
        yield client, events


async def restarts(peer: Peer) -> None:
    await peer.socket.close(CloseCode.SERVICE_RESTART, "restart")


async def test_another_session_follows_one_that_a_restart_ends() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer, "s1", "r1")
        await configures(peer)
        await peer.says(NOTICE)
        await restarts(peer)

    async def second(peer: Peer) -> None:
        await opens(peer, "s2", "r2")
        assert (await configures(peer)).voice == "anna", "the settings are those of the session before"
        await peer.hears(TurnStart)
        assert (await peer.hears(TextAppend)).text == "Hello"
        await peer.hears(TurnEnd)
        await peer.starts("t1")
        await peer.ends("t1")
        await peer.stays()

    async with client_of(first, second, refusals=2) as (client, events):
        await client.update(SessionUpdate(voice="anna"))
        while not events:
            await anyio.sleep(0)
        assert (await client.speak("Hello").finish()).status is Status.COMPLETED
        assert (client.session.session, client.config.voice) == ("s2", "anna")
    notice, created = events
    assert notice == NOTICE
    assert isinstance(created, SessionCreated) and (created.session, created.resumed) == ("s2", False)


async def test_a_turn_that_was_heard_in_part_ends_and_one_that_was_not_is_said_again() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer, "s1")
        ended = 0
        while ended < 2:
            ended += isinstance(await peer.hears(object), TurnEnd)  # type: ignore[type-var]
        await peer.starts("t1")
        await peer.says(NOTICE)
        await restarts(peer)

    async def second(peer: Peer) -> None:
        await opens(peer, "s2")
        await configures(peer)
        assert (await peer.hears(TurnStart)).turn == "t2"
        assert await peer.hears_text_until(TurnEnd) == (["Two"], TurnEnd(turn="t2", event_id="t2:end"))
        await peer.starts("t2")
        await peer.ends("t2")
        await peer.stays()

    async with client_of(first, second) as (client, _):
        one, two = client.speak("One"), client.speak("Two")
        with pytest.raises(SessionEnded, match="session s1 ended before the turn did"):
            await one.finish()
        assert (await two.finish()).status is Status.COMPLETED


async def test_a_turn_that_the_ending_session_turns_away_waits_for_the_next() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer, "s1")
        start = await peer.hears(TurnStart)
        await peer.says(NOTICE)
        refusal = ErrorEvent(
            code=ErrorCode.NO_CAPACITY, message="it restarts", turn="t1", event_id=start.event_id, retry_after_ms=1
        )
        await peer.says(refusal)
        await peer.hears_text_until(TurnEnd)
        await peer.says(ErrorEvent(code=ErrorCode.UNKNOWN_TURN, message="no turn", turn="t1", event_id="t1:end"))
        await restarts(peer)

    async def second(peer: Peer) -> None:
        await opens(peer, "s2")
        await configures(peer)
        await peer.hears(TurnStart)
        assert (await peer.hears_text_until(TurnEnd))[0] == ["Hello"]
        await peer.starts("t1")
        await peer.ends("t1")
        await peer.stays()

    async with client_of(first, second) as (client, _):
        assert (await client.speak("Hello").finish()).status is Status.COMPLETED


async def test_a_turn_that_is_taken_back_while_it_waits_is_cancelled_in_the_next_session() -> None:
    goes_on = anyio.Event()

    async def first(peer: Peer) -> None:
        await opens(peer, "s1")
        await peer.says(NOTICE)
        await goes_on.wait()
        await restarts(peer)

    async def second(peer: Peer) -> None:
        await opens(peer, "s2")
        await configures(peer)
        await peer.hears(TurnStart)
        await peer.hears(TurnCancel)
        await peer.ends("t1", status=Status.CANCELLED)
        await peer.stays()

    async with client_of(first, second) as (client, events):
        while not events:
            await anyio.sleep(0)
        turn = client.speak("Hello")
        await turn.cancel()
        goes_on.set()
        assert (await turn.finish()).status is Status.CANCELLED


async def test_a_session_that_a_server_forgot_is_followed_by_another() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer, "s1", "r1")
        peer.socket.transport.abort()

    async def second(peer: Peer) -> None:
        await opens(peer, "s2", "r2")
        await configures(peer)
        configured.set()
        await peer.stays()

    configured = anyio.Event()
    async with client_of(first, second) as (client, events):
        await configured.wait()
        assert client.session.session == "s2"
    assert [event.type for event in events] == ["session.created"]


async def test_sound_is_announced_again() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer, "s1")
        await peer.hears(AudioInput)
        assert isinstance(await peer.socket.recv(), bytes)
        await peer.says(NOTICE)
        await restarts(peer)

    async def second(peer: Peer) -> None:
        await opens(peer, "s2")
        await configures(peer)
        await peer.hears(AudioInput)
        sound = await peer.socket.recv()
        assert isinstance(sound, bytes) and sound[1] == 1 and not any(sound[8:16]), "a recording begins"
        heard.set()
        await peer.stays()

    heard = anyio.Event()
    async with client_of(first, second) as (client, _):
        microphone = await client.listen(AudioInput())
        while not heard.is_set():
            await microphone.hear(bytes(640), 320)
            await anyio.sleep(0)


async def test_a_secret_opens_no_second_session() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer, "s1")
        await peer.says(NOTICE)
        await restarts(peer)

    async with client_of(first, query="?token=pcs_1") as (client, _):
        with pytest.raises(ConnectionLost, match="does not know the session any more"):
            await client.speak("Hello").finish()
