"""Drives an EngineCore by hand, on the tiny reference checkpoint: no thread, no process, a clock that stands still."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from engine import commands as c
from engine.api import Codes, Conversation, EngineLimits, Frame, SamplingParams, SegmentEnd, SegmentRetried, Voice
from engine.core import EngineCore
from engine.load import load_core

GREEDY = SamplingParams(temperature=1.0, top_k=1)
_keys = count(1)


def tiny_core(folder: Path, max_streams: int = 4, kv_positions: int = 8192, guarded: bool = False) -> EngineCore:
    """folder: the `s2pro` fixture, random weights. They speak noise and hardly ever end, so the guard is off unless asked for."""
    limits = EngineLimits(max_streams=max_streams, kv_positions=kv_positions)
    return load_core(folder, "tiny", "cpu", "float32", limits, None, guarded=guarded)


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


class Driver:
    """Opens streams on a core and collects what they say."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.streams: dict[int, Heard] = {}

    def open(
        self,
        conversation: Conversation,
        *texts: str,
        frames: int = 12,
        voice: Voice | None = None,
        params: SamplingParams = GREEDY,
        turn: int = 1,
        finish: bool = True,
    ) -> Heard:
        """A stream with credit for `frames` frames."""
        key = next(_keys)
        self.streams[key] = heard = Heard(key)
        self.core.handle(c.Open(key, conversation, voice or Voice("none"), params, turn))
        for text in texts:
            self.core.handle(c.Push(key, text))
        if finish:
            self.core.handle(c.Finish(key))
        self.core.handle(c.Allow(key, frames))
        return heard

    def step(self) -> None:
        report = self.core.step()
        for key, event in report.events:
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
