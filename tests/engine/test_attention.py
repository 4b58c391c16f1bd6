"""Every way to attend gives what the plain formula gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.attention import ContiguousKV, FrameKV, causal, grouped_attention
from engine.config import StackConfig

pytestmark = pytest.mark.torch

STACK = StackConfig(dim=16, n_layer=2, n_head=6, n_kv_head=2, head_dim=8, ffn_dim=16)
CPU = torch.device("cpu")


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k / sqrt(hd)) v with key heads repeated. mask: bool [B, T, S]."""
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[3] ** 0.5
    weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", weights, v)


def lower(t: int) -> Tensor:
    return torch.ones(1, t, t, dtype=torch.bool).tril()


@pytest.mark.parametrize("length", [1, 2, 7])
def test_causal_attention_sees_itself_and_what_came_before(length: int) -> None:
    q, k, v = random(3, length, 6, 8), random(3, length, 2, 8), random(3, length, 2, 8) + 1
    torch.testing.assert_close(causal(0, q, k, v), formula(q, k, v, lower(length)))


@pytest.mark.parametrize("length", [1, 4])
def test_a_mask_hides_keys_of_each_row_on_its_own(length: int) -> None:
    q, k, v = random(2, length, 6, 8), random(2, 9, 2, 8), random(2, 9, 2, 8) + 1
    mask = torch.ones(2, length, 9, dtype=torch.bool)
    mask[0, :, 5:] = False
    mask[1, -1, 2:4] = False
    torch.testing.assert_close(grouped_attention(q, k, v, mask[:, None]), formula(q, k, v, mask))


def test_a_contiguous_cache_gives_what_the_whole_sequence_gives() -> None:
    q, k, v = random(2, 9, 6, 8), random(2, 9, 2, 8), random(2, 9, 2, 8) + 1
    cache = ContiguousKV(STACK, rows=2, positions=12, device=CPU, dtype=torch.float32)
    parts = []
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        attend = cache.at(torch.arange(start, stop).expand(2, -1))
        parts.append(attend(1, q[:, start:stop], k[:, start:stop], v[:, start:stop]))
    torch.testing.assert_close(torch.cat(parts, 1), causal(1, q, k, v))


def test_rows_of_a_contiguous_cache_may_be_at_different_places() -> None:
    q, k, v = random(2, 6, 6, 8), random(2, 6, 2, 8), random(2, 6, 2, 8) + 1
    whole = causal(0, q, k, v)
    cache = ContiguousKV(STACK, rows=2, positions=6, device=CPU, dtype=torch.float32)
    cache.at(torch.arange(5).expand(2, -1))(0, q[:, :5], k[:, :5], v[:, :5])
    positions = torch.tensor([[3], [5]])  # row 0 goes back, row 1 goes on
    rows = torch.arange(2)[:, None]
    got = cache.at(positions)(0, q[rows, positions], k[rows, positions], v[rows, positions])
    torch.testing.assert_close(got, whole[rows, positions])


def test_a_frame_cache_gives_what_the_whole_frame_gives_frame_after_frame() -> None:
    cache = FrameKV(STACK, rows=4, positions=5, device=CPU, dtype=torch.float32)
    for frame in range(2):
        q, k, v = random(3, 5, 6, 8) + frame, random(3, 5, 2, 8) - frame, random(3, 5, 2, 8) + frame
        parts = [
            cache.at(start, stop, rows=3)(1, q[:, start:stop], k[:, start:stop], v[:, start:stop])
            for start, stop in ((0, 2), (2, 3), (3, 4), (4, 5))
        ]
        torch.testing.assert_close(torch.cat(parts, 1), causal(1, q, k, v))


def test_a_later_pass_of_several_positions_is_a_bug() -> None:
    cache = FrameKV(STACK, rows=1, positions=5, device=CPU, dtype=torch.float32)
    with pytest.raises(AssertionError, match="one position"):
        cache.at(2, 4, rows=1)
