"""The most streams that a step carries, what a voice costs, and what a stream holds."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import torch

from engine.api import EngineLimits
from engine.bench_clone import TEXT, clones, firsts, made_voice
from engine.bench_parts import Steps, carried, pool_of
from engine.bench_start import Compilations, since, stream_memory
from engine.load import Loaded, core_of, load_model, warm_up
from engine.random_weights import write_folder
from engine.runner import Runner

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("tiny")
    write_folder("tiny", folder)
    return load_model(folder, "tiny", "cpu", "float32", None)


class Slow:
    """A clock by which a frame takes so long a row, and nothing else any time."""

    def __init__(self, steps: Steps, row_s: float) -> None:
        self._steps, self._row_s, self._at = steps, row_s, 0.0
        self._looks = count()

    def __call__(self) -> float:
        if next(self._looks) % 2:
            self._at += self._row_s * len(self._steps.rows)
        return self._at


def test_the_most_streams_are_found_that_a_step_has_time_for(tiny: Loaded) -> None:
    steps = Steps(tiny, EngineLimits(12, pool_of([64] * 12, 23)), graphs=False)
    found = carried(steps, 64, 0.1, Slow(steps, 0.01))
    assert (found.streams, found.bound) == (9, "time"), "nine tenths of a frame, of which each takes one"
    assert max(found.ms) == pytest.approx(90)


@pytest.mark.parametrize(("rows", "held", "bound"), [(4, 4, "rows"), (6, 4, "memory")])
def test_streams_are_bound_by_rows_and_by_memory_where_time_is_left(
    tiny: Loaded, rows: int, held: int, bound: str
) -> None:
    steps = Steps(tiny, EngineLimits(rows, pool_of([64] * 4, 23)), graphs=False)
    found = carried(steps, 64, 0.1, Slow(steps, 0.0))
    assert (found.streams, found.bound) == (held, bound)
    assert steps.runner.pool.free < steps.runner.pool.pages


def test_frames_that_the_codec_takes_together_are_timed_together(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.graphed_decoder.SEVERAL", (3,))
    steps = Steps(tiny, EngineLimits(2, pool_of([64] * 2, 40)), graphs=True)
    steps.hold([64])
    assert steps.held(5, Slow(steps, 0.012)) == pytest.approx([4.0, 4.0])
    assert set(steps.pieces(1, count().__next__)) == {"slow", "draw", "codec", "sampling", "all", "held"}
    steps.hold([64, 64])
    assert not steps.held(5, Slow(steps, 0.012)), "of one row alone"


def test_frames_of_fewer_rows_begin_where_the_rows_were_held(tiny: Loaded) -> None:
    steps = Steps(tiny, EngineLimits(3, pool_of([64] * 3, 23)), graphs=False)
    steps.hold([64, 40, 64])
    for rows in (3, 1, 2):
        steps.only(rows)
        steps.frames(5, Slow(steps, 0.01))
    assert steps.positions == 104
    steps.hold([10])
    assert steps.runner.pool.free == steps.runner.pool.pages - 1


@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "fixed shapes"])
def test_a_known_voice_is_not_computed_again(tiny: Loaded, graphs: bool) -> None:
    core = core_of(tiny, EngineLimits(max_streams=1, kv_positions=2048), graphs=graphs)
    warm_up(core)
    ticks = count()
    made = clones(core, tiny.prompts, 0.5, 2, lambda: None, lambda: 0.001 * next(ticks))
    for one in made:
        assert one.computed == one.positions > 30
        assert (one.known_hint, one.known_turn) == (0, 0)
        assert one.ready_ms == pytest.approx(2)
    before = core.cache.counters.prefilled
    voice = made_voice(core, 20, 32)
    assert firsts(core, voice, 3, lambda: 0.001 * next(ticks)) == pytest.approx([1, 1, 1])
    prompt = tiny.prompts.system(voice).shape[1] + 3 * tiny.prompts.user(TEXT).shape[1]
    assert core.cache.counters.prefilled - before == prompt, "the voice once"
    assert not core.has_work()


def test_memory_of_a_stream_is_what_a_runner_takes_for_one_more(tiny: Loaded) -> None:
    def taken(rows: int, positions: int) -> int:
        runner = Runner(tiny.model, tiny.codec, EngineLimits(rows, positions))
        pages = [runner.pool.keys, runner.pool.values]
        tensors = [*pages, *runner.sampler.state, runner._frame_kv.k, runner._frame_kv.v]
        return runner.streaming.state_bytes() + sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    each = stream_memory(tiny)
    assert each.of(5, 96) == taken(7, 5 * 96 + 32) - taken(2, 32)
    assert each.position == 2 * 2 * 2 * 16 * 4


def test_what_is_compiled_is_counted() -> None:
    compiled = Compilations()
    before = compiled.seen()
    doubled = torch.compile(lambda x: 2 * x, backend="eager", fullgraph=True)
    assert since(before, compiled.seen())["functions"] == 0
    doubled(torch.ones(2))
    after = since(before, compiled.seen())
    assert after["functions"] == 1 and after["functions_s"] > 0
    assert Path(compiled.folders()["torch"]["path"]).is_dir()
