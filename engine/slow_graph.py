"""The slow stack's step of fixed shape, for decoding and for prefills.

Knows the buffers that a graph reads, how a step's few numbers get there in two copies, and the attention over pages in place, which is not
the plain path's (`engine.kv`); tests hold both to the same frames. Does not know who is decoded, or draws.

Rows too many compute on a page that is nobody's. A row is a position of any sequence, so a prefill is a step, too: its positions are
rows that share their pages, and each sees those before it, as all keys of a layer are written before any row attends.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.attention import grouped_attention
from engine.captured import Captured, GraphMemory
from engine.kv import PAGE, CachedSequence, PagePool
from engine.model import DualAR, Hidden

_PROGRAMS = 4 * 132  # of the attention, about: four for each multiprocessor of a Hopper GPU
_MOST_SPLITS = 32
_ALONE = True  # one row attends in one kernel
_HEAD = 2  # entries of a table before the pages


class SlowGraph:
    """The slow stack at up to `rows` positions, the last ones of their sequences."""

    def __init__(self, model: DualAR, pool: PagePool, rows: int, most_pages: int, memory: GraphMemory | None) -> None:
        """most_pages: of one sequence."""
        self._model, self._pool, self.rows = model, pool, rows
        self._width = model.config.num_codebooks + 1
        device, pinned = model.device, model.device.type == "cuda"
        # Of each row its column, position and slot.
        self._numbers = torch.zeros(rows, self._width + 2, dtype=torch.int64, device=device)
        self._host = torch.zeros(rows, self._width + 2, dtype=torch.int64, pin_memory=pinned)
        # First how many pages a row has and whether all rows have the same, then the pages, one row after the other.
        self._table = torch.zeros(_HEAD + rows * most_pages, dtype=torch.int32, device=device)
        self._host_table = torch.zeros(_HEAD + rows * most_pages, dtype=torch.int32, pin_memory=pinned)
        # Recorded when the device has what `_host` and `_host_table` held.
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
        self._fill([], np.zeros(0, np.int64), None)
        self._step = Captured(self._compute, device, memory)

    def run(self, sequences: Sequence[CachedSequence]) -> Hidden:
        """As `Runner.decode`, with no gaze. Valid until the next call of a graph with the same memory."""
        self._fill(
            sequences,
            np.array([sequence.length - 1 for sequence in sequences]),
            np.stack([sequence.columns[:, -1] for sequence in sequences]),
        )
        return self._hidden(len(sequences))

    def follow(self, sequences: Sequence[CachedSequence], columns: Tensor) -> Hidden:
        """The same for the positions that come next, where there is room for them. columns: int64 [>= B, K + 1], on the device."""
        self._fill(sequences, np.array([sequence.length for sequence in sequences]), None)
        self._numbers[: len(sequences), : self._width] = columns[: len(sequences)]
        return self._hidden(len(sequences))

    def prefill(self, sequence: CachedSequence, start: int, count: int) -> Hidden:
        """Compute `count` positions from `start` on, at most `rows`; those before are there. Returns the last one's state, the caller's."""
        end = start + count
        self._fill([sequence], np.arange(start, end), sequence.columns[:, start:end].T)
        hidden = self._step()
        return Hidden(hidden.head[count - 1 : count].clone(), hidden.fast[count - 1 : count].clone())

    def advance(self, parts: Sequence[tuple[CachedSequence, int]]) -> Hidden:
        """Compute the last so many positions of several sequences, at most `rows` together. Returns the last one's state of each, [n, D],
        the caller's."""
        counts = [new for _, new in parts]
        self._fill(
            [sequence for sequence, new in parts for _ in range(new)],
            np.concatenate([np.arange(sequence.length - new, sequence.length) for sequence, new in parts]),
            np.concatenate([sequence.columns[:, -new:].T for sequence, new in parts]),
        )
        hidden = self._step()
        lasts = torch.tensor(np.cumsum(counts) - 1).to(hidden.head.device, non_blocking=True)
        return Hidden(hidden.head[lasts], hidden.fast[lasts])

    def _hidden(self, rows: int) -> Hidden:
        hidden = self._step()
        return Hidden(hidden.head[:rows], hidden.fast[:rows])

    def _fill(
        self,
        sequences: Sequence[CachedSequence],
        positions: npt.NDArray[np.int64],
        columns: npt.NDArray[np.int64] | None,
    ) -> None:
        """sequences: of each row, or the one of all. positions: [n]. columns: [n, K + 1]; None: they are on the device."""
        if self._copied is not None:
            self._copied.synchronize()  # two prefills may follow each other without a wait between them
        rows, spare = len(positions), self._pool.spare
        counts = np.fromiter((len(sequence.pages) for sequence in sequences), np.int64, len(sequences))
        most = int(counts.max(initial=1))
        table = self._host_table.numpy()[_HEAD : _HEAD + self.rows * most].reshape(self.rows, most)
        pages = np.fromiter(chain.from_iterable(sequence.pages for sequence in sequences), np.int32, int(counts.sum()))
        together = len(sequences) == 1
        if together:
            table[:rows] = pages
        else:
            table[:rows][np.arange(most) < counts[:, None]] = pages
        table[rows:] = spare
        numbers = self._host.numpy()
        if columns is not None:
            numbers[:rows, : self._width] = columns
        numbers[:rows, -2] = positions
        numbers[:rows, -1] = table[np.arange(rows), positions // PAGE].astype(np.int64) * PAGE + positions % PAGE
        numbers[rows:] = 0
        numbers[rows:, -1] = spare * PAGE
        self._host_table[0], self._host_table[1] = most, together
        self._numbers.copy_(self._host, non_blocking=True)
        used = _HEAD + self.rows * most
        self._table[:used].copy_(self._host_table[:used], non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    @torch.inference_mode()
    def _compute(self) -> Hidden:
        columns, positions = self._numbers[:, : self._width, None], self._numbers[:, self._width, None]
        x = self._model.embed(columns)
        attend = _PagedInPlace if in_place(self._model) else _PagedByCopies
        lengths = (positions[:, 0] + 1).int()
        return self._model.slow(x, positions, attend(self._pool, self._numbers[:, -1], self._table, lengths)).at(-1)


def in_place(model: DualAR) -> bool:
    """Whether attention of a `SlowGraph` reads keys and values where they lie, and none that is not the row's."""
    return model.kernels or model.device.type == "cuda"


class _PagedByCopies:
    """`attend` of one step over pages, on a CPU."""

    def __init__(self, pool: PagePool, slots: Tensor, table: Tensor, lengths: Tensor) -> None:
        """slots: int64 [R], where each row writes. lengths: int32 [R], of what each row sees, itself included.

        table: int32, begins with how many pages a row has, whether the rows are positions of one sequence, and their pages, one row
        after the other.
        """
        self._pool, self._slots, self._lengths = pool, slots, lengths
        self._stride, self._together, self._table = table[:1], table[1:_HEAD], table[_HEAD:]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See PagedAttention, with one position a row."""
        self._write(layer, k, v)
        table = self._table[: len(q) * int(self._stride)].view(len(q), -1).long()
        keys, values = (cache[layer][table].flatten(1, 2) for cache in (self._pool.keys, self._pool.values))
        mask = torch.arange(keys.shape[1]) < self._lengths[:, None]
        return grouped_attention(q, keys, values, mask[:, None, None])

    def _write(self, layer: int, k: Tensor, v: Tensor) -> None:
        for cache, new in zip(self._pool.slots[layer], (k, v), strict=True):
            cache.index_copy_(0, self._slots, new[:, 0])


class _PagedInPlace(_PagedByCopies):
    """The same on a GPU, where nothing is copied."""

    _arrived: Tensor | None = None  # parts of one row's keys that are done; of one step, whose layers follow each other

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See PagedAttention, with one position a row."""
        from engine.paged_triton import attend

        self._write(layer, k, v)
        keys, values = self._pool.keys[layer], self._pool.values[layer]
        pages = self._table, self._stride, self._lengths, _splits(len(q), k.shape[2])
        return attend(q[:, 0], keys, values, *pages, self._together)[:, None]

    def turned(self, layer: int, qkv: Tensor, turn: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        """See `engine.fused.Turned`."""
        from engine.turned_triton import attend_pages

        keys, values = self._pool.keys[layer], self._pool.values[layer]
        rows, kv_heads = len(qkv), keys.shape[2]
        if self._arrived is None and rows == 1 and _ALONE:
            self._arrived = torch.zeros(kv_heads, dtype=torch.int32, device=qkv.device)
        pages = self._slots, self._table, self._stride, self._lengths, _splits(rows, kv_heads)
        return attend_pages(qkv, turn, gain, eps, keys, values, *pages, self._arrived, self._together)


def _splits(rows: int, kv_heads: int) -> int:
    """Among how many programs the keys of a row are shared out."""
    return max(1, min(_MOST_SPLITS, _PROGRAMS // (rows * kv_heads)))
