"""Products of one or two rows with matrices of int8 on a GPU, in whole numbers: no weight is ever converted.

Knows how a row of x becomes whole numbers, 16 bits times one step a row, each of two numbers of 8 bits: 256 high + low. So four weights
take two instructions. A number of x is at most half a step off, largest |x| / 65278, so a row by some sqrt(K) / 113,000 of its length, by
9e-4 at 9728 columns, if one number is all its length; bfloat16 itself is off by as much. `engine.products_triton` says where this is taken;
`engine.row_products_triton` multiplies the same in float32. Needs Triton; import it only where there is a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.row_products_triton import fetch_further

if TYPE_CHECKING:
    from engine.quantize import Norm, Quantized

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
LARGEST = 32639.0  # 256 * 127 + 127: the largest number whose halves both have 8 bits with a sign
ROUNDING = 12582912.0  # 1.5 * 2^23: what is added to it in float32 is rounded, and lies in its last bits
_LARGEST, _ROUNDING = tl.constexpr(LARGEST), tl.constexpr(ROUNDING)


@triton.jit  # type: ignore[untyped-decorator]
def _words(rows_ptr, row, wanted, below, words: tl.constexpr, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Some rows of a matrix from row `below` on, four weights a word, in pieces of `width` words. Not wanted: zeros, nothing read."""
    pieces = ()
    for first in tl.static_range(0, words, width):
        k = first + tl.arange(0, width)
        at = rows_ptr + (row[:, None] + below) * words + k[None, :]
        seen = wanted & (k < words)[None, :] if first + width > words else wanted
        piece = tl.load(at, mask=seen, other=0, eviction_policy="evict_first")  # nobody needs it again
        pieces += (piece,)  # type: ignore[assignment]
    return pieces


@triton.jit  # type: ignore[untyped-decorator]
def _fours(row_ptr, words: tl.constexpr, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """A row of numbers of 16 bits, four a word, in pieces of `width` words."""
    pieces = ()
    for first in tl.static_range(0, words, width):
        k = first + tl.arange(0, width)
        piece = tl.load(row_ptr.to(tl.pointer_type(tl.int64)) + k, mask=k < words, other=0)
        pieces += (piece,)  # type: ignore[assignment]
    return pieces


@triton.jit  # type: ignore[untyped-decorator]
def _one_of(four, j: tl.constexpr, kind: tl.constexpr):  # type: ignore[no-untyped-def]
    """One of the numbers of a word, float32."""
    return (four >> (16 * j)).to(tl.int16).to(kind, bitcast=True).to(tl.float32)


@triton.jit
def _larger(square, most, other_square, other_most):  # type: ignore[no-untyped-def]
    """What is not a number stays."""
    return square + other_square, tl.maximum(most, other_most, propagate_nan=tl.PropagateNan.ALL)


@triton.jit  # type: ignore[untyped-decorator]
def _in_halves(  # type: ignore[no-untyped-def]
    x_ptr, gains, words: tl.constexpr, width: tl.constexpr, normed: tl.constexpr
):  # fmt: skip
    """A row of x, times the gain if normed, in whole numbers: high halves of four above their low ones, pieces of `width`.

    They are int64, so that both change hands between threads at once. And what one of them stands for, and the sum of squares of x.
    """
    kind: tl.constexpr = x_ptr.dtype.element_ty
    fours = _fours(x_ptr, words, width)
    square, most = tl.zeros((width,), tl.float32), tl.zeros((width,), tl.float32)
    numbers = ()
    for i in tl.static_range((words + width - 1) // width):
        for j in tl.static_range(4):
            x = _one_of(fours[i], j, kind)
            if normed:
                square += x * x
                x *= _one_of(gains[i], j, kind)
            most = tl.maximum(most, tl.abs(x), propagate_nan=tl.PropagateNan.ALL)
            numbers += (x,)  # type: ignore[assignment]
    square, most = tl.reduce((square, most), 0, _larger)
    many = _LARGEST / tl.maximum(most, 1e-30)
    halves = ()
    for i in tl.static_range((words + width - 1) // width):
        high, low = tl.zeros((width,), tl.int32), tl.zeros((width,), tl.int32)
        for j in tl.static_range(4):
            whole = (numbers[4 * i + j] * many + _ROUNDING).to(tl.int32, bitcast=True)
            low |= (whole & 255) << (8 * j)
            high |= (((whole + 128) >> 8) & 255) << (8 * j)  # the low half counts from -128 to 127
        halves += ((high.to(tl.int64) << 32) | low.to(tl.uint32, bitcast=True).to(tl.int64),)  # type: ignore[assignment]
    return halves, most / _LARGEST, square


@triton.jit
def _four_products(w, x, total):  # type: ignore[no-untyped-def]
    """`total` and the products of the four numbers of 8 bits in each word."""
    if _INTERPRETED:
        for j in tl.static_range(4):
            total += ((w << (24 - 8 * j)) >> 24) * ((x << (24 - 8 * j)) >> 24)
        return total
    asm: tl.constexpr = "dp4a.s32.s32 $0, $1, $2, $3;"
    return tl.inline_asm_elementwise(asm, "=r,r,r,r", [w, x, total], tl.int32, is_pure=True, pack=1)


@triton.jit  # type: ignore[untyped-decorator]
def _summed(pieces, halves, step, r: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """A row of x with some rows of a matrix, without their scales, float32 [block_n]."""
    count: tl.constexpr = len(pieces)
    high, low = tl.zeros((block_n, width), tl.int32), tl.zeros((block_n, width), tl.int32)
    for i in tl.static_range(count):
        both = halves[r * count + i][None, :]
        high = _four_products(pieces[i], (both >> 32).to(tl.int32), high)
        low = _four_products(pieces[i], both.to(tl.int32), low)
    return (tl.sum(high, 1).to(tl.float32) * 256 + tl.sum(low, 1).to(tl.float32)) * step


@triton.jit  # type: ignore[untyped-decorator]
def _scales(scale_ptr, row, outputs: tl.constexpr, gated: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of some rows, and of those `outputs` below them if gated."""
    scale = tl.load(scale_ptr + row).to(tl.float32)
    return scale, tl.load(scale_ptr + outputs + row).to(tl.float32) if gated else scale


@triton.jit  # type: ignore[untyped-decorator]
def _added(add_ptr, row, outputs: tl.constexpr, adds: tl.constexpr, count: tl.constexpr):  # type: ignore[no-untyped-def]
    """What is added to some outputs of each row of x."""
    added = ()
    for r in tl.static_range(count):
        added += (tl.load(add_ptr + r * outputs + row).to(tl.float32) if adds else row,)  # type: ignore[assignment]
    return added


@triton.jit  # type: ignore[untyped-decorator]
def _block(  # type: ignore[no-untyped-def]
    held, ups, scales, added, given, out_ptr, eps, block, outputs: tl.constexpr, columns: tl.constexpr,
    normed: tl.constexpr, gated: tl.constexpr, adds: tl.constexpr, count: tl.constexpr, block_n: tl.constexpr,
    width: tl.constexpr,
):  # fmt: skip
    """A block of outputs from what is held of it and what `_in_halves` gave of each row of x."""
    halves, steps, squares = given
    row = block * block_n + tl.arange(0, block_n)
    for r in tl.static_range(count):
        step = steps[r]
        if normed:
            step /= tl.sqrt(squares[r] / columns + eps)
        out = _summed(held, halves, step, r, block_n, width) * scales[0]
        if gated:
            up = _summed(ups, halves, step, r, block_n, width) * scales[1]
            out = out / (1 + tl.exp(-out)) * up
        if adds:
            out += added[r]
        tl.store(out_ptr + r * outputs + row, out.to(out_ptr.dtype.element_ty), mask=row < outputs)


@triton.jit  # type: ignore[untyped-decorator]
def _asked_for(  # type: ignore[no-untyped-def]
    rows_ptr, scale_ptr, row, wanted, outputs: tl.constexpr, gated: tl.constexpr, words: tl.constexpr, width: tl.constexpr
):  # fmt: skip
    """Some rows of the matrix, those `outputs` below them if gated, and their scales, as early: each takes as long as a row does."""
    held = _words(rows_ptr, row, wanted, 0, words, width)
    ups = held
    if gated:
        ups = _words(rows_ptr, row, wanted, outputs, words, width)
    return held, ups, _scales(scale_ptr, row, outputs, gated)


@triton.jit  # type: ignore[untyped-decorator]
def whole_kernel(  # type: ignore[no-untyped-def]
    x_ptr, rows_ptr, scale_ptr, gain_ptr, add_ptr, out_ptr, eps,
    outputs: tl.constexpr, columns: tl.constexpr, normed: tl.constexpr, gated: tl.constexpr, adds: tl.constexpr,
    early: tl.constexpr, count: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, lasting: tl.constexpr,
    fetches: tl.constexpr,
):  # fmt: skip
    """block_n of the outputs of `count` rows of x, of 16 bits each. rows_ptr: four weights of int8 a word.

    A program holds its rows of the matrix, whole, and asks for them before it waits for x. lasting: programs are fewer than there are
    blocks of outputs; each takes several, and asks for the next before it multiplies one. fetches: how many of them it has
    brought into the second cache before it waits.
    """
    words: tl.constexpr = columns // 4
    width: tl.constexpr = block_k // 4
    blocks: tl.constexpr = (outputs + block_n - 1) // block_n
    last: tl.constexpr = outputs - 1
    block = tl.program_id(0)
    if early:
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.minimum(block * block_n + tl.arange(0, block_n), last)
    held, ups, scales = _asked_for(rows_ptr, scale_ptr, row, True, outputs, gated, words, width)
    gains = ()
    if normed:
        gains = _fours(gain_ptr, words, width)
    if early:
        if fetches:
            fetch_further(rows_ptr, block, tl.num_programs(0), fetches, outputs, words, gated, 128, block_n)
        tl.extra.cuda.gdc_wait()
    added = _added(add_ptr, row, outputs, adds, count)
    halves, steps, squares = (), (), ()
    for r in tl.static_range(count):
        both, step, square = _in_halves(x_ptr + r * columns, gains, words, width, normed)
        halves += both
        steps += (step,)  # type: ignore[assignment]
        squares += (square,)  # type: ignore[assignment]
    given = halves, steps, squares
    if lasting:
        stride = tl.num_programs(0)
        for own in tl.range(block, blocks, stride, num_stages=1):
            wanted = own + stride < blocks
            row = tl.minimum((own + stride) * block_n + tl.arange(0, block_n), last)
            further = _asked_for(rows_ptr, scale_ptr, row, wanted, outputs, gated, words, width)
            further_added = _added(add_ptr, row, outputs, adds, count)
            _block(
                held, ups, scales, added, given, out_ptr, eps, own, outputs, columns, normed, gated, adds, count,
                block_n, width,
            )  # fmt: skip
            held, ups, scales = further
            added = further_added
    else:
        _block(
            held, ups, scales, added, given, out_ptr, eps, block, outputs, columns, normed, gated, adds, count,
            block_n, width,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """How a product is shared out."""

    block_n: int  # outputs of a program
    block_k: int  # columns at once
    warps: int
    each: int = 0  # programs that a multiprocessor gets, which take one block of outputs after the other; 0: one program for each block
    fetches: int = 0  # see `whole_kernel`


# What was fastest in whole layers on an H200, with S2 Pro's shape: by rows, outputs and columns.
PLANS: dict[tuple[int, int, int], Plan] = {
    (1, 6144, 2560): Plan(16, 512, 4),
    (1, 2560, 4096): Plan(16, 1024, 8),
    (1, 9728, 2560): Plan(8, 512, 4, 3),
    (1, 2560, 9728): Plan(4, 2048, 8, 2),
    (2, 6144, 2560): Plan(16, 512, 4),
    (2, 2560, 4096): Plan(8, 512, 4),
    (2, 9728, 2560): Plan(4, 512, 4, 3),
    (2, 2560, 9728): Plan(2, 2048, 4, 2),
}


def plan_of(count: int, outputs: int, columns: int) -> Plan:
    """For `count` rows. What is not in PLANS is reckoned: a row in at most eight pieces, each thread 16 bytes at a time."""
    known = PLANS.get((count, outputs, columns))
    if known is not None:
        return known
    widest = 512 if columns > 1024 else max(16, triton.next_power_of_2(columns))
    return Plan(4, max(widest, triton.next_power_of_2(triton.cdiv(columns, 8))), 4)


def fits(x: Tensor, matrix: Quantized, norm: Norm | None) -> bool:
    """Whether they may be multiplied in whole numbers: x of 16 bits, and a matrix of int8."""
    read = [x] if norm is None else [x, norm.weight]
    words = all(part.element_size() == 2 and part.storage_offset() % 4 == 0 for part in read)  # of four numbers
    return words and matrix.format == "int8" and x.shape[1] % 4 == 0


def whole_rows(
    x: Tensor, matrix: Quantized, norm: Norm | None, gated: bool, add: Tensor | None, early: bool, units: int
) -> Tensor:
    """As `engine.quantize.product`, of what `fits`. x: contiguous. early: starts before the one before it ends. units: multiprocessors."""
    count, (outputs, columns) = len(x), matrix.shape
    outputs = outputs // 2 if gated else outputs
    out = torch.empty(count, outputs, device=x.device, dtype=x.dtype)
    gain, eps = (x, 0.0) if norm is None else (norm.weight, norm.eps)
    plan = plan_of(count, outputs, columns)
    blocks = triton.cdiv(outputs, plan.block_n)
    programs = min(blocks, plan.each * units) if plan.each else blocks
    whole_kernel[(programs,)](
        x, matrix.rows.view(torch.int32), matrix.scale, gain, x if add is None else add.contiguous(), out, eps,
        outputs=outputs, columns=columns, normed=norm is not None, gated=gated, adds=add is not None, early=early,
        count=count, block_n=plan.block_n, block_k=plan.block_k, lasting=programs < blocks, fetches=plan.fetches if early else 0,
        num_warps=plan.warps, launch_pdl=early,
    )  # fmt: skip
    return out
