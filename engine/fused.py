"""The blocks of a stack again, for serving on a GPU: two halves around the attention, in few launches each.

Knows one block's arithmetic on rows and two ways to do it. Compiled halves: functions for a compiler to fuse; all blocks of a stack share
one piece of code, because their weights are arguments. Products (`engine.products_triton`): a block is four of them, which take norm, gate
and sum along; for quantised matrices, and for plain ones while rows are few. Beyond, the library's products between kernels of ours
(`engine.between_triton`), or the compiled halves. Does not know graphs (`engine.frame_graphs`). `engine.model`
holds the plain blocks, and tests hold all of them to each other. What is fused keeps float32 between operations that the plain blocks round
to bfloat16, so results differ by roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

MANY_ROWS_IN_KERNELS = True  # with kernels; False: in compiled halves, whose compiler alone takes 10 s to load
_MOST_ENTRIES = 32  # of compiled code for one function


class Turned(Protocol):
    """What an `Attend` may have as its method `turned`: all that a block does between its products."""

    def __call__(self, layer: int, qkv: Tensor, turn: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        """Normalise heads, rotate them (`engine.model.rotate`), keep keys and values, and attend.

        qkv: [R, (H + 2 Hkv) hd], R = B * T rows in order [B, T]. turn: [R, 2, hd], rows of a rope_table; rows may have stride 0. gain:
        float32 [H + Hkv, hd], or None: there is no norm. Returns [R, H hd].
        """


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """For any number of rows; one row alone gets code of its own. Not before it is called: the compiler takes seconds to load."""
    made: list[Callable[..., Tensor]] = []

    def run(*args: Tensor | None) -> Tensor:
        if not made:
            from torch._dynamo import config

            # Both stacks share a function's entries, 8 by default, 7 of which are taken; one more than the limit is an error.
            config.recompile_limit = max(config.recompile_limit, _MOST_ENTRIES)
            made.append(torch.compile(function, fullgraph=True, dynamic=True))
        return made[0](*args)

    return run


class FusedSteps:
    """What serving runs instead of the blocks, steps and prefill. Shares their weights."""

    def __init__(self, blocks: list[Block], rope: Tensor, fuse: Compile = compiled, kernels: bool = False) -> None:
        """blocks: prepared for serving, unpacked; all of them quantised, or none. rope: the stack's table.

        kernels: few rows are multiplied by plain matrices in kernels of our own, which need Triton, and who can attends in one call.
        """
        self._stack = stack = blocks[0].attention.stack
        self._most, put = 0, is_put(blocks[0])  # rows for which there is something else than the compiled halves
        turned = fuse(_turned(stack))
        self._few: Sequence[_Products | _Compiled] = []
        self._many: Sequence[_Products | _Compiled]
        if put:
            self._many = [_Products(block, product, turned) for block in blocks]
        else:
            into, before, after = fuse(_into(stack)), fuse(_before(stack)), fuse(_after(stack))
            self._many = [_Compiled(block, into, before, after) for block in blocks]
            if kernels:
                from engine.between_triton import many_rows
                from engine.products_triton import MOST_PLAIN_ROWS, few_rows

                self._most, self._few = MOST_PLAIN_ROWS, [_Products(block, few_rows, turned) for block in blocks]
                if MANY_ROWS_IN_KERNELS:
                    self._many = [_Products(block, many_rows, turned) for block in blocks]
        self._turns = kernels or put
        self.turns = rope  # of every position

    def run(self, x: Tensor, turn: Tensor, attend: Attend) -> Tensor:
        """x: [B, T, D]. turn: `turns` of the positions, [B, T, 2, hd] or without B. Returns [B, T, D]."""
        batch, positions = x.shape[0], x.shape[1]
        flat, turn = x.flatten(0, 1), turn.expand(batch, positions, -1, -1).flatten(0, 1)
        turned: Turned | None = getattr(attend, "turned", None) if self._turns else None
        cos_sin = turn.float().unsqueeze(2).unbind(1) if turned is None else ()  # [R, 1, hd] each
        for layer, block in enumerate(self._few if len(flat) <= self._most else self._many):
            if turned is None:
                heard = self._attended(block.before(flat, *cos_sin), layer, attend, positions)
            else:
                heard = turned(layer, block.into(flat), turn, block.gain, self._stack.norm_eps)
            flat = block.after(flat, heard)
        return flat.view(batch, positions, -1)

    def _attended(self, heads: Tensor, layer: int, attend: Attend, positions: int) -> Tensor:
        """heads: [R, H + 2 Hkv, hd]. Returns [R, H hd]."""
        stack = self._stack
        heads = heads.view(-1, positions, heads.shape[1], stack.head_dim)
        q, k, v = torch.split(heads, [stack.n_head, stack.n_kv_head, stack.n_kv_head], 2)
        return attend(layer, q, k, v).reshape(-1, stack.q_dim)


class _Compiled:
    """A block as functions that all blocks of a stack share."""

    def __init__(
        self, block: Block, into: Callable[..., Tensor], before: Callable[..., Tensor], after: Callable[..., Tensor]
    ) -> None:
        attention, feed = block.attention, block.feed_forward
        assert feed.matrix is not None, "a block is prepared for serving first"
        self._into, self._before, self._after = into, before, after
        self.gain = _gain(block)
        self._first = block.attention_norm.weight, attention.wqkv.weight, attention.wqkv.bias
        self._last = attention.wo.weight, attention.wo.bias, block.ffn_norm.weight, feed.matrix, feed.w2.weight

    def into(self, x: Tensor) -> Tensor:
        """x: [R, D]. Returns queries, keys and values as the projection gives them, [R, (H + 2 Hkv) hd]."""
        return self._into(x, *self._first)

    def before(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: [R, D]. cos, sin: float32 [R, 1, hd]. Returns rotated queries and keys, and values, [R, H + 2 Hkv, hd]."""
        return self._before(x, cos, sin, self.gain, *self._first)

    def after(self, x: Tensor, heard: Tensor) -> Tensor:
        """x: [R, D]. heard: [R, H * hd]. Returns the block's output, [R, D]."""
        return self._after(x, heard, *self._last)


class _Products:
    """A block as four products, and what is compiled between two of them."""

    def __init__(self, block: Block, multiply: Callable[..., Tensor], turned: Callable[..., Tensor]) -> None:
        """multiply: `engine.quantize.product`, or its like for plain matrices."""
        attention, feed = block.attention, block.feed_forward
        self._multiply, self._turned = multiply, turned
        self._wqkv, self._wo = _matrix(attention.wqkv), _matrix(attention.wo)
        self._into_bias, self._out_bias = attention.wqkv.bias, attention.wo.bias
        self._both = feed.both if isinstance(feed, QuantizedFeed) else feed.matrix
        self._w2 = feed.w2 if isinstance(feed, QuantizedFeed) else feed.w2.weight
        self._attention_norm = Norm(block.attention_norm.weight, block.attention_norm.eps)
        self._ffn_norm = Norm(block.ffn_norm.weight, block.ffn_norm.eps)
        self.gain = _gain(block)

    def into(self, x: Tensor) -> Tensor:
        """See _Compiled."""
        qkv = self._multiply(x, self._wqkv, self._attention_norm)
        return qkv if self._into_bias is None else qkv + self._into_bias

    def before(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """See _Compiled."""
        return self._turned(self.into(x), cos, sin, self.gain)

    def after(self, x: Tensor, heard: Tensor) -> Tensor:
        """See _Compiled."""
        x = self._multiply(heard, self._wo, add=x if self._out_bias is None else x + self._out_bias)
        return self._multiply(self._multiply(x, self._both, self._ffn_norm, gated=True), self._w2, add=x)


def _matrix(projection: Projection | QuantizedMap) -> Quantized | Tensor:
    return projection.matrix if isinstance(projection, QuantizedMap) else projection.weight


def _gain(block: Block) -> Tensor | None:
    return block.attention.head_weights() if block.attention.stack.qk_norm else None


def _into(stack: StackConfig) -> Callable[..., Tensor]:
    def into(x: Tensor, norm: Tensor, wqkv: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(_normed(x, norm, stack.norm_eps), wqkv, bias)

    return into


def _turned(stack: StackConfig) -> Callable[..., Tensor]:
    from engine.model import rotate

    qk_heads = stack.n_head + stack.n_kv_head

    def turned(qkv: Tensor, cos: Tensor, sin: Tensor, gain: Tensor | None) -> Tensor:
        heads = qkv.view(qkv.shape[0], -1, stack.head_dim)
        qk, v = heads[:, :qk_heads], heads[:, qk_heads:]
        if gain is not None:
            qk = (F.rms_norm(qk.float(), (stack.head_dim,), None, stack.norm_eps) * gain).to(qkv.dtype)
        return torch.cat((rotate(qk, (cos, sin)), v), 1)

    return turned


def _before(stack: StackConfig) -> Callable[..., Tensor]:
    into, turned = _into(stack), _turned(stack)

    def before(x: Tensor, cos: Tensor, sin: Tensor, gain: Tensor | None, *first: Tensor | None) -> Tensor:
        return turned(into(x, *first), cos, sin, gain)

    return before


def _after(stack: StackConfig) -> Callable[..., Tensor]:
    def after(
        x: Tensor, heard: Tensor, wo: Tensor, bias: Tensor | None, norm: Tensor, both: Tensor, w2: Tensor
    ) -> Tensor:
        x = x + F.linear(heard, wo, bias)
        gate, up = F.linear(_normed(x, norm, stack.norm_eps), both).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, w2)

    return after


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x.float(), weight.shape, None, eps).to(x.dtype) * weight
