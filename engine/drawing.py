"""One frame from what the slow stack returned: semantic token, codes, and whether they can be trusted.

Knows how the model's heads and the sampler's draws go together. Does not know rows that end, streams or what runs it: Python, a CUDA
graph (`engine.frame_graphs`) or TorchScript (`engine.solo`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.attention import FrameMemory
from engine.model import DualAR, Hidden
from engine.sampling import Sampler


def draw_frame(model: DualAR, sampler: Sampler, kv: FrameMemory, hidden: Hidden, rows: Tensor) -> Tensor:
    """Draw one frame a row. hidden: [B, D]. rows: int64 [B], of the sampler.

    Returns int64 [B, K + 2]: whether it is sound, its token, its codes. Nothing waits for the device.
    """
    if sampler.kernels and sampler.usual:
        return _drawn_by_kernels(model, sampler, kv, hidden, rows)
    draws = sampler.frame(rows)
    logits = model.head(hidden.head)
    # Of all logits of the frame: finite only if each of them is. In float32, which a sum of half-precision ones does not exceed.
    mass = logits.sum(-1, dtype=torch.float32)

    def draw(codebook: int, logits: Tensor) -> Tensor:
        mass.add_(logits.sum(-1, dtype=torch.float32))
        return draws.codebook(codebook, logits)

    column = draws.semantic(logits)
    codes = model.fast_frame(hidden.fast, model.code_of(column), draw, kv)
    draws.commit(column)
    sound = mass.isfinite()[:, None].long()
    return torch.cat((sound, model.token_of(column)[:, None], codes), 1)


def _drawn_by_kernels(model: DualAR, sampler: Sampler, kv: FrameMemory, hidden: Hidden, rows: Tensor) -> Tensor:
    from engine.sampling_triton import KernelDraws, Tokens

    config = model.config
    tokens = Tokens(config.semantic_begin, config.im_end, config.codebook_size)
    draws = KernelDraws(sampler, rows, tokens, model.fast_embeddings.weight)
    code0 = draws.semantic(model.head(hidden.head))
    model.fast_frame(hidden.fast, code0, draws.codebook, kv, lambda _: draws.embedded)
    return draws.frame
