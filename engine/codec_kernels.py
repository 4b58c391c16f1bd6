"""The codec's decoder for one or a few frames as some eighty launches of our own kernels, for any number of rows.

Knows how the layers of a `StreamingCodec` follow each other, with which scales their factors fit into half precision, and where each leaves
what the next one sees. The arithmetic of a launch is in `engine.codec_triton`. Reads and writes the same states as the codec's own `step`,
so both may serve a row in turns. Does not know graphs or whose rows they are. Needs Triton; import it only where there is a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
import triton
from torch import Tensor

from engine import codec_triton as kernels
from engine.codec_plans import Plan, plan_of
from engine.codec_windows import Call, Goal, Turned, Windows, balance
from engine.streaming import StreamingCodec
from engine.streaming_layers import (
    CausalProduct,
    ConvNext,
    Factor,
    Residual,
    Snake,
    SnakeProduct,
    Transformer,
    TransformerLayer,
)

# Parts whose products have factors of twice as many bits (three products for one): a small share of the frame's, and where a trained codec
# loses most of what it loses; with them it keeps about 65 dB, without 58 (the mini's). So has what the last convolution sees.
PRECISE = ("upsample", "decoder.0", "decoder.1")
# Rows that such products are made for in one loop instead of three: fewer waits, but less in flight. 64 rows gain by it, 256 lose.
MOST_JOINED = 64


def batch_like(batch: int) -> int:
    """The batch whose plans one of `batch` rows runs with: each plan is compiled, so there are few."""
    return next((like for most, like in ((4, 1), (32, 16), (128, 64)) if batch <= most), 256)


class Product:
    """A product's factor of `kind`, and how it is launched.

    Rows of the matrix are divided by `back`, which the inputs were multiplied with; columns by a scale that outputs are multiplied with.
    Both are powers of two, and leave no number of consequence below what half precision has.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        kind: torch.dtype,
        *,
        time: int,
        taps: int = 1,
        dilation: int = 1,
        back: Tensor | None = None,
        act: int = kernels._NONE,
        floor: float | None = None,
        precise: bool = False,
    ) -> None:
        """weight: float32 [taps * channels, columns]. time: positions of a frame. floor: what a norm adds to the inputs' squares."""
        if back is not None:
            weight = weight / back.repeat(taps)[:, None]
        self.scale = balance(weight.abs().amax(0))
        weight = weight / self.scale
        self.weight, self.bias, self.precise = weight.to(kind).contiguous(), bias, precise
        if precise:
            self.weight = torch.cat([self.weight, (weight - self.weight.float()).to(kind)])
        self.time, self.taps, self.dilation, self.act, self.floor = time, taps, dilation, act, floor
        self.channels, self.columns = weight.shape[0] // taps, weight.shape[1]
        self.outputs = self.columns // 2 if act == kernels._GATE else self.columns

    def plan(self, batch: int, frames: int) -> Plan:
        """What it is launched with."""
        rows, gated = batch_like(batch) * frames * self.time, self.act == kernels._GATE
        joined = batch_like(batch) <= MOST_JOINED
        return plan_of(rows, self.columns, self.channels, self.taps, gated, self.precise, joined)

    def run(
        self,
        call: Call,
        a: Tensor,
        a_head: int = 0,
        *,
        x: Tensor | None = None,
        adds: bool = False,
        keeps: bool = True,
        out: Tensor | None = None,
        back: Tensor | None = None,
        turned: Turned | None = None,
        bends: bool = False,
    ) -> None:
        """a: windows, each with `a_head` numbers of its past; [halves, rows, channels] where it has none. x: float32 [rows, outputs],
        added if `adds`, and overwritten if `keeps`.

        out: [halves, rows, outputs] of `kind`, times `back`, bent before if `bends`; or what `turned` says.
        """
        plan, time = self.plan(call.batch, call.frames), call.frames * self.time
        rows, some = call.batch * time, self.scale
        down = batch_like(call.batch) * time < self.columns  # the matrix is the larger: read it once
        goal = None if turned is None else turned.goal
        if turned is not None:
            out, back, bends = turned.goal.of(call), turned.back, turned.bends
        a_low = call.low if a_head else a.numel() // 2
        lows = out is not None and (len(out) == 2 if goal is None else goal.precise)
        out_low = call.low if goal is not None or out is None else out.numel() // 2
        alpha = None if turned is None else turned.alpha
        shift = None if turned is None else turned.shift
        tiles = self.outputs // (plan.cols if self.act == kernels._GATE else plan.cols * plan.parts)
        grid = (triton.cdiv(rows, plan.rows) * tiles,)
        launch = partial(kernels._product_kernel.warmup, grid=grid) if call.dry else kernels._product_kernel[grid]
        launch(
            a, self.weight, self.scale, some if self.bias is None else self.bias, some if x is None else x,
            some if out is None else out, some if alpha is None else alpha, some if shift is None else shift,
            some if back is None else back, call.state, call.index, rows, self.dilation, self.floor or 0.0, a_head,
            a_low if self.precise else 0, 0 if goal is None else goal.head, out_low if lows else 0,
            0 if goal is None else goal.place, call.floats,
            self.channels, self.taps, self.columns, time, self.floor is not None, self.bias is not None, self.act,
            adds, x is not None and keeps, alpha is not None, bends, back is not None, out is not None, lows,
            goal is not None, self.precise, plan.joined, plan.rows, plan.cols, plan.parts, plan.deep, down,
            num_warps=plan.warps, num_stages=plan.stages,
        )  # fmt: skip


def _importance(product: CausalProduct) -> Tensor:
    """The largest weight of each input, as a power of two."""
    weight, _ = product.factor.plain()
    return balance(weight.view(-1, product.window.channels, weight.shape[1]).abs().amax((0, 2)))


class _Block:
    """A block of the decoder: a transposed convolution and residual units."""

    def __init__(
        self,
        first: SnakeProduct,
        units: list[Residual],
        time: int,
        windows: Windows,
        kind: torch.dtype,
        precise: bool,
    ) -> None:
        """time: inputs of the block."""
        conv = first.product
        self.seen = windows.add(conv.window, time, _importance(conv), precise)
        weight, _ = conv.factor.plain()
        self.up = Product(weight, None, kind, time=time, taps=conv.window.seen, back=self.seen.back, precise=precise)
        self.channels = conv.channels
        self.repeats = weight.shape[1] // self.channels
        self.time = time * self.repeats
        self.units = units
        convs = [unit.inner.product for unit in units]
        self.seens = [windows.add(conv.window, self.time, _importance(conv), precise) for conv in convs]
        self.inner, self.outer, self.middle = [], [], []
        for unit, seen in zip(units, self.seens, strict=True):
            inner, window = unit.inner.product.factor, unit.inner.product.window
            middle = balance(unit.outer.abs().amax(1))
            self.inner.append(
                Product(
                    *inner.plain(),
                    kind,
                    time=self.time,
                    taps=window.seen,
                    dilation=window.dilation,
                    back=seen.back,
                    precise=precise,
                )
            )
            self.outer.append(Product(unit.outer, None, kind, time=self.time, back=middle, precise=precise))
            self.middle.append(middle)

    def lead_to(self, snake: Snake | None, goal: Goal) -> None:
        """What comes next."""
        firsts = [Turned.by(u.inner.snake, seen) for u, seen in zip(self.units, self.seens, strict=True)]
        self.after = [*firsts[1:], Turned.by(snake, goal)]
        self.first = Turned.by(self.units[0].inner.snake, self.seens[0], self.repeats)

    def run(self, call: Call) -> None:
        rows = call.batch * call.frames * self.time
        x = call.state.new_empty(rows, self.channels)
        bent = call.windows.new_empty(1 + self.up.precise, rows, self.channels)
        self.up.run(call, self.seen.of(call), self.seen.head, x=x, turned=self.first)
        for i, seen in enumerate(self.seens):
            self.inner[i].run(call, seen.of(call), seen.head, out=bent, back=self.middle[i], bends=True)
            last = i == len(self.seens) - 1
            self.outer[i].run(call, bent, x=x, adds=True, keeps=not last, turned=self.after[i])


class _Layer:
    """A block of the transformer."""

    def __init__(self, layer: TransformerLayer, kind: torch.dtype) -> None:
        self.heads, self.dim, self.past = layer.heads, layer.head_dim, layer.past
        before, between = (float(norm.floor) ** 2 for norm in (layer.attention_norm, layer.feed_norm))
        self.qkv = Product(*layer.wqkv.plain(), kind, time=1, floor=before)
        self.out = Product(*layer.wo.plain(), kind, time=1)
        self.wide = Product(*layer.wide.plain(), kind, time=1, floor=between, act=kernels._GATE)
        self.narrow = Product(*layer.narrow.plain(), kind, time=1)

    def run(self, call: Call, x: Tensor, narrow: Tensor, past: Tensor, window: int) -> None:
        """x float32 [B * frames, dim] and the same of `kind`, [halves, B * frames, dim], both overwritten."""
        qkv = x.new_empty(len(x), self.qkv.columns)
        self.qkv.run(call, narrow, x=qkv)
        heard = narrow.new_empty(1, len(x), self.heads * self.dim)
        if not call.dry:
            kernels.attend(qkv, call.turn, past, call.index, call.start, heard, window)
        self.out.run(call, heard, x=x, adds=True, out=narrow)
        gated = narrow.new_empty(1, len(x), self.wide.outputs)
        self.wide.run(call, narrow, out=gated)
        self.narrow.run(call, gated, x=x, adds=True, out=narrow)


class _Upsample:
    """A transposed convolution without memory, and a ConvNeXt block."""

    def __init__(
        self,
        up: Factor,
        gain: Tensor | None,
        floor: float | None,
        block: ConvNext,
        time: int,
        kind: torch.dtype,
        precise: bool,
    ) -> None:
        """gain: of the norm before, whose floor is `floor`. time: inputs of a frame."""
        weight, bias = up.plain()
        weight = weight if gain is None else weight * gain[:, None]
        self.up = Product(weight, bias, kind, time=time, floor=floor, precise=precise)
        self.channels = block.window.channels
        self.time = time * (self.up.columns // self.channels)
        self.block = block
        self.wide = Product(*block.wide.plain(), kind, time=self.time, act=kernels._GELU, precise=precise)
        self.narrow = Product(*block.narrow.plain(), kind, time=self.time, precise=precise)

    def run(self, call: Call, narrow: Tensor, place: int, goal: Goal | None) -> Tensor:
        """narrow: inputs of `kind`, [halves, rows, channels]. Returns the block's output of `kind`, unless it goes to a window."""
        time = call.frames * self.time
        rows = call.batch * time
        x = call.state.new_empty(rows, self.channels)
        self.up.run(call, narrow, x=x)
        halves = 1 + self.up.precise
        y = narrow.new_empty(halves, rows, self.channels)
        block = self.block
        if not call.dry:
            kernels.depthwise(x, block.taps, block.bias, block.eps, call.state, call.index, place, time, y)
        z = narrow.new_empty(halves, rows, self.wide.columns)
        self.wide.run(call, y, out=z)
        if goal is None:
            self.narrow.run(call, z, x=x, adds=True, keeps=False, out=y)
        else:
            self.narrow.run(call, z, x=x, adds=True, keeps=False, turned=Turned.by(None, goal, bends=False))
        return y


class KernelDecoder:
    """`StreamingCodec.step` for rows that a tensor names, in kernels. `fits` says whether a codec can be run so."""

    def __init__(
        self, codec: StreamingCodec, kind: torch.dtype = torch.float16, precise: Sequence[str] = PRECISE
    ) -> None:
        """kind: of a product's factors. precise: names of parts that need more bits than it has."""
        self._codec, self._kind = codec, kind
        parts, windows = list(codec.parts.items()), Windows(codec)
        post = parts[0][1][0]
        assert isinstance(post, Transformer), "the transformer comes first"
        self._post = post
        self._layers = [_Layer(layer, kind) for layer in post.layers]
        self._frequency = post.frequency.float().contiguous()
        floor, time = float(post.norm.floor) ** 2, 1
        self._ups: list[_Upsample] = []
        name, pairs = parts[1]
        fine = name in precise
        for up, block in zip(pairs[::2], pairs[1::2], strict=True):
            assert isinstance(up, CausalProduct) and isinstance(block, ConvNext), "upsampling is pairs of these"
            first = not self._ups
            gain = post.gain if first else None
            self._ups.append(_Upsample(up.factor, gain, floor if first else None, block, time, kind, fine))
            time = self._ups[-1].time
        (last,) = parts[-1][1]
        assert isinstance(last, SnakeProduct), "a snake and a convolution end it"
        final = last.product
        taps = final.factor.plain()[0][: (final.window.seen - final.window.block + 1) * final.window.channels, 0]
        most = balance(taps.view(-1, final.window.channels).abs().amax(0))
        self._final = windows.add(final.window, codec.frame_samples, most, precise=True)
        self._taps = (taps.view(-1, final.window.channels) / most).flatten().contiguous()
        name, (scaled,) = parts[2]
        fine = name in precise
        assert isinstance(scaled, CausalProduct), "a convolution leads into the blocks"
        self._seen = windows.add(scaled.window, time, torch.ones_like(_importance(scaled)), fine)
        self._scaled = Product(*scaled.factor.plain(), kind, time=time, taps=scaled.window.seen, precise=fine)
        self._blocks: list[_Block] = []
        snakes: list[Snake | None] = []
        for name, (first_of, *units) in parts[3:-1]:
            assert isinstance(first_of, SnakeProduct), "a block begins with a transposed convolution"
            residuals = [unit for unit in units if isinstance(unit, Residual)]
            self._blocks.append(_Block(first_of, residuals, time, windows, kind, name in precise))
            snakes.append(first_of.snake)
            time = self._blocks[-1].time
        bias = final.factor.plain()[1]
        assert bias is not None, "the last convolution has a bias"
        self._bias = float(bias[0])
        goals, after = [block.seen for block in self._blocks], [*snakes[1:], last.snake]
        self._enter = Turned.by(None, goals[0])
        for block_, snake, goal in zip(self._blocks, after, [*goals[1:], self._final], strict=True):
            block_.lead_to(snake, goal)
        self._windows = windows
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}  # by frames

    @torch.inference_mode()
    def step(self, codes: Tensor, rows: Tensor) -> Tensor:
        """codes int64 [B, K, T], rows int64 [B]: as StreamingCodec.step. T: a power of two, CHUNK_FRAMES at most."""
        return self._step(codes.contiguous(), rows, dry=False)

    @torch.inference_mode()
    def prepare(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Compile what calls of so many rows and frames need, side by side: a minute's work for one core."""
        table = self._codec.entries[0]
        least = {(batch_like(batch), frames): batch for batch, frames in sorted(sizes, reverse=True)}
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads, triton.AsyncCompileMode(threads):
            for (_, frames), batch in least.items():
                codes = torch.zeros(batch, self._codec.codebooks, frames, dtype=torch.int64, device=table.device)
                self._step(codes, codes[:, 0, 0].contiguous(), dry=True)

    def _step(self, codes: Tensor, rows: Tensor, dry: bool) -> Tensor:
        codec, states, (batch, _, frames) = self._codec, self._codec.states, codes.shape
        numbers, halved = self._windows.numbers(frames)
        low = batch * numbers
        windows = torch.empty(low + batch * halved, dtype=self._kind, device=codes.device)
        table = codec.entries[0]
        if dry:
            start, turn, x = rows, table, table.new_empty(batch * frames, table.shape[1])
            narrow = torch.empty(2, *x.shape, dtype=self._kind, device=x.device)
        else:
            if frames not in self._tables:
                self._tables[frames] = self._windows.table(frames, kernels.CHUNK)
            start, turn = kernels.turned(states.frames, rows, self._frequency, frames)
            kernels.begin(*self._tables[frames], states.history, rows, windows, low)
            x, narrow = kernels.embedded(codes, *codec.entries, self._kind)
        call = Call(batch, frames, windows, states.history, states.history.shape[1], rows, start, turn, low, dry)
        for layer in self._layers:
            layer.run(call, x, narrow, states.rings[layer.past], self._post.window)
        for up in self._ups:
            last = up is self._ups[-1]
            place = codec.layout.offset(up.block.window.place)
            narrow = up.run(call, narrow, place, self._seen if last else None)
        self._scaled.run(call, self._seen.of(call), self._seen.head, turned=self._enter)
        for block in self._blocks:
            block.run(call)
        final = self._final
        if dry:
            return x
        wave = kernels.wave(final.of(call), self._taps, self._bias, batch, final.head, frames * final.fresh, low)
        return wave.view(batch, -1)


def fits(codec: StreamingCodec) -> bool:
    """Whether the kernels' tiles divide its widths, and a frame is no shorter than half of what a convolution remembers."""
    post, pairs = codec.parts["post_module"][0], codec.parts["upsample"]
    if not isinstance(post, Transformer) or post.rate != 1 or post.into is not None or post.out_of is not None:
        return False
    if not post.layers or not pairs or post.layers[0].head_dim & (post.layers[0].head_dim - 1):
        return False
    if any(isinstance(layer, CausalProduct) and layer.window.remembered for layer in pairs):
        return False
    time = 1
    for layers in list(codec.parts.values())[1:-1]:
        for layer in layers:
            product = layer if isinstance(layer, CausalProduct) else None
            if isinstance(layer, SnakeProduct):
                product = layer.product
            if isinstance(layer, Residual):
                product = layer.inner.product
            if product is None:
                continue
            remembered, channels = product.window.remembered, product.window.channels
            if remembered > 2 * time or channels % 16 or product.channels % 16:
                return False
            time *= product.factor.outputs // product.channels
    widths = [factor for layer in post.layers for factor in (layer.wqkv, layer.wo, layer.wide, layer.narrow)]
    return not any(factor.inputs % 16 or factor.outputs % 32 for factor in widths)
