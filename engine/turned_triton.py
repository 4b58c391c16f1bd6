"""What stands between the two products of a block's attention, on a GPU: norms of heads, rotation, new keys and values, and attending.

Knows three kernels: one that turns and writes and leaves attending to `engine.paged_triton`; one that does all of it for a step of the slow
stack whose rows are apart; and one for the few positions of the fast stack. Does not know layers, sequences or who owns a page. Roundings
are those of the plain path (`engine.fused`): a normed head is rounded, then rotated in float32 and rounded again. Needs Triton; import it
only where there is a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, empty

from engine import products_triton
from engine.paged_triton import (
    KEYS,
    QUERIES,
    WARPS,
    attend,
    join,
    over_keys,
    part_of,
    parts_of,
    places_of,
    put_together,
)

_FRAME_WARPS = 4  # reckoned, not tuned yet
_MANY_ROWS = 16  # of the fast stack: from here on a group's heads share a program, which reads keys once; fewer would leave units idle


@triton.jit  # type: ignore[untyped-decorator]
def _loaded(  # type: ignore[no-untyped-def]
    row_ptr, gain_ptr, head, there, normed: tl.constexpr, dim: tl.constexpr
):  # fmt: skip
    """Some heads of a row of qkv, and their gain: [count, dim] each. head, there: [count, 1]. row_ptr: one, or [count, 1]."""
    at = head * dim + tl.arange(0, dim)[None, :]
    x = tl.load(row_ptr + at, mask=there, other=0.0)
    gain = x
    if normed:
        gain = tl.load(gain_ptr + at, mask=there, other=0.0)
    return x, gain


@triton.jit  # type: ignore[untyped-decorator]
def _wait(ahead: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where kernels begin early (`engine.products_triton.ahead`): let the next one begin, and wait for what the one before writes.

    What was there when the first such kernel of a graph began may be read before: numbers of the step, weights, turns, and pages of the
    slow stack but for the positions that are new.
    """
    if ahead:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit  # type: ignore[untyped-decorator]
def _fetch(  # type: ignore[no-untyped-def]
    cache_ptr, table, begin, past, kv_head, page: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr,
    keys_at_once: tl.constexpr,
):  # fmt: skip
    """Have a program's first keys, or values, brought nearer: those before this step, of which there are `past`."""
    line: tl.constexpr = 1024 // cache_ptr.dtype.element_ty.primitive_bitwidth  # numbers in 128 bytes
    key = tl.maximum(0, tl.minimum(begin + tl.arange(0, keys_at_once), past - 1))
    slot = tl.load(table + key // page).to(tl.int64) * page + key % page
    lines: tl.constexpr = (dim + line - 1) // line
    at = cache_ptr + (slot[:, None] * kv_heads + kv_head) * dim + (tl.arange(0, lines) * line)[None, :]
    fetch: tl.constexpr = "prefetch.global.L2 [$1]; mov.u32 $0, 0;"
    tl.inline_asm_elementwise(fetch, "=r,l", [at], tl.int32, is_pure=False, pack=1)


@triton.jit  # type: ignore[untyped-decorator]
def _turn_of(turn_ptr, dim: tl.constexpr):  # type: ignore[no-untyped-def]
    """One position's cos and sin, float32 [1, dim] each."""
    width = tl.arange(0, dim)[None, :]
    return tl.load(turn_ptr + width).to(tl.float32), tl.load(turn_ptr + dim + width).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _turned(  # type: ignore[no-untyped-def]
    x, gain, cos, sin, eps, normed: tl.constexpr, count: tl.constexpr, dim: tl.constexpr
):  # fmt: skip
    """x, [count, dim], normed and rotated, rounded twice. gain: float32 [count, dim]. cos, sin: float32, [count, dim] or [1, dim]."""
    wide = x.to(tl.float32)
    if normed:
        size = 1 / tl.sqrt(tl.sum(wide * wide, 1) / dim + eps)
        wide = (wide * size[:, None] * gain).to(x.dtype).to(tl.float32)
    even, odd = tl.split(tl.reshape(wide, (count, dim // 2, 2)))
    swapped = tl.reshape(tl.join(odd, even), (count, dim))
    return (wide * cos + swapped * sin).to(x.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def _turn_kernel(  # type: ignore[no-untyped-def]
    qkv_ptr, qkv_row, turn_ptr, turn_row, gain_ptr, q_ptr, k_ptr, v_ptr, slot_ptr, slot_step, eps,
    heads: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr, normed: tl.constexpr, grouped: tl.constexpr,
    ahead: tl.constexpr,
):  # fmt: skip
    """One row's heads that share a key head, that head and its values. grouped: a power of two that holds the former."""
    row, kv_head = tl.program_id(0), tl.program_id(1)
    group: tl.constexpr = heads // kv_heads
    qkv, width = qkv_ptr + row * qkv_row, tl.arange(0, dim)[None, :]
    query, only = tl.arange(0, grouped)[:, None], tl.zeros((1, 1), tl.int32)
    head, own = kv_head * group + query, query < group
    cos, sin = _turn_of(turn_ptr + row * turn_row, dim)
    slot = tl.load(slot_ptr + row * slot_step).to(tl.int64)
    _wait(ahead)
    q, q_gain = _loaded(qkv, gain_ptr, head, own, normed, dim)
    k, k_gain = _loaded(qkv, gain_ptr, heads + kv_head + only, only == 0, normed, dim)
    v = tl.load(qkv + (heads + kv_heads + kv_head) * dim + width)
    into = (slot * kv_heads + kv_head) * dim + width
    tl.store(
        q_ptr + (row * heads + head) * dim + width, _turned(q, q_gain, cos, sin, eps, normed, grouped, dim), mask=own
    )
    tl.store(k_ptr + into, _turned(k, k_gain, cos, sin, eps, normed, 1, dim))
    tl.store(v_ptr + into, v)


@triton.jit  # type: ignore[untyped-decorator]
def _begun(  # type: ignore[no-untyped-def]
    q, k, v, scale, with_new, queries: tl.constexpr, dim: tl.constexpr
):  # fmt: skip
    """Top, total and sum of a softmax over the row's own new key where `with_new`, else over none. q: [queries, dim]. k, v: [1, dim]."""
    top = tl.where(with_new, tl.sum(q.to(tl.float32) * k.to(tl.float32), 1) * scale, -1e30)
    total = tl.where(with_new, 1.0, tl.zeros((queries,), tl.float32))
    return top, total, tl.where(with_new, v.to(tl.float32), tl.zeros((queries, dim), tl.float32))


@triton.jit(do_not_specialize=["splits"])  # type: ignore[untyped-decorator]
def _apart_kernel(  # type: ignore[no-untyped-def]
    qkv_ptr, qkv_row, turn_ptr, turn_row, gain_ptr, k_ptr, v_ptr, slot_ptr, slot_step, table_ptr, stride_ptr, length_ptr,
    length_step, out_ptr, top_ptr, sum_ptr, arrived_ptr, whole_ptr, eps, scale, splits,
    page: tl.constexpr, heads: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr, normed: tl.constexpr,
    is_split: tl.constexpr, keys_at_once: tl.constexpr, queries: tl.constexpr, arrives: tl.constexpr,
    places: tl.constexpr, grouped: tl.constexpr, ahead: tl.constexpr,
):  # fmt: skip
    """One part of one row's keys, for the heads that share a key head. The last part has the row's own new key, which is in no page yet.

    arrives: parts are counted, and the program that ends last puts them together. places, grouped: powers of two that hold parts and heads.
    """
    row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group: tl.constexpr = heads // kv_heads
    query, width, only = tl.arange(0, queries), tl.arange(0, dim), tl.zeros((1, 1), tl.int32)
    own, first, qkv = query < group, row * heads + kv_head * group, qkv_ptr + row * qkv_row
    # All that waits for nothing, before anything waits.
    past = tl.load(length_ptr + row * length_step).to(tl.int32) - 1
    slot, table = tl.load(slot_ptr + row * slot_step).to(tl.int64), table_ptr + row * tl.load(stride_ptr)
    cos, sin = _turn_of(turn_ptr + row * turn_row, dim)
    part = part_of(past, splits, keys_at_once)
    if ahead:
        tl.extra.cuda.gdc_launch_dependents()
        _fetch(k_ptr, table, split * part, past, kv_head, page, kv_heads, dim, keys_at_once)
        _fetch(v_ptr, table, split * part, past, kv_head, page, kv_heads, dim, keys_at_once)
    _wait(ahead)
    q, q_gain = _loaded(qkv, gain_ptr, kv_head * group + query[:, None], own[:, None], normed, dim)
    k, k_gain = _loaded(qkv, gain_ptr, heads + kv_head + only, only == 0, normed, dim)
    v = tl.load(qkv + (heads + kv_heads + kv_head) * dim + width[None, :])
    used = tl.maximum(1, tl.cdiv(past, tl.maximum(1, part)))
    if arrives:  # noqa: SIM102 - the compiler decides this, the GPU the other
        if split >= used:
            return
    q = _turned(q, q_gain, cos, sin, eps, normed, queries, dim)
    k = _turned(k, k_gain, cos, sin, eps, normed, 1, dim)
    last, into = split == used - 1, (slot * kv_heads + kv_head) * dim + width[None, :]
    tl.store(k_ptr + into, k, mask=last & (only == 0))
    tl.store(v_ptr + into, v, mask=last & (only == 0))
    top, total, out = _begun(q, k, v, scale, last, queries, dim)
    begin, end = split * part, tl.minimum(past, (split + 1) * part)
    top, total, out = over_keys(
        q, top, total, out, tl.where(own, end, 0), begin, end, table, k_ptr, v_ptr, kv_head, scale, page, kv_heads, dim,
        keys_at_once,
    )  # fmt: skip
    place = (first + query) * splits + split
    at = place[:, None] * dim + width[None, :]
    if is_split:
        tl.store(top_ptr + place, top, mask=own)
        tl.store(sum_ptr + place, total, mask=own)
        tl.store(out_ptr + at, out, mask=own[:, None])
        if arrives:
            tl.debug_barrier()  # all threads have written before one of them says so
            counter = arrived_ptr + row * kv_heads + kv_head
            if tl.atomic_add(counter, 1, sem="acq_rel") == used - 1:
                tl.store(counter, 0)  # for the next launch
                put_together(out_ptr, top_ptr, sum_ptr, whole_ptr, first, used, splits, group, dim, places, grouped)
    else:
        tl.store(whole_ptr + at, (out / total[:, None]).to(whole_ptr.dtype.element_ty), mask=own[:, None])


@triton.jit(do_not_specialize=["start"])  # type: ignore[untyped-decorator]
def _frame_kernel(  # type: ignore[no-untyped-def]
    qkv_ptr, qkv_row, turn_ptr, turn_row, gain_ptr, k_ptr, v_ptr, out_ptr, eps, scale, start,
    new: tl.constexpr, heads: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr, positions: tl.constexpr,
    normed: tl.constexpr, places: tl.constexpr, share: tl.constexpr, ahead: tl.constexpr,
):  # fmt: skip
    """`share` heads of one row at positions start..start+new-1, all with one key head. places: a power of two that holds all positions."""
    row, first = tl.program_id(0), tl.program_id(1) * share
    group: tl.constexpr = heads // kv_heads
    kv_head = first // group
    place, width = tl.arange(0, places)[:, None], tl.arange(0, dim)[None, :]
    past, fresh = place < start, (place >= start) & (place < start + new)
    step, only = row * new + place - start, tl.zeros((1, 1), tl.int32)  # step: the row of qkv that a fresh place has
    at = ((row * kv_heads + kv_head) * positions + place) * dim + width
    cos = tl.load(turn_ptr + step * turn_row + width, mask=fresh, other=0.0).to(tl.float32)
    sin = tl.load(turn_ptr + step * turn_row + dim + width, mask=fresh, other=0.0).to(tl.float32)
    _wait(ahead)
    past_k, past_v = tl.load(k_ptr + at, mask=past, other=0.0), tl.load(v_ptr + at, mask=past, other=0.0)
    k, k_gain = _loaded(qkv_ptr + step * qkv_row, gain_ptr, heads + kv_head + 0 * place, fresh, normed, dim)
    v = tl.load(qkv_ptr + step * qkv_row + (heads + kv_heads + kv_head) * dim + width, mask=fresh, other=0.0)
    k = _turned(k, k_gain, cos, sin, eps, normed, places, dim)
    writes = fresh & (first % group == 0)
    tl.store(k_ptr + at, k, mask=writes)
    tl.store(v_ptr + at, v, mask=writes)
    k, v = tl.where(past, past_k, k).to(tl.float32), tl.where(past, past_v, v).to(tl.float32)
    for t in tl.static_range(new):
        qkv = qkv_ptr + (row * new + t) * qkv_row
        cos, sin = _turn_of(turn_ptr + (row * new + t) * turn_row, dim)
        for i in tl.static_range(share):
            q, q_gain = _loaded(qkv, gain_ptr, first + i + only, only == 0, normed, dim)
            q = _turned(q, q_gain, cos, sin, eps, normed, 1, dim).to(tl.float32)
            score = tl.where(place <= start + t, tl.sum(k * q, 1)[:, None] * scale, -1e30)  # [places, 1]
            weight = tl.exp(score - tl.max(score, 0)[None, :])
            heard = tl.sum(v * weight, 0) / tl.sum(weight, 0)
            into = ((row * new + t) * heads + first + i) * dim + tl.arange(0, dim)
            tl.store(out_ptr + into, heard.to(out_ptr.dtype.element_ty))


def attend_pages(
    qkv: Tensor,
    turn: Tensor,
    gain: Tensor | None,
    eps: float,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    table: Tensor,
    stride: Tensor,
    lengths: Tensor,
    splits: int,
    apart: bool = False,
    arrived: Tensor | None = None,
    shared: Tensor | None = None,
) -> Tensor:
    """Turns a step's heads, writes its keys and values into a layer's pages, and attends. Returns [R, H * hd].

    qkv: [R, (H + 2 Hkv) hd], each row contiguous. turn: rows of a `rope_table`, [R, 2, hd], each contiguous, rows at any stride. gain:
    float32 [H + Hkv, hd], None without norms of heads. keys, values, table, stride, lengths, shared: as for `attend`; a row's own new
    position counts in its length. slots: integers [R], of any stride: where in the pages, counted in positions, a row is written.
    apart: no row sees what another one writes in this step, so one kernel does all of it, and `shared` does not count. Two rows may
    write to one slot that is nobody's. arrived: int32 [>= R * Hkv], zeros, and left so; launches that may overlap need their own. With it
    that kernel puts parts together too; without, a second one does.
    """
    rows, dim = len(qkv), turn.shape[2]
    _, page, kv_heads, _ = keys.shape
    heads = qkv.shape[1] // dim - 2 * kv_heads
    grouped, turned = triton.next_power_of_2(heads // kv_heads), turn if gain is None else gain
    given = qkv, qkv.stride(0), turn, turn.stride(0), turned
    ahead = products_triton.ahead > 0
    whole = empty(rows, heads, dim, device=qkv.device, dtype=qkv.dtype)
    if not apart:
        _turn_kernel[(rows, kv_heads)](
            *given, whole, keys, values, slots, slots.stride(0), eps, heads, kv_heads, dim, gain is not None, grouped,
            ahead, num_warps=2, launch_pdl=ahead,
        )  # fmt: skip
        return attend(whole, keys, values, table, stride, lengths, splits, shared).flatten(1)
    out, top, total = parts_of(whole, splits)
    arrives = arrived is not None and splits > 1
    _apart_kernel[(rows, kv_heads, splits)](
        *given, keys, values, slots, slots.stride(0), table, stride, lengths, lengths.stride(0), out, top, total,
        stride if arrived is None else arrived, whole, eps, dim**-0.5, splits, page, heads, kv_heads, dim,
        gain is not None, splits > 1, KEYS, max(QUERIES, grouped), arrives, places_of(splits), grouped, ahead,
        num_warps=WARPS, launch_pdl=ahead,
    )  # fmt: skip
    if splits > 1 and not arrives:
        join(out, top, total, whole)
    return whole.flatten(1)


def attend_frame(
    qkv: Tensor, turn: Tensor, gain: Tensor | None, eps: float, keys: Tensor, values: Tensor, start: int, rows: int
) -> Tensor:
    """Turns the heads of `rows` rows at positions start, start + 1, ..., writes keys and values, and attends, each to those up to its own.

    qkv, turn, gain: as for `attend_pages`, [rows * new, ...], a row's positions one after the other. keys, values: a layer's [>= rows,
    Hkv, positions, hd], contiguous, computed below `start`. Returns [rows * new, H * hd]. hd must be a power of two.
    """
    new, dim = len(qkv) // rows, turn.shape[2]
    _, kv_heads, positions, _ = keys.shape
    heads = qkv.shape[1] // dim - 2 * kv_heads
    share = heads // kv_heads if rows >= _MANY_ROWS else 1
    out, ahead = empty(len(qkv), heads * dim, device=qkv.device, dtype=qkv.dtype), products_triton.ahead > 0
    _frame_kernel[(rows, heads // share)](
        qkv, qkv.stride(0), turn, turn.stride(0), turn if gain is None else gain, keys, values, out, eps, dim**-0.5,
        start, new, heads, kv_heads, dim, positions, gain is not None, triton.next_power_of_2(positions), share,
        ahead, num_warps=_FRAME_WARPS, launch_pdl=ahead,
    )  # fmt: skip
    return out
