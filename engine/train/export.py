"""Stage `export`: trained weights become a checkpoint folder that the engine loads.

Knows the folder's files and the byte-level tokenizer. Does not know training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from engine.checkpoint import quantized, save_dual_ar
from engine.codec import Codec
from engine.model import DualAR
from engine.train.designs import BYTES, SEMANTIC_BEGIN, SPECIALS, Design

LARGEST_BYTES = 24_000_000  # of all weights together: they are committed


def export(design: Design, ar: Path, folder: Path) -> int:
    """Add the model, in 8 bits, and the tokenizer to a folder in which `save_codec` has put the codec.

    Returns the bytes of all weights. Raises ValueError when they are too many to be committed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = DualAR(design.model_config())
    model.load_state_dict(torch.load(ar, map_location="cpu", weights_only=True))
    save_dual_ar(model, design.model_config(), folder, int8=True)
    (folder / "config.json").write_text(json.dumps(design.model, indent=1) + "\n")
    write_tokenizer(folder, design.model_config().n_semantic)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if size > LARGEST_BYTES:
        raise ValueError(f"the weights take {size} bytes, more than {LARGEST_BYTES}")
    return size


def save_codec(design: Design, codec: Codec, folder: Path) -> None:
    """Matrices and convolutions in 8 bits with a scale a row; what is small or chosen by nearness stays in 16.

    Done before anything is encoded, so that the language model learns the codes of the codec that is shipped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, value in codec.cpu().state_dict().items():
        wide = value.ndim >= 2 and value.numel() >= 4096 and "codebook" not in name
        tensors |= quantized(name, value) if wide else {name: value.half().contiguous()}
    safetensors.torch.save_file(tensors, folder / "codec.safetensors")
    (folder / "codec.json").write_text(json.dumps(design.codec, indent=1) + "\n")


def write_tokenizer(folder: Path, n_semantic: int) -> None:
    """tokenizer.json and tokenizer_config.json: one token a byte (its id is the byte), no merges, then the added tokens."""
    names = (*SPECIALS, *(f"<|semantic:{i}|>" for i in range(n_semantic)))
    assert BYTES + len(SPECIALS) == SEMANTIC_BEGIN
    added = [
        {
            "id": BYTES + i,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, name in enumerate(names)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {char: byte for byte, char in enumerate(_byte_characters())}, "merges": [],
        },
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")) + "\n")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "model_max_length": 4096,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")


def _byte_characters() -> list[str]:
    """The printable character by which byte-level tokenizers write each byte: itself, or one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    characters, moved = [], 0
    for byte in range(BYTES):
        characters.append(chr(byte) if byte in printable else chr(0x100 + moved))
        moved += byte not in printable
    return characters
