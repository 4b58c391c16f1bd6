"""Both forms of config.json and codec.json become the same frozen values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.config import (
    CodecConfig,
    ConfigError,
    ModelConfig,
    SpecialIds,
    StackConfig,
    load_codec_config,
    load_model_config,
)

FLAT = {"model_type": "dual_ar", "semantic_begin_id": 100, "semantic_end_id": 259, "eos_token_id": 5}


def nested() -> dict[str, Any]:
    """A small nested configuration with nothing optional in it."""
    return {
        "semantic_start_token_id": 20,
        "semantic_end_token_id": 29,
        "eos_token_id": 3,
        "text_config": {"vocab_size": 40, "dim": 16, "n_layer": 2, "n_head": 4, "head_dim": 8, "intermediate_size": 24},
        "audio_decoder_config": {"vocab_size": 10, "num_codebooks": 3},
    }


def test_nested_form_is_read_whole(s2pro: Path) -> None:
    config = load_model_config(s2pro)
    assert config == ModelConfig(
        slow=StackConfig(dim=64, n_layer=3, n_head=4, n_kv_head=2, head_dim=32, ffn_dim=160, qk_norm=True),
        fast=StackConfig(dim=48, n_layer=2, n_head=4, n_kv_head=2, head_dim=24, ffn_dim=112),
        vocab_size=4672,
        codebook_size=4096,
        num_codebooks=10,
        semantic_begin=551,
        semantic_end=4646,
        im_end=541,
        max_positions=4096,
        project_in=True,
    )
    assert (config.n_semantic, config.slow.q_dim, config.slow.kv_dim) == (4096, 128, 64)


def test_nested_form_survives_a_round_trip(s2pro: Path) -> None:
    config = load_model_config(s2pro)
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_fast_stack_takes_what_it_does_not_say_from_the_slow_one() -> None:
    config = ModelConfig.from_json(nested())
    assert config.fast == config.slow
    assert not config.project_in


def test_fast_stack_never_has_a_base_or_epsilon_of_its_own() -> None:
    raw = nested()
    raw["text_config"] |= {"rope_base": 5000, "norm_eps": 1e-3}
    raw["audio_decoder_config"] |= {"rope_base": 77, "norm_eps": 1e-9}
    fast = ModelConfig.from_json(raw).fast
    assert (fast.rope_base, fast.norm_eps) == (5000.0, 1e-3)


def test_nested_form_scales_and_normalises_whatever_it_says() -> None:
    config = ModelConfig.from_json(nested() | {"scale_codebook_embeddings": False, "norm_fastlayer_input": False})
    assert config.scale_codebook_embeddings
    assert config.norm_fastlayer_input


def test_flat_form_has_the_references_defaults() -> None:
    config = ModelConfig.from_json(FLAT)
    stack = StackConfig(
        dim=4096, n_layer=32, n_head=32, n_kv_head=32, head_dim=64, ffn_dim=11008, rope_base=1e4, norm_eps=1e-5
    )
    assert config.slow == stack
    assert config.fast == replace(stack, n_layer=4)
    assert (config.vocab_size, config.max_positions, config.codebook_size, config.num_codebooks) == (
        32000,
        2048,
        160,
        4,
    )
    assert config.tie_word_embeddings
    assert not config.scale_codebook_embeddings
    assert not config.norm_fastlayer_input


def test_flat_forms_own_values_win() -> None:
    raw = FLAT | {
        "dim": 128,
        "n_head": 4,
        "head_dim": None,
        "n_local_heads": 2,
        "intermediate_size": 200,
        "attention_qk_norm": True,
        "scale_codebook_embeddings": True,
        "norm_fastlayer_input": True,
        "n_fast_layer": 1,
        "fast_dim": 64,
        "fast_head_dim": 16,
        "fast_attention_qk_norm": False,
        "fast_attention_o_bias": True,
        "tie_word_embeddings": False,
    }
    config = ModelConfig.from_json(raw)
    assert (config.slow.head_dim, config.slow.n_kv_head, config.slow.ffn_dim, config.slow.qk_norm) == (32, 2, 200, True)
    assert (config.fast.dim, config.fast.head_dim, config.fast.n_head, config.fast.n_kv_head) == (64, 16, 4, 2)
    assert (config.fast.qk_norm, config.fast.o_bias, config.fast.n_layer) == (False, True, 1)
    assert config.scale_codebook_embeddings
    assert config.norm_fastlayer_input
    assert config.project_in
    assert not config.tie_word_embeddings


def test_ids_of_the_tokenizer_win_over_the_file() -> None:
    config = ModelConfig.from_json(nested(), SpecialIds(semantic_begin=21, semantic_end=30, im_end=4))
    assert (config.semantic_begin, config.semantic_end, config.im_end) == (21, 30, 4)


def test_semantic_ids_come_from_the_tokenizers_names(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(nested()))
    tokens = {"<|im_end|>": 2, "<|semantic:0|>": 30, "<|semantic:1|>": 31, "<|semantics|>": 35}
    added = [{"id": id_, "content": text} for text, id_ in tokens.items()]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    config = load_model_config(tmp_path)
    assert (config.semantic_begin, config.semantic_end, config.im_end) == (30, 31, 2)


def test_semantic_ids_with_a_gap_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 semantic tokens span ids 5\.\.7"):
        SpecialIds.from_tokens({"<|semantic:0|>": 5, "<|semantic:1|>": 7})


@pytest.mark.parametrize("field", ["vocab_size", "dim", "n_layer", "n_head"])
def test_a_missing_field_is_named_with_its_file(field: str, tmp_path: Path) -> None:
    raw = nested()
    del raw["text_config"][field]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=field) as caught:
        load_model_config(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))


def test_ids_that_nobody_gives_are_named() -> None:
    with pytest.raises(ConfigError, match="gives im_end"):
        ModelConfig.from_json({name: value for name, value in FLAT.items() if name != "eos_token_id"})


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("text_config", {"n_local_heads": 3}, "n_kv_head=3 does not divide n_head=4"),
        ("text_config", {"head_dim": 7}, "head_dim=7 is odd"),
        ("text_config", {"n_layer": 0}, "n_layer must be positive"),
        ("text_config", {"vocab_size": 25}, r"semantic ids 20\.\.29 do not lie in 0\.\.24"),
        ("audio_decoder_config", {"num_codebooks": 1}, "num_codebooks=1"),
    ],
)
def test_impossible_sizes_are_refused(part: str, change: dict[str, int], message: str) -> None:
    raw = nested()
    raw[part] |= change
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_json(raw)


def test_a_file_that_is_absent_or_no_object_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_model_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_model_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds list, not an object"):
        load_model_config(tmp_path)


def test_what_the_nested_form_cannot_say_is_not_written() -> None:
    config = ModelConfig.from_json(nested())
    with pytest.raises(ConfigError, match="normed hidden state"):
        replace(config, norm_fastlayer_input=False).to_json()
    with pytest.raises(ConfigError, match="one rope_base"):
        replace(config, fast=replace(config.fast, rope_base=1.0)).to_json()


def test_codec_configuration_is_read_whole_and_survives_a_round_trip(s2pro: Path) -> None:
    config = load_codec_config(s2pro)
    assert (config.sample_rate, config.hop_samples, config.frame_samples, config.n_codebooks) == (44100, 512, 2048, 10)
    assert (config.latent_dim, config.pre_module.n_layer, config.post_module.window) == (64, 3, 16)
    assert config.encoder_transformer.window == 512
    assert CodecConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_without_codec_json_the_codec_is_s2_pros(tmp_path: Path) -> None:
    config = load_codec_config(tmp_path)
    assert (config.encoder_dim, config.decoder_dim, config.latent_dim) == (64, 1536, 1024)
    assert (config.frame_samples, config.n_codebooks, config.semantic_codebook_size) == (2048, 10, 4096)
    assert (config.encoder_transformer.window, config.post_module.window, config.post_module.n_layer) == (512, 128, 8)


def test_codec_configurations_that_cannot_be_are_refused(s2pro: Path, tmp_path: Path) -> None:
    raw = json.loads((s2pro / "codec.json").read_text())
    path = tmp_path / "codec.json"
    for change, message in (
        ({"encoder_rates": [2, 4, 8]}, "4 entries for 3 encoder_rates"),
        ({"decoder_rates": [8, 8, 4, 4]}, "differ in product"),
    ):
        path.write_text(json.dumps(raw | change))
        with pytest.raises(ConfigError, match=message):
            load_codec_config(tmp_path)
    path.write_text(json.dumps({name: value for name, value in raw.items() if name != "latent_dim"}))
    with pytest.raises(ConfigError, match="'latent_dim' is missing"):
        load_codec_config(tmp_path)
