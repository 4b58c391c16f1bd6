"""A client whose socket is lost: it comes back by itself, says again what did not arrive, and takes nothing twice.

The server is a peer that plays one script a socket. It repeats what the script says it repeats; the real server's own repetition is tested
with the server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import anyio
import pytest
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from protocol.client import AudioChunk, Client, ConnectionLost, ServerError, connect
from protocol.client.memory import Memory
from protocol.client.socket import resuming, waits
from protocol.config import Limits, SessionConfig
from protocol.errors import CloseCode, ErrorCode
from protocol.events import LiveTurn
from protocol.messages import (
    ContextClear,
    ContextUpdated,
    ErrorEvent,
    Event,
    Ping,
    Pong,
    SessionCreated,
    Status,
    TextAppend,
    TextFlush,
    TurnCancel,
    TurnDone,
    TurnEnd,
    TurnStart,
    TurnStarted,
)
from tests.protocol.peer import Peer, serving

pytestmark = pytest.mark.anyio

Script = Callable[[Peer], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the websockets library knows no other


async def opens(peer: Peer, *turns: LiveTurn, resumed: bool = False, token: str = "r1", ttl_s: int = 60) -> None:
    created = SessionCreated(
        session="s1",
        resume_token=token,
        resumed=resumed,
        turns=turns,
        config=SessionConfig(),
        limits=Limits(resume_ttl_s=ttl_s),
        model="tones",
        sample_rate=24_000,
        pre_skip=312,
        server_time=0,
        expires_at=1,
    )
    await peer.says(created)


async def is_caught_up(peer: Peer) -> None:
    """Answer the client's question whether that was all."""
    ping = await peer.hears(Ping)
    await peer.says(Pong(session_ms=1, event_id=ping.event_id))


@asynccontextmanager
async def client_of(
    *scripts: Script, on_event: Callable[[Event], None] = print
) -> AsyncIterator[tuple[Client, list[str]]]:
    """A client of a server that plays the scripts, one a socket, and drops the socket at the end of each; and the paths asked for."""
    left, paths = list(scripts), list[str]()

    async def play(peer: Peer) -> None:
        assert left, "nobody was to come back"
        await left.pop(0)(peer)
        peer.socket.transport.abort()

    def on_request(connection: ServerConnection, request: Request) -> None:
        paths.append(request.path)

    async with serving(play, on_request) as url, connect(url, on_event=on_event) as client:
        yield client, paths


async def test_a_turn_goes_on_where_it_was() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer)
        await peer.hears(TurnStart)
        await peer.hears(TextAppend)
        await peer.starts("t1")
        await peer.sounds(b"one", position=0)
        await peer.sounds(b"two", position=480)

    async def second(peer: Peer) -> None:
        await opens(peer, LiveTurn(turn="t1", n=1, text_chars=5, text_ended=True), resumed=True)
        await peer.sounds(b"two", position=480)
        await peer.sounds(b"three", position=960)
        await is_caught_up(peer)
        await peer.ends("t1")
        await peer.stays()

    async with client_of(first, second) as (client, paths):
        items = [item async for item in client.speak("Hello")]
    assert [item.payload for item in items if isinstance(item, AudioChunk)] == [b"one", b"two", b"three"]
    assert [type(item) for item in items if not isinstance(item, AudioChunk)] == [TurnStarted, TurnDone]
    assert paths == ["/v1/live", "/v1/live?resume=r1&have=1:480"]


async def test_text_that_did_not_arrive_is_said_again_and_no_more_than_that() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer)
        await peer.hears(TurnStart)
        await peer.hears_text_until(TextFlush)
        await peer.hears_text_until(TurnEnd)

    async def second(peer: Peer) -> None:
        await opens(peer, LiveTurn(turn="t1", n=1, text_chars=4, text_ended=False), resumed=True)
        await is_caught_up(peer)
        texts, _ = await peer.hears_text_until(TextFlush)
        rest, _ = await peer.hears_text_until(TurnEnd)
        heard.extend([*texts, "|", *rest])
        await peer.ends("t1")
        await peer.stays()

    heard: list[str] = []
    async with client_of(first, second) as (client, _):
        turn = client.speak()
        await turn.append("One two, ")
        turn.flush()
        await turn.append("three.")
        turn.end()
        await turn.finish()
    assert "".join(heard) == "two, |three."


async def test_text_that_is_written_between_two_sockets_is_said_to_the_second() -> None:
    gone = anyio.Event()

    async def first(peer: Peer) -> None:
        await opens(peer)
        await peer.hears(TurnStart)
        assert (await peer.hears(TextAppend)).text == "One "
        gone.set()

    async def second(peer: Peer) -> None:
        await opens(peer, LiveTurn(turn="t1", n=1, text_chars=4, text_ended=False), resumed=True)
        await is_caught_up(peer)
        texts, _ = await peer.hears_text_until(TurnEnd)
        assert "".join(texts) == "two"
        await peer.ends("t1")
        await peer.stays()

    async def deltas() -> AsyncIterator[str]:
        yield "One "
        await gone.wait()
        yield "two"

    async with client_of(first, second) as (client, _):
        assert (await client.speak(deltas()).finish()).status is Status.COMPLETED


async def test_text_that_waits_for_another_socket_is_sent_when_there_is_one() -> None:
    """It waits from the moment the first is gone, and through a second that is lost before it was told where we are."""

    async def first(peer: Peer) -> None:
        await opens(peer)
        await peer.hears(TurnStart)

    async def second(peer: Peer) -> None:
        await lost.wait()
        await opens(peer, LiveTurn(turn="t1", n=1, text_chars=0, text_ended=False), resumed=True)
        await peer.hears(Ping)

    async def third(peer: Peer) -> None:
        await opens(peer, LiveTurn(turn="t1", n=1, text_chars=0, text_ended=False), resumed=True)
        await is_caught_up(peer)
        texts, _ = await peer.hears_text_until(TurnEnd)
        assert texts == ["Hello"]
        await peer.ends("t1")
        await peer.stays()

    lost = anyio.Event()
    async with client_of(first, second, third) as (client, _):
        turn = client.speak()
        while client._link.has_socket:
            await anyio.lowlevel.checkpoint()
        await turn.append("Hello")
        await anyio.wait_all_tasks_blocked()
        lost.set()
        turn.end()
        await turn.finish()


async def test_a_turn_that_never_arrived_is_begun_again_and_turns_keep_their_order() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer)
        for _ in range(2):
            await peer.hears(TurnStart)

    async def second(peer: Peer) -> None:
        await opens(peer, resumed=True)
        await is_caught_up(peer)
        assert [(await peer.hears(TurnStart)).turn for _ in range(2)] == ["t1", "t2"]
        for turn in ("t1", "t2"):
            await peer.ends(turn)
        await peer.stays()

    async with client_of(first, second) as (client, _):
        turns = [client.speak(), client.speak()]
        for turn in turns:
            await turn.finish()


async def test_a_turn_that_ended_meanwhile_has_ended_once() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer)
        await peer.hears(TurnStart)
        await peer.starts("t1")

    async def second(peer: Peer) -> None:
        await opens(peer, resumed=True)
        await peer.starts("t1")
        await peer.ends("t1", status=Status.CANCELLED, reason="disconnected")
        await is_caught_up(peer)
        await peer.hears(Ping)  # and neither start nor text
        await peer.says(Pong(session_ms=1, event_id="c1"))
        await peer.stays()

    async with client_of(first, second) as (client, _):
        items = [item async for item in client.speak()]
        assert [type(item) for item in items] == [TurnStarted, TurnDone]
        await client.ping()


async def test_a_cancel_that_was_lost_is_said_again() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer)
        await peer.hears(TurnStart)
        await peer.starts("t1")
        cancelled.append(await peer.hears(TurnCancel))

    async def second(peer: Peer) -> None:
        await opens(peer, LiveTurn(turn="t1", n=1, text_chars=0, text_ended=False), resumed=True)
        await is_caught_up(peer)
        cancelled.append(await peer.hears(TurnCancel))
        await peer.ends("t1", status=Status.CANCELLED)
        await peer.stays()

    cancelled: list[TurnCancel] = []
    async with client_of(first, second) as (client, _):
        turn = client.speak()
        async for _ in turn:
            await turn.cancel(played_ms=0, reason="barge_in")
    assert cancelled[0] == cancelled[1]


async def test_a_call_without_an_answer_is_made_again_and_one_with_an_answer_is_not() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer)
        cleared = await peer.hears(ContextClear)
        await peer.says(ContextUpdated(event_id=cleared.event_id, turns=0, audio_s=0, text_chars=0))
        await peer.hears(ContextClear)

    async def second(peer: Peer) -> None:
        await opens(peer, resumed=True)
        await is_caught_up(peer)
        cleared = await peer.hears(ContextClear)
        await peer.says(ContextUpdated(event_id=cleared.event_id, turns=0, audio_s=0, text_chars=0))
        await peer.stays()

    async with client_of(first, second) as (client, _):
        one = await client.clear_context()
        two = await client.clear_context()
        assert (one.turns, two.turns) == (0, 0)


async def test_events_that_came_before_are_not_told_again() -> None:
    warned = ErrorEvent(code=ErrorCode.UNSUPPORTED, message="no")
    seen: list[Event] = []

    async def first(peer: Peer) -> None:
        await opens(peer)
        await peer.says(warned)

    async def second(peer: Peer) -> None:
        await opens(peer, resumed=True, token="r2")
        await peer.says(warned)
        await peer.says(warned)
        await is_caught_up(peer)

    async def third(peer: Peer) -> None:
        await opens(peer, resumed=True, token="r3")
        await is_caught_up(peer)
        await is_caught_up(peer)
        await peer.stays()

    async with client_of(first, second, third, on_event=seen.append) as (client, paths):
        await client.ping()
    assert seen.count(warned) == 2
    assert [event.resume_token for event in seen if isinstance(event, SessionCreated)] == ["r2", "r3"]
    assert [path.partition("=")[2] for path in paths[1:]] == ["r1", "r2"]


async def test_a_session_that_the_server_forgot_is_lost() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer)
        await peer.hears(TurnStart)
        await peer.starts("t1")

    async def play(peer: Peer) -> None:
        await first(peer)
        peer.socket.transport.abort()

    def only_once(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(HTTPStatus.NOT_FOUND, "gone") if "resume" in request.path else None

    async with serving(play, only_once) as url, connect(url, renew_s=0) as client:
        with pytest.raises(ConnectionLost, match="does not know the session any more"):
            await client.speak().finish()
        with pytest.raises(ConnectionLost):
            await client.ping()


async def test_a_server_that_has_no_room_is_asked_again() -> None:
    refusals = [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS]
    scripts: list[Script] = []

    async def first(peer: Peer) -> None:
        await opens(peer)
        await peer.hears(TurnStart)

    async def second(peer: Peer) -> None:
        await opens(peer, resumed=True)
        await is_caught_up(peer)
        await peer.hears(TurnStart)
        await peer.ends("t1")
        await peer.stays()

    scripts += [first, second]

    async def play(peer: Peer) -> None:
        await scripts.pop(0)(peer)
        peer.socket.transport.abort()

    def on_request(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(refusals.pop(), "later") if "resume" in request.path and refusals else None

    async with serving(play, on_request) as url, connect(url) as client:
        await client.speak().finish()
    assert not refusals


async def test_a_session_is_not_waited_for_longer_than_the_server_keeps_it() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer, ttl_s=0)

    async with client_of(first) as (client, paths):
        with pytest.raises(ConnectionLost):
            await client.ping()
    assert paths == ["/v1/live"]


@pytest.mark.parametrize("code", [CloseCode.NORMAL, CloseCode.TAKEN_OVER])
async def test_an_end_that_somebody_wanted_is_the_end(code: CloseCode) -> None:
    async def first(peer: Peer) -> None:
        await opens(peer)
        await peer.hears(Ping)
        await peer.socket.close(code)

    async with client_of(first) as (client, _):
        with pytest.raises(ConnectionLost, match=str(int(code))):
            await client.ping()


async def test_a_fatal_error_is_the_end() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer)
        await peer.hears(Ping)
        await peer.says(ErrorEvent(code=ErrorCode.IDLE, message="idle", fatal=True))
        await peer.socket.close(CloseCode.IDLE)

    async with client_of(first) as (client, _):
        with pytest.raises(ServerError, match="idle"):
            await client.ping()


async def test_a_socket_that_is_lost_while_the_client_catches_up_is_replaced_again() -> None:
    async def first(peer: Peer) -> None:
        await opens(peer)
        await peer.hears(TurnStart)

    async def second(peer: Peer) -> None:
        await opens(peer, resumed=True, token="r2")
        await peer.hears(Ping)

    async def third(peer: Peer) -> None:
        await opens(peer, resumed=True, token="r3")
        await is_caught_up(peer)
        await peer.hears(TurnStart)
        await peer.ends("t1")
        await peer.stays()

    async with client_of(first, second, third) as (client, paths):
        done = await client.speak().finish()
    assert done.turn == "t1"
    assert [path.partition("=")[2] for path in paths[1:]] == ["r1", "r2"]


async def test_the_address_of_a_resumption_keeps_what_is_not_about_it() -> None:
    url = resuming("wss://h/live?a=1&token=secret&have=1:2&resume=old", "new", (3, 960))
    assert url == "wss://h/live?a=1&resume=new&have=3:960"
    assert resuming("ws://h/live", "new", None) == "ws://h/live?resume=new"


async def test_waiting_begins_at_once_and_grows_to_a_bound() -> None:
    some = [wait_s for wait_s, _ in zip(waits(), range(9), strict=False)]
    assert some[0] == 0
    assert some == sorted(some)
    assert max(some) == 2


async def test_going_back_in_a_turn_is_no_repetition() -> None:
    memory = Memory()
    assert memory.audio(1, 0) and memory.audio(1, 480)
    memory.expect_repeats()
    assert not memory.audio(1, 480)
    memory.rewound(1)
    assert memory.audio(1, 0)
    memory.all_new()
    assert memory.have == (1, 0)
