"""A telephone menu, called by a telephone without Twilio: real sockets, real time, and a caller whose speech was recorded."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import anyio
import pytest
from pydantic import SecretStr

from engine.api import Conversation, SamplingParams, Voice
from protocol.dialects.twilio_signature import signature
from realtime.ivr_menu import Item, Menu
from realtime.ivr_server import IvrOptions, IvrServer, stream_url
from realtime.scripted import Script, ScriptedEngine, ScriptedStream
from realtime.settings import Settings
from tests.dialects.phone import CALL, Phone
from tests.realtime.hearing_fixtures import recorded
from tests.realtime.sockets import KEY, serving

pytestmark = pytest.mark.anyio

TOKEN = "12345678901234567890123456789012"
FORM = {"CallSid": CALL, "From": "+4930123456", "To": "+4930654321", "Caller Name": "Ä & B"}
MENU = Menu(
    start="main",
    items={
        "main": Item(
            text="Press one for the time. Press two for a joke. Or press zero to end this.",
            keys={"1": "time", "0": "bye"},
        ),
        "time": Item(text="It is late.", next="main"),
        "bye": Item(text="Bye."),
    },
    not_understood="Keys, please.",
    no_such_key="No such key.",
    nobody_there="Nobody is there.",
    patience_s=1.0,
    repeats=0,
)


class Recording(ScriptedEngine):
    """It remembers what it was to say in each turn."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.by_turn: dict[int, ScriptedStream] = {}

    def open(self, conversation: Conversation, voice: Voice, params: SamplingParams, turn: int) -> ScriptedStream:
        self.by_turn[turn] = super().open(conversation, voice, params, turn)  # the warm-up's is 0, and others follow
        return self.by_turn[turn]


@dataclass
class Office:
    """The menu's program and the server that it speaks through."""

    webhook: str
    server: str
    spoken: list[str]  # text of each turn, as the engine was asked for it

    async def calls(self, signed_with: str | None = None) -> tuple[str, dict[str, str]]:
        """What Twilio is told to do with a call: where to, and with which parameters. Raises HTTPError."""
        headers = {}
        if signed_with is not None:
            form = {name: [value] for name, value in FORM.items()}
            headers["X-Twilio-Signature"] = signature(signed_with, self.webhook.replace("http:", "https:"), form)
        request = Request(self.webhook, urlencode(FORM).encode(), headers)
        answer = await anyio.to_thread.run_sync(_fetched, request)
        (stream,) = ElementTree.fromstring(answer).iter("Stream")
        return stream.attrib["url"], {item.attrib["name"]: item.attrib["value"] for item in stream.iter("Parameter")}


def _fetched(request: Request) -> bytes:
    try:
        with urlopen(request) as response:
            return bytes(response.read())
    except HTTPError as error:
        error.close()
        raise


@asynccontextmanager
async def office(settings: Settings | None = None, auth_token: str | None = None) -> AsyncIterator[Office]:
    engine = Recording(Script(step_s=0.001))
    with serving(engine, settings) as url:
        ws = url.replace("http", "ws", 1) + "/v1/live"
        key = KEY if settings is not None and settings.keys else None
        options = IvrOptions(ws, stream_url(ws), key, auth_token, "127.0.0.1", 0, MENU)
        async with anyio.create_task_group() as tasks:
            webhook = await tasks.start(IvrServer(options).run)
            place = Office(webhook, url, [])
            yield place
            tasks.cancel_scope.cancel()
        del engine.by_turn[0]
        place.spoken += [" ".join(stream.pushed) for _, stream in sorted(engine.by_turn.items())]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the websockets library knows no other


async def test_a_menu_is_interrupted_by_speech_and_by_a_key_and_goes_on() -> None:
    async with office(Settings(port=0, keys=(SecretStr(KEY),))) as place:
        url, parameters = await place.calls()
        assert parameters["token"].startswith("pcs_"), "the key is in no TwiML"
        phone = Phone()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(phone.run, url, parameters)
            await phone.until_heard(1500)
            phone.say(recorded("stop"))
            await phone.until_cleared(1)
            await phone.until_heard(400)  # it goes on
            phone.press("1")
            await phone.until_cleared(2)
            await phone.until_heard(200)
            phone.press("#")  # skips the time
            await phone.until_cleared(3)
            await phone.until_heard(200)
            phone.press("7")
            await phone.until_cleared(4)
            await phone.until_heard(200)
            phone.press("0")
            await phone.until_ended()
        assert phone.code == 1000
    menu = MENU.items["main"].text
    assert place.spoken[0] == menu
    assert place.spoken[1].startswith("Keys, please. Press") and menu.endswith(place.spoken[1][-20:])
    assert place.spoken[2:] == ["It is late.", menu, f"No such key. {menu}", "Bye."]


async def test_a_caller_who_does_nothing_is_asked_again_and_then_the_call_ends() -> None:
    async with office() as place:
        url, parameters = await place.calls()
        assert "token" not in parameters, "the server asks for none"
        phone = Phone()
        await phone.run(url, parameters)
        assert phone.code == 1000 and phone.clears == 0
    assert place.spoken == [MENU.items["main"].text, MENU.nobody_there]


async def test_a_caller_who_hangs_up_leaves_nothing_behind() -> None:
    async with office() as place:
        url, parameters = await place.calls()
        phone = Phone()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(phone.run, url, parameters)
            await phone.until_heard(100)
            phone.hang_up()
        assert phone.code == 1000


async def test_a_webhook_with_an_auth_token_answers_twilio_alone() -> None:
    async with office(Settings(port=0, twilio_auth_token=SecretStr(TOKEN)), TOKEN) as place:
        for signed_with in (None, "another token"):
            with pytest.raises(HTTPError) as refused:
                await place.calls(signed_with)
            assert refused.value.code == 403
        url, _ = await place.calls(TOKEN)
        assert url == stream_url(place.server.replace("http", "ws", 1))


async def test_a_call_that_cannot_be_spoken_to_is_refused() -> None:
    options = IvrOptions("ws://127.0.0.1:9/v1/live", "wss://voice.example/twilio", None, None, "127.0.0.1", 0, MENU)
    async with anyio.create_task_group() as tasks:
        webhook = await tasks.start(IvrServer(options).run)
        with pytest.raises(HTTPError) as refused:
            await Office(webhook, "", []).calls()
        assert refused.value.code == 503
        tasks.cancel_scope.cancel()
