"""The least that a frame could take on a device: the bytes that a step must read, over the bandwidth of a copy.

Knows what must be read, and how to time a copy. Does not know what a step takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from engine.config import StackConfig
from engine.model import DualAR
from engine.quantize import matrix_bytes

TIMES = 4  # of which the fastest counts
COPIES = 4  # at a time, for looking at the clock takes a GPU some microseconds
SERVED_BYTES = 1 << 28  # far more than any cache holds, and room that is left beside a model
TICKS_S = 1e-3  # of a GPU's own clock


def step_bytes(model: DualAR, entries: int, positions: int) -> dict[str, int]:
    """Bytes of weights and of keys and values that one step must read, with `positions` over all its rows. The codec is not counted.

    entries: of a residual codebook.
    """
    config, size = model.config, model.embeddings.weight.element_size()
    passes = config.num_codebooks - 1
    blocks = matrix_bytes(model) or size * _matrices(config.slow)
    return {
        "slow": blocks + size * (config.n_semantic + 1) * config.slow.dim,
        "fast": size * passes * (_matrices(config.fast) + entries * config.fast.dim),
        "kv": size * positions * config.slow.n_layer * 2 * config.slow.kv_dim,
    }


def copy_bandwidth(device: torch.device, size: int, now: Callable[[], float]) -> float:
    """Bytes a second of a copy of so many bytes, read and written counted both. now: seconds, once everything launched is done."""
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    best = math.inf
    for _ in range(TIMES):
        begun = now()
        for _ in range(COPIES):
            target.copy_(source)
        best = min(best, now() - begun)
    return COPIES * 2 * size / best


def roof_s(model: DualAR, entries: int) -> float | None:
    """Seconds of a frame of one stream without a history. None on a CPU, whose caches hold what one stream reads, or without room."""
    if model.device.type != "cuda":
        return None
    origin = _event(model.device)

    def now() -> float:
        event = _event(model.device)
        event.synchronize()
        return float(TICKS_S * origin.elapsed_time(event))

    try:
        bandwidth = copy_bandwidth(model.device, SERVED_BYTES, now)
    except torch.OutOfMemoryError:
        return None
    finally:
        torch.cuda.empty_cache()
    return sum(step_bytes(model, entries, 0).values()) / bandwidth


def _event(device: torch.device) -> torch.cuda.Event:
    """Behind all that was launched."""
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _matrices(stack: StackConfig) -> int:
    layer = stack.dim * (2 * stack.q_dim + 2 * stack.kv_dim) + 3 * stack.dim * stack.ffn_dim
    return layer * stack.n_layer
