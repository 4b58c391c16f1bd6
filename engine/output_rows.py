"""The rows of an output matrix that serving reads, as a frame's heads.

Knows the three ways to multiply by them: packed on a CPU, in a kernel of ours on a GPU (`engine.products_triton`), and the library's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from engine.packed import Packed
from engine.quantize import Norm

if TYPE_CHECKING:  # the model is built on this
    from engine.model import RMSNorm


class Rows:
    """A frame reads them once a codebook."""

    def __init__(self, matrix: Tensor, packed: bool, kernels: bool) -> None:
        """matrix: [N, D]. packed, kernels: see DualAR.prepare_serving."""
        self._matrix = matrix.detach()
        self._packed = Packed(self._matrix) if packed else None
        self._most = 0  # rows that a kernel of ours takes
        if kernels:
            from engine.products_triton import MOST_PLAIN_ROWS

            self._most = MOST_PLAIN_ROWS

    def __call__(self, x: Tensor) -> Tensor:
        """x: [..., D]. Returns logits [..., N] of x's dtype."""
        if self._most and x[..., 0].numel() <= self._most:
            return self._few(x)
        if self._packed is None:
            return F.linear(x, self._matrix)
        return self._packed.few(x.bfloat16()).to(x.dtype)

    def normed(self, x: Tensor, norm: RMSNorm) -> Tensor:
        """Logits [B, N] of what `norm` makes of x, [B, 1, D]."""
        if self._most and len(x) <= self._most:
            return self._few(x[:, 0], Norm(norm.weight, norm.eps))
        return self(norm(x)[:, 0])

    def _few(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        from engine.products_triton import few_rows

        return few_rows(x.flatten(0, -2), self._matrix, norm).view(*x.shape[:-1], -1)
