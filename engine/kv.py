"""Paged KV: who owns which positions, and attention over them.

Knows pages, reference counts and sequences of prompt columns; `PagedAttention` is the `attend` that the slow stack is given when it
serves. Does not know conversations, voices or when to evict: `engine.cache` does. One path for one row and for many, CPU and CUDA.

Keys are cached after RoPE, and the RoPE tables are rounded to bfloat16 (s2pro.md 4.3), so a cached position is valid at that position
only: pages are shared and truncated, never shifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.attention import causal_to_the_end, grouped_attention
from engine.gaze import Gaze

PAGE = 32  # positions; smaller wastes gather indices, larger wastes the tail of short conversations

Columns = npt.NDArray[np.int64]  # [K + 1, n]: prompt columns, token id and codes


class OutOfPages(Exception):
    """No page is free. The caller evicts something or fails the stream."""


class PagePool:
    """All KV of one model: two tensors and a reference count per page.

    Pages are handed out so that a sequence that grows undisturbed stays contiguous: then a single row reads its keys as a view.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        pages: int,
        device: torch.device,
        dtype: torch.dtype,
        zeroing: bool = True,
    ) -> None:
        """pages: pages of PAGE positions. Memory: 2 * layers * (pages + 1) * PAGE * kv_heads * head_dim elements, taken now.

        zeroing: pages are zeroed as they are handed out, for attention that reads a page beyond the positions that are its owner's: a
        masked key contributes nothing, but zero times a NaN that somebody left there is NaN.
        """
        shape = (layers, pages + 1, PAGE, kv_heads, head_dim)
        self.spare = pages  # a page that nobody gets: rows that only fill up a step's shape write there
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        # Of each layer: keys and values by slot, [(pages + 1) * PAGE, Hkv, hd]. Views, as it takes as long to make one as to write a row.
        self.slots = list(zip(self.keys.flatten(1, 2), self.values.flatten(1, 2), strict=True))
        self.zeroing = zeroing
        self._references = np.zeros(pages, np.int32)

    @property
    def pages(self) -> int:
        """Size of the pool."""
        return len(self._references)

    @property
    def free(self) -> int:
        """Pages that nobody owns."""
        return int((self._references == 0).sum())

    def take(self, after: int | None) -> int:
        """A free page, counted once: the one that follows page `after` if it is free, else one of the widest free run.

        Raises OutOfPages.
        """
        follows = after is not None and after + 1 < self.pages and self._references[after + 1] == 0
        page = after + 1 if follows and after is not None else self._widest_run()
        self._references[page] = 1
        if self.zeroing:
            self.keys[:, page] = 0
            self.values[:, page] = 0
        return page

    def _widest_run(self) -> int:
        borders = np.flatnonzero(np.concatenate(([1], self._references, [1])))  # pages in use, one on, and the ends
        lengths = np.diff(borders) - 1
        widest = int(lengths.argmax())
        best, best_length = int(borders[widest]), int(lengths[widest])
        if not best_length:
            raise OutOfPages
        # The middle of a run that borders on somebody's tail leaves that one room to grow.
        grown_into = best > 0 and best_length > 2
        return best + best_length // 2 if grown_into else best

    def share(self, page: int) -> None:
        """Count one owner more."""
        assert self._references[page] > 0, "only an owned page can be shared"
        self._references[page] += 1

    def release(self, page: int) -> None:
        """Count one owner less; the last one frees it."""
        assert self._references[page] > 0, "a page was released twice"
        self._references[page] -= 1

    def owners(self, page: int) -> int:
        """How many own it. A page of several is read-only."""
        return int(self._references[page])

    def copy(self, source: int, target: int) -> None:
        """Make `target` hold what `source` holds."""
        self.keys[:, target] = self.keys[:, source]
        self.values[:, target] = self.values[:, source]


@dataclass(eq=False)
class CachedSequence:
    """Positions 0..length-1 of one prompt with the columns that they were computed from."""

    pool: PagePool
    codebooks: int
    pages: list[int] = field(default_factory=list)
    length: int = 0  # positions with valid keys and values
    _columns: Columns = field(init=False)  # [K + 1, capacity]

    def __post_init__(self) -> None:
        self._columns = np.zeros((self.codebooks + 1, 256), np.int64)

    @property
    def columns(self) -> Columns:
        """[K + 1, length]: a view, valid until the sequence changes."""
        return self._columns[:, : self.length]

    def common_prefix(self, columns: Columns) -> int:
        """How many leading columns are cached. All codebooks count: equal tokens with other codes are another past."""
        n = min(self.length, columns.shape[1])
        differs = (self._columns[:, :n] != columns[:, :n]).any(axis=0)
        return int(differs.argmax()) if differs.any() else n

    def truncate(self, length: int) -> None:
        """Forget positions from `length` on and give back their pages."""
        assert length <= self.length, "truncate cannot grow a sequence"
        keep = -(-length // PAGE)
        for page in self.pages[keep:]:
            self.pool.release(page)
        del self.pages[keep:]
        self.length = length

    def extend(self, columns: Columns) -> None:
        """Own the positions of `columns`, which come next; their keys and values are written by the forward pass that must follow.

        Raises OutOfPages with the sequence unchanged in length (pages taken so far stay owned and are reused by the next try).
        """
        end = self.length + columns.shape[1]
        first = self.length // PAGE
        if self.length % PAGE and self.pool.owners(self.pages[first]) > 1:
            fresh = self.pool.take(None)
            self.pool.copy(self.pages[first], fresh)
            self.pool.release(self.pages[first])
            self.pages[first] = fresh
        while len(self.pages) * PAGE < end:
            self.pages.append(self.pool.take(self.pages[-1] if self.pages else None))
        if end > self._columns.shape[1]:
            grown = np.zeros((self.codebooks + 1, max(end, 2 * self._columns.shape[1])), np.int64)
            grown[:, : self.length] = self.columns
            self._columns = grown
        self._columns[:, self.length : end] = columns
        self.length = end

    def make_room(self) -> bool:
        """Own the page that the next position will be written to, alone, if that costs nobody a page. False: it does not."""
        at = self.length // PAGE
        if at < len(self.pages):
            return self.pool.owners(self.pages[at]) == 1
        try:
            self.pages.append(self.pool.take(self.pages[-1] if self.pages else None))
        except OutOfPages:
            return False
        return True

    def fork(self, length: int) -> CachedSequence:
        """A sequence that shares the first `length` positions; whoever writes into a shared page first copies it."""
        assert length <= self.length, "only cached positions can be shared"
        twin = CachedSequence(self.pool, self.codebooks)
        for page in self.pages[: -(-length // PAGE)]:
            self.pool.share(page)
            twin.pages.append(page)
        twin._columns = self._columns[:, : max(length, 256)].copy()
        twin.length = length
        return twin


def contiguous_run(row: CachedSequence) -> int | None:
    """The first page of a row of at least one position, if those it needs lie one after the other: then its keys can be viewed."""
    own = row.pages[: -(-row.length // PAGE)]
    return own[0] if own == list(range(own[0], own[0] + len(own))) else None


def _placed(numbers: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """int64, without waiting for what the device still has to do."""
    return torch.tensor(numbers).to(device, non_blocking=True)


class PagedAttention:
    """`attend` for rows whose last `new` positions are being computed: writes their keys and values, then attends over all before.

    Rows may have different lengths and different numbers of new positions; shorter ones are padded on the right by the caller, and
    what is computed there is never read. Valid for one forward pass: indices and mask are made once and shared by all layers.
    """

    def __init__(
        self, pool: PagePool, rows: Sequence[CachedSequence], new: Sequence[int], gaze: Gaze | None = None
    ) -> None:
        """rows: sequences already extended by their new columns. new: how many of each row's positions are new, >= 1.

        gaze: is shown every layer's queries and keys; its rows are these, and all of them have as many new positions.
        """
        device = pool.keys.device
        self._pool = pool
        self._gaze = gaze
        self._width = max(new)
        self._longest = max(row.length for row in rows)
        starts = [row.length - n for row, n in zip(rows, new, strict=True)]
        self.positions = _placed(
            [[start + min(t, n - 1) for t in range(self._width)] for start, n in zip(starts, new, strict=True)], device
        )  # [B, T]; padded places repeat the last position, whatever they compute is dropped
        self._slots, self._source = self._write_slots(rows, starts, new, device)
        pages = -(-self._longest // PAGE)
        self._run = contiguous_run(rows[0]) if len(rows) == 1 else None
        self._table = None
        self._seen: list[
            tuple[Tensor, Tensor]
        ] = []  # of each layer, [1, L, Hkv, hd]: views of a row whose pages lie in order
        if self._run is not None:
            run = slice(self._run * PAGE, self._run * PAGE + self._longest)
            self._seen = [(keys[None, run], values[None, run]) for keys, values in pool.slots]
        else:
            # A shorter row is filled up with a page of its own: what is read there is masked, but must be no neighbour's NaN.
            table = [row.pages[:pages] + row.pages[:1] * (pages - len(row.pages)) for row in rows]
            self._table = _placed(table, device).flatten()  # [B * pages]
        # A GPU's kernels for few key heads take no mask, but one row has no padding and needs none.
        self._alone = len(rows) == 1 and device.type == "cuda" and pool.keys.dtype in (torch.float16, torch.bfloat16)
        self._mask = None if self._alone and gaze is None else self._causal_mask(device, len(rows))

    def _write_slots(
        self, rows: Sequence[CachedSequence], starts: list[int], new: Sequence[int], device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        slots, source = [], []
        for b, (row, start, n) in enumerate(zip(rows, starts, new, strict=True)):
            for t in range(n):
                position = start + t
                slots.append(row.pages[position // PAGE] * PAGE + position % PAGE)
                source.append(b * self._width + t)
        padded = len(source) != len(rows) * self._width
        return _placed(slots, device), _placed(source, device) if padded else None

    def _causal_mask(self, device: torch.device, rows: int) -> Tensor | None:
        if rows == 1 and self._width == 1:
            return None  # one query that sees everything up to itself
        keys = torch.arange(self._longest, device=device)
        return (keys <= self.positions[:, :, None])[:, None]  # [B, 1, T, L]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q: [B, T, H, hd]; k, v: [B, T, Hkv, hd], roped. Returns [B, T, H, hd]."""
        into_keys, into_values = self._pool.slots[layer]
        into_keys.index_copy_(0, self._slots, self._new(k))
        into_values.index_copy_(0, self._slots, self._new(v))
        keys, values = self._seen[layer] if self._seen else self._gathered(layer, q.shape[0])
        if self._gaze is not None:
            self._gaze.see(layer, q, keys, self._mask)
        if self._alone and self._width > 1:
            return causal_to_the_end(q, keys, values)
        return grouped_attention(q, keys, values, self._mask)

    def _new(self, rows: Tensor) -> Tensor:
        """[B, T, Hkv, hd] -> those that are kept, [n, Hkv, hd]."""
        flat = rows.flatten(0, 1)
        return flat if self._source is None else flat[self._source]

    def _gathered(self, layer: int, batch: int) -> tuple[Tensor, Tensor]:
        """Copies of every row's pages, [B, L, Hkv, hd] each."""
        assert self._table is not None, "pages that are no run have a table"
        pool = self._pool
        # index_select copies whole pages; indexing by a table moves them element by element, five times slower on a CPU.
        both = (cache[layer].index_select(0, self._table) for cache in (pool.keys, pool.values))
        keys, values = (pages.view(batch, -1, *pages.shape[2:])[:, : self._longest] for pages in both)
        return keys, values
