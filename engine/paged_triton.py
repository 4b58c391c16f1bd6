"""One query a row over pages of keys and values, on a GPU: each key is read once, where it lies, and nothing is copied.

Knows the two kernels. Does not know sequences or layers. Rows may have any lengths; each is split among several programs, so that one
stream alone fills the chip too, and a second kernel puts the parts together (flash decoding, arXiv 2311.01282; pages, arXiv 2309.06180).
What they are made of, `engine.turned_triton` makes more of. Needs Triton, which comes with torch for CUDA; import it only there.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, empty, float32

KEYS = 64  # looked at by one program at a time; like the warps below, reckoned and not tuned yet
WARPS = 4  # of a program; each thread then loads 16 bytes eight times for a block of keys of 128 numbers
EARLY = True  # kernels may begin before those before them have ended, where those say so
STAGES = 3  # one more than the blocks of keys that are on their way while one is looked at
TILE = 64  # queries of a program where many rows are positions of one sequence: it reads each key once for all of them
TILE_WARPS = 4
TILE_STAGES = 3
# From here on both kinds of programs are launched, and those of one kind end at once; earlier that would cost more than it saves. Of two
# bytes a number; there are not enough registers for four.
TILED_ROWS = 128
QUERIES = 16  # the matrix units take no fewer; the heads of a group stand in the first rows


@triton.jit  # type: ignore[untyped-decorator]
def part_of(length, splits, keys_at_once: tl.constexpr):  # type: ignore[no-untyped-def]
    """How many of a row's `length` keys a program takes; the last ones may find fewer, or none."""
    return tl.cdiv(tl.cdiv(length, splits), keys_at_once) * keys_at_once


@triton.jit  # type: ignore[untyped-decorator]
def over_keys(  # type: ignore[no-untyped-def]
    q, top, total, out, sees, begin, end, table, k_ptr, v_ptr, kv_head, scale,
    page: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr, keys_at_once: tl.constexpr,
):  # fmt: skip
    """Goes on with a softmax and its sum over keys begin..end-1 of one row's table. Float32 stays float32.

    q: [n, dim]. top, total, out: of what came before, float32 [n], [n] and [n, dim]; returns them anew. sees: int32 [n], below which key.
    """
    width = tl.arange(0, dim)
    for first in range(begin, end, keys_at_once):
        key = first + tl.arange(0, keys_at_once)
        there = key < end
        slot = tl.load(table + key // page, mask=there, other=0).to(tl.int64) * page + key % page
        at = (slot[:, None] * kv_heads + kv_head) * dim + width[None, :]
        k = tl.load(k_ptr + at, mask=there[:, None], other=0.0)
        v = tl.load(v_ptr + at, mask=there[:, None], other=0.0)
        seen = there[None, :] & (key[None, :] < sees[:, None])
        score = tl.where(seen, tl.dot(q, tl.trans(k), input_precision="ieee") * scale, -1e30)
        higher = tl.maximum(top, tl.max(score, 1))
        fade, weight = tl.exp(top - higher), tl.where(seen, tl.exp(score - higher[:, None]), 0.0)
        out = out * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        total = total * fade + tl.sum(weight, 1)
        top = higher
    return top, total, out


@triton.jit  # type: ignore[untyped-decorator]
def put_together(  # type: ignore[no-untyped-def]
    out_ptr, top_ptr, sum_ptr, whole_ptr, first, used, splits, count: tl.constexpr, dim: tl.constexpr,
    places: tl.constexpr, grouped: tl.constexpr,
):  # fmt: skip
    """The first `used` parts of heads first..first+count-1. places, grouped: powers of two that hold `used` and `count`."""
    head, split, width = tl.arange(0, grouped), tl.arange(0, places), tl.arange(0, dim)
    there = (split[:, None] < used) & (head[None, :] < count)
    place = (first + head[None, :]) * splits + split[:, None]  # [places, grouped]
    # Past the nearest cache: other programs of the same kernel may have just written them.
    top = tl.load(top_ptr + place, mask=there, other=-1e30, cache_modifier=".cg")
    total = tl.load(sum_ptr + place, mask=there, other=0.0, cache_modifier=".cg")
    at = place[:, :, None] * dim + width[None, None, :]
    parts = tl.load(out_ptr + at, mask=there[:, :, None], other=0.0, cache_modifier=".cg")
    share = tl.where(there, tl.exp(top - tl.max(top, 0)[None, :]), 0.0)
    total = tl.where(head < count, tl.sum(total * share, 0), 1.0)
    whole = tl.sum(parts * share[:, :, None], 0) / total[:, None]
    into = (first + head[:, None]) * dim + width[None, :]
    tl.store(whole_ptr + into, whole.to(whole_ptr.dtype.element_ty), mask=head[:, None] < count)


@triton.jit  # type: ignore[untyped-decorator]
def _fetch(  # type: ignore[no-untyped-def]
    k_ptr, v_ptr, table, begin, end, kv_head, page: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr,
    keys_at_once: tl.constexpr,
):  # fmt: skip
    """Have the first keys and values of begin..end-1 brought into the second cache. Who is writing one of them meanwhile writes there."""
    line: tl.constexpr = 1024 // k_ptr.dtype.element_ty.primitive_bitwidth  # numbers in 128 bytes
    lines: tl.constexpr = (dim + line - 1) // line
    key = tl.maximum(0, tl.minimum(begin + tl.arange(0, keys_at_once), end - 1))
    slot = tl.load(table + key // page).to(tl.int64) * page + key % page
    at = (slot[:, None] * kv_heads + kv_head) * dim + (tl.arange(0, lines) * line)[None, :]
    fetch: tl.constexpr = "prefetch.global.L2 [$1]; mov.u32 $0, 0;"
    tl.inline_asm_elementwise(fetch, "=r,l", [k_ptr + at], tl.int32, is_pure=False, pack=1)
    tl.inline_asm_elementwise(fetch, "=r,l", [v_ptr + at], tl.int32, is_pure=False, pack=1)


@triton.jit(do_not_specialize=["rows", "splits"])  # type: ignore[untyped-decorator]
def _parts_kernel(  # type: ignore[no-untyped-def]
    q_ptr, q_row, k_ptr, v_ptr, table_ptr, stride_ptr, length_ptr, length_step, shared_ptr, out_ptr, top_ptr, sum_ptr,
    whole_ptr, scale, rows, splits, page: tl.constexpr, heads: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr,
    is_split: tl.constexpr, keys_at_once: tl.constexpr, queries: tl.constexpr, shares: tl.constexpr,
    early: tl.constexpr,
):  # fmt: skip
    """Softmax and sum over one part of one row's keys, for the heads that share a key head.

    shares: "never"; "maybe": where rows are positions of one sequence, for as many rows as there is room for among the queries, other
    programs having nothing to do then; "not", "only": all programs have nothing to do where they are, or are not. With "only", each
    program has such rows of its own. early: begun before the kernel that writes queries, new keys and new values has ended.
    """
    begin_row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group: tl.constexpr = heads // kv_heads
    together = 1
    if early:
        tl.extra.cuda.gdc_launch_dependents()
    if shares != "never":
        is_one = tl.load(shared_ptr) != 0
        if shares == "maybe":
            together = tl.where(is_one, queries // group, 1)
            if begin_row % together != 0:
                return
        elif is_one != (shares == "only"):
            if early:
                tl.extra.cuda.gdc_wait()  # who waits for this kernel waits for those before it, too
            return
        if shares == "only":
            together = queries // group
            begin_row *= together
    query, width = tl.arange(0, queries), tl.arange(0, dim)
    row, head = begin_row + query // group, kv_head * group + query % group
    own = (query < group * together) & (row < rows)
    length = tl.load(length_ptr + row * length_step, mask=own, other=0).to(tl.int32)  # of each query
    longest = tl.max(length, 0)
    part = part_of(longest, splits, keys_at_once)
    begin, end = split * part, tl.minimum(longest, (split + 1) * part)
    table = table_ptr + begin_row * tl.load(stride_ptr)
    if early:
        _fetch(k_ptr, v_ptr, table, begin, end, kv_head, page, kv_heads, dim, keys_at_once)
        tl.extra.cuda.gdc_wait()
    q_at = row[:, None] * q_row + head[:, None] * dim + width[None, :]
    q = tl.load(q_ptr + q_at, mask=own[:, None], other=0.0)
    top = tl.full((queries,), -1e30, tl.float32)
    total = tl.zeros((queries,), tl.float32)
    out = tl.zeros((queries, dim), tl.float32)
    top, total, out = over_keys(
        q, top, total, out, length, begin, end, table, k_ptr, v_ptr, kv_head, scale, page, kv_heads, dim, keys_at_once
    )
    place = (row * heads + head) * splits + split
    at = place[:, None] * dim + width[None, :]
    if is_split:
        tl.store(top_ptr + place, top, mask=own)
        tl.store(sum_ptr + place, total, mask=own)
        tl.store(out_ptr + at, out, mask=own[:, None])
    else:
        whole = out / tl.where(own, total, 1.0)[:, None]
        tl.store(whole_ptr + at, whole.to(whole_ptr.dtype.element_ty), mask=own[:, None])


@triton.jit(do_not_specialize=["splits"])  # type: ignore[untyped-decorator]
def _whole_kernel(  # type: ignore[no-untyped-def]
    out_ptr, top_ptr, sum_ptr, whole_ptr, splits, dim: tl.constexpr, places: tl.constexpr, early: tl.constexpr
):  # fmt: skip
    """The parts of one head of one row."""
    if early:
        tl.extra.cuda.gdc_wait()
    put_together(out_ptr, top_ptr, sum_ptr, whole_ptr, tl.program_id(0), splits, splits, 1, dim, places, 1)


def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    stride: Tensor,
    lengths: Tensor,
    splits: int,
    shared: Tensor | None = None,
    early: bool = False,
) -> Tensor:
    """q: [B, H, hd], each row contiguous. keys, values: [pages, page, Hkv, hd], contiguous, of q's dtype.

    table: int32, flat: the pages of row b from b * stride on. stride: int32 [1]. lengths: integers [B], >= 1, any stride. All on one GPU.
    shared: int32 [1], not 0 where all rows are positions of one sequence, one after the other, but for last ones that are nobody's: then
    several of them look at each key at once. Read on the GPU, as all of them are, so a captured step may be either.
    early: kernels may begin before the one that came before has ended, which writes q, keys and values and nothing else that is given here.
    Returns [B, H, hd]. hd must be a power of two, >= 16.
    """
    rows, heads, dim = q.shape
    _, page, kv_heads, _ = keys.shape
    whole = empty(rows, heads, dim, device=q.device, dtype=q.dtype)
    out, top, total = parts_of(whole, splits)
    group = heads // kv_heads
    queries = max(QUERIES, triton.next_power_of_2(group))
    launches = [(rows, queries, WARPS, STAGES, "never" if shared is None else "maybe")]
    if shared is not None and rows >= TILED_ROWS and splits == 1 and q.element_size() == 2:
        tiles = triton.cdiv(rows, TILE // group)
        launches = [(rows, queries, WARPS, STAGES, "not"), (tiles, TILE, TILE_WARPS, TILE_STAGES, "only")]
    for programs, at_once, warps, stages, shares in launches:
        _parts_kernel[(programs, kv_heads, splits)](
            q, q.stride(0), keys, values, table, stride, lengths, lengths.stride(0),
            stride if shared is None else shared, out, top, total, whole, dim**-0.5, rows, splits, page, heads, kv_heads,
            dim, splits > 1, KEYS, at_once, shares, early, num_warps=warps, num_stages=stages,
            launch_pdl=early,
        )  # fmt: skip
    if splits > 1:
        join(out, top, total, whole, early)
    return whole


def parts_of(whole: Tensor, splits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Room for what `join` puts together: float32 [B, H, splits, hd] and twice [B, H, splits]. One split needs none: `whole` itself."""
    if splits == 1:
        return whole, whole, whole
    rows, heads, dim = whole.shape
    out = empty(rows, heads, splits, dim, device=whole.device, dtype=float32)
    top, total = (empty(rows, heads, splits, device=whole.device, dtype=float32) for _ in range(2))
    return out, top, total


def join(out: Tensor, top: Tensor, total: Tensor, whole: Tensor, early: bool) -> None:
    """Put parts together into whole, [B, H, hd]. early: begun before they are there."""
    rows, heads, splits, dim = out.shape
    _whole_kernel[(rows * heads,)](
        out, top, total, whole, splits, dim, places_of(splits), early, launch_pdl=early
    )  # fmt: skip


def places_of(splits: int) -> int:
    """A power of two that holds that many parts; one for all that are usual, so that there is code for one."""
    places: int = triton.next_power_of_2(splits)
    return max(32, places)
