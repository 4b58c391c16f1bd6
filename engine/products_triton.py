"""Products of few rows with matrices of 8 or 4 bits, on a GPU: a matrix is read once, and nothing but the result is written.

Knows two kernels, for one row and for tiles of rows, and what a block has around a product: the norm before it, the gate and the sum after
it, each of which would be a launch of its own. Does not know modules. `engine.quantize.product` is the plain path that tests hold this to;
here nothing is rounded between norm and product, so results differ by roundings. Needs Triton; import it only where there is a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from engine.quantize import Norm, Quantized

MOST_ROWS = 128  # beyond, arithmetic bounds a product and the library's is better, also with a matrix to unpack first
_BITS = {"int8": 8, "fp8": 8, "nf4": 4}
_HALF = 32  # columns in the lower and in the upper halves of a block of nf4
_NARROW = 4096  # outputs: a matrix with no more has so few rows that each program takes fewer of them, or some units would idle


@triton.jit  # type: ignore[untyped-decorator]
def _dot_8(  # type: ignore[no-untyped-def]
    x_ptr, gain_ptr, rows_ptr, row, there, columns: tl.constexpr, normed: tl.constexpr, block_k: tl.constexpr,
    block_n: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """One row of x with some rows of 8 bits, not scaled: float32 [block_n]."""
    sums = tl.zeros((block_n, block_k), tl.float32)
    for first in tl.range(0, columns, block_k, num_stages=stages):
        k = first + tl.arange(0, block_k)
        inside = k < columns
        x = tl.load(x_ptr + k, mask=inside, other=0.0).to(tl.float32)
        if normed:
            x *= tl.load(gain_ptr + k, mask=inside, other=0.0).to(tl.float32)
        w = tl.load(rows_ptr + row[:, None] * columns + k[None, :], mask=there[:, None] & inside[None, :], other=0.0)
        sums += w.to(tl.float32) * x[None, :]
    return tl.sum(sums, 1)


@triton.jit  # type: ignore[untyped-decorator]
def _dot_4(  # type: ignore[no-untyped-def]
    x_ptr, gain_ptr, rows_ptr, scale_ptr, level_ptr, row, there, columns: tl.constexpr, normed: tl.constexpr,
    half: tl.constexpr, blocks: tl.constexpr, block_n: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """One row of x with some rows of nf4, scaled: float32 [block_n]. blocks: of two halves, at once."""
    count: tl.constexpr = columns // (2 * half)
    sums = tl.zeros((block_n, blocks, half), tl.float32)
    row3, there3 = row[:, None, None], there[:, None, None]
    for first in tl.range(0, count, blocks, num_stages=stages):
        b = (first + tl.arange(0, blocks))[None, :, None]
        inside = b < count
        j = tl.arange(0, half)[None, None, :]
        k = b * (2 * half) + j
        low = tl.load(x_ptr + k, mask=inside, other=0.0).to(tl.float32)
        high = tl.load(x_ptr + k + half, mask=inside, other=0.0).to(tl.float32)
        if normed:
            low *= tl.load(gain_ptr + k, mask=inside, other=0.0).to(tl.float32)
            high *= tl.load(gain_ptr + k + half, mask=inside, other=0.0).to(tl.float32)
        seen = there3 & inside
        byte = tl.load(rows_ptr + row3 * (columns // 2) + b * half + j, mask=seen, other=0).to(tl.int32)
        scale = tl.load(scale_ptr + row3 * count + b, mask=seen, other=0.0).to(tl.float32)
        sums += (tl.load(level_ptr + (byte & 15)) * low + tl.load(level_ptr + (byte >> 4)) * high) * scale
    return tl.sum(tl.sum(sums, 2), 1)


@triton.jit  # type: ignore[untyped-decorator]
def _one_row_kernel(  # type: ignore[no-untyped-def]
    x_ptr, rows_ptr, scale_ptr, level_ptr, gain_ptr, add_ptr, out_ptr, eps,
    outputs: tl.constexpr, columns: tl.constexpr, bits: tl.constexpr, normed: tl.constexpr, gated: tl.constexpr,
    adds: tl.constexpr, half: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, width: tl.constexpr,
    stages: tl.constexpr,
):  # fmt: skip
    """block_n of the outputs of one row. width: a power of two that holds all columns. stages: loads that are on their way at once."""
    row = tl.program_id(0) * block_n + tl.arange(0, block_n)
    there = row < outputs
    if bits == 8:
        out = _dot_8(x_ptr, gain_ptr, rows_ptr, row, there, columns, normed, block_k, block_n, stages)
        out *= tl.load(scale_ptr + row, mask=there, other=0.0).to(tl.float32)
    else:
        blocks: tl.constexpr = block_k // (2 * half)
        out = _dot_4(
            x_ptr, gain_ptr, rows_ptr, scale_ptr, level_ptr, row, there, columns, normed, half, blocks, block_n, stages
        )
    if normed:
        k = tl.arange(0, width)
        x = tl.load(x_ptr + k, mask=k < columns, other=0.0).to(tl.float32)
        size = 1 / tl.sqrt(tl.sum(x * x, 0) / columns + eps)
        out *= size
    if gated:
        if bits == 8:
            up = _dot_8(x_ptr, gain_ptr, rows_ptr, row + outputs, there, columns, normed, block_k, block_n, stages)
            up *= tl.load(scale_ptr + outputs + row, mask=there, other=0.0).to(tl.float32)
        else:
            up = _dot_4(
                x_ptr, gain_ptr, rows_ptr, scale_ptr, level_ptr, row + outputs, there, columns, normed, half, blocks,
                block_n, stages,
            )  # fmt: skip
        if normed:
            up *= size
        out = out / (1 + tl.exp(-out)) * up
    if adds:
        out += tl.load(add_ptr + row, mask=there, other=0.0).to(tl.float32)
    tl.store(out_ptr + row, out.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _tile(  # type: ignore[no-untyped-def]
    x_ptr, rows_ptr, scale_ptr, level_ptr, gain_ptr, size, m, own, row, there, columns: tl.constexpr,
    bits: tl.constexpr, normed: tl.constexpr, half: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
    block_k: tl.constexpr,
):  # fmt: skip
    """Some rows of x with some rows of the matrix, scaled: float32 [block_m, block_n]. size: float32 [block_m], of the norm."""
    sums = tl.zeros((block_m, block_n), tl.float32)
    if bits == 8:
        for first in range(0, columns, block_k):
            k = first + tl.arange(0, block_k)
            x = _normed(x_ptr, gain_ptr, size, m, own, k, columns, normed)
            seen = there[:, None] & (k < columns)[None, :]
            w = tl.load(rows_ptr + row[:, None] * columns + k[None, :], mask=seen, other=0.0).to(x.dtype)
            sums += tl.dot(x, tl.trans(w), input_precision="ieee")
        sums *= tl.load(scale_ptr + row, mask=there, other=0.0).to(tl.float32)[None, :]
    else:
        for block in range(0, columns // (2 * half)):
            k = block * 2 * half + tl.arange(0, half)
            byte_at = row[:, None] * (columns // 2) + block * half + tl.arange(0, half)[None, :]
            byte = tl.load(rows_ptr + byte_at, mask=there[:, None], other=0).to(tl.int32)
            low = _normed(x_ptr, gain_ptr, size, m, own, k, columns, normed)
            high = _normed(x_ptr, gain_ptr, size, m, own, k + half, columns, normed)
            below = tl.load(level_ptr + (byte & 15)).to(low.dtype)  # exact: levels are numbers of bfloat16
            above = tl.load(level_ptr + (byte >> 4)).to(low.dtype)
            part = tl.dot(low, tl.trans(below), input_precision="ieee")
            part = tl.dot(high, tl.trans(above), part, input_precision="ieee")
            scale = tl.load(scale_ptr + row * (columns // (2 * half)) + block, mask=there, other=0.0)
            sums += part * scale.to(tl.float32)[None, :]
    return sums


@triton.jit  # type: ignore[untyped-decorator]
def _normed(  # type: ignore[no-untyped-def]
    x_ptr, gain_ptr, size, m, own, k, columns: tl.constexpr, normed: tl.constexpr
):  # fmt: skip
    x = tl.load(x_ptr + m[:, None] * columns + k[None, :], mask=own[:, None] & (k < columns)[None, :], other=0.0)
    if normed:
        gain = tl.load(gain_ptr + k, mask=k < columns, other=0.0).to(tl.float32)
        x = (x.to(tl.float32) * size[:, None] * gain[None, :]).to(x.dtype)
    return x


@triton.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator]
def _rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr, rows_ptr, scale_ptr, level_ptr, gain_ptr, add_ptr, out_ptr, eps, count,
    outputs: tl.constexpr, columns: tl.constexpr, bits: tl.constexpr, normed: tl.constexpr, gated: tl.constexpr,
    adds: tl.constexpr, half: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """block_n of the outputs of block_m of `count` rows."""
    row = tl.program_id(0) * block_n + tl.arange(0, block_n)
    m = tl.program_id(1) * block_m + tl.arange(0, block_m)
    there, own = row < outputs, m < count
    size = tl.zeros((block_m,), tl.float32)
    if normed:
        for first in range(0, columns, block_k):
            k = first + tl.arange(0, block_k)
            seen = own[:, None] & (k < columns)[None, :]
            x = tl.load(x_ptr + m[:, None] * columns + k[None, :], mask=seen, other=0.0).to(tl.float32)
            size += tl.sum(x * x, 1)
        size = 1 / tl.sqrt(size / columns + eps)
    out = _tile(
        x_ptr, rows_ptr, scale_ptr, level_ptr, gain_ptr, size, m, own, row, there, columns, bits, normed, half, block_m,
        block_n, block_k,
    )  # fmt: skip
    if gated:
        up = _tile(
            x_ptr, rows_ptr, scale_ptr, level_ptr, gain_ptr, size, m, own, row + outputs, there, columns, bits, normed,
            half, block_m, block_n, block_k,
        )  # fmt: skip
        out = out / (1 + tl.exp(-out)) * up
    at, seen = m[:, None] * outputs + row[None, :], own[:, None] & there[None, :]
    if adds:
        out += tl.load(add_ptr + at, mask=seen, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=seen)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a product is shared out."""

    block_m: int  # rows of a program; 1: the kernel of one row
    block_n: int  # outputs of a program
    block_k: int  # columns at once
    warps: int
    stages: int  # loads of a program that are on their way at once


def plan_of(count: int, outputs: int, bits: int) -> Plan:
    """For `count` rows. Not yet tuned: reckoned so that each thread reads 16 bytes at a time and every unit has several programs."""
    ahead = bits == 8  # of 4 bits, the look-up of each level would be put off together with the loads
    if count == 1:
        return Plan(1, 4 if outputs <= _NARROW else 8, 512, 4, 4 if ahead else 1)
    block_m = max(16, min(64, triton.next_power_of_2(count)))
    return Plan(block_m, 16 if outputs <= _NARROW else 32, 128, 4, 3 if ahead else 1)


def few_rows(x: Tensor, matrix: Quantized, norm: Norm | None, gated: bool, add: Tensor | None) -> Tensor:
    """As `engine.quantize.product`, for 1 to MOST_ROWS rows."""
    from engine.quantize import nf4_levels

    x = x.contiguous()
    count, (outputs, columns) = len(x), matrix.shape
    outputs = outputs // 2 if gated else outputs
    out = torch.empty(count, outputs, device=x.device, dtype=x.dtype)
    levels = nf4_levels(x.device) if matrix.format == "nf4" else matrix.scale  # of 8 bits nobody looks at them
    gain, eps = (x, 0.0) if norm is None else (norm.weight, norm.eps)
    added = x if add is None else add.contiguous()
    tensors = (x, matrix.rows, matrix.scale, levels, gain, added, out, eps)
    what = {
        "outputs": outputs, "columns": columns, "bits": _BITS[matrix.format], "normed": norm is not None,
        "gated": gated, "adds": add is not None, "half": _HALF,
    }  # fmt: skip
    plan = plan_of(count, outputs, _BITS[matrix.format])
    grid = triton.cdiv(outputs, plan.block_n), triton.cdiv(count, plan.block_m)
    blocks = {"block_n": plan.block_n, "block_k": plan.block_k, "num_warps": plan.warps}
    if plan.block_m == 1:
        width = triton.next_power_of_2(columns)
        _one_row_kernel[grid[:1]](*tensors, **what, **blocks, width=width, stages=plan.stages)
    else:
        _rows_kernel[grid](*tensors, count, **what, **blocks, block_m=plan.block_m, num_stages=plan.stages)
    return out


def row_counts() -> list[int]:
    """Numbers of rows of which each has code of its own: whoever runs them all compiles nothing later."""
    return [1, 16, 32, 64]
