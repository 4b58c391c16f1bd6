"""The blocks of a stack again, for serving on a GPU: two halves around the attention, in few launches each.

Knows one block's arithmetic on rows and two ways to do it. Compiled halves: functions for a compiler to fuse; all blocks of a stack share
one piece of code, because their weights are arguments. Products (`engine.products_triton`): a block is four of them, which take norm, gate
and sum along; for quantised matrices, and for plain ones while rows are few. Does not know graphs (`engine.frame_graphs`). `engine.model`
holds the plain blocks, and tests hold all of them to each other. What is fused keeps float32 between operations that the plain blocks round
to bfloat16, so results differ by roundings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention import Attend
from engine.config import StackConfig
from engine.quantize import Norm, Quantized, QuantizedFeed, QuantizedMap, is_put, product

if TYPE_CHECKING:  # the model is built on this
    from engine.model import Block, Projection

Compile = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]


class Turned(Protocol):
    """What an `Attend` may have as its method `turned`: all that a block does between its products."""

    def __call__(self, layer: int, qkv: Tensor, turn: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        """Normalise heads, rotate them (`engine.model.rotate`), keep keys and values, and attend.

        qkv: [R, (H + 2 Hkv) hd], R = B * T rows in order [B, T]. turn: [R, 2, hd], rows of a rope_table; rows may have stride 0. gain:
        float32 [H + Hkv, hd], or None: there is no norm. Returns [R, H hd].
        """


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """For any number of rows; one row alone gets code of its own."""
    return torch.compile(function, fullgraph=True, dynamic=True)


class FusedSteps:
    """What serving runs instead of the blocks, steps and prefill. Shares their weights."""

    def __init__(self, blocks: list[Block], rope: Tensor, fuse: Compile = compiled, kernels: bool = False) -> None:
        """blocks: prepared for serving, unpacked; all of them quantised, or none. rope: the stack's table.

        kernels: few rows are multiplied by plain matrices in kernels of our own, which need Triton.
        """
        self._stack = blocks[0].attention.stack
        self._products: list[_Products] = []  # of each block
        # Of each block: before the attention, after it.
        self._halves: list[tuple[Callable[..., Tensor], Callable[..., Tensor]]] = []
        self._few: int | None = 0  # rows up to which products are taken; None: always
        if is_put(blocks[0]):
            self._products, self._few = [_Products(block, product) for block in blocks], None
        else:
            before, after = fuse(_before(self._stack)), fuse(_after(self._stack))
            self._halves = [(_given(before, _into(block)), _given(after, _out_of(block))) for block in blocks]
            if kernels:
                from engine.products_triton import MOST_PLAIN_ROWS, few_rows

                self._products, self._few = [_Products(block, few_rows) for block in blocks], MOST_PLAIN_ROWS
        self._between = fuse(_turned(self._stack))
        self.turns = rope  # of every position

    def run(self, x: Tensor, turn: Tensor, attend: Attend) -> Tensor:
        """x: [B, T, D]. turn: `turns` of the positions, [B, T, 2, hd] or without B. Returns [B, T, D]."""
        batch, positions = x.shape[0], x.shape[1]
        flat, turn = x.flatten(0, 1), turn.expand(batch, positions, -1, -1).flatten(0, 1)
        few = self._few is None or len(flat) <= self._few
        return (self._multiplied if few else self._compiled)(flat, turn, attend, positions).view(batch, positions, -1)

    def _multiplied(self, flat: Tensor, turn: Tensor, attend: Attend, positions: int) -> Tensor:
        turned: Turned | None = getattr(attend, "turned", None)
        for layer, block in enumerate(self._products):
            qkv = block.into(flat)
            if turned is None:
                heard = self._attended(self._between(qkv, *_cos_sin(turn), block.gain), layer, attend, positions)
            else:
                heard = turned(layer, qkv, turn, block.gain, self._stack.norm_eps)
            flat = block.out_of(flat, heard)
        return flat

    def _compiled(self, flat: Tensor, turn: Tensor, attend: Attend, positions: int) -> Tensor:
        cos, sin = _cos_sin(turn)
        for layer, (before, after) in enumerate(self._halves):
            flat = after(flat, self._attended(before(flat, cos, sin), layer, attend, positions))
        return flat

    def _attended(self, heads: Tensor, layer: int, attend: Attend, positions: int) -> Tensor:
        """heads: [R, H + 2 Hkv, hd]. Returns [R, H hd]."""
        stack = self._stack
        heads = heads.view(-1, positions, heads.shape[1], stack.head_dim)
        q, k, v = torch.split(heads, [stack.n_head, stack.n_kv_head, stack.n_kv_head], 2)
        return attend(layer, q, k, v).reshape(-1, stack.q_dim)


def _cos_sin(turn: Tensor) -> tuple[Tensor, ...]:
    """float32 [R, 1, hd] each."""
    return turn.float().unsqueeze(2).unbind(1)


class _Products:
    """A block's halves as four products."""

    def __init__(self, block: Block, multiply: Callable[..., Tensor]) -> None:
        """multiply: `engine.quantize.product`, or its like for plain matrices."""
        attention, feed = block.attention, block.feed_forward
        self._multiply = multiply
        self._wqkv, self._wo = _matrix(attention.wqkv), _matrix(attention.wo)
        self._into_bias, self._out_bias = attention.wqkv.bias, attention.wo.bias
        self._both = feed.both if isinstance(feed, QuantizedFeed) else _both(block)
        self._w2 = feed.w2 if isinstance(feed, QuantizedFeed) else feed.w2.weight
        self._attention_norm = Norm(block.attention_norm.weight, block.attention_norm.eps)
        self._ffn_norm = Norm(block.ffn_norm.weight, block.ffn_norm.eps)
        self.gain = _gain(block)

    def into(self, x: Tensor) -> Tensor:
        """x: [R, D]. Returns queries, keys and values as the projection gives them, [R, (H + 2 Hkv) hd]."""
        qkv = self._multiply(x, self._wqkv, self._attention_norm)
        return qkv if self._into_bias is None else qkv + self._into_bias

    def out_of(self, x: Tensor, heard: Tensor) -> Tensor:
        """x: [R, D]. heard: [R, H * hd]. Returns the block's output, [R, D]."""
        x = self._multiply(heard, self._wo, add=x if self._out_bias is None else x + self._out_bias)
        return self._multiply(self._multiply(x, self._both, self._ffn_norm, gated=True), self._w2, add=x)


def _matrix(projection: Projection | QuantizedMap) -> Quantized | Tensor:
    return projection.matrix if isinstance(projection, QuantizedMap) else projection.weight


def _given(half: Callable[..., Tensor], weights: tuple[Tensor | None, ...]) -> Callable[..., Tensor]:
    return lambda *rows: half(*rows, *weights)


def _into(block: Block) -> tuple[Tensor | None, ...]:
    attention = block.attention
    return block.attention_norm.weight, attention.wqkv.weight, attention.wqkv.bias, _gain(block)


def _gain(block: Block) -> Tensor | None:
    return block.attention.head_weights() if block.attention.stack.qk_norm else None


def _out_of(block: Block) -> tuple[Tensor | None, ...]:
    weights = block.attention.wo.weight, block.attention.wo.bias
    return *weights, block.ffn_norm.weight, _both(block), block.feed_forward.w2.weight


def _both(block: Block) -> Tensor:
    matrix = block.feed_forward.matrix
    assert matrix is not None, "a block is prepared for serving first"
    return matrix


def _before(stack: StackConfig) -> Callable[..., Tensor]:
    turned = _turned(stack)

    def before(
        x: Tensor, cos: Tensor, sin: Tensor, norm: Tensor, wqkv: Tensor, bias: Tensor | None, gain: Tensor | None
    ) -> Tensor:
        """x: [R, D]. cos, sin: float32 [R, 1, hd]. Returns rotated queries and keys, and values, [R, H + 2 Hkv, hd]."""
        return turned(F.linear(_normed(x, norm, stack.norm_eps), wqkv, bias), cos, sin, gain)

    return before


def _turned(stack: StackConfig) -> Callable[..., Tensor]:
    from engine.model import rotate

    qk_heads = stack.n_head + stack.n_kv_head

    def turned(qkv: Tensor, cos: Tensor, sin: Tensor, gain: Tensor | None) -> Tensor:
        """qkv: [R, (H + 2 Hkv) hd]. Otherwise as `before`."""
        heads = qkv.view(qkv.shape[0], -1, stack.head_dim)
        qk, v = heads[:, :qk_heads], heads[:, qk_heads:]
        if gain is not None:
            qk = (F.rms_norm(qk.float(), (stack.head_dim,), None, stack.norm_eps) * gain).to(qkv.dtype)
        return torch.cat((rotate(qk, (cos, sin)), v), 1)

    return turned


def _after(stack: StackConfig) -> Callable[..., Tensor]:
    def after(
        x: Tensor, heard: Tensor, wo: Tensor, bias: Tensor | None, norm: Tensor, both: Tensor, w2: Tensor
    ) -> Tensor:
        """x: [R, D]. heard: [R, H * hd]. Returns the block's output, [R, D]."""
        x = x + F.linear(heard, wo, bias)
        gate, up = F.linear(_normed(x, norm, stack.norm_eps), both).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, w2)

    return after


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x.float(), weight.shape, None, eps).to(x.dtype) * weight
