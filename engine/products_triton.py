"""Products of few rows with large matrices, on a GPU: a matrix is read once, and nothing but the result is written.

Knows two kernels, for one or two rows and for tiles of rows; matrices as they are and in 8 or 4 bits; and what a block has around a
product: the norm before it, the gate and the sum after it, each of which would be a launch of its own. Does not know modules.
`engine.quantize.product` and `engine.model` are the plain paths that tests hold this to; here nothing is rounded between norm and product,
so results differ by roundings. No sum depends on who comes first, so the same rows give the same bits. Needs Triton; import it only where
there is a GPU.
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
MOST_PLAIN_ROWS = 16  # of a matrix that needs no unpacking: one tile. Reckoned, not measured
# Lines of each of its rows of the matrix that a program fetches while the kernel before it still runs; 0: it is started when that one has
# ended. Needs compute capability 9.0, and is 0 until it was measured. Whoever sets it does so before anything is captured.
ahead = 0
_HALF = 32  # columns in the lower and in the upper halves of a block of nf4
_TILE = 16  # rows that the matrix units take at once
_NARROW = 4096  # outputs: a matrix with no more has so few rows that each program takes fewer of them, or some units would idle
_LINE = 128  # bytes that the second cache takes from memory at once


@triton.jit  # type: ignore[untyped-decorator]
def _begin(  # type: ignore[no-untyped-def]
    rows_ptr, row, outputs: tl.constexpr, columns: tl.constexpr, bits: tl.constexpr, gated: tl.constexpr,
    line: tl.constexpr, ahead: tl.constexpr,
):  # fmt: skip
    """Let the next kernel be started, fetch what no kernel writes, and wait for what the kernels before this one write.

    Before the wait nothing may be read that they write, and nothing written that they read.
    """
    tl.extra.cuda.gdc_launch_dependents()
    width: tl.constexpr = columns // 2 if bits == 4 else columns
    step: tl.constexpr = line * 8 // rows_ptr.dtype.element_ty.primitive_bitwidth
    k = tl.minimum(tl.arange(0, ahead) * step, width - 1)
    at = rows_ptr + tl.minimum(row, outputs - 1)[:, None] * width + k[None, :]
    fetch: tl.constexpr = "prefetch.global.L2 [$1]; mov.u32 $0, 0;"
    tl.inline_asm_elementwise(fetch, "=r,l", [at], tl.int32, is_pure=False, pack=1)
    if gated:
        tl.inline_asm_elementwise(fetch, "=r,l", [at + outputs * width], tl.int32, is_pure=False, pack=1)
    tl.extra.cuda.gdc_wait()


@triton.jit  # type: ignore[untyped-decorator]
def _dots(  # type: ignore[no-untyped-def]
    x_ptr, gain_ptr, rows_ptr, row, there, count: tl.constexpr, outputs: tl.constexpr, columns: tl.constexpr,
    normed: tl.constexpr, gated: tl.constexpr, block_k: tl.constexpr, block_n: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """`count` rows of x with some rows of a matrix, not scaled, with those `outputs` below them if gated, and each with itself if normed.

    Of each row of x what is still to be summed: float32 [block_n, block_k] twice, and [block_k].
    """
    sums = (tl.zeros((block_n, block_k), tl.float32),) * count
    ups, squares = sums, (tl.zeros((block_k,), tl.float32),) * count
    for first in tl.range(0, columns, block_k, num_stages=stages):
        k = first + tl.arange(0, block_k)
        inside = k < columns
        at, seen = rows_ptr + row[:, None] * columns + k[None, :], there[:, None] & inside[None, :]
        w = tl.load(at, mask=seen, other=0.0, eviction_policy="evict_first").to(tl.float32)  # nobody needs it again
        if gated:
            up = tl.load(at + outputs * columns, mask=seen, other=0.0, eviction_policy="evict_first").to(tl.float32)
        if normed:
            gain = tl.load(gain_ptr + k, mask=inside, other=0.0).to(tl.float32)
        new_sums, new_ups, new_squares = (), (), ()
        for r in tl.static_range(count):
            x = tl.load(x_ptr + r * columns + k, mask=inside, other=0.0).to(tl.float32)
            if normed:
                new_squares += (squares[r] + x * x,)  # type: ignore[assignment]
                x *= gain
            new_sums += (sums[r] + w * x[None, :],)  # type: ignore[assignment]
            if gated:
                new_ups += (ups[r] + up * x[None, :],)  # type: ignore[assignment]
        sums = new_sums
        if gated:
            ups = new_ups
        if normed:
            squares = new_squares
    return sums, ups, squares


@triton.jit  # type: ignore[untyped-decorator]
def _dot_4(  # type: ignore[no-untyped-def]
    x_ptr, gain_ptr, rows_ptr, scale_ptr, level_ptr, row, there, columns: tl.constexpr, normed: tl.constexpr,
    half: tl.constexpr, blocks: tl.constexpr, block_n: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """One row of x with some rows of nf4, scaled, float32 [block_n], and with itself if normed. blocks: of two halves, at once."""
    count: tl.constexpr = columns // (2 * half)
    sums = tl.zeros((block_n, blocks, half), tl.float32)
    squares = tl.zeros((1, blocks, half), tl.float32)
    row3, there3 = row[:, None, None], there[:, None, None]
    for first in tl.range(0, count, blocks, num_stages=stages):
        b = (first + tl.arange(0, blocks))[None, :, None]
        inside = b < count
        j = tl.arange(0, half)[None, None, :]
        k = b * (2 * half) + j
        low = tl.load(x_ptr + k, mask=inside, other=0.0).to(tl.float32)
        high = tl.load(x_ptr + k + half, mask=inside, other=0.0).to(tl.float32)
        if normed:
            squares += low * low + high * high
            low *= tl.load(gain_ptr + k, mask=inside, other=0.0).to(tl.float32)
            high *= tl.load(gain_ptr + k + half, mask=inside, other=0.0).to(tl.float32)
        seen = there3 & inside
        byte = tl.load(rows_ptr + row3 * (columns // 2) + b * half + j, mask=seen, other=0).to(tl.int32)
        scale = tl.load(scale_ptr + row3 * count + b, mask=seen, other=0.0).to(tl.float32)
        sums += (tl.load(level_ptr + (byte & 15)) * low + tl.load(level_ptr + (byte >> 4)) * high) * scale
    return tl.sum(tl.sum(sums, 2), 1), tl.sum(squares)


@triton.jit  # type: ignore[untyped-decorator]
def _one_by_one_kernel(  # type: ignore[no-untyped-def]
    x_ptr, rows_ptr, scale_ptr, level_ptr, gain_ptr, add_ptr, out_ptr, eps,
    outputs: tl.constexpr, columns: tl.constexpr, bits: tl.constexpr, normed: tl.constexpr, gated: tl.constexpr,
    adds: tl.constexpr, half: tl.constexpr, ahead: tl.constexpr, line: tl.constexpr, count: tl.constexpr,
    block_n: tl.constexpr, block_k: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """block_n of the outputs of `count` rows; of nf4, of one. stages: loads that are on their way at once. ahead: see `_begin`."""
    row = tl.program_id(0) * block_n + tl.arange(0, block_n)
    there = row < outputs
    if ahead:
        _begin(rows_ptr, row, outputs, columns, bits, gated, line, ahead)
    if bits == 4:
        blocks: tl.constexpr = block_k // (2 * half)
        out, square = _dot_4(
            x_ptr, gain_ptr, rows_ptr, scale_ptr, level_ptr, row, there, columns, normed, half, blocks, block_n, stages
        )
        up = out
        if gated:
            up, _ = _dot_4(
                x_ptr, gain_ptr, rows_ptr, scale_ptr, level_ptr, row + outputs, there, columns, normed, half, blocks,
                block_n, stages,
            )  # fmt: skip
        _finish(
            out, up, square, scale_ptr, add_ptr, out_ptr, eps, row, there, outputs, columns, bits, normed, gated, adds
        )
    else:
        sums, ups, squares = _dots(
            x_ptr, gain_ptr, rows_ptr, row, there, count, outputs, columns, normed, gated, block_k, block_n, stages
        )
        for r in tl.static_range(count):
            _finish(
                tl.sum(sums[r], 1), tl.sum(ups[r], 1), tl.sum(squares[r], 0), scale_ptr, add_ptr + r * outputs,
                out_ptr + r * outputs, eps, row, there, outputs, columns, bits, normed, gated, adds,
            )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _finish(  # type: ignore[no-untyped-def]
    out, up, square, scale_ptr, add_ptr, out_ptr, eps, row, there, outputs: tl.constexpr, columns: tl.constexpr,
    bits: tl.constexpr, normed: tl.constexpr, gated: tl.constexpr, adds: tl.constexpr,
):  # fmt: skip
    """Some outputs of one row, from sums of products and of squares."""
    if bits == 8:
        out *= tl.load(scale_ptr + row, mask=there, other=0.0).to(tl.float32)
        if gated:
            up *= tl.load(scale_ptr + outputs + row, mask=there, other=0.0).to(tl.float32)
    if normed:
        size = 1 / tl.sqrt(square / columns + eps)
        out *= size
        up *= size
    if gated:
        out = out / (1 + tl.exp(-out)) * up
    if adds:
        out += tl.load(add_ptr + row, mask=there, other=0.0).to(tl.float32)
    tl.store(out_ptr + row, out.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _tile(  # type: ignore[no-untyped-def]
    x_ptr, gain_ptr, rows_ptr, size, m, own, row, there, outputs: tl.constexpr, columns: tl.constexpr,
    normed: tl.constexpr, early: tl.constexpr, gated: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
    block_k: tl.constexpr,
):  # fmt: skip
    """As `_dots`, summed, of some rows of x: float32 [block_m, block_n] twice, and [block_m]. early: x is multiplied by `size` first."""
    sums = tl.zeros((block_m, block_n), tl.float32)
    ups = tl.zeros((block_m, block_n), tl.float32)
    squares = tl.zeros((block_m, block_k), tl.float32)
    for first in range(0, columns, block_k):
        k = first + tl.arange(0, block_k)
        inside = k < columns
        at, seen = rows_ptr + row[:, None] * columns + k[None, :], there[:, None] & inside[None, :]
        x = _of_rows(x_ptr, gain_ptr, size, m, own, k, columns, normed and early)
        if normed and not early:
            wide = x.to(tl.float32)
            squares += wide * wide
            x = (wide * tl.load(gain_ptr + k, mask=inside, other=0.0).to(tl.float32)[None, :]).to(x.dtype)
        w = tl.load(at, mask=seen, other=0.0).to(x.dtype)
        sums = tl.dot(x, tl.trans(w), sums, input_precision="ieee")
        if gated:
            up = tl.load(at + outputs * columns, mask=seen, other=0.0).to(x.dtype)
            ups = tl.dot(x, tl.trans(up), ups, input_precision="ieee")
    return sums, ups, tl.sum(squares, 1)


@triton.jit  # type: ignore[untyped-decorator]
def _tile_4(  # type: ignore[no-untyped-def]
    x_ptr, gain_ptr, rows_ptr, scale_ptr, level_ptr, size, m, own, row, there, columns: tl.constexpr,
    normed: tl.constexpr, half: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
):  # fmt: skip
    """Some rows of x, normalised, with some rows of nf4, scaled: float32 [block_m, block_n]."""
    sums = tl.zeros((block_m, block_n), tl.float32)
    for block in range(0, columns // (2 * half)):
        k = block * 2 * half + tl.arange(0, half)
        byte_at = row[:, None] * (columns // 2) + block * half + tl.arange(0, half)[None, :]
        byte = tl.load(rows_ptr + byte_at, mask=there[:, None], other=0).to(tl.int32)
        low = _of_rows(x_ptr, gain_ptr, size, m, own, k, columns, normed)
        high = _of_rows(x_ptr, gain_ptr, size, m, own, k + half, columns, normed)
        below = tl.load(level_ptr + (byte & 15)).to(low.dtype)  # exact: levels are numbers of bfloat16
        above = tl.load(level_ptr + (byte >> 4)).to(low.dtype)
        part = tl.dot(low, tl.trans(below), input_precision="ieee")
        part = tl.dot(high, tl.trans(above), part, input_precision="ieee")
        scale = tl.load(scale_ptr + row * (columns // (2 * half)) + block, mask=there, other=0.0)
        sums += part * scale.to(tl.float32)[None, :]
    return sums


@triton.jit  # type: ignore[untyped-decorator]
def _of_rows(  # type: ignore[no-untyped-def]
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
    adds: tl.constexpr, half: tl.constexpr, ahead: tl.constexpr, line: tl.constexpr, block_m: tl.constexpr,
    block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """block_n of the outputs of block_m of `count` rows. ahead: see `_begin`."""
    row = tl.program_id(0) * block_n + tl.arange(0, block_n)
    m = tl.program_id(1) * block_m + tl.arange(0, block_m)
    there, own = row < outputs, m < count
    if ahead:
        _begin(rows_ptr, row, outputs, columns, bits, gated, line, ahead)
    # The sum of squares could come out of the product's own loop, but half precision has no room for what is not normalised.
    early: tl.constexpr = bits == 4 or x_ptr.dtype.element_ty == tl.float16
    size = tl.zeros((block_m,), tl.float32)
    if normed and early:
        for first in range(0, columns, block_k):
            k = first + tl.arange(0, block_k)
            x = _of_rows(x_ptr, gain_ptr, size, m, own, k, columns, False).to(tl.float32)
            size += tl.sum(x * x, 1)
        size = 1 / tl.sqrt(size / columns + eps)
    if bits == 4:
        out = _tile_4(
            x_ptr, gain_ptr, rows_ptr, scale_ptr, level_ptr, size, m, own, row, there, columns, normed, half, block_m,
            block_n,
        )  # fmt: skip
        up = out
        if gated:
            up = _tile_4(
                x_ptr, gain_ptr, rows_ptr, scale_ptr, level_ptr, size, m, own, row + outputs, there, columns, normed,
                half, block_m, block_n,
            )  # fmt: skip
    else:
        out, up, squares = _tile(
            x_ptr, gain_ptr, rows_ptr, size, m, own, row, there, outputs, columns, normed, early, gated, block_m,
            block_n, block_k,
        )  # fmt: skip
        if normed and not early:
            size = 1 / tl.sqrt(squares / columns + eps)
            out *= size[:, None]
            up *= size[:, None]
    if bits == 8:
        out *= tl.load(scale_ptr + row, mask=there, other=0.0).to(tl.float32)[None, :]
        if gated:
            up *= tl.load(scale_ptr + outputs + row, mask=there, other=0.0).to(tl.float32)[None, :]
    if gated:
        out = out / (1 + tl.exp(-out)) * up
    at, seen = m[:, None] * outputs + row[None, :], own[:, None] & there[None, :]
    if adds:
        out += tl.load(add_ptr + at, mask=seen, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=seen)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a product is shared out."""

    block_m: int  # rows of a program. Below a tile, 16, it is all rows, each multiplied by itself; of nf4, one
    block_n: int  # outputs of a program
    block_k: int  # columns at once
    warps: int
    stages: int  # loads of a program that are on their way at once; 1: as many as its threads have registers for


def plan_of(count: int, outputs: int, columns: int, bits: int) -> Plan:
    """For `count` rows. Not yet tuned: reckoned so that each thread reads 16 bytes at a time and every unit has several programs."""
    narrow = outputs <= _NARROW
    loops = bits != 4  # of 4 bits, the look-up of each level would be put off together with the loads
    if count > (2 if bits > 4 else 1):
        block_m = max(_TILE, min(64, triton.next_power_of_2(count)))
        return Plan(block_m, 16 if narrow else 32, 128, 4, 3 if loops else 1)
    if bits >= 16:
        return Plan(count, 4 // count, 1024, 4, 1)
    return Plan(count, (4 if narrow else 8) // count, 512, 4, 4 if loops else 1)


def few_rows(
    x: Tensor, matrix: Quantized | Tensor, norm: Norm | None = None, gated: bool = False, add: Tensor | None = None
) -> Tensor:
    """As `engine.quantize.product`, for 1 to MOST_ROWS rows. A plain matrix, [N, K], has any float dtype."""
    from engine.quantize import nf4_levels

    x = x.contiguous()
    if isinstance(matrix, Tensor):
        bits, rows, scale, levels = matrix.element_size() * 8, matrix.contiguous(), matrix, matrix
    else:
        bits, rows, scale = {"int8": 8, "fp8": 8, "nf4": 4}[matrix.format], matrix.rows, matrix.scale
        levels = nf4_levels(x.device) if bits == 4 else scale  # of 8 bits nobody looks at them
    count, (outputs, columns) = len(x), matrix.shape
    outputs = outputs // 2 if gated else outputs
    out = torch.empty(count, outputs, device=x.device, dtype=x.dtype)
    gain, eps = (x, 0.0) if norm is None else (norm.weight, norm.eps)
    added = x if add is None else add.contiguous()
    tensors = (x, rows, scale, levels, gain, added, out, eps)
    plan = plan_of(count, outputs, columns, bits)
    what = {
        "outputs": outputs, "columns": columns, "bits": bits, "normed": norm is not None, "gated": gated,
        "adds": add is not None, "half": _HALF, "ahead": ahead, "line": _LINE, "block_n": plan.block_n,
        "block_k": plan.block_k, "num_warps": plan.warps, "launch_pdl": ahead > 0,
    }  # fmt: skip
    grid = triton.cdiv(outputs, plan.block_n), triton.cdiv(count, plan.block_m)
    if plan.block_m < _TILE:
        _one_by_one_kernel[grid[:1]](*tensors, **what, count=count, stages=plan.stages)
    else:
        _rows_kernel[grid](*tensors, count, **what, block_m=plan.block_m, num_stages=plan.stages)
    return out


def row_counts() -> list[int]:
    """Numbers of rows of which each has code of its own: whoever runs them all compiles nothing later."""
    return [1, 2, 16, 32, 64]
