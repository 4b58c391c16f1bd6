"""The blocks of a stack again, for serving on a GPU: two functions around the attention, for a compiler to fuse.

Knows one block's arithmetic on rows and that all blocks of a stack share one compiled piece of code, because their weights are arguments.
Of quantised blocks only what no product takes along is compiled: norms of heads and rotation. Does not know graphs (`engine.frame_graphs`).
`engine.model` holds the plain blocks, and tests hold the two to each other. Compiled kernels keep float32 between operations that the plain
ones round to bfloat16, so results differ by roundings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention import Attend
from engine.config import StackConfig
from engine.quantize import Norm, QuantizedFeed, QuantizedMap, is_put, product

if TYPE_CHECKING:  # the model is built on this
    from engine.model import Block

Compile = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """For any number of rows; one row alone gets code of its own."""
    return torch.compile(function, fullgraph=True, dynamic=True)


class FusedSteps:
    """What serving runs instead of the blocks, steps and prefill. Shares their weights."""

    def __init__(self, blocks: list[Block], rope: Tensor, fuse: Compile = compiled) -> None:
        """blocks: prepared for serving, unpacked; all of them quantised, or none. rope: the stack's table."""
        self._stack = blocks[0].attention.stack
        self._halves: list[
            tuple[Callable[..., Tensor], Callable[..., Tensor]]
        ]  # of each block: before the attention, after it
        if is_put(blocks[0]):
            turned = fuse(_turned(self._stack))
            self._halves = [(_quantized_before(block, turned), _quantized_after(block)) for block in blocks]
        else:
            before, after = fuse(_before(self._stack)), fuse(_after(self._stack))
            self._halves = [(_given(before, _into(block)), _given(after, _out_of(block))) for block in blocks]
        self.turns = rope  # of every position

    def run(self, x: Tensor, turn: Tensor, attend: Attend) -> Tensor:
        """x: [B, T, D]. turn: `turns` of the positions, [B, T, 2, hd] or without B. Returns [B, T, D]."""
        stack, batch, positions = self._stack, x.shape[0], x.shape[1]
        cos, sin = turn.float().expand(batch, positions, -1, -1).flatten(0, 1).unsqueeze(2).unbind(1)  # [R, 1, hd] each
        flat = x.flatten(0, 1)
        for layer, (before, after) in enumerate(self._halves):
            heads = before(flat, cos, sin).view(batch, positions, -1, stack.head_dim)
            q, k, v = torch.split(heads, [stack.n_head, stack.n_kv_head, stack.n_kv_head], 2)
            flat = after(flat, attend(layer, q, k, v).reshape(len(flat), -1))
        return flat.view(batch, positions, -1)


def _given(half: Callable[..., Tensor], weights: tuple[Tensor | None, ...]) -> Callable[..., Tensor]:
    return lambda *rows: half(*rows, *weights)


def _into(block: Block) -> tuple[Tensor | None, ...]:
    attention = block.attention
    return block.attention_norm.weight, attention.wqkv.weight, attention.wqkv.bias, _gain(block)


def _gain(block: Block) -> Tensor | None:
    return block.attention.head_weights() if block.attention.stack.qk_norm else None


def _out_of(block: Block) -> tuple[Tensor | None, ...]:
    feed = block.feed_forward
    both = torch.cat((feed.w1.weight, feed.w3.weight)) if feed.matrix is None else feed.matrix
    return block.attention.wo.weight, block.attention.wo.bias, block.ffn_norm.weight, both, feed.w2.weight


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


def _quantized_before(block: Block, turned: Callable[..., Tensor]) -> Callable[..., Tensor]:
    into, gain, norm = block.attention.wqkv, _gain(block), Norm(block.attention_norm.weight, block.attention_norm.eps)
    assert isinstance(into, QuantizedMap), "a block is quantised as a whole"
    matrix, bias = into.matrix, into.bias

    def before(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        qkv = product(x, matrix, norm)
        return turned(qkv if bias is None else qkv + bias, cos, sin, gain)

    return before


def _quantized_after(block: Block) -> Callable[..., Tensor]:
    out_of, feed, norm = block.attention.wo, block.feed_forward, Norm(block.ffn_norm.weight, block.ffn_norm.eps)
    assert isinstance(out_of, QuantizedMap) and isinstance(feed, QuantizedFeed), "a block is quantised as a whole"
    wo, bias, both, w2 = out_of.matrix, out_of.bias, feed.both, feed.w2

    def after(x: Tensor, heard: Tensor) -> Tensor:
        x = product(heard, wo, add=x if bias is None else x + bias)
        return product(product(x, both, norm, gated=True), w2, add=x)

    return after


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
