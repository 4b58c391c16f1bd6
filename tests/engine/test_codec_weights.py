"""Loading codec weights: the published layout, our own, and what is refused."""

from __future__ import annotations

import ast
import lzma
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.utils.parametrizations import weight_norm

from engine.codec import Codec
from engine.codec_weights import CodecWeightsError, load_codec
from engine.config import CodecConfig

pytestmark = pytest.mark.torch
FIXTURES = Path(__file__).parent.parent / "fixtures"

Tensors = dict[str, Tensor]
Arrays = dict[str, npt.NDArray[np.generic]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the fixture's codec.json and no weights yet."""
    shutil.copyfile(FIXTURES / "s2pro" / "codec.json", tmp_path / "codec.json")
    return tmp_path


@pytest.fixture
def published() -> Tensors:
    """The fixture's codec.pth as it is stored."""
    tensors: Tensors = torch.load(FIXTURES / "s2pro" / "codec.pth", weights_only=True)
    return tensors


@pytest.fixture(scope="module")
def folded() -> Tensors:
    """The same weights under their plain names."""
    return dict(load_codec(FIXTURES / "s2pro", "cpu").state_dict())


def wave_error(codec: Codec, expected: Arrays) -> float:
    """Largest difference from the reference's waveform."""
    wave = codec.decode(torch.tensor(expected["codec_dec_codes"])[None])[0]
    return (wave - torch.tensor(expected["codec_dec_wave"])).abs().max().item()


def test_the_published_file_decodes_to_the_reference_waveform(expected: Arrays) -> None:
    assert wave_error(load_codec(FIXTURES / "s2pro", "cpu"), expected) < 5e-5


def test_a_loaded_codec_is_ready_for_inference() -> None:
    codec = load_codec(FIXTURES / "s2pro", "cpu")
    assert not codec.training
    assert not any(parameter.requires_grad for parameter in codec.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_take_the_type_asked_for(dtype: torch.dtype) -> None:
    codec = load_codec(FIXTURES / "s2pro", "cpu", dtype)
    assert {parameter.dtype for parameter in codec.parameters()} == {dtype}


def test_a_bfloat16_codec_keeps_exact_rope_frequencies() -> None:
    exact, rounded = (load_codec(FIXTURES / "s2pro", "cpu", dtype) for dtype in (torch.float32, torch.bfloat16))
    positions = torch.arange(4000)
    for one, other in zip(
        exact.quantizer.post_module.rope(positions), rounded.quantizer.post_module.rope(positions), strict=True
    ):
        assert torch.equal(one, other)


WRAPPINGS: dict[str, Callable[[Tensors], object]] = {
    "flat": lambda tensors: tensors,
    "below state_dict": lambda tensors: {"state_dict": tensors, "epoch": 3},
    "a generator beside a discriminator": lambda tensors: {
        "state_dict": {f"generator.{name}": tensor for name, tensor in tensors.items()}
        | {"discriminator.conv.weight": torch.zeros(1)}
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old pickle"])
def test_every_wrapping_of_the_pickle_is_accepted(
    wrapping: str, zipped: bool, folder: Path, published: Tensors, folded: Tensors
) -> None:
    torch.save(WRAPPINGS[wrapping](published), folder / "codec.pth", _use_new_zipfile_serialization=zipped)
    loaded = load_codec(folder, "cpu").state_dict()
    assert all(torch.equal(loaded[name], folded[name]) for name in folded)


@pytest.mark.parametrize("module", [torch.nn.Conv1d(6, 4, 3), torch.nn.ConvTranspose1d(6, 4, 3)], ids=["conv", "tconv"])
@pytest.mark.parametrize("spelling", ["original", "older"])
def test_a_folded_norm_is_the_weight_that_torch_computes(module: torch.nn.Module, spelling: str, folder: Path) -> None:
    """Both spellings hold the same pair; dimension 0 is what torch normalises for transposed convolutions too."""
    from engine.codec_weights import _plain

    stored = weight_norm(module, dim=0).state_dict()
    magnitude, direction = (stored[f"parametrizations.weight.original{i}"] * (2 + i) for i in (0, 1))
    names = (
        ("x.parametrizations.weight.original0", "x.parametrizations.weight.original1")
        if spelling == "original"
        else ("x.weight_g", "x.weight_v")
    )
    effective = torch._weight_norm(direction, magnitude, 0)
    torch.testing.assert_close(_plain(dict(zip(names, (magnitude, direction), strict=True)), "x.weight"), effective)


def test_a_trained_codec_survives_its_plain_state_dict(folder: Path) -> None:
    codec = Codec(load_codec(FIXTURES / "s2pro", "cpu").config)
    safetensors.torch.save_file(codec.state_dict(), folder / "codec.safetensors")
    loaded = load_codec(folder, "cpu").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in codec.state_dict().items())


def test_plain_weights_go_before_published_ones(folder: Path, published: Tensors, folded: Tensors) -> None:
    changed = folded | {"decoder.model.6.conv.bias": torch.tensor([0.25])}
    torch.save(published, folder / "codec.pth")
    safetensors.torch.save_file(changed, folder / "codec.safetensors")
    assert load_codec(folder, "cpu").state_dict()["decoder.model.6.conv.bias"].item() == 0.25


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_widened(stored: torch.dtype, folder: Path, folded: Tensors) -> None:
    narrow = {name: tensor.to(stored) for name, tensor in folded.items()}
    safetensors.torch.save_file(narrow, folder / "codec.safetensors")
    loaded = load_codec(folder, "cpu").state_dict()
    assert all(torch.equal(loaded[name], narrow[name].float()) for name in narrow)


@pytest.mark.parametrize("scale_type", [torch.float16, torch.float32])
def test_int8_rows_are_multiplied_by_their_scales(scale_type: torch.dtype, folder: Path, folded: Tensors) -> None:
    stored, meant = dict(folded), dict(folded)
    for name in ("decoder.model.1.block.1.conv.weight", "quantizer.post_module.layers.0.attention.wo.weight"):
        rows = folded[name].flatten(1)
        scale = (rows.abs().amax(1) / 127).to(scale_type)
        stored[name] = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8).view_as(folded[name])
        stored[name + ".scale"] = scale
        meant[name] = (stored[name].flatten(1) * scale.float()[:, None]).view_as(folded[name])
    safetensors.torch.save_file(stored, folder / "codec.safetensors")
    loaded = load_codec(folder, "cpu").state_dict()
    assert all(torch.equal(loaded[name], meant[name]) for name in meant)


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if key != name}


def test_missing_unexpected_and_misshapen_tensors_are_all_named_at_once(folder: Path, published: Tensors) -> None:
    wrong = without(published, "decoder.model.6.conv.bias")
    wrong = without(wrong, "quantizer.quantizer.quantizers.3.in_proj.weight_g")
    wrong |= {"decoder.model.9.alpha": torch.zeros(1), "encoder.block.5.alpha": torch.zeros(1, 3, 1)}
    torch.save(wrong, folder / "codec.pth")
    with pytest.raises(CodecWeightsError) as error:
        load_codec(folder, "cpu")
    assert error.value.path == folder / "codec.pth"
    missing, unexpected, misshapen = error.value.problems
    assert missing == "2 missing: quantizer.quantizer.quantizers.3.in_proj.weight, decoder.model.6.conv.bias"
    assert unexpected == "2 unexpected: decoder.model.9.alpha, quantizer.quantizer.quantizers.3.in_proj.weight_v"
    assert misshapen == "1 wrong: encoder.block.5.alpha [1, 3, 1], expected [1, 64, 1]"


def test_only_the_transformers_own_stale_buffers_are_ignored(folder: Path, published: Tensors) -> None:
    torch.save(published | {"decoder.model.1.freqs_cis": torch.zeros(1)}, folder / "codec.pth")
    with pytest.raises(CodecWeightsError, match=r"codec\.pth: 1 unexpected: decoder\.model\.1\.freqs_cis$"):
        load_codec(folder, "cpu")


def test_a_norm_of_the_wrong_length_is_refused(folder: Path, published: Tensors) -> None:
    name = "decoder.model.1.block.1.conv.parametrizations.weight.original0"
    torch.save(published | {name: torch.ones(32, 1, 1)}, folder / "codec.pth")  # one an output; it must be one an input
    with pytest.raises(CodecWeightsError, match=rf"{re.escape(name)} \[32, 1, 1\], expected one for each of 64 rows"):
        load_codec(folder, "cpu")


@pytest.mark.parametrize("stored", [torch.int8, torch.int32, torch.bool])
def test_numbers_that_are_no_weights_are_refused(stored: torch.dtype, folder: Path, folded: Tensors) -> None:
    name = "decoder.model.6.conv.weight"
    safetensors.torch.save_file(folded | {name: folded[name].to(stored)}, folder / "codec.safetensors")
    with pytest.raises(CodecWeightsError, match=f"{re.escape(name)} is {stored}"):
        load_codec(folder, "cpu")


def test_a_scale_without_int8_is_unexpected(folder: Path, folded: Tensors) -> None:
    name = "decoder.model.6.conv.weight.scale"
    safetensors.torch.save_file(folded | {name: torch.ones(1)}, folder / "codec.safetensors")
    with pytest.raises(CodecWeightsError, match=f"1 unexpected: {re.escape(name)}"):
        load_codec(folder, "cpu")


def test_a_file_of_another_model_gives_a_short_error(folder: Path) -> None:
    torch.save({f"layer.{i}.weight": torch.zeros(1) for i in range(400)}, folder / "codec.pth")
    with pytest.raises(CodecWeightsError) as error:
        load_codec(folder, "cpu")
    assert len(str(error.value)) < 2000
    assert "400 unexpected" in str(error.value)
    assert "and 392 more" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("codec.pth", b"not a pickle", "not a pickle of tensors"),
        ("codec.pth", b"", "not a pickle of tensors"),
        ("codec.safetensors", b"\x08\0\0\0\0\0\0\0nonsense", "not a safetensors file"),
    ],
)
def test_a_broken_file_is_named(name: str, content: bytes, message: str, folder: Path) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(CodecWeightsError, match=f"{name}: {message}"):
        load_codec(folder, "cpu")


def test_a_pickle_cannot_run_code(folder: Path) -> None:
    torch.save({"a": print}, folder / "codec.pth")
    with pytest.raises(CodecWeightsError, match="not a pickle of tensors"):
        load_codec(folder, "cpu")


def test_a_pickle_of_something_else_is_refused(folder: Path) -> None:
    torch.save({"lr": 0.1, 7: torch.zeros(1)}, folder / "codec.pth")
    with pytest.raises(CodecWeightsError, match="something else than tensors by name"):
        load_codec(folder, "cpu")


def test_a_folder_without_weights_says_what_it_lacks(folder: Path) -> None:
    with pytest.raises(CodecWeightsError, match=r"has neither codec\.safetensors nor codec\.pth"):
        load_codec(folder, "cpu")


def test_the_constants_name_every_tensor_of_the_real_file() -> None:
    """Names and shapes recorded from the published S2 Pro codec.pth, six stale buffers left out."""
    lines = lzma.decompress((FIXTURES / "codec_keys.tsv.xz").read_bytes()).decode().splitlines()
    recorded = dict(line.split("\t") for line in lines)
    assert len(recorded) == 535
    folded_shapes = {}
    for name, shape in recorded.items():
        if not name.endswith((".original0", ".weight_g")):
            plain = name.replace(".parametrizations.weight.original1", ".weight").replace(".weight_v", ".weight")
            folded_shapes[plain] = ast.literal_eval(shape)
    with torch.device("meta"):
        weights = Codec(CodecConfig()).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == folded_shapes
