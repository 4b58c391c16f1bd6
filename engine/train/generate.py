"""Free-running generation of many prompts at once, to see during training what the model says by itself.

Knows the plain contiguous cache and plain sampling. Serving has its own scheduler and counter-based noise; this is only
quick on a GPU in big batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.attention import ContiguousKV, FrameKV
from engine.model import DualAR
from engine.train.designs import SEMANTIC_BEGIN
from engine.train.tokens import Array


@dataclass(frozen=True, slots=True)
class Sampling:
    """As in engine.api, without what a check does not need."""

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 30


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """What came out for one prompt."""

    codes: Array  # [K, frames]
    ended: bool  # whether the model ended it


@torch.inference_mode()
def generate(
    model: DualAR, prompts: Sequence[Array], sampling: Sampling, longest: int, generator: torch.Generator
) -> list[Spoken]:
    """Continue every prompt [K + 1, n] until it ends or has `longest` frames."""
    device, rows = model.device, len(prompts)
    lengths = torch.tensor([prompt.shape[1] for prompt in prompts], device=device)
    width = int(lengths.max())
    matrix = torch.zeros(rows, prompts[0].shape[0], width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        matrix[row, :, : prompt.shape[1]] = torch.from_numpy(prompt.astype(np.int64))
    kv = ContiguousKV(model.config.slow, rows, width + longest, device, model.dtype)
    frame_kv = FrameKV(model.config.fast, rows, model.config.num_codebooks, device, model.dtype)
    # What padding stores beyond a row's own prompt is overwritten before the row gets there.
    positions = torch.arange(width, device=device).expand(rows, -1)
    hidden = model.slow(model.embed(matrix.to(device)), positions, kv.at(positions)).at(lengths - 1)
    done = torch.full((rows,), longest, device=device)
    frames = []

    def pick(codebook: int, logits: Tensor) -> Tensor:
        return draw(logits, sampling, generator)

    for step in range(longest):
        column = draw(model.head(hidden.head), sampling, generator)
        ends = column == model.config.n_semantic
        done = torch.where(ends & (done == longest), step, done)
        if step % 16 == 0 and bool((done < longest).all()):
            break
        codes = model.fast_frame(hidden.fast, model.code_of(column), pick, frame_kv)
        frames.append(codes)
        column_in = torch.cat((codes[:, :1] + SEMANTIC_BEGIN, codes), 1)[..., None]
        at = (lengths + step)[:, None]
        hidden = model.slow(model.embed(column_in), at, kv.at(at)).at(0)
    stacked = torch.stack(frames, 2).to(torch.int16).cpu().numpy()
    return [Spoken(stacked[row, :, :n], n < longest) for row, n in enumerate(done.tolist())]


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """One entry a row: the top_k within top_p (measured before the temperature, the best always kept). logits [B, V]."""
    top, index = logits.float().topk(min(sampling.top_k, logits.shape[-1]), -1)
    mass = torch.exp(top - logits.float().logsumexp(-1, keepdim=True)).cumsum(-1)
    removed = mass > sampling.top_p
    removed[:, 0] = False
    probabilities = (top / sampling.temperature).masked_fill(removed, -torch.inf).softmax(-1)
    return index.gather(1, torch.multinomial(probabilities, 1, generator=generator)).squeeze(1)
