"""The codec's layers for streams: per-row state, folded weights, one matrix product a convolution.

Knows how each module of codec.py runs on the next few positions of several rows when all that it may remember is a
fixed number of earlier inputs. Does not know which rows a call is about, codes or samples (streaming.py).

Activations are [B * T, C], positions of a row in order, rows one after the other. Every convolution becomes a causal
one of stride 1: a strided one takes `stride` positions as one with stride * C channels, a transposed one gives
`stride` positions as one with stride * C channels. So its state is always its last inputs, zeros before the first, and
the arithmetic is one product of unfolded inputs with a [taps * in, out] matrix; on few positions that beats conv1d,
which spends its time on rearranging weights (measured on two AVX-512 cores).
Elementwise passes cost as much as the products save, so what is linear is folded into weights once: the snake's alpha
(`Snake`), norm gains, layer scales, and biases of residual branches (`Residual`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import codec

Part = TypeVar("Part", bound=nn.Module)

# Smallest alpha that is divided by: x + sin^2(alpha x) / alpha differs from x by less than alpha x^2, so moving a
# smaller alpha here changes nothing that float32 audio shows; zero itself would divide by zero.
MIN_ALPHA = 1e-6


def child(module: nn.Module, index: int, kind: type[Part]) -> Part:
    """Part number `index` of a sequential module, known to be of `kind`."""
    assert isinstance(module, nn.Sequential | nn.ModuleList), "only sequences have numbered parts"
    part = module[index]
    assert isinstance(part, kind), f"part {index} is {type(part).__name__}, not {kind.__name__}"
    return part


class Layout:
    """Hands out places in the one tensor that holds every convolution's last inputs of a row."""

    def __init__(self) -> None:
        self.floats = 0  # size of a row so far

    def take(self, floats: int) -> int:
        """Reserve `floats` and return where they start."""
        start, self.floats = self.floats, self.floats + floats
        return start


@dataclass(frozen=True, slots=True)
class Step:
    """What the layers of one call share."""

    batch: int  # B
    frames: int  # frames of each row in this call
    history: Tensor  # float [B, Layout.floats], updated in place
    start: Tensor  # int64 [B], frames of each row before this call
    index: Tensor  # int64 [B], the rows
    first: int | None  # the rows are first, first + 1, ...: their state can be viewed; None: it has to be gathered

    def select(self, state: Tensor) -> Tensor:
        """state [rows, ...] -> its rows of this call, [B, ...], a view where possible."""
        if self.first is None:
            return state.index_select(0, self.index)
        return state.narrow(0, self.first, self.batch)


class Window:
    """The last inputs of a causal convolution of stride 1, for every row.

    `open` leaves room for the new inputs behind the remembered ones, so that they are computed in place.
    """

    def __init__(self, layout: Layout, taps: int, channels: int, dilation: int = 1, block: int = 1) -> None:
        """block: outputs looked at together; they see block - 1 inputs more. Needs dilation 1."""
        self.channels, self.dilation, self.block = channels, dilation, block
        self.remembered = (taps - 1) * dilation  # inputs
        self.seen = taps + block - 1
        self.place = layout.take(self.remembered * channels)

    def open(self, step: Step, time: int) -> tuple[Tensor, Tensor]:
        """[B, remembered + time, C] whose first inputs are filled in, and the part of it to fill, [B, time, C]."""
        window = step.history.new_empty(step.batch, self.remembered + time, self.channels)
        if self.remembered:
            window[:, : self.remembered].copy_(self._state(step))
        return window, window[:, self.remembered :]

    def close(self, step: Step, window: Tensor) -> Tensor:
        """Remember the last inputs of a filled window. Returns, as a view, what is seen: [B, time / block, seen, C]."""
        span, channels = window.shape[1], self.channels
        time = span - self.remembered
        if self.remembered:
            self._state(step).copy_(window[:, time:])
        strides = (span * channels, self.block * channels, self.dilation * channels, 1)
        return window.as_strided((step.batch, time // self.block, self.seen, channels), strides)

    def _state(self, step: Step) -> Tensor:
        history = step.history
        shape, strides = (step.batch, self.remembered, self.channels), (history.stride(0), self.channels, 1)
        return history.as_strided(shape, strides, history.storage_offset() + self.place)


class CausalProduct:
    """A causal convolution of stride 1 as one matrix product."""

    def __init__(
        self,
        layout: Layout,
        taps: Tensor,
        bias: Tensor | None,
        *,
        dilation: int = 1,
        stride_out: int = 1,
        block: int = 1,
    ) -> None:
        """taps: [taps, in, out], oldest first. bias: [out], or None where the caller accounts for it.

        stride_out: positions that one output stands for, as a transposed convolution's does. block: outputs that one
        row of the product gives; with few output channels that copies inputs (taps + block - 1) / block times, not
        `taps` times. The number of positions of a call must be a multiple of it.
        """
        self.window = Window(layout, taps.shape[0], taps.shape[1], dilation, block)
        shifted = [F.pad(taps, (0, 0, 0, 0, shift, block - 1 - shift)) for shift in range(block)]
        self.weight = torch.cat(shifted, dim=2).flatten(0, 1).float().contiguous()
        self.bias = None if bias is None else bias.repeat(block).float()
        self.channels = self.weight.shape[1] // (stride_out * block)

    def multiply(self, step: Step, window: Tensor) -> Tensor:
        """Output of a filled window, [B * T, out]."""
        return self._product(self.window.close(step, window))

    def run(self, step: Step, x: Tensor) -> Tensor:
        """x: contiguous, B * T * in values of any shape. Returns [B * T, out]."""
        x = x.view(step.batch, -1, self.window.channels)
        if not self.window.remembered:
            return self._product(x)
        window, fresh = self.window.open(step, x.shape[1])
        fresh.copy_(x)
        return self.multiply(step, window)

    def _product(self, seen: Tensor) -> Tensor:
        rows = seen.reshape(-1, self.weight.shape[0])
        out = torch.mm(rows, self.weight) if self.bias is None else torch.addmm(self.bias, rows, self.weight)
        return out.view(-1, self.channels)


class WideProduct(CausalProduct):
    """A causal convolution that also runs on so many positions that conv2d is faster, on a CPU, than unfolding them.

    Measured for 32 and 64 channels: from 1,024 positions on, at 1,024 by 10 to 25 % and at 4,096 by 15 to 33 %; below, conv2d loses.
    A GPU keeps to the product, whose float32 is float32: its convolutions use TF32 unless that is switched off globally.
    """

    MIN_POSITIONS = 1024

    def __init__(self, layout: Layout, taps: Tensor, bias: Tensor, dilation: int) -> None:
        super().__init__(layout, taps, bias, dilation=dilation)
        kernel = taps.float().permute(2, 1, 0).unsqueeze(2)  # [out, in, 1, taps]
        self.kernel = kernel.contiguous(memory_format=torch.channels_last) if kernel.device.type == "cpu" else None

    def multiply(self, step: Step, window: Tensor) -> Tensor:
        positions = window.shape[0] * (window.shape[1] - self.window.remembered)
        if self.kernel is None or positions < self.MIN_POSITIONS:
            return super().multiply(step, window)
        self.window.close(step, window)
        image = window.transpose(1, 2).unsqueeze(2)  # [B, C, 1, remembered + T], channels last as it lies
        out = F.conv2d(image, self.kernel, self.bias, dilation=(1, self.window.dilation))
        return out.permute(0, 2, 3, 1).reshape(-1, self.channels)


def conv_taps(conv: codec.CausalConv) -> Tensor:
    """Its weight as float64 taps [kernel / stride, stride * in, out] of a convolution of stride 1."""
    weight = conv.conv.weight.detach().double()  # [out, in, kernel]
    by_age = weight.permute(2, 1, 0)  # [kernel, in, out]
    kernel, channels, outputs = by_age.shape
    assert kernel % conv.stride == 0, "a strided convolution of the codec has a kernel of whole strides"
    return by_age.reshape(kernel // conv.stride, conv.stride * channels, outputs)


def transposed_taps(conv: codec.CausalTransposedConv) -> Tensor:
    """Its weight as float64 taps [kernel / stride, in, stride * out]."""
    weight = conv.conv.weight.detach().double()  # [in, out, kernel]
    channels, outputs, kernel = weight.shape
    assert kernel % conv.stride == 0, "a transposed convolution of the codec has a kernel of whole strides"
    # Input t reaches output block t + j with the j-th stride of the kernel: block t sees input t - j through it.
    by_delay = weight.reshape(channels, outputs, -1, conv.stride).permute(2, 0, 3, 1)  # [j, in, stride, out]
    return by_delay.flip(0).reshape(kernel // conv.stride, channels, conv.stride * outputs)


def as_matrix(weight: Tensor) -> Tensor:
    """A linear layer's weight [out, in] as the right factor of a product, a float32 copy [in, out].

    In memory the longer side is contiguous: one row's product takes as long as reading the weight, and that a third less.
    """
    weight = weight.detach().clone().float()
    return weight.t().contiguous() if weight.shape[0] >= weight.shape[1] else weight.contiguous().t()


def bias_of(conv: nn.Conv1d | nn.ConvTranspose1d) -> Tensor:
    """Its bias in float64; every convolution of the codec has one."""
    assert conv.bias is not None, "the codec's convolutions have biases"
    return conv.bias.detach().double()


def alpha_of(snake: codec.Snake) -> Tensor:
    """The snake's alpha [C] in float64, kept away from zero."""
    alpha = snake.alpha.detach().double().flatten()
    return torch.where(alpha.abs() < MIN_ALPHA, torch.full_like(alpha, MIN_ALPHA), alpha)


class Snake:
    """x -> alpha * (x + sin^2(alpha x) / alpha) = u + sin^2(u) with u = alpha x: the next weights divide by alpha."""

    def __init__(self, alpha: Tensor, pending: Tensor | None) -> None:
        """pending: [C], a bias that the input still lacks, or None."""
        self.alpha = alpha.float()
        self.shift = None if pending is None else (alpha * pending).float()

    def scaled(self, x: Tensor) -> Tensor:
        """u of x [B * T, C]."""
        return x * self.alpha if self.shift is None else torch.addcmul(self.shift, x, self.alpha)


def bend(u: Tensor, out: Tensor) -> None:
    """out = u + sin^2(u); out may be u."""
    sine = torch.sin(u)
    torch.addcmul(u, sine, sine, out=out)


class SnakeProduct:
    """A snake and the convolution behind it."""

    def __init__(self, snake: Snake | None, product: CausalProduct) -> None:
        """snake: None where the input is u already, scaled by the weights that made it."""
        self.snake, self.product = snake, product

    def run(self, step: Step, x: Tensor) -> Tensor:
        """x [B * T, C] -> [B * T', out]."""
        u = x if self.snake is None else self.snake.scaled(x)
        memory = self.product.window
        u = u.view(step.batch, -1, memory.channels)
        window, fresh = memory.open(step, u.shape[1])
        bend(u, out=fresh)
        return self.product.multiply(step, window)


class Residual:
    """A residual unit. Its last bias is left to whoever comes next: `pending` of the output."""

    def __init__(self, layout: Layout, unit: codec.ResidualUnit, pending: Tensor | None) -> None:
        """pending: [C], a bias that the input still lacks, or None."""
        conv, pointwise = child(unit.block, 1, codec.CausalConv), child(unit.block, 3, codec.CausalConv)
        first, second = (alpha_of(child(unit.block, i, codec.Snake)) for i in (0, 2))
        taps = conv_taps(conv) / first[:, None] * second
        inner = WideProduct(layout, taps, bias_of(conv.conv) * second, conv.conv.dilation[0])
        self.inner = SnakeProduct(Snake(first, pending), inner)
        self.outer = (conv_taps(pointwise)[0] / second[:, None]).float()
        bias = bias_of(pointwise.conv)
        self.pending = bias if pending is None else pending + bias

    def run(self, step: Step, x: Tensor) -> Tensor:
        """x [B * T, C], overwritten with the output."""
        u = self.inner.run(step, x)
        bend(u, out=u)
        return x.addmm_(u, self.outer)


def residuals(layout: Layout, block: nn.Module, at: int, pending: Tensor | None) -> tuple[list[Residual], Tensor]:
    """The three residual units of a block from part `at` on, and the bias that their output lacks."""
    units: list[Residual] = []
    for i in range(len(codec.RESIDUAL_DILATIONS)):
        units.append(Residual(layout, child(block, at + i, codec.ResidualUnit), pending))
        pending = units[-1].pending
    assert pending is not None, "a unit always has a bias"
    return units, pending


class ConvNext:
    """A ConvNeXt block."""

    def __init__(self, layout: Layout, block: codec.ConvNextBlock) -> None:
        depthwise, norm = block.dwconv.conv, block.norm
        self.taps = depthwise.weight.detach()[:, 0].t().float().contiguous()  # [7, C]
        self.bias = bias_of(depthwise).float()
        self.window = Window(layout, *self.taps.shape)
        self.eps = norm.eps
        wide, narrow = block.pwconv1.weight.detach().double(), block.pwconv2.weight.detach().double()
        gamma = block.gamma.detach().double()
        self.wide = as_matrix(wide * norm.weight.detach().double())
        self.wide_bias = (block.pwconv1.bias.detach().double() + wide @ norm.bias.detach().double()).float()
        self.narrow = as_matrix(narrow * gamma[:, None])
        self.narrow_bias = (block.pwconv2.bias.detach().double() * gamma).float()

    def run(self, step: Step, x: Tensor) -> Tensor:
        """x [B * T, C], overwritten with the output."""
        channels = x.shape[1]
        rows = x.view(step.batch, -1, channels)
        window, fresh = self.window.open(step, rows.shape[1])
        fresh.copy_(rows)
        y = (self.window.close(step, window) * self.taps).sum(2).add_(self.bias)
        y = F.layer_norm(y.view(-1, channels), (channels,), eps=self.eps)
        y = F.gelu(torch.addmm(self.wide_bias, y, self.wide))
        return x.add_(self.narrow_bias).addmm_(y, self.narrow)


@dataclass(frozen=True, slots=True)
class RingPlace:
    """Where the positions of one call lie in the rings of a transformer; the same for all its layers."""

    turn: Tensor  # complex [B, T, 1, 1, head_dim / 2], the rotation of each position
    slots: Tensor  # int64 [B * T], where its key and value go in the rings of all rows, one after the other
    mask: Tensor  # float [B, 1, T, ring], 0 for slots that hold one of the last `window` positions, else -inf


class UnitNorm:
    """x / sqrt(sum(x^2) + dim * eps): a root-mean-square norm without its gain and a factor sqrt(dim).

    Both belong to the weights behind it (`gain`). Three small kernels instead of the six of rms_norm on a CPU.
    """

    def __init__(self, norm: nn.RMSNorm) -> None:
        assert norm.eps is not None, "the codec's norms have an epsilon"
        dim = norm.weight.shape[0]
        self.floor = norm.weight.new_tensor(math.sqrt(dim * norm.eps), dtype=torch.float32)

    def run(self, x: Tensor) -> Tensor:
        """x [B * T, dim] -> a new tensor of that shape."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=1, keepdim=True), self.floor)

    @staticmethod
    def gain(norm: nn.RMSNorm) -> Tensor:
        """What the output lacks, float64 [dim]."""
        gain = norm.weight.detach().double()
        return gain * math.sqrt(gain.shape[0])


class TransformerLayer:
    """One block of a windowed transformer, with its ring of past keys and values."""

    def __init__(self, layer: codec.TransformerLayer, rows: int, ring: int) -> None:
        attention, feed = layer.attention, layer.feed_forward
        attention_scale = layer.attention_layer_scale.gamma.detach().double()
        feed_scale = layer.ffn_layer_scale.gamma.detach().double()
        self.attention_norm, self.feed_norm = UnitNorm(layer.attention_norm), UnitNorm(layer.ffn_norm)
        self.wqkv = as_matrix(attention.wqkv.weight * UnitNorm.gain(layer.attention_norm))
        self.wo = as_matrix(attention.wo.weight * attention_scale[:, None])
        self.wide = as_matrix(torch.cat([feed.w1.weight, feed.w3.weight]) * UnitNorm.gain(layer.ffn_norm))
        self.narrow = as_matrix(feed.w2.weight * feed_scale[:, None])
        self.heads, self.head_dim = attention.n_head, attention.head_dim
        # Keys, rotated at their absolute positions, and values.
        self.past = self.wo.new_zeros(rows, ring, 2, self.heads, self.head_dim)

    def run(self, step: Step, x: Tensor, place: RingPlace) -> Tensor:
        """x [B * T, dim], overwritten with the output."""
        heads, head_dim = self.heads, self.head_dim
        qkv = torch.mm(self.attention_norm.run(x), self.wqkv).view(step.batch, -1, 3, heads, head_dim)
        time = qkv.shape[1]
        pairs = qkv[:, :, :2].view(step.batch, time, 2, heads, head_dim // 2, 2)
        torch.view_as_complex(pairs).mul_(place.turn)  # turns q and k where they are
        self.past.flatten(0, 1).index_copy_(0, place.slots, qkv[:, :, 1:].flatten(0, 1))
        keys, values = step.select(self.past).permute(2, 0, 3, 1, 4)  # [B, H, ring, head_dim] each
        heard = F.scaled_dot_product_attention(qkv[:, :, 0].transpose(1, 2), keys, values, attn_mask=place.mask)
        x.addmm_(heard.transpose(1, 2).reshape(x.shape[0], -1), self.wo)
        gate, up = torch.mm(self.feed_norm.run(x), self.wide).chunk(2, dim=1)
        return x.addmm_(F.silu(gate).mul_(up), self.narrow)


class Transformer:
    """A windowed transformer whose rows remember the keys and values of their last positions."""

    def __init__(self, module: codec.WindowTransformer, rows: int, rate: int, chunk_frames: int) -> None:
        """rate: positions a frame. chunk_frames: most frames of one call."""
        self.rate, self.window, self.rope = rate, module.window, module.rope
        # Long enough that the keys of one call overwrite none which its first query still sees.
        self.ring = module.window - 1 + chunk_frames * rate
        self.layers = [
            TransformerLayer(child(module.layers, i, codec.TransformerLayer), rows, self.ring)
            for i in range(len(module.layers))
        ]
        self.norm = UnitNorm(module.norm)
        gain = UnitNorm.gain(module.norm)
        self.into, self.gain, self.out_of = None, gain.float(), None
        if isinstance(module.input_proj, nn.Linear):
            self.into = (module.input_proj.bias.detach().clone().float(), as_matrix(module.input_proj.weight))
        if isinstance(module.output_proj, nn.Linear):
            weight = module.output_proj.weight * gain
            self.out_of = (module.output_proj.bias.detach().clone().float(), as_matrix(weight))

    def run(self, step: Step, x: Tensor) -> Tensor:
        """x [B * T, channels], overwritten or not -> output of the same shape."""
        place = self._place(step)
        if self.into is not None:
            x = torch.addmm(self.into[0], x, self.into[1])
        for layer in self.layers:
            x = layer.run(step, x, place)
        x = self.norm.run(x)
        return x.mul_(self.gain) if self.out_of is None else torch.addmm(self.out_of[0], x, self.out_of[1])

    def _place(self, step: Step) -> RingPlace:
        """Position p lies in slot p mod ring; which position a slot holds follows from the last one written."""
        time = step.frames * self.rate
        positions = (step.start * self.rate).unsqueeze(1) + torch.arange(time, device=step.start.device)  # [B, T]
        cos, sin = self.rope(positions)
        slots = step.index.unsqueeze(1) * self.ring + positions % self.ring
        last = positions[:, -1:]
        age = (last - torch.arange(self.ring, device=last.device)) % self.ring  # [B, ring], positions before the last
        # Query t lies time - 1 - t positions before the last one: it sees ages from there on, `window` of them, and
        # none from before the row's first position (its slot has never been written).
        own = torch.arange(time - 1, -1, -1, device=last.device).unsqueeze(1)  # [T, 1]
        end = torch.minimum(own + self.window, last.unsqueeze(1) + 1)  # [B, T, 1]
        hidden = (age.unsqueeze(1) < own) | (age.unsqueeze(1) >= end)  # [B, T, ring]
        mask = torch.zeros_like(hidden, dtype=cos.dtype).masked_fill_(hidden, -math.inf)
        turn = torch.complex(cos, sin).view(step.batch, time, 1, 1, -1)
        return RingPlace(turn, slots.flatten(), mask.unsqueeze(1))

    def reset(self, row: int) -> None:
        """Forget a row's past. The mask alone would hide it, but not a NaN in it: 0 * NaN is NaN."""
        for layer in self.layers:
            layer.past[row].zero_()
