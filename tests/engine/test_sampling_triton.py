"""Draws in kernels are the plain path's. With a GPU; or, much slower, with TRITON_INTERPRET=1 and the package triton."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from engine import sampling
from engine.api import SamplingParams
from engine.attention import FrameKV
from engine.drawing import draw_frame
from engine.load import load_model
from engine.model import Hidden
from engine.sampling import PENALTY_WINDOW, Candidates, Policy, Sampler, candidates
from tests.engine.conftest import INTERPRETED

if TYPE_CHECKING:
    from engine.sampling_triton import KernelDraws

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # the interpreter's, of NaN

CODEBOOKS = 3
BEGIN, IM_END, CODES = 100, 7, 5000
MASS_DOUBT, SCORE_DOUBT = 1e-5, 2e-6  # what is nearer to each other, scores relatively, may be ordered by roundings
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [(4097, 1024), (1500, 33), (65, 64), (7, 32), (33, 1)]  # entries of the semantic head, and of the others


@pytest.fixture(autouse=True)
def plain_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain draws take the lower of equally likely entries first, as the kernels do; `topk` leaves open which comes first."""

    def in_order(logits: Tensor, width: int) -> Candidates:
        top, entries = (part[:, :width] for part in logits.float().sort(dim=-1, descending=True, stable=True))
        return Candidates(top, logits.float().softmax(-1).gather(-1, entries).cumsum(-1), entries)

    monkeypatch.setattr(sampling, "candidates", in_order)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits_of(rows: int, entries: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Some rows peaked, some flat, some with few values that occur again and again."""
    noise = torch.randn(rows, entries, generator=random(seed))
    noise *= torch.tensor([0.5, 3.0, 6.0, 1.0]).repeat(-(-rows // 4))[:rows, None]
    noise[3::4] = noise[3::4].round()
    return noise.to(dtype)


def sampler_of(rows: int, device: str, seed: int, likely: Tensor) -> Sampler:
    """In the middle of turns, with parameters and pasts of all sorts. likely: int64 [rows, n], what histories are made of."""
    sampler = Sampler(rows, CODEBOOKS, device)
    dice = torch.rand(rows, 3, generator=random(seed)).tolist()
    for row, (heat, p, k) in enumerate(dice):
        top_p = 1.0 if row % 5 == 0 else 0.05 + 0.95 * p
        temperature = 0.0 if row % 7 == 3 else 0.1 + 1.9 * heat
        sampler.open(
            row,
            SamplingParams(temperature=temperature, top_p=top_p, top_k=1 + int(32 * k), seed=row + seed),
            turn=row % 3,
        )
    sampler._age.copy_(torch.randint(0, 21, (rows,), generator=random(seed + 1)))
    sampler._frame.copy_(torch.randint(0, 1 << 26, (rows,), generator=random(seed + 2)))
    which = torch.randint(0, likely.shape[1], (rows, PENALTY_WINDOW), generator=random(seed + 3))
    past = likely.cpu().gather(1, which)
    past[torch.arange(PENALTY_WINDOW) < PENALTY_WINDOW - sampler._age.cpu()[:, None]] = -1
    sampler._history.copy_(past)
    return sampler


def copied(sampler: Sampler) -> Sampler:
    return sampler.over([tensor.clone() for tensor in sampler.state])


def table(codes: int, device: str) -> Tensor:
    return torch.arange(codes * 24, device=device).view(codes, 24).float()


def kernel_draws(sampler: Sampler, rows: Tensor) -> KernelDraws:
    from engine.sampling_triton import KernelDraws, Tokens

    return KernelDraws(sampler, rows, Tokens(BEGIN, IM_END, CODES), table(CODES, rows.device.type))


def drawn(sampler: Sampler, rows: Tensor, semantic: Tensor, others: list[Tensor]) -> Tensor:
    """One frame by kernels."""
    draws = kernel_draws(sampler, rows)
    draws.semantic(semantic)
    for codebook, logits in enumerate(others, 1):
        draws.codebook(codebook, logits)
    return draws.frame


@dataclass(frozen=True)
class Plain:
    """One frame by the plain path."""

    frame: Tensor  # as KernelDraws.frame
    doubt: Tensor  # bool [rows, draws]: of each of a frame's tokens and codes, whether roundings may decide


def plainly(sampler: Sampler, rows: Tensor, semantic: Tensor, others: list[Tensor]) -> Plain:
    draws = sampler.frame(rows)
    mass = semantic.sum(-1, dtype=torch.float32) + sum(logits.sum(-1, dtype=torch.float32) for logits in others)
    doubt = [near(draws._both, draws._noise, 0, semantic)]
    column = draws.semantic(semantic)
    frame = [mass.isfinite().long(), torch.where(column == semantic.shape[1] - 1, IM_END, column + BEGIN)]
    frame.append(torch.where(column == semantic.shape[1] - 1, 0, column.clamp(max=CODES - 1)))
    for codebook, logits in enumerate(others, 1):
        frame.append(draws.codebook(codebook, logits))
        doubt.append(near(draws._own, draws._noise, codebook + 1, logits))
    draws.commit(column)
    return Plain(torch.stack(frame, 1), torch.stack(doubt, 1))


def near(rule: Policy, noise: sampling.Noise, draw: int, logits: Tensor) -> Tensor:
    """Whether some candidate's mass is next to the limit of its rank, or the two best scores are next to each other, bool [rows]."""
    found = sampling.candidates(logits, 32)
    some = found.entries.expand(*rule.temperature.shape[:-2], -1, -1)
    uniform = noise(draw, some if some.dim() == 3 else some[None]).view(some.shape).double()
    limit, mass = rule.limit[..., : found.mass.shape[-1]], found.mass
    border = ((mass - limit).abs() < MASS_DOUBT).any(-1)
    score = found.logits.double() / rule.temperature - (-uniform.log()).log()
    best = score.masked_fill(mass > limit, -torch.inf).topk(min(2, score.shape[-1])).values
    size = (found.logits[:, 0].abs() / rule.temperature[..., 0]).maximum(best[..., 0].abs()).clamp(min=1)
    close = best[..., 0] - best[..., -1] < SCORE_DOUBT * size if best.shape[-1] == 2 else torch.zeros_like(border)
    doubt = border | close
    return doubt.any(0) if doubt.dim() == 2 else doubt


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_kernels_draw_what_the_plain_path_draws(device: str, sizes: tuple[int, int], dtype: torch.dtype) -> None:
    rows, rounds = (8, 1) if INTERPRETED else (200, 20)
    order = torch.randperm(rows, generator=random(0)).to(device)
    doubtful = 0.0
    for seed in range(rounds):
        semantic = logits_of(rows, sizes[0], dtype, seed).to(device)
        others = [logits_of(rows, sizes[1], dtype, 1000 * codebook + seed).to(device) for codebook in (1, 2)]
        likely = semantic.float().topk(min(4, sizes[0])).indices
        plain = sampler_of(rows, device, seed, likely[order.argsort()])
        kernels = copied(plain)
        wanted = plainly(plain, order, semantic, others)
        frame = drawn(kernels, order, semantic, others)
        doubt = wanted.doubt.cpu()
        wrong = (frame != wanted.frame).cpu()
        assert not wrong[:, 0].any()
        assert not (wrong[:, 1:3] & ~doubt[:, :1]).any()
        assert not (wrong[:, 3:] & ~doubt[:, 1:]).any()
        for one, other in zip(plain.state, kernels.state, strict=True):
            sure = ~doubt[:, 0]
            assert torch.equal(one, other) or torch.equal(one[order][sure.to(device)], other[order][sure.to(device)])
        doubtful += doubt.double().mean().item() / rounds
    assert doubtful < 0.1, "or nothing would be tested"


def test_fallbacks_win_where_tokens_repeat(device: str) -> None:
    """The test above is about what it says only if some of its draws are the second ones."""
    semantic = logits_of(24, 65, torch.float32, 0).to(device)
    sampler = sampler_of(24, device, 0, semantic.topk(2).indices)
    remembering = copied(sampler)
    sampler._history.fill_(-1)
    first, second = (drawn(one, torch.arange(24, device=device), semantic, []) for one in (sampler, remembering))
    assert (first[:, 1] != second[:, 1]).sum() >= 3


def test_of_equal_logits_the_lower_entries_are_the_likelier(device: str) -> None:
    rows = torch.arange(2, device=device)
    logits = torch.zeros(2, 100, device=device)
    logits[:, ::3] = -0.0
    sampler = Sampler(2, CODEBOOKS, device)
    for row in rows.tolist():
        sampler.open(row, SamplingParams(top_p=1.0, temperature=1.0, top_k=4, seed=row), 0)
    seen = [drawn(sampler, rows, logits, [logits, logits])[:, 2:] for _ in range(6)]
    assert set(torch.cat(seen).flatten().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("dtype", DTYPES[::2], ids=str)
@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_told_and_harms_nobody(device: str, bad: float, dtype: torch.dtype) -> None:
    rows = 4
    semantic, *others = (logits_of(rows, entries, dtype, entries).to(device) for entries in (65, 40, 40))
    index = torch.arange(rows, device=device)
    sampler = sampler_of(rows, device, 3, semantic.topk(2).indices)
    healthy = drawn(copied(sampler), index, semantic, others)
    assert healthy[:, 0].all()
    semantic[1, 64], others[0][2], others[1][3, :30] = bad, bad, bad
    frame = drawn(sampler, index, semantic, others)
    assert frame[:, 0].tolist() == [1, 0, 0, 0]
    assert torch.equal(frame[0], healthy[0])
    assert (frame[:, 2:] >= 0).all()
    assert (frame[:, 2] < 65).all()
    assert (frame[:, 3:] < 40).all()
    assert (sampler._history < 65).all()
    semantic[:] = bad
    assert (drawn(sampler, index, semantic[:, :6].contiguous(), others)[:, 2] < 6).all()


def test_rows_of_nobody_may_share_a_place(device: str) -> None:
    semantic, *others = (logits_of(4, entries, torch.float32, entries).to(device) for entries in (65, 40, 40))
    sampler = sampler_of(5, device, 9, semantic.topk(2).indices.repeat(2, 1)[:5])
    sampler._limit[:, 4] = 0.0  # as in a sampler where nobody opened it
    before, alone = copied(sampler), copied(sampler)
    frame = drawn(sampler, torch.tensor([2, 4, 4, 4], device=device), semantic, others)
    wanted = drawn(alone, torch.tensor([2], device=device), semantic[:1], [logits[:1] for logits in others])
    assert torch.equal(frame[:1], wanted)
    for now, then, one in zip(sampler.state, before.state, alone.state, strict=True):
        axis = 1 if now.shape[0] == 2 else 0
        kept = torch.tensor([0, 1, 3], device=device)
        assert torch.equal(now.index_select(axis, kept), then.index_select(axis, kept))
        assert torch.equal(now.select(axis, 2), one.select(axis, 2))


def test_rows_may_lie_apart(device: str) -> None:
    wide = logits_of(3, 80, torch.float32, 1).to(device)
    rows = torch.arange(3, device=device)
    sampler = sampler_of(3, device, 4, wide.topk(2).indices)
    one = drawn(copied(sampler), rows, wide[:, :65], [wide[:, 1:41]] * 2)
    other = drawn(sampler, rows, wide[:, :65].contiguous(), [wide[:, 1:41].contiguous()] * 2)
    assert torch.equal(one, other)


def test_the_embedding_of_a_code_is_there_with_the_code(device: str) -> None:
    rows = torch.arange(3, device=device)
    logits = logits_of(3, 65, torch.float32, 1).to(device)
    logits[1, 64] = 100.0
    sampler = sampler_of(3, device, 4, logits.topk(2).indices)
    draws, embeddings = kernel_draws(sampler, rows), table(CODES, device)
    code = draws.semantic(logits)
    assert draws.frame[1].tolist()[:3] == [1, IM_END, 0]
    assert torch.equal(draws.embedded, embeddings[code])
    code = draws.codebook(1, logits)
    assert torch.equal(draws.embedded, embeddings[code])


# -- whole frames


@torch.inference_mode()
def frames_of(s2pro: Path, device: str, kernels: bool, params: SamplingParams) -> tuple[list[Tensor], Sampler]:
    model = load_model(s2pro, "tiny", device, "float32", None, fused=False, kernels=False).model
    rows, config = 3, model.config
    sampler = Sampler(rows + 1, config.num_codebooks, device, kernels=kernels)
    for row in range(rows):
        sampler.open(row, params, turn=row)
    memory = FrameKV(config.fast, rows, config.num_codebooks, model.device, model.dtype)
    frames = []
    for number in range(2):
        hidden = torch.randn(rows, config.slow.dim, generator=random(number)).to(device)
        hidden[1, 0] = torch.nan if number == 1 else 0.0
        frames.append(
            draw_frame(model, sampler, memory, Hidden(hidden, hidden), torch.tensor([2, 0, 1], device=device))
        )
    return frames, sampler


def test_a_frame_drawn_by_kernels_is_the_plain_one(s2pro: Path, device: str) -> None:
    params = SamplingParams(seed=3, top_k=20)
    (plain, before), (kernels, after) = (frames_of(s2pro, device, on, params) for on in (False, True))
    assert [frame[:, 0].tolist() for frame in kernels] == [[1, 1, 1], [1, 0, 1]]
    sound = torch.tensor([0, 2], device=device)
    for one, other in zip(plain, kernels, strict=True):
        assert torch.equal(one[sound], other[sound])
    keep = torch.tensor([2, 1, 3], device=device)  # but for the row with NaN, sampler's row 0
    for one, other in zip(before.state, after.state, strict=True):
        axis = 1 if one.shape[0] == 2 else 0
        assert torch.equal(one.index_select(axis, keep), other.index_select(axis, keep))


def test_what_the_kernels_do_not_know_is_drawn_plainly(s2pro: Path) -> None:
    params = SamplingParams(seed=3, top_k=40, repetition_penalty=1.2)
    (plain, _), (other, _) = (frames_of(s2pro, "cpu", on, params) for on in (False, True))
    assert all(torch.equal(one[:, :2], two[:, :2]) for one, two in zip(plain, other, strict=True))


@pytest.mark.gpu
def test_draws_are_part_of_a_graph() -> None:
    rows = torch.arange(8, device="cuda")
    semantic, *others = (logits_of(8, entries, torch.bfloat16, entries).cuda() for entries in (4097, 1024, 1024))
    plain = sampler_of(8, "cuda", 1, semantic.float().topk(3).indices)
    captured = copied(plain)
    drawn(copied(plain), rows, semantic, others)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        frame = drawn(captured, rows, semantic, others)
    sure = torch.ones(8, dtype=torch.bool, device="cuda")
    for _ in range(5):
        wanted = plainly(plain, rows, semantic, others)
        sure &= ~wanted.doubt.any(1)
        graph.replay()
        assert torch.equal(frame[sure], wanted.frame[sure])
    assert sure.sum() >= 4, "or little would be tested"


def test_candidates_of_this_file_are_those_of_the_plain_path() -> None:
    logits = torch.randn(5, 300, generator=random(0))
    one, other = candidates(logits, 32), sampling.candidates(logits, 32)
    assert torch.equal(one.entries, other.entries)
    assert torch.equal(one.mass, other.mass)
