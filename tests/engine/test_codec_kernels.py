"""The codec's frame in kernels gives what the codec's own step gives, whoever shares a call, and leaves the same behind."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import codec_plans
from engine.codec import Codec
from engine.config import CodecConfig, CodecTransformerConfig
from engine.streaming import StreamingCodec
from tests.engine.conftest import INTERPRETED
from tests.engine.test_streaming import codes_of, lively, small_config

pytestmark = pytest.mark.torch

ROWS = 4
# Decibels between the two for each type of factors. With a GPU, where float32 factors would be cut to TF32; or, much slower, with
# TRITON_INTERPRET=1 and the package triton.
CLOSE = {torch.float16: 50.0, torch.float32: 100.0}
# A convolution that remembers more than a frame and two blocks; three lots of columns in a tile.
SIZES = {"two blocks": (64, (8, 2)), "three lots": (96, (8,))}


def codec_of(decoder: int, rates: tuple[int, ...]) -> Codec:
    """As narrow as tiles allow; a window that wraps soon."""
    transformer = CodecTransformerConfig(dim=32, n_layer=2, n_head=2, head_dim=16, ffn_dim=48, window=4, input_dim=32)
    config = CodecConfig(
        sample_rate=8000,
        encoder_dim=4,
        encoder_rates=rates,
        encoder_transformer_layers=(0,) * len(rates),
        encoder_transformer=transformer,
        decoder_dim=decoder,
        decoder_rates=rates,
        latent_dim=32,
        residual_codebooks=2,
        codebook_size=16,
        semantic_codebook_size=32,
        codebook_dim=4,
        downsample=(2, 2),
        pre_module=transformer,
        post_module=transformer,
    )
    return lively(config)


def decibels(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    error = (found.double() - wanted.double()).square().mean()
    return float(10 * torch.log10(wanted.double().square().mean() / error))


@pytest.mark.parametrize(
    ("size", "kind"),
    [("two blocks", torch.float32 if INTERPRETED else torch.float16), ("three lots", torch.float16)],
)
def test_rows_that_come_and_go_sound_as_by_themselves(size: str, kind: torch.dtype, device: str) -> None:
    from engine.codec_kernels import KernelDecoder, fits

    codec = codec_of(*SIZES[size]).to(device)
    plain, other = (StreamingCodec(codec, ROWS + 1) for _ in range(2))
    assert fits(other)
    kernels = KernelDecoder(other, kind)
    # Row 3 ends after two frames and starts over; what is nobody's (row 4) fills a call up, as often as it takes.
    for number, rows in enumerate([[0, 3], [2, 3, 0], [0], [3, 2, 0]]):
        if number == 2:
            plain.reset(3)
            other.reset(3)
        codes = torch.stack([codes_of(codec, 1, seed=10 * number + row) for row in rows])
        codes[0, 0, 0] = 10_000  # counts as the last entry
        wanted = plain.step(codes.to(device), torch.tensor(rows, device=device))
        spare = torch.zeros(4 - len(rows), *codes.shape[1:], dtype=torch.int64)
        padded = torch.tensor([*rows, *[ROWS] * len(spare)], device=device)
        found = kernels.step(torch.cat([codes, spare]).to(device), padded)
        assert decibels(found[: len(rows)], wanted) > CLOSE[kind]
        assert bool(found.isfinite().all())
    assert other.states.frames[:ROWS].tolist() == plain.states.frames[:ROWS].tolist()
    for mine, theirs in zip(other.states.tensors, plain.states.tensors, strict=True):
        assert decibels(mine[:ROWS], theirs[:ROWS]) > CLOSE[kind]
    # What one leaves behind the other goes on from.
    codes = torch.stack([codes_of(codec, 1, seed=row) for row in range(2)]).to(device)
    index = torch.arange(2, device=device)
    assert decibels(other.step(codes, index), plain.step(codes, index)) > CLOSE[kind]


def test_frames_of_a_call_sound_as_one_after_the_other(device: str) -> None:
    """More of them than the window of attention has positions, and fewer; rows that are at different ones; with both halves at once."""
    from engine.codec_kernels import KernelDecoder

    kind = torch.float32 if INTERPRETED else torch.float16
    codec = codec_of(*SIZES["two blocks"]).to(device)
    plain, other = (StreamingCodec(codec, 2) for _ in range(2))
    kernels = KernelDecoder(other, kind)
    for frames, rows in [(2, [1]), (4, [0, 1]), (8, [1])]:
        codes = torch.stack([codes_of(codec, frames, seed=10 * frames + row) for row in rows]).to(device)
        index = torch.tensor(rows, device=device)
        assert decibels(kernels.step(codes, index), plain.step(codes, index)) > CLOSE[kind]
    assert other.states.frames.tolist() == plain.states.frames.tolist() == [4, 14]
    for mine, theirs in zip(other.states.tensors, plain.states.tensors, strict=True):
        assert decibels(mine, theirs) > CLOSE[kind]


class Watched:
    """Addresses that the interpreter reads and writes for a launch: an IndexError for one outside of its tensors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from triton.runtime import interpreter

        self.seen = 0
        self._edges = np.zeros(0, np.uint64)  # where a tensor begins, and one ends, and so on
        builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
        load, store, begin = builder.create_masked_load, builder.create_masked_store, executor._init_args_hst

        def loaded(own: Any, at: Any, mask: Any, *rest: Any) -> Any:
            self._look(at, mask)
            return load(own, at, mask, *rest)

        def stored(own: Any, at: Any, value: Any, mask: Any, *rest: Any) -> Any:
            self._look(at, mask)
            return store(own, at, value, mask, *rest)

        def begun(own: Any, given: Sequence[Any], named: dict[str, Any]) -> Any:
            storages = [value.untyped_storage() for value in given if isinstance(value, Tensor)]
            spans = {(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages}
            self._edges = np.array(list(itertools.chain(*sorted(spans))), np.uint64)
            return begin(own, given, named)

        monkeypatch.setattr(builder, "create_masked_load", loaded)
        monkeypatch.setattr(builder, "create_masked_store", stored)
        monkeypatch.setattr(executor, "_init_args_hst", begun)

    def _look(self, at: Any, mask: Any) -> None:
        addresses = at.data[np.broadcast_to(mask.data, at.data.shape).astype(bool)]
        last = addresses + np.uint64(at.get_element_ty().primitive_bitwidth // 8 - 1)
        self.seen += len(addresses)
        spans = np.searchsorted(self._edges, addresses, "right")
        if (spans % 2 == 0).any() or (spans != np.searchsorted(self._edges, last, "right")).any():
            raise IndexError("an address that is in no tensor of the launch")


if INTERPRETED:  # it alone sees every address

    @pytest.mark.parametrize("like", [1, 64, 256])
    def test_every_address_lies_in_a_tensor_of_the_launch(like: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """All rows, in any order, with the tiles of as many rows as `like`."""
        from triton.runtime.errors import InterpreterError

        from engine import codec_kernels

        codec = codec_of(*SIZES["three lots"])
        streaming = StreamingCodec(codec, 3)
        kernels = codec_kernels.KernelDecoder(streaming)
        monkeypatch.setattr(codec_kernels, "batch_like", lambda batch: like)
        watched = Watched(monkeypatch)
        for rows, frames in (([2, 0, 1], 1), ([1], 1), ([1], 2)):
            kernels.step(torch.stack([codes_of(codec, frames, seed=row) for row in rows]), torch.tensor(rows))
        assert watched.seen > 100_000
        with pytest.raises(InterpreterError, match="in no tensor"):
            kernels.step(codes_of(codec, 1, seed=0)[None], torch.tensor([3]))


def test_a_plan_measured_for_a_product_of_the_same_shape_is_left_where_it_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a gate and what it lets through a tile has two lots; a third lies beyond the matrix."""
    shape = (16, 96, 48, 1)
    measured = next(plan for plan in codec_plans.plans(16, 96, 48, gated=False) if plan.parts == 3)
    monkeypatch.setattr(codec_plans, "PLANS", {shape: measured})
    codec_plans.plan_of.cache_clear()
    try:
        assert codec_plans.plan_of(*shape) == measured
        assert codec_plans.plan_of(*shape, gated=True).parts == 2
    finally:
        codec_plans.plan_of.cache_clear()


def test_widths_that_no_tile_divides_are_left_to_the_plain_way(device: str) -> None:
    from engine.codec_kernels import fits

    assert not fits(StreamingCodec(lively(small_config()), 1))
