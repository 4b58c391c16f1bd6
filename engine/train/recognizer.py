"""Stage `recognizer`: a small CTC phoneme recogniser, trained on the teacher's speech only, to measure intelligibility.

Knows log-mel frames in, phoneme classes out, and edit distance. Does not know the codec or the language model. Not shipped.
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
    dim: int = 224
    layers: int = 5
    rate: float = 1.5e-3
    compile: bool = True


class Recognizer(nn.Module):
    """Log-mel, two convolutions, a bidirectional transformer. Blank is class 0, which is silence too."""

    def __init__(self, dim: int = 224, layers: int = 5) -> None:
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
        x = self.front((mel + 2) / 1.5)
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
    forward = torch.compile(model) if plan.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), plan.rate, betas=(0.9, 0.98), fused=device.type == "cuda")
    generator = torch.Generator(device).manual_seed(1)
    progress, step = Progress(plan.out / "recognizer.jsonl"), 0
    while (share := progress.seconds / plan.seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * min(1, (step + 1) / 200) * min(1.0, 0.02 + 1.6 * (1 - share))
        samples, classes = crops.draw(plan.batch, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = forward(samples)
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
    torch.save({name: value.half() for name, value in model.state_dict().items()}, path)
    return path


def load_recognizer(path: Path, device: torch.device) -> Recognizer:
    """What train_recognizer wrote."""
    state = torch.load(path, map_location="cpu", weights_only=True)
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
