"""Products of one or two rows with large matrices, on a GPU: kernels that multiply each row by itself, without the matrix units.

Knows two ways. In a loop over columns, with some loads on their way at once; and all at once, where a program holds its rows of the matrix
and has asked for them before the kernel that makes x has ended. Both take along what a block has around a product. Which is taken, and
with how many programs, `engine.products_triton` says. Needs Triton; import it only where there is a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
_FOUR = tl.constexpr(
    "{ .reg .b32 four, a, b, c, d; xor.b32 four, $4, 0x80808080; "
    "prmt.b32 a, four, 0x4B000000, 0x7540; prmt.b32 b, four, 0x4B000000, 0x7541; "
    "prmt.b32 c, four, 0x4B000000, 0x7542; prmt.b32 d, four, 0x4B000000, 0x7543; "
    "mov.b32 $0, a; mov.b32 $1, b; mov.b32 $2, c; mov.b32 $3, d; "
    "sub.f32 $0, $0, 0f4B000080; sub.f32 $1, $1, 0f4B000080; sub.f32 $2, $2, 0f4B000080; sub.f32 $3, $3, 0f4B000080; }"
)


@triton.jit  # type: ignore[untyped-decorator]
def begin(  # type: ignore[no-untyped-def]
    rows_ptr, row, outputs: tl.constexpr, columns: tl.constexpr, bits: tl.constexpr, gated: tl.constexpr,
    line: tl.constexpr, ahead: tl.constexpr, soon: tl.constexpr,
):  # fmt: skip
    """Let the next kernel be started, fetch what no kernel writes, and wait for what the kernels before this one write.

    Before the wait nothing may be read that they write, and nothing written that they read.
    """
    tl.extra.cuda.gdc_launch_dependents()
    if tl.program_id(0) < soon:
        width: tl.constexpr = columns // 2 if bits == 4 else columns
        fetch(rows_ptr, tl.minimum(row, outputs - 1), outputs * width, width, gated, line, ahead)
    tl.extra.cuda.gdc_wait()


@triton.jit  # type: ignore[untyped-decorator]
def fetch(  # type: ignore[no-untyped-def]
    rows_ptr, row, below: tl.constexpr, width: tl.constexpr, gated: tl.constexpr, line: tl.constexpr, lines: tl.constexpr
):  # fmt: skip
    """Have the first lines of some rows brought into the second cache."""
    step: tl.constexpr = line * 8 // rows_ptr.dtype.element_ty.primitive_bitwidth
    k = tl.minimum(tl.arange(0, lines) * step, width - 1)
    at = rows_ptr + row[:, None] * width + k[None, :]
    near: tl.constexpr = "prefetch.global.L2 [$1]; mov.u32 $0, 0;"
    tl.inline_asm_elementwise(near, "=r,l", [at], tl.int32, is_pure=False, pack=1)
    if gated:
        tl.inline_asm_elementwise(near, "=r,l", [at + below], tl.int32, is_pure=False, pack=1)


@triton.jit  # type: ignore[untyped-decorator]
def fetch_further(  # type: ignore[no-untyped-def]
    rows_ptr, block, stride, fetches: tl.constexpr, outputs: tl.constexpr, width: tl.constexpr, gated: tl.constexpr,
    line: tl.constexpr, block_n: tl.constexpr,
):  # fmt: skip
    """Have the rows of `fetches` blocks of outputs brought into the second cache, whole: `block` and `stride` further, and so on."""
    lines: tl.constexpr = (width * rows_ptr.dtype.element_ty.primitive_bitwidth + line * 8 - 1) // (line * 8)
    for further in range(1, fetches + 1):
        later = tl.minimum((block + further * stride) * block_n + tl.arange(0, block_n), outputs - 1)
        fetch(rows_ptr, later, outputs * width, width, gated, line, triton.next_power_of_2(lines))


@triton.jit  # type: ignore[untyped-decorator]
def _dots(  # type: ignore[no-untyped-def]
    x_ptr, gain_ptr, rows_ptr, row, there, count: tl.constexpr, outputs: tl.constexpr, columns: tl.constexpr,
    normed: tl.constexpr, gated: tl.constexpr, block_k: tl.constexpr, block_n: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """`count` rows of x with some rows of a matrix, not scaled, with those `outputs` below them if gated, and each with itself if normed.

    Of each row of x what is still to be summed: float32 [block_n, block_k] twice, and [block_k].
    """
    sums = (tl.zeros((block_n, block_k), tl.float32),) * count
    ups, squares = sums, (tl.zeros((block_k,), tl.float32),) * count
    for first in tl.range(0, columns, block_k, num_stages=stages):
        k = first + tl.arange(0, block_k)
        inside = k < columns
        at, seen = rows_ptr + row[:, None] * columns + k[None, :], there[:, None] & inside[None, :]
        w = _wide(tl.load(at, mask=seen, other=0.0, eviction_policy="evict_first"))  # nobody needs it again
        if gated:
            up = _wide(tl.load(at + outputs * columns, mask=seen, other=0.0, eviction_policy="evict_first"))
        if normed:
            gain = tl.load(gain_ptr + k, mask=inside, other=0.0).to(tl.float32)
        new_sums, new_ups, new_squares = (), (), ()
        for r in tl.static_range(count):
            x = tl.load(x_ptr + r * columns + k, mask=inside, other=0.0).to(tl.float32)
            if normed:
                new_squares += (squares[r] + x * x,)  # type: ignore[assignment]
                x *= gain
            new_sums += (sums[r] + w * x[None, :],)  # type: ignore[assignment]
            if gated:
                new_ups += (ups[r] + up * x[None, :],)  # type: ignore[assignment]
        sums = new_sums
        if gated:
            ups = new_ups
        if normed:
            squares = new_squares
    return sums, ups, squares


@triton.jit  # type: ignore[untyped-decorator]
def _dot_4(  # type: ignore[no-untyped-def]
    x_ptr, gain_ptr, rows_ptr, scale_ptr, level_ptr, row, there, columns: tl.constexpr, normed: tl.constexpr,
    half: tl.constexpr, blocks: tl.constexpr, block_n: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """One row of x with some rows of nf4, scaled, float32 [block_n], and with itself if normed. blocks: of two halves, at once."""
    count: tl.constexpr = columns // (2 * half)
    sums = tl.zeros((block_n, blocks, half), tl.float32)
    squares = tl.zeros((1, blocks, half), tl.float32)
    row3, there3 = row[:, None, None], there[:, None, None]
    for first in tl.range(0, count, blocks, num_stages=stages):
        b = (first + tl.arange(0, blocks))[None, :, None]
        inside = b < count
        j = tl.arange(0, half)[None, None, :]
        k = b * (2 * half) + j
        low = tl.load(x_ptr + k, mask=inside, other=0.0).to(tl.float32)
        high = tl.load(x_ptr + k + half, mask=inside, other=0.0).to(tl.float32)
        if normed:
            squares += low * low + high * high
            low *= tl.load(gain_ptr + k, mask=inside, other=0.0).to(tl.float32)
            high *= tl.load(gain_ptr + k + half, mask=inside, other=0.0).to(tl.float32)
        seen = there3 & inside
        byte = tl.load(rows_ptr + row3 * (columns // 2) + b * half + j, mask=seen, other=0).to(tl.int32)
        scale = tl.load(scale_ptr + row3 * count + b, mask=seen, other=0.0).to(tl.float32)
        sums += (tl.load(level_ptr + (byte & 15)) * low + tl.load(level_ptr + (byte >> 4)) * high) * scale
    return tl.sum(tl.sum(sums, 2), 1), tl.sum(squares)


@triton.jit  # type: ignore[untyped-decorator]
def one_by_one_kernel(  # type: ignore[no-untyped-def]
    x_ptr, rows_ptr, scale_ptr, level_ptr, gain_ptr, add_ptr, out_ptr, eps,
    outputs: tl.constexpr, columns: tl.constexpr, bits: tl.constexpr, normed: tl.constexpr, gated: tl.constexpr,
    adds: tl.constexpr, half: tl.constexpr, ahead: tl.constexpr, line: tl.constexpr, soon: tl.constexpr,
    count: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """block_n of the outputs of `count` rows; of nf4, of one. stages: loads that are on their way at once. ahead: see `begin`."""
    row = tl.program_id(0) * block_n + tl.arange(0, block_n)
    there = row < outputs
    if ahead:
        begin(rows_ptr, row, outputs, columns, bits, gated, line, ahead, soon)
    if bits == 4:
        blocks: tl.constexpr = block_k // (2 * half)
        out, square = _dot_4(
            x_ptr, gain_ptr, rows_ptr, scale_ptr, level_ptr, row, there, columns, normed, half, blocks, block_n, stages
        )
        up = out
        if gated:
            up, _ = _dot_4(
                x_ptr, gain_ptr, rows_ptr, scale_ptr, level_ptr, row + outputs, there, columns, normed, half, blocks,
                block_n, stages,
            )  # fmt: skip
        around = _around(scale_ptr, add_ptr, row, there, outputs, bits, gated, adds)
        _finish(out, up, square, around, out_ptr, eps, row, there, columns, bits, normed, gated, adds)
    else:
        arounds = ()
        for r in tl.static_range(count):
            around = _around(scale_ptr, add_ptr + r * outputs, row, there, outputs, bits, gated, adds)
            arounds += (around,)  # type: ignore[assignment]
        sums, ups, squares = _dots(
            x_ptr, gain_ptr, rows_ptr, row, there, count, outputs, columns, normed, gated, block_k, block_n, stages
        )
        for r in tl.static_range(count):
            _finish(
                tl.sum(sums[r], 1), tl.sum(ups[r], 1), tl.sum(squares[r], 0), arounds[r], out_ptr + r * outputs, eps, row,
                there, columns, bits, normed, gated, adds,
            )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _held(  # type: ignore[no-untyped-def]
    rows_ptr, row, wanted, below, columns: tl.constexpr, block_k: tl.constexpr
):  # fmt: skip
    """Some rows of a matrix from row `below` on, in pieces of block_k columns, asked for at once. Not wanted: zeros, nothing read."""
    pieces = ()
    for first in tl.static_range(0, columns, block_k):
        k = first + tl.arange(0, block_k)
        at = rows_ptr + (row[:, None] + below) * columns + k[None, :]
        seen = wanted & (k < columns)[None, :] if first + block_k > columns else wanted
        piece = tl.load(at, mask=seen, other=0.0, eviction_policy="evict_first")
        pieces += (piece,)  # type: ignore[assignment]
    return pieces


@triton.jit  # type: ignore[untyped-decorator]
def _given(  # type: ignore[no-untyped-def]
    x_ptr, gain_ptr, count: tl.constexpr, columns: tl.constexpr, normed: tl.constexpr, block_n: tl.constexpr,
    block_k: tl.constexpr,
):  # fmt: skip
    """Rows of x in pieces, one row after the other, float32, times the gain if normed. And each row's sum of squares.

    A piece is [block_n, block_k], the same block_n times: so threads that hold a piece of the matrix hold what it is multiplied by.
    """
    pieces, squares = (), ()
    same = tl.zeros((block_n, 1), tl.int32)
    for r in tl.static_range(count):
        square = tl.zeros((block_n, block_k), tl.float32)
        for first in tl.static_range(0, columns, block_k):
            k = same + (first + tl.arange(0, block_k))[None, :]
            inside = k < columns if first + block_k > columns else k >= 0
            x = tl.load(x_ptr + r * columns + k, mask=inside, other=0.0).to(tl.float32)
            if normed:
                square += x * x
                x *= tl.load(gain_ptr + k, mask=inside, other=0.0).to(tl.float32)
            pieces += (x,)  # type: ignore[assignment]
        squares += (tl.sum(square, 1),)  # type: ignore[assignment]
    return pieces, squares


@triton.jit
def _wide(x):  # type: ignore[no-untyped-def]
    """To float32. Of int8 the unit that converts does 16 a clock, fewer than a memory of 4 TB/s brings; here it is two cheap steps."""
    if x.dtype == tl.int8 and not _INTERPRETED:
        # With 128 added a number is a byte from 0 to 255, and as the last byte of 2^23 in float32 that much more; then both go.
        return tl.inline_asm_elementwise(_FOUR, "=f,=f,=f,=f,r", [x], tl.float32, is_pure=True, pack=4)
    return x.to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _summed(  # type: ignore[no-untyped-def]
    held, given, r: tl.constexpr, columns: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr
):  # fmt: skip
    """One row of what `_given` gave with rows of what `_held` gave, float32 [block_n]."""
    count: tl.constexpr = (columns + block_k - 1) // block_k
    total = tl.zeros((block_n, block_k), tl.float32)
    for i in tl.static_range(count):
        total += _wide(held[i]) * given[r * count + i]
    return tl.sum(total, 1)


@triton.jit  # type: ignore[untyped-decorator]
def held_kernel(  # type: ignore[no-untyped-def]
    x_ptr, rows_ptr, scale_ptr, gain_ptr, add_ptr, out_ptr, eps,
    outputs: tl.constexpr, columns: tl.constexpr, bits: tl.constexpr, normed: tl.constexpr, gated: tl.constexpr,
    adds: tl.constexpr, early: tl.constexpr, line: tl.constexpr, fetching: tl.constexpr, fetches: tl.constexpr,
    count: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, lasting: tl.constexpr,
):  # fmt: skip
    """As `one_by_one_kernel`, but a program holds its rows of the matrix, whole, and asks for them before it waits for x.

    lasting: programs are fewer than there are blocks of outputs; each takes several, and asks for the next before it multiplies one.
    fetches: blocks that one of the first `fetching` programs has brought into the second cache before it waits, beyond its own.
    """
    blocks: tl.constexpr = (outputs + block_n - 1) // block_n
    last: tl.constexpr = outputs - 1
    block = tl.program_id(0)
    if early:
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.minimum(block * block_n + tl.arange(0, block_n), last)
    held = _held(rows_ptr, row, True, 0, columns, block_k)
    ups = held
    if gated:
        ups = _held(rows_ptr, row, True, outputs, columns, block_k)
    if early:
        if fetches and block < fetching:
            fetch_further(rows_ptr, block, fetching, fetches, outputs, columns, gated, line, block_n)
        tl.extra.cuda.gdc_wait()
    given, squares = _given(x_ptr, gain_ptr, count, columns, normed, block_n, block_k)
    if lasting:
        step = tl.num_programs(0)
        for own in tl.range(block, blocks, step, num_stages=1):
            wanted = own + step < blocks
            row = tl.minimum((own + step) * block_n + tl.arange(0, block_n), last)
            next_held = _held(rows_ptr, row, wanted, 0, columns, block_k)
            next_ups = next_held
            if gated:
                next_ups = _held(rows_ptr, row, wanted, outputs, columns, block_k)
            _multiply(
                held, ups, given, squares, scale_ptr, add_ptr, out_ptr, eps, own, outputs, columns, bits, normed, gated, adds,
                count, block_n, block_k,
            )  # fmt: skip
            held, ups = next_held, next_ups
    else:
        _multiply(
            held, ups, given, squares, scale_ptr, add_ptr, out_ptr, eps, block, outputs, columns, bits, normed, gated, adds,
            count, block_n, block_k,
        )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _multiply(  # type: ignore[no-untyped-def]
    held, ups, given, squares, scale_ptr, add_ptr, out_ptr, eps, block, outputs: tl.constexpr, columns: tl.constexpr,
    bits: tl.constexpr, normed: tl.constexpr, gated: tl.constexpr, adds: tl.constexpr, count: tl.constexpr,
    block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """A block of outputs from what is held."""
    row = block * block_n + tl.arange(0, block_n)
    there, arounds = row < outputs, ()
    for r in tl.static_range(count):
        around = _around(scale_ptr, add_ptr + r * outputs, row, there, outputs, bits, gated, adds)
        arounds += (around,)  # type: ignore[assignment]
    for r in tl.static_range(count):
        out = _summed(held, given, r, columns, block_n, block_k)
        up = out
        if gated:
            up = _summed(ups, given, r, columns, block_n, block_k)
        _finish(
            out, up, squares[r], arounds[r], out_ptr + r * outputs, eps, row, there, columns, bits, normed, gated, adds
        )


@triton.jit  # type: ignore[untyped-decorator]
def _finish(  # type: ignore[no-untyped-def]
    out, up, square, around, out_ptr, eps, row, there, columns: tl.constexpr, bits: tl.constexpr,
    normed: tl.constexpr, gated: tl.constexpr, adds: tl.constexpr,
):  # fmt: skip
    """Some outputs of one row, from sums of products and of squares. around: of `_around`."""
    scale, up_scale, added = around
    if bits == 8:
        out *= scale
        if gated:
            up *= up_scale
    if normed:
        size = 1 / tl.sqrt(square / columns + eps)
        out *= size
        up *= size
    if gated:
        out = out / (1 + tl.exp(-out)) * up
    if adds:
        out += added
    tl.store(out_ptr + row, out.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _around(  # type: ignore[no-untyped-def]
    scale_ptr, add_ptr, row, there, outputs: tl.constexpr, bits: tl.constexpr, gated: tl.constexpr, adds: tl.constexpr
):  # fmt: skip
    """Scales of some outputs, those below them, and what is added to them; asked for early, as each takes as long as a row does."""
    scale = row
    up_scale, added = scale, scale
    if bits == 8:
        scale = tl.load(scale_ptr + row, mask=there, other=0.0).to(tl.float32)
        if gated:
            up_scale = tl.load(scale_ptr + outputs + row, mask=there, other=0.0).to(tl.float32)
    if adds:
        added = tl.load(add_ptr + row, mask=there, other=0.0).to(tl.float32)
    return scale, up_scale, added
