"""Who is let in by a front that is told how long steps take: listeners in virtual time, on a device whose steps take what they are told to.

The core, its scheduler and the front are the real ones. What is unrealistic: the device computes nothing, takes exactly a fixed time for a
step, each row and each position of prefill, and a stream is silence that ends after a random number of frames.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import commands as c
from engine.api import Admission, Busy, Conversation, EngineLimits, Frame, Samples, SamplingParams, Voice
from engine.core import EngineCore
from engine.front import EngineFront
from engine.gaze import Gaze
from engine.kv import CachedSequence
from engine.load import core_of, warm_up
from engine.model import Hidden
from engine.runner import Drawn, FrameDrawn, Outcome
from tests.engine.core_driver import tiny_core, tiny_model

STEP_S, ROW_S, POSITION_S = 0.014, 0.003, 0.00005
FRAME_S = 0.0464
CARRIES = int((FRAME_S - STEP_S) / ROW_S)  # 10, with nothing left for prefill
SPEECH_S = 6.0
LEAD_FRAMES = 43


@dataclass
class Device:
    """Stands in for the runner's three calls and the decoder of a core."""

    core: EngineCore
    rng: random.Random
    now: float = 0.0
    left: dict[int, int] = field(default_factory=dict)  # frames until a row's segment ends
    started: int = 0

    beside, several = False, 1

    def __post_init__(self) -> None:
        core, runner = self.core, self.core._runner
        core._clock = lambda: self.now
        runner.prefill, runner.decode, runner.draw = self.prefill, self.decode, self.draw  # type: ignore[method-assign]
        runner.begin_segment = self.begin_segment  # type: ignore[method-assign]
        core._decoding.decoder = self
        codebooks = core.info.codebooks
        self.frame = FrameDrawn(np.zeros(codebooks, np.int16), np.zeros((codebooks + 1, 1), np.int64))

    def _hidden(self, rows: int) -> Hidden:
        return Hidden(torch.zeros(rows, 1), torch.zeros(rows, 1))

    def prefill(self, sequence: CachedSequence, new: int, gaze: Gaze | None = None) -> Hidden:
        self.now += new * POSITION_S
        return self._hidden(1)

    def decode(self, sequences: Sequence[CachedSequence], gaze: Gaze | None = None) -> Hidden:
        self.now += STEP_S + ROW_S * len(sequences)
        return self._hidden(len(sequences))

    def begin_segment(self, row: int, text: str) -> None:
        self.left[row] = max(1, round(self.rng.lognormvariate(-0.125, 0.5) * SPEECH_S / FRAME_S))

    def draw(self, hidden: Sequence[Hidden], rows: Sequence[int], sequences: object = ()) -> list[Drawn]:
        out: list[Drawn] = []
        for row in rows:
            self.left[row] -= 1
            out.append(self.frame if self.left[row] >= 0 else Outcome.END)
        return out

    def start(self, codes: np.ndarray, rows: Sequence[int]) -> None:
        self.started = len(rows)

    def is_done(self) -> bool:
        return True

    def finish(self) -> Samples:
        return np.zeros((self.started, 1), np.float32)

    def reset(self, row: int) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class Listener:
    """Plays from the first frame on without a pause."""

    pushed_at: float
    first_at: float | None = None
    frames: int = 0
    allowed: int = LEAD_FRAMES
    short_s: float = 0.0

    def hear(self, now: float) -> None:
        self.first_at = now if self.first_at is None else self.first_at
        self.short_s = max(self.short_s, now - self.first_at - self.frames * FRAME_S)
        self.frames += 1


@dataclass
class Evening:
    """What came of a load."""

    heard: list[Listener] = field(default_factory=list)
    refused: list[Busy] = field(default_factory=list)
    open_s: float = 0.0  # streams times seconds
    seconds: float = 0.0

    def short(self) -> float:
        """Share of listeners who heard a gap."""
        return sum(one.short_s > 0.05 for one in self.heard) / len(self.heard)


def evening(folder: Path, per_s: float, seconds: float, *, told: bool = True) -> Evening:
    """Poisson arrivals of turns. told: the front learns what the core reports."""
    core = tiny_core(folder, max_streams=40, kv_positions=1 << 17, admission=Admission.MEASURED)
    device = Device(core, random.Random(1))
    front = EngineFront(core.info, 40, core.handle, lambda: asyncio.sleep(0))
    rng, out, listeners = random.Random(0), Evening(seconds=seconds), dict[int, Listener]()
    number, arrives = 0, 0.0
    while device.now < seconds:
        while arrives <= device.now:
            number, arrives = number + 1, arrives + rng.expovariate(per_s)
            try:
                stream = front.open(Conversation(f"c{number}"), Voice("v"), SamplingParams(max_frames=10_000), 1)
            except Busy as busy:
                out.refused.append(busy)
                continue
            stream.push("Good evening to all of you, and thank you for coming at this hour.")
            stream.finish()
            stream.allow(LEAD_FRAMES)
            listeners[stream._key] = Listener(device.now)
        for key, one in listeners.items():
            if one.first_at is not None and key in front._streams:
                front._streams[key].allow(int((device.now - one.first_at) / FRAME_S) + LEAD_FRAMES)
        if not core.has_work():
            device.now += 0.001
            out.open_s += 0.001 * len(front._streams)
            continue
        before = device.now
        report = core.step()
        if not told:
            report.load = None
        front.deliver(report)
        out.open_s += (device.now - before) * len(listeners)
        for key, event in report.events:
            if isinstance(event, Frame):
                listeners[key].hear(device.now)
            elif isinstance(event, c.Ended):
                out.heard.append(listeners.pop(key))
    return out


@pytest.fixture(scope="module")
def crowd(s2pro: Path) -> Evening:
    """Twice as many as the device carries."""
    return evening(s2pro, 2 * CARRIES / SPEECH_S, 60.0)


def test_more_than_the_device_carries_are_refused_and_nobody_hears_a_gap(crowd: Evening) -> None:
    assert crowd.short() == 0
    assert len(crowd.refused) > len(crowd.heard) / 2


def test_the_refused_are_told_when_somebody_will_be_over(crowd: Evening) -> None:
    waits = [busy.retry_after_s for busy in crowd.refused[-50:]]
    assert all(0.3 < wait < 1.5 for wait in waits), "six seconds of speech, of some eight streams"


def test_those_that_it_carries_are_let_in(crowd: Evening) -> None:
    assert crowd.open_s / crowd.seconds > 0.7 * CARRIES


def test_without_it_nearly_everybody_would_hear_gaps(s2pro: Path) -> None:
    assert evening(s2pro, 2 * CARRIES / SPEECH_S, 30.0, told=False).short() > 0.5


@pytest.mark.parametrize(
    ("device", "asked", "measured"),
    [
        ("cpu", None, False),
        ("cpu", Admission.MEASURED, True),
        ("NVIDIA H200", None, True),
        ("NVIDIA H200", Admission.ROWS, False),
    ],
)
def test_a_gpu_is_measured_and_a_cpu_only_when_asked_to_be(
    s2pro: Path, device: str, asked: Admission | None, measured: bool
) -> None:
    loaded = tiny_model(s2pro)
    limits = EngineLimits(max_streams=2, kv_positions=1024, admission=asked)
    core = core_of(replace(loaded, info=replace(loaded.info, device=device)), limits, guarded=False)
    warm_up(core)
    assert (core.step().load is not None) == measured


def test_a_load_that_the_device_carries_is_not_refused(s2pro: Path) -> None:
    calm = evening(s2pro, 0.3 * CARRIES / SPEECH_S, 60.0)
    assert calm.short() == 0 and len(calm.refused) <= len(calm.heard) / 50
