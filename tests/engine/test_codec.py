"""The offline codec against the reference's numbers, its causality, and what training needs of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.codec import CausalConv, CausalTransposedConv, Codec, Rope, rotate
from engine.codec_weights import load_codec
from engine.config import CodecConfig, CodecTransformerConfig

pytestmark = pytest.mark.torch
FIXTURE = Path(__file__).parent.parent / "fixtures" / "s2pro"

Arrays = dict[str, npt.NDArray[np.generic]]


@pytest.fixture(scope="module")
def codec() -> Codec:
    return load_codec(FIXTURE, "cpu")


def small_config() -> CodecConfig:
    """Other sizes than the real codec everywhere: stages, codebooks, no encoder transformer, unequal widths."""
    transformer = CodecTransformerConfig(dim=24, n_layer=2, n_head=3, head_dim=6, ffn_dim=32, window=5, input_dim=20)
    return CodecConfig(
        sample_rate=22050,
        encoder_dim=4,
        encoder_rates=(2, 6),
        encoder_transformer_layers=(0, 0),
        encoder_transformer=transformer,
        decoder_dim=16,
        decoder_rates=(3, 4),
        latent_dim=20,
        residual_codebooks=3,
        codebook_size=16,
        semantic_codebook_size=32,
        codebook_dim=4,
        downsample=(2, 3),
        pre_module=transformer,
        post_module=transformer,
    )


@pytest.fixture
def small() -> Codec:
    torch.manual_seed(5)
    return Codec(small_config())


def error(got: Tensor, expected: npt.NDArray[np.generic]) -> float:
    """Largest absolute difference; the shapes must be equal."""
    assert got.shape == expected.shape
    return (got - torch.tensor(expected)).abs().max().item()


def test_encoder_latents_are_the_references(codec: Codec, expected: Arrays) -> None:
    wave = torch.tensor(expected["codec_wave"])
    padded = torch.nn.functional.pad(wave, (0, -len(wave) % codec.frame_samples))
    assert error(codec.encoder(padded[None, None])[0], expected["codec_enc_z"]) < 5e-5
    assert error(codec.latents(wave[None])[0], expected["codec_pre_z"]) < 5e-5


def test_codes_of_a_recording_are_exactly_the_references(codec: Codec, expected: Arrays) -> None:
    codes = codec.encode(torch.tensor(expected["codec_wave"])[None])[0]
    assert codes.dtype == torch.int64
    assert np.array_equal(codes.numpy(), expected["codec_codes"])
    assert codes.shape[1] == expected["codec_code_len"].item()


def test_every_stage_of_decoding_is_the_references(codec: Codec, expected: Arrays) -> None:
    latents = codec.quantizer.from_codes(torch.tensor(expected["codec_dec_codes"])[None])
    assert error(latents[0], expected["codec_dec_zq"]) < 5e-5
    post = codec.quantizer.post_module(latents)
    assert error(post[0], expected["codec_dec_post"]) < 5e-5
    upsampled = codec.quantizer.upsample(post)
    assert error(upsampled[0], expected["codec_dec_up"]) < 5e-5
    assert error(codec.decoder(upsampled)[0, 0], expected["codec_dec_wave"]) < 5e-5


@pytest.mark.parametrize(
    ("codes", "wave"), [("codec_dec_codes", "codec_dec_wave"), ("codec_codes", "codec_roundtrip_wave")]
)
def test_decoded_waves_are_the_references(codes: str, wave: str, codec: Codec, expected: Arrays) -> None:
    assert error(codec.decode(torch.tensor(expected[codes])[None])[0], expected[wave]) < 5e-5


def test_codes_beyond_their_codebook_are_clamped_without_touching_the_input(codec: Codec) -> None:
    codes = torch.full((1, 10, 2), 4095)
    kept = codes.clone()
    clamped = torch.full((1, 10, 2), 1023)
    clamped[:, 0] = 4095
    assert torch.equal(codec.decode(codes), codec.decode(clamped))
    assert torch.equal(codes, kept)


def test_codes_with_another_number_of_codebooks_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="codes have 8 codebooks, the codec has 10"):
        codec.decode(torch.zeros(1, 8, 3, dtype=torch.int64))


@given(length=st.integers(1, 400))
@settings(max_examples=25, deadline=None)
def test_a_recording_of_any_length_is_filled_up_to_whole_frames(length: int) -> None:
    codec = Codec(small_config())
    wave = torch.rand(2, length)
    frames = -(-length // codec.frame_samples)
    codes = codec.encode(wave)
    assert codes.shape == (2, codec.codebooks, frames)
    assert codec.decode(codes).shape == (2, frames * codec.frame_samples)
    padded = torch.nn.functional.pad(wave, (0, frames * codec.frame_samples - length))
    assert torch.equal(codec.encode(padded), codes)


@given(prefix=st.integers(1, 39))
@settings(max_examples=12, deadline=None)
def test_decoding_a_prefix_gives_the_prefix_of_the_wave(prefix: int) -> None:
    codec = load_codec(FIXTURE, "cpu")
    codes = torch.randint(0, 1024, (1, 10, 40), generator=torch.Generator().manual_seed(1))
    whole = codec.decode(codes)[:, : prefix * codec.frame_samples]
    assert (codec.decode(codes[:, :, :prefix]) - whole).abs().max() < 1e-5


def test_encoding_a_prefix_gives_the_prefix_of_the_codes(codec: Codec, expected: Arrays) -> None:
    wave = torch.tensor(expected["codec_wave"])[None]
    for frames in (1, 7, 16):
        codes = codec.encode(wave[:, : frames * codec.frame_samples])
        assert np.array_equal(codes[0].numpy(), expected["codec_codes"][:, :frames])


def test_clips_of_a_batch_are_independent(small: Codec) -> None:
    waves = torch.rand(3, 300, generator=torch.Generator().manual_seed(2))
    codes = small.encode(waves)
    together = small.decode(codes)
    for i in range(3):
        assert torch.equal(small.encode(waves[i : i + 1])[0], codes[i])
        torch.testing.assert_close(small.decode(codes[i : i + 1])[0], together[i], atol=1e-6, rtol=0)


@given(length=st.integers(1, 40), stride=st.integers(1, 8), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_transposed_convolution_answers_each_input_with_stride_outputs(length: int, stride: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer, x = CausalTransposedConv(3, 2, 2 * stride, stride), torch.randn(1, 3, length)
    whole = layer(x)
    assert whole.shape == (1, 2, length * stride)
    torch.testing.assert_close(layer(x[..., :1]), whole[..., :stride])


@given(length=st.integers(1, 60), kernel=st.integers(1, 9), dilation=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_convolution_sees_no_future(length: int, kernel: int, dilation: int) -> None:
    layer, x = CausalConv(2, 3, kernel, dilation=dilation), torch.randn(1, 2, length)
    changed = x.clone()
    changed[..., -1] += 1
    before, after = layer(x), layer(changed)
    assert before.shape[-1] == length
    assert torch.equal(before[..., :-1], after[..., :-1])


def test_rotation_angles_are_rounded_to_bfloat16() -> None:
    cos, sin = Rope(32, 1e4)(torch.arange(3000))
    assert torch.equal(cos, cos.bfloat16().float())
    assert torch.equal(sin, sin.bfloat16().float())
    exact = torch.outer(torch.arange(3000.0).double(), 1e4 ** (-torch.arange(0, 32, 2).double() / 32))
    assert (cos - exact.cos()).abs().max() < 2**-8
    assert not torch.equal(cos, exact.cos().float())


def test_rotation_turns_adjacent_pairs() -> None:
    x = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 1, 4)
    quarter = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    assert rotate(x, *quarter).flatten().tolist() == [0.0, 1.0, -1.0, 0.0]


def test_quantising_exposes_what_each_stage_did(small: Codec) -> None:
    z = torch.randn(2, 20, 7)
    out = small.quantizer(z)
    torch.testing.assert_close(out.stages.sum(1), out.latents)
    torch.testing.assert_close(small.quantizer.from_codes(out.codes), out.latents)
    residual = z
    for k, stage in enumerate(small.quantizer.stages()):
        torch.testing.assert_close(stage.in_proj(residual), out.projected[:, k])
        assert torch.equal(stage.codebook(out.codes[:, k]).transpose(1, 2), out.rows[:, k])
        similarity = torch.nn.functional.normalize(out.projected[:, k].transpose(1, 2), dim=-1) @ (
            torch.nn.functional.normalize(stage.codebook.weight, dim=-1).t()
        )
        assert torch.equal(similarity.argmax(-1), out.codes[:, k])
        residual = residual - out.stages[:, k]


def test_every_parameter_learns_from_reconstruction_and_codebook_losses(small: Codec) -> None:
    wave = torch.rand(2, 288)
    out = small.quantizer(small.latents(wave))
    codebook = (out.rows - out.projected.detach()).square().mean()
    commitment = (out.projected - out.rows.detach()).square().mean()
    ((small.synthesize(out.latents) - wave).square().mean() + codebook + commitment).backward()
    still = [name for name, parameter in small.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert still == []


def test_the_choice_of_rows_passes_gradients_straight_through(small: Codec) -> None:
    """With one stage the gradient at z is that of two linear maps, as if nothing had been rounded."""
    stage = small.quantizer.stages()[0]
    z = torch.randn(1, 20, 5, requires_grad=True)
    e = stage.in_proj(z)
    weight = torch.randn(1, 20, 5)
    (straight,) = torch.autograd.grad((stage.out_proj(e) * weight).sum(), z)
    (through,) = torch.autograd.grad((small.quantizer(z).stages[:, 0] * weight).sum(), z)
    torch.testing.assert_close(through, straight)


def test_names_survive_a_state_dict(small: Codec) -> None:
    other = Codec(small_config())
    other.load_state_dict(small.state_dict(), strict=True)
    codes = torch.randint(0, 16, (1, 4, 6))
    assert torch.equal(other.decode(codes), small.decode(codes))
