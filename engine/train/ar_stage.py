"""Stage `ar`: train engine.model.DualAR on packed rows.

Knows masks between conversations that share a row, the losses of both stacks and their schedule. Does not know how rows
came to be. The model is the one that serving runs; only the attention handed in differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from engine.attention import Attend, grouped_attention
from engine.checkpoint import load_dual_ar
from engine.model import DualAR
from engine.train.clock import Progress
from engine.train.designs import Design
from engine.train.muon import Muon
from engine.train.replicas import Replicas
from engine.train.tokens import NOTHING, ROW_POSITIONS, Rows

Loss = Callable[..., tuple[Tensor, Tensor]]  # `losses`, or its compiled form

_CORRUPTED = 0.02  # share of input codes replaced at random: generated histories are never quite right either


@dataclass(frozen=True, slots=True)
class ArPlan:
    """How long and on what."""

    rows: Path  # folder of rows-*.npz; it may still grow
    held_out: Path  # folder of rows that are only measured
    out: Path  # ar.pt and ar.jsonl come here
    seconds: float  # of this call
    done_s: float = 0.0  # of earlier calls, when `total_s` spans several
    total_s: float = 0.0  # of the whole schedule; 0 means this call is all of it
    batch_rows: int = 24
    fast_frames: int = 10240  # frames a step whose residual codebooks are trained
    rate: float = 2e-3
    compile: bool = True
    check: Callable[[DualAR], dict[str, float]] | None = None  # asked for figures now and then, and at the end
    check_every_s: float = 300.0


class RowStore:
    """All rows there are so far, on the device."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder, device
        self._seen: set[str] = set()
        self.matrix, self.targets, self.documents, self.positions = (torch.zeros(0) for _ in range(4))
        while not self.grow():
            time.sleep(1.0)  # encoding runs beside this stage

    def grow(self) -> bool:
        """Take in new files; whether there were any."""
        paths = [path for path in sorted(self._folder.glob("rows-*.npz")) if path.name not in self._seen]
        loaded = []
        for path in paths:
            self._seen.add(path.name)
            with np.load(path) as file:
                loaded.append(Rows(file["matrix"], file["targets"], file["documents"], file["positions"]))
        if not loaded:
            return False
        for name in ("matrix", "targets", "documents", "positions"):
            new = torch.from_numpy(np.concatenate([getattr(rows, name) for rows in loaded])).to(self._device)
            old: Tensor = getattr(self, name)
            setattr(self, name, torch.cat([old, new]) if len(old) else new)
        return True

    def draw(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(matrix, targets, documents, positions) of some rows, int64."""
        return (
            self.matrix[rows].long(),
            self.targets[rows].long(),
            self.documents[rows].long(),
            self.positions[rows].long(),
        )


def document_attention(documents: Tensor, compiled: bool) -> Attend:
    """Causal attention within each conversation of a row. documents: int64 [B, T]."""
    if compiled:
        return _flex(_block_mask(documents))
    order = torch.arange(documents.shape[1], device=documents.device)
    mask = (documents[:, None, :, None] == documents[:, None, None, :]) & (order[:, None] >= order)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return grouped_attention(q, k, v, mask)

    return attend


def _block_mask(documents: Tensor) -> BlockMask:
    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (documents[b, q] == documents[b, k]) & (q >= k)

    rows, length = documents.shape
    return create_block_mask(visible, rows, None, length, length, device=str(documents.device))


def _flex(mask: BlockMask) -> Attend:
    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = flex_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), block_mask=mask, enable_gqa=True)
        assert isinstance(out, Tensor)
        return out.transpose(1, 2)

    return attend


def losses(
    model: DualAR, matrix: Tensor, targets: Tensor, documents: Tensor, positions: Tensor, frames: int, compiled: bool
) -> tuple[Tensor, Tensor]:
    """(slow, fast) mean cross-entropies. `frames` random positions train the fast stack."""
    attend = document_attention(documents, compiled)
    hidden = model.slow(model.embed(_corrupted(model, matrix)), positions, attend)
    columns = model.head(hidden.head).float()
    slow = F.cross_entropy(columns.flatten(0, 1), targets.flatten(), ignore_index=NOTHING)
    is_frame = (targets != NOTHING) & (targets < model.config.n_semantic)
    is_frame[:, -1] = False  # its frame would lie in the next row
    chance = torch.rand(targets.shape, device=targets.device) + is_frame
    chosen = chance.flatten().topk(min(frames, chance.numel())).indices
    codes = matrix[:, 1:].roll(-1, 2).transpose(1, 2).flatten(0, 1)[chosen]  # the frame after each chosen position
    logits = model.fast(hidden.fast.flatten(0, 1)[chosen], codes)[:, 1:].float()
    wanted = torch.where(is_frame.flatten()[chosen, None], codes[:, 1:], NOTHING)
    fast = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=NOTHING)
    return slow, fast


def _corrupted(model: DualAR, matrix: Tensor) -> Tensor:
    """Replace a few codes; the semantic token changes with its code. Text is left alone."""
    if not model.training:
        return matrix
    config = model.config
    is_frame = (matrix[:, :1] >= config.semantic_begin) & (matrix[:, :1] <= config.semantic_end)
    noise = torch.randint_like(matrix[:, 1:], config.codebook_size)
    hit = (torch.rand(noise.shape, device=matrix.device) < _CORRUPTED) & is_frame
    codes = torch.where(hit, noise, matrix[:, 1:])
    ids = torch.where(is_frame[:, 0], codes[:, 0] + config.semantic_begin, matrix[:, 0])
    return torch.cat((ids[:, None], codes), 1)


def initialise(model: DualAR) -> None:
    """Small normal weights; the projections that add to the residual stream start at zero."""
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        if name.endswith(("wo.weight", "w2.weight")):
            torch.nn.init.zeros_(parameter)
        else:
            torch.nn.init.normal_(parameter, std=0.02 if "embedding" in name else parameter.shape[-1] ** -0.5)


class Optimizer:
    """Muon for the matrices of the blocks, AdamW for the rest."""

    def __init__(self, model: DualAR, rate: float) -> None:
        inner = [p for name, p in model.named_parameters() if "layers." in name and p.ndim == 2]
        ids = {id(p) for p in inner}
        rest = [p for p in model.parameters() if id(p) not in ids]
        self._model, self._rate = model, rate
        self._muon = Muon(inner, rate)
        self._adam = torch.optim.AdamW(
            rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=model.device.type == "cuda"
        )

    def step(self, factor: float) -> None:
        """One update at `factor` times the rate; gradients are cleared."""
        self._muon.rate = self._rate * factor
        for group in self._adam.param_groups:
            group["lr"] = self._rate * factor
        self._muon.step()
        self._adam.step()
        self._model.zero_grad(set_to_none=True)


def train_ar(design: Design, plan: ArPlan, device: torch.device, replicas: Replicas) -> None:
    """Train and write ar.pt (bfloat16 weights); goes on from an ar.pt, or else an exported model, that is already there."""
    torch.manual_seed(int(time.time()) + 1000 * replicas.rank)
    progress = Progress(plan.out / "ar.jsonl", quiet=not replicas.first)
    model = DualAR(design.model_config()).to(device)
    initialise(model)
    path = plan.out / "ar.pt"
    if path.is_file():
        model.load_state_dict(torch.load(path, map_location=device, weights_only=True))
    elif (plan.out / "checkpoint" / "model.safetensors").is_file():
        model.load_state_dict(load_dual_ar(plan.out / "checkpoint", device).state_dict())
    replicas.from_first(model.state_dict().values())
    compute = torch.compile(losses) if plan.compile else losses
    _rehearse(model, plan, compute)
    held_out, store = RowStore(plan.held_out, device), RowStore(plan.rows, device)
    if replicas.first:
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        print(f"[ar] {len(store.matrix)} rows, {parameters:.1f} M parameters, {replicas.size} x {device}", flush=True)
    replicas.wait()  # the first step of one must not wait for another's compiler with its collectives open
    _loop(model, plan, compute, store, held_out, progress, replicas)
    replicas.wait()


def _cast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _rehearse(model: DualAR, plan: ArPlan, compute: Loss) -> None:
    """Compile on made-up rows, so that this is over when the first real ones come from the encoder beside this stage."""
    if not plan.compile:
        return
    shape = plan.batch_rows, ROW_POSITIONS
    matrix = torch.full((shape[0], model.config.num_codebooks + 1, shape[1]), 1, dtype=torch.int64, device=model.device)
    zeros = torch.zeros(shape, dtype=torch.int64, device=model.device)
    positions = torch.arange(shape[1], device=model.device).expand(shape).contiguous()
    model.train()
    with _cast(model.device):
        slow, fast = compute(model, matrix, zeros, zeros, positions, plan.fast_frames, plan.compile)
    (slow + fast).backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)


def _loop(
    model: DualAR,
    plan: ArPlan,
    compute: Loss,
    store: RowStore,
    held_out: RowStore,
    progress: Progress,
    replicas: Replicas,
) -> None:
    device, trained = model.device, list(model.parameters())
    cast = _cast(device)
    optimizer = Optimizer(model, plan.rate)
    order, step, seconds, validated, checked = torch.zeros(0, dtype=torch.int64, device=device), 0, 0.0, 0.0, 0.0
    # Once at least, however slowly it was set up.
    while not step or (seconds := replicas.agreed(progress.seconds, device)) < plan.seconds:
        if len(order) < plan.batch_rows:
            store.grow()
            order = torch.cat([order, torch.randperm(len(store.matrix), device=device)])
            while len(order) < plan.batch_rows:  # only a toy set is smaller than a batch
                order = torch.cat([order, order])
        batch, order = order[: plan.batch_rows], order[plan.batch_rows :]
        model.train()
        with cast:
            slow, fast = compute(model, *store.draw(batch), plan.fast_frames, plan.compile)
        (slow + fast * (model.config.num_codebooks - 1) / 4).backward()  # type: ignore[no-untyped-call]
        replicas.mean_gradients(trained)
        optimizer.step(_factor(plan, seconds, step))
        step += 1
        if step % 100 == 0:
            progress.note(step, {"slow": slow.item(), "fast": fast.item(), "rows": len(store.matrix)})
        if seconds - validated > 60 and replicas.first:
            validated = seconds
            progress.note(step, _validate(model, plan, held_out, cast))
        if plan.check and seconds - checked > plan.check_every_s and replicas.first:
            checked = seconds
            _save(model, plan)
            progress.note(step, plan.check(model))
    if replicas.first:
        progress.note(step, _validate(model, plan, held_out, cast))
        _save(model, plan)
    if plan.check and replicas.first:
        progress.note(step, plan.check(model))


def _save(model: DualAR, plan: ArPlan) -> None:
    """Write ar.pt whole or not at all."""
    partial = plan.out / "ar.partial"
    torch.save({name: value.bfloat16() for name, value in model.state_dict().items()}, partial)
    partial.replace(plan.out / "ar.pt")


def _factor(plan: ArPlan, seconds: float, step: int) -> float:
    """Learning rate factor: a short rise (also after a resume), level, then down over the last 45 % of the whole schedule."""
    total = plan.total_s or plan.seconds
    share = min(1.0, (plan.done_s + seconds) / total)
    return min(1.0, (step + 1) / 150) * min(1.0, 0.02 + (1 - share) / 0.45)


def _validate(model: DualAR, plan: ArPlan, held_out: RowStore, cast: torch.autocast) -> dict[str, float]:
    """Losses on text and voices that are never trained on. Not compiled: a second graph costs more than it saves."""
    model.eval()
    with torch.no_grad(), cast:
        rows = torch.arange(min(16, len(held_out.matrix)), device=model.device)
        slow, fast = losses(model, *held_out.draw(rows), plan.fast_frames, compiled=False)
    return {"held_out_slow": slow.item(), "held_out_fast": fast.item()}
