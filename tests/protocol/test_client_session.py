from __future__ import annotations

import http
from collections.abc import AsyncIterator

import anyio
import pytest
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from protocol.audio_frame import Flag, Kind, pack, unpack
from protocol.client import ConnectionLost, Refused, ServerError, connect
from protocol.config import AudioConfig, Latency, Limits, PacingConfig, SessionConfig, Transport
from protocol.errors import ErrorCode
from protocol.messages import (
    AudioInput,
    ClosingReason,
    ContextClear,
    ContextUpdated,
    ErrorEvent,
    Event,
    Ping,
    Pong,
    Scope,
    SessionClose,
    SessionClosing,
    SessionUpdate,
    SessionUpdated,
    Status,
    TextAppend,
    TurnCancel,
    TurnDone,
    TurnEnd,
    TurnStart,
    TurnStarted,
    WarningEvent,
)
from tests.protocol.peer import Peer, connected, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the websockets library knows no other


async def only_opens(peer: Peer) -> None:
    await peer.opens()
    await peer.stays()


async def test_the_session_is_known_from_the_start() -> None:
    async with connected(only_opens) as client:
        assert (client.session.session, client.config) == ("s1", SessionConfig())


async def test_a_token_travels_in_the_header_and_the_subprotocol_is_asked_for() -> None:
    seen: list[tuple[str | None, str | None]] = []

    async def script(peer: Peer) -> None:
        assert peer.socket.request is not None
        seen.append((peer.socket.request.headers.get("Authorization"), peer.socket.subprotocol))
        await only_opens(peer)

    async with connected(script, token="key"), connected(script):
        pass
    assert seen == [("Bearer key", "live.v1"), (None, "live.v1")]


@pytest.mark.parametrize("body", ["wrong key\n", ""])
async def test_a_refused_handshake_says_with_what(body: str) -> None:
    def refuse(socket: ServerConnection, request: Request) -> Response:
        response = socket.respond(http.HTTPStatus.UNAUTHORIZED, body)
        return response

    async with serving(only_opens, refuse) as url:
        with pytest.raises(Refused, match=f"401: {body.strip() or 'no reason given'}") as caught:
            async with connect(url):
                pass
    assert caught.value.status == 401


@pytest.mark.parametrize(("told", "retry_after_s"), [("7", 7.0), ("Sat, 21 Nov 2026 21:30:00 GMT", None), (None, None)])
async def test_a_refused_handshake_says_when_to_come_again(told: str | None, retry_after_s: float | None) -> None:
    def refuse(socket: ServerConnection, request: Request) -> Response:
        response = socket.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "full")
        if told is not None:
            response.headers["Retry-After"] = told
        return response

    async with serving(only_opens, refuse) as url:
        with pytest.raises(Refused) as caught:
            async with connect(url):
                pass
    assert caught.value.retry_after_s == retry_after_s


async def test_a_server_that_is_not_there_refuses() -> None:
    async with serving(only_opens) as url:
        pass
    with pytest.raises(Refused, match=url) as caught:
        async with connect(url):
            pass
    assert caught.value.status is None


async def test_a_server_that_opens_no_session_in_time_refuses() -> None:
    async with serving(Peer.stays) as url:
        with pytest.raises(Refused, match="no session"):
            async with connect(url, open_timeout_s=0.05):
                pass


async def test_an_error_in_place_of_a_session_is_raised() -> None:
    async def script(peer: Peer) -> None:
        await peer.says(ErrorEvent(code=ErrorCode.NO_CAPACITY, message="full", fatal=True, retry_after_ms=900))
        await peer.socket.close(4503)

    async with serving(script) as url:
        with pytest.raises(ServerError) as caught:
            async with connect(url):
                pass
    assert (caught.value.code, caught.value.event.retry_after_ms) == ("no_capacity", 900)


async def test_a_connection_that_closes_before_the_session_is_lost() -> None:
    async def script(peer: Peer) -> None:
        await peer.socket.close(1011, "oops")

    async with serving(script) as url:
        with pytest.raises(ConnectionLost, match="closed with 1011: oops"):
            async with connect(url):
                pass


async def updates(peer: Peer) -> None:
    """Carries out one session.update."""
    await peer.opens()
    update = await peer.hears(SessionUpdate)
    config = SessionConfig(latency=update.latency, pacing=update.pacing)
    await peer.says(SessionUpdated(config=config, from_turn=1, pre_skip=312, event_id=update.event_id))
    await peer.stays()


async def test_a_configuration_is_in_effect_when_the_block_begins() -> None:
    async with connected(updates, config=SessionUpdate(latency=Latency.QUALITY)) as client:
        assert client.config.latency is Latency.QUALITY


async def test_an_update_sends_what_was_set_and_returns_the_answer() -> None:
    async with connected(updates) as client:
        updated = await client.update(SessionUpdate(pacing=PacingConfig(lead_ms=5)))
        assert updated.config.pacing.lead_ms == 5
        assert client.config == updated.config


async def test_a_refused_update_raises_and_the_session_goes_on() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        update = await peer.hears(SessionUpdate)
        await peer.says(ErrorEvent(code=ErrorCode.INVALID_VALUE, message="no", param="voice", event_id=update.event_id))
        ping = await peer.hears(Ping)
        await peer.says(Pong(session_ms=7, event_id=ping.event_id))
        await peer.stays()

    async with connected(script) as client:
        with pytest.raises(ServerError, match=r"invalid_value \(voice\): no"):
            await client.update(SessionUpdate(voice="nobody"))
        assert (await client.ping()).session_ms == 7


async def test_audio_without_labels_is_not_asked_for() -> None:
    async with connected(only_opens) as client:
        with pytest.raises(ValueError, match="raw"):
            await client.update(SessionUpdate(audio=AudioConfig(transport=Transport.RAW)))


async def test_every_ping_gets_its_own_pong() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        first, second = await peer.hears(Ping), await peer.hears(Ping)
        await peer.says(Pong(session_ms=2, event_id=second.event_id))
        await peer.says(Pong(session_ms=1, event_id=first.event_id))
        await peer.stays()

    answers: dict[str, int] = {}
    async with connected(script) as client, anyio.create_task_group() as group:

        async def ask(name: str) -> None:
            answers[name] = (await client.ping()).session_ms

        group.start_soon(ask, "first")
        group.start_soon(ask, "second")
    assert answers == {"first": 1, "second": 2}


async def test_the_context_can_be_cleared() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        clear = await peer.hears(ContextClear)
        assert clear.keep_voice is False
        await peer.says(ContextUpdated(turns=0, audio_s=0, text_chars=0, event_id=clear.event_id))
        await peer.stays()

    async with connected(script) as client:
        assert (await client.clear_context(keep_voice=False)).turns == 0


async def test_an_answer_of_the_wrong_kind_ends_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        ping = await peer.hears(Ping)
        await peer.says(ContextUpdated(turns=0, audio_s=0, text_chars=0, event_id=ping.event_id))
        await peer.stays()

    async with connected(script) as client:
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="ping was answered by ContextUpdated"):
                await client.ping()


async def test_cancelling_the_session_cancels_every_turn() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.hears(TextAppend)
        await peer.starts("t1")
        await peer.hears(TurnStart)
        cancel = await peer.hears(TurnCancel)
        assert (cancel.turn, cancel.scope, cancel.played_ms, cancel.reason) == ("t1", Scope.ALL, 40, "user")
        await peer.ends("t1", status=Status.CANCELLED)
        await peer.ends("t2", n=2, status=Status.CANCELLED)
        ping = await peer.hears(Ping)
        await peer.says(Pong(session_ms=1, event_id=ping.event_id))
        await peer.stays()

    async with connected(script) as client:
        first = client.speak()
        await first.append("Hello")
        await anext(first)
        second = client.speak("Never sent.")
        await client.cancel(played_ms=40)
        assert [(await turn.finish()).turn for turn in (first, second)] == ["t1", "t2"]
        await client.cancel()  # nothing to cancel: the next thing the server hears is the ping
        await client.ping()


async def test_closing_waits_until_the_server_has_said_everything() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.hears_text_until(TurnEnd)
        assert (await peer.hears(SessionClose)).drain is True
        await peer.ends("t1")

    async with connected(script) as client:
        turn = client.speak("Goodbye.")
        async with anyio.create_task_group() as group:
            group.start_soon(turn.finish)
            await anyio.wait_all_tasks_blocked()
            await client.close()
        assert turn.done is not None
        with pytest.raises(ConnectionLost, match="closed with 1000"):
            await client.ping()


async def test_a_call_that_waits_when_the_connection_drops_raises() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(Ping)
        await peer.socket.close(1012, "restart")

    async with connected(script) as client:
        with pytest.raises(ConnectionLost, match="closed with 1012: restart") as caught:
            await client.ping()
        assert caught.value.code == 1012
        with pytest.raises(ConnectionLost):
            await client.speak("Hello.").finish()


async def test_sending_into_a_dropped_connection_raises_what_is_known() -> None:
    async with connected(only_opens) as client:
        client._socket.transport.abort()
        with pytest.raises(ConnectionLost):
            while True:
                await client._link.post(Ping())
        with pytest.raises(ConnectionLost):
            await client.ping()


async def test_a_fatal_error_is_what_everybody_is_told() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.says(ErrorEvent(code=ErrorCode.SESSION_EXPIRED, message="too old", fatal=True))
        await peer.socket.close(4410)

    async with connected(script) as client:
        turn = client.speak()
        with pytest.raises(ServerError, match="session_expired: too old"):
            await turn.finish()
        with pytest.raises(ServerError, match="session_expired"):
            await client.ping()


@pytest.mark.parametrize(
    "message",
    [
        "oops",
        '{"type":"pong","session_ms":-1}',
        b"short",
        '{"type":"audio","turn":"t1","n":1,"flags":0,"position":0,"data":"?"}',
    ],
)
async def test_what_is_no_message_of_the_protocol_ends_the_connection(message: str | bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.socket.send(message)
        await peer.stays()

    async with connected(script) as client:
        with pytest.raises(ConnectionLost, match="no message of the protocol"):
            await client.speak().finish()


async def test_what_a_later_server_says_is_ignored() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.socket.send('{"type":"turn.sung","turn":"t1","at_ms":3}')
        await peer.starts("t1")
        await peer.socket.send(b"\x09" + bytes(15))
        await peer.socket.send(pack(Kind.UPLINK, Flag.NONE, 0, 1, 0, b"yours"))
        await peer.ends("t1")
        await peer.stays()

    async with connected(script) as client:
        items = [item async for item in client.speak()]
        assert [type(item) for item in items] == [TurnStarted, TurnDone]


async def test_what_concerns_no_turn_and_no_call_goes_to_the_callback() -> None:
    events: list[Event] = [
        SessionClosing(reason=ClosingReason.IDLE, in_ms=500, message="nobody is here"),
        WarningEvent(code="moon", message="it is full"),
        ErrorEvent(code=ErrorCode.INVALID_VALUE, message="something"),
        SessionUpdated(config=SessionConfig(voice="anna"), from_turn=3, pre_skip=0),
    ]

    async def script(peer: Peer) -> None:
        await peer.opens()
        for event in events:
            await peer.says(event)
        ping = await peer.hears(Ping)
        await peer.says(Pong(session_ms=1, event_id=ping.event_id))
        await peer.stays()

    seen: list[Event] = []
    async with connected(script, on_event=seen.append) as client:
        await client.ping()
        assert seen == events
        assert client.config.voice == "anna"


async def test_events_of_turns_that_are_not_the_clients_go_to_the_callback() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.starts("theirs", n=9)
        await peer.sounds(b"theirs", n=9)
        await peer.ends("theirs", n=9)
        ping = await peer.hears(Ping)
        await peer.says(Pong(session_ms=1, event_id=ping.event_id))
        await peer.stays()

    seen: list[Event] = []
    async with connected(script, on_event=seen.append) as client:
        await client.ping()
        assert [event.type for event in seen] == ["turn.started", "turn.done"]


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    cause = KeyError("why")
    with pytest.raises(LookupError, match="mine") as caught:
        async with connected(only_opens):
            raise LookupError("mine") from cause
    assert caught.value.__cause__ is cause


async def test_what_the_block_and_the_callback_raise_comes_out_together() -> None:
    def fails(event: Event) -> None:
        raise LookupError("callback")

    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.says(WarningEvent(code="moon", message="it is full"))
        await peer.stays()

    with pytest.raises(BaseExceptionGroup) as caught:
        async with connected(script, on_event=fails):
            try:
                await anyio.sleep_forever()
            finally:
                raise KeyError("block")
    assert {type(error) for error in caught.value.exceptions} == {LookupError, KeyError}


async def test_text_keeps_below_the_message_rate_of_the_server() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens(Limits(append_chars=1))
        await peer.hears(TurnStart)
        began = anyio.current_time()
        texts, _ = await peer.hears_text_until(TurnEnd)
        assert len(texts) == 60
        assert len(texts) / (anyio.current_time() - began) <= 200
        await peer.ends("t1")
        await peer.stays()

    async with connected(script) as client:
        await client.speak("x" * 60).finish()


async def test_leaving_the_block_closes_the_connection_and_stops_the_deltas() -> None:
    left = anyio.Event()

    async def deltas() -> AsyncIterator[str]:
        try:
            yield "Hello."
            await anyio.sleep_forever()
        finally:
            left.set()

    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.hears(TextAppend)
        await peer.starts("t1")
        await peer.stays()
        assert peer.socket.protocol.close_code == 1000

    async with connected(script) as client:
        await anext(client.speak(deltas()))
    assert left.is_set()


async def test_what_a_microphone_hears_has_its_place_in_the_recording() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        assert (await peer.hears(AudioInput)).rate == 8000
        frames = [unpack(await peer.socket.recv()) for _ in range(3)]
        assert [(frame.kind, frame.flags, frame.position, frame.payload) for frame in frames] == [
            (Kind.UPLINK, Flag.FIRST, 0, b"one"),
            (Kind.UPLINK, Flag.NONE, 160, b"two"),
            (Kind.UPLINK, Flag.LAST, 320, b""),
        ]
        await is_still_there(peer)

    async def is_still_there(peer: Peer) -> None:
        ping = await peer.hears(Ping)
        await peer.says(Pong(session_ms=1, event_id=ping.event_id))
        await peer.stays()

    async with connected(script) as client:
        microphone = await client.listen(AudioInput(format="mulaw", rate=8000))
        for payload in (b"one", b"two"):
            await microphone.hear(payload, 160)
        await microphone.close()
        await client.ping()
