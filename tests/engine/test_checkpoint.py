"""Every layout on disk gives the same model; one that does not fit is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoint import CheckpointError, load_dual_ar, save_dual_ar
from engine.config import ModelConfig, StackConfig
from engine.model import DualAR

pytestmark = pytest.mark.torch

SLOW = StackConfig(dim=16, n_layer=2, n_head=4, n_kv_head=2, head_dim=4, ffn_dim=24, qk_norm=True)
FAST = StackConfig(dim=8, n_layer=1, n_head=2, n_kv_head=1, head_dim=4, ffn_dim=12)
CONFIG = ModelConfig(
    SLOW,
    FAST,
    vocab_size=30,
    codebook_size=10,
    num_codebooks=3,
    semantic_begin=15,
    semantic_end=24,
    im_end=2,
    max_positions=64,
)
WQKV = "text_model.model.layers.1.attention.wqkv.weight"


def model(config: ModelConfig = CONFIG) -> DualAR:
    """A model with weights that bfloat16 holds exactly."""
    torch.manual_seed(3)
    return DualAR(config).bfloat16().float()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved checkpoint."""
    save_dual_ar(model(), CONFIG, tmp_path)
    return tmp_path


def stored(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def store(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors")


def same(a: DualAR, b: DualAR) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_saved_is_loaded(folder: Path) -> None:
    loaded = load_dual_ar(folder)
    assert same(loaded, model())
    assert loaded.config == CONFIG
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_names_on_disk_are_the_published_ones(folder: Path) -> None:
    names = stored(folder).keys()
    assert len(names) == 2 * 9 + 2 + 7 + 4 + 2
    for name in (
        "text_model.model.embeddings.weight",
        "text_model.model.layers.0.attention.q_norm.weight",
        "text_model.model.layers.1.feed_forward.w3.weight",
        "text_model.model.norm.weight",
        "audio_decoder.codebook_embeddings.weight",
        "audio_decoder.embeddings.weight",
        "audio_decoder.layers.0.attention.wo.weight",
        "audio_decoder.norm.weight",
        "audio_decoder.output.weight",
        "audio_decoder.project_in.bias",
    ):
        assert name in names


def test_a_model_that_serves_can_be_saved(tmp_path: Path) -> None:
    serving = model()
    serving.prepare_serving()
    save_dual_ar(serving, CONFIG, tmp_path)
    assert same(load_dual_ar(tmp_path), model())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_in_the_dtype_asked_for_and_tables_stay_exact(folder: Path, dtype: torch.dtype) -> None:
    loaded = load_dual_ar(folder, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert torch.equal(loaded.rope.float(), model().rope)
    assert loaded.dtype == dtype


def shard(folder: Path, parts: int = 3) -> dict[str, str]:
    """Turn the single file into shards. Returns which shard holds what."""
    tensors = stored(folder)
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    places: dict[str, str] = {}
    for part in range(parts):
        name = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        save_file({key: tensors[key] for key in names[part::parts]}, folder / name)
        places |= dict.fromkeys(names[part::parts], name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return places


def test_shards_give_what_one_file_gives(folder: Path) -> None:
    shard(folder)
    assert same(load_dual_ar(folder), model())


def test_a_shard_that_is_absent_or_short_is_named(folder: Path) -> None:
    places = shard(folder)
    lost = folder / places[WQKV]
    tensors = load_file(lost)
    save_file({name: tensor for name, tensor in tensors.items() if name != WQKV}, lost)
    with pytest.raises(CheckpointError, match=f"more than the shard holds; 1 missing: {WQKV}"):
        load_dual_ar(folder)
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"{lost.name}: a shard that the index names does not exist"):
        load_dual_ar(folder)


def test_an_index_cannot_point_outside_its_folder(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(CheckpointError, match="not a file name beside it"):
        load_dual_ar(folder)


def test_a_folder_without_weights_or_with_broken_ones_says_so(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_dual_ar(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"none of .* exists"):
        load_dual_ar(folder)


def test_every_key_that_does_not_fit_is_named_with_both_shapes(folder: Path) -> None:
    tensors = stored(folder)
    tensors["text_model.model.layers.2.ffn_norm.weight"] = torch.ones(16)
    del tensors["audio_decoder.norm.weight"]
    tensors[WQKV] = torch.zeros(5, 16)
    store(folder, tensors)
    with pytest.raises(CheckpointError) as caught:
        load_dual_ar(folder)
    error = caught.value
    assert error.missing == ["fast_norm.weight"]
    assert error.unexpected == ["layers.2.ffn_norm.weight"]
    assert error.misshapen == [("layers.1.attention.wqkv.weight", (32, 16), (5, 16))]
    for text in ("fast_norm.weight", "layers.2.ffn_norm.weight", "expected (32, 16), found (5, 16)", str(folder)):
        assert text in str(error)


def test_an_error_does_not_list_hundreds_of_keys(folder: Path) -> None:
    store(folder, {f"wrong.{name}": tensor for name, tensor in stored(folder).items()})
    with pytest.raises(CheckpointError, match=r"33 missing: .* and 25 more; 33 unexpected: "):
        load_dual_ar(folder)


def flat(folder: Path, tensors: dict[str, Tensor]) -> None:
    """An older folder: flat config.json, pickled weights."""
    raw = {
        "vocab_size": 30,
        "n_layer": 2,
        "n_head": 4,
        "dim": 16,
        "intermediate_size": 24,
        "n_local_heads": 2,
        "head_dim": 4,
        "rope_base": 1e6,
        "norm_eps": 1e-6,
        "max_seq_len": 64,
        "attention_qk_norm": True,
        "codebook_size": 10,
        "num_codebooks": 3,
        "semantic_begin_id": 15,
        "semantic_end_id": 24,
        "eos_token_id": 2,
        "scale_codebook_embeddings": True,
        "norm_fastlayer_input": True,
        "n_fast_layer": 1,
        "fast_dim": 8,
        "fast_n_head": 2,
        "fast_n_local_heads": 1,
        "fast_intermediate_size": 12,
        "fast_attention_qk_norm": False,
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "dual_ar"} | raw))
    torch.save(tensors, folder / "model.pth")


def test_a_pickle_of_the_flat_form_gives_the_same_model(tmp_path: Path) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model().state_dict().items()}
    flat(tmp_path, tensors | {"model.audio_projector.weight": torch.zeros(2)})
    loaded = load_dual_ar(tmp_path)
    assert loaded.config == CONFIG
    assert same(loaded, model())


def test_split_projections_of_older_files_are_joined(tmp_path: Path) -> None:
    tensors = {}
    for name, tensor in model().state_dict().items():
        if ".wqkv." in name:
            sizes = [16, 8, 8] if name.startswith("layers") else [8, 4, 4]
            for part, piece in zip(("wq", "wk", "wv"), torch.split(tensor, sizes), strict=True):
                tensors[name.replace("wqkv", part)] = piece.clone()
        else:
            tensors[name] = tensor
    flat(tmp_path, tensors)
    assert same(load_dual_ar(tmp_path), model())
    del tensors["layers.0.attention.wk.weight"]
    flat(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=r"1 missing: layers\.0\.attention\.wk\.weight"):
        load_dual_ar(tmp_path)


def test_project_in_is_honoured_where_widths_would_not_need_it(tmp_path: Path) -> None:
    config = replace(CONFIG, fast=replace(FAST, dim=16), project_in=True)
    save_dual_ar(model(config), config, tmp_path)
    loaded = load_dual_ar(tmp_path)
    assert loaded.config.project_in
    assert same(loaded, model(config))


def test_without_project_in_the_hidden_state_passes_as_it_is(tmp_path: Path) -> None:
    config = replace(CONFIG, fast=replace(FAST, dim=16), project_in=False)
    save_dual_ar(model(config), config, tmp_path)
    loaded = load_dual_ar(tmp_path)
    assert not loaded.config.project_in
    state = torch.randn(2, 16)
    assert torch.equal(loaded.fast_project_in(state), state)


def test_an_untied_head_travels_too(tmp_path: Path) -> None:
    config = replace(CONFIG, tie_word_embeddings=False)
    save_dual_ar(model(config), config, tmp_path)
    assert same(load_dual_ar(tmp_path), model(config))


def test_8_bit_storage_keeps_matrices_within_half_a_step_and_the_rest_exact(tmp_path: Path) -> None:
    save_dual_ar(model(), CONFIG, tmp_path, int8=True)
    tensors = stored(tmp_path)
    assert tensors[WQKV].dtype == torch.int8
    loaded = load_dual_ar(tmp_path)
    for name, tensor in model().state_dict().items():
        difference = (loaded.state_dict()[name] - tensor).abs()
        if tensor.ndim == 1:
            assert not difference.any()
        else:
            assert (difference <= tensor.abs().amax(1, keepdim=True) / 127 * 0.51).all(), name


@pytest.mark.parametrize("scale_type", [torch.float16, torch.float32])
def test_an_8_bit_tensor_is_its_rows_times_their_scales(folder: Path, scale_type: torch.dtype) -> None:
    tensors = stored(folder)
    rows = torch.arange(-16, 16, dtype=torch.int8)[:, None].expand(-1, 16).contiguous()
    scale = torch.linspace(0.25, 8, 32).to(scale_type)
    store(folder, tensors | {WQKV: rows, f"{WQKV}.scale": scale})
    loaded = load_dual_ar(folder).state_dict()["layers.1.attention.wqkv.weight"]
    assert torch.equal(loaded, rows.float() * scale.float()[:, None])


def test_an_8_bit_tensor_without_its_scale_is_refused(folder: Path) -> None:
    tensors = stored(folder)
    tensors[WQKV] = torch.zeros(32, 16, dtype=torch.int8)
    store(folder, tensors)
    with pytest.raises(CheckpointError, match=r"layers.1.attention.wqkv.weight.scale must be \(32,\), is none"):
        load_dual_ar(folder)
    store(folder, tensors | {f"{WQKV}.scale": torch.ones(31)})
    with pytest.raises(CheckpointError, match=r"must be \(32,\), is of shape \(31,\)"):
        load_dual_ar(folder)
