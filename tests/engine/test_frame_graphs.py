"""Fixed shapes, fused blocks and attention over pages in place: the same frames as the plain path. Captured only on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.api import Conversation, EngineLimits, SamplingParams
from engine.attention import causal
from engine.captured import buckets
from engine.core import EngineCore
from engine.frame_graphs import MOST_JOINED, MOST_POSITIONS, DrawGraph
from engine.fused import compiled
from engine.gaze import HeadGroups
from engine.heads import Head
from engine.kv import PAGE, CachedSequence
from engine.load import Loaded, core_of, load_model
from engine.model import DualAR, Hidden
from engine.random_weights import RandomWeights, write_folder
from engine.runner import FrameDrawn, Runner
from engine.slow_graph import SlowGraph
from tests.engine.core_driver import GREEDY, Driver, Heard, assert_nothing_leaked, tiny_model

SAMPLED = SamplingParams(seed=5)
MIXED = [SAMPLED, SamplingParams(top_k=40, repetition_penalty=1.2), GREEDY, SamplingParams(top_k=2000, seed=1)]


def uncompiled(function):  # type: ignore[no-untyped-def]
    return function


def traced(function):  # type: ignore[no-untyped-def]
    """As `compiled`, with nothing made of the trace."""
    return torch.compile(function, fullgraph=True, dynamic=True, backend="eager")


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (1, [1]),
        (2, [1, 2]),
        (6, [1, 2, 4, 6]),
        (8, [1, 2, 4, 8]),
        (96, [1, 2, 4, 8, 16, 32, 64, 96]),
        (256, [1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256]),
    ],
)
def test_a_step_computes_for_less_than_twice_its_rows(rows: int, sizes: list[int]) -> None:
    assert buckets(rows) == sizes


CANCELLED = 1  # of the streams


def spoken(
    loaded: Loaded, graphs: bool, mixed: Sequence[SamplingParams] = (SAMPLED,), streams: int = 5, frames: int = 9
) -> list[Heard]:
    """Streams that begin one after the other, with prompts of different lengths and a cancelled one among them.

    mixed: how each in turn draws.
    """
    limits = EngineLimits(max_streams=6, kv_positions=4096)
    core = core_of(loaded, limits, guarded=False, graphs=graphs)
    pool = core._runner.pool
    if not pool.zeroing:  # then nobody reads what is not his
        for cache in (pool.keys, pool.values):
            cache[:, : pool.spare] = float("nan")
    # A first prefill that loads its kernels would seem so slow that later ones get a few positions a step.
    core._clock = lambda: 0.0
    driver, heard = Driver(core), list[Heard]()
    for number in range(streams):
        params = replace(mixed[number % len(mixed)], max_frames=frames)
        text = "A sentence. " * (1 + 3 * number)
        heard.append(
            driver.open(Conversation(f"c{number}"), text, "And more.", frames=frames, params=params, turn=number)
        )
        driver.step()
        driver.step()
        if number == 2:
            driver.cancel(heard[CANCELLED])
    driver.run()
    assert_nothing_leaked(core)
    return heard


def same_frames(plain: list[Heard], fixed: list[Heard]) -> list[tuple[Heard, Heard]]:
    """What each stream said, twice. As many frames, but for the cancelled one, whose last may not have left a codec that works beside."""
    pairs = list(zip(plain, fixed, strict=True))
    assert all(one.frames and other.frames for one, other in pairs)
    assert all(len(one.frames) == len(other.frames) for i, (one, other) in enumerate(pairs) if i != CANCELLED)
    return pairs


@pytest.mark.parametrize(
    "mixed", [[GREEDY], [SAMPLED], [MIXED[1]], MIXED], ids=["greedy", "sampled", "penalised", "mixed"]
)
def test_fixed_shapes_give_the_same_frames(s2pro: Path, mixed: list[SamplingParams]) -> None:
    loaded = tiny_model(s2pro)
    for plain, fixed in same_frames(spoken(loaded, False, mixed), spoken(loaded, True, mixed)):
        for one, other in zip(plain.frames, fixed.frames, strict=False):
            assert (one.codes == other.codes).all()
            assert np.abs(one.samples - other.samples).max() < 1e-5


@torch.inference_mode()
def test_positions_that_run_as_rows_compute_what_a_prefill_computes(s2pro: Path) -> None:
    """Behind pages that another sequence shares, then behind pages of its own, in one step and in several."""
    loaded = tiny_model(s2pro)
    limits, noise = EngineLimits(max_streams=2, kv_positions=2048), np.random.default_rng(0)
    runners = [Runner(loaded.model, loaded.codec, limits, graphs=graphs) for graphs in (False, True)]
    codebooks, frames = loaded.model.config.num_codebooks, loaded.model.config.semantic_begin
    made: list[list[Hidden]] = [[], []]
    columns = noise.integers(0, 8, (codebooks + 1, 100 + 2 * MOST_POSITIONS))
    columns[0, 100:] += frames
    for runner, out in zip(runners, made, strict=True):
        first = CachedSequence(runner.pool, codebooks)
        first.extend(columns[:, :40])
        out.append(runner.prefill(first, 40))
        twin = first.fork(37)
        for new in (1, 5, 130, MOST_POSITIONS + 1):
            twin.extend(columns[:, twin.length : twin.length + new])
            out.append(runner.prefill(twin, new))
        first.extend(columns[:, -1:])
        out.append(runner.decode([first, twin]))
    for plain, rows in zip(*made, strict=True):
        assert plain.head.shape == rows.head.shape
        assert torch.allclose(plain.head, rows.head, atol=1e-5)
        assert torch.allclose(plain.fast, rows.fast, atol=1e-5)
    plain_keys, row_keys = (runner.pool.keys[:, : runner.pool.spare] for runner in runners)
    assert torch.allclose(plain_keys, row_keys, atol=1e-5)


def test_who_draws_unusually_draws_in_graphs_of_his_own_and_nobody_else_does(
    s2pro: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, ran = graphed(s2pro), list[tuple[int, list[int]]]()
    graphs = core._runner._graphs
    assert graphs is not None
    kind = {id(graph): number for number, draws in enumerate(graphs._draws) for graph in draws.graphs}
    run = DrawGraph.run

    def seen(graph: DrawGraph, parts: Sequence[Hidden], rows: Sequence[int]) -> torch.Tensor:
        ran.append((kind[id(graph)], list(rows)))
        return run(graph, parts, rows)

    monkeypatch.setattr(DrawGraph, "run", seen)
    driver = Driver(core)
    for number, params in enumerate((SAMPLED, MIXED[1], SAMPLED)):
        driver.open(Conversation(f"c{number}"), "A sentence.", frames=4, params=replace(params, max_frames=4))
    driver.run()
    assert ran == [(0, [0, 2]), (1, [1])] * 4


class Counted:
    """Slow steps of a core: those that were begun ahead, and those that had to wait until it was known what was drawn."""

    def __init__(self, core: EngineCore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead, self.late = 0, 0
        follow, run = SlowGraph.follow, SlowGraph.run

        def followed(graph: SlowGraph, *args: object) -> Hidden:
            self.ahead += 1
            return follow(graph, *args)  # type: ignore[arg-type]

        def ran(graph: SlowGraph, *args: object) -> Hidden:
            self.late += 1
            return run(graph, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(SlowGraph, "follow", followed)
        monkeypatch.setattr(SlowGraph, "run", ran)


def graphed(s2pro: Path) -> EngineCore:
    limits = EngineLimits(max_streams=4, kv_positions=4096)
    return core_of(tiny_model(s2pro), limits, guarded=False, graphs=True)


def test_a_stream_never_waits_for_the_host_between_two_frames(s2pro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = graphed(s2pro)
    steps, driver = Counted(core, monkeypatch), Driver(core)
    heard = driver.open(Conversation("a"), "A sentence.", frames=70, params=replace(SAMPLED, max_frames=70))
    driver.run()
    assert steps.late == 0
    assert steps.ahead == len(heard.frames) + 1  # that of the end was in vain
    assert steps.ahead > PAGE
    assert_nothing_leaked(core)


def test_a_newcomer_and_one_who_leaves_cost_no_step_ahead(s2pro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = graphed(s2pro)
    driver = Driver(core)
    first, *_ = [
        driver.open(Conversation(name), "A sentence.", frames=40, params=replace(SAMPLED, max_frames=40))
        for name in "abc"
    ]
    for _ in range(8):
        driver.step()
    steps = Counted(core, monkeypatch)
    driver.cancel(first)
    driver.step()
    driver.open(Conversation("d"), "Another.", frames=20, params=replace(SAMPLED, max_frames=20))
    for _ in range(5):
        driver.step()
    assert steps.late == 0


def prefilled(runner: Runner, rows: int, codebooks: int, noise: np.random.Generator) -> list[CachedSequence]:
    """A sequence in each row, one longer than the other."""
    sequences = [CachedSequence(runner.pool, codebooks) for _ in range(rows)]
    for row, sequence in enumerate(sequences):
        runner.open_row(row, SAMPLED, row)
        sequence.extend(noise.integers(0, 8, (codebooks + 1, 20 + 10 * row)))
        runner.prefill(sequence, sequence.length)
    return sequences


@torch.inference_mode()
def test_rows_that_no_step_ahead_computed_are_computed_beside_the_others(s2pro: Path) -> None:
    loaded = tiny_model(s2pro)
    codebooks, limits = loaded.model.config.num_codebooks, EngineLimits(max_streams=4, kv_positions=2048)
    heads: list[torch.Tensor] = []
    for graphs in (False, True):
        runner = Runner(loaded.model, loaded.codec, limits, graphs=graphs)
        noise = np.random.default_rng(1)
        sequences = prefilled(runner, 4, codebooks, noise)
        spoke, silent = [sequences[row] for row in (3, 1, 0)], sequences[2]
        drawn = runner.draw([runner.decode(spoke)], [3, 1, 0], spoke)
        for sequence, one in zip(spoke, drawn, strict=True):
            assert isinstance(one, FrameDrawn)
            sequence.extend(one.column)
        silent.extend(noise.integers(0, 8, (codebooks + 1, 1)))
        if runner._graphs is not None:
            assert runner._graphs._ahead is not None
            assert runner._graphs._ahead.of([sequences[0], silent, sequences[3]]) == [2, None, 0]
        heads.append(runner.decode([sequences[0], silent, sequences[3]]).head.clone())
    assert torch.allclose(*heads, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("sizes", [(5, MOST_JOINED + 1, 40), (*[120] * 5, 5)], ids=["one is long", "two passes"])
@pytest.mark.parametrize("spoke", [[3, 1, 0], [], None], ids=["some ahead", "none decode", "none ahead"])
def test_short_prefills_share_a_pass_with_each_other_and_with_rows_that_no_step_ahead_computed(
    s2pro: Path, spoke: list[int] | None, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four sequences that decode, of which one sat out, and newcomers, of whom one has too much to share a pass, or all together."""
    loaded, passes = tiny_model(s2pro), list[int]()
    compute = SlowGraph._compute

    def counted(graph: SlowGraph) -> Hidden:
        passes.append(graph.rows)
        return compute(graph)

    codebooks, limits = loaded.model.config.num_codebooks, EngineLimits(max_streams=10, kv_positions=4096)
    made: list[list[Hidden]] = []
    for graphs in (False, True):
        monkeypatch.setattr(SlowGraph, "_compute", counted)
        runner = Runner(loaded.model, loaded.codec, limits, graphs=graphs)
        noise = np.random.default_rng(1)
        sequences = prefilled(runner, 4 + len(sizes), codebooks, noise)
        speaking = [sequences[row] for row in spoke or []]
        if speaking:
            for sequence, one in zip(
                speaking, runner.draw([runner.decode(speaking)], spoke or [], speaking), strict=True
            ):
                assert isinstance(one, FrameDrawn)
                sequence.extend(one.column)
        decoding = [] if spoke == [] else sequences[:4]
        for sequence in decoding:
            if sequence not in speaking:
                sequence.extend(noise.integers(0, 8, (codebooks + 1, 1)))
        for sequence, new in zip(sequences[4:], sizes, strict=True):
            sequence.extend(noise.integers(0, 8, (codebooks + 1, new)))
        passes.clear()
        prefills = [(sequence, new, None) for sequence, new in zip(sequences[4:], sizes, strict=True)]
        states, decoded = runner.advance(prefills, decoding)
        made.append([*states, *([] if decoded is None else [decoded])])
    late = 4 if spoke is None else len(decoding) - len(speaking)
    if len(sizes) == 3:
        assert passes == [192, next(size for size in buckets(512) if size >= late + 5 + 40)]
    else:  # four of 120 and the one of 5, with those who are late; the fifth
        assert passes == ([128, 512] if decoding else [512, 128])
    for plain, shared in zip(*made, strict=True):
        assert torch.allclose(plain.head, shared.head, atol=1e-5)
        assert torch.allclose(plain.fast, shared.fast, atol=1e-5)


def test_newcomers_who_come_together_say_what_each_would_say_alone(s2pro: Path) -> None:
    loaded = tiny_model(s2pro)
    limits, heard = EngineLimits(max_streams=6, kv_positions=4096), list[list[Heard]]()
    for graphs in (False, True):
        core = core_of(loaded, limits, guarded=False, graphs=graphs)
        core._clock = lambda: 0.0
        driver, params = Driver(core), replace(SAMPLED, max_frames=6)
        heard.append([])
        for group in range(2):
            for number in range(3):
                name, text = f"c{group}{number}", "A sentence. " * (1 + number + group)
                heard[-1].append(driver.open(Conversation(name), text, frames=6, params=params, turn=group + number))
            for _ in range(3):
                driver.step()
        driver.run()
        assert_nothing_leaked(core)
    for one, other in zip(*heard, strict=True):
        assert (one.codes == other.codes).all()


def test_no_step_is_begun_ahead_where_it_is_watched_what_heads_look_at(
    s2pro: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny_model(s2pro)
    core = graphed(s2pro)
    core._runner._heads = HeadGroups((Head(0, 1),), loaded.model.config.slow, loaded.model.device)
    steps, driver = Counted(core, monkeypatch), Driver(core)
    heard = driver.open(Conversation("a"), "A sentence.", frames=5, params=replace(SAMPLED, max_frames=5))
    driver.run()
    assert len(heard.frames) == 5 and steps.ahead == 0


def test_steps_ahead_that_are_mostly_in_vain_are_given_up_and_taken_up_again(s2pro: Path) -> None:
    loaded = tiny_model(s2pro)
    codebooks = loaded.model.config.num_codebooks
    runner = Runner(loaded.model, loaded.codec, EngineLimits(max_streams=1, kv_positions=2048), graphs=True)
    graphs, sequence = runner._graphs, CachedSequence(runner.pool, codebooks)
    assert graphs is not None
    runner.open_row(0, SAMPLED, 0)
    other = np.zeros((codebooks + 1, 1), np.int64)
    drawn = [FrameDrawn(np.zeros(0, np.int16), other)]

    def begun(followed: bool) -> bool:
        """Whether a step is begun ahead. followed: the frame drawn before is what the sequence goes on with."""
        sequence.extend(drawn[-1].column if followed else other)
        (out,) = runner.draw([runner.decode([sequence])], [0], [sequence])
        drawn.append(out if isinstance(out, FrameDrawn) else drawn[0])
        return graphs._ahead is not None and graphs._ahead.hidden is not None

    in_vain = [begun(False) for _ in range(12)]
    assert in_vain[0] and not in_vain[-1]
    of_use = [begun(True) for _ in range(30)]
    assert not of_use[0] and of_use[-1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_folder("tiny", folder)
    return folder


def model_of(folder: Path, fuse) -> DualAR:  # type: ignore[no-untyped-def]
    model = RandomWeights(0).model(folder, "cpu", torch.float32)
    model.prepare_serving(fuse=fuse)
    return model


@pytest.mark.parametrize("fuse", [uncompiled, traced], ids=["as written", "traced"])
@torch.inference_mode()
def test_fused_blocks_compute_what_the_blocks_compute(tiny: Path, fuse) -> None:  # type: ignore[no-untyped-def]
    plain, fused = model_of(tiny, None), model_of(tiny, fuse)
    for rows in (1, 3, 5):
        x = torch.randn(rows, 1, plain.config.slow.dim)
        positions = torch.arange(rows)[:, None]
        assert torch.allclose(plain.slow(x, positions, causal).head, fused.slow(x, positions, causal).head, atol=1e-5)
        x, positions = torch.randn(2, rows + 3, plain.config.slow.dim), torch.arange(rows + 3).expand(2, -1)
        assert torch.allclose(plain.slow(x, positions, causal).head, fused.slow(x, positions, causal).head, atol=1e-5)
        x = torch.randn(rows, 1, plain.config.slow.dim)
        frames = []
        for model in (plain, fused):
            kv = _frame_kv(model, rows)
            frames.append(model.fast_frame(x[:, 0], torch.arange(rows), lambda _, logits: logits.argmax(-1), kv))
        assert torch.equal(*frames)


def _frame_kv(model: DualAR, rows: int):  # type: ignore[no-untyped-def]
    from engine.attention import FrameKV

    return FrameKV(model.config.fast, rows, model.config.num_codebooks, model.device, model.dtype)


def test_kernels_give_the_same_frames(tiny: Path, device: str) -> None:
    """All of them together: products, attention in place, draws; steps ahead, prefills as rows; a newcomer and one who is cancelled."""
    plain = replace(load_model(tiny, "tiny", device, "float32", None, fused=False), random=None)
    model = RandomWeights(0).model(tiny, device, torch.float32)
    model.prepare_serving(plain.codec.config.codebook_size, fuse=uncompiled, kernels=True)
    streams, frames = (3, 3) if device == "cpu" else (5, 9)  # the interpreter takes many seconds for a step
    heard = [
        spoken(loaded, graphs, MIXED, streams, frames)
        for loaded, graphs in ((plain, False), (replace(plain, model=model), True))
    ]
    for one, other in same_frames(*heard):
        for frame, same in zip(one.frames, other.frames, strict=False):
            assert (frame.codes == same.codes).all()


@pytest.mark.gpu
@pytest.mark.parametrize("mixed", [[GREEDY], [SAMPLED], MIXED], ids=["greedy", "sampled", "mixed"])
def test_captured_steps_give_the_same_frames(tiny: Path, mixed: list[SamplingParams]) -> None:
    loaded = replace(
        load_model(tiny, "tiny", "cuda", "float32", None, fused=False), random=None
    )  # ends come by themselves
    for plain, captured in same_frames(spoken(loaded, False, mixed), spoken(loaded, True, mixed)):
        assert all((one.codes == other.codes).all() for one, other in zip(plain.frames, captured.frames, strict=False))


@pytest.mark.gpu
@torch.inference_mode()
def test_compiled_blocks_compute_what_the_blocks_compute(tmp_path: Path) -> None:
    write_folder("tiny", tmp_path)
    made = [RandomWeights(0).model(tmp_path, "cuda", torch.float32) for _ in range(2)]
    for model, fuse in zip(made, (None, compiled), strict=True):
        model.prepare_serving(fuse=fuse)
    for rows in (1, 2, 7):
        x, positions = torch.randn(rows, 1, 64, device="cuda"), torch.arange(rows, device="cuda")[:, None]
        plain, fast = (model.slow(x, positions, causal).head for model in made)
        assert torch.allclose(plain, fast, atol=1e-3)
