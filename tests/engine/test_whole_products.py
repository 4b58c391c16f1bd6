"""Products in whole numbers: as near to the exact ones as products in floating point, whatever x looks like."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.quantize import Norm, Quantized, to_format
from tests.conftest import GPU_REASON
from tests.engine.conftest import INTERPRETED
from tests.engine.test_quantize import case, far, matrix

pytestmark = pytest.mark.torch

# The interpreter multiplies the bits of bfloat16 as if they were integers.
DTYPE, ROUNDED = (torch.float16, 1e-3) if INTERPRETED else (torch.bfloat16, 6e-3)
SHAPES = [(72, 320), (50, 2564)]
SOME = [(3, False, False, False), (8, True, True, True), (9, True, False, True), (40, False, True, False)]
FEW = [(1, False, False, False), (1, True, True, True), (2, True, True, False), (2, False, False, True)]


def multiplied(x: Tensor, weight: Quantized, norm: Norm | None = None) -> Tensor:
    from engine.products_triton import few_rows

    return few_rows(x, weight, norm)


def check_products(device: str, *cases: list[tuple[int, bool, bool, bool]]) -> None:
    """With a matrix of each shape, as many cases as it has; each is a kernel to compile."""
    from engine.products_triton import few_rows

    for shape, some in zip(SHAPES, cases, strict=True):
        weight = to_format(matrix(*shape).to(device), "int8")
        for rows, norm, gated, add in some:
            given, exact = case(rows, norm, gated, add, weight, DTYPE, device)
            found = few_rows(*given)
            assert found.dtype == DTYPE
            assert found.shape == exact.shape
            assert far(found, exact) < ROUNDED


@pytest.mark.parametrize(
    ("whole", "plan"), [(True, None), (True, (8, 256, 4, 0)), (True, (4, 512, 4, 1, 2)), (False, None)]
)
def test_one_and_two_rows_are_multiplied_as_on_the_plain_path(
    device: str, whole: bool, plan: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import products_triton, whole_products_triton

    if plan is not None:
        monkeypatch.setattr(whole_products_triton, "plan_of", lambda *_: whole_products_triton.Plan(*plan))
    monkeypatch.setattr(products_triton, "MOST_WHOLE_ROWS", 2 if whole else 0)
    monkeypatch.setattr(products_triton, "MOST_WHOLE_TILES", 0)
    taken: list[int] = []
    monkeypatch.setattr(
        products_triton,
        "whole_rows",
        lambda x, *args: taken.append(len(x)) or whole_products_triton.whole_rows(x, *args),
    )
    check_products(device, FEW, FEW[1:3])
    assert taken == ([rows for rows, *_ in (*FEW, *FEW[1:3])] if whole else [])


@pytest.mark.parametrize(("most", "plan"), [(128, None), (128, (16, 64, 2, 2, 2)), (0, None)])
def test_some_rows_are_multiplied_in_tiles_as_on_the_plain_path(
    device: str, most: int, plan: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import products_triton, whole_tiles_triton

    if plan is not None:
        monkeypatch.setattr(whole_tiles_triton, "plan_of", lambda *_: whole_tiles_triton.Plan(*plan))
    monkeypatch.setattr(products_triton, "MOST_WHOLE_TILES", most)
    taken: list[int] = []
    monkeypatch.setattr(
        products_triton, "tiled_rows", lambda x, *args: taken.append(len(x)) or whole_tiles_triton.tiled_rows(x, *args)
    )
    check_products(device, SOME, SOME[1:2])
    assert taken == ([rows for rows, *_ in (*SOME, SOME[1])] if most else [])


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("peak", [1.0, 30.0, 1000.0])
def test_one_large_number_costs_the_others_little(device: str, peak: float, rows: int) -> None:
    columns = 9728
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    x[:, 77] = peak * x.abs().amax(1)
    x = x.to(DTYPE).to(device)
    weight = to_format(matrix(16, columns).to(device), "int8")
    exact = x.double() @ weight.dequantized(torch.float32).double().T
    length = weight.dequantized(torch.float32).double().norm(dim=1) * x.double().norm(dim=1)[:, None]
    # Three times what numbers rounded to the step are off, which the module gives for a row; and the result's own rounding.
    most = 3 * 9e-4 / columns**0.5 * length + ROUNDED / 2 * exact.abs()
    assert ((multiplied(x, weight).double() - exact).abs() <= most).all()


def test_sums_of_whole_numbers_do_not_depend_on_how_they_are_shared_out(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import whole_products_triton

    weight = to_format(matrix(40, 1100).to(device), "int8")
    x = torch.randn(2, 1100, generator=torch.Generator().manual_seed(0)).to(DTYPE).to(device)
    usual = multiplied(x, weight)
    for plan in ((8, 256, 4, 0), (2, 1024, 2, 3)):
        monkeypatch.setattr(whole_products_triton, "plan_of", lambda *_, p=plan: whole_products_triton.Plan(*p))
        assert torch.equal(multiplied(x, weight), usual)
        assert torch.equal(multiplied(x[1:], weight), usual[1:])
    assert far(multiplied(x.repeat(4, 1), weight), usual.repeat(4, 1).double()) < 1e-3


@pytest.mark.parametrize("rows", [2, 3])
def test_zeros_stay_zeros_and_what_is_not_a_number_does_not_become_one(device: str, rows: int) -> None:
    weight = to_format(matrix(8, 320).to(device), "int8")
    norm = Norm(torch.ones(320, device=device, dtype=DTYPE), 1e-6)
    x = torch.zeros(rows, 320, device=device, dtype=DTYPE)
    for before in (norm, None):
        assert not multiplied(x, weight, before).any()
    x[-1, 5] = float("nan")
    for before in (norm, None):
        found = multiplied(x, weight, before)
        assert not found[:-1].any()
        assert found[-1].isnan().all()


@pytest.mark.gpu
def test_a_kernel_that_starts_early_waits_for_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip(GPU_REASON)
    from engine import products_triton, whole_products_triton
    from engine.whole_products_triton import Plan

    torch.manual_seed(0)
    weights = [to_format(torch.randn(512, 512, device="cuda") / 32, "int8") for _ in range(100)]
    norm = Norm(torch.ones(512, device="cuda", dtype=torch.bfloat16), 1e-6)
    for rows, plan in ((1, Plan(4, 512, 4)), (1, Plan(1, 256, 1, 1)), (2, Plan(2, 256, 1, 1)), (8, Plan(1, 1, 1))):
        monkeypatch.setattr(whole_products_triton, "plan_of", lambda *_, plan=plan: plan)
        x, last = torch.randn(rows, 512, device="cuda", dtype=torch.bfloat16), []
        for ahead in (0, 16):
            monkeypatch.setattr(products_triton, "ahead", ahead)
            for _ in range(20):
                out = x
                for weight in weights:
                    out = products_triton.few_rows(out, weight, norm, add=out)
                last.append(out)
        assert last[0].isfinite().all()
        assert all(torch.equal(last[0], out) for out in last)
