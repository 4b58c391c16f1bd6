"""A step's blocks compute what the plain ones do, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.attention import FrameKV, causal
from engine.config import ModelConfig, StackConfig
from engine.model import DualAR
from engine.step import StepNorm, turns

pytestmark = pytest.mark.torch

SLOW = StackConfig(dim=64, n_layer=2, n_head=4, n_kv_head=2, head_dim=16, ffn_dim=96, qk_norm=True)
FAST = StackConfig(dim=32, n_layer=2, n_head=3, n_kv_head=1, head_dim=16, ffn_dim=64)
CONFIG = ModelConfig(
    SLOW,
    FAST,
    vocab_size=60,
    codebook_size=20,
    num_codebooks=5,
    semantic_begin=30,
    semantic_end=49,
    im_end=7,
    max_positions=64,
)
BIASED = replace(
    CONFIG,
    slow=replace(SLOW, qk_norm=False, qkv_bias=True, o_bias=True),
    fast=replace(FAST, qk_norm=True, qkv_bias=True),
)


def serving(config: ModelConfig, *, steps: bool) -> DualAR:
    """With random gains and biases. steps: else the plain blocks on the same packed matrices."""
    torch.manual_seed(1)
    model = DualAR(config)
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.requires_grad_(False).prepare_serving(packed=True)
    if not steps:
        model.slow_steps = model.fast_steps = None
    return model


def frame_logits(model: DualAR, state: Tensor) -> Tensor:
    """Of a frame whose codes are 3, 1, 2, ..: [K - 1, B, V]."""
    seen: list[Tensor] = []

    def draw(codebook: int, given: Tensor) -> Tensor:
        seen.append(given)
        return torch.full((len(state),), codebook)

    kv = FrameKV(model.config.fast, 8, model.config.num_codebooks, torch.device("cpu"), torch.float32)
    for _ in range(2):  # the second frame finds the first one's keys
        seen.clear()
        model.fast_frame(state, torch.full((len(state),), 3), draw, kv)
    return torch.stack(seen)


@pytest.mark.parametrize("config", [CONFIG, BIASED], ids=["plain", "biased"])
def test_a_slow_step_is_the_blocks_step(config: ModelConfig) -> None:
    x, positions = torch.randn(3, 1, 64), torch.tensor([[5], [0], [63]])
    expected, got = (serving(config, steps=steps).slow(x.clone(), positions, causal).head for steps in (False, True))
    assert 0 < (got - expected).abs().max() < 0.01 * expected.abs().max(), "the same but for where bfloat16 rounds"


@pytest.mark.parametrize("config", [CONFIG, BIASED], ids=["plain", "biased"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_frame_in_steps_has_the_logits_of_the_blocks(config: ModelConfig, batch: int) -> None:
    state = torch.randn(batch, 64)
    expected, got = (frame_logits(serving(config, steps=steps), state) for steps in (False, True))
    assert got.shape == (4, batch, 20)
    assert 0 < (got - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("batch", [2, 5, 8])
def test_each_row_of_a_step_is_bit_for_bit_what_it_is_alone(batch: int) -> None:
    model = serving(CONFIG, steps=True)
    x, positions = torch.randn(batch, 1, 64), torch.arange(batch)[:, None]

    def slow(rows: slice) -> Tensor:
        return model.slow(x[rows].clone(), positions[rows], causal).head

    alone = [slow(slice(b, b + 1)) for b in range(batch)]
    assert torch.equal(slow(slice(None)), torch.cat(alone))
    state = torch.randn(batch, 64)
    assert torch.equal(frame_logits(model, state), torch.cat([frame_logits(model, s) for s in state.split(1)], 1))


def test_a_step_norm_is_the_plain_norm_in_bfloat16() -> None:
    norm = serving(CONFIG, steps=True).norm
    x = torch.randn(4, 64) * torch.tensor([[1e-4], [1.0], [30.0], [0.0]])
    got, expected = StepNorm(norm)(x), norm(x)
    assert got.dtype == torch.bfloat16
    assert torch.allclose(got.float(), expected, rtol=2**-8, atol=0)


def test_turns_are_the_tables_rotations() -> None:
    model = DualAR(CONFIG)
    cos, sin = model.rope[7]
    assert torch.equal(turns(model.rope)[7, 0].real, cos[::2])
    assert torch.equal(turns(model.rope)[7, 0].imag, sin[1::2])
