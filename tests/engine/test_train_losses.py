"""What the codec is trained against."""

from __future__ import annotations

import pytest
import torch

from engine.train.losses import Discriminator, SpectralDistance, discriminator_loss, generator_losses

pytestmark = pytest.mark.torch


def test_a_signal_is_at_no_distance_from_itself_and_at_more_the_louder_the_noise() -> None:
    torch.manual_seed(0)
    speech = 0.1 * torch.sin(torch.arange(8192) * 0.05)[None]
    noise = torch.randn_like(speech)
    distance = SpectralDistance()
    sums = [sum(part.item() for part in distance(speech + level * noise, speech)) for level in (0.0, 0.001, 0.01)]
    assert sums[0] == 0.0
    assert sums[0] < sums[1] < sums[2]


def test_every_view_of_the_discriminator_learns_and_teaches() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(4)
    made, real = torch.randn(2, 4096, requires_grad=True), torch.randn(2, 4096)
    discriminator_loss(discriminator(made.detach()), discriminator(real)).backward()  # type: ignore[no-untyped-call]
    for view in discriminator.views:
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in view.parameters())
        verdict, matching = generator_losses([view(made)], [view(real)])
        (gradient,) = torch.autograd.grad(verdict + matching, made)
        assert gradient.abs().sum() > 0


def test_a_discriminator_learns_to_tell_a_rough_tone_from_a_clean_one() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(4)
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=3e-3)
    first = last = 0.0
    for step in range(40):
        phase = torch.arange(4096) * torch.empty(4, 1).uniform_(0.03, 0.06)
        clean = 0.3 * torch.sin(phase)
        rough = 0.3 * torch.sin(phase + 0.3 * torch.randn(4, 4096).cumsum(1) / 10)
        loss = discriminator_loss(discriminator(rough), discriminator(clean))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < 0.5 * first
