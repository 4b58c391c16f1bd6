"""Drives an EngineCore by hand, on the tiny reference checkpoint: no thread, no process."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import torch

from engine import commands as c
from engine.api import (
    Admission,
    Codes,
    Conversation,
    EngineLimits,
    Frame,
    Reference,
    SamplingParams,
    SegmentEnd,
    SegmentRetried,
    SpokenSegment,
    Voice,
)
from engine.core import EngineCore
from engine.load import Loaded, core_of, load_model

GREEDY = SamplingParams(temperature=1.0, top_k=1)
NO_VOICE = Voice("none")
_keys = count(1)


@cache
def tiny_model(folder: Path) -> Loaded:
    """The `s2pro` fixture, random weights, loaded once for all tests. The tensors are so small that a second thread only costs."""
    torch.set_num_threads(1)
    return load_model(folder, "tiny", "cpu", "float32", None)


def tiny_core(
    folder: Path,
    max_streams: int = 4,
    kv_positions: int = 8192,
    guarded: bool = False,
    admission: Admission | None = None,
) -> EngineCore:
    """A new core. Random weights speak noise and hardly ever end, so the guard is off unless asked for."""
    return core_of(
        tiny_model(folder),
        EngineLimits(max_streams=max_streams, kv_positions=kv_positions, admission=admission),
        guarded=guarded,
    )


def random_codes(frames: int, seed: int) -> Codes:
    """Codes [10, frames] that every codebook has."""
    return np.random.default_rng(seed).integers(0, 1024, (10, frames)).astype(np.int16)


def voice(seed: int = 0, frames: int = 17) -> Voice:
    """A voice of one reference; equal arguments give the same voice."""
    return Voice(f"voice-{seed}-{frames}", (Reference("A reference.", random_codes(frames, seed)),))


def spoken(text: str, frames: int, seed: int) -> SpokenSegment:
    """A segment of a history."""
    return SpokenSegment(text, random_codes(frames, seed))


@dataclass
class Heard:
    """What one stream has said."""

    key: int
    frames: list[Frame] = field(default_factory=list)
    ends: list[SegmentEnd] = field(default_factory=list)
    retries: list[SegmentRetried] = field(default_factory=list)
    ended: c.Ended | None = None

    @property
    def codes(self) -> Codes:
        return np.stack([frame.codes for frame in self.frames], axis=1)

    @property
    def samples(self) -> np.ndarray:
        return np.concatenate([frame.samples for frame in self.frames])


class Driver:
    """Opens streams on a core and collects what they say."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.streams: dict[int, Heard] = {}
        self.report = c.Report()  # of the last step

    def open(
        self,
        conversation: Conversation,
        *texts: str,
        frames: int = 12,
        voice: Voice = NO_VOICE,
        params: SamplingParams = GREEDY,
        turn: int = 1,
        finish: bool = True,
    ) -> Heard:
        """A stream with credit for `frames` frames."""
        key = next(_keys)
        self.streams[key] = heard = Heard(key)
        self.core.handle(c.Open(key, conversation, voice, params, turn))
        for text in texts:
            self.core.handle(c.Push(key, text))
        if finish:
            self.core.handle(c.Finish(key))
        self.core.handle(c.Allow(key, frames))
        return heard

    def push(self, heard: Heard, text: str) -> None:
        self.core.handle(c.Push(heard.key, text))

    def cancel(self, heard: Heard) -> None:
        self.core.handle(c.Cancel(heard.key))

    def step(self) -> None:
        self.report = self.core.step()
        for key, event in self.report.events:
            heard = self.streams[key]
            assert heard.ended is None, "nothing follows the end of a stream"
            match event:
                case Frame():
                    heard.frames.append(event)
                case SegmentEnd():
                    heard.ends.append(event)
                case SegmentRetried():
                    heard.retries.append(event)
                case c.Ended():
                    heard.ended = event

    def run(self, steps: int = 1000) -> None:
        """Until nothing can be done without another command."""
        for _ in range(steps):
            if not self.core.has_work():
                return
            self.step()
        raise AssertionError(f"the core still has work after {steps} steps")


def assert_nothing_leaked(core: EngineCore) -> None:
    """With every stream over: all rows are free, and every page is owned by the cache, as often as it is counted."""
    assert sorted(core._free_rows) == list(range(core.limits.max_streams))
    cache = core.cache
    assert not cache._active and not cache._doomed
    owners = [page for kept in (cache._conversations, cache._voices) for s in kept.values() for page in s.pages]
    assert all(owners.count(page) == cache.pool.owners(page) for page in range(cache.pool.pages))
    for kept in (cache._conversations, cache._voices):
        assert all(len(s.pages) * 32 >= s.length for s in kept.values())
