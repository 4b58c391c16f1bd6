"""Stage `speaker`: a small network that tells the teacher's voices apart, to measure speakers and cloning with.

Knows log-mel frames in; an embedding in which one voice's recordings lie together, and the eight built-in speakers, out. It is
trained on the teacher's speech only, in voices that evaluation never asks for, and never hears the codec or the language model:
random colouring of the spectrum stands for what a codec does to it. Source of the loss: generalized end-to-end, arXiv 1710.10467.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.train.clock import Progress
from engine.train.losses import LogMel
from engine.train.render import Renderer
from engine.train.script import Phrase, SegmentScript, TurnScript
from engine.train.styles import SPEAKERS, Speaker, Style, random_speaker
from engine.train.teacher import SAMPLE_RATE, Teacher

EMBEDDING = 64
_MEL_HOP, _BANDS = 256, 80
_FLOOR = -3.0  # log10 of magnitude below the loudest frames: 60 dB, beyond which lie codec and recording noise
_HEARD = 2.0  # frames so much (40 dB) below the loudest are pauses and count for nothing
_CROP_S = (1.6, 3.2)
_TAKES = 4  # crops of one voice in a batch
# A whisper has a voice of its own in the teacher, so it says nothing about the speaker.
_TOLD_STYLES = tuple(style for style in Style if style is not Style.WHISPER)

Pcm = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class SpeakerPlan:
    """How long and on what."""

    out: Path  # speaker.pt and speaker.jsonl
    seconds: float  # of training, after some seconds of synthesis
    voices: int = 2400  # random ones
    voice_s: float = 12.0  # speech of each, and of each part of the eight
    parts: int = 5  # of each of the eight in each style
    batch_voices: int = 56  # random ones in a batch, beside the eight
    workers: int = 16
    data: Path | None = None  # folder that holds espeak-ng-data
    seed: int = 30
    dim: int = 144
    rate: float = 2e-3


class SpeakerNet(nn.Module):
    """Dilated convolutions over log-mel frames, statistics over the frames that sound, an embedding."""

    def __init__(self, dim: int = 144) -> None:
        super().__init__()
        self.mel = LogMel(1024, _BANDS, _MEL_HOP)
        self.front = nn.Conv1d(_BANDS, dim, 5, padding=2)
        self.blocks = nn.ModuleList(nn.Conv1d(dim, dim, 3, padding=d, dilation=d) for d in (1, 2, 4, 8))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(5))
        self.embed = nn.Linear(2 * dim, EMBEDDING)
        self.builtin = nn.Linear(EMBEDDING, len(SPEAKERS))

    def features(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """samples [B, L] -> log-mel [B, 80, T] without its level, and bool [B, T], frames that sound."""
        with torch.autocast(samples.device.type, enabled=False):
            mel = self.mel(samples)
            energy = torch.logsumexp(mel * 4.605, 1) / 4.605  # log10 of the root of the power
            top = energy.quantile(0.95, 1, keepdim=True)
            return (mel - top[..., None]).clamp(min=_FLOOR), energy > top - _HEARD

    def forward(self, mel: Tensor, sounding: Tensor) -> Tensor:
        """What `features` gives -> unit vectors [B, EMBEDDING]."""
        x = self._normed(0, F.gelu(self.front((mel + 1.5) / 0.8)))
        for i, block in enumerate(self.blocks, 1):
            x = self._normed(i, x + F.gelu(block(x)))
        weight = sounding[:, None].to(x.dtype)
        count = weight.sum(-1).clamp(min=1)
        mean = (x * weight).sum(-1) / count
        spread = (((x - mean[..., None]) ** 2 * weight).sum(-1) / count + 1e-4).sqrt()
        return F.normalize(self.embed(torch.cat((mean, spread), 1)).float(), dim=1)

    def _normed(self, i: int, x: Tensor) -> Tensor:
        out: Tensor = self.norms[i](x.transpose(1, 2)).transpose(1, 2)
        return out

    @torch.inference_mode()
    def voices(self, clips: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """Embeddings [n, EMBEDDING] of clips, each by itself: what is beside it changes nothing."""
        device = self.embed.weight.device
        rows = []
        for clip in clips:
            wide = np.pad(clip, (0, max(0, 4 * _MEL_HOP + 1024 - len(clip))))
            rows.append(self(*self.features(torch.from_numpy(wide)[None].to(device)))[0])
        return torch.stack(rows).cpu().numpy()

    @torch.inference_mode()
    def speakers(self, clips: Sequence[npt.NDArray[np.float32]]) -> list[int]:
        """Which of the eight speaks in each clip."""
        vectors = torch.from_numpy(self.voices(clips)).to(self.embed.weight.device)
        return [int(i) for i in self.builtin(vectors).argmax(1).tolist()]


def train_speaker_net(plan: SpeakerPlan, device: torch.device) -> Path:
    """Synthesize, train and write speaker.pt (float16). Returns its path."""
    torch.manual_seed(0)
    strangers, eight = _synthesized(plan)
    trainer = Trainer(plan, torch.from_numpy(strangers).to(device), torch.from_numpy(eight).to(device))
    model = trainer.train(Progress(plan.out / "speaker.jsonl"))
    path = plan.out / "speaker.pt"
    torch.save({name: value.half() for name, value in model.state_dict().items()}, path)
    return path


def load_speaker_net(path: Path, device: torch.device) -> SpeakerNet:
    """What train_speaker_net wrote."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = SpeakerNet(state["embed.weight"].shape[1] // 2)
    model.load_state_dict(state)
    return model.float().to(device).eval()


def colour(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Log-mel features as some codec might leave them: tilted, blurred, with a noise floor and grain."""
    batch, device = mel.shape[0], mel.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, 1, 1, generator=generator, device=device)

    knots = torch.randn(batch, 1, 7, generator=generator, device=device) * uniform(0, 0.22)  # of 20 dB
    mel = mel + F.interpolate(knots, size=_BANDS, mode="linear", align_corners=True).transpose(1, 2)
    kernel = torch.tensor([0.25, 0.5, 0.25], device=device)
    power = 10 ** (2 * mel)
    across = F.conv2d(power[:, None], kernel.view(1, 1, 3, 1), padding=(1, 0))[:, 0]
    along = F.conv2d(across[:, None], kernel.view(1, 1, 1, 3), padding=(0, 1))[:, 0]
    blur = uniform(-0.5, 1.0).clamp(min=0)
    power = torch.lerp(power, along, blur) + 10 ** (2 * uniform(_FLOOR - 1.0, -1.6))
    grain = uniform(-0.05, 0.15).clamp(min=0)
    coloured = power.log10() / 2 + grain * torch.randn(mel.shape, generator=generator, device=device)
    return coloured.clamp(min=_FLOOR)


class Trainer:
    """Two tasks: crops of one voice lie together, and the eight are named whatever their style."""

    def __init__(self, plan: SpeakerPlan, strangers: Tensor, eight: Tensor) -> None:
        self.plan = plan
        self.strangers = strangers  # int16 [voices, n]
        self.eight = eight  # int16 [8, styles, parts, n]; the first style is the plain one
        self.device = strangers.device
        self.model = SpeakerNet(plan.dim).to(self.device)
        self.scale = nn.Parameter(torch.tensor(10.0, device=self.device))
        self.generator = torch.Generator(self.device).manual_seed(1)
        self.lengths = random.Random(2)

    def train(self, progress: Progress) -> SpeakerNet:
        """Until the plan's seconds are over."""
        plan, step, share = self.plan, 0, 0.0
        parameters = [*self.model.parameters(), self.scale]
        optimizer = torch.optim.AdamW(parameters, plan.rate, betas=(0.9, 0.98), weight_decay=0.02)
        while not step or (share := progress.seconds / plan.seconds) < 1:  # once at least, however slowly it was set up
            for group in optimizer.param_groups:
                group["lr"] = plan.rate * min(1.0, (step + 1) / 200) * min(1.0, 0.01 + 1.5 * (1 - share))
            together, named = self.losses()
            optimizer.zero_grad(set_to_none=True)
            (together + named).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            if step % 500 == 0:
                progress.note(step, {"together": together.item(), "named": named.item()})
            step += 1
        progress.note(step, self._figures())
        return self.model.eval()

    def losses(self) -> tuple[Tensor, Tensor]:
        """(of keeping voices together, of naming the eight) for one batch."""
        seconds = self.lengths.uniform(*_CROP_S)
        draw = self._draw
        own = self.eight[:, 0].flatten(1)  # the plain parts behind each other
        chosen = draw(0, len(self.strangers), self.plan.batch_voices)
        crops = [self._crops(self.strangers[chosen], seconds), self._crops(own, seconds)]
        styled = self.eight.flatten(0, 2)
        rows = draw(0, len(styled), 8 * len(SPEAKERS))
        named = self._crop(styled[rows], seconds)
        crops.append(named)
        mel, sounding = self.model.features(torch.cat(crops))
        coloured = colour(mel, self.generator)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            vectors = self.model(coloured, sounding)
        told = self.model.builtin(vectors[-len(named) :])
        voices = vectors[: -len(named)].view(-1, _TAKES, EMBEDDING)
        per_speaker = self.eight.shape[1] * self.eight.shape[2]
        return self.together(voices), F.cross_entropy(told * 4, rows // per_speaker)

    def together(self, voices: Tensor) -> Tensor:
        """voices [V, takes, E]: each take is nearer to the mean of its voice's other takes than to any other voice's mean."""
        count, takes, _ = voices.shape
        means = F.normalize(voices.mean(1), dim=-1)
        others = F.normalize(voices.sum(1, keepdim=True) - voices, dim=-1)
        cosines = torch.einsum("vte,we->vtw", voices, means)
        own = (voices * others).sum(-1)
        eye = torch.eye(count, dtype=torch.bool, device=voices.device)[:, None]
        cosines = torch.where(eye, own[..., None], cosines)
        target = torch.arange(count, device=voices.device)[:, None].expand(-1, takes)
        return F.cross_entropy(self.scale.clamp(min=1) * cosines.flatten(0, 1), target.flatten())

    @torch.inference_mode()
    def _figures(self) -> dict[str, float]:
        """On speech that was trained on, in plain colour; evaluation has held-out voices and text."""
        self.model.eval()
        styled = self.eight.flatten(0, 2)
        vectors = self.model(*self.model.features(self._crop(styled, 3.0)))
        right = torch.arange(len(SPEAKERS), device=self.device).repeat_interleave(len(styled) // len(SPEAKERS))
        return {"builtin_right": float((self.model.builtin(vectors).argmax(1) == right).float().mean())}

    def _draw(self, low: int, high: int, count: int) -> Tensor:
        return torch.randint(low, high, (count,), generator=self.generator, device=self.device)

    def _crops(self, audio: Tensor, seconds: float) -> Tensor:
        """int16 [V, n] -> float32 [V * takes, length], each take from a place of its own."""
        return self._crop(audio.repeat_interleave(_TAKES, 0), seconds)

    def _crop(self, audio: Tensor, seconds: float) -> Tensor:
        length = int(seconds * SAMPLE_RATE)
        start = self._draw(0, audio.shape[1] - length, len(audio))[:, None]
        return audio.gather(1, start + torch.arange(length, device=self.device)).float() / 32768


def _synthesized(plan: SpeakerPlan) -> tuple[Pcm, Pcm]:
    """Speech of random voices [voices, n], and of the eight [8, styles, parts, n]."""
    rng = random.Random(plan.seed)
    jobs = [(random_speaker(rng), Style.NORMAL) for _ in range(plan.voices)]
    jobs += [(speaker, style) for speaker in SPEAKERS for style in _TOLD_STYLES for _ in range(plan.parts)]
    count = max(1, plan.workers)
    shares = [(plan, number, jobs[number::count]) for number in range(count)]
    if count == 1:
        made = [_work(*shares[0])]
    else:
        with multiprocessing.get_context("spawn").Pool(count) as pool:
            made = pool.starmap(_work, shares)
    audio = np.empty((len(jobs), int(plan.voice_s * SAMPLE_RATE)), np.int16)
    for number, part in enumerate(made):
        audio[number::count] = part
    eight = audio[plan.voices :].reshape(len(SPEAKERS), len(_TOLD_STYLES), plan.parts, -1)
    return audio[: plan.voices], eight


def _work(plan: SpeakerPlan, number: int, jobs: Sequence[tuple[Speaker, Style]]) -> Pcm:
    from engine.train.text_de import German  # needs the optional extra `train`; evaluation does without
    from engine.train.text_en import English

    rng = random.Random(f"{plan.seed}/{number}")
    renderer, texts = Renderer(Teacher(plan.data), rng), (English(), German())
    length = int(plan.voice_s * SAMPLE_RATE)
    out = np.zeros((len(jobs), length), np.int16)
    for row, (speaker, style) in enumerate(jobs):
        at = 0
        while at < length:
            text = texts[rng.random() < 0.1]
            script = TurnScript((SegmentScript((Phrase("", text.sentence(rng), speaker, style),)),))
            samples = renderer.turn(script, text.voice).clip.samples[: length - at]
            out[row, at : at + len(samples)] = samples
            at += len(samples)
    return out
