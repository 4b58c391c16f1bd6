"""Matrices in 8 or 4 bits: how far from the exact ones, what takes their place in a model, and that few rows are multiplied as many are."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import checkpoint, quantize
from engine.api import Conversation, EngineLimits, SamplingParams
from engine.attention import causal
from engine.checkpoint import CheckpointError, load_dual_ar, save_dual_ar
from engine.fused import FusedSteps
from engine.load import Loaded, core_of, load_model
from engine.model import DualAR, Steps
from engine.quantize import FORMATS, Norm, Quantized, QuantizeError, joined, nf4_levels, product, to_format
from engine.random_weights import RandomWeights, write_folder
from tests.conftest import GPU_REASON
from tests.engine.conftest import INTERPRETED
from tests.engine.core_driver import Driver, Heard, assert_nothing_leaked

pytestmark = pytest.mark.torch

LEVELS = (-1.0, -0.696, -0.525, -0.395, -0.284, -0.185, -0.091, 0, 0.080, 0.161, 0.246, 0.338, 0.441, 0.563, 0.723, 1.0)


def matrix(rows: int, columns: int) -> Tensor:
    """Rows of very different sizes."""
    noise = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    return noise * torch.logspace(-3, 1, rows)[:, None]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_folder("tiny", folder)
    return folder


@pytest.fixture(scope="module")
def stored(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a checkpoint, in 8 bits."""
    folder = tmp_path_factory.mktemp("stored")
    model = load_dual_ar(tiny)
    save_dual_ar(model, model.config, folder, int8=True)
    return folder


# -- formats


def test_levels_of_four_bits_are_quantiles_of_a_normal_distribution() -> None:
    assert torch.allclose(nf4_levels(torch.device("cpu")), torch.tensor(LEVELS), atol=2e-3)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize(("format", "most"), [("int8", 0.502 / 127), ("fp8", 0.04), ("nf4", 0.16)])
def test_rounding_stays_within_half_a_step(format: str, most: float) -> None:
    weight = matrix(48, 128)
    found = to_format(weight, format).dequantized(torch.float32)
    largest = weight.abs().amax(1, keepdim=True)
    if format == "nf4":
        largest = weight.view(48, 2, 64).abs().amax(2).repeat_interleave(64, 1)
    assert ((found - weight).abs() <= most * largest).all()
    assert (found - weight).norm() > 0.001 * weight.norm()


def test_eight_floating_bits_are_as_near_to_small_numbers_as_to_large_ones() -> None:
    weight = torch.tensor([[1.0, 0.3, 0.1, 0.03, -0.01, 0.0]])
    found = to_format(weight, "fp8").dequantized(torch.float32)
    assert ((found - weight).abs() <= 2**-4 * weight.abs() + 2**-9 / 448).all()


@pytest.mark.parametrize("format", FORMATS)
def test_rows_of_zeros_stay_zeros(format: str) -> None:
    assert not to_format(torch.zeros(3, 64), format).dequantized(torch.float32).any()


@pytest.mark.parametrize("format", FORMATS)
def test_every_dtype_sees_the_same_numbers(format: str) -> None:
    small = to_format(matrix(48, 128), format)
    exact = small.dequantized(torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(small.dequantized(dtype), exact.to(dtype))


@pytest.mark.parametrize(("format", "bits"), [("int8", 8 + 16 / 128), ("fp8", 8 + 16 / 128), ("nf4", 4.25)])
def test_a_matrix_takes_the_room_that_it_is_said_to_take(format: str, bits: float) -> None:
    small = to_format(matrix(48, 128), format)
    assert small.shape == (48, 128)
    assert small.nbytes == 48 * 128 * bits / 8


@pytest.mark.parametrize("format", FORMATS)
def test_parts_of_a_matrix_may_be_rounded_one_by_one(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = matrix(50, 64)
    whole = to_format(weight, format)
    monkeypatch.setattr(quantize, "_CHUNK_ROWS", 7)
    for other in (to_format(weight, format), joined([to_format(part, format) for part in torch.split(weight, 20)])):
        assert torch.equal(other.dequantized(torch.float32), whole.dequantized(torch.float32))


# The interpreter cuts off what bfloat16 has no room for, where a GPU rounds.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, *([] if INTERPRETED else [torch.bfloat16])])
@pytest.mark.parametrize("format", FORMATS)
def test_a_gpu_unpacks_a_matrix_to_the_bits_that_it_stands_for(format: str, dtype: torch.dtype, device: str) -> None:
    from engine.between_triton import unpacked

    small = to_format(matrix(50, 1088).to(device), format)
    assert torch.equal(unpacked(small, dtype), small.dequantized(dtype))


# -- products


CASES = [
    (1, False, False, False),
    (2, True, True, True),
    (3, True, True, False),
    (5, True, False, True),
    (40, False, True, True),
]


def case(rows: int, norm: bool, gated: bool, add: bool, weight: Quantized | Tensor, dtype: torch.dtype, device: str):  # type: ignore[no-untyped-def]
    """Arguments of a product, and its result in float64."""
    outputs, columns = weight.shape
    noise = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, columns, generator=noise).to(device, dtype)
    before = Norm(torch.linspace(0.5, 1.5, columns, device=device).to(dtype), 1e-6) if norm else None
    result = outputs // 2 if gated else outputs
    added = torch.randn(rows, result, generator=noise).to(device, dtype) if add else None
    exact = x.double()
    if before is not None:
        exact = F.rms_norm(exact, (columns,), before.weight.double(), before.eps)
    whole = weight if isinstance(weight, Tensor) else weight.dequantized(torch.float32)
    exact = exact @ whole.double().T
    if gated:
        exact = F.silu(exact[:, :result]) * exact[:, result:]
    return (x, weight, before, gated, added), exact if added is None else exact + added.double()


def far(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("rows", "norm", "gated", "add"), CASES)
def test_products_are_those_of_the_rounded_matrix(rows: int, norm: bool, gated: bool, add: bool, format: str) -> None:
    weight = to_format(matrix(72, 128), format)
    given, exact = case(rows, norm, gated, add, weight, torch.float32, "cpu")
    found = product(*given)
    assert found.dtype == torch.float32
    assert found.shape == exact.shape
    assert far(found, exact) < (1e-2 if format == "int8" and rows <= 16 else 1e-5)  # a CPU rounds few rows to bfloat16


# -- models


def dequantized_model(folder: Path, format: str) -> DualAR:
    """A plain model with the numbers of a quantised one."""
    model = load_dual_ar(folder)
    for name, value in model.state_dict().items():
        if quantize.is_quantized(name):
            value.copy_(to_format(value, format).dequantized(torch.float32))
    model.prepare_serving()
    return model


def quantized_model(folder: Path, format: str, fuse=None) -> DualAR:  # type: ignore[no-untyped-def]
    model = load_dual_ar(folder, quantize=format)
    model.prepare_serving(fuse=fuse)
    return model


def uncompiled(function):  # type: ignore[no-untyped-def]
    return function


def traced(function):  # type: ignore[no-untyped-def]
    return torch.compile(function, fullgraph=True, dynamic=True, backend="eager")


@pytest.mark.parametrize("fuse", [None, uncompiled, traced], ids=["plain", "as written", "traced"])
@pytest.mark.parametrize("format", FORMATS)
@torch.inference_mode()
def test_a_quantised_model_computes_with_the_rounded_matrices(tiny: Path, format: str, fuse) -> None:  # type: ignore[no-untyped-def]
    plain, small = dequantized_model(tiny, format), quantized_model(tiny, format, fuse)
    assert isinstance(small.slow_steps, FusedSteps) == (fuse is not None)
    torch.manual_seed(0)
    for rows, length in ((1, 1), (3, 1), (2, 20)):
        x, positions = torch.randn(rows, length, 64), torch.arange(length).expand(rows, -1)
        one, other = (model.slow(x, positions, causal).head for model in (plain, small))
        assert far(other, one.double()) < (2e-2 if format == "int8" else 1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_only_the_slow_stacks_matrices_are_rounded(tiny: Path, format: str) -> None:
    plain, small = load_dual_ar(tiny).state_dict(), load_dual_ar(tiny, quantize=format).state_dict()
    assert all(torch.equal(small[name], plain[name]) for name in small)
    gone = plain.keys() - small.keys()
    assert gone == {name for name in plain if name.startswith("layers.") and plain[name].dim() == 2}
    assert len(gone) == 2 * 5


@pytest.mark.parametrize("format", FORMATS)
def test_no_more_than_one_matrix_is_there_at_full_size(
    tiny: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Tensor]] = []
    tensors, most = RandomWeights.tensors, 0

    def watched(*args) -> Iterator[tuple[str, Tensor]]:  # type: ignore[no-untyped-def]
        nonlocal most
        for name, tensor in tensors(*args):
            if quantize.is_quantized(name):
                alive.append(weakref.ref(tensor))
            yield name, tensor
            del tensor
            most = max(most, sum(it() is not None for it in alive))

    monkeypatch.setattr(RandomWeights, "tensors", watched)
    load_dual_ar(tiny, quantize=format)
    assert len(alive) == 2 * 5
    assert most <= 1


@pytest.mark.parametrize("format", FORMATS)
def test_no_more_than_one_block_is_there_twice_while_two_matrices_become_one(
    tiny: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def watched(parts: list[Quantized]) -> Quantized:
        halves.extend(weakref.ref(part.rows) for part in parts if len(parts) == 2)
        alive.append(sum(it() is not None for it in halves))
        return joined(parts)

    monkeypatch.setattr(quantize, "joined", watched)
    load_dual_ar(tiny, quantize=format)
    assert len(halves) == 2 * 2
    assert max(alive) == 2
    assert not any(it() is not None for it in halves)


def test_what_is_stored_in_8_bits_is_taken_as_it_is(stored: Path) -> None:
    small, name = load_dual_ar(stored, dtype=torch.bfloat16, quantize="int8"), "layers.1.attention.wo.weight"
    raw = dict(checkpoint._safetensors(stored / "model.safetensors"))
    matrix = small.layers[1].attention.wo.matrix
    assert torch.equal(matrix.rows, raw[f"text_model.model.{name}"])
    assert torch.equal(matrix.scale, raw[f"text_model.model.{name}.scale"])


@pytest.mark.parametrize("format", ["fp8", "nf4"])
def test_what_is_stored_in_8_bits_is_rounded_again_for_other_formats(stored: Path, format: str) -> None:
    one, other = dequantized_model(stored, format), quantized_model(stored, format)
    assert torch.equal(other.layers[0].feed_forward.both.dequantized(torch.float32), one.layers[0].feed_forward.matrix)


def test_a_matrix_without_its_scale_is_named(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored_tensors = dict(checkpoint._safetensors(stored / "model.safetensors"))
    del stored_tensors["text_model.model.layers.0.attention.wo.weight.scale"]
    monkeypatch.setattr(checkpoint, "_safetensors", lambda path: iter(stored_tensors.items()))
    for format in FORMATS:
        with pytest.raises(CheckpointError, match=r"layers\.0\.attention\.wo\.weight is int8"):
            load_dual_ar(stored, quantize=format)


def test_a_matrix_of_another_shape_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = RandomWeights.tensors

    def cut(*args) -> Iterator[tuple[str, Tensor]]:  # type: ignore[no-untyped-def]
        for name, tensor in tensors(*args):
            yield name, tensor[:-1] if name == "layers.1.feed_forward.w2.weight" else tensor

    monkeypatch.setattr(RandomWeights, "tensors", cut)
    with pytest.raises(CheckpointError) as raised:
        load_dual_ar(tiny, quantize="nf4")
    assert raised.value.misshapen == [("layers.1.feed_forward.w2.weight", (64, 128), (63, 128))]


def test_a_quantised_model_is_not_written(tiny: Path, tmp_path: Path) -> None:
    model = load_dual_ar(tiny, quantize="nf4")
    with pytest.raises(AssertionError, match="no checkpoint any more"):
        save_dual_ar(model, model.config, tmp_path)


# -- serving


def spoken(loaded: Loaded, graphs: bool = False) -> list[Heard]:
    core = core_of(loaded, EngineLimits(max_streams=2, kv_positions=1024), guarded=False, graphs=graphs)
    driver, params = Driver(core), SamplingParams(seed=3, max_frames=8)
    heard = [driver.open(Conversation(f"{n}"), "Hello. " * (n + 1), frames=8, params=params) for n in range(2)]
    driver.run()
    assert_nothing_leaked(core)
    return heard


@pytest.mark.parametrize("format", FORMATS)
def test_a_core_speaks_with_quantised_weights_captured_or_not(tiny: Path, format: str) -> None:
    loaded = load_model(tiny, "tiny", "cpu", "float32", None, quantize=format)
    assert loaded.info.dtype == f"float32, slow stack {format}"
    plain, fixed = spoken(loaded), spoken(loaded, graphs=True)
    assert all(len(heard.frames) > 0 for heard in plain)
    assert all((one.codes == other.codes).all() for one, other in zip(plain, fixed, strict=True))


def test_8_bits_of_weights_stored_in_8_bits_are_what_a_cpu_serves_anyway(s2pro: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(s2pro, folder)
    model = load_dual_ar(folder)
    for part in folder.glob("model*"):
        part.unlink()
    save_dual_ar(model, model.config, folder, int8=True)
    loaded = [load_model(folder, "tiny", "cpu", "float32", None, quantize=format) for format in (None, "int8")]
    assert all(isinstance(one.model.slow_steps, Steps) for one in loaded)
    for one, other in zip(*(spoken(one) for one in loaded), strict=True):
        assert (one.codes == other.codes).all()
        assert (one.samples == other.samples).all()


# -- refusals


def refused(format: str, device: str = "cpu") -> str:
    with pytest.raises(QuantizeError) as raised:
        quantize.check(format, torch.device(device))
    return str(raised.value)


def test_a_format_that_does_not_exist_is_named(tiny: Path) -> None:
    assert refused("int4") == "quantize 'int4' is not one of int8, fp8, nf4"
    with pytest.raises(ValueError, match="'int4' is not one of"):
        load_model(tiny, "tiny", "cpu", "float32", None, quantize="int4")


def test_fp8_is_refused_where_the_gpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A10G")
    assert "NVIDIA A10G has 8.6: int8 takes as little memory" in refused("fp8", "cuda")
    quantize.check("int8", torch.device("cuda"))
    quantize.check("nf4", torch.device("cuda"))


def test_a_gpu_without_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    assert "need Triton" in refused("int8", "cuda")


def test_blocks_that_do_not_fit_a_model_are_refused() -> None:
    with pytest.raises(QuantizeError, match="blocks of 64, and this model has matrices with 96 columns"):
        to_format(torch.zeros(4, 96), "nf4")


# -- kernels: with a GPU; or, much slower, with TRITON_INTERPRET=1 and the package triton


# The interpreter multiplies the bits of bfloat16 as if they were integers.
# Of float32: half a unit in the last place, 6e-8, times the root of the 1100 summands; a GPU adds them one after the other, numpy in pairs.
EXACT = [(torch.float32, 2e-6), (torch.float16, 1e-3) if INTERPRETED else (torch.bfloat16, 6e-3)]


@pytest.mark.parametrize(("dtype", "most"), EXACT, ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_kernels_multiply_as_the_plain_path(device: str, format: str, dtype: torch.dtype, most: float) -> None:
    from engine.products_triton import few_rows

    for shape in ((72, 320), (24, 576)):
        weight = to_format(matrix(*shape).to(device), format)
        for rows, norm, gated, add in (*CASES, (1, True, True, True), (17, True, True, True)):
            given, exact = case(rows, norm, gated, add, weight, dtype, device)
            found = few_rows(*given)
            assert found.dtype == dtype
            assert found.shape == exact.shape
            assert far(found, exact) < most


@pytest.mark.parametrize(("dtype", "most"), EXACT, ids=str)
def test_kernels_multiply_by_plain_matrices(device: str, dtype: torch.dtype, most: float) -> None:
    from engine.products_triton import few_rows

    for shape in ((72, 320), (24, 1100)):
        weight = matrix(*shape).to(device, dtype)
        for rows, norm, gated, add in (*CASES, (1, True, True, True), (17, True, True, True)):
            given, exact = case(rows, norm, gated, add, weight, dtype, device)
            found = few_rows(*given)
            assert found.dtype == dtype
            assert found.shape == exact.shape
            assert far(found, exact) < most


@pytest.mark.parametrize(("each", "fetches"), [(0, 0), (0, 2), (1, 1), (3, 0)])
@pytest.mark.parametrize("format", [None, "int8"])
def test_programs_that_hold_their_rows_multiply_as_the_plain_path(
    device: str, format: str | None, each: int, fetches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import products_triton
    from engine.products_triton import Plan, few_rows

    for block_n, block_k in ((1, 256), (4, 128)):
        monkeypatch.setattr(
            products_triton, "plan_of", lambda n, *_, b=(block_n, block_k): Plan(n, *b, 4, 0, each, fetches)
        )
        for shape in ((70, 320), (24, 1100)):
            exact_weight = matrix(*shape).to(device)
            weight = exact_weight if format is None else to_format(exact_weight, format)
            for rows, norm, gated, add in ((1, False, False, True), (1, True, True, False), (2, True, False, True)):
                given, exact = case(rows, norm, gated, add, weight, torch.float32, device)
                assert far(few_rows(*given), exact) < 2e-6


def test_a_rows_result_does_not_depend_on_the_rows_beside_it(device: str) -> None:
    from engine.products_triton import few_rows

    weight = to_format(matrix(64, 320).to(device), "int8")
    x = torch.randn(20, 320, generator=torch.Generator().manual_seed(0)).to(device)
    together = few_rows(x, weight, None, False, None)
    assert torch.equal(few_rows(x[:7], weight, None, False, None), together[:7])
    assert torch.allclose(few_rows(x[3:4], weight, None, False, None), together[3:4], rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("format", FORMATS)
def test_captured_steps_of_a_quantised_model_say_what_the_others_say(tiny: Path, format: str) -> None:
    if format == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip(GPU_REASON)
    loaded = load_model(tiny, "tiny", "cuda", "float32", None, fused=True, quantize=format)
    plain, captured = spoken(loaded), spoken(loaded, graphs=True)
    assert all(len(heard.frames) > 0 for heard in plain)
    assert all((one.codes == other.codes).all() for one, other in zip(plain, captured, strict=True))
