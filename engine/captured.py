"""A function of fixed shape as a CUDA graph; on a CPU, the function.

Knows capture, and what graphs share. Does not know what they compute.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")

# Rows, from which on those that are nobody's cost so much of a frame that more graphs are worth capturing: 256 of the codec's take 8.2 ms
# of an H200, 128 take 4.8.
FINER = 64
_WARM_UPS = 3  # before a capture: libraries make their handles, and compilers compile


def buckets(rows: int) -> list[int]:
    """Up to `rows`, and `rows`: powers of two, and from FINER on what lies halfway.

    So a step computes for less than twice its rows, and from FINER on for less than one and a half times as many.
    """
    powers = [1 << i for i in range(rows.bit_length())]
    halfway = [size + size // 2 for size in powers if size >= FINER]
    return sorted({size for size in (*powers, *halfway) if size < rows} | {rows})


@dataclass(frozen=True, slots=True, eq=False)
class GraphMemory:
    """What graphs share of which only the last one's results are wanted: where those lie, and the stream that they are captured on.

    A library's workspace belongs to the stream of the capture and is written to by all graphs of it. So graphs that may run at the same
    time must not share this.
    """

    pool: Any  # torch's handle
    stream: torch.cuda.Stream

    @staticmethod
    def of(device: torch.device) -> GraphMemory | None:
        """None where there are no graphs."""
        if device.type != "cuda":
            return None
        gc.collect()  # graphs that are garbage: to end one breaks a capture that goes on
        return GraphMemory(torch.cuda.graph_pool_handle(), torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


class Captured(Generic[T]):
    """A function that reads and writes the same tensors in every call."""

    def __init__(self, function: Callable[[], T], device: torch.device, memory: GraphMemory | None = None) -> None:
        """memory: None: its own."""
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        memory = memory or GraphMemory.of(device)
        if memory is not None:
            current = torch.cuda.current_stream(device)
            memory.stream.wait_stream(current)
            with torch.cuda.stream(memory.stream):
                for _ in range(_WARM_UPS):
                    function()
            current.wait_stream(memory.stream)
            self._graph = torch.cuda.CUDAGraph()
            with _no_garbage(), torch.cuda.graph(self._graph, pool=memory.pool, stream=memory.stream):
                self._out = function()

    def __call__(self) -> T:
        """What the function gives; valid until the next call of anything with the same memory."""
        if self._graph is None:
            return self._function()
        self._graph.replay()
        return self._out


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Whatever is collected is not collected now, as a graph may be among it."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
