"""pipecat's services for Cartesia and for Deepgram's two sockets: two turns each, the second of which is interrupted, and a third."""

import asyncio
import json
import sys
import time

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
from pipecat.services.cartesia.tts import CartesiaTTSService
from pipecat.services.deepgram.flux.tts import DeepgramFluxTTSService
from pipecat.services.deepgram.tts import DeepgramTTSService
from pipecat.workers.runner import WorkerRunner

url, folder, key = sys.argv[1:4]
WS = url.replace("http", "ws", 1)
LONG = "The captain painted the boat. The sailor sold the ladder. The nurse carried the clock to the old pilot."


class Ear(FrameProcessor):
    """What comes out of a service."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped = asyncio.Event()
        self.begin()

    def begin(self) -> None:
        self.audio_s, self.first, self.last, self.words, self.longest_gap_s = 0.0, None, None, [], 0.0
        self.errors: list[str] = []
        self.stopped.clear()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        now = time.monotonic()
        match frame:
            case TTSAudioRawFrame():
                self.longest_gap_s = max(self.longest_gap_s, now - (self.last or now))
                self.first, self.last = self.first or now, now
                self.audio_s += len(frame.audio) / 2 / frame.sample_rate
            case TTSTextFrame():
                self.words.append(frame.text)
            case TTSStoppedFrame():
                self.stopped.set()
            case ErrorFrame():
                self.errors.append(frame.error)
        await self.push_frame(frame, direction)


def listening(service, sent: list[dict]) -> None:
    """What the service sends is written down."""
    socket = service._websocket
    send = socket.send

    async def noted(message: str) -> None:
        sent.append(json.loads(message))
        await send(message)

    socket.send = noted


async def talk(service, first_text: str) -> dict:
    ear, sent = Ear(), []
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
        async with asyncio.timeout(30):
            while ear.first is None:
                await asyncio.sleep(0.01)
        if interrupt_after_s is None:
            await asyncio.wait_for(ear.stopped.wait(), 30)
        else:
            await asyncio.sleep(interrupt_after_s)
            while ear.audio_s < interrupt_after_s:
                await asyncio.sleep(0.01)
            await worker.queue_frame(InterruptionFrame())
            await asyncio.sleep(0.3)
        return {
            "audio_s": ear.audio_s,
            "first_s": ear.first - asked,
            "took_s": ear.last - ear.first,
            "longest_gap_s": ear.longest_gap_s,
            "words": ear.words,
            "errors": ear.errors,
        }

    async def turns() -> list[dict]:
        await asyncio.wait_for(ready.wait(), 20)
        listening(service, sent)
        spoken = [await speak(first_text), await speak(LONG, 1.5), await speak("The baker forgot the violin.")]
        await worker.queue_frame(EndFrame())
        return spoken

    runner = WorkerRunner()
    await runner.add_workers(worker)
    _, spoken = await asyncio.gather(runner.run(), turns())
    return {"turns": spoken, "sent": sent}


async def main() -> None:
    cartesia = CartesiaTTSService(
        api_key=key,
        url=f"{WS}/s/pipecat-cartesia/tts/websocket",
        sample_rate=24_000,
        settings=CartesiaTTSService.Settings(voice="default"),
    )
    deepgram = DeepgramTTSService(api_key=key, base_url=f"{WS}/s/pipecat-deepgram", sample_rate=24_000)
    flux = DeepgramFluxTTSService(api_key=key, url=f"{WS}/s/pipecat-flux/v2/speak", sample_rate=24_000)
    print(
        json.dumps(
            {
                "cartesia": await talk(cartesia, "The young captain found the map."),
                "deepgram": await talk(deepgram, "The young baker found the map."),
                "flux": await talk(flux, "The young engineer found the map."),
            }
        )
    )


logger.remove()
logger.add(sys.stderr, level="WARNING")
asyncio.run(main())
