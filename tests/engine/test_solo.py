"""A step of one row as graphs: the same bits as with Python between the operations."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.api import Conversation, EngineLimits, SamplingParams
from engine.checkpoint import load_dual_ar
from engine.gaze import TextSpan
from engine.heads import ChosenHeads, Head
from engine.kv import CachedSequence, contiguous_run
from engine.load import Loaded, core_of
from engine.runner import Runner
from engine.traced import Traced, can_trace
from tests.engine.core_driver import GREEDY, Driver, Heard, assert_nothing_leaked, tiny_model

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(not can_trace(), reason="TorchScript ends with Python 3.13"),
]

SAMPLED = SamplingParams(seed=5)
HEADS = (Head(0, 1), Head(1, 0), Head(1, 1))


@cache
def packed(folder: Path, heads: tuple[Head, ...]) -> Loaded:
    """The tiny model as a checkpoint stored in 8 bits is served."""
    loaded = tiny_model(folder)
    model = load_dual_ar(folder, "cpu", torch.float32)
    model.prepare_serving(residual_entries=loaded.codec.config.codebook_size, packed=True)
    return replace(loaded, model=model, heads=ChosenHeads(heads, "", 1.0) if heads else None)


def spoken(loaded: Loaded, params: SamplingParams) -> list[Heard]:
    """A stream that is alone, has company for a while and is alone again, then another one."""
    core = core_of(loaded, EngineLimits(max_streams=3, kv_positions=4096), guarded=False)
    driver, params = Driver(core), replace(params, max_frames=24)
    first = driver.open(Conversation("a"), "A sentence. " * 9, "And more.", frames=24, params=params)
    for _ in range(6):
        driver.step()
    second = driver.open(Conversation("b"), "Another.", frames=24, params=params, turn=1)
    for _ in range(4):
        driver.step()
    driver.cancel(second)
    driver.run()
    third = driver.open(Conversation("a"), "A third one.", frames=24, params=params, turn=2)
    driver.run()
    assert_nothing_leaked(core)
    return [first, second, third]


@pytest.mark.parametrize("heads", [(), HEADS], ids=["no heads chosen", "heads that follow the text"])
@pytest.mark.parametrize("params", [GREEDY, SAMPLED, SamplingParams(top_k=40, repetition_penalty=1.2)], ids=str)
def test_graphs_give_the_same_frames(
    s2pro: Path, monkeypatch: pytest.MonkeyPatch, params: SamplingParams, heads: tuple[Head, ...]
) -> None:
    traced = spoken(packed(s2pro, heads), params)
    monkeypatch.setattr("engine.runner.traceable", lambda model: False)
    for one, other in zip(spoken(packed(s2pro, heads), params), traced, strict=True):
        assert len(one.frames) == len(other.frames) > 0
        for plain, solo in zip(one.frames, other.frames, strict=True):
            assert (plain.codes == solo.codes).all()
            assert (plain.samples == solo.samples).all()
            assert plain.text_at == solo.text_at
            assert (plain.text_at is not None) == bool(heads)


def filled(runner: Runner, length: int, apart: bool) -> CachedSequence:
    """Positions that were prefilled. apart: on pages that do not lie one after the other."""
    sequence = CachedSequence(runner.pool, runner.sampler.draws - 1)
    columns = np.random.default_rng(0).integers(0, 200, (runner.sampler.draws, length))
    if apart:
        sequence.extend(columns[:, :10])
        runner.pool.take(sequence.pages[-1])  # is somebody's
    sequence.extend(columns[:, sequence.length :])
    runner.prefill(sequence, length)
    return sequence


def test_a_graph_serves_every_length_and_pages_that_lie_apart(s2pro: Path) -> None:
    loaded = packed(s2pro, HEADS)
    for length, apart in ((3, False), (31, False), (32, False), (33, False), (300, False), (300, True)):
        seen = []
        for solo in (True, False):
            runner = Runner(loaded.model, loaded.codec, EngineLimits(1, 1024), heads=HEADS)
            assert runner._solo is not None
            sequence = filled(runner, length, apart)
            assert (contiguous_run(sequence) is None) is apart
            if not solo:
                runner._solo = None
            for step in range(3):
                sequence.extend(np.full((runner.sampler.draws, 1), 50 + step))
                gaze = runner.gaze([TextSpan(1, 2)])
                assert gaze is not None
                hidden = runner.decode([sequence], gaze)
                seen.append((hidden.head, hidden.fast, torch.from_numpy(gaze.looks()[0])))
        for one, other in zip(seen[:3], seen[3:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_a_graph_writes_to_its_arguments_stays() -> None:
    def count_up(state: torch.Tensor, by: torch.Tensor) -> tuple[torch.Tensor, ...]:
        before = state.clone()
        state.add_(by)
        return (before,)

    traced, state = Traced(count_up, torch.zeros(2), torch.ones(2)), torch.zeros(3)
    for _ in range(2):
        (before,) = traced(state, torch.ones(3))
    assert before.tolist() == [1, 1, 1]
    assert state.tolist() == [2, 2, 2]
