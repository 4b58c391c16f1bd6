"""Products of many rows on a GPU: the library multiplies, and a kernel each does what stands before and behind.

Knows the gate's kernel, and takes the norm's from `engine.embed_triton`; sums ride along in the library's product. A matrix in 8 or 4 bits
is unpacked first, in one pass. Few rows have products of their own (`engine.products_triton`). Needs Triton; import it only where there is
a GPU.
"""

from __future__ import annotations

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, addmm, dtype, empty

from engine.embed_triton import norm as normed
from engine.quantize import BLOCK, Norm, Quantized, nf4_levels

_WIDTH = 1024  # of what a program makes


@triton.jit  # type: ignore[untyped-decorator]
def _gate_kernel(both_ptr, out_ptr, width: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """`block` entries of one row of silu(first half) * second half."""
    row, k = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    inside = k < width
    gate = tl.load(both_ptr + row * 2 * width + k, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both_ptr + row * 2 * width + width + k, mask=inside, other=0.0).to(tl.float32)
    out = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * width + k, out.to(out_ptr.dtype.element_ty), mask=inside)


def gate(both: Tensor) -> Tensor:
    """silu of the first half of each row, times the second. both: [R, 2 N], contiguous. Returns [R, N]."""
    rows, width = both.shape[0], both.shape[1] // 2
    out = empty(rows, width, device=both.device, dtype=both.dtype)
    _gate_kernel[(rows, triton.cdiv(width, _WIDTH))](both, out, width, _WIDTH)
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _unpack_kernel(  # type: ignore[no-untyped-def]
    rows_ptr, scale_ptr, level_ptr, out_ptr, width: tl.constexpr, bits: tl.constexpr, half: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """What `block` of a row's `width` bytes stand for."""
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    inside = at < width
    stored = tl.load(rows_ptr + row * width + at, mask=inside, other=0.0)
    if bits == 8:
        out = stored.to(tl.float32) * tl.load(scale_ptr + row).to(tl.float32)
        tl.store(out_ptr + row * width + at, out.to(out_ptr.dtype.element_ty), mask=inside)
    else:
        scale = tl.load(scale_ptr + row * (width // half) + at // half, mask=inside, other=0.0).to(tl.float32)
        byte = stored.to(tl.int32)
        below, above = tl.load(level_ptr + (byte & 15)) * scale, tl.load(level_ptr + (byte >> 4)) * scale
        low = out_ptr + row * 2 * width + at // half * (2 * half) + at % half
        tl.store(low, below.to(out_ptr.dtype.element_ty), mask=inside)
        tl.store(low + half, above.to(out_ptr.dtype.element_ty), mask=inside)


def unpacked(matrix: Quantized, kind: dtype) -> Tensor:
    """`matrix.dequantized(kind)`, bit for bit, without what lies between."""
    rows, width = matrix.rows.shape
    four = matrix.format == "nf4"
    out = empty(matrix.shape, device=matrix.rows.device, dtype=kind)
    levels = nf4_levels(out.device) if four else matrix.scale  # of 8 bits nobody looks at them
    grid = rows, triton.cdiv(width, _WIDTH)
    _unpack_kernel[grid](matrix.rows, matrix.scale, levels, out, width, 4 if four else 8, BLOCK // 2, _WIDTH)
    return out


def many_rows(
    x: Tensor, matrix: Tensor, norm: Norm | None = None, gated: bool = False, add: Tensor | None = None
) -> Tensor:
    """As `engine.quantize.product`, with a plain matrix [N, K]."""
    if norm is not None:
        x = normed(x, norm.weight, norm.eps)
    out = F.linear(x, matrix) if add is None else addmm(add, x, matrix.t())
    return gate(out) if gated else out
