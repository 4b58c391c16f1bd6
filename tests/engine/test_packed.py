"""8-bit products are near the exact ones, and a row's result is its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.attention import FrameKV, causal
from engine.checkpoint import load_dual_ar, save_dual_ar
from engine.config import ModelConfig, StackConfig
from engine.model import DualAR
from engine.packed import Packed, eight_bit

pytestmark = pytest.mark.torch

SLOW = StackConfig(dim=64, n_layer=2, n_head=4, n_kv_head=2, head_dim=16, ffn_dim=96, qk_norm=True)
FAST = StackConfig(dim=32, n_layer=2, n_head=2, n_kv_head=1, head_dim=16, ffn_dim=64, qkv_bias=True)
CONFIG = ModelConfig(
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


def matrix(rows: int, columns: int) -> Tensor:
    return (
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
        * torch.linspace(0.01, 3, rows)[:, None]
    )


@pytest.mark.parametrize("positions", [1, 2, 40])
def test_products_are_those_of_the_rounded_matrix(positions: int) -> None:
    weight, x = matrix(48, 64), torch.randn(3, positions, 64)
    rows, scale = eight_bit(weight)
    exact = x.bfloat16().double() @ (rows.double() * scale.double()[:, None]).T
    got = Packed(weight)(x)
    assert got.dtype == x.dtype
    assert got.shape == exact.shape
    # One bfloat16 rounding of the result, and for many positions one of the matrix.
    assert ((got - exact).abs() <= 2**-7 * exact.abs() + 2**-8 * exact.abs().amax((0, 1))).all()


def test_rounding_is_within_half_a_step_and_doing_it_again_changes_nothing() -> None:
    weight = matrix(48, 64)
    rows, scale = eight_bit(weight)
    again, same_scale = eight_bit(rows.float() * scale[:, None])
    assert torch.equal(again, rows)
    assert torch.equal(same_scale, scale)
    assert ((rows * scale[:, None] - weight).abs() <= 0.502 * weight.abs().amax(1, keepdim=True) / 127).all()
    assert torch.equal(scale, scale.bfloat16().float())


def test_a_row_of_zeros_stays_zeros() -> None:
    rows, scale = eight_bit(torch.zeros(2, 3))
    assert not rows.any()
    assert torch.isfinite(scale).all()


@pytest.mark.parametrize("batch", [2, 3, 5, 17])
def test_each_rows_result_is_bit_for_bit_what_it_is_alone(batch: int) -> None:
    packed, x = Packed(matrix(48, 64)), torch.randn(batch, 1, 64)
    assert torch.equal(packed(x), torch.cat([packed(row) for row in torch.split(x, 1)]))


def serving(folder: Path, packed: bool) -> DualAR:
    model = load_dual_ar(folder)
    model.prepare_serving(packed=packed)
    return model


@torch.no_grad()
def test_a_checkpoint_stored_in_8_bits_serves_packed_nearly_as_it_does_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_dual_ar(DualAR(CONFIG), CONFIG, tmp_path, int8=True)
    plain, packed = serving(tmp_path, False), serving(tmp_path, True)
    assert packed.stored_8_bit
    x, state = torch.randn(2, 1, 64), torch.randn(2, 64)
    positions = torch.full((2, 1), 5)
    hidden = [model.slow(x, positions, causal).head for model in (plain, packed)]
    assert 0 < (hidden[0] - hidden[1]).abs().max() < 0.05
    logits: list[list[Tensor]] = [[], []]
    for model, seen in zip((plain, packed), logits, strict=True):

        def draw(codebook: int, given: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(given)
            return torch.full((2,), codebook)

        model.fast_frame(state, torch.tensor([3, 4]), draw, FrameKV(FAST, 2, 4, torch.device("cpu"), torch.float32))
    difference = torch.stack(logits[0]) - torch.stack(logits[1])
    assert 0 < difference.abs().max() < 0.05


def test_a_checkpoint_in_other_types_does_not_claim_8_bits(tmp_path: Path) -> None:
    save_dual_ar(DualAR(CONFIG), CONFIG, tmp_path)
    assert not load_dual_ar(tmp_path).stored_8_bit
