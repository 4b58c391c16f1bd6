"""One query a row over pages of keys and values, on a GPU: each key is read once, where it lies, and nothing is copied.

Knows the two kernels. Does not know sequences or layers. Rows may have any lengths; each is split among several programs, so that one
stream alone fills the chip too, and a second kernel puts the parts together (flash decoding, arXiv 2311.01282; pages, arXiv 2309.06180).
Needs Triton, which comes with torch for CUDA; import it only there.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, empty, float32

_KEYS = 64  # looked at by one program at a time
_QUERIES = 16  # the matrix units take no fewer; the heads of a group stand in the first rows


@triton.jit  # type: ignore[untyped-decorator]
def _parts_kernel(  # type: ignore[no-untyped-def]
    q_ptr, q_row, k_ptr, v_ptr, table_ptr, stride_ptr, length_ptr, out_ptr, top_ptr, sum_ptr, scale,
    page: tl.constexpr, heads: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr, splits: tl.constexpr,
    keys_at_once: tl.constexpr, queries: tl.constexpr,
):  # fmt: skip
    """Softmax and sum over one part of one row's keys, for the heads that share a key head. Float32 stays float32."""
    row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group: tl.constexpr = heads // kv_heads
    length = tl.load(length_ptr + row)
    table = table_ptr + row * tl.load(stride_ptr)
    part = tl.cdiv(tl.cdiv(length, splits), keys_at_once) * keys_at_once
    begin, end = split * part, tl.minimum(length, (split + 1) * part)

    query, width = tl.arange(0, queries), tl.arange(0, dim)
    own = query < group
    head = row * heads + kv_head * group + query
    q_at = row * q_row + (kv_head * group + query[:, None]) * dim + width[None, :]
    q = tl.load(q_ptr + q_at, mask=own[:, None], other=0.0)
    top = tl.full((queries,), -1e30, tl.float32)
    total = tl.zeros((queries,), tl.float32)
    out = tl.zeros((queries, dim), tl.float32)
    for first in range(begin, end, keys_at_once):
        key = first + tl.arange(0, keys_at_once)
        seen = key < end
        slot = tl.load(table + key // page, mask=seen, other=0).to(tl.int64) * page + key % page
        at = (slot[:, None] * kv_heads + kv_head) * dim + width[None, :]
        k = tl.load(k_ptr + at, mask=seen[:, None], other=0.0)
        score = tl.where(seen[None, :], tl.dot(q, tl.trans(k), input_precision="ieee") * scale, -1e30)
        higher = tl.maximum(top, tl.max(score, 1))
        fade, weight = tl.exp(top - higher), tl.where(seen[None, :], tl.exp(score - higher[:, None]), 0.0)
        v = tl.load(v_ptr + at, mask=seen[:, None], other=0.0)
        out = out * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        total = total * fade + tl.sum(weight, 1)
        top = higher
    place = head * splits + split
    tl.store(top_ptr + place, top, mask=own)
    tl.store(sum_ptr + place, total, mask=own)
    tl.store(out_ptr + place[:, None] * dim + width[None, :], out, mask=own[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def _whole_kernel(  # type: ignore[no-untyped-def]
    out_ptr, top_ptr, sum_ptr, whole_ptr, dim: tl.constexpr, splits: tl.constexpr, places: tl.constexpr
):  # fmt: skip
    """The parts of one head of one row."""
    head = tl.program_id(0)
    split, width = tl.arange(0, places), tl.arange(0, dim)
    there = split < splits
    top = tl.load(top_ptr + head * splits + split, mask=there, other=-1e30)
    total = tl.load(sum_ptr + head * splits + split, mask=there, other=0.0)
    share = tl.exp(top - tl.max(top, 0))
    parts = tl.load(out_ptr + (head * splits + split)[:, None] * dim + width[None, :], mask=there[:, None], other=0.0)
    whole = tl.sum(parts * share[:, None], 0) / tl.sum(total * share, 0)
    tl.store(whole_ptr + head * dim + width, whole.to(whole_ptr.dtype.element_ty))


def attend(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, stride: Tensor, lengths: Tensor, splits: int
) -> Tensor:
    """q: [B, H, hd], each row contiguous. keys, values: [pages, page, Hkv, hd], contiguous, of q's dtype.

    table: int32, flat: the pages of row b from b * stride on. stride: int32 [1]. lengths: int32 [B], >= 1. All on one GPU.
    Returns [B, H, hd]. hd must be a power of two, >= 16.
    """
    rows, heads, dim = q.shape
    _, page, kv_heads, _ = keys.shape
    out = empty(rows, heads, splits, dim, device=q.device, dtype=float32)
    top, total = (empty(rows, heads, splits, device=q.device, dtype=float32) for _ in range(2))
    _parts_kernel[(rows, kv_heads, splits)](
        q, q.stride(0), keys, values, table, stride, lengths, out, top, total, dim**-0.5,
        page, heads, kv_heads, dim, splits, _KEYS, _QUERIES,
    )  # fmt: skip
    whole = empty(rows, heads, dim, device=q.device, dtype=q.dtype)
    _whole_kernel[(rows * heads,)](out, top, total, whole, dim, splits, triton.next_power_of_2(splits))
    return whole
