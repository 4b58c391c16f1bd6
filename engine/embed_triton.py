"""The two ends of the slow stack on a GPU, a launch each where the plain path has a dozen: embedding of columns, and the last norm.

Roundings are those of the plain path (`engine.model`). Needs Triton; import it only where there is a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, empty, empty_like

_WIDTH = 1024  # of what a program embeds


@triton.jit(do_not_specialize=["row_stride", "step_stride", "place_stride", "positions"])  # type: ignore[untyped-decorator]
def _embed_kernel(  # type: ignore[no-untyped-def]
    column_ptr, row_stride, step_stride, place_stride, positions, table_ptr, codes_ptr, offset_ptr, out_ptr, scale,
    begin: tl.constexpr, end: tl.constexpr, width: tl.constexpr, codebooks: tl.constexpr, scaled: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """`block` entries of one position. begin, end: first and last token that is a frame."""
    place = tl.program_id(0)
    column = column_ptr + place // positions * row_stride + place % positions * place_stride
    token = tl.load(column)
    k = tl.program_id(1) * block + tl.arange(0, block)
    inside = k < width
    x = tl.load(table_ptr + token * width + k, mask=inside, other=0.0)
    if (token >= begin) & (token <= end):
        total = tl.zeros((block,), tl.float32)
        for codebook in tl.static_range(codebooks):
            code = tl.load(column + (codebook + 1) * step_stride) + tl.load(offset_ptr + codebook)
            total += tl.load(codes_ptr + code * width + k, mask=inside, other=0.0).to(tl.float32)
        total = x.to(tl.float32) + total.to(x.dtype).to(tl.float32)
        if scaled:
            total = total.to(x.dtype).to(tl.float32) / scale
        x = total.to(x.dtype)
    tl.store(out_ptr + place * width + k, x, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _norm_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, out_ptr, eps, width: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """One row. block: a power of two that holds it."""
    k = tl.arange(0, block)
    inside = k < width
    at = tl.program_id(0) * width + k
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    wide = x.to(tl.float32)
    normed = (wide / tl.sqrt(tl.sum(wide * wide, 0) / width + eps)).to(x.dtype).to(tl.float32)
    weight = tl.load(weight_ptr + k, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, (normed * weight).to(x.dtype), mask=inside)


def embed(
    columns: Tensor, table: Tensor, codes: Tensor, offsets: Tensor, frames: tuple[int, int], scale: float | None
) -> Tensor:
    """Input of the slow stack, [B, T, D]. columns: int64 [B, K + 1, T], any strides. See DualAR.embed.

    table: of tokens, [V, D]. codes: of all codebooks, from whose row offsets [K] on each begins. frames: first and last token of theirs.
    """
    batch, steps, positions = columns.shape
    out = empty(batch, positions, table.shape[1], device=table.device, dtype=table.dtype)
    grid = batch * positions, triton.cdiv(table.shape[1], _WIDTH)
    _embed_kernel[grid](
        columns, *columns.stride(), positions, table, codes, offsets, out, 1.0 if scale is None else scale,
        *frames, table.shape[1], steps - 1, scale is not None, _WIDTH,
    )  # fmt: skip
    return out


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See engine.model.RMSNorm. x: [..., D]."""
    x = x.contiguous()
    out = empty_like(x)
    _norm_kernel[(x.numel() // len(weight),)](x, weight, out, eps, len(weight), triton.next_power_of_2(len(weight)))
    return out
