"""Calls to a real server over real sockets: who may call, which session a call is a leg of, and how it ends."""

from __future__ import annotations

import json
from urllib.request import Request, urlopen

import anyio
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from protocol.client import connect
from protocol.config import Limits
from protocol.dialects.twilio_signature import signature
from protocol.messages import Dtmf, Event, LegAttached, LegDetached, Status
from realtime.scripted import Script, ScriptedEngine
from realtime.settings import Settings
from tests.dialects.phone import CALL, Phone, call_into_a_session, start
from tests.realtime.sockets import KEY, RIGHT, WRONG, live, serving

pytestmark = pytest.mark.anyio

OTHER_KEY = "another-key-for-the-tests"
TOKEN = "12345678901234567890123456789012"
KEYS = Settings(port=0, keys=(SecretStr(KEY), SecretStr(OTHER_KEY)))
SIGNED = Settings(port=0, keys=(SecretStr(KEY), SecretStr(OTHER_KEY)), twilio_auth_token=SecretStr(TOKEN))
LONG = "This is a long greeting that nobody wants to hear to its end, but it goes on and on, as such greetings do."


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the websockets library knows no other


def engine() -> ScriptedEngine:
    return ScriptedEngine(Script(step_s=0.001))


def twilio(url: str, session: str = "") -> str:
    return url.replace("http", "ws", 1) + (f"/s/{session}" if session else "") + "/twilio"


async def answer_to(url: str, parameters: dict[str, str], headers: dict[str, str] | None = None) -> int:
    """HTTP's status of a refused handshake, else the close code of a call that begins so, or 0: it is taken."""
    try:
        async with open_socket(url, additional_headers=headers, proxy=None) as ws:
            for message in start(parameters):
                await ws.send(message)
            with anyio.move_on_after(0.3):
                await ws.recv()
    except InvalidStatus as refused:
        return refused.response.status_code
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd is not None else 1006
    return 0


async def test_a_call_without_a_session_says_its_greeting_and_is_interrupted() -> None:
    with serving(engine()) as url:
        phone = Phone()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(phone.run, twilio(url), {"text": LONG, "dtmf": "cancel"})
            await phone.until_heard(500)
            phone.press("1")
            await phone.until_cleared(1)
            assert phone.buffered == 0
            phone.hang_up()
        assert phone.code == 1000


async def test_a_call_is_a_leg_of_the_session_that_its_parameter_names() -> None:
    with serving(engine(), KEYS) as url:
        _, keys = await call_into_a_session(live(url), twilio(url))
    assert keys == [Dtmf(leg=1, digit="4", action="none")]


async def test_whoever_speaks_in_a_named_session_speaks_to_its_call() -> None:
    with serving(engine()) as url:
        phone = Phone()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(phone.run, twilio(url, "talk"), {"text": "Hello."})
            await phone.until_heard(100)
            heard = len(phone.heard)
            body = json.dumps({"input": "Said by a client of another vendor.", "response_format": "pcm"}).encode()
            request = Request(f"{url}/s/talk/v1/audio/speech", body, {"Content-Type": "application/json"})
            answer = await anyio.to_thread.run_sync(lambda: urlopen(request).read())
            assert answer == b"", "its sound goes to the call"
            await phone.until(lambda: len(phone.heard) >= heard + 600 * 8)  # perhaps it was, before the answer came
            phone.hang_up()
        assert phone.heard.strip(b"\xff")


async def test_a_session_that_is_closed_ends_the_call_once_it_was_heard() -> None:
    events: list[Event] = []
    with serving(engine()) as url:
        phone = Phone()
        async with anyio.create_task_group() as tasks, connect(live(url), on_event=events.append) as client:
            tasks.start_soon(phone.run, twilio(url), {"session": client.session.session})
            while not any(isinstance(event, LegAttached) for event in events):
                await anyio.sleep(0.01)
            done = await client.speak(["Good bye, and thank you for calling us today."]).finish()
            await client.close()
            assert phone.code is None and phone.buffered, "it is still being heard"
            await phone.until_ended()
        assert phone.code == 1000
        assert len(phone.heard) >= done.audio_ms * 8


@pytest.mark.parametrize(
    ("parameters", "headers", "answer"),
    [
        ({}, {}, 1008),
        ({"token": "wrong"}, {}, 1008),
        ({"token": KEY}, {}, 0),
        ({}, RIGHT, 0),
        ({}, WRONG, 401),
        ({"token": OTHER_KEY, "session": "s-1"}, {}, 0),
        ({"token": KEY, "session": "no such name!"}, {}, 1008),
        ({"token": KEY, "barge_in": "never"}, {}, 1008),
    ],
)
async def test_a_call_shows_a_key(parameters: dict[str, str], headers: dict[str, str], answer: int) -> None:
    with serving(engine(), KEYS) as url:
        assert await answer_to(twilio(url), parameters, headers) == answer


async def test_a_client_secret_lets_one_call_in() -> None:
    with serving(engine(), KEYS) as url:
        request = Request(f"{url}/v1/sessions", b"", RIGHT)
        made = json.loads(await anyio.to_thread.run_sync(lambda: urlopen(request).read()))
        assert await answer_to(twilio(url), {"token": made["client_secret"]}) == 0
        assert await answer_to(twilio(url), {"token": made["client_secret"]}) == 1008


async def test_a_session_belongs_to_the_key_that_made_it() -> None:
    with serving(engine(), KEYS) as url:
        async with connect(live(url), token=KEY) as client:
            for name in (client.session.session, "talk"):
                await answer_to(twilio(url), {"token": KEY, "session": name})
                assert await answer_to(twilio(url), {"token": OTHER_KEY, "session": name}) == 1008
        assert await answer_to(twilio(url, "talk"), {"token": KEY, "session": "other"}) == 1008


async def test_with_an_auth_token_every_call_is_signed_and_needs_no_key() -> None:
    with serving(engine(), SIGNED) as url:
        for session in ("", "talk"):
            address = twilio(url, session)
            wss = address.replace("ws:", "wss:")
            assert await answer_to(address, {}, {"X-Twilio-Signature": signature(TOKEN, wss)}) == 0
            assert await answer_to(address, {}, {"X-Twilio-Signature": signature(TOKEN, wss + "x")}) == 403
            assert await answer_to(address, {"token": KEY}, RIGHT) == 403
        async with connect(live(url), token=KEY) as client:
            signed = {"X-Twilio-Signature": signature(TOKEN, twilio(url).replace("ws:", "wss:"))}
            assert await answer_to(twilio(url), {"session": client.session.session}, signed) == 0


async def test_a_signature_is_over_the_public_address() -> None:
    settings = SIGNED.model_copy(update={"public_url": "https://voice.example"})
    with serving(engine(), settings) as url:
        right = {"X-Twilio-Signature": signature(TOKEN, "wss://voice.example/twilio")}
        assert await answer_to(twilio(url), {}, right) == 0
        local = {"X-Twilio-Signature": signature(TOKEN, twilio(url).replace("ws:", "wss:"))}
        assert await answer_to(twilio(url), {}, local) == 403


async def test_a_call_that_does_not_begin_is_closed() -> None:
    with serving(engine(), Settings(port=0, limits=Limits(unauthenticated_s=1))) as url:
        async with open_socket(twilio(url), proxy=None) as ws:
            with pytest.raises(ConnectionClosed) as closed:
                await ws.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


async def test_a_call_that_is_lost_cancels_its_speech_and_the_session_stays() -> None:
    events: list[Event] = []
    with serving(engine()) as url:
        async with connect(live(url), on_event=events.append) as client:
            async with open_socket(twilio(url), proxy=None) as ws:
                for message in start({"session": client.session.session}):
                    await ws.send(message)
                while not any(isinstance(event, LegAttached) for event in events):
                    await anyio.sleep(0.01)
                turn = client.speak([LONG])
                await ws.recv()
                ws.transport.abort()
            done = await turn.finish()
            assert (done.status, done.reason) == (Status.CANCELLED, "hangup")
            (gone,) = [event for event in events if isinstance(event, LegDetached)]
            assert (gone.call, gone.reason) == (CALL, "lost")
            assert (await client.speak(["And now here."]).finish()).status is Status.COMPLETED
