"""What the codec is trained against: log-mel distances at many resolutions and discriminators.

Knows signals only. Source of the multi-scale mel loss: DAC, arXiv 2306.06546.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from engine.train.teacher import SAMPLE_RATE


def mel_filters(bands: int, n_fft: int, rate: int = SAMPLE_RATE) -> Tensor:
    """Triangular filters on the mel scale, float32 [bands, n_fft / 2 + 1], each of unit sum."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)
    hz = torch.linspace(0, rate / 2, n_fft // 2 + 1)
    rising = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    weight = torch.minimum(rising, falling).clamp(min=0)
    return weight / weight.sum(1, keepdim=True).clamp(min=1e-5)  # a narrow band may hold no bin at small n_fft


# White noise of this rms, -70 dB of full scale, is what logarithms start from. The teacher's silence is digital zero and a fifth of
# all mel values of its speech lie below 1e-5: without a floor those rule a logarithmic loss (its gradient there is 1 / magnitude) and
# a recogniser's input, and nobody hears them.
_FLOOR_RMS = 3e-4


def floor_of(n_fft: int) -> float:
    """Magnitude that noise of rms _FLOOR_RMS has in a Hann-windowed spectrum."""
    return _FLOOR_RMS * math.sqrt(0.375 * n_fft)


class LogMel(nn.Module):
    """log10 of a mel spectrogram's magnitudes, over a floor."""

    window: Tensor
    filters: Tensor

    def __init__(self, n_fft: int, bands: int, hop: int | None = None) -> None:
        super().__init__()
        self.n_fft, self.hop, self.floor = n_fft, hop or n_fft // 4, floor_of(n_fft)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", mel_filters(bands, n_fft), persistent=False)

    def magnitudes(self, samples: Tensor) -> Tensor:
        """samples float32 [B, L] -> [B, n_fft / 2 + 1, 1 + L / hop]."""
        return torch.stft(samples, self.n_fft, self.hop, window=self.window, return_complex=True).abs()

    def mel(self, magnitudes: Tensor) -> Tensor:
        """Band magnitudes over the floor, [B, bands, frames]."""
        return self.filters @ magnitudes + self.floor

    def forward(self, samples: Tensor) -> Tensor:
        """samples float32 [B, L] -> [B, bands, 1 + L / hop]."""
        return self.mel(self.magnitudes(samples)).log10()


class SpectralDistance(nn.Module):
    """Mean absolute differences of log magnitudes: mel bands at six window lengths, single bins at the three that tell harmonics apart."""

    LINEAR_FROM = 512

    def __init__(
        self, sizes: tuple[tuple[int, int], ...] = ((64, 10), (128, 20), (256, 40), (512, 60), (1024, 80), (2048, 160))
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(LogMel(n_fft, bands) for n_fft, bands in sizes)

    def forward(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """made, real: float32 [B, L]. Returns scalars: sum of the mel differences, sum of the others."""
        mel, linear = [], []
        for scale in self.scales:
            assert isinstance(scale, LogMel)
            magnitudes = scale.magnitudes(torch.cat((made, real)))
            mel.append(_half_difference(scale.mel(magnitudes)))
            if scale.n_fft >= self.LINEAR_FROM:
                linear.append(_half_difference(magnitudes + scale.floor))
        return torch.stack(mel).sum(), torch.stack(linear).sum()


def _half_difference(magnitudes: Tensor) -> Tensor:
    """Mean |log10| difference between the first and the second half of a batch."""
    made, real = magnitudes.log10().chunk(2)
    return (made - real).abs().mean()


class SpectrogramDiscriminator(nn.Module):
    """Convolutions over a complex spectrogram. Source: DAC."""

    window: Tensor

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        shapes = [(2, 3, 9, 1), *[(channels, 3, 9, 2)] * 3, (channels, 3, 3, 1)]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(inputs, channels, (high, wide), (1, stride), padding=(high // 2, wide // 2)))
            for inputs, high, wide, stride in shapes
        )
        self.verdict = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, samples: Tensor) -> list[Tensor]:
        """samples float32 [B, L] -> activations of every layer, the verdict last."""
        spectrum = torch.stft(samples, self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
        return _activations(torch.view_as_real(spectrum).permute(0, 3, 2, 1), self.layers, self.verdict)


class PeriodDiscriminator(nn.Module):
    """Convolutions over samples that lie a fixed number apart: what is not quite periodic shows. Source: HiFi-GAN, arXiv 2010.05646."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels // 2, channels, 2 * channels, 4 * channels]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(inputs, outputs, (5, 1), (3, 1), padding=(2, 0)))
            for inputs, outputs in pairwise(widths)
        )
        self.verdict = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, samples: Tensor) -> list[Tensor]:
        """samples float32 [B, L] -> activations of every layer, the verdict last."""
        whole = samples[:, : samples.shape[1] // self.period * self.period]
        columns = whole.view(len(samples), 1, -1, self.period)
        return _activations(columns, self.layers, self.verdict)


def _activations(x: Tensor, layers: nn.ModuleList, verdict: nn.Module) -> list[Tensor]:
    out: list[Tensor] = []
    for layer in layers:
        x = F.leaky_relu(layer(x), 0.1)
        out.append(x)
    return [*out, verdict(x)]


class Discriminator(nn.Module):
    """Several views of the same samples. Spectrograms alone let the codec's harmonics stay rough: hence the periods."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.views = nn.ModuleList(
            [
                *(SpectrogramDiscriminator(n_fft, channels) for n_fft in (512, 1024, 2048)),
                *(PeriodDiscriminator(period, channels) for period in (2, 3, 5, 7, 11)),
            ]
        )

    def forward(self, samples: Tensor) -> list[list[Tensor]]:
        """samples float32 [B, L] -> activations of every layer, for each view; the last one is the verdict."""
        return [view(samples) for view in self.views]


def discriminator_loss(made: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
    """Least squares: real towards 1, made towards 0."""
    losses = [
        m[-1].float().square().mean() + (1 - r[-1].float()).square().mean() for m, r in zip(made, real, strict=True)
    ]
    return torch.stack(losses).sum()


def generator_losses(made: list[list[Tensor]], real: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """(adversarial, feature matching); `real` must carry no gradient."""
    verdict = torch.stack([(1 - m[-1].float()).square().mean() for m in made]).sum()
    matching = [
        (a.float() - b.float()).abs().mean()
        for m, r in zip(made, real, strict=True)
        for a, b in zip(m[:-1], r[:-1], strict=True)
    ]
    return verdict, torch.stack(matching).sum()
