"""Stage `synthesize`: scripts and their audio into shards, one process a core.

Knows how a shard lies on disk and how workers share the hours. Does not know codes: shards are read by the codec and
encode stages, and encode deletes those it has used up.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from dataclasses import asdict, dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.train.render import FRAME_SAMPLES, Clip, Conversation, Renderer, Segment, Turn
from engine.train.script import ScriptWriter
from engine.train.teacher import SAMPLE_RATE, Teacher

LONGEST_POSITIONS = 1900  # a longer conversation would not fit into a training row; about 60 s of speech
_CRASHES = 4  # attempts of a worker after which crashing is no accident any more
_TEMPLATE_POSITIONS = 24  # template tokens of a segment, rounded up


@dataclass(frozen=True, slots=True)
class SynthesisPlan:
    """What one run of the stage makes."""

    folder: Path  # shards go here
    hours: float  # of speech, over all workers
    workers: int
    seed: int  # another seed gives other text in other voices
    shard_hours: float = 0.4
    pending_gb: float = 30.0  # workers wait while the folder holds more than this
    data: Path | None = None  # folder that holds espeak-ng-data
    fresh_voices: bool = False  # clone only voices that training never uses, for evaluation


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Rendered conversations with all their audio in one array."""

    audio: npt.NDArray[np.int16]  # [frames * FRAME_SAMPLES]
    labels: npt.NDArray[np.uint8]  # [frames * PARTS]
    conversations: list[dict[str, Any]]  # see `_outline`; clips lie in `audio` in this order

    def save(self, path: Path) -> None:
        """Write so that a reader sees all of it or nothing."""
        meta = np.frombuffer(json.dumps(self.conversations).encode(), np.uint8)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, audio=self.audio, labels=self.labels, meta=meta)
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> Shard:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["audio"], arrays["labels"], json.loads(arrays["meta"].tobytes()))


def synthesize(plan: SynthesisPlan) -> None:
    """Run the workers to the end. Raises RuntimeError when one fails by itself, or again and again by the teacher's library."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    shares = [_Share(worker, context.Value("d", plan.hours / plan.workers * 3600)) for worker in range(plan.workers)]
    if plan.workers == 1:
        _work(plan, 0, 0, shares[0].left)
        return
    failed: list[str] = []
    while unfinished := [share for share in shares if share.process is None or share.process.exitcode]:
        for share in unfinished:
            share.start(plan, context)
        for share in unfinished:
            code = share.join()
            if code > 0 or (code < 0 and share.attempts > _CRASHES):
                failed.append(f"worker {share.worker} with exit code {code}")
        if failed:
            raise RuntimeError(f"of {plan.workers} processes that synthesize, {', '.join(failed)} failed")


@dataclass(slots=True)
class _Share:
    """One worker's part of the hours. The teacher's library crashes once in hundreds of hours: then another process goes on."""

    worker: int
    left: Synchronized[float]  # seconds of speech still to be made
    attempts: int = 0
    process: SpawnProcess | None = None

    def start(self, plan: SynthesisPlan, context: SpawnContext) -> None:
        self.process = context.Process(target=_work, args=(plan, self.worker, self.attempts, self.left))
        self.attempts += 1
        self.process.start()

    def join(self) -> int:
        """Wait for it; its exit code, negative for a signal."""
        assert self.process is not None, "joined after start"
        self.process.join()
        return self.process.exitcode or 0


def _work(plan: SynthesisPlan, worker: int, attempt: int, left: Synchronized[float]) -> None:
    """Make shards until nothing is left; another attempt makes other text."""
    rng = random.Random(f"{plan.seed}/{worker}/{attempt}" if attempt else f"{plan.seed}/{worker}")
    writer = ScriptWriter(rng, held_out_voices=plan.fresh_voices)
    renderer = Renderer(Teacher(plan.data), rng)
    number = 0
    while left.value > 0:
        while _pending_gb(plan.folder) > plan.pending_gb:
            time.sleep(0.5)  # the consumer is behind
        shard = _shard(writer, renderer, min(left.value, plan.shard_hours * 3600))
        shard.save(plan.folder / f"shard-{plan.seed:03d}-{worker:02d}-{attempt}-{number:04d}.npz")
        left.value -= len(shard.audio) / SAMPLE_RATE
        number += 1


def _pending_gb(folder: Path) -> float:
    total = 0
    for path in folder.glob("shard-*.npz"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # the encoder has just used it up
            continue
    return total / 1e9


def _shard(writer: ScriptWriter, renderer: Renderer, seconds: float) -> Shard:
    audio: list[npt.NDArray[np.int16]] = []
    labels: list[npt.NDArray[np.uint8]] = []
    outlines: list[dict[str, Any]] = []
    frames = 0
    while frames * FRAME_SAMPLES < seconds * SAMPLE_RATE:
        conversation = _fitted(renderer.conversation(writer.conversation()))
        outlines.append(_outline(conversation))
        for clip in _clips(conversation):
            audio.append(clip.samples)
            labels.append(clip.labels)
            frames += clip.frames
    return Shard(np.concatenate(audio), np.concatenate(labels), outlines)


def _fitted(conversation: Conversation) -> Conversation:
    """Leave out turns from the end until it fits into LONGEST_POSITIONS; the first turn stays."""
    turns = list(conversation.turns)
    while len(turns) > 1 and _positions([*conversation.references, *turns]) > LONGEST_POSITIONS:
        turns.pop()
    return Conversation(conversation.references, tuple(turns))


def _positions(turns: list[Turn]) -> int:
    return sum(s.frames + len(s.text.encode()) + _TEMPLATE_POSITIONS for turn in turns for s in turn.segments)


def _clips(conversation: Conversation) -> list[Clip]:
    return [turn.clip for turn in (*conversation.references, *conversation.turns)]


def _outline(conversation: Conversation) -> dict[str, Any]:
    """The conversation without its audio: lists of segments, each with text, frames and ended."""
    return {
        "references": [_segments(turn.segments) for turn in conversation.references],
        "turns": [_segments(turn.segments) for turn in conversation.turns],
    }


def _segments(segments: tuple[Segment, ...]) -> list[dict[str, Any]]:
    return [asdict(segment) for segment in segments]
