"""Codebooks that follow what they encode: moving averages instead of gradients.

Knows one quantiser's stages. Does not know losses. Source: VQ-VAE, arXiv 1711.00937, appendix A.1. With gradients the entries
did not keep up with the encoder: the codebook loss doubled while everything else fell, and less than half were in use.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.codec import Quantized, Quantizer
from engine.train.replicas import Replicas

_DECAY = 0.98  # of what a step's frames weigh
_DEAD = 0.03  # share of an even use below which an entry is moved


class MovingCodebooks:
    """Owns the codebooks of a quantiser while it is trained. All stages must have one size."""

    def __init__(self, quantizer: Quantizer, replicas: Replicas) -> None:
        self._stages, self._replicas = quantizer.stages(), replicas
        tables = [stage.codebook.weight.requires_grad_(False) for stage in self._stages]
        self._stages_n, (self._entries, self._dim) = len(tables), tables[0].shape
        self._uses = torch.ones(self._stages_n, self._entries, device=tables[0].device)  # [K, V], moving
        self._sums = torch.stack([table.detach().clone() for table in tables])  # [K, V, dim], moving

    def restart(self) -> None:
        """Take the tables as they are now."""
        self._uses.fill_(1.0)
        self._sums.copy_(torch.stack([stage.codebook.weight.detach() for stage in self._stages]))

    @torch.no_grad()
    def follow(self, quantized: Quantized) -> None:
        """One step: entries move towards the mean of what chose them."""
        inputs = quantized.projected.detach().float().permute(1, 0, 3, 2).flatten(1, 2)  # [K, B * N, dim]
        codes = quantized.codes.permute(1, 0, 2).flatten(1)  # [K, B * N]
        slots = (codes + torch.arange(self._stages_n, device=codes.device)[:, None] * self._entries).flatten()
        found = torch.zeros(self._stages_n * self._entries, self._dim + 1, device=codes.device)
        ones = torch.ones(len(slots), 1, device=codes.device)
        found.index_add_(0, slots, torch.cat((inputs.flatten(0, 1), ones), 1))
        found = self._replicas.total(found).view(self._stages_n, self._entries, -1)
        self._sums.lerp_(found[..., :-1], 1 - _DECAY)
        self._uses.lerp_(found[..., -1], 1 - _DECAY)
        rows = self._sums / self._uses[..., None].clamp(min=1e-4)
        used = self._uses[..., None] > 1e-3
        for k, stage in enumerate(self._stages):
            stage.codebook.weight.copy_(torch.where(used[k], rows[k], stage.codebook.weight))

    @torch.no_grad()
    def revive(self, quantized: Quantized) -> None:
        """Move entries that are hardly chosen any more onto inputs of this batch, as if each had an even share of the use."""
        even = self._uses.mean(1)
        for k, stage in enumerate(self._stages):
            inputs = quantized.projected[:, k].detach().float().transpose(1, 2).flatten(0, 1)
            dead = (self._uses[k] < _DEAD * even[k]).nonzero().squeeze(1)
            chosen = inputs[torch.randint(0, len(inputs), (len(dead),), device=inputs.device)]
            stage.codebook.weight[dead] = chosen
            self._uses[k, dead] = even[k]
            self._sums[k, dead] = chosen * even[k]
        self._replicas.from_first([self._uses, self._sums, *(stage.codebook.weight for stage in self._stages)])

    def used(self) -> Tensor:
        """Perplexity of each stage's choices over its number of entries, [K]: 1 is even use."""
        share = self._uses / self._uses.sum(1, keepdim=True)
        out: Tensor = torch.exp(-(share * share.clamp(min=1e-12).log()).sum(1)) / self._entries
        return out

    @torch.no_grad()
    def spread(self, latents: Tensor) -> None:
        """Lay every stage along the main directions of what the stages before it leave, its entries on frames at random.

        latents: float32 [N, latent_dim], N at least the number of entries.
        """
        residual = latents
        for stage in self._stages:
            mean = residual.mean(0)
            _, _, directions = torch.linalg.svd(residual - mean, full_matrices=False)
            axes = directions[: self._dim]  # [codebook_dim, latent_dim]
            stage.in_proj.weight.copy_(axes[..., None])
            stage.in_proj.bias.copy_(-axes @ mean)  # type: ignore[union-attr]
            stage.out_proj.weight.copy_(axes.t()[..., None])
            stage.out_proj.bias.copy_(mean)  # type: ignore[union-attr]
            projected = (residual - mean) @ axes.t()
            entries = torch.randperm(len(projected), device=projected.device)[: self._entries]
            stage.codebook.weight.copy_(projected[entries])
            chosen = stage.codebook.weight[stage.nearest(projected.t()[None])[0]]
            residual = residual - (chosen @ axes + mean)
        parameters = [p for s in self._stages for p in (*s.in_proj.parameters(), *s.out_proj.parameters())]
        self._replicas.from_first([*parameters, *(stage.codebook.weight for stage in self._stages)])
        self.restart()
