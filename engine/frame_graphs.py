"""A frame in three pieces of fixed shape: slow step, draws with the fast loop, codec. On a GPU each is a CUDA graph; elsewhere a call.

Knows buckets of rows, the buffers that a graph reads and writes, and how a step's few numbers get there in two copies. The arithmetic is
the plain path's (`engine.model`, `engine.sampling`, `engine.streaming`); only the attention over pages is another, and tests hold both to
the same frames. Does not know streams. A launch from Python takes some 5 us and a frame of S2 Pro has thousands (SPEED.md, "GPU plan").

A step of n rows runs in the smallest bucket that holds it. Rows too many compute on a page, a row of the sampler and a row of the codec
that are nobody's. A row of the slow step is a position of any sequence, so a short prefill is a step, too: its positions are rows that
share their pages, and each sees those before it, as all keys of a layer are written before any row attends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.api import Samples
from engine.attention import grouped_attention
from engine.kv import PAGE, CachedSequence, Columns, PagePool
from engine.model import DualAR, Hidden
from engine.streaming import StreamingCodec

T = TypeVar("T")
Memory = Any  # of torch: a pool handle, or None where there are no graphs
Frame = Callable[[Hidden, Tensor], Tensor]  # (hidden [B, D], rows int64 [B]) -> int64 [B, K + 2], see Runner

_WARM_UPS = 3  # before a capture: libraries make their handles, and compilers compile
_PROGRAMS = 4 * 132  # of the attention, about: four for each multiprocessor of a Hopper GPU
_MOST_SPLITS = 32
# Of a prefill that runs as rows: the text of a segment. Each row reads all keys before it for itself, which costs more than launches do
# where there are many.
MOST_POSITIONS = 128
_NEWEST = 0.1  # weight of the latest step ahead in the share of those that were of use
_WORTH_IT = 0.6  # that share: a step ahead saves a part of a step's time, and one in vain costs all of it


def buckets(rows: int) -> list[int]:
    """Powers of two up to `rows`, and `rows`: a step computes for less than twice its rows."""
    return [size for size in (1 << i for i in range(rows.bit_length())) if size < rows] + [rows]


class Captured(Generic[T]):
    """A function that reads and writes the same tensors in every call."""

    def __init__(self, function: Callable[[], T], device: torch.device, memory: Memory) -> None:
        """memory: shared by graphs of which only the last one's results are wanted."""
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    function()
            torch.cuda.current_stream(device).wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=memory):
                self._out = function()

    def __call__(self) -> T:
        """What the function gives; valid until the next call of anything with the same memory."""
        if self._graph is None:
            return self._function()
        self._graph.replay()
        return self._out


def _memory(device: torch.device) -> Memory:
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


class SlowGraph:
    """The slow stack at up to `rows` positions, the last ones of their sequences."""

    def __init__(self, model: DualAR, pool: PagePool, rows: int, most_pages: int, memory: Memory) -> None:
        """most_pages: of one sequence."""
        self._model, self._pool, self.rows = model, pool, rows
        self._width = model.config.num_codebooks + 1
        device, pinned = model.device, model.device.type == "cuda"
        # Of each row its column, position and slot.
        self._numbers = torch.zeros(rows, self._width + 2, dtype=torch.int64, device=device)
        self._host = torch.zeros(rows, self._width + 2, dtype=torch.int64, pin_memory=pinned)
        # First how many entries a row has, then the rows' pages, one row after the other.
        self._table = torch.zeros(1 + rows * most_pages, dtype=torch.int32, device=device)
        self._host_table = torch.zeros(1 + rows * most_pages, dtype=torch.int32, pin_memory=pinned)
        # Recorded when the device has what `_host` and `_host_table` held.
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
        self._fill([])
        self._step = Captured(self._compute, device, memory)

    def run(self, sequences: Sequence[CachedSequence]) -> Hidden:
        """As `Runner.decode`, with no gaze. Valid until the next call of a graph with the same memory."""
        self._fill([(sequence, sequence.length - 1, sequence.length) for sequence in sequences])
        return self._hidden(len(sequences))

    def follow(self, sequences: Sequence[CachedSequence], columns: Tensor) -> Hidden:
        """The same for the positions that come next, where there is room for them. columns: int64 [>= B, K + 1], on the device."""
        self._fill([(sequence, sequence.length, sequence.length + 1) for sequence in sequences])
        self._numbers[: len(sequences), : self._width] = columns[: len(sequences)]
        return self._hidden(len(sequences))

    def prefill(self, sequence: CachedSequence, new: int) -> Hidden:
        """As `Runner.prefill`, with no gaze, for at most `rows` positions. The result is the caller's."""
        self._fill([(sequence, sequence.length - new, sequence.length)])
        hidden = self._step()
        return Hidden(hidden.head[new - 1 : new].clone(), hidden.fast[new - 1 : new].clone())

    def _hidden(self, rows: int) -> Hidden:
        hidden = self._step()
        return Hidden(hidden.head[:rows], hidden.fast[:rows])

    def _fill(self, parts: Sequence[tuple[CachedSequence, int, int]]) -> None:
        """parts: sequences, and the first of each one's positions that are rows, and the one behind the last."""
        if self._copied is not None:
            self._copied.synchronize()  # two prefills may follow each other without a wait between them
        spare, pages = self._pool.spare, max((len(row.pages) for row, *_ in parts), default=1)
        numbers = self._host.numpy()
        table = self._host_table.numpy()[1 : 1 + self.rows * pages].reshape(self.rows, pages)
        begin = 0
        for row, first, last in parts:
            end, own = begin + last - first, np.asarray(row.pages)
            positions = np.arange(first, last)
            numbers[begin:end, : self._width] = row.columns[:, first:].T if last <= row.length else 0
            numbers[begin:end, -2] = positions
            numbers[begin:end, -1] = own[positions // PAGE] * PAGE + positions % PAGE
            table[begin:end, : len(own)] = own
            begin = end
        numbers[begin:] = 0
        numbers[begin:, -1] = spare * PAGE
        table[begin:] = spare
        self._host_table[0] = pages
        self._numbers.copy_(self._host, non_blocking=True)
        used = 1 + self.rows * pages
        self._table[:used].copy_(self._host_table[:used], non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    @torch.inference_mode()
    def _compute(self) -> Hidden:
        columns, positions = self._numbers[:, : self._width, None], self._numbers[:, self._width, None]
        x = self._model.embed(columns)
        attend = _PagedInPlace if _has_kernels(x.device) else _PagedByCopies
        stride, table = self._table[:1], self._table[1:]
        lengths = (positions[:, 0] + 1).int()
        return self._model.slow(x, positions, attend(self._pool, self._numbers[:, -1], table, stride, lengths)).at(-1)


def _has_kernels(device: torch.device) -> bool:
    return device.type == "cuda"


class _PagedByCopies:
    """`attend` of one step over pages, on a CPU."""

    def __init__(self, pool: PagePool, slots: Tensor, table: Tensor, stride: Tensor, lengths: Tensor) -> None:
        """slots: int64 [R], where each row writes. table: int32, begins with the rows' pages, one row after the other.

        stride: int32 [1], pages of a row. lengths: int32 [R], of what each row sees, itself included.
        """
        self._pool, self._slots, self._table, self._stride, self._lengths = pool, slots, table, stride, lengths

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

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See PagedAttention, with one position a row."""
        from engine.paged_triton import attend

        self._write(layer, k, v)
        keys, values = self._pool.keys[layer], self._pool.values[layer]
        splits = _splits(len(q), k.shape[2])
        return attend(q[:, 0], keys, values, self._table, self._stride, self._lengths, splits)[:, None]

    def turned(self, layer: int, qkv: Tensor, turn: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        """See `engine.fused.Turned`."""
        from engine.turned_triton import attend_pages

        keys, values = self._pool.keys[layer], self._pool.values[layer]
        rows = len(qkv)
        return attend_pages(
            qkv, turn, gain, eps, keys, values, self._slots, self._table, self._stride, self._lengths,
            _splits(rows, keys.shape[2]), apart=rows == 1,
        )  # fmt: skip


def _splits(rows: int, kv_heads: int) -> int:
    """Among how many programs the keys of a row are shared out."""
    return max(1, min(_MOST_SPLITS, _PROGRAMS // (rows * kv_heads)))


class DrawGraph:
    """Draws and fast loop for up to `rows` rows."""

    def __init__(self, frame: Frame, model: DualAR, rows: int, spare_row: int, memory: Memory) -> None:
        """spare_row: of the sampler."""
        self.rows = rows
        self._spare = spare_row
        width = model.config.slow.dim
        head = torch.zeros(rows, width, device=model.device, dtype=model.dtype)
        fast = head if model.config.norm_fastlayer_input else torch.zeros_like(head)
        self._hidden = Hidden(head, fast)
        self._index = torch.full((rows,), spare_row, device=model.device)
        self._step = Captured(lambda: frame(self._hidden, self._index), model.device, memory)

    def run(self, parts: Sequence[Hidden], rows: Sequence[int]) -> Tensor:
        """[>= B, K + 2] on the device, as `Frame` says. Valid until the next call of a graph with the same memory."""
        at = 0
        for part in parts:
            end = at + len(part.head)
            self._hidden.head[at:end] = part.head
            if self._hidden.fast is not self._hidden.head:
                self._hidden.fast[at:end] = part.fast
            at = end
        padded = [*rows, *[self._spare] * (self.rows - len(rows))]
        self._index.copy_(torch.tensor(padded), non_blocking=True)
        return self._step()


class GraphedDecoder:
    """A `FrameDecoder` that runs a graph for each number of rows; on a GPU in a stream of its own, while the next frame is drawn."""

    def __init__(self, codec: StreamingCodec, sizes: Sequence[int], spare_row: int, device: torch.device) -> None:
        """spare_row: of the codec."""
        self._codec, self._spare = codec, spare_row
        self.beside = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self.beside else None  # type: ignore[no-untyped-call]
        self._decoded = torch.cuda.Event() if self.beside else None  # type: ignore[no-untyped-call]
        memory = _memory(device)
        self._index = {size: torch.full((size,), spare_row, device=device) for size in sizes}
        self._codes = {size: torch.zeros(size, codec.codebooks, 1, dtype=torch.int64, device=device) for size in sizes}
        steps = {size: Captured(self._of(size), device, memory) for size in reversed(sizes)}  # as in FrameGraphs
        self._steps = {size: steps[size] for size in sizes}
        self._wave = torch.zeros(max(sizes), codec.frame_samples, pin_memory=self.beside)
        self._wanted = 0
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def _of(self, size: int) -> Callable[[], Tensor]:
        return lambda: self._codec.step(self._codes[size], self._index[size])

    @torch.inference_mode()
    def start(self, codes: npt.NDArray[np.int16], rows: Sequence[int]) -> None:
        """See FrameDecoder."""
        size = next(size for size in self._steps if size >= len(rows))
        padded = np.zeros((size, codes.shape[1], 1), np.int64)
        padded[: len(rows), :, 0] = codes
        with torch.cuda.stream(self._stream):
            self._codes[size].copy_(torch.from_numpy(padded))
            self._index[size].copy_(torch.tensor([*rows, *[self._spare] * (size - len(rows))]))
            self._wave[:size].copy_(self._steps[size](), non_blocking=True)
            if self._decoded is not None:
                self._decoded.record()
        self._wanted = len(rows)

    def finish(self) -> Samples:
        """See FrameDecoder."""
        if self._decoded is not None:
            self._decoded.synchronize()
        samples: Samples = self._wave[: self._wanted].numpy().copy()
        return samples

    def reset(self, row: int) -> None:
        """See FrameDecoder."""
        with torch.cuda.stream(self._stream):
            self._codec.reset(row)

    def close(self) -> None:
        """See FrameDecoder."""


@dataclass(slots=True)
class _Ahead:
    """The slow step after a draw, begun before the host knew what was drawn."""

    rows: dict[int, int]  # by id of the sequence
    sequences: Sequence[CachedSequence]  # keeps those ids theirs
    slots: Sequence[int]  # where each wrote
    hidden: Hidden | None  # None: only to see whether it would have been the right one
    columns: Columns  # [B, K + 1], what was drawn

    def of(self, sequences: Sequence[CachedSequence]) -> list[int] | None:
        """The rows that computed the last positions of these. None: not all of them were computed, or not from what they are now."""
        found = [self.rows.get(id(sequence)) for sequence in sequences]
        known = [row for row in found if row is not None]
        right = len(known) == len(found) and all(
            _slot(sequence, sequence.length - 1) == self.slots[row]
            and (sequence.columns[:, -1] == self.columns[row]).all()
            for sequence, row in zip(sequences, known, strict=True)
        )
        return known if right else None


def _slot(sequence: CachedSequence, position: int) -> int:
    return sequence.pages[position // PAGE] * PAGE + position % PAGE


class FrameGraphs:
    """All graphs of a runner, and the step ahead.

    Between a draw and the next slow step the host looks at what was drawn, some tenths of a millisecond in which a GPU would do nothing.
    So the slow step of everybody who drew is begun at once, from codes that are still on the device. It is of use if the next step is for
    these sequences or some of them, which it mostly is; nobody has asked for a step that is not, so once that was often so none is begun.
    """

    def __init__(self, model: DualAR, pool: PagePool, frame: Frame, rows: int, spare_row: int) -> None:
        """rows: most of a step. Captures everything now, which takes seconds."""
        most_pages = min(pool.pages, -(-model.config.max_positions // PAGE))
        sizes, slow, draw = buckets(rows), _memory(model.device), _memory(model.device)
        # The largest first: smaller ones then find room in its memory.
        longer = sorted({*sizes, *buckets(max(rows, MOST_POSITIONS))}, reverse=True)
        self._slow = [SlowGraph(model, pool, size, most_pages, slow) for size in longer][::-1]
        self._draw = [DrawGraph(frame, model, size, spare_row, draw) for size in reversed(sizes)][::-1]
        self._most_positions = model.config.max_positions
        on_gpu = model.device.type == "cuda"
        self._drawn = torch.zeros(rows, model.config.num_codebooks + 2, dtype=torch.int64, pin_memory=on_gpu)
        self._arrived = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        self._ahead: _Ahead | None = None
        self._useful = 1.0  # share of the latest steps ahead that were, or would have been

    def prefill(self, sequence: CachedSequence, new: int) -> Hidden | None:
        """As `Runner.prefill`. None, and nothing done: too many positions."""
        ahead = self._ahead
        if ahead is not None:
            ahead.rows.pop(id(sequence), None)  # it may have another past now
        if new > MOST_POSITIONS:
            return None
        if ahead is not None and ahead.hidden is not None:
            ahead.hidden = Hidden(ahead.hidden.head.clone(), ahead.hidden.fast.clone())
        return next(graph for graph in self._slow if graph.rows >= new).prefill(sequence, new)

    def decode(self, sequences: Sequence[CachedSequence]) -> Hidden:
        """As `Runner.decode`."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            rows = ahead.of(sequences)
            self._useful += _NEWEST * ((rows is not None) - self._useful)
            if rows is not None and ahead.hidden is not None:
                return _rows_of(ahead.hidden, rows)
        return self._slow_graph(len(sequences)).run(sequences)

    def draw(
        self, parts: Sequence[Hidden], rows: Sequence[int], sequences: Sequence[CachedSequence]
    ) -> npt.NDArray[np.int64]:
        """One frame of each row; parts, sequences: as `Runner.draw`."""
        out = next(graph for graph in self._draw if graph.rows >= len(rows)).run(parts, rows)
        self._drawn[: len(rows)].copy_(out[: len(rows)], non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
        self._ahead = self._begun(sequences, out[:, 1:])
        if self._arrived is not None:
            self._arrived.synchronize()
        host: npt.NDArray[np.int64] = self._drawn[: len(rows)].numpy().copy()
        if self._ahead is not None:
            self._ahead.columns = host[:, 1:]
        return host

    def _begun(self, sequences: Sequence[CachedSequence], columns: Tensor) -> _Ahead | None:
        """columns: int64 [>= B, K + 1], on the device."""
        if not sequences or not all(one.length < self._most_positions and one.make_room() for one in sequences):
            return None
        rows = {id(sequence): row for row, sequence in enumerate(sequences)}
        slots = [_slot(sequence, sequence.length) for sequence in sequences]
        hidden = None
        if self._useful > _WORTH_IT:
            hidden = self._slow_graph(len(sequences)).follow(sequences, columns)
        return _Ahead(rows, sequences, slots, hidden, np.zeros((0, 0), np.int64))

    def _slow_graph(self, rows: int) -> SlowGraph:
        return next(graph for graph in self._slow if graph.rows >= rows)


def _rows_of(hidden: Hidden, rows: list[int]) -> Hidden:
    if rows == list(range(len(rows))):
        return Hidden(hidden.head[: len(rows)], hidden.fast[: len(rows)])
    index = torch.tensor(rows, device=hidden.head.device)
    return Hidden(hidden.head[index], hidden.fast[index])
