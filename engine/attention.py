"""Ways for a block to attend. A block hands over rotated queries and keys and gets back what they attended to.

Knows masks, grouped heads and the contiguous caches: a whole sequence at once, one growing sequence a row, and the few
positions of the fast stack. Does not know pages; `engine.kv` attends over those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import StackConfig

# (layer, q [B, T, H, hd], k [B, T, Hkv, hd], v [B, T, Hkv, hd]) -> [B, T, H, hd]. q and k are rotated already; the callee
# stores k and v if it wants to see them again, and maps query head h to key head h // (H // Hkv).
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Scaled dot-product attention with grouped heads.

    q: [B, T, H, hd]. k, v: [B, S, Hkv, hd] (any strides). mask: bool, broadcastable to [B, H, T, S], True where a query may look.
    causal: query t sees keys 0..t; needs T == S. Returns [B, T, H, hd].
    """
    k, v = k.transpose(1, 2), v.transpose(1, 2)  # [B, Hkv, S, hd]
    if q.shape[1] == 1 and (mask is None or mask.shape[1] == 1):
        # One query a row: the heads of a group take the place of query positions, so that keys are read once and never repeated.
        q = torch.unflatten(q.squeeze(1), 1, (k.shape[1], -1))  # [B, Hkv, H/Hkv, hd]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).flatten(1, 2).unsqueeze(1)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
    return out.transpose(1, 2)


def causal_to_the_end(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `grouped_attention` where the last query sees all keys and each one before it one key less, without a mask.

    On a GPU, of two bytes a number: there it runs in one kernel, and a mask would have the library write out scores of float32.
    """
    from torch.nn.attention.bias import causal_lower_right

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    bias = causal_lower_right(q.shape[2], k.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True).transpose(1, 2)


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend for a whole sequence at once, nothing kept: query t sees keys 0..t. An `Attend`."""
    return grouped_attention(q, k, v, causal=q.shape[1] > 1)


class ContiguousKV:
    """K and V of whole sequences, one stretch of memory a row. The plain counterpart of `engine.kv`."""

    def __init__(self, stack: StackConfig, rows: int, positions: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (stack.n_layer, rows, positions, stack.n_kv_head, stack.head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)

    def at(self, positions: Tensor) -> Attend:
        """Attend for the step that computes `positions` (int64 [B, T], ascending in each row).

        It stores that step's k and v there, and every query sees the keys at positions up to its own. Positions below the
        step's first one must have been computed before.
        """
        rows = torch.arange(positions.shape[0], device=positions.device)[:, None]
        slots = torch.arange(self.k.shape[2], device=positions.device)
        mask = (slots <= positions[..., None])[:, None]  # [B, 1, T, S]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.k[layer][rows, positions] = k
            self.v[layer][rows, positions] = v
            return grouped_attention(q, self.k[layer], self.v[layer], mask)

        return attend


class FrameMemory(Protocol):
    """What the passes of a frame remember."""

    def at(self, start: int, stop: int, rows: int) -> Attend:
        """Attend for the pass over positions start..stop-1 of the first `rows` rows; `start` is 0 or the pass is one position."""


class FrameKV:
    """K and V of the fast stack within one frame: a handful of positions, overwritten by every frame, never reset.

    A pass reads only what passes before it wrote in the same frame. All shapes follow from the pass's place in the frame, so
    that a whole frame can be captured as one CUDA graph.
    """

    def __init__(self, stack: StackConfig, rows: int, positions: int, device: torch.device, dtype: torch.dtype) -> None:
        # Heads before positions: a pass then reads each head's keys as one stretch.
        shape = (stack.n_layer, rows, stack.n_kv_head, positions, stack.head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.rows = rows
        # Passes turn heads themselves, in a kernel of `engine.turned_triton`.
        self._turns = device.type == "cuda" and stack.head_dim & (stack.head_dim - 1) == 0
        # Views by (start, stop, rows): to make them anew in every pass would cost half as much as attending.
        self._passes: dict[tuple[int, int, int], list[tuple[Tensor, ...]]] = {}

    def at(self, start: int, stop: int, rows: int) -> Attend:
        """See FrameMemory."""
        assert start == 0 or stop == start + 1, "a pass after the first has one position, or it would need a mask"
        views = self._passes.get((start, stop, rows))
        if views is None:
            views = self._passes[start, stop, rows] = self._views(start, stop, rows)
        if start == 0 and stop > 1:

            def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                into_k, into_v, keys, values = views[layer]
                into_k.copy_(k)
                into_v.copy_(v)
                return grouped_attention(q, keys.transpose(1, 2), values.transpose(1, 2), causal=True)
        else:

            def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                into_k, into_v, keys, values = views[layer]
                into_k.copy_(k)
                into_v.copy_(v)
                # As in grouped_attention: the heads of a group are its queries.
                grouped = q.view(rows, keys.shape[1], -1, q.shape[3])  # [B, Hkv, H / Hkv, hd]
                return F.scaled_dot_product_attention(grouped, keys, values).reshape(q.shape)

        return FramePass(attend, self, start, rows) if self._turns else attend

    def _views(self, start: int, stop: int, rows: int) -> list[tuple[Tensor, ...]]:
        """For each layer: where a pass writes keys and values, [B, T, Hkv, hd], and what it reads, [B, Hkv, stop, hd]."""
        return [
            (
                *(cache[:rows, :, start:stop].transpose(1, 2) for cache in caches),
                *(cache[:rows, :, :stop] for cache in caches),
            )
            for caches in zip(self.k, self.v, strict=True)
        ]


class FramePass:
    """An `Attend` of a pass of `FrameKV` that can do all that a block has between its products in one kernel. Needs Triton for that."""

    def __init__(self, attend: Attend, kv: FrameKV, start: int, rows: int) -> None:
        """attend: the same, operation by operation."""
        self._attend, self._kv = attend, kv
        self._start, self._rows = start, rows

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See Attend."""
        return self._attend(layer, q, k, v)

    def turned(self, layer: int, qkv: Tensor, turn: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        """Norms of heads, rotation, writing and attending. See `attend_frame`, also for shapes."""
        from engine.turned_triton import attend_frame

        return attend_frame(qkv, turn, gain, eps, self._kv.k[layer], self._kv.v[layer], self._start, self._rows)


class FrameGrown:
    """The same for one frame, as tensors that grow: each pass makes new ones. Where it costs less than to look for places in old ones."""

    def __init__(self) -> None:
        self._past: dict[int, tuple[Tensor, Tensor]] = {}  # of each layer

    def at(self, start: int, stop: int, rows: int) -> Attend:
        """See FrameMemory."""

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if start:
                k, v = (torch.cat(pair, 1) for pair in zip(self._past[layer], (k, v), strict=True))
            self._past[layer] = k, v
            return grouped_attention(q, k, v, causal=start == 0 and stop > 1)

        return attend
