"""What the rows of a streaming codec remember, and how a step's layers get at it.

Knows tensors and whose they are: the last inputs of every convolution, a ring for each attention, frames so far. Does not know what
layers compute (`engine.streaming_layers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Layout:
    """Hands out places in what a row remembers: the last inputs of every convolution, and a ring of each attention."""

    def __init__(self) -> None:
        self._inputs: list[tuple[int, int]] = []  # (inputs, channels) of every window
        self.rings: list[tuple[int, ...]] = []  # shapes

    @property
    def floats(self) -> int:
        """Size of a row's last inputs."""
        return sum(inputs * channels for inputs, channels in self._inputs)

    def take(self, inputs: int, channels: int) -> int:
        """A window's number. inputs: that it remembers."""
        self._inputs.append((inputs, channels))
        return len(self._inputs) - 1

    def take_ring(self, *shape: int) -> int:
        """A ring's number."""
        self.rings.append(shape)
        return len(self.rings) - 1

    def offset(self, place: int) -> int:
        """Where a window's last inputs lie among those of a row."""
        return sum(inputs * channels for inputs, channels in self._inputs[:place])

    def places(self, history: Tensor) -> list[Tensor]:
        """Views of last inputs [B, floats], by number: [B, inputs, channels] each."""
        parts = torch.split(history, [inputs * channels for inputs, channels in self._inputs], 1)
        return [torch.unflatten(part, 1, shape) for part, shape in zip(parts, self._inputs, strict=True)]


@dataclass(frozen=True, slots=True)
class Step:
    """What the layers of one call share."""

    batch: int  # B
    frames: int  # frames of each row in this call
    places: Sequence[Tensor]  # the last inputs of each window, [B, inputs, channels], updated in place
    rings: Sequence[Tensor]  # of each attention and of all rows, [rows, ring, 2, H, hd], updated in place
    start: Tensor  # int64 [B], frames of each row before this call
    index: Tensor  # int64 [B], the rows
    first: int | None  # the rows are first, first + 1, ...: their state can be viewed; None: it has to be gathered

    def select(self, state: Tensor) -> Tensor:
        """state [rows, ...] -> its rows of this call, [B, ...], a view where possible."""
        if self.first is None:
            return state.index_select(0, self.index)
        return state.narrow(0, self.first, self.batch)


class Window:
    """The last inputs of a causal convolution of stride 1, for every row.

    `open` leaves room for the new inputs behind the remembered ones, so that they are computed in place.
    """

    def __init__(self, layout: Layout, taps: int, channels: int, dilation: int = 1, block: int = 1) -> None:
        """block: outputs looked at together; they see block - 1 inputs more. Needs dilation 1."""
        self.channels, self.dilation, self.block = channels, dilation, block
        self.remembered = (taps - 1) * dilation  # inputs
        self.seen = taps + block - 1
        self.place = layout.take(self.remembered, channels)

    def open(self, step: Step, time: int) -> tuple[Tensor, Tensor]:
        """[B, remembered + time, C] whose first inputs are filled in, and the part of it to fill, [B, time, C]."""
        window = step.places[self.place].new_empty(step.batch, self.remembered + time, self.channels)
        if self.remembered:
            window.narrow(1, 0, self.remembered).copy_(step.places[self.place])
        return window, window.narrow(1, self.remembered, time)

    def close(self, step: Step, window: Tensor) -> Tensor:
        """Remember the last inputs of a filled window. Returns, as a view, what is seen: [B, time / block, seen, C]."""
        span, channels = int(window.shape[1]), self.channels
        time = span - self.remembered
        if self.remembered:
            step.places[self.place].copy_(window.narrow(1, time, self.remembered))
        strides = (span * channels, self.block * channels, self.dilation * channels, 1)
        return window.as_strided((step.batch, time // self.block, self.seen, channels), strides)


@dataclass(frozen=True, slots=True)
class Opened(Step):
    """A step of rows whose states are known."""

    history: Tensor  # float [B, Layout.floats], which `places` are views of


class RowStates:
    """What the rows of a stream remember, in tensors allocated once."""

    def __init__(self, rows: int, layout: Layout, device: torch.device) -> None:
        """layout: complete."""
        self.rows = rows
        self._layout = layout
        self._history = torch.zeros(rows, layout.floats, device=device)  # last inputs of every convolution
        self._frames = torch.zeros(rows, dtype=torch.int64, device=device)  # frames so far
        self._rings = [torch.zeros(rows, *shape, device=device) for shape in layout.rings]
        self._numbers = torch.arange(rows, device=device)

    @property
    def history(self) -> Tensor:
        """Last inputs of every convolution, float32 [rows, Layout.floats]."""
        return self._history

    @property
    def frames(self) -> Tensor:
        """Frames so far, int64 [rows]."""
        return self._frames

    @property
    def rings(self) -> Sequence[Tensor]:
        """Of each attention, float32 [rows, ring, 2, H, hd]."""
        return self._rings

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, a row each."""
        return [self._history, self._frames, *self._rings]

    def of(self, row: int) -> list[Tensor]:
        """Views of what a row remembers."""
        return [state.narrow(0, row, 1) for state in self.tensors]

    def check(self, rows: Sequence[int]) -> None:
        """Raises ValueError for rows that are not ours."""
        if not rows or len(set(rows)) != len(rows) or min(rows) < 0 or max(rows) >= self.rows:
            raise ValueError(f"rows {list(rows)} must be distinct and lie in 0..{self.rows - 1}")

    def open(self, rows: Sequence[int] | Tensor, frames: int) -> Opened:
        """Begin a call that advances `rows` by `frames`; `close` ends it. Raises ValueError for rows that are not ours."""
        first = None
        if isinstance(rows, Tensor):
            index = rows
        else:
            self.check(rows)
            if list(rows) == list(range(rows[0], rows[0] + len(rows))):
                first = rows[0]
                index = self._numbers.narrow(0, first, len(rows))
            else:
                index = torch.tensor(rows, device=self._numbers.device)
        if first is None:
            history, start = self._history.index_select(0, index), self._frames.index_select(0, index)
        else:
            history, start = (state.narrow(0, first, len(index)) for state in (self._history, self._frames))
        return Opened(len(index), frames, self._layout.places(history), self._rings, start, index, first, history)

    def close(self, step: Opened) -> None:
        """Keep what the call left behind."""
        if step.first is None:
            self._history.index_copy_(0, step.index, step.history)
            self._frames.index_copy_(0, step.index, step.start + step.frames)
        else:
            step.start.add_(step.frames)

    def reset(self, row: int) -> None:
        """Make `row` new. Raises IndexError for a row that is not ours."""
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} does not lie in 0..{self.rows - 1}")
        for state in self.of(row):
            state.zero_()  # masks alone would hide an old ring, but not a NaN in it: 0 * NaN is NaN

    def nbytes(self) -> int:
        """Bytes of state; constant."""
        return sum(state.nbytes for state in self.tensors)
