"""A frame's draws on a GPU: one kernel for the semantic token and what is remembered of it, one for each codebook after it.

Knows `engine.sampling`'s rules for rows of at most WIDTH candidates and no penalty, and computes them again, each row in one program: the
plain draws of a frame are some 340 operations, most of them on a handful of numbers. Does not know models. What is drawn differs from the
plain path's only where roundings decide, of the mass beside a row's limit or of two scores, and where logits are equal: here the lower
entry counts as the likelier, there the device's `topk` decides. Needs Triton; import it only where there is a GPU.

A candidate travels as one whole number, logit before entry, so that the likeliest are found by comparing numbers that are all different.
The search is half of a bitonic sort (https://www.doc.ic.ac.uk/~hlgr/pdfs/MassivelyParallelTopK.pdf): sets of 32 are sorted, and of two sets
the larger halves are kept until one is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine import products_triton
from engine.sampling import _STRIDE, PENALTY_WINDOW, RAS_WINDOW, WIDTHS
from engine.turned_triton import wait

if TYPE_CHECKING:
    from engine.sampling import Sampler

WIDTH = WIDTHS[0]  # candidates; the kernels sort sets of 32 numbers and no others
_MOST_ENTRIES = 65535  # that a half-precision candidate has room for
_PER_THREAD = 8  # logits of a row; each row is one program of up to eight warps


@triton.jit  # type: ignore[untyped-decorator]
def _side(axis: tl.constexpr, axes: tl.constexpr):  # type: ignore[no-untyped-def]
    """0 and 1 along one of `axes` axes of two."""
    return tl.reshape(tl.arange(0, 2), [1] * axis + [2] + [1] * (axes - axis - 1))


@triton.jit  # type: ignore[untyped-decorator]
def _exchanged(keys, down, axis: tl.constexpr, axes: tl.constexpr):  # type: ignore[no-untyped-def]
    """Pairs along an axis in order; the larger first where down is 1."""
    other = tl.sum(keys, axis, keep_dims=True) - keys  # of whole numbers, so exact though the sum overflows
    return tl.where((keys > other) ^ ((down ^ _side(axis, axes)) == 1), other, keys)


@triton.jit  # type: ignore[untyped-decorator]
def _merged(keys, down, stage: tl.constexpr, low: tl.constexpr, axes: tl.constexpr):  # type: ignore[no-untyped-def]
    """Along the last `stage` axes but for the last `low`: bitonic numbers in order."""
    for i in tl.static_range(stage):
        keys = _exchanged(keys, down, axes - low - stage + i, axes)
    return keys


@triton.jit  # type: ignore[untyped-decorator]
def _sets(keys, down, low: tl.constexpr, axes: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sets of 32 bitonic numbers in order, each the other way round than the one it is compared with next; the last one as `down` says."""
    if axes == 5:
        return _merged(keys, down, 5, low, axes)
    elif low == 0:
        return _merged(keys, _side(0, axes), 5, low, axes)
    else:
        return _merged(keys, _side(axes - 1, axes), 5, low, axes)


@triton.jit  # type: ignore[untyped-decorator]
def _likeliest(keys, bits: tl.constexpr, low: tl.constexpr, down: tl.constexpr):  # type: ignore[no-untyped-def]
    """The 32 largest of 2**bits numbers, which are all different but for zeros; the largest first, or with down = 0 last.

    low: that many of a place's lowest bits, and then the highest, are halved away before those between: the former tell numbers of one
    thread apart, where halving leaves less to do, the latter threads. Sets are what the five bits from `low` on tell apart.
    """
    keys = tl.reshape(keys, [2] * bits)
    for stage in tl.static_range(1, 5):
        keys = _merged(keys, _side(bits - low - stage - 1, bits), stage, low, bits)
    keys = _sets(keys, down, low, bits)
    for i in tl.static_range(low):
        keys = _sets(tl.max(keys, bits - 1 - i), down, low - 1 - i, bits - 1 - i)
    for i in tl.static_range(bits - low - 5):
        keys = _sets(tl.max(keys, 0), down, 0, bits - low - 1 - i)
    return tl.reshape(keys, [32])


@triton.jit
def _key(logits, entry, there):  # type: ignore[no-untyped-def]
    """Whole numbers in the order of logits, of equal ones the lower entry above the higher; 0, below all, where nothing is there."""
    if logits.dtype.primitive_bitwidth == 16:
        bits = tl.where(logits == 0.0, 0, logits.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF)  # -0 is 0
        order = tl.where(bits < 0x8000, bits | 0x8000, bits ^ 0xFFFF).to(tl.uint32)
        return tl.where(there, (order << 16) | (0xFFFF - entry).to(tl.uint32), 0)
    else:
        wide = tl.where(logits == 0.0, 0, logits.to(tl.int32, bitcast=True))
        order = tl.where(wide >= 0, wide ^ -0x80000000, wide ^ -1).to(tl.uint32, bitcast=True)
        return tl.where(there, (order.to(tl.uint64) << 32) | (0xFFFF - entry).to(tl.uint64), 0)


@triton.jit  # type: ignore[untyped-decorator]
def _logit(key, like: tl.constexpr):  # type: ignore[no-untyped-def]
    """The logit of a `_key`, float32. like: its dtype before."""
    if like.primitive_bitwidth == 16:
        order = (key >> 16).to(tl.int32)
        bits = tl.where(order >= 0x8000, order & 0x7FFF, order ^ 0xFFFF)
        return bits.to(tl.int16).to(like, bitcast=True).to(tl.float32)
    else:
        order = (key >> 32).to(tl.uint32).to(tl.int32, bitcast=True)
        return tl.where(order < 0, order ^ -0x80000000, order ^ -1).to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def _read(  # type: ignore[no-untyped-def]
    logits_ptr, entries: tl.constexpr, bits: tl.constexpr, rest_bits: tl.constexpr
):  # fmt: skip
    """A row's first 2**bits logits, and up to 2**rest_bits more, at the end of as many places; -inf where none is.

    4097 in one go would take as long as 8192.
    """
    place = tl.arange(0, 1 << bits)
    beyond = entries - (1 << rest_bits) + tl.arange(0, 1 << rest_bits)
    more = tl.load(logits_ptr + beyond, mask=beyond >= 1 << bits, other=-float("inf"))
    if entries >= 1 << bits:
        return tl.load(logits_ptr + place), more
    else:
        return tl.load(logits_ptr + place, mask=place < entries, other=-float("inf")), more


@triton.jit  # type: ignore[untyped-decorator]
def _candidates(  # type: ignore[no-untyped-def]
    logits, more, entries: tl.constexpr, bits: tl.constexpr, rest_bits: tl.constexpr, low: tl.constexpr
):  # fmt: skip
    """As `engine.sampling.candidates`, of one row: logits float32 [32], mass float32 [32], entries int32 [32]; and the sum of all logits.

    logits, more: from `_read`.
    """
    place = tl.arange(0, 1 << bits)
    wide = logits.to(tl.float32)
    total = tl.sum(tl.where(place < entries, wide, 0.0), 0)
    keys = _likeliest(_key(logits, place, place < entries), bits, low, 1)
    rest = more.to(tl.float32)
    if entries > 1 << bits:
        beyond = entries - (1 << rest_bits) + tl.arange(0, 1 << rest_bits)
        there = beyond >= 1 << bits
        total += tl.sum(tl.where(there, rest, 0.0), 0)
        added = _key(more, beyond, there)
        if entries > (1 << bits) + 1:  # one alone is in order where it stands
            added = _likeliest(added, rest_bits, 0, 0)
        keys = tl.reshape(tl.maximum(keys, added), [2] * 5)
        keys = tl.reshape(_merged(keys, 1, 5, 0, 5), [32])
    rank = tl.arange(0, 32)
    top = tl.where(rank < entries, _logit(keys, logits.dtype), -float("inf"))
    most = tl.sum(tl.where(rank == 0, top, 0.0), 0)
    weight = tl.sum(tl.exp(wide - most), 0)
    if entries > 1 << bits:
        weight += tl.sum(tl.exp(rest - most), 0)
    mass = tl.cumsum(tl.exp(top - most) / weight, 0)
    # Where no entry is there, the number in its key is none; see `_pick`.
    return top, mass, 0xFFFF - (keys & 0xFFFF).to(tl.int32), total


@triton.jit
def _mix(x):  # type: ignore[no-untyped-def]
    """As in `engine.sampling`; uint32 wraps around where int64 is masked there."""
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x2C1B3C6D
    return x ^ (x >> 16)


@triton.jit  # type: ignore[untyped-decorator]
def _pick(  # type: ignore[no-untyped-def]
    top, mass, entry, temperature, limit, key_0, key_1, frame, draw, stride: tl.constexpr, entries: tl.constexpr
):  # fmt: skip
    """As `engine.sampling.pick` with its `CounterNoise`, of one row: a whole number in [0, entries), whatever the logits are."""
    words = tl.zeros((32,), tl.uint32)
    start = _mix(words + (key_0 ^ (frame * 256 + draw)).to(tl.uint32))
    word = _mix((start + entry.to(tl.uint32) * stride) ^ key_1.to(tl.uint32))
    uniform = (word >> 9).to(tl.float32) * 2.0**-23 + 2.0**-24
    score = tl.div_rn(top, words.to(tl.float32) + temperature) - tl.log(-tl.log(uniform))
    best = tl.argmax(tl.where(mass > limit, -float("inf"), score), 0)
    drawn = tl.sum(tl.where(tl.arange(0, 32) == best, entry, 0), 0)
    return tl.minimum(drawn, entries - 1)  # NaN can win with a rank that a short row does not have


@triton.jit  # type: ignore[untyped-decorator]
def _copy(from_ptr, into_ptr, count: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, block)
    tl.store(into_ptr + at, tl.load(from_ptr + at, mask=at < count), mask=at < count)


@triton.jit(do_not_specialize=["sampler_rows"])  # type: ignore[untyped-decorator]
def _semantic_kernel(  # type: ignore[no-untyped-def]
    logits_ptr, rows_ptr, temperature_ptr, limit_ptr, key_ptr, frame_ptr, age_ptr, history_ptr, embeddings_ptr,
    out_ptr, embedded_ptr, sampler_rows,
    stride: tl.constexpr, entries: tl.constexpr, bits: tl.constexpr, rest_bits: tl.constexpr, low: tl.constexpr,
    limits: tl.constexpr, noise_stride: tl.constexpr, dim: tl.constexpr, block: tl.constexpr, columns: tl.constexpr,
    ahead: tl.constexpr, remembered: tl.constexpr, window: tl.constexpr, begin: tl.constexpr, im_end: tl.constexpr,
    codes: tl.constexpr,
):  # fmt: skip
    """`FrameDraws.semantic` and `commit` of one row. ahead: see `engine.turned_triton.wait`."""
    wait(ahead)
    b = tl.program_id(0)
    row = tl.load(rows_ptr + b)
    logits, more = _read(logits_ptr + b.to(tl.int64) * stride, entries, bits, rest_bits)
    rank, back = tl.arange(0, 32), tl.arange(0, remembered)
    temperature, temperature_2 = tl.load(temperature_ptr + row), tl.load(temperature_ptr + sampler_rows + row)
    limit = tl.load(limit_ptr + row * limits + rank)
    limit_2 = tl.load(limit_ptr + (sampler_rows + row) * limits + rank)
    key_0, key_1 = tl.load(key_ptr + row), tl.load(key_ptr + sampler_rows + row)
    frame, age = tl.load(frame_ptr + row), tl.load(age_ptr + row)
    history = tl.load(history_ptr + row * remembered + back)
    moved = tl.load(history_ptr + row * remembered + back + 1, mask=back < remembered - 1, other=0)

    top, mass, entry, total = _candidates(logits, more, entries, bits, rest_bits, low)
    normal = _pick(top, mass, entry, temperature, limit, key_0, key_1, frame, 0, noise_stride, entries)
    fallback = _pick(top, mass, entry, temperature_2, limit_2, key_0, key_1, frame, 1, noise_stride, entries)
    place = back - (remembered - window)
    repeats = (place >= 0) & (place > window - age) & (history == normal)
    column = tl.where(tl.sum(repeats.to(tl.int32), 0) > 0, fallback, normal)

    ends = column == entries - 1
    code = tl.where(ends, 0, tl.minimum(column, codes - 1))
    _copy(embeddings_ptr + code.to(tl.int64) * dim, embedded_ptr + b.to(tl.int64) * dim, dim, block)
    out = out_ptr + b * columns
    tl.store(out, (tl.abs(total) < float("inf")).to(tl.int64))
    tl.store(out + 1, tl.where(ends, im_end, begin + column).to(tl.int64))
    tl.store(out + 2, code.to(tl.int64))
    tl.debug_barrier()  # until every thread has what it reads above
    tl.store(history_ptr + row * remembered + back, tl.where(back < remembered - 1, moved, column.to(tl.int64)))
    tl.store(age_ptr + row, age + 1)
    tl.store(frame_ptr + row, frame + 1)


@triton.jit(do_not_specialize=["sampler_rows", "codebook", "last"])  # type: ignore[untyped-decorator]
def _codebook_kernel(  # type: ignore[no-untyped-def]
    logits_ptr, rows_ptr, temperature_ptr, limit_ptr, key_ptr, frame_ptr, embeddings_ptr, out_ptr, embedded_ptr,
    sampler_rows, codebook, last,
    stride: tl.constexpr, entries: tl.constexpr, bits: tl.constexpr, rest_bits: tl.constexpr, low: tl.constexpr,
    limits: tl.constexpr, noise_stride: tl.constexpr, dim: tl.constexpr, block: tl.constexpr, columns: tl.constexpr,
    ahead: tl.constexpr,
):  # fmt: skip
    """`FrameDraws.codebook` of one row. last: the frame's last codebook. ahead: see `engine.turned_triton.wait`."""
    wait(ahead)
    b = tl.program_id(0)
    row = tl.load(rows_ptr + b)
    logits, more = _read(logits_ptr + b.to(tl.int64) * stride, entries, bits, rest_bits)
    temperature = tl.load(temperature_ptr + row)
    limit = tl.load(limit_ptr + row * limits + tl.arange(0, 32))
    key_0, key_1 = tl.load(key_ptr + row), tl.load(key_ptr + sampler_rows + row)
    frame = tl.load(frame_ptr + row) - 1  # the semantic draw has counted it already
    out = out_ptr + b * columns
    sound = tl.load(out)
    top, mass, entry, total = _candidates(logits, more, entries, bits, rest_bits, low)
    code = _pick(top, mass, entry, temperature, limit, key_0, key_1, frame, codebook + 1, noise_stride, entries)
    if codebook < last:
        _copy(embeddings_ptr + code.to(tl.int64) * dim, embedded_ptr + b.to(tl.int64) * dim, dim, block)
    tl.store(out + 2 + codebook, code.to(tl.int64))
    tl.debug_barrier()  # until every thread has read whether the frame was sound before
    tl.store(out, sound & (tl.abs(total) < float("inf")).to(tl.int64))


@dataclass(frozen=True, slots=True)
class Tokens:
    """What columns of the semantic head stand for."""

    begin: int  # token id of column 0
    im_end: int  # token id of the last column
    codes: int  # entries of codebook 0


class KernelDraws:
    """One frame's draws, and the frame: `semantic`, then `codebook` for each codebook after it. Nothing is left to commit.

    As `FrameDraws` of a sampler that is `usual`, on one GPU. Two rows may have one place in the sampler if nobody wants what they draw.
    """

    def __init__(self, sampler: Sampler, rows: Tensor, tokens: Tokens, embeddings: Tensor) -> None:
        """rows: int64 [B], of the sampler. embeddings: [codes, D], contiguous, of the codes of every codebook."""
        assert sampler.usual, "the kernels know 32 candidates and no penalty"
        self._sampler, self._rows, self._tokens, self._embeddings = sampler, rows.contiguous(), tokens, embeddings
        # int64 [B, K + 2]: whether all logits up to now are finite, token, codes up to now.
        self.frame = torch.empty(len(rows), sampler.draws + 1, dtype=torch.int64, device=rows.device)
        # [B, D]: the embeddings of the codes that were drawn last; not of the last codebook, as nothing is drawn from them.
        self.embedded = torch.empty(len(rows), embeddings.shape[1], dtype=embeddings.dtype, device=rows.device)

    def semantic(self, logits: Tensor) -> Tensor:
        """Codes of codebook 0, int64 [B]. logits: [B, n_semantic + 1], the last column being `<|im_end|>`, whose code is 0."""
        sampler, tokens = self._sampler, self._tokens
        _semantic_kernel[(len(logits),)](
            logits, self._rows, sampler._temperature, sampler._limit, sampler._key, sampler._frame, sampler._age,
            sampler._history, self._embeddings, self.frame, self.embedded, len(sampler._frame),
            **self._sizes(logits), remembered=PENALTY_WINDOW, window=RAS_WINDOW, begin=tokens.begin,
            im_end=tokens.im_end, codes=tokens.codes,
        )  # fmt: skip
        return self.frame[:, 2]

    def codebook(self, codebook: int, logits: Tensor) -> Tensor:
        """Codes of codebook 1..K-1, int64 [B]. logits: [B, V]. A `Draw` of engine.model."""
        sampler = self._sampler
        _codebook_kernel[(len(logits),)](
            logits, self._rows, sampler._temperature, sampler._limit, sampler._key, sampler._frame, self._embeddings,
            self.frame, self.embedded, len(sampler._frame), codebook, sampler.draws - 2, **self._sizes(logits),
        )  # fmt: skip
        return self.frame[:, 2 + codebook]

    def _sizes(self, logits: Tensor) -> dict[str, int]:
        """What both kernels are compiled for."""
        rows, entries = logits.shape
        assert entries <= _MOST_ENTRIES and logits.stride(1) == 1
        bits = max(5, entries.bit_length() - 1)
        stride = logits.stride(0) if rows > 1 else 0  # one row begins where its tensor does, in any case
        together = 16 // logits.element_size()  # read at once where rows begin at multiples of 16 bytes
        low = min(together.bit_length() - 1, bits - 5) if stride % together == 0 else 0
        warps = max(1, min(8, (1 << bits) // (32 * _PER_THREAD)))
        dim = self._embeddings.shape[1]
        return {
            "stride": stride, "entries": entries, "bits": bits, "rest_bits": max(5, (entries - (1 << bits) - 1).bit_length()),
            "low": low, "limits": self._sampler._limit.shape[2], "noise_stride": _STRIDE, "dim": dim,
            "block": triton.next_power_of_2(dim), "columns": self.frame.shape[1], "num_warps": warps,
            "ahead": products_triton.ahead > 0, "launch_pdl": products_triton.ahead > 0,
        }  # fmt: skip
