"""Functions of tensors as graphs that TorchScript runs: a thousand small operations with no Python between them.

Knows how a graph is made and called, and where there are none. Nothing else runs a graph without Python or a compiler, so this serves
although it is deprecated; whoever uses it can do without.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor


def can_trace() -> bool:
    """Whether this Python has TorchScript, which ends with 3.13."""
    return sys.version_info < (3, 14)


class Traced:
    """A function of tensors as a graph. A tensor that it writes to must be an argument: what a graph finds elsewhere it takes for constant,
    and leaves out what is only written there."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *example: Tensor) -> None:
        """Calls the function with the example, for good: what it writes is written. Sizes may differ in later calls where nothing that
        the function asked for in Python depends on them."""
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is old, and what Python asks about sizes is asked once
            self._graph = torch.jit.trace(function, example, check_trace=False)  # type: ignore[no-untyped-call]

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """What the function gives for these."""
        # As traced: to optimise takes seconds at the first calls, and finds nothing without a compiler.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            out: tuple[Tensor, ...] = self._graph(*arguments)
        return out
