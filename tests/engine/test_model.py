"""The model gives the reference's numbers, in every form in which it is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention import ContiguousKV, FrameKV, causal
from engine.checkpoint import load_dual_ar
from engine.config import ModelConfig, StackConfig
from engine.model import DualAR, RMSNorm, rope_rows, rope_table, rotate

pytestmark = pytest.mark.torch

Arrays = dict[str, npt.NDArray[Any]]
CPU = torch.device("cpu")
SLOW = StackConfig(dim=24, n_layer=2, n_head=4, n_kv_head=2, head_dim=8, ffn_dim=40, qk_norm=True)
FAST = StackConfig(dim=16, n_layer=2, n_head=2, n_kv_head=1, head_dim=8, ffn_dim=24)
SMALL = ModelConfig(
    SLOW,
    FAST,
    vocab_size=60,
    codebook_size=20,
    num_codebooks=4,
    semantic_begin=30,
    semantic_end=49,
    im_end=7,
    max_positions=64,
)


@pytest.fixture(scope="module")
def reference(s2pro: Path) -> DualAR:
    return load_dual_ar(s2pro)


def build(config: ModelConfig = SMALL) -> DualAR:
    """A model with random weights that make every branch count."""
    torch.manual_seed(7)
    model = DualAR(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    return model


def prompt(rows: int, length: int) -> Tensor:
    """Text and frames mixed, [rows, K + 1, length]."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(0, 60, (rows, 1, length), generator=generator)
    codes = torch.randint(0, 20, (rows, 3, length), generator=generator)
    semantic = (ids - 30).clamp(0, 19)
    return torch.cat((ids, semantic, codes), 1)


def hidden(model: DualAR, matrix: Tensor) -> Tensor:
    positions = torch.arange(matrix.shape[2]).expand(matrix.shape[0], -1)
    return model.slow(model.embed(matrix), positions, causal).head


@pytest.mark.parametrize("scenario", ["plain", "ref", "multispeaker", "multiturn"])
def test_prefill_and_cached_steps_are_the_references(scenario: str, reference: DualAR, expected: Arrays) -> None:
    model = reference
    given = torch.tensor(expected[f"{scenario}_b{expected[f'{scenario}_tf_batch']}_prompt"])[None]
    frames = torch.tensor(expected[f"{scenario}_tf_frames"])[None]
    length, follow = given.shape[2], frames.shape[2]
    kv = ContiguousKV(model.config.slow, 1, length + follow, CPU, torch.float32)
    positions = torch.arange(length)[None]
    with torch.no_grad():
        whole = model.slow(model.embed(given), positions, kv.at(positions))
        steps = [whole.at(-1)]
        for i in range(follow):
            at = torch.tensor([[length + i]])
            steps.append(model.slow(model.embed(frames[:, :, i : i + 1]), at, kv.at(at)).at(0))
        last = torch.cat([step.head for step in steps])
        for name, got in (
            ("prefill_hidden", whole.head[0]),
            ("tf_hidden", last),
            ("tf_logits", model.full_logits(last)),
            ("tf_fast_in", model.fast_project_in(last)),
        ):
            torch.testing.assert_close(got, torch.tensor(expected[f"{scenario}_{name}"]), atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("scenario", ["plain", "ref"])
def test_fast_logits_are_the_references(scenario: str, reference: DualAR, expected: Arrays) -> None:
    state = torch.tensor(expected[f"{scenario}_tf_hidden"])[:2]
    codes = torch.tensor(expected[f"{scenario}_tf_frames"])[1:, :2].T
    with torch.no_grad():
        got = reference.fast(state, codes)
    torch.testing.assert_close(got, torch.tensor(expected[f"{scenario}_tf_fast_logits"]), atol=1e-4, rtol=0.0)


def test_embeddings_are_the_references_bit_for_bit(reference: DualAR, expected: Arrays) -> None:
    with torch.no_grad():
        got = reference.embed(torch.tensor(expected["ref_b0_prompt"])[None])
    assert torch.equal(got[0], torch.tensor(expected["ref_prefill_embed"]))


@torch.no_grad()
def test_steps_through_a_cache_equal_the_whole_sequence() -> None:
    model, matrix = build(), prompt(2, 11)
    kv = ContiguousKV(SLOW, 2, 11, CPU, torch.float32)
    parts = []
    for start, stop in ((0, 6), (6, 7), (7, 8), (8, 11)):
        positions = torch.arange(start, stop).expand(2, -1)
        parts.append(model.slow(model.embed(matrix[:, :, start:stop]), positions, kv.at(positions)).head)
    torch.testing.assert_close(torch.cat(parts, 1), hidden(model, matrix), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_frame_drawn_pass_by_pass_has_the_logits_of_the_whole_frame() -> None:
    model = build()
    state, codes = torch.randn(3, SLOW.dim), torch.randint(0, 20, (3, 4))
    kv, seen = FrameKV(FAST, 5, 4, CPU, torch.float32), {}

    def draw(codebook: int, logits: Tensor) -> Tensor:
        seen[codebook] = logits
        return codes[:, codebook]

    assert torch.equal(model.fast_frame(state, codes[:, 0], draw, kv), codes)
    assert list(seen) == [1, 2, 3]
    whole = model.fast(state, codes)
    for codebook, logits in seen.items():
        torch.testing.assert_close(logits, whole[:, codebook], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_serving_form_computes_the_same_under_the_same_names() -> None:
    plain, serving = build(), build()
    serving.prepare_serving()
    matrix, state, codes = prompt(2, 9), torch.randn(3, SLOW.dim), torch.randint(0, 20, (3, 4))
    torch.testing.assert_close(hidden(serving, matrix), hidden(plain, matrix), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(serving.head(state), plain.head(state))
    torch.testing.assert_close(serving.fast(state, codes), plain.fast(state, codes), atol=1e-5, rtol=1e-5)
    theirs, ours = plain.state_dict(), serving.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@torch.no_grad()
def test_residual_logits_can_be_cut_to_the_codecs_entries() -> None:
    model = build()
    kv, widths = FrameKV(FAST, 1, 4, CPU, torch.float32), []

    def draw(codebook: int, logits: Tensor) -> Tensor:
        widths.append(logits.shape[1])
        return logits.argmax(-1)

    model.prepare_serving(residual_entries=12)
    model.fast_frame(torch.randn(1, SLOW.dim), torch.tensor([3]), draw, kv)
    assert widths == [12, 12, 12]


@torch.no_grad()
def test_rows_do_not_affect_each_other() -> None:
    model, matrix = build(), prompt(3, 8)
    together = hidden(model, matrix)
    for row in range(3):
        torch.testing.assert_close(together[row], hidden(model, matrix[row : row + 1])[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_head_has_the_allowed_rows_of_the_whole_head() -> None:
    model = build()
    state = torch.randn(2, SLOW.dim)
    whole, columns = model.full_logits(state), torch.arange(SMALL.n_semantic + 1)
    torch.testing.assert_close(model.head(state), whole[:, model.token_of(columns)])
    assert model.token_of(columns).tolist() == [*range(30, 50), 7]
    assert model.code_of(columns).tolist() == [*range(20), 0]


@torch.no_grad()
def test_an_untied_head_has_weights_of_its_own() -> None:
    model = build(replace(SMALL, tie_word_embeddings=False))
    state = torch.randn(2, SLOW.dim)
    assert torch.equal(model.full_logits(state), state @ model.output.weight.T)
    model.prepare_serving()
    torch.testing.assert_close(model.head(state)[:, -1], state @ model.output.weight[7])


@torch.no_grad()
def test_only_semantic_positions_take_codes_and_the_scale() -> None:
    model, scale = build(), 5**0.5
    matrix = torch.tensor([[[30, 8], [0, 0], [5, 5], [6, 6], [7, 7]]])
    table = model.codebook_embeddings.weight
    summed = model.embeddings.weight[30] + table[0] + table[20 + 5] + table[40 + 6] + table[60 + 7]
    got = model.embed(matrix)[0]
    torch.testing.assert_close(got[0], summed / scale)
    assert torch.equal(got[1], model.embeddings.weight[8])
    unscaled = build(replace(SMALL, scale_codebook_embeddings=False))
    torch.testing.assert_close(unscaled.embed(matrix)[0, 0], summed)


@torch.no_grad()
def test_fast_stack_takes_the_normed_state_unless_told_otherwise() -> None:
    matrix, positions = prompt(1, 5), torch.arange(5)[None]
    normed = build()
    state = normed.slow(normed.embed(matrix), positions, causal)
    assert state.fast is state.head
    raw = build(replace(SMALL, norm_fastlayer_input=False))
    state = raw.slow(raw.embed(matrix), positions, causal)
    assert torch.equal(raw.norm(state.fast), state.head)
    assert not torch.allclose(state.fast, state.head)
    one = state.at(torch.tensor([2]))
    assert torch.equal(one.fast, state.fast[:, 2])
    assert torch.equal(one.head, state.head[:, 2])


def test_rotation_tables_hold_bfloat16_values_in_float32() -> None:
    table = rope_table(SLOW, 4000)
    assert table.dtype == torch.float32
    assert torch.equal(table, table.bfloat16().float())
    angle = 3999 / 1e6 ** (2 / 8)
    assert table[3999, 0, 2].item() == pytest.approx(torch.tensor(angle).cos().item(), abs=4e-3)
    assert table[3999, 1, 3].item() == pytest.approx(torch.tensor(angle).sin().item(), abs=4e-3)


def test_rotation_turns_adjacent_pairs() -> None:
    table = rope_table(SLOW, 10)
    x = torch.randn(1, 10, 3, 8)
    cos, sin = table[:, 0, 0::2], table[:, 1, 1::2]
    a, b = x[..., 0::2], x[..., 1::2]
    turned = torch.stack((a * cos[:, None] - b * sin[:, None], b * cos[:, None] + a * sin[:, None]), -1).flatten(-2)
    torch.testing.assert_close(rotate(x, rope_rows(table)), turned)
    torch.testing.assert_close(
        rotate(x.bfloat16(), rope_rows(table.bfloat16())), rotate(x.bfloat16().float(), rope_rows(table)).bfloat16()
    )


def test_block_norm_rounds_before_it_weighs_in_bfloat16() -> None:
    norm = RMSNorm(32, 1e-6).bfloat16()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(4, 32).bfloat16()
    wide = x.float()
    rounded = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).bfloat16()
    assert torch.equal(norm(x), rounded * norm.weight)


def test_every_parameter_learns() -> None:
    model, matrix = build(), prompt(2, 12)
    state = model.slow(model.embed(matrix), torch.arange(12).expand(2, -1), causal)
    codes = matrix[:, 1:].transpose(1, 2).flatten(0, 1)
    slow_loss = F.cross_entropy(model.head(state.head).flatten(0, 1), codes[:, 0])
    fast_loss = F.cross_entropy(model.fast(state.fast.flatten(0, 1), codes).flatten(0, 1), codes.flatten())
    torch.autograd.backward(slow_loss + fast_loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_training_forms_are_one_graph_each() -> None:
    model, matrix = build(), prompt(1, 6)
    positions = torch.arange(6)[None]

    def slow(matrix: Tensor) -> Tensor:
        return model.head(model.slow(model.embed(matrix), positions, causal).head)

    def fast(state: Tensor, codes: Tensor) -> Tensor:
        return model.fast(state, codes)

    state, codes = torch.randn(3, SLOW.dim), torch.randint(0, 20, (3, 4))
    torch.testing.assert_close(torch.compile(slow, backend="eager", fullgraph=True)(matrix), slow(matrix))
    compiled = torch.compile(fast, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(state, codes), fast(state, codes))
