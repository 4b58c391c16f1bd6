"""Draws follow the reference's rules, and noise depends on nothing but its counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from engine.api import SamplingParams
from engine.sampling import (
    FALLBACK,
    SEMANTIC,
    CounterNoise,
    Noise,
    Sampler,
    _unit,
    candidates,
    limits,
    noise_key,
    penalised,
    policy,
    probabilities,
    width_for,
)

pytestmark = pytest.mark.torch

Arrays = dict[str, npt.NDArray[Any]]


def entries(draws: int, rows: int, count: int) -> Tensor:
    return torch.arange(count).expand(draws, rows, -1)


def noise(seed: int = 0, turn: int = 0, frame: int = 0, draws: int = 9) -> CounterNoise:
    return CounterNoise(torch.tensor([noise_key(seed, turn)]).T, torch.tensor([frame]), draws)


def constant(value: float) -> Noise:
    return lambda draw, entries: torch.full(entries.shape, value)


def sampler(*params: SamplingParams, codebooks: int = 4) -> Sampler:
    made = Sampler(len(params), codebooks)
    for row, given in enumerate(params):
        made.open(row, given, turn=row)
    return made


GOLDEN = [0.333339, 0.06295, 0.822646]


# The filter


def test_filtered_probabilities_are_the_references(expected: Arrays) -> None:
    rows = [SamplingParams(temperature=t, top_p=p, top_k=int(k)) for t, p, k in expected["probs_params"].tolist()]
    rule, logits = policy(rows), torch.tensor(expected["probs_logits"])
    got = probabilities(candidates(logits, rule.limit.shape[-1]), rule, logits.shape[1])
    assert (got > 0).sum() > len(rows)
    torch.testing.assert_close(got, torch.tensor(expected["probs_out"]), atol=1e-6, rtol=0.0)


def kept(probability: list[float], **params: float) -> list[int]:
    rule = policy([SamplingParams(**params)])  # type: ignore[arg-type]
    got = probabilities(candidates(torch.tensor([probability]).log(), 32), rule, len(probability))
    return got[0].nonzero().flatten().tolist()


def test_the_token_that_crosses_top_p_is_removed() -> None:
    assert kept([0.2, 0.5, 0.3], top_p=0.75) == [1]
    assert kept([0.2, 0.5, 0.3], top_p=0.85) == [1, 2]


def test_the_best_token_is_kept_though_it_alone_exceeds_top_p() -> None:
    assert kept([0.1, 0.9], top_p=0.5) == [1]


def test_top_p_of_one_removes_nothing() -> None:
    assert kept([0.25] * 4, top_p=1.0) == [0, 1, 2, 3]


def test_top_k_counts_from_the_best() -> None:
    assert kept([0.1, 0.2, 0.3, 0.4], top_p=1.0, top_k=2) == [2, 3]


def test_mass_is_measured_before_the_temperature() -> None:
    cold, hot = (kept([0.5, 0.3, 0.2], top_p=0.81, temperature=t) for t in (0.1, 2.0))
    assert cold == hot == [0, 1]


def test_temperature_shapes_what_the_filter_left() -> None:
    rule = policy([SamplingParams(temperature=0.5, top_p=1.0)])
    got = probabilities(candidates(torch.tensor([[0.8, 0.2]]).log(), 2), rule, 2)
    torch.testing.assert_close(got, torch.tensor([[0.64, 0.04]]) / 0.68)


def test_a_filter_row_is_as_wide_as_asked_for() -> None:
    assert limits(0.5, 3, 5).tolist() == [float("inf"), 0.5, 0.5, -1.0, -1.0]
    assert limits(0.5, 9, 3).tolist() == [float("inf"), 0.5, 0.5]
    assert [width_for(k) for k in (1, 32, 33, 1024)] == [32, 32, 128, 1024]


def test_one_candidate_is_greedy_whatever_the_noise() -> None:
    logits = torch.randn(3, 50)
    rows = torch.arange(3)
    for value in (1e-7, 0.5, 1 - 1e-7):
        draws = sampler(*[SamplingParams(top_k=1)] * 3).frame(rows, constant(value))
        assert torch.equal(draws.semantic(logits), logits.argmax(-1))
        assert torch.equal(draws.codebook(1, logits), logits.argmax(-1))


def test_draws_have_the_filtered_distribution() -> None:
    rows, frames = 500, 20
    params = SamplingParams(temperature=0.7, top_p=0.95, top_k=5)
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0]]).expand(rows, -1)
    drawing = sampler(*[params] * rows)
    counts = torch.zeros(7)
    for _ in range(frames):
        draws = drawing.frame(torch.arange(rows))
        drawn = draws.codebook(2, logits)
        counts += torch.bincount(drawn, minlength=7)
        draws.commit(drawn)
    rule = policy([params])
    wanted = probabilities(candidates(logits[:1], 32), rule, 7)[0] * rows * frames
    assert not counts[wanted == 0].any()
    cells = wanted > 0
    chi_square = ((counts - wanted)[cells] ** 2 / wanted[cells]).sum().item()
    assert chi_square < 16.3, "0.1 % point of chi-square with 3 degrees of freedom"


# Repetition


def test_a_repeated_semantic_token_gives_way_to_the_fallback() -> None:
    logits = torch.tensor([[2.0, 1.9, 1.0, 0.0]])

    def table(draw: int, wanted: Tensor) -> Tensor:
        """Noise under which the first draw takes entry 0 and the fallback entry 1."""
        uniform = torch.full((2, 4), 1e-3)
        uniform[SEMANTIC, 0] = uniform[FALLBACK, 1] = 1 - 1e-6
        return uniform[draw : draw + len(wanted), None].gather(-1, wanted)

    drawing, drawn = sampler(SamplingParams(top_p=1.0)), []
    for _ in range(5):
        draws = drawing.frame(torch.tensor([0]), table)
        column = draws.semantic(logits)
        draws.commit(column)
        drawn.append(column.item())
    # The first token never enters the window, so the second may repeat it; from then on 0 is in the window.
    assert drawn == [0, 0, 1, 1, 1]


def repeats_after(tokens: list[int], probe: int) -> bool:
    """Whether `probe`, drawn after these tokens, counts as a repetition."""
    drawing, column = sampler(SamplingParams(top_p=1.0)), torch.tensor([0])

    def prefer_39(draw: int, wanted: Tensor) -> Tensor:
        """Noise that makes the fallback take entry 39 and leaves the first draw to the logits."""
        uniform = torch.full(wanted.shape, 0.5)
        uniform[FALLBACK][wanted[FALLBACK] == 39] = 0.9
        return uniform

    for token in [*tokens, probe]:
        logits = torch.full((1, 40), -9.0)
        logits[0, [token, 39, 38]] = torch.tensor(
            [5.0, 4.9, 4.8]
        )  # the third leaves the second within the fallback's 0.9
        draws = drawing.frame(torch.tensor([0]), prefer_39)
        column = draws.semantic(logits)
        draws.commit(torch.tensor([token]))
    return column.item() == 39


@pytest.mark.parametrize(
    ("tokens", "repeats"),
    [
        ([1, 2, 3], False),  # the segment's first token never enters
        ([0, 1, 2, 3], True),
        ([0, 1, *range(2, 11)], True),  # ten tokens back
        ([0, 1, *range(2, 12)], False),  # eleven
    ],
)
def test_the_window_is_the_last_ten_tokens_but_never_the_first(tokens: list[int], repeats: bool) -> None:
    assert repeats_after(tokens, 1) == repeats


def test_a_new_segment_starts_with_an_empty_window() -> None:
    drawing, logits = sampler(SamplingParams(top_k=1, repetition_penalty=1.5)), torch.tensor([[1.0, 0.9]])
    picks = []
    for _ in range(2):
        drawing.begin(0)
        draws = drawing.frame(torch.tensor([0]))
        picks.append(draws.semantic(logits).item())
        draws.commit(torch.tensor([0]))
    draws = drawing.frame(torch.tensor([0]))
    assert [*picks, draws.semantic(logits).item()] == [0, 0, 1], (
        "the penalty sees the first token, a new segment nothing"
    )


def test_the_penalty_divides_positive_and_multiplies_negative_logits_once() -> None:
    logits = torch.tensor([[2.0, -2.0, 3.0, 0.5]])
    got = penalised(logits, torch.tensor([[0, 0, 1, -1, -1]]), torch.tensor([[2.0]]))
    assert got.tolist() == [[1.0, -4.0, 3.0, 0.5]]


def test_a_penalty_of_one_changes_nothing_at_all() -> None:
    logits = torch.randn(2, 9)
    assert torch.equal(penalised(logits, torch.randint(-1, 9, (2, 16)), torch.ones(2, 1)), logits)


def test_the_penalty_looks_back_sixteen_tokens() -> None:
    drawing = sampler(SamplingParams(top_k=1, repetition_penalty=2.0))
    logits = torch.zeros(1, 40)
    logits[0, 0], logits[0, 1] = 1.0, 0.9
    for token in [0, *range(10, 25)]:  # token 0 is sixteen back
        drawing.frame(torch.tensor([0])).commit(torch.tensor([token]))
    assert drawing.frame(torch.tensor([0])).semantic(logits).item() == 1
    drawing.frame(torch.tensor([0])).commit(torch.tensor([30]))
    assert drawing.frame(torch.tensor([0])).semantic(logits).item() == 0


# Rows


def run(drawing: Sampler, rows: list[int], logits: Callable[[int, int], Tensor], frames: int = 6) -> list[list[int]]:
    """Draws of every row, frame after frame. logits: (row, frame) -> [V]."""
    drawn: list[list[int]] = [[] for _ in rows]
    for frame in range(frames):
        draws = drawing.frame(torch.tensor(rows))
        given = torch.stack([logits(row, frame) for row in rows])
        column = draws.semantic(given)
        codes = [draws.codebook(k, given) for k in (1, 2, 3)]
        draws.commit(column)
        for b in range(len(rows)):
            drawn[b] += [column[b].item(), *(code[b].item() for code in codes)]  # type: ignore[list-item]
    return drawn


def logits_of(row: int, frame: int) -> Tensor:
    return torch.randn(60, generator=torch.Generator().manual_seed(100 * row + frame)) * 2


PARAMS = [
    SamplingParams(seed=1),
    SamplingParams(temperature=1.3, top_p=1.0, top_k=55, seed=2),
    SamplingParams(top_k=3, repetition_penalty=1.4, seed=3),
    SamplingParams(top_p=0.6, seed=1),
]


def test_a_rows_draws_do_not_depend_on_its_neighbours() -> None:
    together = run(sampler(*PARAMS), [2, 0, 3, 1], logits_of)
    for row, drawn in zip([2, 0, 3, 1], together, strict=True):
        alone = Sampler(6, 4)
        alone.open(5, PARAMS[row], turn=row)
        assert run(alone, [5], lambda _, frame, row=row: logits_of(row, frame))[0] == drawn  # type: ignore[misc]


def test_a_row_opened_again_starts_over() -> None:
    drawing = sampler(*PARAMS)
    first = run(drawing, [1], logits_of)
    drawing.open(1, PARAMS[1], turn=1)
    assert run(drawing, [1], logits_of) == first
    drawing.open(1, PARAMS[1], turn=2)
    assert run(drawing, [1], logits_of) != first


def test_a_second_attempt_at_a_segment_draws_anew() -> None:
    drawing = sampler(*PARAMS)
    first = run(drawing, [1], logits_of)
    drawing.begin(1)
    assert run(drawing, [1], logits_of) != first


def test_rows_that_closed_cost_nothing() -> None:
    drawing = sampler(*PARAMS)
    assert (drawing.width, drawing.penalising) == (128, True)
    drawing.close(1)
    drawing.close(2)
    drawing.close(2)
    assert (drawing.width, drawing.penalising) == (32, False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_logits_are_sampled_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 60).to(dtype)
    drawing = sampler(*PARAMS)
    rows = torch.arange(4)
    narrow, wide = (drawing.frame(rows).semantic(given) for given in (logits, logits.float()))
    assert torch.equal(narrow, wide)


# Noise


def test_noise_follows_from_its_counters_alone() -> None:
    columns = entries(9, 1, 4096)
    base = noise(seed=5, turn=2, frame=7)(0, columns)
    assert torch.equal(noise(seed=5, turn=2, frame=7)(0, columns), base)
    for other in (noise(6, 2, 7), noise(5, 3, 7), noise(5, 2, 8)):
        assert (other(0, columns) == base).float().mean() < 1e-3
    some = torch.tensor([3999, 5, 17])
    assert torch.equal(noise(5, 2, 7)(4, some.expand(1, 1, -1))[0, 0], base[4, 0, some])


def test_noise_has_the_values_it_always_had() -> None:
    # A change here changes every seeded utterance ever made.
    got = noise(seed=1, turn=2, frame=3)(4, torch.tensor([[[0, 1, 1023]]]))
    assert got.dtype == torch.float32
    assert [round(value, 6) for value in got.flatten().tolist()] == GOLDEN


def test_noise_is_uniform() -> None:
    values = torch.cat([noise(seed=s, frame=f)(0, entries(9, 1, 1024)).flatten() for s in (0, 1) for f in range(40)])
    n = len(values)
    assert values.min() > 0
    assert values.max() < 1
    assert abs(values.mean().item() - 0.5) < 4 / (12 * n) ** 0.5
    counts = torch.histc(values, bins=256, min=0, max=1)
    chi_square = ((counts - n / 256) ** 2 / (n / 256)).sum().item()
    assert 160 < chi_square < 370, "far beyond the 0.01 % points of chi-square with 255 degrees of freedom"


def correlation(a: Tensor, b: Tensor) -> float:
    """In standard errors: beyond 4.5 is no chance."""
    both = np.corrcoef(a.flatten().numpy(), b.flatten().numpy())
    return abs(float(both[0, 1])) * float(np.sqrt(a.numel()))


def test_noise_of_neighbouring_counters_is_independent() -> None:
    frames = torch.stack([noise(frame=f)(0, entries(9, 1, 1024))[:, 0] for f in range(60)])  # [frame, draw, entry]
    assert correlation(frames[1:], frames[:-1]) < 4.5
    assert correlation(frames[:, 1:], frames[:, :-1]) < 4.5
    assert correlation(frames[..., 1:], frames[..., :-1]) < 4.5
    seeds = torch.stack([noise(seed=s)(0, entries(9, 1, 1024))[:, 0] for s in range(60)])
    assert correlation(seeds[1:], seeds[:-1]) < 4.5
    turns = torch.stack([noise(turn=t)(0, entries(9, 1, 1024))[:, 0] for t in range(60)])
    assert correlation(turns[1:], turns[:-1]) < 4.5
    # The largest of few candidates decides a draw, so the place of the largest must be even as well.
    places = torch.bincount(frames[..., :8].argmax(-1).flatten(), minlength=8).float()
    share = frames.shape[0] * frames.shape[1] / 8
    assert ((places - share) ** 2 / share).sum() < 24.3, "0.1 % point of chi-square with 7 degrees of freedom"


def test_noise_is_never_zero_or_one() -> None:
    extremes = _unit(torch.tensor([0, 2**32 - 1]))
    assert extremes.tolist() == [2.0**-24, 1 - 2.0**-24]
    assert torch.isfinite(-(-extremes.log()).log()).all()
