"""A frame in pieces of fixed shape: slow step (`engine.slow_graph`), draws with the fast loop, codec (`engine.graphed_decoder`).

On a GPU each is a CUDA graph, for numbers of rows that `buckets` names; elsewhere a call. Knows the draws' graph, which graph a step
takes, and the step ahead. The arithmetic is the plain path's (`engine.model`, `engine.sampling`, `engine.streaming`). Does not know
streams. A launch from Python takes some 5 us and a frame of S2 Pro has thousands (GPU.md).

A step of n rows runs in the smallest graph that holds it. Rows too many are nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.attention import FrameMemory
from engine.captured import Captured, GraphMemory, buckets
from engine.drawing import draw_frame
from engine.kv import PAGE, CachedSequence, Columns, PagePool
from engine.model import DualAR, Hidden
from engine.sampling import WIDTHS, Sampler
from engine.slow_graph import SlowGraph

Frame = Callable[[Hidden, Tensor], Tensor]  # (hidden [B, D], rows int64 [B]) -> int64 [B, K + 2], see `draw_frame`

# Of a prefill that runs as one step's rows; what is longer takes several. A step of 512 has work for some 8 ms of a Hopper GPU, so four
# times as many would win nothing by running at once, and launches one by one take 25 ms.
MOST_POSITIONS = 512
# Of a prefill that shares its pass with others': it costs no pass over the weights then, but each of its positions reads all keys before it
# for itself. 0: each has a pass of its own.
MOST_JOINED = 128
_WIDE = WIDTHS[2]  # candidates: more than that nobody may ask for who comes over the wire
_NEWEST = 0.1  # weight of the latest step ahead in the share of rows that were of use
_WORTH_IT = 0.6  # that share: a step ahead saves a part of a step's time, and one in vain costs all of it


class DrawGraph:
    """Draws and fast loop for up to `rows` rows."""

    def __init__(self, frame: Frame, model: DualAR, rows: int, spare_row: int, memory: GraphMemory | None) -> None:
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


@dataclass(frozen=True, slots=True)
class _Draws:
    """Graphs of one kind of draws."""

    sampler: Sampler
    graphs: Sequence[DrawGraph]  # by their rows

    def run(self, parts: Sequence[Hidden], rows: Sequence[int]) -> Tensor:
        """See DrawGraph."""
        return next(graph for graph in self.graphs if graph.rows >= len(rows)).run(parts, rows)


@dataclass(slots=True)
class _Ahead:
    """The slow step after a draw, begun before the host knew what was drawn."""

    rows: dict[int, int]  # by id of the sequence
    sequences: Sequence[CachedSequence]  # keeps those ids theirs
    slots: Sequence[int]  # where each wrote
    hidden: Hidden | None  # None: only to see whether it would have been the right one
    columns: Columns  # [B, K + 1], what was drawn

    def of(self, sequences: Sequence[CachedSequence]) -> list[int | None]:
        """The row that computed the last position of each. None: none did, or not from what it is now."""
        found = [self.rows.get(id(sequence)) for sequence in sequences]
        there = [(sequence, row) for sequence, row in zip(sequences, found, strict=True) if row is not None]
        if not there:
            return found
        columns, rows = np.stack([sequence.columns[:, -1] for sequence, _ in there]), [row for _, row in there]
        drawn = (columns == self.columns[rows]).all(1)
        for (sequence, row), same in zip(there, drawn, strict=True):
            if not same or _slot(sequence, sequence.length - 1) != self.slots[row]:
                found[sequences.index(sequence)] = None
        return found


def _slot(sequence: CachedSequence, position: int) -> int:
    return sequence.pages[position // PAGE] * PAGE + position % PAGE


class FrameGraphs:
    """All graphs of a runner, and the step ahead.

    Between a draw and the next slow step the host looks at what was drawn, some tenths of a millisecond in which a GPU would do nothing.
    So the slow step of everybody who drew is begun at once, from codes that are still on the device. It is of use as far as the next step
    is for these sequences, which it mostly is. While it mostly is not, none is begun.
    """

    def __init__(
        self, model: DualAR, pool: PagePool, sampler: Sampler, kv: FrameMemory, rows: int, spare_row: int
    ) -> None:
        """rows: most of a step. Captures everything now, which takes seconds."""
        most_pages = min(pool.pages, -(-model.config.max_positions // PAGE))
        sizes, slow, draw = buckets(rows), GraphMemory.of(model.device), GraphMemory.of(model.device)
        # The largest first: smaller ones then find room in its memory.
        longer = sorted({*sizes, *buckets(max(rows, MOST_POSITIONS))}, reverse=True)
        self._slow = [SlowGraph(model, pool, size, most_pages, slow) for size in longer][::-1]
        # One row that wants many candidates, or a penalty, takes nobody else from the quick draws: it has graphs of its own.
        samplers = [sampler.fixed(WIDTHS[0], False), sampler.fixed(_WIDE, True)]
        self._draws = [
            _Draws(one, [DrawGraph(_frame(model, one, kv), model, size, spare_row, draw) for size in sizes[::-1]][::-1])
            for one in samplers
        ]
        self._sampler, self._any = sampler, _frame(model, sampler, kv)
        self._most_positions = model.config.max_positions
        on_gpu = model.device.type == "cuda"
        self._drawn = torch.zeros(rows, model.config.num_codebooks + 2, dtype=torch.int64, pin_memory=on_gpu)
        self._arrived = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        self._ahead: _Ahead | None = None
        self._useful = 1.0  # share of the latest steps ahead that were, or would have been

    def prefill(self, sequence: CachedSequence, new: int) -> Hidden:
        """As `Runner.prefill`."""
        self._keep_ahead([sequence])
        most = self._slow[-1].rows
        first = sequence.length - new
        for start in range(first, sequence.length, most):
            count = min(most, sequence.length - start)
            hidden = self._slow_graph(count).prefill(sequence, start, count)
        return hidden

    def decode(self, sequences: Sequence[CachedSequence]) -> Hidden:
        """As `Runner.decode`."""
        return self._decode(sequences, self._known(sequences), [])

    def advance(
        self, prefills: Sequence[tuple[CachedSequence, int]], decoding: Sequence[CachedSequence]
    ) -> tuple[list[Hidden], Hidden | None]:
        """As `Runner.advance`. Short prefills share passes: the first with rows that decode and that no step ahead has computed."""
        known = self._known(decoding)
        most = self._slow[-1].rows
        shared, left = (
            [list[int]()],
            [most - known.count(None)],
        )  # places of prefills that share a pass, and its free rows
        for place, (_, new) in enumerate(prefills):
            if new <= MOST_JOINED:
                at = next((at for at, room in enumerate(left) if new <= room), len(left))
                if at == len(left):
                    shared.append([])
                    left.append(most)
                shared[at].append(place)
                left[at] -= new
        states = {place: self.prefill(*one) for place, one in enumerate(prefills) if one[1] > MOST_JOINED}
        for places in shared[1:] if decoding else shared:
            if places:
                self._keep_ahead([prefills[place][0] for place in places])
                made = self._advance([prefills[place] for place in places])
                states |= {place: _rows_of(made, [row]) for row, place in enumerate(places)}
        decoded = None
        if decoding:
            made = self._decode(decoding, known, [prefills[place] for place in shared[0]])
            decoded = _rows_of(made, range(len(decoding)))
            states |= {place: _rows_of(made, [row]) for row, place in enumerate(shared[0], start=len(decoding))}
        return [states[place] for place in range(len(prefills))], decoded

    def _known(self, sequences: Sequence[CachedSequence]) -> list[int | None]:
        """The row of the step ahead that has computed each. None: none has."""
        if self._ahead is None or not sequences:
            return [None] * len(sequences)
        rows = self._ahead.of(sequences)
        self._useful += _NEWEST * (1 - rows.count(None) / len(rows) - self._useful)
        return [None] * len(rows) if self._ahead.hidden is None else rows

    def _keep_ahead(self, changed: Sequence[CachedSequence]) -> None:
        """Another pass takes the memory of the step ahead. changed: who may have another past now."""
        ahead = self._ahead
        if ahead is None:
            return
        for sequence in changed:
            ahead.rows.pop(id(sequence), None)
        if ahead.hidden is not None:
            ahead.hidden = Hidden(ahead.hidden.head.clone(), ahead.hidden.fast.clone())

    def _decode(
        self,
        sequences: Sequence[CachedSequence],
        rows: Sequence[int | None],
        beside: Sequence[tuple[CachedSequence, int]],
    ) -> Hidden:
        """The last positions of `sequences`, then that of each of `beside`, of which so many are new. rows: see `_known`."""
        ahead, self._ahead = self._ahead, None
        known = [(place, row) for place, row in enumerate(rows) if row is not None]
        if ahead is None or ahead.hidden is None or not known:
            if beside:
                return self._advance([*((sequence, 1) for sequence in sequences), *beside])
            return self._slow_graph(len(sequences)).run(sequences)
        done = _rows_of(ahead.hidden, [row for _, row in known])
        late = [place for place, row in enumerate(rows) if row is None]
        if not late and not beside:
            return done
        done = Hidden(done.head.clone(), done.fast.clone())  # the next call takes their memory
        added = self._advance([*((sequences[place], 1) for place in late), *beside])
        order = np.argsort([*(place for place, _ in known), *late])
        return _rows_of(_joined([done, added]), [*order, *range(len(sequences), len(sequences) + len(beside))])

    def _advance(self, parts: Sequence[tuple[CachedSequence, int]]) -> Hidden:
        """The last positions of several sequences, of which so many are new, in one pass. [n, D], the caller's."""
        if len(parts) == 1:
            ((sequence, new),) = parts
            return self._slow_graph(new).prefill(sequence, sequence.length - new, new)
        return self._slow_graph(sum(new for _, new in parts)).advance(parts)

    def draw(
        self, parts: Sequence[Hidden], rows: Sequence[int], sequences: Sequence[CachedSequence]
    ) -> npt.NDArray[np.int64]:
        """One frame of each row; parts, sequences: as `Runner.draw`."""
        out = self._frames(parts, rows)
        self._drawn[: len(rows)].copy_(out[: len(rows)], non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
        self._ahead = self._begun(sequences, out[:, 1:])
        if self._arrived is not None:
            self._arrived.synchronize()
        host: npt.NDArray[np.int64] = self._drawn[: len(rows)].numpy().copy()
        if self._ahead is not None:
            self._ahead.columns = host[:, 1:].copy()  # the caller may change what he gets
        return host

    def _frames(self, parts: Sequence[Hidden], rows: Sequence[int]) -> Tensor:
        """[>= B, K + 2] on the device."""
        if self._sampler.usual:
            return self._draws[0].run(parts, rows)
        by: dict[int, list[int]] = {}  # places in `rows`, by the first of `_draws` that serves them
        for place, row in enumerate(rows):
            kind = next((kind for kind, draws in enumerate(self._draws) if draws.sampler.serves(row)), len(self._draws))
            by.setdefault(kind, []).append(place)
        if len(by) == 1 and (kind := next(iter(by))) < len(self._draws):
            return self._draws[kind].run(parts, rows)
        hidden, drawn = _joined(parts), []
        for kind, places in by.items():
            own, chosen = _rows_of(hidden, places), [rows[place] for place in places]
            if kind < len(self._draws):
                out = self._draws[kind].run([own], chosen)[: len(places)]
                drawn.append(out.clone())  # the next graph takes its memory
            else:
                drawn.append(self._any(own, _placed(chosen, hidden.head.device)))
        order = np.argsort([place for places in by.values() for place in places])
        return torch.cat(drawn)[_placed(order, hidden.head.device)]

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


def _frame(model: DualAR, sampler: Sampler, kv: FrameMemory) -> Frame:
    return partial(draw_frame, model, sampler, kv)


def _joined(parts: Sequence[Hidden]) -> Hidden:
    if len(parts) == 1:
        return parts[0]
    return Hidden(torch.cat([part.head for part in parts]), torch.cat([part.fast for part in parts]))


def _placed(numbers: Sequence[int] | npt.NDArray[np.int64], device: torch.device) -> Tensor:
    # Made on the host first: to make it on the device would wait for all that is queued there.
    return torch.tensor(numbers).to(device, non_blocking=True)


def _rows_of(hidden: Hidden, rows: Sequence[int] | npt.NDArray[np.int64]) -> Hidden:
    first, count = int(rows[0]), len(rows)
    if list(rows) == list(range(first, first + count)):
        return Hidden(hidden.head[first : first + count], hidden.fast[first : first + count])
    index = _placed(rows, hidden.head.device)
    return Hidden(hidden.head[index], hidden.fast[index])
