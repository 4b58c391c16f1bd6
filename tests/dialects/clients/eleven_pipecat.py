"""pipecat's ElevenLabs service: two turns, the second of which is interrupted, and a third.

With `http`: the one over HTTP; with `dialogue`: the one for eleven_v3.
"""

import asyncio
import json
import os
import sys
import time
import traceback

import aiohttp
from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.elevenlabs.dialogue.tts import ElevenLabsDialogueTTSService
from pipecat.services.elevenlabs.tts import ElevenLabsHttpTTSService, ElevenLabsTTSService
from pipecat.workers.runner import WorkerRunner

url, folder, key = sys.argv[1:4]
SENT: list[dict] = []  # what the service says to the server


class Ear(FrameProcessor):
    """What comes out of the service."""

    def __init__(self) -> None:
        super().__init__()
        self.sounded, self.stopped = asyncio.Event(), asyncio.Event()
        self.begin()

    def begin(self) -> None:
        self.audio_s, self.first, self.last, self.words, self.longest_gap_s = 0.0, None, None, [], 0.0
        self.errors: list[str] = []
        self.sounded.clear()
        self.stopped.clear()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        now = time.monotonic()
        match frame:
            case TTSAudioRawFrame():
                self.longest_gap_s = max(self.longest_gap_s, now - (self.last or now))
                self.first, self.last = self.first or now, now
                self.sounded.set()
                self.audio_s += len(frame.audio) / 2 / frame.sample_rate
            case TTSTextFrame():
                self.words.append([frame.text, frame.pts and frame.pts / 1e9])
            case TTSStoppedFrame():
                self.stopped.set()
            case ErrorFrame():
                self.errors.append(frame.error)
        await self.push_frame(frame, direction)


class Service(ElevenLabsTTSService):
    """As it is; what it sends is written down."""

    async def _on_websocket_connected(self) -> None:
        send = self._websocket.send

        async def noted(message: str) -> None:
            SENT.append(json.loads(message))
            await send(message)

        self._websocket.send = noted


def over_http(session: aiohttp.ClientSession) -> ElevenLabsHttpTTSService:
    settings = ElevenLabsHttpTTSService.Settings(voice="default")
    base = f"{url}/s/eleven-pipecat-http"
    return ElevenLabsHttpTTSService(api_key=key, aiohttp_session=session, base_url=base, settings=settings)


def over_socket() -> Service:
    base = f"{url}/s/eleven-pipecat".replace("http", "ws", 1)
    return Service(api_key=key, url=base, settings=Service.Settings(voice="default"))


def dialogue() -> ElevenLabsDialogueTTSService:
    base = f"{url}/s/eleven-pipecat-dialogue".replace("http", "ws", 1)
    return ElevenLabsDialogueTTSService(
        api_key=key, url=base, settings=ElevenLabsDialogueTTSService.Settings(voice="default")
    )


async def main() -> None:
    which = sys.argv[4:]
    async with aiohttp.ClientSession() as session:
        service = over_http(session) if which == ["http"] else dialogue() if which else over_socket()
        print(json.dumps(await conversation(service)))


async def conversation(service: FrameProcessor) -> dict:
    ear = Ear()
    worker = PipelineWorker(Pipeline([service, ear]), cancel_on_idle_timeout=False)
    ready = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def _started(worker, frame) -> None:
        ready.set()

    async def speak(text: str, interrupt_after_s: float | None = None) -> dict:
        ear.begin()
        asked = time.monotonic()
        await worker.queue_frame(LLMFullResponseStartFrame())
        for word in text.split(" "):
            await worker.queue_frame(LLMTextFrame(word + " "))
        await worker.queue_frame(LLMFullResponseEndFrame())
        await asyncio.wait_for(ear.sounded.wait(), 30)
        if interrupt_after_s is None:
            await asyncio.wait_for(ear.stopped.wait(), 30)
        else:
            await asyncio.sleep(interrupt_after_s)
            await worker.queue_frame(InterruptionFrame())
            await asyncio.sleep(0.3)
        base_s = next((pts for _, pts in ear.words if pts), 0.0)
        return {
            "audio_s": ear.audio_s,
            "first_s": ear.first - asked,
            "took_s": ear.last - ear.first,
            "longest_gap_s": ear.longest_gap_s,
            "words": [[word, pts and round(pts - base_s, 3)] for word, pts in ear.words],
            "errors": ear.errors,
        }

    async def talk() -> list[dict]:
        try:
            return await turns_of_it()
        except TimeoutError:  # the runner would go on waiting for an EndFrame
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    async def turns_of_it() -> list[dict]:
        await asyncio.wait_for(ready.wait(), 20)
        turns = [
            await speak("The young doctor found the map in the basket. The farmer carried the lamp."),
            await speak(
                "The captain painted the boat. The sailor sold the ladder. The nurse carried the clock to the old pilot.",
                1.5,
            ),
            await speak("The baker forgot the violin."),
        ]
        ended = time.monotonic()
        await worker.queue_frame(EndFrame())
        return [*turns, {"ended": ended}]

    runner = WorkerRunner()
    await runner.add_workers(worker)
    _, turns = await asyncio.gather(runner.run(), talk())
    close_s = time.monotonic() - turns.pop()["ended"]
    return {"turns": turns, "close_s": close_s, "sent": SENT}


logger.remove()
logger.add(sys.stderr, level="WARNING")
asyncio.run(main())
