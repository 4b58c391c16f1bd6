"""The Dual-AR model: a slow transformer over text and frames, a fast one over the codebooks within a frame.

Knows the arithmetic of spec 4 and 5, once: serving, training and verification call the same embedding and the same block, and
differ in the `attend` that they hand in. Does not know files, token text, sampling, pages or who owns a row. Parameter names
are the reference's internal ones (spec 2.3, right column).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attention import Attend, FrameMemory, causal
from engine.config import ModelConfig, StackConfig
from engine.fused import Compile, FusedSteps
from engine.output_rows import Rows
from engine.packed import Packed
from engine.step import StepBlock, turns

# (codebook 1.., logits [B, V]) -> codes int64 [B]
Draw = Callable[[int, Tensor], Tensor]
Embed = Callable[[Tensor], Tensor]  # codes int64 [B] -> rows of `fast_embeddings` [B, Df], valid until the next draw
Rope = tuple[Tensor, Tensor]  # cos and signed sin, float32 [B, T, 1, hd] or [T, 1, hd] each


@dataclass(frozen=True, slots=True)
class Hidden:
    """What the slow stack returns, [B, T, D] each. Both are the same tensor unless a flat configuration says otherwise."""

    head: Tensor  # after the final norm: goes into the output head
    fast: Tensor  # goes into the fast stack

    def at(self, index: Tensor | int) -> Hidden:
        """One position of every row, [B, D] each. index: one number for all rows, or int64 [B]."""
        if isinstance(index, int):
            head, fast = self.head[:, index], self.fast[:, index]
        else:
            rows = torch.arange(index.shape[0], device=index.device)
            head, fast = self.head[rows, index], self.fast[rows, index]
        return Hidden(head, head if self.fast is self.head else fast)


class RMSNorm(nn.Module):
    """x / rms(x) in float32, rounded to the model's dtype, then times the weight (spec 4.2)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps
        self.short: ShortNorm | None = None  # set by DualAR.prepare_serving
        self.kernel = False  # of ours, set by DualAR.prepare_serving

    def forward(self, x: Tensor) -> Tensor:
        if self.short is not None:
            return self.short(x)
        if self.kernel:
            from engine.embed_triton import norm

            return norm(x, self.weight, self.eps)
        if x.dtype == torch.float32:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype) * self.weight

    def prepare_serving(self) -> None:
        """See ShortNorm."""
        self.short = ShortNorm.of(self.weight, self.eps)


class ShortNorm:
    """The same norm for float32 on a CPU, where the library's is a chain of a dozen operations; this is six.

    The mean is a sum whose divisor hides in the weight: x / sqrt(sum / n + eps) * w = x / sqrt(sum + n eps) * (sqrt(n) w).
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        n = weight.shape[-1]
        self._floor = torch.tensor(n * eps)
        self._weight = weight.detach() * math.sqrt(n)

    @classmethod
    def of(cls, weight: Tensor, eps: float) -> ShortNorm | None:
        """None where it does not apply."""
        return cls(weight, eps) if weight.dtype == torch.float32 and weight.device.type == "cpu" else None

    def __call__(self, x: Tensor) -> Tensor:
        return x * (x * x).sum(-1, keepdim=True).add_(self._floor).rsqrt_() * self._weight


class HeadNorm(nn.Module):
    """The weight of q_norm or k_norm; `Attention` applies both at once."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))


class Projection(nn.Linear):
    """A linear map that can be packed for serving on a CPU."""

    packed: Packed | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return super().forward(x)
        return self.packed(x) if self.bias is None else self.packed(x) + self.bias


class Attention(nn.Module):
    """Projections, per-head norms and rotation around an injected attention."""

    def __init__(self, stack: StackConfig, layer: int) -> None:
        super().__init__()
        self.wqkv = Projection(stack.dim, stack.q_dim + 2 * stack.kv_dim, bias=stack.qkv_bias)
        self.wo = Projection(stack.q_dim, stack.dim, bias=stack.o_bias)
        if stack.qk_norm:
            self.q_norm = HeadNorm(stack.head_dim)
            self.k_norm = HeadNorm(stack.head_dim)
        self.stack = stack
        self.layer = layer
        self.short_norm: ShortNorm | None = None  # of queries and keys, set by DualAR.prepare_serving

    def forward(self, x: Tensor, rope: Rope, attend: Attend) -> Tensor:
        n_qk = self.stack.n_head + self.stack.n_kv_head
        qkv = self.wqkv(x).unflatten(-1, (-1, self.stack.head_dim))  # [B, T, H + 2 Hkv, hd]
        qk, v = qkv[..., :n_qk, :], qkv[..., n_qk:, :]
        qk = rotate(self._normed(qk) if self.stack.qk_norm else qk, rope)
        q, k = qk[..., : self.stack.n_head, :], qk[..., self.stack.n_head :, :]
        return self.wo(attend(self.layer, q, k, v).flatten(-2))  # type: ignore[no-any-return]

    def _normed(self, qk: Tensor) -> Tensor:
        """Queries and keys in one go. Unlike RMSNorm the weight multiplies in float32, before the only rounding (spec 4.2)."""
        if self.short_norm is not None:
            return self.short_norm(qk)
        normed = F.rms_norm(qk.float(), (self.stack.head_dim,), None, self.stack.norm_eps)
        return (normed * self.head_weights()).to(qk.dtype)

    def head_weights(self) -> Tensor:
        """The norm weight of every query and key head, float32 [H + Hkv, hd]."""
        q = self.q_norm.weight.float().expand(self.stack.n_head, -1)
        k = self.k_norm.weight.float().expand(self.stack.n_kv_head, -1)
        return torch.cat((q, k))

    def prepare_serving(self, packed: bool) -> None:
        """See DualAR.prepare_serving."""
        if self.stack.qk_norm and self.q_norm.weight.dtype == torch.float32:
            self.short_norm = ShortNorm.of(self.head_weights(), self.stack.norm_eps)
        if packed:
            for projection in (self.wqkv, self.wo):
                projection.packed = Packed(projection.weight)


class FeedForward(nn.Module):
    """w2(silu(w1 x) * w3 x)."""

    def __init__(self, stack: StackConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(stack.dim, stack.ffn_dim, bias=False)
        self.w3 = nn.Linear(stack.dim, stack.ffn_dim, bias=False)
        self.w2 = Projection(stack.ffn_dim, stack.dim, bias=False)
        self.both: Callable[[Tensor], Tensor] | None = None  # w1 and w3 as one map, set by DualAR.prepare_serving
        self.matrix: Tensor | None = None  # of that map

    def forward(self, x: Tensor) -> Tensor:
        if self.both is None:
            gate, up = self.w1(x), self.w3(x)
        else:
            gate, up = self.both(x).chunk(2, -1)
        return self.w2(F.silu(gate) * up)  # type: ignore[no-any-return]

    def prepare_serving(self, packed: bool) -> None:
        """Make one map of w1 and w3; both become views of its matrix, so that names and memory stay what they were."""
        matrix = torch.cat((self.w1.weight.detach(), self.w3.weight.detach()))
        w1, w3 = matrix.chunk(2)
        self.w1.weight, self.w3.weight = (nn.Parameter(part, requires_grad=False) for part in (w1, w3))
        self.matrix = matrix
        self.both = Packed(matrix) if packed else partial(F.linear, weight=matrix)
        if packed:
            self.w2.packed = Packed(self.w2.weight)


class Block(nn.Module):
    """One pre-norm layer of either stack."""

    def __init__(self, stack: StackConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(stack, layer)
        self.feed_forward = FeedForward(stack)
        self.attention_norm = RMSNorm(stack.dim, stack.norm_eps)
        self.ffn_norm = RMSNorm(stack.dim, stack.norm_eps)

    def forward(self, x: Tensor, rope: Rope, attend: Attend) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, attend)
        return x + self.feed_forward(self.ffn_norm(x))  # type: ignore[no-any-return]

    def prepare_serving(self, packed: bool) -> None:
        """See DualAR.prepare_serving."""
        self.attention.prepare_serving(packed)
        self.feed_forward.prepare_serving(packed)
        self.attention_norm.prepare_serving()
        self.ffn_norm.prepare_serving()


class DualAR(nn.Module):
    """The model. Its methods are the pieces that serving and training put together; there is no `forward`."""

    rope: Tensor  # [max_positions, 2, head_dim], see rope_table
    fast_rope: Tensor  # [num_codebooks, 2, fast head_dim]
    code_offsets: Tensor  # int64 [num_codebooks], first row of every codebook in the codebook table

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        slow, fast = config.slow, config.fast
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, slow.dim)
        self.codebook_embeddings = nn.Embedding(config.codebook_size * config.num_codebooks, slow.dim)
        self.layers = nn.ModuleList(Block(slow, layer) for layer in range(slow.n_layer))
        self.norm = RMSNorm(slow.dim, slow.norm_eps)
        if not config.tie_word_embeddings:
            self.output = nn.Linear(slow.dim, config.vocab_size, bias=False)
        self.fast_project_in = Projection(slow.dim, fast.dim) if config.project_in else nn.Identity()
        self.fast_embeddings = nn.Embedding(config.codebook_size, fast.dim)
        self.fast_layers = nn.ModuleList(Block(fast, layer) for layer in range(fast.n_layer))
        self.fast_norm = RMSNorm(fast.dim, fast.norm_eps)
        self.fast_output = nn.Linear(fast.dim, config.codebook_size, bias=False)
        self.register_buffer("rope", rope_table(slow, config.max_positions), persistent=False)
        self.register_buffer("fast_rope", rope_table(fast, config.num_codebooks), persistent=False)
        offsets = torch.arange(config.num_codebooks, device="cpu") * config.codebook_size
        self.register_buffer("code_offsets", offsets, persistent=False)
        # Set by engine.checkpoint: then `packed` serving changes nothing but activations' rounding.
        self.stored_8_bit = False
        self.kernels = False  # steps run in kernels of our own, set by prepare_serving
        self.head_rows: Rows | None = None  # of [n_semantic + 1, D], set by prepare_serving
        self.residual_rows: Rows | None = None  # of [<= codebook_size, Df], set by prepare_serving
        # What a step runs instead of the blocks, set by prepare_serving.
        self.slow_steps: Steps | FusedSteps | None = None
        self.fast_steps: Steps | FusedSteps | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype, which is also that of K and V."""
        return self.embeddings.weight.dtype

    def prepare_serving(
        self,
        residual_entries: int | None = None,
        packed: bool = False,
        fuse: Compile | None = None,
        kernels: bool = False,
    ) -> None:
        """Fuse and slice what every step would otherwise gather anew. Call once, after load and `to`; training must not.

        residual_entries: logits of a residual codebook are cut to that many entries (the codec's tables are shorter than the
        head); None keeps the reference's behaviour. packed: blocks multiply by 8-bit matrices (`engine.packed`); CPU only.
        fuse: compiles what a step's blocks do around the attention (`engine.fused`); None: it runs operation by operation. kernels: few
        rows are multiplied in kernels of our own (`engine.products_triton`), with norms, gates and sums; needs Triton, and `fuse` for many.
        """
        assert not packed or self.device.type == "cpu", "packed matrices are for CPUs"
        assert not (packed and fuse), "what is packed is fused by hand"
        assert fuse or not kernels, "kernels are for few rows, and compiled blocks for more"
        self.kernels = kernels
        for block in (*self.layers, *self.fast_layers):
            assert isinstance(block, Block)
            block.prepare_serving(packed)
        for norm in (self.norm, self.fast_norm):
            norm.prepare_serving()
            norm.kernel = kernels
        if packed and isinstance(self.fast_project_in, Projection):
            self.fast_project_in.packed = Packed(self.fast_project_in.weight)
        if packed:
            self.slow_steps, self.fast_steps = Steps(self.layers, self.rope), Steps(self.fast_layers, self.fast_rope)
        if fuse is not None:
            self.slow_steps = FusedSteps(list(self.layers), self.rope, fuse, kernels)  # type: ignore[arg-type]
            self.fast_steps = FusedSteps(list(self.fast_layers), self.fast_rope, fuse, kernels)  # type: ignore[arg-type]
        self.head_rows = Rows(self._allowed_rows(), packed, kernels)
        self.residual_rows = Rows(self.fast_output.weight[:residual_entries], packed, kernels)

    # The slow stack

    def embed(self, matrix: Tensor) -> Tensor:
        """Input of the slow stack. matrix: int64 [B, K + 1, T], row 0 token ids, then codes. Returns [B, T, D].

        Codes count only where row 0 holds a semantic token. Order of roundings: spec 4.1.
        """
        config = self.config
        if self.kernels:
            from engine.embed_triton import embed

            frames, scale = (config.semantic_begin, config.semantic_end), math.sqrt(config.num_codebooks + 1)
            return embed(
                matrix, self.embeddings.weight, self.codebook_embeddings.weight, self.code_offsets, frames,
                scale if config.scale_codebook_embeddings else None,
            )  # fmt: skip
        ids, codes = matrix[:, 0], matrix[:, 1:]
        x = self.embeddings(ids)  # [B, T, D]
        frames = x + self.codebook_embeddings(codes + self.code_offsets[:, None]).sum(1)
        if config.scale_codebook_embeddings:
            frames = frames / math.sqrt(config.num_codebooks + 1)
        is_frame = (ids >= config.semantic_begin) & (ids <= config.semantic_end)
        return torch.where(is_frame[..., None], frames, x)

    def slow(self, x: Tensor, positions: Tensor, attend: Attend) -> Hidden:
        """Run the slow stack. x: [B, T, D]. positions: int64 [B, T], absolute within the conversation's prompt."""
        if self.slow_steps is not None and (x.shape[1] == 1 or isinstance(self.slow_steps, FusedSteps)):
            x = self.slow_steps.run(x, self.slow_steps.turns[positions], attend)
        else:
            rope = rope_rows(self.rope[positions])
            for block in self.layers:
                x = block(x, rope, attend)
        normed = self.norm(x)
        return Hidden(normed, normed if self.config.norm_fastlayer_input else x)

    def head(self, h: Tensor) -> Tensor:
        """Logits of the tokens that may be generated. h: Hidden.head, [..., D]. Returns [..., n_semantic + 1].

        Column i is `<|semantic:i|>`, the last one `<|im_end|>`: see `token_of`.
        """
        return F.linear(h, self._allowed_rows()) if self.head_rows is None else self.head_rows(h)

    def full_logits(self, h: Tensor) -> Tensor:
        """Logits over the whole (padded) vocabulary, [..., vocab_size]."""
        return F.linear(h, self._head_weight())

    def token_of(self, column: Tensor) -> Tensor:
        """Token ids of columns of `head`, any shape."""
        config = self.config
        return torch.where(column == config.n_semantic, config.im_end, column + config.semantic_begin)

    def code_of(self, column: Tensor) -> Tensor:
        """Semantic codes of columns of `head`; `<|im_end|>` gives code 0, whose frame is thrown away (spec 5)."""
        return torch.where(column == self.config.n_semantic, 0, column).clamp(max=self.config.codebook_size - 1)

    def _head_weight(self) -> Tensor:
        return self.embeddings.weight if self.config.tie_word_embeddings else self.output.weight

    def _allowed_rows(self) -> Tensor:
        weight, config = self._head_weight(), self.config
        semantic = weight[config.semantic_begin : config.semantic_end + 1]
        return torch.cat((semantic, weight[config.im_end : config.im_end + 1]))

    # The fast stack

    def fast(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """All positions of whole frames at once: training and verification.

        hidden: Hidden.fast, [N, D]. codes: int64 [N, >= K - 1], the frames' codes from codebook 0 on. Returns logits
        [N, K, codebook_size]: position 0 predicts codebook 0 (unused at inference), position i codebook i.
        """
        known = self.fast_embeddings(codes[:, : self.config.num_codebooks - 1])  # [N, K - 1, Df]
        x = torch.cat((self.fast_project_in(hidden)[:, None], known), 1)
        return F.linear(self._fast_blocks(x, self.fast_rope, causal), self.fast_output.weight)

    def fast_frame(
        self,
        hidden: Tensor,
        code0: Tensor,
        draw: Draw,
        kv: FrameMemory,
        embed: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Draw the rest of a frame. hidden: Hidden.fast, [B, D]. code0: int64 [B]. Returns codes int64 [B, K].

        `draw` is asked once a codebook, 1 to K - 1. embed: codes just drawn, int64 [B] -> rows of `fast_embeddings` [B, Df], valid
        until the next draw; None: they are looked up. Nothing waits for the device; shapes follow from B alone.
        """
        rows, embed = hidden.shape[0], embed or self.fast_embeddings
        head = self.residual_rows or self.fast_output
        # Hidden state and code 0 are both known, so positions 0 and 1 are one pass; the logits of position 0 are not used.
        x = torch.cat((self.fast_project_in(hidden[:, None]), embed(code0)[:, None]), 1)  # [B, 2, Df]
        codes = [code0]
        for codebook in range(1, self.config.num_codebooks):
            start = 0 if codebook == 1 else codebook
            attend = kv.at(start, codebook + 1, rows)
            if self.fast_steps is not None:
                x = self.fast_steps.run(x, self.fast_steps.turns[start : codebook + 1], attend)
                assert self.residual_rows is not None, "set together"
                logits = self.residual_rows.normed(x[:, -1:], self.fast_norm)
            else:
                x = self._fast_blocks(x, self.fast_rope[start : codebook + 1], attend)
                logits = head(x[:, -1])
            codes.append(draw(codebook, logits))
            x = embed(codes[-1])[:, None]
        return torch.stack(codes, 1)

    def _fast_blocks(self, x: Tensor, table: Tensor, attend: Attend) -> Tensor:
        rope = rope_rows(table)
        for block in self.fast_layers:
            x = block(x, rope, attend)
        return self.fast_norm(x)  # type: ignore[no-any-return]


class Steps:
    """The blocks of a stack as a CPU's steps run them; see engine.step."""

    def __init__(self, blocks: nn.ModuleList, rope: Tensor) -> None:
        """blocks: prepared for serving. rope: the stack's table."""
        self._blocks = [StepBlock(block) for block in blocks if isinstance(block, Block)]
        self.turns = turns(rope)  # of every position

    def run(self, x: Tensor, turn: Tensor, attend: Attend) -> Tensor:
        """x: [B, T, D], overwritten. turn: `turns` of the positions, [B, T, 1, hd / 2] or without B. Returns [B, T, D]."""
        flat, positions = x.flatten(0, 1), int(x.shape[1])
        for block in self._blocks:
            block(flat, turn, attend, positions)
        return flat.view(-1, positions, flat.shape[1])


def rope_table(stack: StackConfig, positions: int) -> Tensor:
    """cos and sin of every position, float32 [positions, 2, head_dim], as `rotate` wants them.

    Rounded to bfloat16 and kept so: the weights were trained with rounded tables, and with exact ones speech comes out
    garbled (spec 4.3). A cast of this buffer to bfloat16 therefore loses nothing.
    """
    half = torch.arange(0, stack.head_dim, 2, dtype=torch.float32, device="cpu")
    frequency = 1.0 / (stack.rope_base ** (half / stack.head_dim))
    angle = torch.outer(torch.arange(positions, dtype=torch.float32, device="cpu"), frequency)
    cos = angle.cos().repeat_interleave(2, 1)
    sin = torch.stack((-angle.sin(), angle.sin()), -1).flatten(1)  # the sign belongs to the formula in `rotate`
    return torch.stack((cos, sin), 1).bfloat16().float()


def rope_rows(table: Tensor) -> Rope:
    """Rows of a `rope_table`, [..., T, 2, hd], as `rotate` takes them: split once a step instead of once a layer."""
    cos, sin = torch.split(table.float(), 1, -2)
    return cos, sin


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Turn adjacent pairs (a, b) into (a cos - b sin, b cos + a sin), in float32, and round to x's dtype.

    x: [B, T, heads, hd]. Written as x cos + swap(x) (-+sin), which is three operations whatever the number of heads.
    """
    cos, sin = rope
    wide = x.float()
    swapped = wide.view(*wide.shape[:-1], -1, 2).flip(-1).flatten(-2)
    return torch.addcmul(wide * cos, swapped, sin).to(x.dtype)
