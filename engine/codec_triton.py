"""Kernels of the codec's decoder frame on a GPU: a convolution without unfolding, and what lies around it, in one launch each.

Knows a causal convolution as a product of shifted windows, what may be done to a tile of it before it is written, one position's windowed
attention, and where a row's state lies. Factors of products have `kind`, mostly float16, whose 11 bits are one more than TF32 keeps; sums,
residual streams and state are float32. Does not know the order of layers (`engine.codec_kernels`). Needs Triton; import it only where
there is a GPU.

A *window* is what a convolution sees: for each row of the batch its remembered inputs (the head), then this call's, all of `kind`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 1024  # remembered inputs that one program moves
_SLOTS = 64  # of an attention's ring, at once
_LARGEST = 65504.0  # of float16
_NONE, _GELU, _GATE = 0, 1, 2


@triton.jit  # type: ignore[untyped-decorator]
def _narrowed(x, kind: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of `kind`, infinite only where x is no number; what is not a number stays so."""
    if kind == tl.float16:
        x = tl.where(x > 65504.0, 65504.0, x)
        x = tl.where(x < -65504.0, -65504.0, x)
    return x.to(kind)


@triton.jit
def _bent(u):  # type: ignore[no-untyped-def]
    """u + sin^2(u), which has period pi: a polynomial of the square of what is beyond the next multiple, 3e-7 off at most."""
    turns = tl.floor(u * 0.3183098861837907 + 0.5)
    r = tl.fma(turns, -9.676535897931977e-4, tl.fma(turns, -3.140625, u))
    r = tl.minimum(tl.maximum(r, -2.0), 2.0)  # of a huge u nothing is left to know
    square = r * r
    p = tl.fma(square, -3.5384580314712366e-06, 0.00013870092516299337)
    p = tl.fma(square, p, -0.0031707268208265305)
    p = tl.fma(square, p, 0.04444125294685364)
    p = tl.fma(square, p, -0.3333321213722229)
    p = tl.fma(square, p, 0.9999998211860657)
    return tl.fma(square, p, u)


@triton.jit  # type: ignore[untyped-decorator]
def _finish(  # type: ignore[no-untyped-def]
    v, x_ptr, out_ptr, alpha_ptr, shift_ptr, back_ptr, state_ptr, index_ptr, m, rows, cols, out_head, out_low, place,
    floats, time: tl.constexpr, outputs: tl.constexpr, adds: tl.constexpr, keeps: tl.constexpr, snaked: tl.constexpr,
    bends: tl.constexpr, backs: tl.constexpr, writes: tl.constexpr, lows: tl.constexpr, remembers: tl.constexpr,
):  # fmt: skip
    """What becomes of a tile: a residual stream and a window, with what is remembered of it."""
    there = (m < rows)[:, None]
    at = m[:, None] * outputs + cols[None, :]
    if adds:
        v += tl.load(x_ptr + at, there, other=0.0)
    if keeps:
        tl.store(x_ptr + at, v, there)
    if snaked:
        v = v * tl.load(alpha_ptr + cols)[None, :] + tl.load(shift_ptr + cols)[None, :]
    if bends:
        v = _bent(v)
    row = m // time
    if remembers:
        behind = (m - row * time)[:, None] * outputs + cols[None, :] - (time * outputs - out_head)
        owner = tl.load(index_ptr + row, m < rows, other=0)
        tl.store(state_ptr + owner[:, None] * floats + place + behind, v, there & (behind >= 0))
    if backs:
        v = v * tl.load(back_ptr + cols)[None, :]
    if writes:
        high = _narrowed(v, out_ptr.dtype.element_ty)
        place_of = (row + 1)[:, None] * out_head + at
        tl.store(out_ptr + place_of, high, there)
        if lows:
            low = _narrowed(v - high.to(tl.float32), out_ptr.dtype.element_ty)
            tl.store(out_ptr + out_low + place_of, low, there)


@triton.jit
def _thrice(a, low, line, below, acc):  # type: ignore[no-untyped-def]
    """acc and the product of what has a first and a second half with what has, but for that of the second ones."""
    w = tl.load(line)
    acc = tl.dot(a, w, acc)
    acc = tl.dot(a, tl.load(below), acc)
    return tl.dot(low, w, acc)


@triton.jit(do_not_specialize=["rows", "dilation"])  # type: ignore[untyped-decorator]
def _product_kernel(  # type: ignore[no-untyped-def]
    a_ptr, w_ptr, scale_ptr, bias_ptr, x_ptr, out_ptr, alpha_ptr, shift_ptr, back_ptr, state_ptr, index_ptr,
    rows, dilation, floor, a_head, a_low, out_head, out_low, place, floats,
    channels: tl.constexpr, taps: tl.constexpr, columns: tl.constexpr, time: tl.constexpr,
    normed: tl.constexpr, biased: tl.constexpr, act: tl.constexpr, adds: tl.constexpr, keeps: tl.constexpr,
    snaked: tl.constexpr, bends: tl.constexpr, backs: tl.constexpr, writes: tl.constexpr, lows: tl.constexpr,
    remembers: tl.constexpr, precise: tl.constexpr, joined: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, parts: tl.constexpr, block_k: tl.constexpr, down: tl.constexpr,
):  # fmt: skip
    """A tile of windows [B, a_head + time * channels] times [taps * channels, columns].

    A tile has `parts` lots of block_n columns: side by side, or of the gate and of what it lets through. precise: windows and matrix have a
    second half (from a_low on, and below the first) with what `kind` cuts off of the first: twice its bits, for three products. joined: of
    each part at once, not one after the other.
    """
    gated: tl.constexpr = act == 2
    outputs: tl.constexpr = columns // 2 if gated else columns
    width: tl.constexpr = block_n if gated else block_n * parts
    apart: tl.constexpr = outputs if gated else block_n
    program = tl.program_id(0)
    across: tl.constexpr = outputs // width
    if down:  # programs beside each other read the same columns of the matrix
        tall = tl.cdiv(rows, block_m)
        first = program // tall * width
        top = program % tall * block_m
    else:  # or the same windows
        first = program % across * width
        top = program // across * block_m
    m = top + tl.arange(0, block_m)
    safe = tl.minimum(m, rows - 1)
    k, n = tl.arange(0, block_k), first + tl.arange(0, block_n)
    a_at = a_ptr + (safe * channels + safe // time * a_head)[:, None] + k[None, :]
    w_at = w_ptr + k[:, None] * columns + n[None, :]
    acc0 = tl.zeros((block_m, block_n), tl.float32)
    if parts > 1:
        acc1 = tl.zeros((block_m, block_n), tl.float32)
    if parts > 2:
        acc2 = tl.zeros((block_m, block_n), tl.float32)
    squares = tl.zeros((block_m,), tl.float32)
    steps: tl.constexpr = channels // block_k
    once: tl.constexpr = taps * steps
    turns: tl.constexpr = 3 * once if precise and not joined else once
    for turn in range(turns):
        i, at, line = turn, a_at, w_at + turn * (block_k * columns)
        if turns > once:  # high and high, high and low, low and high
            lot = turn // once
            i = turn - lot * once
            at = a_at + (lot // 2) * a_low
            line = w_at + (i + (lot % 2) * once) * (block_k * columns)
        if taps > 1:
            tap = i // steps
            at += tap * dilation * channels + (i - tap * steps) * block_k
        else:
            at += i * block_k
        a = tl.load(at)
        if joined:
            below = line + once * (block_k * columns)
            low = tl.load(at + a_low)
            acc0 = _thrice(a, low, line, below, acc0)
            if parts > 1:
                acc1 = _thrice(a, low, line + apart, below + apart, acc1)
            if parts > 2:
                acc2 = _thrice(a, low, line + 2 * apart, below + 2 * apart, acc2)
        else:
            acc0 = tl.dot(a, tl.load(line), acc0)
            if parts > 1:
                acc1 = tl.dot(a, tl.load(line + apart), acc1)
            if parts > 2:
                acc2 = tl.dot(a, tl.load(line + 2 * apart), acc2)
        if normed:
            wide = a.to(tl.float32)
            if turns > once:
                wide = tl.where(turn < once, wide, 0.0)
            squares += tl.sum(wide * wide, 1)
    if normed:
        norm = (1.0 / tl.sqrt(squares + floor))[:, None]
        acc0 *= norm
        if parts > 1:
            acc1 *= norm
        if parts > 2:
            acc2 *= norm
    for part in tl.static_range(1 if gated else parts):
        cols = n + part * block_n
        v = acc0
        if part == 1:
            v = acc1
        if part == 2:
            v = acc2
        v *= tl.load(scale_ptr + cols)[None, :]
        if biased:
            v += tl.load(bias_ptr + cols)[None, :]
        if act == 1:
            v = v + v * tl.erf(v)
        if gated:
            v = v / (1.0 + tl.exp(-v)) * (acc1 * tl.load(scale_ptr + cols + apart)[None, :])
        _finish(
            v, x_ptr, out_ptr, alpha_ptr, shift_ptr, back_ptr, state_ptr, index_ptr, m, rows, cols, out_head,
            out_low, place, floats, time, outputs, adds, keeps, snaked, bends, backs, writes, lows, remembers,
        )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _begin_kernel(  # type: ignore[no-untyped-def]
    table_ptr, back_ptr, state_ptr, index_ptr, window_ptr, batch, low, floats, chunk: tl.constexpr
):
    """The head of every window. Of what is remembered, what stays although it grows older moves up."""
    number, b = tl.program_id(0), tl.program_id(1)
    entry = table_ptr + number * 8
    place, base, stride = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    at, count, fresh, size = tl.load(entry + 3), tl.load(entry + 4), tl.load(entry + 5), tl.load(entry + 6)
    e = tl.arange(0, chunk)
    there = e < count
    mine = state_ptr + tl.load(index_ptr + b) * floats + place + e
    v = tl.load(mine, there, other=0.0)
    stays = there & (at + e + fresh < size)
    later = tl.load(mine + fresh, stays, other=0.0)
    v *= tl.load(back_ptr + number * chunk + e)
    head = window_ptr + base * batch + b * stride + at + e
    high = _narrowed(v, window_ptr.dtype.element_ty)
    tl.store(head, high, there)
    halved = there & (tl.load(entry + 7) != 0)  # its second half is wanted, too
    tl.store(head + low, _narrowed(v - high.to(tl.float32), window_ptr.dtype.element_ty), halved)
    tl.store(mine, later, stays)


@triton.jit  # type: ignore[untyped-decorator]
def _turn_kernel(  # type: ignore[no-untyped-def]
    frames_ptr, index_ptr, frequency_ptr, start_ptr, turn_ptr, count: tl.constexpr, half: tl.constexpr
):
    """Each row's position, the one after `count` of them, and the rotations of a head there: as `engine.codec.Rope.turned`."""
    b = tl.program_id(0)
    frames = frames_ptr + tl.load(index_ptr + b)
    start = tl.load(frames)
    tl.store(start_ptr + b, start)
    i = tl.arange(0, half)
    for t in range(count):
        angle = ((start + t).to(tl.float32) * tl.load(frequency_ptr + i)).to(tl.float64)
        for part in tl.static_range(2):
            value = (tl.sin(angle) if part else tl.cos(angle)).to(tl.float32)
            bits = value.to(tl.int32, bitcast=True)
            bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000  # bfloat16, to the nearest, of ties to the even one
            tl.store(turn_ptr + (2 * (b * count + t) + part) * half + i, bits.to(tl.float32, bitcast=True))
    tl.store(frames, start + count)


@triton.jit  # type: ignore[untyped-decorator]
def _embed_kernel(  # type: ignore[no-untyped-def]
    codes_ptr, table_ptr, first_ptr, last_ptr, x_ptr, narrow_ptr, count: tl.constexpr, codebooks: tl.constexpr,
    dim: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The sum of what the stages add, of one of `count` frames."""
    m = tl.program_id(0)
    d = tl.program_id(1) * block + tl.arange(0, block)
    codes = codes_ptr + m // count * codebooks * count + m % count
    x = tl.zeros((block,), tl.float32)
    for i in tl.static_range(codebooks):
        code = tl.load(codes + i * count)
        code = tl.minimum(tl.maximum(code, 0), tl.load(last_ptr + i)) + tl.load(first_ptr + i)
        x += tl.load(table_ptr + code * dim + d)
    tl.store(x_ptr + m * dim + d, x)
    tl.store(narrow_ptr + m * dim + d, _narrowed(x, narrow_ptr.dtype.element_ty))


@triton.jit  # type: ignore[untyped-decorator]
def _attend_kernel(  # type: ignore[no-untyped-def]
    qkv_ptr, turn_ptr, past_ptr, index_ptr, start_ptr, out_ptr, scale, ring: tl.constexpr, window: tl.constexpr,
    count: tl.constexpr, heads: tl.constexpr, dim: tl.constexpr, slots: tl.constexpr,
):  # fmt: skip
    """One head of one of a row's next `count` positions over its last `window` ones, itself among them; it is written to the ring.

    The others of the call are read where they come from, as they may be written to the ring later. What they overwrite there nobody sees.
    """
    m, h = tl.program_id(0) // heads, tl.program_id(0) % heads
    b, t = m // count, m % count
    start = tl.load(start_ptr + b)
    past = past_ptr + (tl.load(index_ptr + b) * ring * 2 * heads + h) * dim
    i, d, g = tl.arange(0, dim // 2), tl.arange(0, dim), tl.arange(0, count)
    turn = turn_ptr + b * count * dim
    cos, sin = tl.load(turn + t * dim + i), tl.load(turn + t * dim + dim // 2 + i)
    mine = qkv_ptr + (m * 3 * heads + h) * dim
    even, odd = tl.load(mine + 2 * i), tl.load(mine + 2 * i + 1)
    before, behind = (even * cos - odd * sin) * scale, (even * sin + odd * cos) * scale
    query = tl.interleave(before, behind)
    own = (start + t) % ring
    even, odd = tl.load(mine + heads * dim + 2 * i), tl.load(mine + heads * dim + 2 * i + 1)
    tl.store(past + own * 2 * heads * dim + d, tl.interleave(even * cos - odd * sin, even * sin + odd * cos))
    tl.store(past + (own * 2 + 1) * heads * dim + d, tl.load(mine + 2 * heads * dim + d))
    new = qkv_ptr + (b * count * 3 * heads + heads + h) * dim + (g * (3 * heads * dim))[:, None]
    at = turn + (g * dim)[:, None] + i[None, :]
    cos, sin = tl.load(at), tl.load(at + dim // 2)
    even, odd = tl.load(new + 2 * i[None, :]), tl.load(new + 2 * i[None, :] + 1)
    score = tl.sum((even * cos - odd * sin) * before[None, :] + (even * sin + odd * cos) * behind[None, :], 1)
    score = tl.where((g <= t) & (t - g < window), score, float("-inf"))
    top = tl.max(score, 0)
    weight = tl.exp(score - top)
    total = tl.sum(weight, 0)
    heard = tl.sum(weight[:, None] * tl.load(new + heads * dim + d[None, :]), 0)
    for first in range(0, ring, slots):
        slot = first + tl.arange(0, slots)
        age = (own - slot + ring) % ring
        seen = (slot < ring) & (age > t) & (age < window) & (age <= start + t)
        held = past + (slot * (2 * heads * dim))[:, None] + d[None, :]
        keys = tl.load(held, seen[:, None], other=0.0)
        values = tl.load(held + heads * dim, seen[:, None], other=0.0)
        scores = tl.where(seen, tl.sum(keys * query[None, :], 1), float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 0))
        weights, less = tl.exp(scores - higher), tl.exp(top - higher)
        total = total * less + tl.sum(weights, 0)
        heard = heard * less + tl.sum(weights[:, None] * values, 0)
        top = higher
    tl.store(out_ptr + (m * heads + h) * dim + d, _narrowed(heard / total, out_ptr.dtype.element_ty))


@triton.jit  # type: ignore[untyped-decorator]
def _depthwise_kernel(  # type: ignore[no-untyped-def]
    x_ptr, taps_ptr, bias_ptr, state_ptr, index_ptr, out_ptr, eps, low, place, floats, time: tl.constexpr,
    each: tl.constexpr, channels: tl.constexpr, taps: tl.constexpr, block: tl.constexpr, lows: tl.constexpr,
):  # fmt: skip
    """`each` positions of a row: a convolution of each channel for itself, and a layer norm without gain and bias.

    What is remembered only the first positions see, so whoever has those may overwrite it.
    """
    b, begin = tl.program_id(0), tl.program_id(1) * each
    c = tl.arange(0, block)
    there = c < channels
    x = x_ptr + b * time * channels + c
    state = state_ptr + tl.load(index_ptr + b) * floats + place + c
    for i in tl.static_range(each):
        t = begin + i
        y = tl.load(bias_ptr + c, there, other=0.0)
        for j in tl.static_range(taps):
            here = there & (t + j >= taps - 1)
            v = tl.load(x + (t + j - taps + 1) * channels, here, other=0.0)
            if i + j < taps - 1:
                v += tl.load(state + (t + j) * channels, there & (begin == 0), other=0.0)
            y += v * tl.load(taps_ptr + j * channels + c, there, other=0.0)
        y = tl.where(there, y - tl.sum(y, 0) / channels, 0.0)
        y = y / tl.sqrt(tl.sum(y * y, 0) / channels + eps)
        high = _narrowed(y, out_ptr.dtype.element_ty)
        tl.store(out_ptr + (b * time + t) * channels + c, high, there)
        if lows:
            second = _narrowed(y - high.to(tl.float32), out_ptr.dtype.element_ty)
            tl.store(out_ptr + low + (b * time + t) * channels + c, second, there)
    tl.debug_barrier()
    there = there & (begin == 0)
    for j in tl.static_range(taps - 1):  # upwards: what is read lies above all that was written
        seen = state + (time + j) * channels if time + j < taps - 1 else x + (time + j - taps + 1) * channels
        tl.store(state + j * channels, tl.load(seen, there, other=0.0), there)


@triton.jit  # type: ignore[untyped-decorator]
def _wave_kernel(  # type: ignore[no-untyped-def]
    a_ptr, w_ptr, out_ptr, bias, rows, head, low, time: tl.constexpr, channels: tl.constexpr, taps: tl.constexpr,
    block_m: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """Samples of windows: one output, between -1 and 1."""
    m = tl.program_id(0) * block_m + tl.arange(0, block_m)
    safe = tl.minimum(m, rows - 1)
    k = tl.arange(0, block_k)
    at = a_ptr + (safe * channels + safe // time * head)[:, None] + k[None, :]
    acc = tl.zeros((block_m, block_k), tl.float32)
    for i in range(taps * channels // block_k):  # the taps of a position lie side by side
        a = tl.load(at + i * block_k).to(tl.float32) + tl.load(at + low + i * block_k).to(tl.float32)
        acc += a * tl.load(w_ptr + i * block_k + k)[None, :]
    y = tl.sum(acc, 1) + bias
    tl.store(out_ptr + m, 1.0 - 2.0 / (tl.exp(2.0 * y) + 1.0), m < rows)


def turned(frames: Tensor, rows: Tensor, frequency: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Frames so far of `rows` int64 [B], then counted `count` more, and rotations float32 [B, count, 2, half]."""
    start = torch.empty_like(rows)
    turn = frequency.new_empty(len(rows), count, 2, len(frequency))
    _turn_kernel[(len(rows),)](frames, rows, frequency, start, turn, count, len(frequency), num_warps=1)
    return start, turn


def begin(table: Tensor, backs: Tensor, state: Tensor, rows: Tensor, windows: Tensor, low: int) -> None:
    """Fill the heads of all windows; second halves lie `low` numbers behind the first."""
    grid = (len(table), len(rows))
    _begin_kernel[grid](table, backs, state, rows, windows, len(rows), low, state.shape[1], CHUNK, num_warps=4)


def embedded(codes: Tensor, table: Tensor, first: Tensor, last: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """codes int64 [B, K, T], contiguous -> float32 [B * T, dim], and of `kind` [2, B * T, dim], the first half filled.

    first, last: int64 [K], of each codebook the first row in the table, and the last index.
    """
    batch, codebooks, count = codes.shape
    dim = table.shape[1]
    x = table.new_empty(batch * count, dim)
    narrow = torch.empty(2, *x.shape, dtype=kind, device=x.device)
    block = min(256, dim & -dim)
    grid = (len(x), dim // block)
    _embed_kernel[grid](codes, table, first, last, x, narrow, count, codebooks, dim, block, num_warps=2)
    return x, narrow


def attend(qkv: Tensor, turn: Tensor, past: Tensor, rows: Tensor, start: Tensor, heard: Tensor, window: int) -> None:
    """qkv float32 [B * T, 3 * heads * dim]; turn as `turned` gives it; past float32 [rows, ring, 2, heads, dim]; heard [B * T, ..].

    T is a power of two, and no more than the ring has beyond window - 1.
    """
    _, ring, _, heads, dim = past.shape
    _attend_kernel[(len(qkv) * heads,)](
        qkv, turn, past, rows, start, heard, dim**-0.5, ring, window, turn.shape[1], heads, dim, _SLOTS, num_warps=4
    )


def depthwise(
    x: Tensor, taps: Tensor, bias: Tensor, eps: float, state: Tensor, rows: Tensor, place: int, time: int, out: Tensor
) -> None:
    """x float32 [B * time, channels] -> out [1 or 2 halves, B * time, channels].

    taps: float32 [taps, channels]. place: of what is remembered in a row of the state.
    """
    count, channels = taps.shape
    # As few positions a program as may be: but the first one has all that see what is remembered.
    each = next((each for each in range(count - 1, time) if time % each == 0), time)
    _depthwise_kernel[(len(rows), time // each)](
        x, taps, bias, state, rows, out, eps, x.numel(), place, state.shape[1], time, each, channels, count,
        triton.next_power_of_2(channels), len(out) == 2, num_warps=8,
    )  # fmt: skip


def wave(windows: Tensor, taps: Tensor, bias: float, batch: int, head: int, fresh: int, low: int) -> Tensor:
    """windows [B, head + fresh], whose second half lies `low` numbers behind; taps float32 [taps * channels] -> float32 [B * time]."""
    channels = len(taps) - head  # a window remembers all taps but one
    count = len(taps) // channels
    rows = batch * (fresh // channels)
    out = taps.new_empty(rows)
    block = min(32, channels & -channels)
    _wave_kernel[(triton.cdiv(rows, 64),)](
        windows, taps, out, bias, rows, head, low, fresh // channels, channels, count, 64, block, num_warps=4
    )
    return out
