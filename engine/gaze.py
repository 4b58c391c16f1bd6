"""What the chosen heads look at while a step is computed: their q.k once more, beside the fused attention that keeps no weights.

Knows queries, keys, and where each row's text stands among them. Does not know what a look means (`engine.following`), nor who chose the
heads. Costs one small product a head, over keys that the step has just read: of 48 heads in 6 layers, two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.config import StackConfig
from engine.heads import Head

Look = npt.NDArray[np.float32]  # [tokens]: the share of attention that each token of a segment's text has


@dataclass(frozen=True, slots=True)
class TextSpan:
    """Where the tokens of a segment's text stand in its prompt."""

    start: int  # position of the first
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Chosen heads of one layer that share their keys."""

    kv_head: int
    heads: Tensor  # int64 [n]


class HeadGroups:
    """The chosen heads of a model, by layer. Made once; immutable."""

    def __init__(self, heads: Sequence[Head], stack: StackConfig, device: torch.device) -> None:
        shared = stack.n_head // stack.n_kv_head  # query heads that have the same keys
        by_keys: dict[tuple[int, int], list[int]] = defaultdict(list)
        for head in heads:
            by_keys[head.layer, head.head // shared].append(head.head)
        self.by_layer: dict[int, list[_Group]] = defaultdict(list)
        for (layer, kv_head), numbers in by_keys.items():
            self.by_layer[layer].append(_Group(kv_head, torch.tensor(numbers, device=device)))
        self.count = len(heads)


class Gaze:
    """One pass: each row's last query, and its attention to the row's text."""

    def __init__(self, groups: HeadGroups, texts: Sequence[TextSpan]) -> None:
        """texts: of each row."""
        self._groups = groups
        self._texts = texts
        self._sum: Tensor | None = None  # float32 [B, L], of the heads so far
        self._at_text: Tensor | None = None  # on the host, or on its way there

    def see(self, layer: int, q: Tensor, keys: Tensor, mask: Tensor | None) -> None:
        """q: [B, T, H, hd]. keys: [B, L, Hkv, hd]. mask: bool [B, 1, T, L] or None, as in `grouped_attention`."""
        for group in self._groups.by_layer.get(layer, ()):
            asked = q[:, -1].index_select(1, group.heads).mul_(q.shape[-1] ** -0.5)  # [B, n, hd]
            scores = torch.bmm(asked, keys[:, :, group.kv_head].transpose(1, 2)).float()  # [B, n, L]
            if mask is not None:
                scores = scores.masked_fill(~mask[:, :, -1], -torch.inf)
            looked = scores.softmax(-1).sum(1)
            self._sum = looked if self._sum is None else self._sum + looked

    @property
    def seen(self) -> Tensor:
        """What was seen so far, float32 [B, L]: the sum over heads. Settable, for a pass that somebody else computed."""
        assert self._sum is not None, "every chosen head is in a layer of the pass"
        return self._sum

    @seen.setter
    def seen(self, total: Tensor) -> None:
        self._sum = total

    def finish(self) -> None:
        """The pass is over: send what was seen to the host without waiting for it."""
        total = self.seen
        if len(self._texts) == 1:
            text = self._texts[0]
            seen = total[:, text.start : text.start + text.count]
        else:
            device = total.device
            width = torch.arange(max(text.count for text in self._texts), device=device)
            starts = torch.tensor([text.start for text in self._texts], device=device)
            seen = total.gather(1, (starts[:, None] + width).clamp_(max=total.shape[1] - 1))
        self._at_text = seen.div(self._groups.count).to("cpu", non_blocking=True)

    def looks(self) -> list[Look]:
        """Of each row, the heads' mean.

        Only once something that the device computed after the pass has come to the host, as a step's draws do.
        """
        assert self._at_text is not None, "looks are asked for after the pass"
        return [row[: text.count] for row, text in zip(self._at_text.numpy(), self._texts, strict=True)]
