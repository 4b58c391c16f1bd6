from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from protocol.client import AudioChunk, ConnectionLost, Overrun, ServerError, Turn, TurnItem
from protocol.config import Limits
from protocol.errors import ErrorCode
from protocol.messages import (
    ContextUpdated,
    ErrorEvent,
    Heard,
    HeardSource,
    Ping,
    Pong,
    Scope,
    Status,
    TextAppend,
    TurnCancel,
    TurnDone,
    TurnEnd,
    TurnStart,
    TurnStarted,
)
from tests.protocol.peer import Peer, connected

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the websockets library knows no other


async def items_of(turn: Turn) -> list[TurnItem]:
    return [item async for item in turn]


def sound(items: list[TurnItem]) -> bytes:
    return b"".join(item.payload for item in items if isinstance(item, AudioChunk))


async def test_cancelling_drops_unread_audio_and_says_what_was_played() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.starts("t1")
        await peer.sounds(b"heard")
        await peer.sounds(b"unread")
        ping = await peer.hears(Ping)
        await peer.says(Pong(session_ms=1, event_id=ping.event_id))
        cancel = await peer.hears(TurnCancel)
        assert (cancel.turn, cancel.scope, cancel.played_ms, cancel.reason) == ("t1", Scope.TURN, 120, "barge_in")
        await peer.sounds(b"too late")
        await peer.ends("t1", status=Status.CANCELLED)
        await peer.stays()

    async with connected(script) as client:
        turn = client.speak()
        async for item in turn:
            if isinstance(item, AudioChunk):
                break
        await client.ping()  # everything else has come by now
        await turn.cancel(played_ms=120, reason="barge_in")
        assert [type(item) for item in await items_of(turn)] == [TurnDone]


async def test_cancelling_stops_the_deltas() -> None:
    asked_for: list[int] = []

    async def deltas() -> AsyncIterator[str]:
        for index in range(1000):
            asked_for.append(index)
            yield "x" * 4096

    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.hears(TextAppend)
        await peer.starts("t1")
        await peer.hears_text_until(TurnCancel)
        await peer.ends("t1", status=Status.CANCELLED)
        await peer.stays()

    async with connected(script) as client:
        turn = client.speak(deltas())
        async for item in turn:
            if isinstance(item, TurnStarted):
                await turn.cancel()
    assert len(asked_for) < 50


async def test_a_turn_that_is_cancelled_at_once_is_opened_and_cancelled() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.hears(TurnCancel)
        await peer.ends("t1", status=Status.CANCELLED)
        await peer.stays()

    async with connected(script) as client:
        turn = client.speak("Never sent.")
        await turn.cancel()
        assert (await turn.finish()).status is Status.CANCELLED


async def test_a_turn_that_was_sent_whole_can_be_cut_after_its_end() -> None:
    heard = Heard(ms=80, text="He", remaining="llo", char_end=2, source=HeardSource.CLIENT)

    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.ends("t1")
        cancel = await peer.hears(TurnCancel)
        await peer.says(
            ContextUpdated(turns=1, audio_s=0.08, text_chars=2, turn="t1", heard=heard, event_id=cancel.event_id)
        )
        ping = await peer.hears(Ping)
        await peer.says(Pong(session_ms=1, event_id=ping.event_id))
        await peer.stays()

    async with connected(script) as client:
        turn = client.speak()
        assert turn.heard is None
        done = await turn.finish()
        assert turn.heard == done.heard
        await turn.cancel(played_ms=80)
        await client.ping()
        assert turn.heard == heard


async def test_what_a_deltas_iterator_raises_the_turn_raises_and_the_server_is_told() -> None:
    async def deltas() -> AsyncIterator[str]:
        yield "Hello"
        raise LookupError("the model is gone")

    cancelled = anyio.Event()

    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.hears_text_until(TurnCancel)
        cancelled.set()
        await peer.ends("t1", status=Status.CANCELLED)
        await peer.stays()

    async with connected(script) as client:
        turn = client.speak(deltas())
        with pytest.raises(LookupError, match="the model is gone"):
            await turn.finish()
        await cancelled.wait()
        with pytest.raises(LookupError):
            await turn.append("more")


async def test_a_turn_that_the_server_refuses_raises_why() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        start = await peer.hears(TurnStart)
        refusal = ErrorEvent(code=ErrorCode.VOICE_NOT_FOUND, message="no voice", param="voice", event_id=start.event_id)
        await peer.says(refusal)
        ping = await peer.hears(Ping)
        await peer.says(Pong(session_ms=1, event_id=ping.event_id))
        await peer.stays()

    async with connected(script) as client:
        turn = client.speak(voice="nobody")
        with pytest.raises(ServerError, match=r"voice_not_found \(voice\): no voice"):
            await turn.finish()
        await turn.cancel()  # there is nothing to cancel
        await client.ping()


async def test_refused_text_ends_the_turn_because_it_cannot_be_whole_any_more() -> None:
    cancelled = anyio.Event()

    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        text = await peer.hears(TextAppend)
        await peer.starts("t1")
        await peer.sounds(b"said before")
        await peer.says(
            ErrorEvent(
                code=ErrorCode.TEXT_OVERFLOW, message="too long", turn="t1", param="text", event_id=text.event_id
            )
        )
        await peer.hears(TurnCancel)
        cancelled.set()
        await peer.sounds(b"said after")
        await peer.ends("t1", status=Status.CANCELLED)
        ping = await peer.hears(Ping)
        await peer.says(Pong(session_ms=1, event_id=ping.event_id))
        await peer.stays()

    async with connected(script) as client:
        turn = client.speak()
        await turn.append("Hello")
        with pytest.raises(ServerError) as caught:
            await turn.finish()
        assert caught.value.code == "text_overflow"
        with pytest.raises(ServerError):
            await turn.append("more")
        await cancelled.wait()
        await client.ping()
        assert client._link.unread == 0


@pytest.mark.parametrize("told", [True, False])
async def test_a_failed_turn_is_read_to_its_end_and_then_raises(told: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        if told:
            await peer.says(ErrorEvent(code=ErrorCode.ENGINE_RESTARTED, message="it died", turn="t1"))
        await peer.ends("t1", status=Status.FAILED, reason="engine")
        await peer.stays()

    async with connected(script) as client:
        turn = client.speak()
        assert isinstance(await anext(turn), TurnDone)
        with pytest.raises(ServerError, match="engine_restarted: it died" if told else "synthesis_failed: engine"):
            await anext(turn)
        assert turn.done is not None and turn.done.status is Status.FAILED


async def test_what_is_never_read_has_a_bound() -> None:
    cancelled = anyio.Event()

    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.starts("t1")
        for _ in range(11):
            await peer.sounds(bytes(100))
        await peer.hears(TurnCancel)
        cancelled.set()
        await peer.ends("t1", status=Status.CANCELLED)
        ping = await peer.hears(Ping)
        await peer.says(Pong(session_ms=1, event_id=ping.event_id))
        await peer.stays()

    async with connected(script, unread_bytes=1000) as client:
        turn = client.speak()
        with pytest.raises(Overrun, match="1100 bytes"):
            while True:
                await anyio.lowlevel.checkpoint()
                await turn.append("")
        await cancelled.wait()
        await client.ping()
        assert client._link.unread == 0


async def test_what_was_read_makes_room() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.starts("t1")
        for _ in range(30):
            await peer.sounds(bytes(500))
            ping = await peer.hears(Ping)
            await peer.says(Pong(session_ms=1, event_id=ping.event_id))
        await peer.ends("t1")
        await peer.stays()

    async with connected(script, unread_bytes=1000) as client:
        read = 0
        async for item in client.speak():
            if isinstance(item, AudioChunk):
                read += len(item.payload)
                await client.ping()
        assert read == 30 * 500, "more than may lie unread at once"


async def test_a_dropped_connection_ends_a_turn_after_what_had_come() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.starts("t1")
        await peer.sounds(b"last words")
        peer.socket.transport.abort()

    async with connected(script) as client:
        turn = client.speak()
        assert isinstance(await anext(turn), TurnStarted)
        assert isinstance(await anext(turn), AudioChunk)
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="closed abruptly"):
                await anext(turn)
        with pytest.raises(ConnectionLost):
            await turn.append("more")
        await turn.cancel()


async def test_text_that_waits_for_the_message_rate_is_not_sent_after_a_cancel() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens(Limits(messages_per_s=20))  # the second append waits for 62 ms
        await peer.hears(TurnStart)
        await peer.hears(TextAppend)
        await peer.starts("t1")
        await peer.hears(TurnCancel)
        await peer.ends("t1", status=Status.CANCELLED)
        await peer.hears(TurnStart)
        assert (await peer.hears(TextAppend)).text == "next"
        await peer.hears(TurnEnd)
        await peer.ends("t2", n=2)
        await peer.stays()

    async with connected(script) as client:
        turn = client.speak()
        await turn.append("first")
        await anext(turn)
        await turn.append("second")
        await anyio.wait_all_tasks_blocked()
        await turn.cancel()
        await turn.finish()
        await client.speak("next").finish()
