"""Several processes, one GPU each, that train one model: the same weights, other batches, mean gradients.

Knows a process group and which process this is. Does not know models. Without `torchrun` there is one process and nothing is done.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

_AGREE_EVERY = 20  # steps between two looks at the first process's clock: each waits for the device


@dataclass(slots=True)
class Replicas:
    """This process among its equals."""

    rank: int = 0
    size: int = 1
    _share: float = 0.0
    _asked: int = 0

    @classmethod
    def of_environment(cls) -> Replicas:
        """What `torchrun` says; joins the others. Call once, before the first CUDA tensor."""
        if not dist.is_torchelastic_launched():
            return cls()
        cuda = torch.cuda.is_available()
        dist.init_process_group("nccl" if cuda else "gloo")
        if cuda:
            torch.cuda.set_device(dist.get_rank() % torch.cuda.device_count())
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def mean_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its mean over the processes. All must have the same ones."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([g.numel() for g in gradients])  # type: ignore[no-untyped-call]
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])

    def total(self, value: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with the first process's."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, 0)

    def agreed(self, share: float, device: torch.device) -> float:
        """The first process's figure, seldom asked anew, so that all leave a loop at the same step."""
        if self.size == 1:
            return share
        if self._asked % _AGREE_EVERY == 0:
            told = torch.tensor([share], dtype=torch.float64, device=device)
            dist.broadcast(told, 0)
            self._share = told.item()
        self._asked += 1
        return self._share

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()
