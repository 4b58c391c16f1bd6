"""Stage `codec`: train engine.codec.Codec on the teacher's speech.

Knows the losses and their schedule: spectra first, the discriminator later, and all along phoneme targets: on codebook 0, which makes
it *semantic* (what the language model must decide first is what is being said), and on all of them. Does not know text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.codec import Codec, Quantized, ResidualUnit
from engine.train.clock import Progress
from engine.train.codebooks import MovingCodebooks
from engine.train.designs import Design
from engine.train.export import save_codec
from engine.train.losses import Discriminator, SpectralDistance, discriminator_loss, generator_losses
from engine.train.phones import CLASSES
from engine.train.render import FRAME_SAMPLES, PARTS
from engine.train.replicas import Replicas
from engine.train.synthesize import Shard

_HOP = FRAME_SAMPLES // PARTS
# An untrained encoder sends every frame to one entry, and entry and frames then hold each other there (so it happened: used
# entries 0.1 % after 400 steps). So the latents are learned first, and the codebooks are laid where they lie.
_CONTINUOUS_STEPS = 1000
_REVIVE_EVERY = 100  # steps
_JUDGED = 12  # clips of a batch that the discriminator sees; it costs more a clip than the codec itself
_MEL, _LINEAR, _FEATURES, _COMMITMENT, _LATENTS, _PHONES = 12.0, 6.0, 2.0, 1.0, 1.0, 4.0
_SAVE_EVERY_S = 100.0


@dataclass(frozen=True, slots=True)
class CodecPlan:
    """How long and on what."""

    shards: Path
    out: Path  # codec.pt, codec.jsonl and checkpoint/codec.* come here
    seconds: float  # of training; the learning rate falls to nothing at their end
    hours: float  # of audio held in the device's memory
    batch: int = 32
    frames: int = 24  # a crop's length
    # Share of the time after which the discriminator joins; at once in a codec that is trained on.
    adversarial_from: float = 0.4
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
    phones: PhoneHead  # reads codebook 0
    all_phones: PhoneHead  # reads what all codebooks give
    discriminator: Discriminator
    distance: SpectralDistance
    codebooks: MovingCodebooks
    replicas: Replicas
    device: torch.device
    resumed: bool = False

    def cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def rebuild(self, samples: Tensor, discrete: Tensor) -> tuple[Tensor, Tensor, Quantized, Tensor, Tensor]:
        """The forward pass that is compiled: (made samples, latents, quantised, phoneme logits of codebook 0 and of all).

        discrete: scalar, 1 to decode what was quantised, 0 to pass latents on as they are.
        """
        with self.cast():
            latents = self.codec.latents(samples)
            with torch.autocast(self.device.type, enabled=False):
                latents = latents.float()
                quantized: Quantized = self.codec.quantizer(latents)
                passed = torch.lerp(latents, quantized.latents, discrete)
                first = torch.lerp(latents, quantized.stages[:, 0], discrete)
            logits, all_logits = self.phones(first), self.all_phones(passed)
            upsampled = self.codec.quantizer.upsample(self.codec.quantizer.post_module(passed))
            *body, snake, last = self.codec.decoder.model
            for part in body:
                upsampled = part(upsampled)
        # Samples themselves in full precision: bfloat16 would bury quiet consonants in its own rounding.
        made = torch.tanh(last(snake(upsampled.float()))).squeeze(1)
        return made, latents, quantized, logits.float(), all_logits.float()

    def trained(self) -> list[nn.Parameter]:
        """What the first optimiser moves; codebooks move by themselves."""
        modules = (self.codec, self.phones, self.all_phones)
        return [p for module in modules for p in module.parameters() if p.requires_grad]


def train_codec(design: Design, plan: CodecPlan, device: torch.device, replicas: Replicas) -> None:
    """Train and write codec.pt (to go on from) and the codec as it is shipped; a codec.pt already there is continued."""
    torch.manual_seed(0)
    crops = Crops(plan.shards, plan.hours, plan.frames, device)
    codec = Codec(design.codec_config()).to(device)
    _initialise(codec)
    dim = codec.config.latent_dim
    trainer = _Trainer(
        plan, codec, PhoneHead(dim).to(device), PhoneHead(dim).to(device), Discriminator(32 if plan.compile else 4).to(device),
        SpectralDistance().to(device), MovingCodebooks(codec.quantizer, replicas), replicas, device,
    )  # fmt: skip
    path = plan.out / "codec.pt"
    if path.is_file():
        stored = torch.load(path, map_location=device, weights_only=True)
        codec.load_state_dict(stored["codec"])
        trainer.phones.load_state_dict(stored["phones"])
        trainer.all_phones.load_state_dict(stored["all_phones"])
        trainer.discriminator.load_state_dict(stored["discriminator"])
        trainer.codebooks.restart()
        trainer.resumed = True
    replicas.from_first([*codec.state_dict().values(), *trainer.trained(), *trainer.discriminator.parameters()])
    progress = Progress(plan.out / "codec.jsonl", quiet=not replicas.first)
    if replicas.first:
        print(f"[codec] {crops.hours:.1f} h of speech on {replicas.size} x {device}", flush=True)
    _loop(trainer, crops, progress)
    if replicas.first:
        _save(trainer)
        save_codec(design, codec, plan.out / "checkpoint")
    replicas.wait()


def _save(trainer: _Trainer) -> None:
    """codec.pt, whole or not at all."""
    kept = {
        "codec": trainer.codec,
        "phones": trainer.phones,
        "all_phones": trainer.all_phones,
        "discriminator": trainer.discriminator,
    }
    half = {name: {n: _half(value) for n, value in module.state_dict().items()} for name, module in kept.items()}
    partial = trainer.plan.out / "codec.partial"
    torch.save(half, partial)
    partial.replace(trainer.plan.out / "codec.pt")


def _half(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


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
    plan, device, replicas = trainer.plan, trainer.device, trainer.replicas
    generator = torch.Generator(device).manual_seed(int(time.time()) + 1000 * replicas.rank)
    rebuild = torch.compile(trainer.rebuild) if plan.compile else trainer.rebuild
    judge = torch.compile(trainer.discriminator) if plan.compile else trainer.discriminator
    made_by, judges = trainer.trained(), list(trainer.discriminator.parameters())
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(made_by, lr=plan.rate, betas=(0.8, 0.99), weight_decay=1e-3, fused=fused)
    judging = torch.optim.AdamW(judges, lr=plan.rate / 2, betas=(0.8, 0.99), fused=fused)
    discrete = torch.zeros((), device=device)
    step, share, saved, figures = 0, 0.0, 0.0, dict[str, Tensor]()
    # Once at least, however slowly it was set up.
    while not step or (share := replicas.agreed(progress.seconds / plan.seconds, device)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * min(1, (step + 1) / 100) * min(1.0, 0.02 + 2.5 * (1 - share))
        samples, classes = crops.draw(plan.batch, generator)
        if step == _CONTINUOUS_STEPS and not trainer.resumed:
            trainer.codebooks.spread(_latents(trainer, crops, generator))
        quantizing = trainer.resumed or step >= _CONTINUOUS_STEPS
        discrete.fill_(float(quantizing))
        made, latents, quantized, *logits = rebuild(samples, discrete)
        loss, figures = _reconstruction(trainer, samples, classes, made, latents, quantized, logits, discrete)
        if trainer.resumed or share > plan.adversarial_from:
            _judge(trainer, judge, judging, made[:_JUDGED].detach(), samples[:_JUDGED])
            loss = loss + _persuade(trainer, judge, made[:_JUDGED], samples[:_JUDGED], figures)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        replicas.mean_gradients(made_by)
        norm = nn.utils.clip_grad_norm_(made_by, 30.0)
        optimizer.step()
        if quantizing:
            trainer.codebooks.follow(quantized)
            if share < 0.8 and step % _REVIVE_EVERY == _REVIVE_EVERY - 1:
                trainer.codebooks.revive(quantized)
        if step % 250 == 0:
            figures["norm"] = norm
            used = trainer.codebooks.used()
            figures |= {f"used{k}": used[k] for k in (0, 1, len(used) - 1)}
            progress.note(step, {name: value.item() for name, value in figures.items()})
            if replicas.first and progress.seconds - saved > _SAVE_EVERY_S:
                saved = progress.seconds
                _save(trainer)
        step += 1
    progress.note(step, {name: value.item() for name, value in figures.items()})


@torch.no_grad()
def _latents(trainer: _Trainer, crops: Crops, generator: torch.Generator) -> Tensor:
    """Float32 [N, latent_dim] of some batches, whatever one batch's size enough for every codebook."""
    found: list[Tensor] = []
    entries = trainer.codec.config.semantic_codebook_size
    while sum(map(len, found)) < 6 * entries:
        with trainer.cast():
            found.append(
                trainer.codec.latents(crops.draw(trainer.plan.batch, generator)[0]).transpose(1, 2).flatten(0, 1)
            )
    return torch.cat(found).float()


def _reconstruction(
    trainer: _Trainer,
    samples: Tensor,
    classes: Tensor,
    made: Tensor,
    latents: Tensor,
    quantized: Quantized,
    logits: Sequence[Tensor],
    discrete: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    mel, linear = trainer.distance(made, samples)
    # As a share of what is quantised: an absolute distance would also fall by making the latents smaller.
    missed = (quantized.projected - quantized.rows.detach()).square().mean(dim=(0, 2, 3))
    commitment = (missed / quantized.projected.square().mean(dim=(0, 2, 3)).clamp(min=1e-6)).sum()
    # Without this the stages' sum is no likeness of the latents (it came out four times their variance away), and each stage spends
    # its entries on what the ones before it added.
    left = (latents - quantized.latents).square().mean() / latents.var().clamp(min=1e-6)
    phones, all_phones = (F.cross_entropy(given.flatten(0, 2), classes.flatten()) for given in logits)
    loss = _MEL * mel + _LINEAR * linear + _PHONES * (phones + 0.5 * all_phones)
    loss = loss + discrete * (_COMMITMENT * commitment + _LATENTS * left)
    right = [(given.argmax(-1) == classes).float().mean() for given in logits]
    figures = {"mel": mel, "linear": linear, "missed": commitment / quantized.codes.shape[1], "left": left}
    return loss, figures | {"phones": phones, "phones_right": right[0], "all_phones_right": right[1]}


def _judge(trainer: _Trainer, judge: Judge, judging: torch.optim.Optimizer, made: Tensor, real: Tensor) -> None:
    with trainer.cast():
        loss = discriminator_loss(judge(made), judge(real))
    judging.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    trainer.replicas.mean_gradients(trainer.discriminator.parameters())
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
