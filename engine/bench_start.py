"""What `python -m engine.bench` says of a start: what was compiled, where it is kept on disk, and what a stream takes of the memory.

Knows torch's compiler and Triton as far as they count what they do. Does not know what is compiled, or when.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from engine.attention import FrameKV
from engine.load import Loaded
from engine.sampling import Sampler
from engine.streaming import StreamingCodec

_ROWS = 4  # that more rows than one are counted with
_MICROSECONDS = 1e-6


class Compilations:
    """Counts, from its making on, what this process compiles: functions by torch's compiler, kernels by Triton."""

    def __init__(self) -> None:
        self._kernels, self._read, self._kernels_s = 0, 0, 0.0
        self.has_triton = find_spec("triton") is not None
        if self.has_triton:
            from triton import knobs

            knobs.compilation.listener = self._compiled
        self._before = self._functions()

    def _compiled(self, *, times: Any, cache_hit: bool, **what: Any) -> None:
        self._kernels += not cache_hit
        self._read += cache_hit
        self._kernels_s += _MICROSECONDS * times.total

    def _functions(self) -> tuple[int, float]:
        from torch._dynamo.utils import calculate_time_spent, counters  # slow to import

        return counters["stats"]["unique_graphs"], calculate_time_spent().get("entire_frame_compile", 0.0)

    def seen(self) -> dict[str, float]:
        """Functions, and the seconds that they took with their kernels; kernels compiled, read from disk, and their seconds."""
        functions, seconds = self._functions()
        return {
            "functions": functions - self._before[0],
            "functions_s": round(seconds - self._before[1], 3),
            "kernels": self._kernels,
            "kernels_read": self._read,
            "kernels_s": round(self._kernels_s, 3),
        }

    def folders(self) -> dict[str, dict[str, Any]]:
        """Where it lies for the next start: path, files and megabytes of torch's compiler and of Triton."""
        from torch._inductor.runtime.cache_dir_utils import cache_dir  # slow to import

        paths = {"torch": Path(cache_dir())}
        if self.has_triton:
            from triton import knobs

            paths["triton"] = Path(knobs.cache.dir)
        return {name: {"path": str(path), **_contents(path)} for name, path in paths.items()}


def since(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What was added."""
    return {name: round(after[name] - before[name], 3) for name in after}


def _contents(path: Path) -> dict[str, float]:
    sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
    return {"files": len(sizes), "mb": round(sum(sizes) / 1e6, 2)}


@dataclass(frozen=True, slots=True)
class StreamMemory:
    """Bytes that a stream holds."""

    position: int  # of keys and values
    codec: int  # of its row: what the codec remembers
    sampler: int
    fast: int  # keys and values of a frame

    @property
    def row(self) -> int:
        """Whatever it has said."""
        return self.codec + self.sampler + self.fast

    def of(self, streams: int, positions: int) -> int:
        """Of so many streams with so many positions each."""
        return streams * (self.row + positions * self.position)


@torch.inference_mode()
def stream_memory(loaded: Loaded) -> StreamMemory:
    """Counted in tensors: what several rows have more than one."""
    config, model = loaded.model.config, loaded.model
    many = [_row_bytes(loaded, 1 + _ROWS), _row_bytes(loaded, 1)]
    codec, sampler, fast = ((more - one) // _ROWS for more, one in zip(*many, strict=True))
    element = model.embeddings.weight.element_size()
    return StreamMemory(config.slow.n_layer * 2 * config.slow.kv_dim * element, codec, sampler, fast)


def _row_bytes(loaded: Loaded, rows: int) -> tuple[int, int, int]:
    config, model = loaded.model.config, loaded.model
    codec = StreamingCodec(loaded.codec, rows, device=model.device).state_bytes()
    sampler = Sampler(rows, config.num_codebooks, model.device).state
    frame = FrameKV(config.fast, rows, config.num_codebooks, model.device, model.dtype)
    return codec, _bytes(sampler), _bytes([frame.k, frame.v])


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
