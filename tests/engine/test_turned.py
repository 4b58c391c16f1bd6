"""What a GPU does between the products of a block's attention: what the plain path does, in fewer launches."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention import FrameKV, FramePass, grouped_attention
from engine.config import StackConfig
from engine.model import rope_rows, rope_table, rotate
from engine.quantize import Norm
from tests.conftest import GPU_REASON
from tests.engine.conftest import INTERPRETED

pytestmark = pytest.mark.torch

# With a GPU; or, much slower, with TRITON_INTERPRET=1 and the package triton. The interpreter cannot multiply matrices of bfloat16.
EXACT = [(torch.float32, 1e-5), (torch.float16, 4e-3) if INTERPRETED else (torch.bfloat16, 3e-2)]
PAGE = 32
EPS = 1e-6
SHAPES = [StackConfig(dim=16, n_layer=2, n_head=6, n_kv_head=2, head_dim=16, ffn_dim=16)]
if not INTERPRETED:
    SHAPES.append(StackConfig(dim=16, n_layer=2, n_head=32, n_kv_head=8, head_dim=128, ffn_dim=16))


@pytest.fixture(params=SHAPES, ids=lambda stack: f"{stack.n_head} heads")
def stack(request: pytest.FixtureRequest) -> StackConfig:
    found = request.param
    assert isinstance(found, StackConfig)
    return found


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def far(found: Tensor, wanted: Tensor) -> float:
    """Of numbers larger than one in parts of them, as roundings are."""
    assert found.shape == wanted.shape
    return float(((found.double() - wanted.double()).abs() / (1 + wanted.double().abs())).max())


def gain_of(stack: StackConfig, device: str) -> Tensor:
    return (random(stack.n_head + stack.n_kv_head, stack.head_dim) + 1).to(device)


def turned(stack: StackConfig, qkv: Tensor, turn: Tensor, gain: Tensor | None) -> tuple[Tensor, ...]:
    """The plain way: q [R, H, hd], k and v [R, Hkv, hd]."""
    heads = qkv.view(len(qkv), -1, stack.head_dim)
    both, v = heads.split([stack.n_head + stack.n_kv_head, stack.n_kv_head], 1)
    if gain is not None:
        both = (F.rms_norm(both.float(), (stack.head_dim,), None, EPS) * gain).to(qkv.dtype)
    cos, sin = rope_rows(turn)
    q, k = rotate(both, (cos, sin)).split([stack.n_head, stack.n_kv_head], 1)
    return q, k, v


@dataclass(frozen=True)
class Pages:
    """A layer's pages, and rows whose pages lie in no order. Pages that are nobody's and places behind a row's last are not numbers."""

    keys: Tensor  # [pages, PAGE, Hkv, hd]
    values: Tensor
    table: Tensor  # int32 [R, most pages of a row]
    lengths: list[int]

    @classmethod
    def of(cls, stack: StackConfig, lengths: list[int], dtype: torch.dtype, device: str) -> Pages:
        most = -(-max(lengths) // PAGE)
        pages = len(lengths) * most + 2
        shape = (pages, PAGE, stack.n_kv_head, stack.head_dim)
        keys, values = random(*shape).to(device, dtype), (random(*shape) + 1).to(device, dtype)
        table = torch.randperm(pages - 2, generator=torch.Generator().manual_seed(0)).view(len(lengths), most)
        for cache in (keys, values):
            cache[-2:] = torch.nan
            for row, length in zip(table, lengths, strict=True):
                cache[row.to(device)] = torch.where(
                    (torch.arange(most * PAGE, device=device) < length).view(most, PAGE, 1, 1),
                    cache[row.to(device)],
                    torch.nan,
                )
        return cls(keys, values, table.int().to(device), lengths)

    def slots(self, row: int, positions: Tensor) -> Tensor:
        """Where in the pages."""
        positions = positions.to(self.keys.device)
        return self.table[row].long()[positions // PAGE] * PAGE + positions % PAGE

    def heard(self, row: int, q: Tensor, length: int) -> Tensor:
        """The plain way. q: [H, hd]. Returns [H, hd], float64."""
        slots = self.slots(row, torch.arange(length))
        k, v = (cache.flatten(0, 1)[slots][None].double() for cache in (self.keys, self.values))
        return grouped_attention(q[None, None].double(), k, v)[0, 0]

    def twin(self) -> Pages:
        return Pages(self.keys.clone(), self.values.clone(), self.table, self.lengths)


LENGTHS = [1, 2, 64, 65, 66, 150]


@pytest.mark.parametrize(("dtype", "most"), EXACT, ids=str)
@pytest.mark.parametrize("splits", [1, 2, 5])
def test_attention_over_pages_is_attention_over_the_keys_in_them(
    device: str, stack: StackConfig, dtype: torch.dtype, most: float, splits: int
) -> None:
    from engine.paged_triton import attend

    pages = Pages.of(stack, LENGTHS, dtype, device)
    q = random(len(LENGTHS), stack.n_head + 3, stack.head_dim).to(device, dtype)[:, : stack.n_head]
    stride = torch.tensor([pages.table.shape[1]], dtype=torch.int32, device=device)
    ends = torch.tensor(LENGTHS, device=device)
    wanted = torch.stack([pages.heard(row, q[row], length) for row, length in enumerate(LENGTHS)])
    for shared in (None, torch.zeros_like(stride)):
        found = attend(q, pages.keys, pages.values, pages.table.flatten(), stride, ends, splits, shared)
        assert far(found, wanted) < most


@pytest.mark.parametrize(("dtype", "most"), EXACT, ids=str)
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("splits", [1, 3])
def test_a_step_writes_and_attends_as_the_plain_path(
    device: str, stack: StackConfig, dtype: torch.dtype, most: float, normed: bool, splits: int
) -> None:
    from engine.turned_triton import attend_pages

    rows = len(LENGTHS)
    ends = torch.tensor(LENGTHS)
    qkv = random(rows + 1, (stack.n_head + 2 * stack.n_kv_head) * stack.head_dim).to(device, dtype)
    turn = rope_table(stack, 200).to(device)[[*(length - 1 for length in LENGTHS), 0]]
    gain = gain_of(stack, device) if normed else None
    before = Pages.of(stack, LENGTHS, dtype, device)
    # The last row only fills up the step: it has a page of its own, of which it sees what it writes.
    spare = torch.full((1, before.table.shape[1]), len(before.keys) - 1, dtype=torch.int32, device=device)
    slots = torch.cat([before.slots(row, ends[row : row + 1] - 1) for row in range(rows)])
    numbers = torch.stack((torch.tensor([*LENGTHS, 1]).to(device), torch.cat((slots, spare[0, :1] * PAGE))), 1)
    stride = torch.tensor([before.table.shape[1]], dtype=torch.int32, device=device)
    wanted = before.twin()
    q, k, v = turned(stack, qkv, turn, gain)
    wanted.keys.flatten(0, 1)[numbers[:, 1]] = k
    wanted.values.flatten(0, 1)[numbers[:, 1]] = v
    heard = torch.stack([wanted.heard(row, q[row], length) for row, length in enumerate(LENGTHS)])
    pages = before.twin()
    pages.keys.flatten(0, 1)[numbers[:, 1]] = torch.nan  # nobody sees there what was before
    found = attend_pages(
        qkv, turn, gain, EPS, pages.keys, pages.values, numbers[:, 1], torch.cat((pages.table, spare)).flatten(), stride,
        numbers[:, 0], splits,
    )  # fmt: skip
    assert found.dtype == dtype
    assert far(found[:rows], heard.flatten(1)) < most
    assert far(found[rows], v[rows].repeat_interleave(stack.n_head // stack.n_kv_head, 0).flatten()) < most
    for cache, other in ((pages.keys, wanted.keys), (pages.values, wanted.values)):
        assert (cache.isnan() == other.isnan()).all()
        assert far(cache.nan_to_num(), other.nan_to_num()) < most


@pytest.mark.parametrize(("dtype", "most"), EXACT, ids=str)
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("length", [1, 16, 33, 65, 150])
def test_one_row_does_so_in_one_kernel(
    device: str,
    stack: StackConfig,
    dtype: torch.dtype,
    most: float,
    normed: bool,
    length: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from engine import turned_triton

    qkv = random(1, (stack.n_head + 2 * stack.n_kv_head) * stack.head_dim).to(device, dtype)
    turn = rope_table(stack, 200).to(device)[length - 1 : length]
    gain = gain_of(stack, device) if normed else None
    wanted = Pages.of(stack, [length], dtype, device)
    slot = wanted.slots(0, torch.tensor([length - 1]))
    pages = wanted.twin()
    pages.keys.flatten(0, 1)[slot] = pages.values.flatten(0, 1)[slot] = torch.nan  # nobody sees there what was before
    q, k, v = turned(stack, qkv, turn, gain)
    wanted.keys.flatten(0, 1)[slot] = k
    wanted.values.flatten(0, 1)[slot] = v
    heard = wanted.heard(0, q[0], length).flatten()
    arrived = torch.zeros(stack.n_kv_head, dtype=torch.int32, device=device)
    stride = torch.tensor([pages.table.shape[1]], dtype=torch.int32, device=device)
    for plan in (turned_triton.alone, turned_triton.Alone(2, 16, 2), turned_triton.Alone(2, 32, 4)):
        monkeypatch.setattr(turned_triton, "alone", plan)
        found = turned_triton.attend_pages(
            qkv, turn, gain, EPS, pages.keys, pages.values, slot, pages.table.flatten(), stride,
            torch.tensor([length], device=device), 1, arrived,
        )  # fmt: skip
        assert found.dtype == dtype
        assert far(found[0], heard) < most
        for cache, other in ((pages.keys, wanted.keys), (pages.values, wanted.values)):
            assert (cache.isnan() == other.isnan()).all()
            assert far(cache.nan_to_num(), other.nan_to_num()) < most
        assert not arrived.any()


@pytest.mark.parametrize(("dtype", "most"), EXACT, ids=str)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("splits", "tiled"), [(1, 128), (1, 8), (2, 128)])
def test_positions_of_one_sequence_see_each_other(
    device: str,
    stack: StackConfig,
    dtype: torch.dtype,
    most: float,
    shared: bool,
    splits: int,
    tiled: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from engine import paged_triton
    from engine.turned_triton import attend_pages

    monkeypatch.setattr(paged_triton, "TILED_ROWS", tiled)
    past, new, spare = 61, 27, 2  # and rows that only fill up the step
    pages = Pages.of(stack, [past + new], dtype, device)
    qkv = random(new + spare, (stack.n_head + 2 * stack.n_kv_head) * stack.head_dim).to(device, dtype)
    positions = torch.arange(past, past + new)
    turn = rope_table(stack, 200)[torch.tensor([*range(past, past + new), *[0] * spare])].to(device)
    q, k, v = turned(stack, qkv, turn, None)
    own = pages.slots(0, positions)
    pages.keys.flatten(0, 1)[own] = pages.values.flatten(0, 1)[own] = torch.nan
    slots = torch.cat((own, torch.full((spare,), (len(pages.keys) - 1) * PAGE, device=device)))
    table = torch.full((new + spare, pages.table.shape[1]), len(pages.keys) - 1, dtype=torch.int32, device=device)
    table[:new] = pages.table
    stride = torch.tensor([table.shape[1]], dtype=torch.int32, device=device)
    lengths = torch.tensor([*(positions + 1), *[1] * spare], device=device)
    found = attend_pages(
        qkv, turn, None, EPS, pages.keys, pages.values, slots, table.flatten(), stride, lengths, splits,
        shared=torch.tensor([shared], dtype=torch.int32, device=device) if shared or tiled < 128 else None,
    )  # fmt: skip
    assert far(pages.keys.flatten(0, 1)[own], k[:new]) < most
    assert torch.equal(pages.values.flatten(0, 1)[own], v[:new])
    for row in range(new):
        assert far(found[row], pages.heard(0, q[row], past + row + 1).flatten()) < most
    assert found[new:].isfinite().all()


@pytest.mark.parametrize(("dtype", "most"), EXACT, ids=str)
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("rows", [2, 17])
def test_a_frames_passes_write_and_attend_as_the_plain_path(
    device: str, stack: StackConfig, dtype: torch.dtype, most: float, normed: bool, rows: int
) -> None:
    plain, fast = (FrameKV(stack, 18, 4, torch.device(device), dtype) for _ in range(2))
    for cache in (fast.k, fast.v):
        cache.fill_(torch.nan)  # nobody reads what this frame has not written
    gain = gain_of(stack, device) if normed else None
    table, layer = rope_table(stack, 4).to(device), stack.n_layer - 1
    for frame in range(2):
        for start, stop in ((0, 2), (2, 3), (3, 4)):
            new = stop - start
            qkv = random(rows * new, (stack.n_head + 2 * stack.n_kv_head) * stack.head_dim).to(device, dtype) + frame
            turn = table[start:stop].expand(rows, -1, -1, -1).flatten(0, 1)
            heads = [part.unflatten(0, (rows, new)) for part in turned(stack, qkv, turn, gain)]
            wanted = plain.at(start, stop, rows)(layer, *heads).flatten(0, 1).flatten(1)
            found = FramePass(plain.at(start, stop, rows), fast, start, rows).turned(layer, qkv, turn, gain, EPS)
            assert found.dtype == dtype
            assert far(found, wanted) < most
            for cache, other in ((fast.k, plain.k), (fast.v, plain.v)):
                assert far(cache[layer, :rows, :, :stop], other[layer, :rows, :, :stop]) < most
    assert fast.k[:, rows:].isnan().all() and fast.k[:layer].isnan().all()


@pytest.mark.gpu
def test_a_frame_on_a_gpu_turns_in_its_own_kernel() -> None:
    stack, cuda = SHAPES[0], torch.device("cuda")
    assert isinstance(FrameKV(stack, 1, 5, cuda, torch.float32).at(0, 2, 1), FramePass)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 5])
@torch.inference_mode()
def test_kernels_that_begin_before_others_have_ended_compute_the_same(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import paged_triton, products_triton
    from engine.captured import Captured

    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip(GPU_REASON)
    found = []
    monkeypatch.setattr(paged_triton, "TILED_ROWS", 5)
    for ahead in (0, 32):
        monkeypatch.setattr(products_triton, "ahead", ahead)
        layers = Layers("cuda", torch.bfloat16, rows)
        captured = Captured(layers, torch.device("cuda"))
        found += [captured().clone() for _ in range(20)]
    assert found[0].isfinite().all()
    assert all(torch.equal(found[0], other) for other in found[1:])


class Layers:
    """Products and attention in turn, as in the steps of both stacks."""

    def __init__(self, device: str, dtype: torch.dtype, rows: int = 1, count: int = 6) -> None:
        stack = StackConfig(dim=256, n_layer=count, n_head=8, n_kv_head=2, head_dim=64, ffn_dim=16)
        self.norm = Norm(torch.ones(256, device=device, dtype=dtype), EPS)
        self.x, self.turn = random(rows, 256).to(device, dtype), rope_table(stack, 501)[[500] * rows].to(device)
        self.into = [(random(12 * 64, 256 + i)[:, :256] / 16).to(device, dtype).contiguous() for i in range(count)]
        self.out_of = [(random(256, 8 * 64 + i)[:, : 8 * 64] / 16).to(device, dtype).contiguous() for i in range(count)]
        self.pages = [Pages.of(stack, [501] * rows, dtype, device) for _ in range(count)]
        self.frame = FrameKV(stack, rows, 10, torch.device(device), dtype)
        self.gain, self.arrived = gain_of(stack, device), torch.zeros(2, dtype=torch.int32, device=device)
        self.slots = torch.cat([self.pages[0].slots(row, torch.tensor([500])) for row in range(rows)])
        self.lengths = torch.tensor([501] * rows, device=device)
        self.stride = torch.tensor([self.pages[0].table.shape[1]], dtype=torch.int32, device=device)
        self.shared = torch.zeros(1, dtype=torch.int32, device=device)

    def __call__(self) -> Tensor:
        from engine.products_triton import few_rows
        from engine.turned_triton import attend_frame, attend_pages

        x = self.x
        for wqkv, wo, pages in zip(self.into, self.out_of, self.pages, strict=True):
            heard = attend_pages(
                few_rows(x, wqkv, self.norm), self.turn, self.gain, EPS, pages.keys, pages.values, self.slots,
                pages.table.flatten(), self.stride, self.lengths, 1, self.arrived if len(x) == 1 else None, self.shared,
            )  # fmt: skip
            x = few_rows(heard, wo, add=x)
        for position in range(10):
            for layer, (wqkv, wo) in enumerate(zip(self.into, self.out_of, strict=True)):
                keys, values = self.frame.k[layer], self.frame.v[layer]
                heard = attend_frame(few_rows(x, wqkv, self.norm), self.turn, None, EPS, keys, values, position, len(x))
                x = few_rows(heard, wo, add=x)
        return x
