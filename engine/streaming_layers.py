"""The codec's layers for streams: folded weights, one matrix product a convolution.

Knows how each module of codec.py runs on the next few positions of several rows when all that it may remember is a
fixed number of earlier inputs. Does not know which rows a call is about, codes or samples (streaming.py).

Activations are [B * T, C], positions of a row in order, rows one after the other. Every convolution becomes a causal
one of stride 1: a strided one takes `stride` positions as one with stride * C channels, a transposed one gives
`stride` positions as one with stride * C channels. So its state is always its last inputs, zeros before the first, and
the arithmetic is one product of unfolded inputs with a [taps * in, out] matrix; on the few positions of one frame that
takes half of conv1d's time, which goes into rearranging weights (measured on two AVX-512 cores).
Elementwise passes cost as much as the products save, so what is linear is folded into weights once: the snake's alpha
(`Snake`), norm gains, layer scales, and biases of residual branches (`Residual`).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import codec
from engine.streaming_state import Layout, Step, Window

Part = TypeVar("Part", bound=nn.Module)

# Smallest alpha that is divided by: x + sin^2(alpha x) / alpha differs from x by less than alpha x^2, so moving a
# smaller alpha here changes nothing that float32 audio shows; zero itself would divide by zero.
MIN_ALPHA = 1e-6


def child(module: nn.Module, index: int, kind: type[Part], device: torch.device | None = None) -> Part:
    """Part number `index` of a sequential module, known to be of `kind`; with a device, as `there` gives it."""
    assert isinstance(module, nn.Sequential | nn.ModuleList), "only sequences have numbered parts"
    part = module[index]
    assert isinstance(part, kind), f"part {index} is {type(part).__name__}, not {kind.__name__}"
    return part if device is None else there(part, device)


def there(module: Part, device: torch.device) -> Part:
    """The module on a device; it keeps its tensors where it lies elsewhere, and is itself what is given where it does not."""
    tensors = [*module.parameters(), *module.buffers()]
    if all(tensor.device == device for tensor in tensors):
        return module
    moved = {id(tensor): nn.Parameter(tensor.to(device), requires_grad=False) for tensor in tensors}
    return copy.deepcopy(module, moved)


class Factor:
    """The right factor of a product with activations, and the bias that is added.

    For few rows a product takes as long as reading the factor, and a plain matrix is read by one core. So on a CPU it
    is kept in panels of 32 columns, each contiguous: a batch of products, which two cores share. In a whole step of a
    small decoder that saves 12 % with two threads and nothing with one; from 8 rows on a factor costs up to 10 % more.
    """

    PANEL = 32

    def __init__(self, weight: Tensor, bias: Tensor | None = None, few_rows: bool = False) -> None:
        """weight: [in, out]; bias: [out]. Both are copied, to float32. few_rows: kept for calls with few rows."""
        # Not first a copy and then another type: for a while a GPU would hold four times as much.
        weight = weight.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        self.bias = None if bias is None else bias.detach().to(torch.float32, copy=True)
        self.inputs, self.outputs = weight.shape
        self.panels = few_rows and weight.device.type == "cpu" and self.outputs % self.PANEL == 0
        if self.panels:
            weight = weight.view(self.inputs, -1, self.PANEL).transpose(0, 1).contiguous()  # [panels, in, PANEL]
            self.bias = None if self.bias is None else self.bias.view(-1, 1, self.PANEL)
        self.weight = weight

    def plain(self) -> tuple[Tensor, Tensor | None]:
        """The factor [in, out] and the bias [out], however they are kept."""
        if not self.panels:
            return self.weight, self.bias
        bias = None if self.bias is None else self.bias.flatten()
        return self.weight.transpose(0, 1).reshape(self.inputs, self.outputs), bias

    def of(self, x: Tensor) -> Tensor:
        """x [rows, in] -> [rows, out]."""
        if not self.panels:
            return torch.mm(x, self.weight) if self.bias is None else torch.addmm(self.bias, x, self.weight)
        batch = x.expand(len(self.weight), -1, -1)
        out = torch.bmm(batch, self.weight) if self.bias is None else torch.baddbmm(self.bias, batch, self.weight)
        return out.transpose(0, 1).reshape(-1, self.outputs)


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
        few_rows: bool = False,
    ) -> None:
        """taps: [taps, in, out], oldest first. bias: [out], or None where the caller accounts for it.

        stride_out: positions that one output stands for, as a transposed convolution's does. block: outputs that one
        row of the product gives; with few output channels that copies inputs (taps + block - 1) / block times, not
        `taps` times. The number of positions of a call must be a multiple of it. few_rows: as for Factor.
        """
        self.window = Window(layout, taps.shape[0], taps.shape[1], dilation, block)
        if block > 1:
            shifted = [F.pad(taps, (0, 0, 0, 0, shift, block - 1 - shift)) for shift in range(block)]
            taps = torch.cat(shifted, dim=2)
        weight = taps.flatten(0, 1)  # [seen * in, block * out]
        self.factor = Factor(weight, None if bias is None else bias.repeat(block), few_rows)
        self.channels = self.factor.outputs // (stride_out * block)

    def multiply(self, step: Step, window: Tensor) -> Tensor:
        """Output of a filled window, [B * T, out]."""
        return self._product(self.window.close(step, window))

    def run(self, step: Step, x: Tensor) -> Tensor:
        """x: contiguous, B * T * in values of any shape. Returns [B * T, out]."""
        x = x.view(step.batch, -1, self.window.channels)
        if not self.window.remembered:
            return self._product(x)
        window, fresh = self.window.open(step, int(x.shape[1]))
        fresh.copy_(x)
        return self.multiply(step, window)

    def _product(self, seen: Tensor) -> Tensor:
        return self.factor.of(seen.reshape(-1, self.factor.inputs)).view(-1, self.channels)


class WideProduct(CausalProduct):
    """A causal convolution that also runs on so many positions that conv2d is faster, on a CPU, than unfolding them.

    Measured for 32 to 128 channels: 15 to 33 % faster at 29 million products, a loss of up to 50 % at 7 million and less.
    A GPU keeps to the product, whose float32 is float32; its convolutions use TF32 unless that is switched off globally.
    """

    MIN_PRODUCTS = 20_000_000  # multiplications of one call

    def __init__(self, layout: Layout, taps: Tensor, bias: Tensor, dilation: int) -> None:
        super().__init__(layout, taps, bias, dilation=dilation)
        kernel = taps.float().permute(2, 1, 0).unsqueeze(2)  # [out, in, 1, taps]
        self.kernel = kernel.contiguous(memory_format=torch.channels_last) if kernel.device.type == "cpu" else None

    def multiply(self, step: Step, window: Tensor) -> Tensor:
        positions = step.batch * (int(window.shape[1]) - self.window.remembered)
        if self.kernel is None or positions * self.kernel.numel() < self.MIN_PRODUCTS:
            return super().multiply(step, window)
        self.window.close(step, window)
        image = window.transpose(1, 2).unsqueeze(2)  # [B, C, 1, remembered + T], channels last as it lies
        out = F.conv2d(image, self.kernel, self.factor.bias, dilation=(1, self.window.dilation))
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
    weight = conv.conv.weight.detach()  # [in, out, kernel]
    channels, outputs, kernel = weight.shape
    assert kernel % conv.stride == 0, "a transposed convolution of the codec has a kernel of whole strides"
    # Input t reaches output block t + j with the j-th stride of the kernel: block t sees input t - j through it.
    by_delay = weight.reshape(channels, outputs, -1, conv.stride).permute(2, 0, 3, 1)  # [j, in, stride, out]
    by_age = by_delay.flip(0).reshape(kernel // conv.stride, channels, conv.stride * outputs)
    return by_age.double()  # only now: before, it would be twice as much to turn over


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
        window, fresh = memory.open(step, int(u.shape[1]))
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


def residuals(
    layout: Layout, block: nn.Module, at: int, pending: Tensor | None, device: torch.device
) -> tuple[list[Residual], Tensor]:
    """The three residual units of a block from part `at` on, made on `device`, and the bias that their output lacks."""
    units: list[Residual] = []
    for i in range(len(codec.RESIDUAL_DILATIONS)):
        units.append(Residual(layout, child(block, at + i, codec.ResidualUnit, device), pending))
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
        wide_bias = block.pwconv1.bias.detach().double() + wide @ norm.bias.detach().double()
        # gelu(y) = z (1 + erf z) / sqrt 2 with z = y / sqrt 2: the weights around it take both factors.
        half = math.sqrt(0.5)
        self.wide = Factor((wide * norm.weight.detach().double()).t() * half, wide_bias * half, few_rows=True)
        narrow_bias = block.pwconv2.bias.detach().double() * gamma
        self.narrow = Factor((narrow * gamma[:, None]).t() * half, narrow_bias, few_rows=True)

    def run(self, step: Step, x: Tensor) -> Tensor:
        """x [B * T, C], overwritten with the output."""
        channels = x.shape[1]
        rows = x.view(step.batch, -1, channels)
        window, fresh = self.window.open(step, int(rows.shape[1]))
        fresh.copy_(rows)
        y = (self.window.close(step, window) * self.taps).sum(2).add_(self.bias)
        y = F.layer_norm(y.view(-1, channels), (channels,), eps=self.eps)
        z = self.wide.of(y)
        return x.add_(self.narrow.of(torch.addcmul(z, z, torch.erf(z))))


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

    def __init__(self, layout: Layout, layer: codec.TransformerLayer, ring: int) -> None:
        attention, feed = layer.attention, layer.feed_forward
        attention_scale = layer.attention_layer_scale.gamma.detach().double()
        feed_scale = layer.ffn_layer_scale.gamma.detach().double()
        self.attention_norm, self.feed_norm = UnitNorm(layer.attention_norm), UnitNorm(layer.ffn_norm)
        self.wqkv = Factor((attention.wqkv.weight * UnitNorm.gain(layer.attention_norm)).t(), few_rows=True)
        self.wo = Factor((attention.wo.weight * attention_scale[:, None]).t(), few_rows=True)
        self.wide = Factor(
            (torch.cat([feed.w1.weight, feed.w3.weight]) * UnitNorm.gain(layer.ffn_norm)).t(), few_rows=True
        )
        self.narrow = Factor((feed.w2.weight * feed_scale[:, None]).t(), few_rows=True)
        self.heads, self.head_dim = attention.n_head, attention.head_dim
        # Keys, rotated at their absolute positions, and values.
        self.past = layout.take_ring(ring, 2, self.heads, self.head_dim)

    def run(self, step: Step, x: Tensor, place: RingPlace) -> Tensor:
        """x [B * T, dim], overwritten with the output."""
        heads, head_dim = self.heads, self.head_dim
        qkv = self.wqkv.of(self.attention_norm.run(x)).view(step.batch, -1, 3, heads, head_dim)
        time, past = int(qkv.shape[1]), step.rings[self.past]
        pairs = qkv[:, :, :2].view(step.batch, time, 2, heads, head_dim // 2, 2)
        torch.view_as_complex(pairs).mul_(place.turn)  # turns q and k where they are
        past.flatten(0, 1).index_copy_(0, place.slots, qkv[:, :, 1:].flatten(0, 1))
        keys, values = step.select(past).permute(2, 0, 3, 1, 4)  # [B, H, ring, head_dim] each
        heard = F.scaled_dot_product_attention(qkv[:, :, 0].transpose(1, 2), keys, values, attn_mask=place.mask)
        x.add_(self.wo.of(heard.transpose(1, 2).reshape(-1, heads * head_dim)))
        gate, up = self.wide.of(self.feed_norm.run(x)).chunk(2, dim=1)
        return x.add_(self.narrow.of(F.silu(gate).mul_(up)))


class Transformer:
    """A windowed transformer whose rows remember the keys and values of their last positions."""

    def __init__(
        self,
        layout: Layout,
        module: codec.WindowTransformer,
        rate: int,
        chunk_frames: int,
        device: torch.device | None = None,
    ) -> None:
        """rate: positions a frame. chunk_frames: most frames of one call. device: None: the module's."""
        device = module.norm.weight.device if device is None else device
        self.rate, self.window, self.frequency = rate, module.window, module.rope.inverse_frequency.to(device)
        # Long enough that the keys of one call overwrite none which its first query still sees.
        self.ring = module.window - 1 + chunk_frames * rate
        self.layers = [
            TransformerLayer(layout, child(module.layers, i, codec.TransformerLayer, device), self.ring)
            for i in range(len(module.layers))
        ]
        norm, before, behind = (
            there(module.norm, device),
            there(module.input_proj, device),
            there(module.output_proj, device),
        )
        self.norm, gain = UnitNorm(norm), UnitNorm.gain(norm)
        self.into, self.gain, self.out_of = None, gain.float(), None
        if isinstance(before, nn.Linear):
            self.into = Factor(before.weight.t(), before.bias, few_rows=True)
        if isinstance(behind, nn.Linear):
            self.out_of = Factor((behind.weight * gain).t(), behind.bias, few_rows=True)

    def run(self, step: Step, x: Tensor) -> Tensor:
        """x [B * T, channels], overwritten or not -> output of the same shape."""
        place = self._place(step)
        if self.into is not None:
            x = self.into.of(x)
        for layer in self.layers:
            x = layer.run(step, x, place)
        x = self.norm.run(x)
        return x.mul_(self.gain) if self.out_of is None else self.out_of.of(x)

    def _place(self, step: Step) -> RingPlace:
        """Position p lies in slot p mod ring; which position a slot holds follows from the last one written."""
        time = step.frames * self.rate
        positions = (step.start * self.rate).unsqueeze(1) + torch.arange(time, device=step.start.device)  # [B, T]
        cos, sin = codec.Rope.turned(positions, self.frequency)
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
