"""A step of one row on a CPU as two graphs: TorchScript runs the operations one after the other, with no Python between them.

Knows which steps are such and what their graphs read and write. Does not know arithmetic: the graphs are traces of the plain path
(`engine.step`, `engine.drawing`), the same operations on the same numbers, and tests hold both to the same bits. A step is some thousand
operations of a microsecond or two, so what Python takes between them, and pushes out of the caches, was a third of the step (SPEED.md).
Steps of several rows stay with Python, which several rows share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.attention import FrameGrown, grouped_attention
from engine.drawing import draw_frame
from engine.gaze import Gaze, HeadGroups
from engine.kv import PAGE, CachedSequence, PagePool, contiguous_run
from engine.model import DualAR, Hidden, Steps
from engine.sampling import Sampler
from engine.traced import Traced, can_trace


def traceable(model: DualAR) -> bool:
    """Steps of this model are short, and this Python can run them as graphs."""
    return isinstance(model.slow_steps, Steps) and can_trace()


class SoloGraphs:
    """Slow step and draws of one row."""

    def __init__(self, model: DualAR, pool: PagePool, groups: HeadGroups | None, sampler: Sampler) -> None:
        """groups: heads that a gaze is to see. Traces now, which takes some tenths of a second."""
        self._model, self._groups, self._pool = model, groups, pool
        self._keys, self._values = pool.keys.flatten(1, 2), pool.values.flatten(1, 2)  # [layers, slots, Hkv, hd]
        self._sampler = sampler
        columns = torch.full((1, model.config.num_codebooks + 1, 1), model.config.semantic_begin)
        columns[:, 1:] = 0
        spare = slice(pool.spare * PAGE, pool.spare * PAGE + 2)
        caches = [cache[:, spare].clone() for cache in (self._keys, self._values)]
        self._slow = Traced(self._slow_step, columns, torch.ones(1, 1, dtype=torch.int64), *caches)
        hidden = torch.zeros(2, 1, model.config.slow.dim)
        state = [tensor.clone() for tensor in sampler.state]
        self._draw = Traced(self._draws, *hidden, torch.zeros(1, dtype=torch.int64), *state)

    def decode(self, sequence: CachedSequence, gaze: Gaze | None = None) -> Hidden:
        """As `Runner.decode`."""
        pool, length, run = self._pool, sequence.length, contiguous_run(sequence)
        if run is None:
            table = torch.tensor(sequence.pages[: -(-length // PAGE)])
            both = [cache.index_select(1, table).flatten(1, 2)[:, :length] for cache in (pool.keys, pool.values)]
        else:
            both = [cache[:, run * PAGE : run * PAGE + length] for cache in (self._keys, self._values)]
        column = torch.from_numpy(sequence.columns[None, :, -1:])
        head, fast, *looked = self._slow(column, torch.tensor([[length - 1]]), *both)
        if run is None:  # the position was written to copies
            page, place = divmod(length - 1, PAGE)
            for cache, copied in zip((pool.keys, pool.values), both, strict=True):
                cache[:, sequence.pages[page], place] = copied[:, -1]
        if gaze is not None:
            (gaze.seen,) = looked
            gaze.finish()
        return Hidden(head, fast)

    def draw(self, hidden: Hidden, rows: Tensor) -> Tensor:
        """As `draw_frame`, for one row. Only while the sampler is `usual`."""
        (frame,) = self._draw(hidden.head, hidden.fast, rows, *self._sampler.state)
        return frame

    def _slow_step(self, columns: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """columns: [1, K + 1, 1]. position: [1, 1]. keys, values: [layers, L, Hkv, hd] up to and with the position, which is written.

        Returns the hidden state's two parts, [1, D] each, and what was seen, if anybody is to look.
        """
        gaze = None if self._groups is None else Gaze(self._groups, ())

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            own = keys[layer], values[layer]
            for cache, new in zip(own, (k, v), strict=True):
                cache[-1].copy_(new[0, 0])
            if gaze is not None:
                gaze.see(layer, q, own[0][None], None)
            return grouped_attention(q, own[0][None], own[1][None])

        hidden = self._model.slow(self._model.embed(columns), position, attend).at(-1)
        return (hidden.head, hidden.fast) if gaze is None else (hidden.head, hidden.fast, gaze.seen)

    def _draws(self, head: Tensor, fast: Tensor, rows: Tensor, *state: Tensor) -> tuple[Tensor]:
        return (draw_frame(self._model, self._sampler.over(state), FrameGrown(), Hidden(head, fast), rows),)
