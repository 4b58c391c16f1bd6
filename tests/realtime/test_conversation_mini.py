"""A long conversation with the embedded model: after thirty turns and ten barge-ins it holds exactly what was heard, text and sound.

Everything is real: the engine in its own process, the server, the client, sockets. Only the listener is quicker than life.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.abc
import pytest
from anyio.from_thread import start_blocking_portal

from engine.api import Conversation, EngineLimits, SamplingParams, Voice
from engine.commands import WorkerSpec
from engine.front import StreamHandle
from engine.hub import resolve
from engine.process import EngineProcess
from protocol.client import AudioChunk, Client, Turn, connect
from protocol.commands import PlaybackState
from protocol.config import Clock, HistoryConfig, PacingConfig
from protocol.messages import Heard, SessionUpdate, Status
from realtime.server import serve
from realtime.settings import Settings

pytestmark = pytest.mark.torch

TURNS = 30
HALF_A_WORD_MS = 500
PATIENCE_S = 120.0  # a turn takes one second on a machine with nothing else to do
PEOPLE = ("baker", "old pilot", "nurse", "captain", "young doctor", "sailor")
DEEDS = ("found", "sold", "painted", "carried", "forgot")
THINGS = ("lantern", "map", "violin", "basket", "boat", "ladder", "clock")
CONFIG = SessionUpdate(
    pacing=PacingConfig(lead_ms=30_000, burst_ms=30_000, clock=Clock.ACK),
    history=HistoryConfig(max_s=120.0, max_turns=500),
)


class Watched(EngineProcess):
    """The real engine; it remembers with which conversation each turn was opened."""

    conversations: list[Conversation]

    def open(self, conversation: Conversation, voice: Voice, params: SamplingParams, turn: int) -> StreamHandle:
        self.conversations.append(conversation)
        return super().open(conversation, voice, params, turn)


@contextmanager
def served_mini() -> Iterator[tuple[str, Watched]]:
    """The server's WebSocket address, and its engine (look at it only while nothing speaks)."""
    engines: list[Watched] = []

    @asynccontextmanager
    async def engine() -> AsyncIterator[Watched]:
        model = resolve("mini", None, None, lambda progress: None)
        spec = WorkerSpec(model.folder, model.name, "cpu", "float32", EngineLimits(threads=1), None)
        running = await Watched.start(spec)
        assert isinstance(running, Watched)
        running.conversations = []
        engines.append(running)
        try:
            yield running
        finally:
            await running.close()

    async def run(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        await serve(Settings(port=0), engine, listening=task_status.started)

    with start_blocking_portal() as portal:
        server, url = portal.start_task(run)
        try:
            yield url.replace("http", "ws") + "/v1/live", engines[0]
        finally:
            server.cancel()


@dataclass
class Spoken:
    """One turn as it ended."""

    text: str
    heard: Heard
    status: Status


async def heard_whole(turn: Turn) -> None:
    done = await turn.finish()
    await turn.played(done.audio_ms, PlaybackState.ENDED)


async def interrupted_while_it_speaks(client: Client, turn: Turn) -> None:
    """After half of the sound that has come, in the middle of a word or not."""
    async for item in turn:
        if isinstance(item, AudioChunk) and item.position >= client.config.audio.output.rate // 2:
            await client.interrupt(turn, played_ms=round(500 * item.position / client.config.audio.output.rate))
            return


async def interrupted_before_anything_was_heard(client: Client, turn: Turn) -> None:
    async for item in turn:
        if isinstance(item, AudioChunk):
            await client.interrupt(turn, played_ms=0)
            return


async def interrupted_when_it_was_done(client: Client, turn: Turn) -> None:
    """All of it was sent, and the listener was in the middle of it."""
    done = await turn.finish()
    assert done.status is Status.COMPLETED
    await client.interrupt(turn, played_ms=done.audio_ms // 2)


BARGE_INS = [interrupted_while_it_speaks] * 5 + [
    interrupted_before_anything_was_heard,
    interrupted_when_it_was_done,
] * 2
BARGE_INS += [interrupted_while_it_speaks]


async def conversation(url: str) -> list[Spoken]:
    spoken: list[Spoken] = []
    async with connect(url, config=CONFIG) as client:
        barge_ins = iter(BARGE_INS)
        for number in range(TURNS):
            text = f"The {PEOPLE[number % 6]} {DEEDS[number % 5]} the {THINGS[number % 7]}."
            turn = client.speak(text)
            with anyio.fail_after(PATIENCE_S):
                await (next(barge_ins)(client, turn) if number % 3 == 1 else heard_whole(turn))
            assert turn.heard is not None and turn.done is not None
            spoken.append(Spoken(text, turn.heard, turn.done.status))
        assert next(barge_ins, None) is None
        await client.speak("The end.").finish()  # it is opened with what all the others left
    return spoken


def test_thirty_turns_and_ten_barge_ins_leave_exactly_what_was_heard() -> None:
    with served_mini() as (url, engine):
        spoken = anyio.run(partial(conversation, url))
        history = engine.conversations[-1].history
        frame_ms = 1000 * engine.info.frame_s
    assert [turn.text for turn in spoken] == [turn.heard.text + turn.heard.remaining for turn in spoken]
    cut = [turn for turn in spoken if turn.heard.remaining]
    assert len(cut) == 10
    heard = [turn.heard for turn in spoken if turn.heard.text]
    # None of these sentences is longer than a segment: a turn that was heard is a segment of the history, and one that was not is none.
    assert [segment.text.strip() for segment in history] == [turn.text.strip() for turn in heard]
    for segment, turn in zip(history, heard, strict=True):
        kept_ms = segment.codes.shape[1] * frame_ms
        if turn.remaining:  # the sound is cut with its last word, of which half may be missing
            assert 0 < kept_ms <= turn.ms + HALF_A_WORD_MS
        else:
            assert kept_ms == pytest.approx(turn.ms, abs=1)
    # Nobody's words are lost: what was heard to its end is kept whole.
    assert sum(turn.status is Status.COMPLETED for turn in spoken) >= 20
