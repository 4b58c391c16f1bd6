"""Matrices for a CPU that serves few rows: 8-bit weights, which are what such a step spends its time reading.

Knows one product. Does not know the model or storage. A step of one to eight rows takes a third of what float32 takes (two
cores, AVX-512); a checkpoint that is stored in 8 bits (`engine.checkpoint.quantized`) loses nothing by it but the rounding of
activations to bfloat16. Each row's result is the same whatever rows are beside it, to the last bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_STEP = 2  # positions up to which a call counts as a step: a decode has one, the fast stack's first pass two


class Packed:
    """A linear map x -> x W^T without bias, for inference on a CPU."""

    def __init__(self, weight: Tensor) -> None:
        """weight: float [N, K], rounded to 8 bits a row here (exactly undone rounding if it came from 8 bits)."""
        self._rows, scale = eight_bit(weight)
        self._scale = scale.bfloat16()
        wide = self._rows.float() * scale[:, None]
        # A prefill has rows enough to be bound by arithmetic, where bfloat16 matrix units beat 8-bit unpacking fourfold.
        self._wide = wide.bfloat16() if torch.ops.mkldnn._is_mkldnn_bf16_supported() else wide

    def __call__(self, x: Tensor) -> Tensor:
        """x: [B, T, K] of any float dtype. Returns [B, T, N] of the same."""
        if x.shape[-2] > _STEP:
            return F.linear(x.to(self._wide.dtype), self._wide).to(x.dtype)
        return self.few(x.reshape(-1, x.shape[-1]).bfloat16()).to(x.dtype).view(*x.shape[:-1], -1)

    def few(self, x: Tensor) -> Tensor:
        """A step's product as it is computed. x: bfloat16 [R, K]. Returns bfloat16 [R, N]."""
        return torch._weight_int8pack_mm(x, self._rows, self._scale)


def eight_bit(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """int8 of the matrix's shape, and float32 [dim 0]: their product a row is the matrix, within half a step.

    Scales are bfloat16 numbers and the largest entry of a row becomes 127, so that rounding the result again finds the same.
    """
    wide = matrix.detach().float().flatten(1)
    largest = wide.abs().amax(1)
    scale = torch.where(largest > 0, largest / 127, 1.0).bfloat16().float()
    return (wide / scale[:, None]).round().clamp(-127, 127).to(torch.int8).view(matrix.shape), scale
