"""Tiny models with random weights, saved as transformers saves real ones: a CTC recogniser, a Whisper and an x-vector network.

Unrealistic: they hear nothing but noise, and are sure of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WavLMConfig,
    WavLMForXVector,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CTC_VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS, "'")
WHISPER_WINDOW_S = 2
WHISPER_LANGUAGES = ("<|en|>", "<|de|>", "<|zh|>")
_TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 8),
    "conv_stride": (8, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}


def save_ctc(folder: Path, seed: int = 0) -> Path:
    """A wav2vec 2.0 with a letter vocabulary."""
    _quiet(seed)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({token: i for i, token in enumerate(CTC_VOCABULARY)}))
    config = Wav2Vec2Config(**_TINY, vocab_size=len(CTC_VOCABULARY), pad_token_id=0)
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), Wav2Vec2CTCTokenizer(str(vocabulary))).save_pretrained(folder)
    return folder


def save_xvector(folder: Path, seed: int = 0) -> Path:
    """A WavLM with a speaker head of 12 dimensions."""
    _quiet(seed)
    heads = {"tdnn_dim": (8, 8, 8), "tdnn_kernel": (5, 3, 1), "tdnn_dilation": (1, 2, 1), "xvector_output_dim": 12}
    WavLMForXVector(WavLMConfig(**_TINY, **heads)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def save_whisper(folder: Path, seed: int = 0, multilingual: bool = True) -> Path:
    """A Whisper with a window of WHISPER_WINDOW_S that says some letters of whatever it hears."""
    _quiet(seed)
    controls = ["<|endoftext|>", "<|startoftranscript|>", *WHISPER_LANGUAGES, "<|translate|>", "<|transcribe|>"]
    controls += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    letters = [*LETTERS, "\u0120"]  # the last one is how byte-level tokenizers write a space
    tokenizer = WhisperTokenizer(vocab={c: i for i, c in enumerate(letters)}, merges=[], unk_token=controls[0])
    tokenizer.add_tokens(controls, special_tokens=True)
    tokenizer.add_tokens([f"<|{0.02 * i:.2f}|>" for i in range(50 * WHISPER_WINDOW_S + 1)])
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in controls}
    end = ids["<|endoftext|>"]
    names = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    names["decoder_start_token_id"] = ids["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=8, d_model=16, max_source_positions=50 * WHISPER_WINDOW_S, max_target_positions=24, **names,
        init_std=0.5, tie_word_embeddings=False,
        encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():  # letters win over time marks, which are many
        model.get_output_embeddings().weight[: len(letters)] *= 20
    model.generation_config = GenerationConfig(
        **names,
        max_length=16,
        suppress_tokens=[value for token, value in ids.items() if token != "<|endoftext|>"],
        begin_suppress_tokens=[end],
        no_timestamps_token_id=ids["<|notimestamps|>"],
        is_multilingual=multilingual,
        **(_languages(ids) if multilingual else {}),
    )
    for saved in (model, tokenizer, WhisperFeatureExtractor(feature_size=8, chunk_length=WHISPER_WINDOW_S)):
        saved.save_pretrained(folder)
    return folder


def _languages(ids: dict[str, int]) -> dict[str, Any]:
    tasks = {task: ids[f"<|{task}|>"] for task in ("translate", "transcribe")}
    return {"lang_to_id": {token: ids[token] for token in WHISPER_LANGUAGES}, "task_to_id": tasks}


def _quiet(seed: int) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(seed)
