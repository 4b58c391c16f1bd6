"""What a talk with a pipecat service is, whichever: two turns, the second of which is interrupted, and a third."""

import asyncio
import os
import sys
import time
import traceback

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
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner


class Ear(FrameProcessor):
    """What comes out of the service."""

    def __init__(self) -> None:
        super().__init__()
        self.sounded, self.stopped = asyncio.Event(), asyncio.Event()
        self.begin()

    def begin(self) -> None:
        self.audio_s, self.first, self.last, self.longest_gap_s, self.errors = 0.0, None, None, 0.0, []
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
            case TTSStoppedFrame():
                self.stopped.set()
            case ErrorFrame():
                self.errors.append(frame.error)
        await self.push_frame(frame, direction)


async def conversation(service: FrameProcessor) -> dict:
    """What was found."""
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
        let_go_s = 0.0
        if interrupt_after_s is None:
            await asyncio.wait_for(ear.stopped.wait(), 30)
        else:
            await asyncio.sleep(interrupt_after_s)
            interrupted = time.monotonic()
            await worker.queue_frame(InterruptionFrame())
            await asyncio.sleep(0.5)
            let_go_s = ear.last - interrupted
        first, last = ear.first, ear.last
        return {
            "audio_s": ear.audio_s,
            "first_s": first - asked,
            "took_s": last - first,
            "let_go_s": let_go_s,
            "longest_gap_s": ear.longest_gap_s,
            "errors": ear.errors,
        }

    async def talk() -> list[dict]:
        try:
            await asyncio.wait_for(ready.wait(), 20)
            turns = [
                await speak("The young doctor found the map. He sold it."),
                await speak(
                    "The captain painted the boat. The sailor sold the ladder. The nurse carried the clock to the old pilot.",
                    1.2,
                ),
                await speak("The baker forgot it."),
            ]
        except TimeoutError:  # the runner would go on waiting for an EndFrame
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        await worker.queue_frame(EndFrame())
        return turns

    runner = WorkerRunner()
    await runner.add_workers(worker)
    _, turns = await asyncio.gather(runner.run(), talk())
    return {"turns": turns}
