"""Muon: momentum whose update is brought close to an orthogonal matrix, for the weights inside the blocks.

Knows matrices only; embeddings, heads, norms and biases belong to AdamW. Matrices of one shape are updated as one batch,
since there are many small ones. Source: Keller Jordan, "Muon: an optimizer for hidden layers", 2024 (the quintic's
coefficients are from there).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonal(x: Tensor, steps: int = 5) -> Tensor:
    """Matrices near the orthogonal factors of x [n, rows, columns], computed in bfloat16 where x is on a GPU."""
    y = x.bfloat16() if x.is_cuda else x
    tall = y.shape[-2] > y.shape[-1]
    y = y.mT if tall else y
    y = y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = y @ y.mT
        y = _A * y + (_B * gram + _C * gram @ gram) @ y
    out: Tensor = (y.mT if tall else y).to(x.dtype)
    return out


class Muon:
    """Set `rate`, call `step` after `backward`."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], rate: float, decay: float = 0.01, momentum: float = 0.95
    ) -> None:
        groups: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            groups[parameter.shape].append(parameter)
        self._groups = [
            (group, torch.zeros(len(group), *shape, device=group[0].device)) for shape, group in groups.items()
        ]
        self.rate, self._decay, self._momentum = rate, decay, momentum

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter from its gradient."""
        for group, velocity in self._groups:
            gradient = torch.stack([parameter.grad for parameter in group if parameter.grad is not None])
            velocity.lerp_(gradient, 1 - self._momentum)
            update = orthogonal(gradient.lerp_(velocity, self._momentum))
            rows, columns = update.shape[1:]
            scale = (
                self.rate * 0.2 * max(rows, columns) ** 0.5
            )  # the size of an AdamW step, so that one rate serves both
            weights: list[Tensor] = [parameter.data for parameter in group]
            torch._foreach_mul_(weights, 1 - self.rate * self._decay)
            torch._foreach_add_(weights, list(update.unbind()), alpha=-scale)
