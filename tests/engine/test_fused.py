"""Blocks as products: the same numbers as the plain blocks, in kernels of few rows, with what attends in one call or in pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import fused
from engine.attention import FrameKV, causal
from engine.config import ModelConfig, StackConfig
from engine.fused import FusedSteps
from engine.model import DualAR, rotate
from engine.quantize import Norm, put, to_format
from engine.random_weights import SHAPES
from tests.conftest import GPU_REASON

pytestmark = pytest.mark.torch


class Halves:
    """Compiles nothing and notes which half of a block is run for how many rows."""

    def __init__(self) -> None:
        self.run: set[tuple[str, int]] = set()

    def __call__(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(x: Tensor, *others: Tensor) -> Tensor:
            self.run.add((function.__name__, len(x)))
            return function(x, *others)

        return noted


def config_of(biases: bool) -> ModelConfig:
    config = SHAPES["tiny"]().model
    if not biases:
        return config
    slow = replace(config.slow, qkv_bias=True, o_bias=True, qk_norm=False)
    return replace(config, slow=slow, fast=replace(config.fast, qk_norm=True), norm_fastlayer_input=False)


def models(config: ModelConfig, device: str) -> tuple[DualAR, DualAR, Halves]:
    """The same weights plain and with kernels."""
    torch.manual_seed(0)
    plain, halves = DualAR(config).requires_grad_(False), Halves()
    for parameter in plain.parameters():
        parameter.add_(torch.randn_like(parameter) / 8)  # also norms, which begin as ones
    kernels = DualAR(config).requires_grad_(False)
    kernels.load_state_dict(plain.state_dict())
    plain.to(device).prepare_serving(residual_entries=24)
    kernels.to(device).prepare_serving(residual_entries=24, fuse=halves, kernels=True)
    return plain, kernels, halves


@pytest.mark.parametrize(("biases", "in_kernels"), [(False, True), (True, True), (False, False)])
@torch.inference_mode()
def test_a_slow_step_in_kernels_is_that_of_the_blocks(
    device: str, biases: bool, in_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.products_triton import MOST_PLAIN_ROWS

    monkeypatch.setattr(fused, "MANY_ROWS_IN_KERNELS", in_kernels)
    plain, kernels, halves = models(config_of(biases), device)
    for batch, length in ((1, 1), (3, 1), (2, 5), (1, MOST_PLAIN_ROWS), (1, MOST_PLAIN_ROWS + 1)):
        x, positions = (
            torch.randn(batch, length, 64, device=device),
            torch.arange(length, device=device).expand(batch, -1),
        )
        one, other = plain.slow(x, positions, causal), kernels.slow(x, positions, causal)
        assert torch.allclose(one.fast, other.fast, rtol=1e-4, atol=1e-4)
        logits = kernels.head(other.head)
        assert logits.shape == (batch, length, 65)
        assert torch.allclose(plain.head(one.head), logits, rtol=1e-4, atol=1e-3)
    counts = {1, 3, 10, MOST_PLAIN_ROWS, MOST_PLAIN_ROWS + 1}
    many = {rows for rows in counts if rows > MOST_PLAIN_ROWS and not in_kernels}
    assert halves.run == {
        *(("turned", rows) for rows in counts - many),
        *((half, rows) for half in ("before", "after") for rows in many),
    }


@pytest.mark.parametrize("scaled", [False, True])
@torch.inference_mode()
def test_columns_in_one_kernel_are_embedded_as_in_many(device: str, scaled: bool) -> None:
    config = replace(config_of(False), scale_codebook_embeddings=scaled)
    plain, kernels, _ = models(config, device)
    columns = torch.randint(0, config.codebook_size, (3, 5, config.num_codebooks + 1), device=device)
    columns[..., 0] = torch.tensor(
        [0, config.semantic_begin, config.semantic_end, config.semantic_end + 1, config.im_end]
    )
    for matrix in (columns.transpose(1, 2), columns[:, 2, :, None]):  # prompts, and a step's columns
        wanted = plain.embed(matrix)
        assert kernels.embed(matrix).shape == wanted.shape
        assert torch.allclose(kernels.embed(matrix), wanted, atol=1e-6)


@pytest.mark.parametrize("biases", [False, True])
@torch.inference_mode()
def test_a_frame_in_kernels_is_that_of_the_blocks(device: str, biases: bool) -> None:
    plain, kernels, _ = models(config_of(biases), device)
    for rows in (1, 3, 12):  # whose first pass has 2, 6, 24
        hidden, begin = torch.randn(rows, 64, device=device), torch.arange(rows, device=device)
        seen: list[list[Tensor]] = [[], []]
        for model, logits in zip((plain, kernels), seen, strict=True):

            def draw(codebook: int, given: Tensor, logits: list[Tensor] = logits) -> Tensor:
                logits.append(given)
                return given.argmax(-1)

            kv = FrameKV(model.config.fast, rows, model.config.num_codebooks, model.device, model.dtype)
            model.fast_frame(hidden, begin, draw, kv)
        for one, other in zip(*seen, strict=True):
            assert one.shape == other.shape == (rows, 24)
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-3)


class InOneCall:
    """Attends to what comes from a projection."""

    def __init__(self, stack: StackConfig, positions: int) -> None:
        self._stack, self._positions = stack, positions
        self.layers: list[int] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise AssertionError("it can do more in one call")

    def turned(self, layer: int, qkv: Tensor, turn: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        self.layers.append(layer)
        stack = self._stack
        heads = qkv.view(len(qkv), -1, stack.head_dim)
        q, k, v = torch.split(heads, [stack.n_head, stack.n_kv_head, stack.n_kv_head], 1)
        qk = torch.cat((q, k), 1)
        if gain is not None:
            assert gain.shape == qk.shape[1:]
            qk = F.rms_norm(qk, (stack.head_dim,), None, eps) * gain
        cos, sin = turn.unsqueeze(2).unbind(1)
        q, k = rotate(qk, (cos, sin)).split([stack.n_head, stack.n_kv_head], 1)
        q, k, v = (part.unflatten(0, (-1, self._positions)) for part in (q, k, v))
        return causal(layer, q, k, v).flatten(0, 1).flatten(1)


@pytest.mark.parametrize("biases", [False, True])
@torch.inference_mode()
def test_who_can_attend_in_one_call_is_given_what_the_projection_gives(biases: bool) -> None:
    torch.manual_seed(0)
    config = config_of(biases)
    model = DualAR(config).requires_grad_(False)
    for index, block in enumerate(model.layers):
        names = [name for name, value in block.named_parameters() if value.dim() == 2]
        matrices = {f"{index}.{name}": to_format(block.get_parameter(name), "fp8") for name in names}
        put(block, str(index), matrices)  # type: ignore[arg-type]
        block.prepare_serving(packed=False)  # type: ignore[operator]
    assert_one_call_is_as_good(FusedSteps(list(model.layers), model.rope, Halves()), config)  # type: ignore[arg-type]


def assert_one_call_is_as_good(steps: FusedSteps, config: ModelConfig, device: str = "cpu") -> None:
    for batch, length in ((1, 1), (3, 8)):
        x, attend = torch.randn(batch, length, 64, device=device), InOneCall(config.slow, length)
        whole = steps.run(x, steps.turns[:length], attend)
        assert attend.layers == [0, 1]
        assert torch.allclose(steps.run(x, steps.turns[:length], causal), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("in_kernels", [False, True])
@pytest.mark.parametrize("biases", [False, True])
@torch.inference_mode()
def test_plain_blocks_with_kernels_let_it_attend_in_one_call(
    device: str, biases: bool, in_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "MANY_ROWS_IN_KERNELS", in_kernels)
    config = config_of(biases)
    _, kernels, halves = models(config, device)
    assert isinstance(kernels.slow_steps, FusedSteps)
    assert_one_call_is_as_good(kernels.slow_steps, config, device)
    many = [("turned", 24)] if in_kernels else [("into", 24), ("before", 24), ("after", 24)]
    assert halves.run == {("turned", 1), *many}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("width", [64, 1100])
@torch.inference_mode()
def test_a_product_of_many_rows_is_that_of_its_parts(device: str, dtype: torch.dtype, width: int) -> None:
    from engine.between_triton import many_rows

    torch.manual_seed(0)
    x, matrix = torch.randn(20, 64, dtype=dtype).to(device), (torch.randn(2 * width, 64, dtype=dtype) / 8).to(device)
    norm, add = Norm(torch.randn(64, dtype=dtype).to(device), 1e-6), torch.randn(20, 2 * width, dtype=dtype).to(device)
    normed = F.rms_norm(x.float(), (64,), None, norm.eps).to(dtype) * norm.weight
    gate, up = F.linear(normed, matrix).float().chunk(2, -1)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    close = partial(torch.allclose, rtol=tolerance, atol=tolerance)
    assert close(many_rows(x, matrix, norm, gated=True), (F.silu(gate) * up).to(dtype))
    assert close(many_rows(x, matrix, add=add), add + F.linear(x, matrix))


@torch.inference_mode()
def test_compiled_blocks_alone_attend_in_pieces() -> None:
    torch.manual_seed(0)
    config = config_of(False)
    model, halves = DualAR(config).requires_grad_(False), Halves()
    model.prepare_serving(fuse=halves)
    assert isinstance(model.slow_steps, FusedSteps)
    with pytest.raises(AssertionError, match="it can do more"):
        model.slow_steps.run(torch.randn(2, 1, 64), model.rope[:1], InOneCall(config.slow, 1))
    assert halves.run == {("before", 2)}


@pytest.mark.gpu
@torch.inference_mode()
def test_a_kernel_that_starts_early_waits_for_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip(GPU_REASON)
    from engine import products_triton
    from engine.products_triton import Plan

    torch.manual_seed(0)
    weights = [torch.randn(512, 512, device="cuda", dtype=torch.bfloat16) / 32 for _ in range(100)]
    plans = {"usual": products_triton.plan_of}
    for name, each, fetches in (("held", 0, 0), ("lasting", 1, 2)):
        plans[name] = lambda count, *_, each=each, fetches=fetches: Plan(count, 1, 256, 1, 0, each, fetches)
    for rows, plan in ((1, "usual"), (5, "usual"), (1, "held"), (2, "lasting")):
        monkeypatch.setattr(products_triton, "plan_of", plans[plan])
        x, last = torch.randn(rows, 512, device="cuda", dtype=torch.bfloat16), []
        for ahead in (0, 16):
            monkeypatch.setattr(products_triton, "ahead", ahead)
            for _ in range(20):
                out = x
                for weight in weights:
                    out = products_triton.few_rows(out, weight, Norm(weight[0], 1e-6), add=out)
                last.append(out)
        assert last[0].isfinite().all()
        assert all(torch.equal(last[0], out) for out in last)
