"""A call of two turns and a barge-in against the embedded model, with the TwiML and the signature of Twilio's own library."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from protocol.client import connect
from protocol.dialects.twilio_signature import is_signed, signature
from protocol.messages import Event, HeardSource, LegAttached, SpeechStarted, Status, TurnDone
from realtime.settings import Settings
from tests.dialects.phone import Phone
from tests.dialects.sdk import KEY, Served, served_mini
from tests.realtime.hearing_fixtures import recorded

pytestmark = [pytest.mark.torch, pytest.mark.anyio]

TOKEN = "12345678901234567890123456789012"
ONE = "The young doctor found the map in the basket."
TWO = "The captain sold the lantern, and the old pilot painted the boat, and the baker carried the ladder, and so it went on all day."
THREE = "The nurse forgot the clock."
FORM = {"CallSid": "CA1", "From": "+4930123456", "Caller Name": "Ä & B"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_two_turns_and_a_barge_in_on_the_telephone(tmp_path: Path) -> None:
    settings = Settings(port=0, keys=(SecretStr(KEY),), twilio_auth_token=SecretStr(TOKEN))
    with served_mini(settings) as served:
        with anyio.fail_after(110):
            dones = await _call(served, tmp_path)
        remembered = served.heard("The young doctor")
    one, two, three = dones
    assert one.status is Status.COMPLETED and three.status is Status.COMPLETED
    assert (two.status, two.reason, two.heard.source) == (Status.CANCELLED, "barge_in", HeardSource.MARK)
    assert TWO.startswith(two.heard.text) and 0 < len(two.heard.text) < len(TWO)
    assert remembered == " ".join(f"{ONE} {two.heard.text}".split()), "what was not heard is not remembered"


async def _call(served: Served, folder: Path) -> list[TurnDone]:
    events: list[Event] = []
    phone = Phone()
    async with (
        connect(served.url.replace("http", "ws", 1) + "/v1/live", token=KEY, on_event=events.append) as client,
        anyio.create_task_group() as tasks,
    ):
        url, parameters, signed = await anyio.to_thread.run_sync(_connected, served, folder, client.session.session)
        tasks.start_soon(phone.run, url.replace("wss:", "ws:"), parameters, {"X-Twilio-Signature": signed})
        while not any(isinstance(event, LegAttached) for event in events):
            await anyio.sleep(0.01)
        one = await client.speak([ONE]).finish()
        await phone.until(lambda: len(phone.heard) >= one.audio_ms * 8)
        before = len(phone.heard)
        turn = client.speak([TWO])
        await phone.until_heard(2000)
        phone.say(recorded("stop"))
        two = await turn.finish()
        await phone.until_cleared(1)
        assert phone.buffered == 0, "silence at once"
        assert abs((len(phone.heard) - before) / 8 - two.heard.ms) <= 250, (
            "what was heard is what the telephone has played"
        )
        assert phone.most_buffered / 8 <= 1100, "a lead of one second"
        spoke, *_ = [event for event in events if isinstance(event, SpeechStarted)]
        assert (spoke.leg, spoke.turn) == (1, two.turn)
        three = await client.speak([THREE]).finish()
        await client.close()
        await phone.until_ended()
        assert phone.code == 1000
    return [one, two, three]


def _connected(served: Served, folder: Path, session: str) -> tuple[str, dict[str, str], str]:
    """Where the TwiML of Twilio's library sends a call, with which parameters, and how its validator signs that."""
    form = {name: [value] for name, value in FORM.items()}
    ours = {
        "signature": signature(TOKEN, served.url.replace("http", "wss", 1) + "/twilio"),
        "webhook_signature": signature(TOKEN, "https://ivr.example/voice?x=1", form),
        "form": FORM,
    }
    found = served.client("twilio_sdk", folder, TOKEN, session, json.dumps(ours))
    assert found["ours_is_right"] and found["our_webhook_is_right"] and found["wrong_is_wrong"]
    assert is_signed(TOKEN, "https://ivr.example/voice?x=1", found["webhook_signature"], form)
    (stream,) = ElementTree.fromstring(found["twiml"]).iter("Stream")
    parameters = {item.attrib["name"]: item.attrib["value"] for item in stream.iter("Parameter")}
    return stream.attrib["url"], parameters, found["signature"]
