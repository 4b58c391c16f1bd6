"""Stage `recognizer`: a small CTC phoneme recogniser, trained on the teacher's speech only, to measure intelligibility.

Knows log-mel frames in, phoneme classes out, and edit distance. Does not know the codec or the language model: it has never heard
either, so what they do to speech must not be what it learned to expect. It hears the teacher through random channels instead: level,
equalisers, noise, smearing, holes. Without them it called half of a codec's phonemes wrong that a recogniser of natural speech got right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.packed import eight_bit
from engine.train.clock import Progress
from engine.train.codec_stage import Crops
from engine.train.losses import LogMel
from engine.train.phones import CLASSES, SILENCE

_MEL_HOP = 256
_STRIDE = 2  # mel frames an output frame


@dataclass(frozen=True, slots=True)
class RecognizerPlan:
    """How long and on what."""

    shards: Path
    out: Path  # recognizer.pt and recognizer.jsonl
    seconds: float
    hours: float
    batch: int = 96
    frames: int = 80  # codec frames a crop, 3.7 s
    dim: int = 192
    layers: int = 5
    rate: float = 1.5e-3
    compile: bool = True


class Recognizer(nn.Module):
    """Log-mel, two convolutions, a bidirectional transformer. Blank is class 0, which is silence too."""

    def __init__(self, dim: int = 192, layers: int = 5) -> None:
        super().__init__()
        self.mel = LogMel(1024, 80, _MEL_HOP)
        self.front = nn.Sequential(
            nn.Conv1d(80, dim, 5, padding=2), nn.GELU(), nn.Conv1d(dim, dim, 5, _STRIDE, padding=2), nn.GELU()
        )
        self.near = nn.Conv1d(dim, dim, 31, padding=15, groups=dim)  # tells the transformer where things are
        layer = nn.TransformerEncoderLayer(dim, dim // 32, 3 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.ModuleList([layer, *(_again(layer) for _ in range(layers - 1))])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, samples: Tensor, frames: Tensor | None = None) -> Tensor:
        """samples float32 [B, L] -> logits [B, T, CLASSES], 43 a second. frames: int64 [B], outputs that are not padding."""
        with torch.autocast(samples.device.type, enabled=False):
            mel = self.mel(samples)
        return self.heard(mel, frames)

    def heard(self, mel: Tensor, frames: Tensor | None = None) -> Tensor:
        """`forward` from the log-mel spectrogram [B, 80, T'] on."""
        x = self.front((mel + 0.7) / 0.8)
        x = (x + self.near(x)).transpose(1, 2)
        padding = None if frames is None else torch.arange(x.shape[1], device=x.device) >= frames[:, None]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        out: Tensor = self.head(self.norm(x))
        return out

    @torch.inference_mode()
    def phones(self, clips: Sequence[npt.NDArray[np.float32]]) -> list[list[int]]:
        """Class sequences of some clips."""
        device = self.head.weight.device
        longest = max(len(clip) for clip in clips)
        samples = torch.zeros(len(clips), longest)
        for row, clip in enumerate(clips):
            samples[row, : len(clip)] = torch.from_numpy(clip)
        frames = torch.tensor([len(clip) // (_MEL_HOP * _STRIDE) + 1 for clip in clips], device=device)
        best = self(samples.to(device), frames).argmax(-1).cpu().tolist()
        return [collapse(row[:n]) for row, n in zip(best, frames.tolist(), strict=True)]


def _again(layer: nn.TransformerEncoderLayer) -> nn.TransformerEncoderLayer:
    dim = layer.linear1.in_features
    return nn.TransformerEncoderLayer(dim, dim // 32, 3 * dim, 0.0, "gelu", batch_first=True, norm_first=True)


def collapse(track: Sequence[int]) -> list[int]:
    """A class per frame -> the sequence of sounds: runs joined, silence left out."""
    return [value for i, value in enumerate(track) if value != SILENCE and (not i or track[i - 1] != value)]


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Insertions, deletions and replacements that make a into b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def error_rate(said: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> float:
    """Edit distances over the length of what was wanted, all together."""
    return sum(map(edit_distance, said, wanted)) / max(1, sum(map(len, wanted)))


def train_recognizer(plan: RecognizerPlan, device: torch.device) -> Path:
    """Train and write recognizer.pt (float16). Returns its path."""
    torch.manual_seed(0)
    crops = Crops(plan.shards, plan.hours, plan.frames, device)
    model = Recognizer(plan.dim, plan.layers).to(device)
    heard = torch.compile(model.heard) if plan.compile else model.heard
    optimizer = torch.optim.AdamW(model.parameters(), plan.rate, betas=(0.9, 0.98), fused=device.type == "cuda")
    generator = torch.Generator(device).manual_seed(1)
    progress, step, share = Progress(plan.out / "recognizer.jsonl"), 0, 0.0
    while not step or (share := progress.seconds / plan.seconds) < 1:  # once at least, however slowly it was set up
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * min(1, (step + 1) / 200) * min(1.0, 0.02 + 1.6 * (1 - share))
        samples, classes = crops.draw(plan.batch, generator)
        mel = through_channel(model.mel, samples, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = heard(mel)
        loss = _ctc(logits.float(), classes.flatten(1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0:
            progress.note(step, {"ctc": loss.item()})
        step += 1
    model.eval()
    samples, classes = crops.draw(plan.batch, generator)
    said = model.phones([row.numpy() for row in samples.cpu()])
    rate = error_rate(said, [collapse(row) for row in classes.flatten(1).tolist()])
    progress.note(step, {"phone_error": rate})
    path = plan.out / "recognizer.pt"
    torch.save(small(model.state_dict()), path)
    return path


def through_channel(mel: LogMel, samples: Tensor, generator: torch.Generator) -> Tensor:
    """Log-mel spectrogram [B, bands, T] of samples [B, L], each clip as a random channel would pass it on."""

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=generator, device=device)

    def curve(most_db: float) -> Tensor:
        """A smooth random response, [B, bands, 1]."""
        points = between(-most_db, most_db, 1, 6)
        return 10 ** (F.interpolate(points, bands, mode="linear", align_corners=True) / 20).transpose(1, 2)

    with torch.no_grad():
        x = mel.mel(mel.magnitudes(samples)) - mel.floor
        batch, bands, device = x.shape[0], x.shape[1], x.device
        for dim in (1, 2):  # smeared over bands, then over time
            side = between(0.0, 0.3, 1, 1) * (between(0.0, 1.0, 1, 1) < 0.5)
            x = (1 - 2 * side) * x + side * (x.roll(1, dim) + x.roll(-1, dim))
        rough = between(0.0, 0.4, 1, 1)
        x = x * torch.exp(rough * torch.randn(x.shape, generator=generator, device=device))
        noise = torch.randn(x.shape, generator=generator, device=device).abs() * curve(10.0)
        x = x * curve(8.0) * 10 ** (between(-8.0, 8.0, 1, 1) / 20) + noise * 30 * mel.floor * 10 ** between(
            -3.0, 0.0, 1, 1
        )
        for dim, widest in ((1, 10), (2, 6)):  # holes
            shape = (1, -1, 1) if dim == 1 else (1, 1, -1)
            at = torch.arange(x.shape[dim], device=device).view(shape)
            start, width = between(0.0, float(x.shape[dim]), 1, 1), between(0.0, float(widest), 1, 1)
            x = x.masked_fill((at >= start) & (at < start + width), 0.0)
        return (x + mel.floor).log10()


def small(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are stored: matrices in 8 bits beside a scale a row, the rest in 16."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.ndim >= 2 and value.numel() >= 4096:
            out[name], out[f"{name}.scale"] = eight_bit(value)
            out[f"{name}.scale"] = out[f"{name}.scale"].bfloat16()
        else:
            out[name] = value.half()
    return out


def widened(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `small` stored, in float32."""
    out: dict[str, Tensor] = {}
    for name, value in stored.items():
        if not name.endswith(".scale"):
            scale = stored.get(f"{name}.scale")
            wide = value.float()
            out[name] = wide if scale is None else wide * scale.float().view(-1, *[1] * (value.ndim - 1))
    return out


def load_recognizer(path: Path, device: torch.device) -> Recognizer:
    """What train_recognizer wrote."""
    state = widened(torch.load(path, map_location="cpu", weights_only=True))
    layers = len({name.split(".")[1] for name in state if name.startswith("layers.")})
    model = Recognizer(state["norm.weight"].shape[0], layers)
    model.load_state_dict(state)
    return model.float().to(device).eval()


def _ctc(logits: Tensor, track: Tensor) -> Tensor:
    """logits [B, T, C], track int64 [B, n] of classes per hop."""
    starts = torch.ones_like(track, dtype=torch.bool)
    starts[:, 1:] = track[:, 1:] != track[:, :-1]
    keep = starts & (track != SILENCE)
    count = keep.sum(1)
    order = torch.argsort((~keep).to(torch.int8), dim=1, stable=True)
    targets = track.gather(1, order)  # each row's sounds first
    inputs = torch.full_like(count, logits.shape[1])
    return F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), targets, inputs, count, zero_infinity=True)
