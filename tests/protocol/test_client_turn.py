from __future__ import annotations

import re
from collections.abc import AsyncIterator
from textwrap import dedent, indent

import anyio
import pytest

import protocol.client
from protocol.audio_frame import Flag
from protocol.client import AudioChunk, Turn, TurnItem, connect
from protocol.config import SamplingConfig, Transport
from protocol.messages import (
    After,
    Alignment,
    AlignmentItem,
    Ping,
    Pong,
    Status,
    TextAppend,
    TextFlush,
    TurnDone,
    TurnEnd,
    TurnStart,
    TurnStarted,
    WarningCode,
    WarningEvent,
)
from protocol.schema import DOCUMENT, FOLDER
from tests.protocol.peer import Peer, connected, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the websockets library knows no other


async def items_of(turn: Turn) -> list[TurnItem]:
    return [item async for item in turn]


def sound(items: list[TurnItem]) -> bytes:
    return b"".join(item.payload for item in items if isinstance(item, AudioChunk))


async def one_turn(peer: Peer) -> None:
    """A whole turn: takes the text, answers with two packets."""
    await peer.opens()
    start = await peer.hears(TurnStart)
    assert start.turn is not None
    await peer.hears_text_until(TurnEnd)
    await peer.starts(start.turn)
    await peer.sounds(b"one")
    await peer.sounds(b"two", position=3)
    await peer.ends(start.turn)
    await peer.stays()


async def test_a_turn_is_its_events_and_its_audio_in_order() -> None:
    async with connected(one_turn) as client:
        turn = client.speak(["Hel", "lo."])
        items = await items_of(turn)
        assert [type(item) for item in items] == [TurnStarted, AudioChunk, AudioChunk, TurnDone]
        assert items[1:3] == [
            AudioChunk(turn.id, 1, 0, b"one", Flag.NONE),
            AudioChunk(turn.id, 1, 3, b"two", Flag.NONE),
        ]
        assert turn.done is items[-1]
        assert await items_of(turn) == []


async def test_any_object_with_asynchronous_iteration_gives_deltas() -> None:
    class Deltas:
        def __aiter__(self) -> Deltas:
            return self

        async def __anext__(self) -> str:
            raise StopAsyncIteration

    async with connected(one_turn) as client:
        assert sound(await items_of(client.speak(Deltas()))) == b"onetwo"


async def test_finishing_a_turn_reads_it_to_its_end() -> None:
    async with connected(one_turn) as client:
        done = await client.speak("Hello.").finish()
        assert done.status is Status.COMPLETED


@pytest.mark.parametrize(
    "pieces", [["Hello ", "there."], list("Hello there."), ["", "Hello there.", ""], ["x" * 9000]], ids=len
)
async def test_the_text_arrives_verbatim_however_it_was_cut(pieces: list[str]) -> None:
    received: list[str] = []

    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        texts, _ = await peer.hears_text_until(TurnEnd)
        received.extend(texts)
        await peer.ends("t1")
        await peer.stays()

    async with connected(script) as client:
        await client.speak(pieces).finish()
    assert "".join(received) == "".join(pieces)
    assert all(0 < len(text) <= 4096 for text in received)


async def test_many_small_deltas_leave_in_few_messages() -> None:
    received: list[str] = []

    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        texts, _ = await peer.hears_text_until(TurnEnd)
        received.extend(texts)
        await peer.ends("t1")
        await peer.stays()

    async with connected(script) as client:
        await client.speak(["x"] * 5000).finish()
    assert "".join(received) == "x" * 5000
    assert len(received) < 100


async def test_an_emoji_cut_between_two_deltas_is_one_character() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        texts, _ = await peer.hears_text_until(TurnEnd)
        assert "".join(texts) == "a😀b"
        await peer.ends("t1")
        await peer.stays()

    async with connected(script) as client:
        await client.speak(["a\ud83d", "\ude00b\ud83d"]).finish()


async def test_audio_is_read_while_the_text_is_still_being_written() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.hears(TextAppend)
        await peer.starts("t1")
        await peer.sounds(b"early")
        assert (await peer.hears(TextAppend)).text == "Second."
        await peer.hears(TurnEnd)
        await peer.ends("t1")
        await peer.stays()

    heard_something = anyio.Event()

    async def deltas() -> AsyncIterator[str]:
        yield "First. "
        await heard_something.wait()
        yield "Second."

    async with connected(script) as client:
        async for item in client.speak(deltas()):
            if isinstance(item, AudioChunk):
                heard_something.set()
        assert heard_something.is_set()


async def test_a_server_that_does_not_read_and_a_client_that_does_not_listen_do_not_block_each_other() -> None:
    packet = bytes(100_000)

    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.starts("t1")
        for _ in range(200):  # 20 MB: more than the kernel holds, so somebody has to read it
            await peer.sounds(packet)
        texts, _ = await peer.hears_text_until(TurnEnd)
        assert sum(map(len, texts)) == 60_000
        await peer.ends("t1")
        await peer.stays()

    async with connected(script) as client:
        turn = client.speak()
        for _ in range(6):
            await turn.append("x" * 10_000)
        turn.end()
        while turn.done is None:
            await anyio.lowlevel.checkpoint()
        assert sound(await items_of(turn)) == packet * 200


async def test_options_of_a_turn_reach_the_server() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        start = await peer.hears(TurnStart)
        assert (start.voice, start.after, start.sampling) == ("anna", After.INTERRUPT, SamplingConfig(top_k=1))
        assert start.sampling is not None and start.sampling.model_fields_set == {"top_k"}
        await peer.ends("t1")
        await peer.stays()

    async with connected(script) as client:
        await client.speak(voice="anna", sampling=SamplingConfig(top_k=1), after=After.INTERRUPT).finish()


async def test_a_flush_stays_between_the_texts_it_was_called_between() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        before, _ = await peer.hears_text_until(TextFlush)
        after, _ = await peer.hears_text_until(TurnEnd)
        assert ("".join(before), "".join(after)) == ("Wait", " a moment")
        await peer.ends("t1")
        await peer.stays()

    async with connected(script) as client:
        turn = client.speak()
        await turn.append("Wait")
        turn.flush()
        await turn.append(" a moment")
        turn.end()
        turn.end()
        turn.flush()
        await turn.append("dropped")
        await turn.finish()


async def test_ending_a_turn_does_not_wait_for_deltas_that_have_not_come() -> None:
    closed = anyio.Event()

    async def deltas() -> AsyncIterator[str]:
        try:
            yield "Hello."
            await anyio.sleep_forever()
        finally:
            closed.set()

    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        assert (await peer.hears(TextAppend)).text == "Hello."
        await peer.starts("t1")
        await peer.hears(TurnEnd)
        await peer.ends("t1")
        await peer.stays()

    async with connected(script) as client:
        turn = client.speak(deltas())
        async for item in turn:
            if isinstance(item, TurnStarted):
                turn.end()
        await closed.wait()


async def test_text_after_the_end_of_a_turn_that_the_server_ended_is_dropped() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.ends("t1", status=Status.CANCELLED, reason="superseded")
        ping = await peer.hears(Ping)
        await peer.says(Pong(session_ms=1, event_id=ping.event_id))
        await peer.stays()

    async with connected(script) as client:
        turn = client.speak()
        done = await turn.finish()
        assert (done.status, done.reason) == (Status.CANCELLED, "superseded")
        await turn.append("late")
        turn.flush()
        turn.end()
        await client.ping()  # the next thing the server hears


async def test_words_and_warnings_of_a_turn_come_with_it() -> None:
    words = Alignment(turn="t1", items=(AlignmentItem("Hello", 0, 300, 0, 5),), final=True)
    warning = WarningEvent(code=WarningCode.UNDERRUN, turn="t1", message="short by 40 ms")

    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.says(words)
        await peer.says(warning)
        await peer.ends("t1")
        await peer.stays()

    async with connected(script) as client:
        assert (await items_of(client.speak()))[:2] == [words, warning]


async def test_audio_in_json_is_audio() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.starts("t1", n=4)
        await peer.sounds(b"\x00\xff", n=4, position=9, transport=Transport.JSON)
        await peer.ends("t1", n=4)
        await peer.sounds(b"late", n=4, transport=Transport.JSON)
        ping = await peer.hears(Ping)
        await peer.says(Pong(session_ms=1, event_id=ping.event_id))
        await peer.stays()

    async with connected(script) as client:
        items = await items_of(client.speak())
        assert items[1] == AudioChunk("t1", 4, 9, b"\x00\xff", Flag.NONE)
        await client.ping()


async def test_audio_of_two_turns_goes_to_each() -> None:
    async def script(peer: Peer) -> None:
        await peer.opens()
        await peer.hears(TurnStart)
        await peer.hears(TurnStart)
        await peer.starts("t1", n=1)
        await peer.sounds(b"one", n=1)
        await peer.starts("t2", n=2)
        await peer.sounds(b"two", n=2)
        await peer.sounds(b"whose?", n=3)
        await peer.ends("t1", n=1)
        await peer.sounds(b"over", n=1)
        await peer.ends("t2", n=2)
        await peer.stays()

    async with connected(script) as client:
        first, second = client.speak(), client.speak()
        assert sound(await items_of(second)) == b"two"
        assert sound(await items_of(first)) == b"one"


DOCUMENTED = {
    "PROTOCOL.md": re.findall(r"```python\n(.*?)```", (FOLDER / DOCUMENT).read_text("utf-8"), re.DOTALL),
    "protocol.client": re.findall(r"\n\n((?:    .*\n)+)\n", protocol.client.__doc__ or ""),
}


@pytest.mark.parametrize("where", DOCUMENTED)
async def test_the_documented_example_plays_the_audio(where: str) -> None:
    (example,) = DOCUMENTED[where]
    played: list[bytes] = []
    async with serving(one_turn) as url:
        body = indent(dedent(example).replace("ws://127.0.0.1:8300/v1/live", url), "    ")
        names = {"connect": connect, "AudioChunk": AudioChunk, "play": played.append, "deltas": ["Hello."]}
        exec(f"async def example():\n{body}", names)
        await names["example"]()  # type: ignore[operator]
    assert played == [b"one", b"two"]
