"""What the convolutions of the codec's kernels see, and where it lies: a window of each, one after the other in one tensor.

Knows places, sizes and scales. Does not know launches or the order of layers (`engine.codec_kernels`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.streaming import StreamingCodec
from engine.streaming_layers import Snake
from engine.streaming_state import Window


def balance(most: Tensor) -> Tensor:
    """Powers of two near `most` float [n], 1 for nothing: exact to multiply with and to divide by."""
    return torch.where(most > 0, torch.exp2(torch.round(torch.log2(most.clamp(min=1e-30)))), torch.ones_like(most))


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What the launches of a frame share."""

    batch: int
    frames: int  # of each row
    windows: Tensor  # of `kind`
    state: Tensor  # float32 [rows, floats]
    floats: int
    index: Tensor  # int64 [batch]
    start: Tensor  # int64 [batch], frames before this one
    turn: Tensor  # float32 [batch, frames, 2, half a head]
    low: int  # between the halves of a window
    dry: bool = False  # only compile


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """A window that a launch fills, and what is remembered of it. Counted in numbers."""

    heads: int  # what is remembered in a row's windows before it
    news: int  # and of a frame in them
    head: int  # remembered
    fresh: int  # of a frame
    place: int  # of what is remembered in a row's state
    back: Tensor  # float32 [channels], powers of two that bring inputs to the size that their weights had
    precise: bool  # it has a second half

    def base(self, frames: int) -> int:
        """Numbers before it in a row's windows."""
        return self.heads + frames * self.news

    def of(self, call: Call) -> Tensor:
        """[batch * (head + frames * fresh)]."""
        return call.windows.narrow(
            0, self.base(call.frames) * call.batch, (self.head + call.frames * self.fresh) * call.batch
        )


@dataclass(frozen=True, slots=True, eq=False)
class Turned:
    """A snake on the way into a window: None of it where only the window is wanted."""

    goal: Goal
    bends: bool
    alpha: Tensor | None  # float32 [outputs]; None: the product gives it scaled
    shift: Tensor | None
    back: Tensor  # float32 [outputs]

    @staticmethod
    def by(snake: Snake | None, goal: Goal, repeats: int = 1, bends: bool = True) -> Turned:
        """repeats: positions that an output stands for."""
        if snake is None:
            return Turned(goal, bends, None, None, goal.back.repeat(repeats))
        shift = torch.zeros_like(snake.alpha) if snake.shift is None else snake.shift
        return Turned(goal, bends, snake.alpha.repeat(repeats), shift.repeat(repeats), goal.back.repeat(repeats))


class Windows:
    """All windows of a frame, one after the other, and the table by which their heads are filled."""

    def __init__(self, codec: StreamingCodec) -> None:
        self._codec = codec
        self._goals: list[Goal] = []
        self._heads = self._news = 0  # numbers in them

    def add(self, window: Window, time: int, back: Tensor, precise: bool) -> Goal:
        """time: inputs of a frame."""
        head, fresh = window.remembered * window.channels, time * window.channels
        place = self._codec.layout.offset(window.place)
        goal = Goal(self._heads, self._news, head, fresh, place, back, precise)
        self._heads, self._news = self._heads + head, self._news + fresh
        self._goals.append(goal)
        return goal

    def numbers(self, frames: int) -> tuple[int, int]:
        """Of a row, and how many of them have second halves, if they are the first ones."""
        fine = [goal.base(frames) + goal.head + frames * goal.fresh for goal in self._goals if goal.precise]
        return self._heads + frames * self._news, max(fine, default=0)

    def table(self, frames: int, chunk: int) -> tuple[Tensor, Tensor]:
        """For `codec_triton.begin`, whose programs move `chunk` numbers each: int64 [chunks, 8], float32 [chunks, chunk]."""
        lines, backs = [], []
        for goal in self._goals:
            whole = goal.back.repeat(goal.head // len(goal.back))
            for at in range(0, goal.head, chunk):
                back = whole[at : at + chunk]
                fresh = frames * goal.fresh
                window = [goal.base(frames), goal.head + fresh]
                lines.append([goal.place + at, *window, at, len(back), fresh, goal.head, int(goal.precise)])
                backs.append(torch.nn.functional.pad(back, (0, chunk - len(back))))
        return torch.tensor(lines, device=backs[0].device), torch.stack(backs).contiguous()
