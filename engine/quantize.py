"""The slow stack's matrices in 8 or 4 bits, so that S2 Pro fits cards of 8 to 24 GB and a step reads half or a quarter as much.

Knows three formats, the product with a matrix in one of them, and which modules of a block it takes the place of. Weights only: what they
multiply stays in the model's dtype. Does not know files (`engine.checkpoint` quantises while it reads) or kernels (`products_triton`, which
a GPU uses for few rows and tests hold to the path here).

The fast stack, norms, embeddings and output heads keep their dtype. Nine of ten codes of a frame come from the fast stack, each drawn from
what it made of the one before, so its errors add up. The head is 4097 rows of the embeddings, 0.3 % of what a step reads, and decides when
a segment ends; of the embeddings a position reads one row. Errors of each format on the mini: SPEED.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.packed import eight_bit

if TYPE_CHECKING:  # the model is built on `engine.fused`, which is built on this
    from engine.model import Block, DualAR

FORMATS: Final = ("int8", "fp8", "nf4")
BLOCK: Final = 64  # columns that share a scale in nf4: 0.25 bits a weight for scales of 16 bits
_HALF = BLOCK // 2
_FP8 = torch.float8_e4m3fn
_FP8_MAX = 448.0
_CHUNK_ROWS = 1024  # quantised at once, to bound the float32 copies
_FEW_ROWS_CPU = 16  # of int8, beyond which a product is bound by arithmetic and float32 does better
_MATRIX = re.compile(r"layers\.\d+\.(attention\.(wqkv|wq|wk|wv|wo)|feed_forward\.w[123])\.weight")


class QuantizeError(ValueError):
    """A format that this machine or this model cannot have; the text is a sentence for whoever asked for it."""


def check(format: str | None, device: torch.device) -> None:
    """Raises QuantizeError for a format that does not exist or that the device has no arithmetic for. None: no format."""
    if format is None:
        return
    if format not in FORMATS:
        raise QuantizeError(f"quantize {format!r} is not one of {', '.join(FORMATS)}")
    if device.type != "cuda":
        return
    if find_spec("triton") is None:
        raise QuantizeError(f"{format} weights on a GPU need Triton, which comes with PyTorch for CUDA on Linux")
    capability = torch.cuda.get_device_capability(device)
    if format == "fp8" and capability < (8, 9):
        raise QuantizeError(
            f"fp8 weights need a GPU of compute capability 8.9 (Ada, Hopper) or later, and {torch.cuda.get_device_name(device)} "
            f"has {capability[0]}.{capability[1]}: int8 takes as little memory and is more exact"
        )


def is_quantized(name: str) -> bool:
    """Whether a tensor, by its internal name, is a matrix that is quantised."""
    return _MATRIX.fullmatch(name) is not None


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A matrix [N, K]: numbers of 8 or 4 bits times scales."""

    format: str  # of FORMATS
    rows: Tensor  # int8 or float8_e4m3fn [N, K]; nf4: uint8 [N, K / 2], see `_nf4`
    scale: Tensor  # bfloat16 [N]; nf4: [N, K / BLOCK]

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K] of the matrix."""
        return self.rows.shape[0], self.rows.shape[1] * (2 if self.format == "nf4" else 1)

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.scale.nbytes

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The matrix in float32, bfloat16 or float16, rounded once."""
        rows, scale = self.rows, self.scale
        if self.format == "int8":
            values, scale = rows.to(dtype), scale[:, None]
        elif self.format == "fp8":
            values, scale = _fp8_values(rows, dtype), scale[:, None]
        else:
            # What a byte stands for, in one look-up of both halves.
            pair = torch.int64 if dtype == torch.float32 else torch.int32
            table = _nf4_pairs(dtype, rows.device).view(pair).view(-1)
            pairs = table.index_select(0, rows.view(-1).int()).view(dtype)
            values, scale = pairs.view(len(rows), -1, _HALF, 2).transpose(2, 3), scale[:, :, None, None]
        return torch.mul(values, scale).to(dtype).reshape(self.shape)


def to_format(matrix: Tensor, format: str) -> Quantized:
    """A matrix [N, K] of any float dtype, rounded, where it is. Raises QuantizeError for nf4 where BLOCK does not divide K."""
    if format == "nf4" and matrix.shape[1] % BLOCK:
        raise QuantizeError(
            f"nf4 takes rows in blocks of {BLOCK}, and this model has matrices with {matrix.shape[1]} columns"
        )
    rounded = {"int8": _int8, "fp8": _fp8, "nf4": _nf4}[format]
    return joined([Quantized(format, *rounded(part.float())) for part in torch.split(matrix, _CHUNK_ROWS)])


def joined(parts: Sequence[Quantized]) -> Quantized:
    """One matrix above the other: every scale belongs to one row."""
    if len(parts) == 1:
        return parts[0]
    return Quantized(parts[0].format, torch.cat([p.rows for p in parts]), torch.cat([p.scale for p in parts]))


def _int8(matrix: Tensor) -> tuple[Tensor, Tensor]:
    rows, scale = eight_bit(matrix)
    return rows, scale.bfloat16()  # exact: see eight_bit


def _fp8(matrix: Tensor) -> tuple[Tensor, Tensor]:
    largest = matrix.abs().amax(1)
    scale = torch.where(largest > 0, largest / _FP8_MAX, 1.0).bfloat16()
    return (matrix / scale.float()[:, None]).clamp(-_FP8_MAX, _FP8_MAX).to(_FP8), scale


def _nf4(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of levels. Byte j of a block holds column j below and column j + BLOCK / 2 above.

    So the bytes of a block are two stretches of columns, and who multiplies by them needs no interleaving.
    """
    blocks = matrix.view(len(matrix), -1, BLOCK)
    largest = blocks.abs().amax(2)
    scale = torch.where(largest > 0, largest, 1.0).bfloat16()
    levels = nf4_levels(matrix.device)
    borders = (levels[1:] + levels[:-1]) / 2
    index = torch.bucketize(blocks / scale.float()[:, :, None], borders).to(torch.uint8)
    low, high = index.chunk(2, 2)
    return (low | (high << 4)).flatten(1), scale


@cache
def nf4_levels(device: torch.device) -> Tensor:
    """The sixteen levels, ascending, float32 [16]: quantiles of a normal distribution, with both ends and zero among them.

    Eight positive and seven negative ones besides zero (QLoRA, arXiv 2305.14314). The outermost quantile is the mean of what 15 and 16
    equal parts would leave outside. Rounded to bfloat16, so that every dtype computes with the same numbers.
    """
    end = 1 - (1 / 30 + 1 / 32) / 2
    normal = NormalDist()
    positive = [normal.inv_cdf(0.5 + (end - 0.5) * i / 8) for i in range(1, 9)]
    negative = [-normal.inv_cdf(0.5 + (end - 0.5) * i / 7) for i in range(7, 0, -1)]
    levels = torch.tensor([*negative, 0.0, *positive], dtype=torch.float64) / positive[-1]
    return levels.bfloat16().float().to(device)


@cache
def _nf4_pairs(dtype: torch.dtype, device: torch.device) -> Tensor:
    """What each byte stands for, [256, 2]: below, above."""
    byte = torch.arange(256)
    levels = nf4_levels(torch.device("cpu"))
    return torch.stack((levels[byte & 15], levels[byte >> 4]), 1).to(device, dtype)


def _fp8_values(rows: Tensor, dtype: torch.dtype) -> Tensor:
    if rows.device.type != "cpu":
        return rows.to(dtype)
    # A CPU's conversion takes eight times as long as a look-up.
    return _fp8_table(dtype).index_select(0, rows.view(torch.uint8).view(-1).int()).view(rows.shape)


@cache
def _fp8_table(dtype: torch.dtype) -> Tensor:
    return torch.arange(256, dtype=torch.uint8).view(_FP8).to(dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """The RMS norm in front of a product."""

    weight: Tensor  # [K]
    eps: float


def product(
    x: Tensor, matrix: Quantized, norm: Norm | None = None, gated: bool = False, add: Tensor | None = None
) -> Tensor:
    """x W^T and what stands around it in a block. x: [R, K]. Returns [R, N] of x's dtype, [R, N / 2] if gated.

    norm: of x, first. gated: silu of the first half of the result, times the second. add: what is added at last, of the result's shape.
    """
    if x.device.type == "cuda":
        from engine.between_triton import many_rows, unpacked
        from engine.products_triton import MOST_ROWS, few_rows

        if len(x) <= MOST_ROWS:
            return few_rows(x, matrix, norm, gated, add)
        return many_rows(x, unpacked(matrix, x.dtype), norm, gated, add)
    if norm is not None:
        x = F.rms_norm(x.float(), norm.weight.shape, None, norm.eps).to(x.dtype) * norm.weight
    if matrix.format == "int8" and len(x) <= _FEW_ROWS_CPU:
        out = torch._weight_int8pack_mm(x.bfloat16(), matrix.rows, matrix.scale).to(x.dtype)
    else:
        out = F.linear(x, matrix.dequantized(x.dtype))
    if gated:
        gate, up = out.chunk(2, -1)
        out = F.silu(gate) * up
    return out if add is None else add + out


class QuantizedMap(nn.Module):
    """In the place of an attention's projection. Its matrix is no parameter: it moves nowhere and is written to no checkpoint."""

    def __init__(self, matrix: Quantized, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.matrix = matrix
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        out = product(x.flatten(0, -2), self.matrix).view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias


class QuantizedFeed(nn.Module):
    """In the place of a feed-forward net."""

    def __init__(self, both: Quantized, w2: Quantized) -> None:
        """both: the rows of w1 above those of w3."""
        super().__init__()
        self.both, self.w2 = both, w2

    def forward(self, x: Tensor) -> Tensor:
        gate = product(x.flatten(0, -2), self.both, gated=True)
        return product(gate, self.w2).view(*x.shape[:-1], -1)

    def prepare_serving(self, packed: bool) -> None:
        """See Block.prepare_serving: what that makes one matrix of is one already."""
        assert not packed, "a quantised model is not packed"


def put(block: Block, name: str, matrices: dict[str, Quantized]) -> None:
    """Let a block multiply by those of `matrices` that have the names of its weights behind `name`.

    They leave the dict: two of them become one, and a GPU shall not hold them twice.
    """
    attention = block.attention
    attention.wqkv, attention.wo = (  # type: ignore[assignment]
        QuantizedMap(matrices.pop(f"{name}.attention.{part}.weight"), old.bias)
        for part, old in (("wqkv", attention.wqkv), ("wo", attention.wo))
    )
    w1, w3, w2 = (matrices.pop(f"{name}.feed_forward.{part}.weight") for part in ("w1", "w3", "w2"))
    block.feed_forward = QuantizedFeed(joined([w1, w3]), w2)  # type: ignore[assignment]


def is_put(block: Block) -> bool:
    """Whether `put` was there."""
    return isinstance(block.feed_forward, QuantizedFeed)


def matrix_bytes(model: DualAR) -> int:
    """What the quantised matrices of a model take, scales included; 0: there are none."""
    kept: list[Quantized] = []
    for module in model.modules():
        if isinstance(module, QuantizedMap):
            kept.append(module.matrix)
        elif isinstance(module, QuantizedFeed):
            kept += module.both, module.w2
    return sum(matrix.nbytes for matrix in kept)
