"""Products of many rows on a GPU: the library multiplies, and a kernel each does what stands before and behind.

Knows the gate's kernel, and takes the norm's from `engine.embed_triton`; sums ride along in the library's product. Few rows have products
of their own (`engine.products_triton`). Needs Triton; import it only where there is a GPU.
"""

from __future__ import annotations

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, addmm, empty

from engine.embed_triton import norm as normed
from engine.quantize import Norm

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


def many_rows(
    x: Tensor, matrix: Tensor, norm: Norm | None = None, gated: bool = False, add: Tensor | None = None
) -> Tensor:
    """As `engine.quantize.product`, with a plain matrix [N, K]."""
    if norm is not None:
        x = normed(x, norm.weight, norm.eps)
    out = F.linear(x, matrix) if add is None else addmm(add, x, matrix.t())
    return gate(out) if gated else out
