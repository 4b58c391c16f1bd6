"""The streaming codec gives the offline codec's numbers, however streams are cut up and mixed."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.codec import CausalConv, Codec, ConvNextBlock, LayerScale, Snake
from engine.codec_weights import load_codec
from engine.config import CodecConfig, CodecTransformerConfig
from engine.streaming import CHUNK_FRAMES, StreamingCodec, StreamingEncoder
from engine.streaming_layers import WideProduct, child
from engine.traced import can_trace

pytestmark = pytest.mark.torch
FIXTURE = Path(__file__).parent.parent / "fixtures" / "s2pro"
ROWS = 4
TOLERANCE = 1e-5

Arrays = dict[str, npt.NDArray[np.generic]]


def lively(config: CodecConfig) -> Codec:
    """A random codec in which every branch matters: scales of residual branches are raised, alphas vary in size and sign."""
    torch.manual_seed(11)
    codec = Codec(config).eval().requires_grad_(False)
    for module in codec.modules():
        if isinstance(module, LayerScale | ConvNextBlock):
            module.gamma.uniform_(-0.5, 0.5)
        if isinstance(module, Snake):
            module.alpha.uniform_(-2, 2)
            module.alpha[0, 0] = 0  # the formula allows it
        if isinstance(module, torch.nn.RMSNorm | torch.nn.LayerNorm):
            module.weight.uniform_(0.5, 1.5)
    child(codec.decoder.model, len(config.decoder_rates) + 2, CausalConv).conv.weight.mul_(5)
    return codec


def transformer(dim: int, window: int, channels: int) -> CodecTransformerConfig:
    return CodecTransformerConfig(
        dim=dim, n_layer=2, n_head=2, head_dim=6, ffn_dim=20, window=window, input_dim=channels
    )


def small_config() -> CodecConfig:
    """Attention windows that wrap soon, transformers of another width than the latents, uneven strides."""
    return CodecConfig(
        sample_rate=8000,
        encoder_dim=4,
        encoder_rates=(2, 6),
        encoder_transformer_layers=(0, 1),
        encoder_transformer=transformer(12, 7, 16),
        decoder_dim=16,
        decoder_rates=(3, 4),
        latent_dim=12,
        residual_codebooks=2,
        codebook_size=16,
        semantic_codebook_size=32,
        codebook_dim=4,
        downsample=(2, 3),
        pre_module=transformer(12, 4, 12),
        post_module=transformer(10, 4, 12),
    )


def odd_config() -> CodecConfig:
    """No even stride anywhere, one decoder block, one downsampling, no transformer in the encoder, a window of one."""
    return replace(
        small_config(),
        encoder_rates=(3,),
        encoder_transformer_layers=(0,),
        decoder_rates=(3,),
        downsample=(3,),
        post_module=transformer(12, 1, 12),
    )


@cache
def codec_named(name: str) -> Codec:
    """The reference fixture, or one of the configurations above."""
    if name == "fixture":
        return load_codec(FIXTURE, "cpu")
    return lively({"small": small_config, "odd": odd_config}[name]())


@cache
def streaming_named(name: str) -> StreamingCodec:
    """Shared by the tests: `fresh` resets it."""
    return StreamingCodec(codec_named(name), ROWS)


@cache
def reference_encoder() -> StreamingEncoder:
    """Shared by the examples of a property; every use ends with `finish`."""
    return StreamingEncoder(codec_named("fixture"), 2)


every_codec = pytest.mark.parametrize("name", ["fixture", "small", "odd"])


def codes_of(codec: Codec, frames: int, seed: int) -> Tensor:
    """Random codes [K, frames]."""
    sizes = [stage.codebook.num_embeddings for stage in codec.quantizer.stages()]
    random = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, size, (frames,), generator=random) for size in sizes])


def offline(codec: Codec, codes: Tensor) -> Tensor:
    """Samples of codes [K, T], all at once."""
    return codec.decode(codes[None])[0]


def fresh(name: str) -> StreamingCodec:
    """The codec's stream object, its rows reset."""
    streaming = streaming_named(name)
    for row in range(ROWS):
        streaming.reset(row)
    return streaming


def assert_close(got: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)


@every_codec
@given(cuts=st.lists(st.integers(1, CHUNK_FRAMES + 3), min_size=1, max_size=6), row=st.integers(0, ROWS - 1))
@settings(max_examples=10, deadline=None)
def test_any_cutting_into_calls_gives_the_offline_wave(name: str, cuts: list[int], row: int) -> None:
    codec, streaming = codec_named(name), fresh(name)
    codes = codes_of(codec, sum(cuts), seed=len(cuts))
    wave = torch.cat([streaming.step(part[None], [row])[0] for part in torch.split(codes, cuts, dim=1)])
    assert_close(wave, offline(codec, codes))


# An event of a schedule: these rows advance by so many frames, or this row starts over.
Event = tuple[list[int], int] | int
schedules = st.lists(
    st.one_of(
        st.tuples(
            st.permutations(range(ROWS)).flatmap(lambda p: st.integers(1, ROWS).map(lambda n: p[:n])), st.integers(1, 5)
        ),
        st.integers(0, ROWS - 1),
    ),
    min_size=1,
    max_size=12,
)


@every_codec
@pytest.mark.parametrize("as_tensor", [False, True], ids=["list", "tensor"])
@given(schedule=schedules)
@settings(max_examples=10, deadline=None)
def test_rows_join_leave_and_restart_without_touching_each_other(
    name: str, as_tensor: bool, schedule: list[Event]
) -> None:
    codec, streaming = codec_named(name), fresh(name)
    played: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(ROWS)]  # (codes, samples) since the row's reset
    for number, event in enumerate(schedule):
        if isinstance(event, int):
            streaming.reset(event)
            played[event].clear()
            continue
        rows, frames = event
        codes = torch.stack([codes_of(codec, frames, seed=100 * number + row) for row in rows])
        for row, sent, wave in zip(
            rows, codes, streaming.step(codes, torch.tensor(rows) if as_tensor else rows), strict=True
        ):
            played[row].append((sent, wave))
    for parts in filter(None, played):
        codes, wave = (torch.cat(piece, dim=-1) for piece in zip(*parts, strict=True))
        assert_close(wave, offline(codec, codes))


def test_a_reference_wave_comes_out_frame_by_frame(expected: Arrays) -> None:
    streaming = fresh("fixture")
    codes = torch.tensor(expected["codec_dec_codes"])
    wave = torch.cat([streaming.step(frame[None], [2])[0] for frame in torch.split(codes, 1, dim=1)])
    assert_close(wave, torch.tensor(expected["codec_dec_wave"]), tolerance=5e-5)


@every_codec
def test_one_row_alone_and_among_others_gives_the_same_wave(name: str) -> None:
    codec, streaming = codec_named(name), fresh(name)
    codes = torch.stack([codes_of(codec, 12, seed) for seed in range(ROWS)])
    together = streaming.step(codes, range(ROWS))
    for row in range(ROWS):
        streaming.reset(0)
        assert_close(streaming.step(codes[row][None], [0])[0], together[row], tolerance=2e-6)


@pytest.mark.parametrize("rows", [[0, 1], [1, 3], [3, 1]], ids=str)
def test_a_row_of_garbage_does_not_reach_its_neighbours(rows: list[int]) -> None:
    """NaN in one row's state stays there, and a reset removes it."""
    codec, streaming = codec_named("small"), fresh("small")
    for state in state_tensors(streaming):
        if state.is_floating_point():
            state[rows[0]] = torch.nan
    codes = torch.stack([codes_of(codec, 9, seed) for seed in (1, 2)])
    poisoned, clean = streaming.step(codes, rows)
    assert poisoned.isnan().any()
    assert_close(clean, offline(codec, codes[1]))
    streaming.reset(rows[0])
    assert_close(streaming.step(codes[:1], rows[:1])[0], offline(codec, codes[0]))


@pytest.mark.skipif(not can_trace(), reason="TorchScript ends with Python 3.13")
@every_codec
def test_a_graph_for_one_frame_of_one_row_gives_the_same_bits_beside_other_calls(name: str) -> None:
    codec = codec_named(name)
    plain, solo = (StreamingCodec(codec, 3, solo=solo) for solo in (False, True))
    calls: list[tuple[int, list[int]]] = [(1, [2]), (1, [2]), (3, [0, 2]), (1, [0]), (1, [1, 2]), (1, [0]), (1, [2])]
    for repeat in range(3):
        for number, (frames, rows) in enumerate(calls):
            codes = torch.stack([codes_of(codec, frames, 100 * repeat + 10 * number + row) for row in rows])
            assert torch.equal(plain.step(codes, rows), solo.step(codes, rows))
        for streaming in (plain, solo):
            streaming.reset(repeat)
    assert all(torch.equal(*pair) for pair in zip(state_tensors(plain), state_tensors(solo), strict=True))
    with pytest.raises(ValueError, match="distinct"):
        solo.step(codes_of(codec, 1, 0)[None], [-1])


def state_tensors(streaming: StreamingCodec) -> list[Tensor]:
    """Every tensor that rows remember something in."""
    states = streaming._states
    return [states._history, states._frames, *states._rings]


def test_state_stays_where_and_as_large_as_it_was_allocated() -> None:
    codec, streaming = codec_named("small"), fresh("small")
    before = [(state.data_ptr(), state.shape) for state in state_tensors(streaming)]
    size = streaming.state_bytes()
    for seed in range(100):
        streaming.step(codes_of(codec, 3, seed)[None], [seed % ROWS])
    assert [(state.data_ptr(), state.shape) for state in state_tensors(streaming)] == before
    assert streaming.state_bytes() == size == sum(state.nbytes for state in state_tensors(streaming))


def test_a_long_stream_stays_exact() -> None:
    """Many times around every ring, far beyond the windows."""
    codec, streaming = codec_named("small"), fresh("small")
    codes = codes_of(codec, 700, seed=3)
    wave = torch.cat([streaming.step(part[None], [1])[0] for part in torch.split(codes, 7, dim=1)])
    assert_close(wave, offline(codec, codes))


def test_the_real_codecs_row_remembers_what_the_arithmetic_says() -> None:
    """2.2 million floats a row: 8 x 2 x 1,024 a past position, and the convolutions' last inputs."""
    with torch.device("meta"):
        codec = Codec(CodecConfig())
        streaming = StreamingCodec(codec, 1)
    past = 8 * 2 * 1024 * (127 + CHUNK_FRAMES)
    transposed = 1536 + 768 + 384 + 192  # one input each: fewer than the tails of their outputs
    convolutions = 2 * 6 * 1024 + 6 * 1024 + 78 * (768 + 384 + 192 + 96) + 6 * 96
    assert streaming.state_bytes() == 4 * (past + transposed + convolutions) + 8


def test_codes_beyond_their_codebook_count_as_the_last_one_and_stay_as_they_are() -> None:
    codec, streaming = codec_named("fixture"), fresh("fixture")
    codes = torch.full((1, 10, 2), 4095)
    wave = streaming.step(codes, [0])
    assert torch.equal(codes, torch.full((1, 10, 2), 4095))
    assert_close(wave, codec.decode(codes))


@pytest.mark.parametrize(
    ("shape", "rows", "message"),
    [
        ((1, 3, 2), [ROWS], "must be distinct and lie in 0..3"),
        ((1, 3, 2), [-1], "must be distinct and lie in 0..3"),
        ((2, 3, 2), [1, 1], "must be distinct and lie in 0..3"),
        ((2, 3, 2), [1], "are not"),
        ((1, 2, 2), [1], "are not"),
        ((1, 3, 0), [1], "are not"),
        ((3, 2), [1], "are not"),
        ((0, 3, 2), [], "must be distinct"),
    ],
)
def test_a_call_that_does_not_fit_changes_nothing(shape: tuple[int, ...], rows: list[int], message: str) -> None:
    codec, streaming = codec_named("small"), fresh("small")
    codes = codes_of(codec, 6, seed=1)
    begun = streaming.step(codes[None, :, :3], [1])[0]
    with pytest.raises(ValueError, match=message):
        streaming.step(torch.zeros(shape, dtype=torch.int64), rows)
    wave = torch.cat([begun, streaming.step(codes[None, :, 3:], [1])[0]])
    assert_close(wave, offline(codec, codes))


@pytest.mark.parametrize("row", [-1, ROWS])
def test_a_row_that_does_not_exist_cannot_be_reset(row: int) -> None:
    with pytest.raises(IndexError, match=f"row {row} does not lie in 0..3"):
        fresh("small").reset(row)


def test_the_codec_may_be_changed_or_dropped_once_its_stream_exists() -> None:
    codec = lively(small_config())
    codes = codes_of(codec, 5, seed=1)
    wave, streaming = offline(codec, codes), StreamingCodec(codec, 1)
    for parameter in codec.parameters():
        parameter.zero_()
    assert_close(streaming.step(codes[None], [0])[0], wave)


def test_conv2d_takes_over_at_many_positions_and_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same wave whichever of its two forms a residual unit's convolution runs in."""
    codec, streaming = codec_named("small"), fresh("small")
    codes = codes_of(codec, 6, seed=2)
    waves = []
    for threshold in (1, 10**9):
        monkeypatch.setattr(WideProduct, "MIN_PRODUCTS", threshold)
        streaming.reset(0)
        waves.append(streaming.step(codes[None], [0])[0])
    assert_close(waves[0], waves[1], tolerance=2e-6)
    assert_close(waves[0], offline(codec, codes))


def wave_of(codec: Codec, frames: int, seed: int) -> Tensor:
    """A deterministic tone mixture of so many frames."""
    time = torch.arange(frames * codec.frame_samples) / codec.sample_rate
    random = torch.Generator().manual_seed(seed)
    pitches = 80 + 2000 * torch.rand(4, 1, generator=random)
    return (torch.sin(2 * torch.pi * pitches * time).mean(0) * (1 + torch.sin(3 * time))).float()


def smallest_margin(codec: Codec, wave: Tensor) -> float:
    """Smallest difference in distance between the two nearest rows of any decision: below float noise a tie may fall either way."""
    projected = codec.quantizer(codec.latents(wave[None])).projected
    margins = []
    for stage, e in zip(codec.quantizer.stages(), projected[0], strict=True):
        rows = torch.nn.functional.normalize(stage.codebook.weight)
        best = (torch.nn.functional.normalize(e, dim=0).t() @ rows.t()).topk(2).values
        margins.append((best[:, 0] - best[:, 1]).min().item())
    return min(margins)


@given(cuts=st.lists(st.integers(1, 9000), min_size=1, max_size=12))
@settings(max_examples=8, deadline=None)
def test_a_recording_in_pieces_of_any_length_gives_the_references_codes(cuts: list[int]) -> None:
    with np.load(FIXTURE / "expected.npz") as arrays:
        wave, expected = torch.tensor(arrays["codec_wave"]), arrays["codec_codes"]
    encoder = reference_encoder()
    parts = [encoder.push(part, 1) for part in cut(wave, cuts)]
    codes = torch.cat([*parts, encoder.finish(1)], dim=1)
    assert np.array_equal(codes.numpy(), expected)


def cut(wave: Tensor, cuts: list[int]) -> list[Tensor]:
    """Pieces of these lengths over and over until the wave ends."""
    pieces: list[Tensor] = []
    at = 0
    while at < len(wave):
        length = cuts[len(pieces) % len(cuts)] if len(cuts) > 1 else max(cuts[0], 500)
        pieces.append(wave[at : at + length])
        at += length
    return pieces


@pytest.mark.parametrize("name", ["small", "odd"])
def test_recordings_in_different_rows_do_not_touch_each_other(name: str) -> None:
    codec = codec_named(name)
    encoder = StreamingEncoder(codec, 3)
    waves = torch.stack([wave_of(codec, 40, seed) for seed in range(3)])
    assert min(smallest_margin(codec, wave) for wave in waves) > 1e-6
    got: list[list[Tensor]] = [[], [], []]
    for start, end, rows in ((0, 1, [0]), (0, 13, [2, 1]), (1, 14, [0]), (13, 40, [1, 2]), (14, 40, [0])):
        samples = waves[rows, start * codec.frame_samples : end * codec.frame_samples]
        for row, codes in zip(rows, encoder.step(samples, rows), strict=True):
            got[row].append(codes)
    for row, wave in enumerate(waves):
        assert torch.equal(torch.cat(got[row], dim=1), codec.encode(wave[None])[0])


def test_a_finished_row_starts_over(expected: Arrays) -> None:
    wave = torch.tensor(expected["codec_wave"])
    encoder = StreamingEncoder(codec_named("fixture"))
    for _ in range(2):
        codes = torch.cat([encoder.push(wave), encoder.finish()], dim=1)
        assert np.array_equal(codes.numpy(), expected["codec_codes"])


def test_a_reset_forgets_samples_that_were_waiting() -> None:
    encoder = StreamingEncoder(codec_named("small"), 2)
    assert encoder.push(torch.ones(codec_named("small").frame_samples - 1), 1).shape == (3, 0)
    encoder.reset(1)
    assert encoder.push(torch.ones(1), 1).shape == (3, 0)
    assert encoder.finish(1).shape == (3, 1)
    assert encoder.finish(1).shape == (3, 0)


@pytest.mark.parametrize(("shape", "rows"), [((1, 71), [0]), ((1, 0), [0]), ((72,), [0]), ((2, 72), [0])])
def test_samples_that_are_not_whole_frames_are_refused(shape: tuple[int, ...], rows: list[int]) -> None:
    encoder = StreamingEncoder(codec_named("small"), 2)
    with pytest.raises(ValueError, match="are not 1 rows of frames of 72"):
        encoder.step(torch.zeros(shape), rows)


class Held(TorchDispatchMode):
    """Bytes of the tensors that operations made on a device and somebody still has."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.most = 0
        self._device = device
        self._made: list[tuple[StorageWeakRef, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.device.type == self._device and x.untyped_storage()._cdata not in given:
                self._made.append((StorageWeakRef(x.untyped_storage()), x.untyped_storage().nbytes()))
        self.most = max(self.most, self.now())
        return out

    def now(self) -> int:
        self._made = [(storage, size) for storage, size in self._made if not storage.expired()]
        return sum(size for _, size in self._made)


def numbers(*modules: nn.Module) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters())


@pytest.mark.parametrize("way", [StreamingCodec, StreamingEncoder])
def test_another_device_holds_each_weight_that_it_uses_once_and_little_more_meanwhile(way: type) -> None:
    """Of S2 Pro, whose tensors are not really there: a device named meta stands for a GPU."""
    elsewhere, largest = torch.device("meta"), 4 * 3072 * 6144  # bytes, of the first transposed convolution
    with FakeTensorMode(allow_non_fake_inputs=True):
        codec = Codec(CodecConfig()).eval().requires_grad_(False)
        with Held("meta") as held:
            made = way(codec, 2, device=elsewhere)
    quantizer, decodes = codec.quantizer, way is StreamingCodec
    if decodes:  # stages are kept as the sums that entries add up to, 10 tables
        own = numbers(codec.decoder, quantizer.post_module, quantizer.upsample) + (4096 + 9 * 1024) * 1024
    else:
        own = numbers(codec.encoder, quantizer.pre_module, quantizer.downsample, *quantizer.stages())
    assert next(codec.parameters()).device.type == "cpu"
    assert held.now() == pytest.approx(4 * own + made.state_bytes(), rel=0.002)
    assert held.most < held.now() + 2.5 * largest


@every_codec
@pytest.mark.parametrize("where", ["cpu:0", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_a_codec_that_lies_elsewhere_gives_the_numbers_of_one_that_was_moved(name: str, where: str) -> None:
    """A CPU's tensors lie on `cpu`, which is elsewhere than `cpu:0`."""
    codec, device = codec_named(name), torch.device(where)
    moved = copy.deepcopy(codec).to(device)
    codes, wave = codes_of(codec, 6, 0).to(device), torch.randn(1, 6 * codec.frame_samples, device=device)
    decoders = StreamingCodec(codec, 1, device=device), StreamingCodec(moved, 1)
    encoders = StreamingEncoder(codec, device=device), StreamingEncoder(moved)
    assert torch.equal(*(decoder.step(codes[None], [0]) for decoder in decoders))
    assert torch.equal(*(encoder.step(wave, [0]) for encoder in encoders))


@pytest.mark.gpu
def test_a_cuda_graph_of_a_step_gives_the_offline_wave() -> None:
    """Captured once for a batch of rows given as a tensor, replayed frame by frame with other rows."""
    codec = lively(small_config())
    streaming = StreamingCodec(codec.cuda(), ROWS)
    codes, rows = torch.zeros(2, 3, 1, dtype=torch.int64, device="cuda"), torch.tensor([0, 1], device="cuda")
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            streaming.step(codes, rows)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        wave = streaming.step(codes, rows)
    for row in range(ROWS):
        streaming.reset(row)
    streams = torch.stack([codes_of(codec, 30, seed) for seed in range(2)])
    rows.copy_(torch.tensor([3, 1]))
    waves = []
    for t in range(30):
        codes.copy_(streams[:, :, t : t + 1])
        graph.replay()
        waves.append(wave.cpu())
    assert_close(torch.cat(waves, dim=1), codec_named("small").decode(streams))


@pytest.mark.gpu
def test_a_gpu_gives_the_references_wave_and_codes(expected: Arrays) -> None:
    codec = load_codec(FIXTURE, "cuda")
    streaming, encoder = StreamingCodec(codec, 2), StreamingEncoder(codec)
    codes = torch.tensor(expected["codec_dec_codes"], device="cuda")
    wave = torch.cat([streaming.step(frame[None], [1])[0] for frame in torch.split(codes, 1, dim=1)])
    assert_close(wave.cpu(), torch.tensor(expected["codec_dec_wave"]), tolerance=5e-5)
    encoded = torch.cat([encoder.push(torch.tensor(expected["codec_wave"])), encoder.finish()], dim=1)
    assert np.array_equal(encoded.cpu().numpy(), expected["codec_codes"])
