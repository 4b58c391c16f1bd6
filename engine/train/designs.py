"""Sizes of the mini checkpoint and of its tiny double for tests, as the JSON that goes into the checkpoint folder.

Knows numbers and token ids. Does not know how anything is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.config import CodecConfig, ModelConfig

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|pad|>",
    "<|phoneme_start|>",
    "<|phoneme_end|>",
    "<|text|>",
    "<|voice|>",
    "<|interleave|>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<|audio_pad|>",
)  # ids from 256 on, after the 256 bytes; then <|semantic:0|> ..
BYTES = 256
SEMANTIC_BEGIN = BYTES + len(SPECIALS)


@dataclass(frozen=True, slots=True)
class Design:
    """One size of everything that is shipped."""

    codec: dict[str, Any]  # codec.json
    model: dict[str, Any]  # config.json

    def codec_config(self) -> CodecConfig:
        return CodecConfig.from_json(self.codec)

    def model_config(self) -> ModelConfig:
        return ModelConfig.from_json(self.model)


def special_id(name: str) -> int:
    """Id of one of SPECIALS."""
    return BYTES + SPECIALS.index(name)


def _transformer(dim: int, layers: int, heads: int, head_dim: int, ffn: int, window: int) -> dict[str, Any]:
    return {
        "dim": dim, "n_layer": layers, "n_head": heads, "head_dim": head_dim, "intermediate_size": ffn,
        "window_size": window, "input_dim": dim, "rope_base": 10000.0, "norm_eps": 1e-5,
    }  # fmt: skip


def _codec(
    encoder_dim: int,
    decoder_dim: int,
    latent: int,
    codebooks: int,
    entries: int,
    transformer: dict[str, Any],
    pre: int,
    post: int,
) -> dict[str, Any]:
    return {
        "sample_rate": 22050,
        "encoder_dim": encoder_dim,
        "encoder_rates": [4, 4, 4, 4],
        "encoder_transformer_layers": [0, 0, 0, 0],
        "encoder_transformer": transformer | {"n_layer": 0},
        "decoder_dim": decoder_dim,
        "decoder_rates": [8, 8, 4],
        "latent_dim": latent,
        "quantizer": {
            "input_dim": latent,
            "n_codebooks": codebooks - 1,
            "codebook_size": entries,
            "semantic_codebook_size": entries,
            "codebook_dim": 8,
            "downsample_factor": [2, 2],
            "pre_module": transformer | {"n_layer": pre},
            "post_module": transformer | {"n_layer": post},
        },
    }


def _stack(dim: int, layers: int, heads: int, kv_heads: int, head_dim: int, ffn: int, qk_norm: bool) -> dict[str, Any]:
    return {
        "dim": dim, "n_layer": layers, "n_head": heads, "n_local_heads": kv_heads, "head_dim": head_dim, "intermediate_size": ffn,
        "rope_base": 10000.0, "norm_eps": 1e-6, "attention_qk_norm": qk_norm, "attention_qkv_bias": False, "attention_o_bias": False,
    }  # fmt: skip


def _model(slow: dict[str, Any], fast: dict[str, Any], codebooks: int, entries: int) -> dict[str, Any]:
    vocabulary = -(-(SEMANTIC_BEGIN + entries) // 16) * 16
    return {
        "model_type": "fish_qwen3_omni",
        "max_history_s": 40.0,  # of ours: how much heard speech a prompt may hold
        "scripts": ["Latin"],  # of ours: what it can read aloud, as Unicode names scripts; other text gets a warning instead of noise
        "numbers_in_words": True,  # of ours: digits and symbols should reach it written out
        "semantic_start_token_id": SEMANTIC_BEGIN,
        "semantic_end_token_id": SEMANTIC_BEGIN + entries - 1,
        "eos_token_id": special_id("<|im_end|>"),
        "pad_token_id": special_id("<|pad|>"),
        "audio_pad_token_id": special_id("<|audio_pad|>"),
        "text_config": slow
        | {"model_type": "fish_qwen3", "vocab_size": vocabulary, "max_seq_len": 4096, "tie_word_embeddings": True},
        "audio_decoder_config": fast
        | {
            "model_type": "fish_qwen3_audio_decoder", "vocab_size": entries, "num_codebooks": codebooks, "text_dim": slow["dim"],
            "max_seq_len": codebooks + 1, "tie_word_embeddings": False,
        },
    }  # fmt: skip


MINI = Design(
    # The window is shorter than the crops that the codec is trained on, so that serving asks for no distance it has never seen.
    codec=_codec(24, 256, 160, 6, 1024, _transformer(160, 2, 3, 64, 448, 16), pre=2, post=3),
    # One head of keys and values: at eight streams with a thousand positions each, reading these was the largest part of a step.
    model=_model(_stack(448, 5, 6, 1, 64, 1152, True), _stack(320, 2, 4, 1, 64, 832, False), 6, 1024),
)
TINY = Design(
    codec=_codec(4, 32, 16, 8, 64, _transformer(16, 1, 1, 16, 32, 16), pre=1, post=1),
    model=_model(_stack(32, 2, 2, 1, 16, 64, True), _stack(32, 1, 2, 1, 16, 64, False), 8, 64),
)
