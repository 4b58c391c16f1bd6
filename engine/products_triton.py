"""Products of few rows with large matrices, on a GPU: a matrix is read once, and nothing but the result is written.

Knows the kernel for tiles of rows, which kernel is taken and with what plan (`engine.row_products_triton` has those for one or two rows);
matrices as they are and in 8 or 4 bits; and what a block has around a product: the norm before it, the gate and the sum after it, each of
which would be a launch of its own. Does not know modules. `engine.quantize.product` and `engine.model` are the plain paths that tests hold
this to; here nothing is rounded between norm and product, so results differ by roundings. No sum depends on who comes first, so the same
rows give the same bits. Needs Triton; import it only where there is a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.row_products_triton import begin, held_kernel, one_by_one_kernel
from engine.whole_products_triton import fits, whole_rows
from engine.whole_tiles_triton import tiled_rows

if TYPE_CHECKING:
    from engine.quantize import Norm, Quantized

MOST_ROWS = 128  # beyond, arithmetic bounds a product and the library's is better, also with a matrix to unpack first
# Of a matrix that needs no unpacking: of eight rows the library's products took half as long as tiles here.
MOST_PLAIN_ROWS = 2
MOST_WHOLE_ROWS = 2  # of half precision that are multiplied by int8 in whole numbers, each by itself; 0: in float32
MOST_WHOLE_TILES = 16  # and in tiles, by the matrix units; 0: as floats
# Whether a kernel is started while the one before it still runs: lines of each of its rows of the matrix that one of the first programs
# fetches meanwhile, if it does not hold its rows. 0: it is started when that one has ended. Needs compute capability 9.0. Of 8 to 64
# lines, 16 were best on an H100. Whoever sets it does so before anything is captured.
ahead = 16 if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0) else 0
_HALF = 32  # columns in the lower and in the upper halves of a block of nf4
_TILE = 16  # rows that the matrix units take at once
_NARROW = 4096  # outputs: a matrix with no more has so few rows that each program takes fewer of them, or some units would idle
_LINE = 128  # bytes that the second cache takes from memory at once
_SOON = 1024  # programs that are there at once, about: later ones are started when there is nothing to wait for
_FETCHING = 512  # programs that are surely there at once, also beside those of an attention


@triton.jit  # type: ignore[untyped-decorator]
def _tile(  # type: ignore[no-untyped-def]
    x_ptr, gain_ptr, rows_ptr, size, m, own, row, there, outputs: tl.constexpr, columns: tl.constexpr,
    normed: tl.constexpr, early: tl.constexpr, gated: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
    block_k: tl.constexpr,
):  # fmt: skip
    """Sums of some rows of x, float32 [block_m, block_n] twice, and their squares, [block_m]. early: x is multiplied by `size` first."""
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
    adds: tl.constexpr, half: tl.constexpr, ahead: tl.constexpr, line: tl.constexpr, soon: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """block_n of the outputs of block_m of `count` rows. ahead: see `begin`."""
    row = tl.program_id(0) * block_n + tl.arange(0, block_n)
    m = tl.program_id(1) * block_m + tl.arange(0, block_m)
    there, own = row < outputs, m < count
    if ahead:
        begin(rows_ptr, row, outputs, columns, bits, gated, line, ahead, soon)
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
    stages: int  # loads of a program that are on their way at once; 1: as many as its threads have registers for; 0: all it needs
    each: int = 0  # of 0 stages, programs that a unit gets, which take one block of outputs after the other; 0: one program for each block
    fetches: int = 0  # of 0 stages: see `held_kernel`


# What was fastest in whole layers on an H200, with S2 Pro's shape: by rows, outputs, columns and bits.
PLANS: dict[tuple[int, int, int, int], Plan] = {
    (1, 6144, 2560, 16): Plan(1, 2, 512, 4, 0, 4),
    (1, 2560, 4096, 16): Plan(1, 2, 1024, 8, 0),
    (1, 9728, 2560, 16): Plan(1, 2, 1024, 8, 0, 3),
    (1, 2560, 9728, 16): Plan(1, 1, 2048, 8, 0, 3),
    (1, 4097, 2560, 16): Plan(1, 4, 256, 4, 0),
    (1, 1024, 2560, 16): Plan(1, 4, 512, 8, 0),
    (1, 6144, 2560, 8): Plan(1, 8, 512, 8, 0),
    (1, 2560, 4096, 8): Plan(1, 8, 512, 8, 0, 3),
    (1, 9728, 2560, 8): Plan(1, 4, 512, 4, 0),
    (1, 2560, 9728, 8): Plan(1, 1, 2048, 4, 0),
    (2, 6144, 2560, 16): Plan(2, 4, 512, 4, 4),
    (2, 2560, 4096, 16): Plan(2, 4, 512, 4, 4),
    (2, 9728, 2560, 16): Plan(2, 4, 512, 4, 4),
    (2, 2560, 9728, 16): Plan(2, 1, 1024, 4, 0),
}


def plan_of(count: int, outputs: int, columns: int, bits: int) -> Plan:
    """For `count` rows. What is not in PLANS is reckoned: each thread reads 16 bytes at a time, and every unit has several programs."""
    known = PLANS.get((count, outputs, columns, bits))
    if known is not None:
        return known
    narrow = outputs <= _NARROW
    loops = bits != 4  # of 4 bits, the look-up of each level would be put off together with the loads
    if count > (2 if bits > 4 else 1):
        block_m = max(_TILE, min(64, triton.next_power_of_2(count)))
        if bits == 8 and block_m < 64:
            return Plan(block_m, 32, 256, 4, 3)
        return Plan(block_m, 16 if narrow else 32, 128, 4, 3 if loops else 1)
    if bits >= 16:
        return Plan(count, 1, 2048, 8, 1) if narrow else Plan(count, 4 // count, 512, 4, 4)
    return Plan(count, (4 if narrow else 8) // count, 512, 4, 4 if loops else 1)


def few_rows(
    x: Tensor, matrix: Quantized | Tensor, norm: Norm | None = None, gated: bool = False, add: Tensor | None = None
) -> Tensor:
    """As `engine.quantize.product`, for 1 to MOST_ROWS rows. A plain matrix, [N, K], has any float dtype."""
    from engine.quantize import nf4_levels

    x = x.contiguous()
    if not isinstance(matrix, Tensor) and fits(x, matrix, norm):
        if len(x) <= MOST_WHOLE_ROWS:
            return whole_rows(x, matrix, norm, gated, add, ahead > 0, _units(x.device))
        if len(x) <= MOST_WHOLE_TILES:
            return tiled_rows(x, matrix, norm, gated, add, ahead)
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
    plan = plan_of(count, outputs, columns, bits)
    what = {
        "outputs": outputs, "columns": columns, "bits": bits, "normed": norm is not None, "gated": gated,
        "adds": add is not None, "line": _LINE, "block_n": plan.block_n, "block_k": plan.block_k,
        "num_warps": plan.warps, "launch_pdl": ahead > 0,
    }  # fmt: skip
    blocks = triton.cdiv(outputs, plan.block_n)
    if plan.block_m < _TILE and plan.stages == 0:
        programs = min(blocks, plan.each * _units(x.device)) if plan.each else blocks
        held_kernel[(programs,)](
            x, rows, scale, gain, added, out, eps, **what, early=ahead > 0, fetching=_FETCHING,
            fetches=plan.fetches if ahead else 0, count=count, lasting=programs < blocks,
        )  # fmt: skip
        return out
    tensors = (x, rows, scale, levels, gain, added, out, eps)
    what |= {"half": _HALF, "ahead": ahead, "soon": _SOON}
    if plan.block_m < _TILE:
        one_by_one_kernel[(blocks,)](*tensors, **what, count=count, stages=plan.stages)
    else:
        grid = blocks, triton.cdiv(count, plan.block_m)
        _rows_kernel[grid](*tensors, count, **what, block_m=plan.block_m, num_stages=plan.stages)
    return out


@cache
def _units(device: torch.device) -> int:
    """Multiprocessors; 2 where kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def row_counts() -> list[int]:
    """Numbers of rows of which each has code of its own: whoever runs them all compiles nothing later."""
    return [1, 2, 8, 16, 32, 64]
