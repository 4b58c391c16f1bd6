"""The blocks of a stack again, for the steps of a CPU that serves few rows: the same numbers in half the operations.

Knows one block's arithmetic on packed matrices (`engine.packed`) and what it costs: with a few rows an operation takes a microsecond
whatever it does, so a step is as fast as it is short. It leaves out every view that can be made once, every conversion that the next
operation does by itself, and adds in place. Does not know models; `engine.model` holds the plain blocks, which prefill, training and
other devices use, and tests hold the two to each other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention import Attend
from engine.packed import Packed

if TYPE_CHECKING:  # the model is built on this
    from engine.model import Block, Projection, RMSNorm


class StepNorm:
    """RMSNorm whose result is bfloat16, as the packed matrices want it: x sqrt(n) w / sqrt(|x|^2 + n eps)."""

    def __init__(self, norm: RMSNorm) -> None:
        n = norm.weight.shape[0]
        self._gain = norm.weight.detach() * math.sqrt(n)
        self._floor = torch.tensor(math.sqrt(n * norm.eps))

    def __call__(self, x: Tensor) -> Tensor:
        """x: float32 [R, D]."""
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(self._floor)
        return (x * self._gain).div_(size).bfloat16()


class StepMap:
    """A packed map of bfloat16 rows to bfloat16 rows, with its bias."""

    def __init__(self, packed: Packed, bias: Tensor | None = None) -> None:
        self._few = packed.few
        self._bias = None if bias is None else bias.detach().bfloat16()

    def __call__(self, x: Tensor) -> Tensor:
        """x: bfloat16 [R, K]. Returns a new bfloat16 [R, N]."""
        out = self._few(x)
        return out if self._bias is None else out.add_(self._bias)


class StepBlock:
    """One block of either stack. Shares the block's matrices."""

    def __init__(self, block: Block) -> None:
        """block: prepared for serving with packed matrices."""
        attention, feed_forward = block.attention, block.feed_forward
        stack = attention.stack
        self._layer, self._head_dim = attention.layer, stack.head_dim
        self._parts = [stack.n_head, stack.n_kv_head, stack.n_kv_head]
        self._attention_norm, self._ffn_norm = StepNorm(block.attention_norm), StepNorm(block.ffn_norm)
        self._wqkv, self._wo = (_map_of(projection) for projection in (attention.wqkv, attention.wo))
        assert isinstance(feed_forward.both, Packed), "a step needs packed matrices"
        self._both, self._w2 = StepMap(feed_forward.both), _map_of(feed_forward.w2)
        self._gain: Tensor | None = None  # of queries and keys
        if stack.qk_norm:
            self._gain = attention.head_weights().detach() * math.sqrt(stack.head_dim)
            self._floor = torch.tensor(math.sqrt(stack.head_dim * stack.norm_eps))

    def __call__(self, x: Tensor, turn: Tensor, attend: Attend, positions: int) -> Tensor:
        """x: float32 [B * T, D], overwritten with the result. turn: complex [B or 1, T, 1, hd / 2]. positions: T."""
        heads = self._wqkv(self._attention_norm(x)).float().view(-1, positions, sum(self._parts), self._head_dim)
        self._turn(heads.narrow(2, 0, sum(self._parts[:2])), turn)
        q, k, v = torch.split(heads, self._parts, 2)
        heard = attend(self._layer, q, k, v).reshape(-1, self._parts[0] * self._head_dim)
        x.add_(self._wo(heard.bfloat16()))
        gate, up = self._both(self._ffn_norm(x)).chunk(2, -1)
        return x.add_(self._w2(F.silu(gate).mul_(up)))

    def _turn(self, qk: Tensor, turn: Tensor) -> None:
        """Normalise and rotate queries and keys where they are."""
        if self._gain is not None:
            size = torch.linalg.vector_norm(qk, dim=-1, keepdim=True).hypot_(self._floor)
            qk.mul_(self._gain).div_(size)
        torch.view_as_complex(torch.unflatten(qk, -1, (-1, 2))).mul_(turn)


def turns(table: Tensor) -> Tensor:
    """A `rope_table` as what a step multiplies by: complex [positions, 1, head_dim / 2]."""
    cos, sin = table.float().unbind(1)
    return torch.complex(cos[:, ::2].contiguous(), sin[:, 1::2].contiguous()).unsqueeze(1)


def _map_of(projection: Projection) -> StepMap:
    assert projection.packed is not None, "a step needs packed matrices"
    return StepMap(projection.packed, projection.bias)
