"""Products of some rows with matrices of int8 on a GPU, in whole numbers, by the matrix units: no weight is ever converted.

Knows a kernel that makes 16 bits of each number of x, as two halves of 8 (`engine.whole_products_triton` says how exact that is), and one
that multiplies tiles: eight rows of high halves lie above their low ones, so that a tile of 16 is eight rows of x. Which are multiplied so,
`engine.products_triton` says. Needs Triton; import it only where there is a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.row_products_triton import begin
from engine.whole_products_triton import LARGEST, ROUNDING

if TYPE_CHECKING:
    from engine.quantize import Norm, Quantized

_LARGEST, _ROUNDING = tl.constexpr(LARGEST), tl.constexpr(ROUNDING)
_EIGHT = tl.constexpr(8)  # rows of x in a tile
_TILE = 16  # rows that the matrix units take at once
_LINE = 128  # bytes that the second cache takes from memory at once
_SOON = 1024  # programs that are there at once, about


@triton.jit  # type: ignore[untyped-decorator]
def _halves_kernel(  # type: ignore[no-untyped-def]
    x_ptr, gain_ptr, halves_ptr, step_ptr, eps, columns: tl.constexpr, normed: tl.constexpr, early: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """A row of x, normalised if there is a norm, in whole numbers. block: a power of two that holds it."""
    r, k = tl.program_id(0), tl.arange(0, block)
    inside = k < columns
    gain = k
    if early:
        tl.extra.cuda.gdc_launch_dependents()
    if normed:
        gain = tl.load(gain_ptr + k, mask=inside, other=0.0).to(tl.float32)
    if early:
        tl.extra.cuda.gdc_wait()
    x = tl.load(x_ptr + r * columns + k, mask=inside, other=0.0).to(tl.float32)
    size = tl.sum(x * x, 0)
    if normed:
        x *= gain
    most = tl.max(tl.abs(x), 0)
    whole = (x * (_LARGEST / tl.maximum(most, 1e-30)) + _ROUNDING).to(tl.int32, bitcast=True)
    at = halves_ptr + ((r // _EIGHT) * 2 * _EIGHT + r % _EIGHT) * columns + k
    tl.store(at, ((whole + 128) >> 8).to(tl.int8), mask=inside)
    tl.store(at + _EIGHT * columns, whole.to(tl.int8), mask=inside)
    step = most / _LARGEST
    if normed:
        step /= tl.sqrt(size / columns + eps)
    tl.store(step_ptr + r, step + tl.sum(x - x, 0))  # what is not a number, which `most` leaves out


@triton.jit  # type: ignore[untyped-decorator]
def _joined(sums, chains: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr):  # type: ignore[no-untyped-def]
    """256 times sums of high halves, and those of low ones: float32 [block_m / 2, block_n]."""
    total = sums[0]
    if chains == 2:
        total += sums[1]
    tiles = tl.reshape(total.to(tl.float32), (block_m // (2 * _EIGHT), 2, _EIGHT, block_n))
    weight = tl.where(tl.arange(0, 2) == 0, 256.0, 1.0)[None, :, None, None]
    return tl.reshape(tl.sum(tiles * weight, 1), (block_m // 2, block_n))


@triton.jit  # type: ignore[untyped-decorator]
def _more(sums, of_x, at, k, columns: tl.constexpr, whole: tl.constexpr):  # type: ignore[no-untyped-def]
    """`sums` and the product of two tiles, columns k of each. whole: none of them is beyond `columns`."""
    if whole:
        x, w = tl.load(of_x), tl.load(at)
    else:
        inside = (k < columns)[None, :]
        x, w = tl.load(of_x, mask=inside, other=0), tl.load(at, mask=inside, other=0)
    return tl.dot(x, tl.trans(w), sums, out_dtype=tl.int32)


@triton.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator]
def _tiles_kernel(  # type: ignore[no-untyped-def]
    halves_ptr, step_ptr, rows_ptr, scale_ptr, add_ptr, out_ptr, count,
    outputs: tl.constexpr, columns: tl.constexpr, gated: tl.constexpr, adds: tl.constexpr, ahead: tl.constexpr,
    line: tl.constexpr, soon: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
    stages: tl.constexpr, chains: tl.constexpr,
):  # fmt: skip
    """block_n of the outputs of block_m / 2 of `count` rows. ahead: see `begin`.

    chains: sums that are added up at last; each product waits for the one before it in its chain.
    """
    whole: tl.constexpr = columns % (chains * block_k) == 0
    row = tl.program_id(0) * block_n + tl.arange(0, block_n)
    there, safe = row < outputs, tl.minimum(row, outputs - 1)
    half = tl.program_id(1) * block_m + tl.arange(0, block_m)
    m = tl.program_id(1) * (block_m // 2) + tl.arange(0, block_m // 2)
    own = m < count
    if ahead:
        begin(rows_ptr, safe, outputs, columns, 8, gated, line, ahead, soon)
    sums = (tl.zeros((block_m, block_n), tl.int32),) * chains
    ups = sums
    for first in tl.range(0, columns, chains * block_k, num_stages=stages):
        new_sums, new_ups = (), ()
        for chain in tl.static_range(chains):
            k = first + chain * block_k + tl.arange(0, block_k)
            of_x = halves_ptr + half[:, None] * columns + k[None, :]
            at = rows_ptr + safe[:, None] * columns + k[None, :]
            new_sums += (_more(sums[chain], of_x, at, k, columns, whole),)  # type: ignore[assignment]
            if gated:
                new_ups += (_more(ups[chain], of_x, at + outputs * columns, k, columns, whole),)  # type: ignore[assignment]
        sums = new_sums
        if gated:
            ups = new_ups
    step = tl.load(step_ptr + m, mask=own, other=0.0)[:, None]
    out = _joined(sums, chains, block_m, block_n) * step * tl.load(scale_ptr + safe).to(tl.float32)[None, :]
    if gated:
        up = _joined(ups, chains, block_m, block_n) * step * tl.load(scale_ptr + outputs + safe).to(tl.float32)[None, :]
        out = out / (1 + tl.exp(-out)) * up
    to, seen = m[:, None] * outputs + row[None, :], own[:, None] & there[None, :]
    if adds:
        out += tl.load(add_ptr + to, mask=seen, other=0.0).to(tl.float32)
    tl.store(out_ptr + to, out.to(out_ptr.dtype.element_ty), mask=seen)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a product is shared out."""

    block_n: int  # outputs of a program
    block_k: int  # columns at once
    warps: int
    stages: int  # loads of a program that are on their way at once
    chains: int = 1  # 1 or 2, see `_tiles_kernel`


# What was fastest with 8 rows on an H200, with S2 Pro's shape: by outputs and columns.
PLANS: dict[tuple[int, int], Plan] = {
    (6144, 2560): Plan(16, 512, 2, 4, 1),
    (2560, 4096): Plan(16, 256, 2, 6, 2),
    (9728, 2560): Plan(32, 256, 4, 4, 1),
    (2560, 9728): Plan(16, 256, 2, 6, 2),
}


def plan_of(outputs: int, columns: int) -> Plan:
    """For any number of rows."""
    return PLANS.get((outputs, columns), Plan(32, 128, 4, 3))


def tiled_rows(x: Tensor, matrix: Quantized, norm: Norm | None, gated: bool, add: Tensor | None, ahead: int) -> Tensor:
    """As `engine.quantize.product`, with int8. x: contiguous. ahead: lines of each row that are fetched early; 0: no early start."""
    count, (outputs, columns) = len(x), matrix.shape
    outputs = outputs // 2 if gated else outputs
    block_m = max(_TILE, min(4 * _TILE, triton.next_power_of_2(2 * count)))
    padded = triton.cdiv(2 * count, block_m) * block_m
    halves = torch.empty(padded, columns, device=x.device, dtype=torch.int8)
    steps = torch.empty(count, device=x.device, dtype=torch.float32)
    gain, eps = (x, 0.0) if norm is None else (norm.weight, norm.eps)
    block = triton.next_power_of_2(columns)
    early = {"early": ahead > 0, "launch_pdl": ahead > 0, "num_warps": max(1, min(16, block // 512))}
    _halves_kernel[(count,)](x, gain, halves, steps, eps, columns, norm is not None, block=block, **early)
    out = torch.empty(count, outputs, device=x.device, dtype=x.dtype)
    plan = plan_of(outputs, columns)
    _tiles_kernel[triton.cdiv(outputs, plan.block_n), padded // block_m](
        halves, steps, matrix.rows, matrix.scale, x if add is None else add.contiguous(), out, count,
        outputs=outputs, columns=columns, gated=gated, adds=add is not None, ahead=ahead, line=_LINE, soon=_SOON,
        block_m=block_m, block_n=plan.block_n, block_k=plan.block_k, stages=plan.stages, chains=plan.chains, num_warps=plan.warps,
        launch_pdl=ahead > 0,
    )  # fmt: skip
    return out
