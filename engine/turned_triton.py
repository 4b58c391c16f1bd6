"""What stands between the two products of a block's attention, on a GPU: norms of heads, rotation, new keys and values, and attending.

Knows three kernels: one that turns and writes and leaves attending to `engine.paged_triton`; one that does all of it for a step of the slow
stack of one row; and one for the few positions of the fast stack. Does not know layers, sequences or who owns a page. Roundings
are those of the plain path (`engine.fused`): a normed head is rounded, then rotated in float32 and rounded again. Needs Triton; import it
only where there is a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor, empty

from engine import products_triton
from engine.paged_triton import EARLY, attend, parts_of, put_together


@dataclass(frozen=True, slots=True)
class Alone:
    """How the keys of a row that is alone are shared out."""

    runs: int  # of a block of keys, and warps of a program. A power of two, as are the others
    keys: int  # of a run
    splits: int  # programs for each key head
    registers: int | None = None  # most of a thread: with few, programs find room beside those of the product before
    late: bool = False  # the product behind begins when queries are there, not before: its matrix is in the way of what is waited for here


alone = Alone(4, 16, 32)  # reckoned, not tuned yet


def frame_plan(rows: int, group: int) -> tuple[int, int]:
    """For `rows` rows in the fast stack: heads of a group that share a program, and its warps.

    A program of several heads reads keys once; while there are few rows, more programs are better. Measured on an H100 and an H200.
    """
    if rows < 64:
        return 1, 4 if rows == 1 else 2 if rows < 32 else 1
    return group, 1


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
def wait(ahead: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where kernels begin early (`engine.products_triton.ahead`): let the next one begin, and wait for what the one before writes.

    What was there when the first such kernel of a graph began may be read before: numbers of the step, weights, turns, and pages of the
    slow stack but for the positions that are new.
    """
    if ahead:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


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
    wait(ahead)
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
def _pages_of(  # type: ignore[no-untyped-def]
    table_ptr, table_size, key, page: tl.constexpr
):  # fmt: skip
    """The pages of some keys of the first row; behind the last key, any page."""
    return tl.load(table_ptr + tl.minimum(key // page, table_size - 1)).to(tl.int64)


@triton.jit  # type: ignore[untyped-decorator]
def _seen(  # type: ignore[no-untyped-def]
    k_ptr, v_ptr, pages, key, past, kv_head, page: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr
):  # fmt: skip
    """Keys and values in pages, those below `past`, else 0: [runs, keys, dim]. pages, key: [runs, keys]."""
    slot = pages * page + key % page
    at = (slot[:, :, None] * kv_heads + kv_head) * dim + tl.arange(0, dim)[None, None, :]
    there = (key < past)[:, :, None]
    return tl.load(k_ptr + at, mask=there, other=0.0), tl.load(v_ptr + at, mask=there, other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _or_new(v, new_v_ptr, fresh, dim: tl.constexpr):  # type: ignore[no-untyped-def]
    """Values, [runs, keys, dim], but where `fresh` is set those at new_v_ptr."""
    at = new_v_ptr + tl.arange(0, dim)[None, None, :] + 0 * fresh
    return tl.where(fresh, tl.load(at, mask=fresh, other=0.0), v)


@triton.jit  # type: ignore[untyped-decorator]
def _alone_kernel(  # type: ignore[no-untyped-def]
    qkv_ptr, turn_ptr, gain_ptr, k_ptr, v_ptr, slot_ptr, table_ptr, table_size, length_ptr, out_ptr, top_ptr, sum_ptr,
    arrived_ptr, whole_ptr, eps, scale,
    page: tl.constexpr, heads: tl.constexpr, kv_heads: tl.constexpr, dim: tl.constexpr, normed: tl.constexpr,
    runs: tl.constexpr, keys: tl.constexpr, splits: tl.constexpr, queries: tl.constexpr, grouped: tl.constexpr,
    ahead: tl.constexpr, late: tl.constexpr,
):  # fmt: skip
    """Each `splits`th block of one row's keys, for the heads that share a key head; the program that ends last puts all parts together.

    What takes long here is not reading but waiting for one thing to know where the next lies. So nothing is asked for twice: where a
    program's first keys lie does not depend on how many there are, and they are on their way before the queries are looked at. A block is
    `runs` runs of `keys` keys, one for each warp, which meet when all is summed up. queries: a power of two above the heads of a group;
    behind those heads stands the row's own key, which is in no page yet. grouped: a power of two that holds the heads alone.
    """
    kv_head, split = tl.program_id(0), tl.program_id(1)
    group: tl.constexpr = heads // kv_heads
    block: tl.constexpr = runs * keys
    place = tl.arange(0, runs)[:, None] * keys + tl.arange(0, keys)[None, :]
    query, width = tl.arange(0, queries)[:, None], tl.arange(0, dim)[None, :]
    head = tl.where(query < group, kv_head * group + query, heads + kv_head)  # of qkv
    # All that waits for nothing, before anything waits.
    past = tl.load(length_ptr).to(tl.int32) - 1
    key = split * block + place
    pages = _pages_of(table_ptr, table_size, key, page)
    slot = tl.load(slot_ptr).to(tl.int64)
    cos, sin = _turn_of(turn_ptr, dim)
    gain = cos
    if normed:
        gain = tl.load(gain_ptr + head * dim + width, mask=query <= group, other=0.0)
    if ahead and not late:
        tl.extra.cuda.gdc_launch_dependents()
    used = tl.minimum(splits, past // block + 1)
    if split >= used:
        return
    k, v = _seen(k_ptr, v_ptr, pages, key, past, kv_head, page, kv_heads, dim)
    if ahead:
        tl.extra.cuda.gdc_wait()
    new_v_ptr = qkv_ptr + (heads + kv_heads + kv_head) * dim
    v = _or_new(v, new_v_ptr, (key == past)[:, :, None], dim)
    x = tl.load(qkv_ptr + head * dim + width, mask=query <= group, other=0.0)
    q = _turned(x, gain, cos, sin, eps, normed, queries, dim)
    new_k = tl.sum(tl.where(query == group, q.to(tl.float32), 0.0), 0)[None, None, :].to(q.dtype)
    if split == past // block % splits:
        into = (slot * kv_heads + kv_head) * dim + width
        tl.store(k_ptr + into + 0 * query, q, mask=query == group)
        tl.store(v_ptr + into, tl.load(new_v_ptr + width))
    if ahead and late:
        tl.extra.cuda.gdc_launch_dependents()
    turned = tl.trans(tl.broadcast_to(q[None, :, :], (runs, queries, dim)), (0, 2, 1))
    top = tl.full((runs, queries), -1e30, tl.float32)
    total = tl.zeros((runs, queries), tl.float32)
    out = tl.zeros((runs, dim, queries), tl.float32)
    for begin in range(split * block, past + 1, splits * block):
        key = begin + place
        k = tl.where((key == past)[:, :, None], new_k, k)
        seen = (key <= past)[:, :, None]
        # Keys in place of rows, as the matrix units take sixteen rows, but are content with eight columns.
        score = tl.where(seen, tl.dot(k, turned, input_precision="ieee") * scale, -1e30)
        higher = tl.maximum(top, tl.max(score, 1))
        fade, weight = tl.exp(top - higher), tl.where(seen, tl.exp(score - higher[:, None, :]), 0.0)
        heard = tl.dot(tl.trans(v, (0, 2, 1)), weight.to(v.dtype), input_precision="ieee")
        out = out * fade[:, None, :] + heard
        total = total * fade + tl.sum(weight, 1)
        top = higher
        if begin + splits * block <= past:
            key += splits * block
            pages = _pages_of(table_ptr, table_size, key, page)
            k, v = _seen(k_ptr, v_ptr, pages, key, past, kv_head, page, kv_heads, dim)
            v = _or_new(v, new_v_ptr, (key == past)[:, :, None], dim)
    highest = tl.max(top, 0)
    share = tl.exp(top - highest[None, :])
    total = tl.sum(total * share, 0)
    out = tl.trans(tl.sum(out * share[:, None, :], 0))
    one = tl.arange(0, queries)
    part = (kv_head * group + one) * splits + split
    tl.store(top_ptr + part, highest, mask=one < group)
    tl.store(sum_ptr + part, total, mask=one < group)
    tl.store(out_ptr + part[:, None] * dim + width, out, mask=query < group)
    tl.debug_barrier()  # all threads have written before one of them says so
    if tl.atomic_add(arrived_ptr + kv_head, 1, sem="acq_rel") == used - 1:
        tl.store(arrived_ptr + kv_head, 0)  # for the next launch
        put_together(out_ptr, top_ptr, sum_ptr, whole_ptr, kv_head * group, used, splits, group, dim, splits, grouped)


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
    wait(ahead)
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
    arrived: Tensor | None = None,
    shared: Tensor | None = None,
) -> Tensor:
    """Turns a step's heads, writes its keys and values into a layer's pages, and attends. Returns [R, H * hd].

    qkv: [R, (H + 2 Hkv) hd], each row contiguous. turn: rows of a `rope_table`, [R, 2, hd], each contiguous, rows at any stride. gain:
    float32 [H + Hkv, hd], None without norms of heads. keys, values, table, stride, lengths, shared: as for `attend`; a row's own new
    position counts in its length. slots: integers [R], of any stride: where in the pages, counted in positions, a row is written. Two
    rows may write to one slot that is nobody's.
    arrived: for one row, int32 [>= Hkv], zeros, and left so; launches that may overlap need their own. With it one kernel does all of it,
    and `splits` is its own.
    """
    rows, dim = len(qkv), turn.shape[2]
    _, page, kv_heads, _ = keys.shape
    heads = qkv.shape[1] // dim - 2 * kv_heads
    grouped, turned = triton.next_power_of_2(heads // kv_heads), turn if gain is None else gain
    ahead = products_triton.ahead > 0
    whole = empty(rows, heads, dim, device=qkv.device, dtype=qkv.dtype)
    if arrived is None:
        _turn_kernel[(rows, kv_heads)](
            qkv, qkv.stride(0), turn, turn.stride(0), turned, whole, keys, values, slots, slots.stride(0), eps, heads,
            kv_heads, dim, gain is not None, grouped, ahead, num_warps=2, launch_pdl=ahead,
        )  # fmt: skip
        return attend(whole, keys, values, table, stride, lengths, splits, shared, ahead and EARLY).flatten(1)
    assert rows == 1, "rows that are several attend after all of them were written"
    plan = alone
    out, top, total = parts_of(whole, plan.splits)
    _alone_kernel[(kv_heads, plan.splits)](
        qkv, turn, turned, keys, values, slots, table, len(table), lengths, out, top, total, arrived, whole, eps,
        dim**-0.5, page, heads, kv_heads, dim, gain is not None, plan.runs, plan.keys, plan.splits,
        max(8, triton.next_power_of_2(heads // kv_heads + 1)), grouped, ahead, plan.late, num_warps=plan.runs,
        num_stages=1, maxnreg=plan.registers, launch_pdl=ahead,
    )  # fmt: skip
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
    share, warps = frame_plan(rows, heads // kv_heads)
    out, ahead = empty(len(qkv), heads * dim, device=qkv.device, dtype=qkv.dtype), products_triton.ahead > 0
    _frame_kernel[(rows, heads // share)](
        qkv, qkv.stride(0), turn, turn.stride(0), turn if gain is None else gain, keys, values, out, eps, dim**-0.5,
        start, new, heads, kv_heads, dim, positions, gain is not None, triton.next_power_of_2(positions), share,
        ahead, num_warps=warps, launch_pdl=ahead,
    )  # fmt: skip
    return out
