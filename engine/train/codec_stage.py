"""Stage `codec`: train engine.codec.Codec on the teacher's speech.

Knows the losses and their schedule: log-mel first, the discriminator later, and all along a phoneme target on codebook 0,
which makes it *semantic*: what the language model must decide first is what is being said. Does not know text.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.codec import Codec, Quantized, ResidualUnit
from engine.train.clock import Progress
from engine.train.designs import Design
from engine.train.export import save_codec
from engine.train.losses import Discriminator, LogMel, MelDistance, discriminator_loss, generator_losses
from engine.train.phones import CLASSES
from engine.train.render import FRAME_SAMPLES, PARTS
from engine.train.synthesize import Shard

_HOP = FRAME_SAMPLES // PARTS
# An untrained encoder sends every frame to one entry, and entry and frames then hold each other there (so it happened: used
# entries 0.1 % after 400 steps). So the latents are learned first, and the codebooks are laid where they lie.
_CONTINUOUS_STEPS = 700
_JUDGED = 12  # clips of a batch that the discriminator sees; it costs more a clip than the codec itself
_MEL, _FEATURES, _CODEBOOK, _COMMITMENT, _PHONES = 10.0, 2.0, 1.0, 0.25, 6.0


@dataclass(frozen=True, slots=True)
class CodecPlan:
    """How long and on what."""

    shards: Path
    out: Path  # codec.pt, codec.jsonl and checkpoint/codec.* come here
    seconds: float  # of training; the learning rate falls to nothing at their end
    hours: float  # of audio held in the device's memory
    batch: int = 32
    frames: int = 24  # a crop's length
    adversarial_from: float = 0.6  # share of the time after which the discriminator joins
    rate: float = 1e-3
    compile: bool = True


class Crops:
    """Audio and labels on the device, cut at random."""

    def __init__(self, folder: Path, hours: float, frames: int, device: torch.device) -> None:
        audio: list[Tensor] = []
        labels: list[Tensor] = []
        seconds = 0.0
        while not audio:
            for path in sorted(folder.glob("shard-*.npz")):
                if seconds >= hours * 3600:
                    break
                shard = Shard.load(path)
                audio.append(torch.from_numpy(shard.audio))
                labels.append(torch.from_numpy(shard.labels))
                seconds += len(shard.audio) / 22050
            if not audio:
                time.sleep(1.0)  # synthesis runs beside this stage and has not finished its first shard
        self.audio = torch.cat(audio).to(device)
        self.labels = torch.cat(labels).to(device)
        self.hours, self._frames = seconds / 3600, frames

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Samples float32 [B, frames * FRAME_SAMPLES] and classes int64 [B, frames, PARTS]. Starts fall on label borders."""
        device = self.audio.device
        length = self._frames * PARTS
        start = torch.randint(0, len(self.labels) - length, (batch, 1), generator=generator, device=device)
        labels = self.labels[start + torch.arange(length, device=device)]
        samples = self.audio[start * _HOP + torch.arange(length * _HOP, device=device)]
        return samples.float() / 32768, labels.long().view(batch, self._frames, PARTS)


class PhoneHead(nn.Module):
    """Reads phoneme classes out of what codebook 0 alone gives; thrown away after training."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent_dim, 256), nn.GELU(), nn.Linear(256, PARTS * CLASSES))

    def forward(self, stage: Tensor) -> Tensor:
        """stage [B, latent_dim, N] -> logits [B, N, PARTS, CLASSES]."""
        out: Tensor = self.layers(stage.transpose(1, 2))
        return out.view(*out.shape[:-1], PARTS, CLASSES)


Judge = Callable[[Tensor], list[list[Tensor]]]  # a Discriminator, or its compiled form


@dataclass(slots=True)
class _Trainer:
    plan: CodecPlan
    codec: Codec
    phones: PhoneHead
    discriminator: Discriminator
    distance: MelDistance
    device: torch.device
    resumed: bool = False

    def cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def rebuild(self, samples: Tensor, discrete: Tensor) -> tuple[Tensor, Quantized, Tensor]:
        """The forward pass that is compiled: (made samples, quantised latents, phoneme logits).

        discrete: scalar, 1 to decode what was quantised, 0 to pass latents on as they are.
        """
        with self.cast():
            latents = self.codec.latents(samples)
            with torch.autocast(self.device.type, enabled=False):
                latents = latents.float()
                quantized: Quantized = self.codec.quantizer(latents)
                passed = torch.lerp(latents, quantized.latents, discrete)
                first = torch.lerp(latents, quantized.stages[:, 0], discrete)
            logits = self.phones(first)
            upsampled = self.codec.quantizer.upsample(self.codec.quantizer.post_module(passed))
            *body, snake, last = self.codec.decoder.model
            for part in body:
                upsampled = part(upsampled)
        # Samples themselves in full precision: bfloat16 would bury quiet consonants in its own rounding.
        return torch.tanh(last(snake(upsampled.float()))).squeeze(1), quantized, logits.float()


def train_codec(design: Design, plan: CodecPlan, device: torch.device) -> None:
    """Train and write codec.pt (to go on from) and the codec as it is shipped; a codec.pt already there is continued."""
    torch.manual_seed(0)
    crops = Crops(plan.shards, plan.hours, plan.frames, device)
    progress = Progress(plan.out / "codec.jsonl")
    print(f"[codec] {crops.hours:.1f} h of speech on {device}", flush=True)
    codec = Codec(design.codec_config()).to(device)
    _initialise(codec)
    heads = PhoneHead(codec.config.latent_dim), Discriminator(32 if plan.compile else 4)
    trainer = _Trainer(plan, codec, heads[0].to(device), heads[1].to(device), MelDistance().to(device), device)
    path = plan.out / "codec.pt"
    if path.is_file():
        stored = torch.load(path, map_location=device, weights_only=True)
        codec.load_state_dict(stored["codec"])
        trainer.phones.load_state_dict(stored["phones"])
        trainer.resumed = True
    _loop(trainer, crops, progress)
    half = {name: value.half() if value.is_floating_point() else value for name, value in codec.state_dict().items()}
    torch.save({"codec": half, "phones": trainer.phones.state_dict()}, path)
    save_codec(design, codec, plan.out / "checkpoint")


def _initialise(codec: Codec) -> None:
    """Weights that keep the signal's size, no biases: torch's own start shrinks speech until biases drown it.

    (So it happened: with the default initialisation no phoneme and no spectrum was learned in 900 steps.)
    """
    for module in codec.modules():
        if isinstance(module, nn.Conv1d | nn.Linear):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.ConvTranspose1d):
            taps = module.weight.shape[2] / module.stride[0]
            nn.init.normal_(module.weight, std=(module.weight.shape[0] * taps) ** -0.5)
        elif isinstance(getattr(module, "gamma", None), nn.Parameter):
            # Few layers and little time: 0.01 would leave these branches off for long.
            nn.init.constant_(module.gamma, 0.1)  # type: ignore[arg-type]
            continue
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        for module in codec.modules():
            if isinstance(module, ResidualUnit):
                module.block[3].conv.weight.mul_(0.3)  # type: ignore[union-attr, operator]
        first = codec.encoder.block[0].conv
        first.weight.mul_(10.0)  # type: ignore[union-attr, operator]  # speech has an rms of 0.05; snakes bend at about 1
        # Digital silence must not reach the norms as zero: each would multiply its gradient by 300.
        nn.init.normal_(codec.encoder.block[-1].conv.bias, std=0.5)  # type: ignore[union-attr, arg-type]
        # Start quiet, as speech is.
        codec.decoder.model[-1].conv.weight.mul_(0.05)  # type: ignore[union-attr, operator]


def _loop(trainer: _Trainer, crops: Crops, progress: Progress) -> None:
    plan, device = trainer.plan, trainer.device
    generator = torch.Generator(device).manual_seed(int(time.time()))
    rebuild = torch.compile(trainer.rebuild) if plan.compile else trainer.rebuild
    judge = torch.compile(trainer.discriminator) if plan.compile else trainer.discriminator
    made_by = [*trainer.codec.parameters(), *trainer.phones.parameters()]
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(made_by, lr=plan.rate, betas=(0.8, 0.99), weight_decay=1e-3, fused=fused)
    judging = torch.optim.AdamW(trainer.discriminator.parameters(), lr=plan.rate / 2, betas=(0.8, 0.99), fused=fused)
    used = [torch.zeros(s.codebook.num_embeddings, device=device) for s in trainer.codec.quantizer.stages()]
    discrete = torch.zeros((), device=device)
    step, figures = 0, dict[str, Tensor]()
    while (share := progress.seconds / plan.seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * min(1, (step + 1) / 100) * min(1.0, 0.02 + 2.5 * (1 - share))
        samples, classes = crops.draw(plan.batch, generator)
        if step == _CONTINUOUS_STEPS and not trainer.resumed:
            _spread(trainer, torch.cat([crops.draw(plan.batch, generator)[0] for _ in range(8)]))
        discrete.fill_(float(trainer.resumed or step >= _CONTINUOUS_STEPS))
        made, quantized, logits = rebuild(samples, discrete)
        loss, figures = _reconstruction(trainer, samples, classes, made, quantized, logits, discrete)
        if share > plan.adversarial_from:
            _judge(trainer, judge, judging, made[:_JUDGED].detach(), samples[:_JUDGED])
            loss = loss + _persuade(trainer, judge, made[:_JUDGED], samples[:_JUDGED], figures)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(made_by, 50.0)
        optimizer.step()
        _count(used, quantized.codes)
        if step % 250 == 0:
            figures["norm"] = norm
            figures |= {
                f"used{k}": (table > 0).float().mean() for k, table in ((0, used[0]), (1, used[1]), (7, used[-1]))
            }
            progress.note(step, {name: value.item() for name, value in figures.items()})
        if step % 250 == 249:
            if share < 0.7 and step > _CONTINUOUS_STEPS:
                _revive(trainer.codec, used, quantized)
            for table in used:
                table.zero_()
        step += 1
    progress.note(step, {name: value.item() for name, value in figures.items()})


def _reconstruction(
    trainer: _Trainer,
    samples: Tensor,
    classes: Tensor,
    made: Tensor,
    quantized: Quantized,
    logits: Tensor,
    discrete: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    mel = trainer.distance(made, samples)
    codebook = (quantized.rows - quantized.projected.detach()).square().mean(dim=(0, 2, 3)).sum()
    commitment = (quantized.projected - quantized.rows.detach()).square().mean(dim=(0, 2, 3)).sum()
    phones = F.cross_entropy(logits.flatten(0, 2), classes.flatten())
    loss = _MEL * mel + discrete * (_CODEBOOK * codebook + _COMMITMENT * commitment) + _PHONES * phones
    right = (logits.argmax(-1) == classes).float().mean()
    return loss, {"mel": mel, "codebook": codebook, "phones": phones, "phones_right": right}


def _judge(trainer: _Trainer, judge: Judge, judging: torch.optim.Optimizer, made: Tensor, real: Tensor) -> None:
    with trainer.cast():
        loss = discriminator_loss(judge(made), judge(real))
    judging.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    judging.step()


def _persuade(trainer: _Trainer, judge: Judge, made: Tensor, real: Tensor, figures: dict[str, Tensor]) -> Tensor:
    for parameter in trainer.discriminator.parameters():
        parameter.requires_grad_(False)
    with trainer.cast():
        with torch.no_grad():
            wanted = judge(real)
        verdict, matching = generator_losses(judge(made), wanted)
    for parameter in trainer.discriminator.parameters():
        parameter.requires_grad_(True)
    figures |= {"adversarial": verdict, "features": matching}
    return verdict + _FEATURES * matching


def _count(used: list[Tensor], codes: Tensor) -> None:
    for k, table in enumerate(used):
        table.index_add_(0, codes[:, k].flatten(), torch.ones_like(codes[:, k].flatten(), dtype=table.dtype))


@torch.no_grad()
def _spread(trainer: _Trainer, samples: Tensor) -> None:
    """Lay every stage along the main directions of what the stages before it leave, its entries on frames at random."""
    with trainer.cast():
        residual = trainer.codec.latents(samples).float().transpose(1, 2).flatten(0, 1)  # [N, latent_dim]
    for stage in trainer.codec.quantizer.stages():
        mean = residual.mean(0)
        _, _, directions = torch.linalg.svd(residual - mean, full_matrices=False)
        axes = directions[: stage.codebook.embedding_dim]  # [codebook_dim, latent_dim]
        stage.in_proj.weight.copy_(axes[..., None])
        stage.in_proj.bias.copy_(-axes @ mean)  # type: ignore[union-attr]
        stage.out_proj.weight.copy_(axes.t()[..., None])
        stage.out_proj.bias.copy_(mean)  # type: ignore[union-attr]
        projected = (residual - mean) @ axes.t()
        entries = torch.randperm(len(projected), device=projected.device)[: stage.codebook.num_embeddings]
        stage.codebook.weight.copy_(projected[entries])
        chosen = stage.codebook.weight[stage.nearest(projected.t()[None])[0]]
        residual = residual - (chosen @ axes + mean)


@torch.no_grad()
def _revive(codec: Codec, used: list[Tensor], quantized: Quantized) -> None:
    """Move entries that no frame of the last steps chose onto projected inputs of this batch."""
    for k, (stage, table) in enumerate(zip(codec.quantizer.stages(), used, strict=True)):
        dead = (table == 0).nonzero().squeeze(1)
        inputs = quantized.projected[:, k].transpose(1, 2).flatten(0, 1).float()
        chosen = torch.randint(0, len(inputs), (len(dead),), device=inputs.device)
        stage.codebook.weight[dead] = inputs[chosen]


class MelError(nn.Module):
    """Mean |log10 mel| difference, 80 bands, the figure that spec/mini.md gives."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = LogMel(1024, 80, 256)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        out: Tensor = (self.mel(made) - self.mel(real)).abs().mean()
        return out
