"""The codec as plain modules: waveform -> codes and codes -> waveform, whole clips at a time.

Knows the modified DAC of Fish Audio S2 Pro: causal convolutions, snake activations, ConvNeXt blocks, windowed
transformers and a residual quantiser whose first codebook is the semantic one. Every size comes from a CodecConfig.
Parameter names are those of the published `codec.pth` after its weight norms are folded, so a plain state dict of a
trained model loads and saves. Does not know files (codec_weights.py), per-stream state (streaming.py) or losses.

Everything is causal: N frames of codes give N * frame_samples samples, and those of a prefix do not depend on the rest.
Memory grows with the clip, and attention with its square; streaming.py gives the same numbers in constant memory.
Sources: DAC, arXiv 2306.06546; ConvNeXt, arXiv 2201.03545; sizes and float order: Fish Audio S2 Pro.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import CodecConfig, CodecTransformerConfig

SNAKE_EPS = 1e-9
RESIDUAL_DILATIONS = (1, 3, 9)


class CausalConv(nn.Module):
    """Convolution that sees no future: ceil(L / stride) outputs for L inputs, zeros before the first one."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, stride, dilation=dilation, groups=groups)
        self.stride = stride
        self.history = (kernel - 1) * dilation + 1 - stride  # inputs before the current ones that an output needs

    def forward(self, x: Tensor) -> Tensor:
        to_full_window = -x.shape[-1] % self.stride
        out: Tensor = self.conv(F.pad(x, (self.history, to_full_window)))
        return out


class CausalTransposedConv(nn.Module):
    """Transposed convolution cut to exactly L * stride outputs: the last kernel - stride belong to the next input."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel, stride)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out[..., : x.shape[-1] * self.stride]


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha, one alpha a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.alpha * x).square() / (self.alpha + SNAKE_EPS)


class ResidualUnit(nn.Module):
    """Snake, dilated convolution, snake, pointwise convolution, added to the input."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(channels),
            CausalConv(channels, channels, 7, dilation=dilation),
            Snake(channels),
            CausalConv(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return x + out


class ConvNextBlock(nn.Module):
    """Depthwise causal convolution and a pointwise perceptron, scaled and added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = CausalConv(channels, channels, 7, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).transpose(1, 2))  # [B, T, C]
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        out: Tensor = x + y.transpose(1, 2)
        return out


class Rope(nn.Module):
    """Cosines and sines of absolute positions, rounded to bfloat16 as the reference's table is.

    The rows are computed where they are needed, so there is no last position. The angle is a float32 product, as in
    the reference; its cosine is taken in float64 because float32 cosines differ between devices in the last bit, which
    the rounding would now and then blow up to 2^-9.
    """

    def __init__(self, head_dim: int, base: float) -> None:
        super().__init__()
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
        # Kept as bits, in an integer buffer: `module.to(bfloat16)` must not round the frequencies.
        bits = (1.0 / base**exponents).view(torch.int32)
        self.inverse_frequency_bits: Tensor
        self.register_buffer("inverse_frequency_bits", bits, persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions: int64 [...]. Returns float32 cosines and sines [..., head_dim / 2]."""
        return self.turned(positions, self.inverse_frequency)

    @property
    def inverse_frequency(self) -> Tensor:
        """float32 [head_dim / 2]."""
        return self.inverse_frequency_bits.view(torch.float32)

    @staticmethod
    def turned(positions: Tensor, inverse_frequency: Tensor) -> tuple[Tensor, Tensor]:
        """The same with frequencies that were looked up before."""
        angle = (positions.unsqueeze(-1).float() * inverse_frequency).double()
        return angle.cos().to(torch.bfloat16).float(), angle.sin().to(torch.bfloat16).float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate adjacent pairs of x [..., T, H, head_dim] by the angles of cos and sin [..., T, head_dim / 2]."""
    even, odd = x.float().view(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return turned.flatten(-2).to(x.dtype)


class LayerScale(nn.Module):
    """One factor a channel on a residual branch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Attention(nn.Module):
    """Multi-head attention over the last `window` positions."""

    def __init__(self, config: CodecTransformerConfig) -> None:
        super().__init__()
        self.n_head, self.head_dim = config.n_head, config.head_dim
        inner = config.n_head * config.head_dim
        self.wqkv = nn.Linear(config.dim, 3 * inner, bias=False)
        self.wo = nn.Linear(inner, config.dim, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, dim] -> q, k (rotated) and v, each [B, T, H, head_dim]."""
        q, k, v = self.wqkv(x).view(*x.shape[:-1], 3, self.n_head, self.head_dim).unbind(-3)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in self.project(x, cos, sin))  # [B, H, T, head_dim]
        heard = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.wo(heard.transpose(1, 2).flatten(-2))
        return out


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: CodecTransformerConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class TransformerLayer(nn.Module):
    """Pre-norm attention and feed-forward, each with a layer scale."""

    def __init__(self, config: CodecTransformerConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention_layer_scale = LayerScale(config.dim)
        self.ffn_layer_scale = LayerScale(config.dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention_layer_scale(self.attention(self.attention_norm(x), cos, sin, mask))
        out: Tensor = x + self.ffn_layer_scale(self.feed_forward(self.ffn_norm(x)))
        return out


class WindowTransformer(nn.Module):
    """Causal transformer whose queries see the last `window` positions, themselves included."""

    def __init__(self, config: CodecTransformerConfig, channels: int, layers: int) -> None:
        super().__init__()
        self.window = config.window
        same = config.dim == channels
        self.input_proj: nn.Module = nn.Identity() if same else nn.Linear(channels, config.dim)
        self.output_proj: nn.Module = nn.Identity() if same else nn.Linear(config.dim, channels)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.rope = Rope(config.head_dim, config.rope_base)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, channels, T] -> the same shape."""
        positions = torch.arange(x.shape[-1], device=x.device)
        cos, sin = self.rope(positions)
        age = positions.unsqueeze(1) - positions  # [query, key]
        mask = (age >= 0) & (age < self.window)
        y = self.input_proj(x.transpose(1, 2))
        for layer in self.layers:
            y = layer(y, cos, sin, mask)
        out: Tensor = self.output_proj(self.norm(y))
        return out.transpose(1, 2)


class EncoderBlock(nn.Module):
    """Residual units, a strided convolution that doubles the channels, and a transformer where there is one."""

    def __init__(self, channels: int, stride: int, layers: int, config: CodecConfig) -> None:
        super().__init__()
        parts: list[nn.Module] = [ResidualUnit(channels, dilation) for dilation in RESIDUAL_DILATIONS]
        parts += [Snake(channels), CausalConv(channels, 2 * channels, 2 * stride, stride)]
        if layers:
            parts.append(WindowTransformer(config.encoder_transformer, 2 * channels, layers))
        self.block = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class Encoder(nn.Module):
    """Samples [B, 1, L] -> latents [B, latent_dim, L / hop], before the quantiser's own downsampling."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        channels = config.encoder_dim
        parts: list[nn.Module] = [CausalConv(1, channels, 7)]
        for stride, layers in zip(config.encoder_rates, config.encoder_transformer_layers, strict=True):
            parts.append(EncoderBlock(channels, stride, layers, config))
            channels *= 2
        parts += [Snake(channels), CausalConv(channels, config.latent_dim, 3)]
        self.block = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class DecoderBlock(nn.Module):
    """Snake, a transposed convolution that halves the channels, residual units."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        parts: list[nn.Module] = [Snake(channels), CausalTransposedConv(channels, channels // 2, 2 * stride, stride)]
        parts += [ResidualUnit(channels // 2, dilation) for dilation in RESIDUAL_DILATIONS]
        self.block = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class Decoder(nn.Module):
    """Upsampled latents [B, latent_dim, M] -> samples [B, 1, M * product of decoder_rates] in [-1, 1]."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        channels = config.decoder_dim
        parts: list[nn.Module] = [CausalConv(config.latent_dim, channels, 7)]
        for stride in config.decoder_rates:
            parts.append(DecoderBlock(channels, stride))
            channels //= 2
        parts += [Snake(channels), CausalConv(channels, 1, 7)]
        self.model = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.model(x))


def pointwise(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """`conv`, of kernel 1, on x [B, C, N]. Not by conv1d: on a GPU that would round to TF32 and choose other codes."""
    return F.linear(x.transpose(1, 2), conv.weight.squeeze(2), conv.bias).transpose(1, 2)


class VectorQuantizer(nn.Module):
    """One stage: a projection down, the nearest codebook row by angle, a projection up."""

    def __init__(self, channels: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.in_proj = nn.Conv1d(channels, codebook_dim, 1)
        self.out_proj = nn.Conv1d(codebook_dim, channels, 1)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)

    def nearest(self, e: Tensor) -> Tensor:
        """e [B, codebook_dim, N] -> indices int64 [B, N]. The order of float operations decides ties: keep it."""
        flat = F.normalize(e.transpose(1, 2).flatten(0, 1))
        rows = F.normalize(self.codebook.weight)
        distance = flat.square().sum(1, keepdim=True) - 2 * flat @ rows.t() + rows.square().sum(1, keepdim=True).t()
        return (-distance).argmax(1).view(e.shape[0], e.shape[2])

    def rows(self, index: Tensor) -> Tensor:
        """index [B, N] -> codebook rows [B, codebook_dim, N]."""
        out: Tensor = self.codebook(index)
        return out.transpose(1, 2)


class StageQuantizers(nn.Module):
    """A list of stages under the name that the published weights give it."""

    def __init__(self, channels: int, sizes: Sequence[int], codebook_dim: int) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(VectorQuantizer(channels, size, codebook_dim) for size in sizes)


class Quantized(NamedTuple):
    """What quantising latents gives; K stages, the semantic one first.

    A trainer's codebook loss compares `rows` with `projected.detach()`, its commitment loss the other way round.
    """

    latents: Tensor  # [B, latent_dim, N], sum of `stages`; the gradient passes the choice of rows straight through
    codes: Tensor  # int64 [B, K, N]
    stages: Tensor  # [B, K, latent_dim, N], what each stage adds; leave some out for quantiser dropout
    projected: Tensor  # [B, K, codebook_dim, N], each stage's input after in_proj
    rows: Tensor  # [B, K, codebook_dim, N], codebook rows chosen for `projected`; differentiable in the codebooks


def quantize(stages: Sequence[VectorQuantizer], z: Tensor) -> Quantized:
    """Quantise z [B, latent_dim, N], each stage what the ones before it left."""
    residual, latents = z, torch.zeros_like(z)
    codes, added, projected, rows = [], [], [], []
    for stage in stages:
        e = pointwise(stage.in_proj, residual)
        index = stage.nearest(e.detach())
        row = stage.rows(index)
        passed = e + (row - e).detach()  # straight through; in the order in which the reference rounds
        out = pointwise(stage.out_proj, passed)
        residual, latents = residual - out, latents + out
        codes.append(index)
        added.append(out)
        projected.append(e)
        rows.append(row)
    return Quantized(latents, *(torch.stack(part, dim=1) for part in (codes, added, projected, rows)))


class Quantizer(nn.Module):
    """Downsampling, pre-transformer, residual quantiser, post-transformer, upsampling."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        channels, factors = config.latent_dim, config.downsample
        self.downsample = nn.Sequential(
            *(nn.Sequential(CausalConv(channels, channels, f, f), ConvNextBlock(channels)) for f in factors)
        )
        self.pre_module = WindowTransformer(config.pre_module, channels, config.pre_module.n_layer)
        self.semantic_quantizer = StageQuantizers(channels, [config.semantic_codebook_size], config.codebook_dim)
        residual_sizes = [config.codebook_size] * config.residual_codebooks
        self.quantizer = StageQuantizers(channels, residual_sizes, config.codebook_dim)
        self.post_module = WindowTransformer(config.post_module, channels, config.post_module.n_layer)
        self.upsample = nn.Sequential(
            *(
                nn.Sequential(CausalTransposedConv(channels, channels, f, f), ConvNextBlock(channels))
                for f in reversed(factors)
            )
        )

    def stages(self) -> list[VectorQuantizer]:
        """Every stage in code order, the semantic one first."""
        both = [*self.semantic_quantizer.quantizers, *self.quantizer.quantizers]
        return [stage for stage in both if isinstance(stage, VectorQuantizer)]

    def forward(self, z: Tensor) -> Quantized:
        """`quantize` with every stage."""
        return quantize(self.stages(), z)

    def from_codes(self, codes: Tensor) -> Tensor:
        """codes int64 [B, K, N], clamped to each codebook -> summed stage vectors [B, latent_dim, N]."""
        stages = self.stages()
        if codes.shape[1] != len(stages):
            raise ValueError(f"codes have {codes.shape[1]} codebooks, the codec has {len(stages)}")
        total: Tensor | None = None
        for k, stage in enumerate(stages):
            index = codes[:, k].clamp(0, stage.codebook.num_embeddings - 1)
            added = pointwise(stage.out_proj, stage.rows(index))
            total = added if total is None else total + added
        assert total is not None, "a codec has at least its semantic codebook"
        return total


class Codec(nn.Module):
    """Both directions. Clips in a batch are independent, and all of one length.

    Training takes the pieces: `latents`, `quantizer(...)`, `synthesize`; each can be compiled. On a GPU the convolutions
    use TF32 unless `torch.backends.cudnn.allow_tf32` is off: good enough to train, but codes then differ from the
    reference's. streaming.StreamingEncoder always gives those.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate = config.sample_rate  # Hz
        self.frame_samples = config.frame_samples
        self.codebooks = config.n_codebooks
        self.encoder = Encoder(config)
        self.quantizer = Quantizer(config)
        self.decoder = Decoder(config)

    def latents(self, samples: Tensor) -> Tensor:
        """samples [B, L], the last frame filled up with zeros -> what is quantised, [B, latent_dim, N]."""
        padded = F.pad(samples, (0, -samples.shape[-1] % self.frame_samples))
        z = self.quantizer.downsample(self.encoder(padded.unsqueeze(1)))
        out: Tensor = self.quantizer.pre_module(z)
        return out

    def synthesize(self, latents: Tensor) -> Tensor:
        """Summed stage vectors [B, latent_dim, N] -> samples [B, N * frame_samples] in [-1, 1]."""
        upsampled = self.quantizer.upsample(self.quantizer.post_module(latents))
        out: Tensor = self.decoder(upsampled)
        return out.squeeze(1)

    def encode(self, samples: Tensor) -> Tensor:
        """samples float [B, L], L >= 1, at sample_rate -> codes int64 [B, K, ceil(L / frame_samples)]."""
        quantized: Quantized = self.quantizer(self.latents(samples))
        return quantized.codes

    def decode(self, codes: Tensor) -> Tensor:
        """codes int64 [B, K, N] -> samples [B, N * frame_samples].

        A code beyond its codebook (the language model may say up to semantic_codebook_size - 1 everywhere) is taken
        as the last entry; `codes` itself is left as it is. Raises ValueError for another number of codebooks.
        """
        return self.synthesize(self.quantizer.from_codes(codes))
