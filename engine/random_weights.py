"""A model of a real shape with random weights: for measuring where no checkpoint is, or may be.

Knows the shapes by name, the folder that stands for such a model (a description instead of weights), and when it stops speaking. Does not
know how a load is made or timed.

What is unrealistic: codes and sound are noise, word times mean nothing, and nothing in the weights ever ends a segment. So its end is
forced (`ForcedEnds`): a segment lasts a log-normal multiple of what its text would take. Time and memory are those of real weights, since
what is computed does not depend on the numbers.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor

from engine.codec import CausalConv, Codec
from engine.config import (
    CodecConfig,
    CodecTransformerConfig,
    ConfigError,
    ModelConfig,
    StackConfig,
    load_codec_config,
    load_model_config,
    read_json,
)
from engine.model import DualAR
from engine.model_files import RANDOM_WEIGHTS

CHARS_PER_S: Final = 15.0  # of speech: 90 characters take 6 s
SPREAD: Final = 0.5  # sigma of the logarithm: a fifth of all segments takes half as long again as its text would
# Root mean square of the sound, full scale 1: so that whoever waits for an audible sample hears one.
LOUDNESS: Final = 0.1
_LOUDNESS_FRAMES = 4
_BYTES: Final = 256
_MERGED: Final = 8192  # tokens: with so many, English has 2.9 characters a token; real vocabularies have some 4


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model and its codec."""

    model: ModelConfig
    codec: CodecConfig


def _s2_pro() -> Shape:
    """Fish Audio S2 Pro (s2pro.md 2.1 and 7)."""
    stack = StackConfig(dim=2560, n_layer=36, n_head=32, n_kv_head=8, head_dim=128, ffn_dim=9728, qk_norm=True)
    fast = StackConfig(dim=2560, n_layer=4, n_head=32, n_kv_head=8, head_dim=128, ffn_dim=9728)
    begin = 151678
    model = ModelConfig(
        slow=stack,
        fast=fast,
        vocab_size=155776,
        codebook_size=4096,
        num_codebooks=10,
        semantic_begin=begin,
        semantic_end=begin + 4095,
        im_end=151645,
    )
    return Shape(model, CodecConfig())


def _tiny() -> Shape:
    """Everything that S2 Pro has, so small that a CPU speaks in milliseconds."""
    slow = StackConfig(dim=64, n_layer=2, n_head=4, n_kv_head=2, head_dim=16, ffn_dim=128, qk_norm=True)
    fast = StackConfig(dim=64, n_layer=2, n_head=4, n_kv_head=2, head_dim=16, ffn_dim=128)
    model = ModelConfig(
        slow=slow,
        fast=fast,
        vocab_size=512,
        codebook_size=64,
        num_codebooks=4,
        semantic_begin=320,
        semantic_end=383,
        im_end=301,
        max_positions=4096,
    )
    transformer = CodecTransformerConfig(dim=16, n_layer=1, n_head=1, head_dim=16, ffn_dim=32, window=16, input_dim=16)
    codec = CodecConfig(
        sample_rate=16000,
        encoder_dim=4,
        encoder_rates=(4, 4, 4),
        encoder_transformer_layers=(0, 0, 0),
        encoder_transformer=transformer,
        decoder_dim=16,
        decoder_rates=(4, 4, 4),
        latent_dim=16,
        residual_codebooks=3,
        codebook_size=32,
        semantic_codebook_size=64,
        pre_module=transformer,
        post_module=transformer,
    )
    return Shape(model, codec)


SHAPES: Final = {"s2-pro": _s2_pro, "tiny": _tiny}


@dataclass(frozen=True, slots=True)
class RandomWeights:
    """What stands in a folder in place of weights."""

    seed: int

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """None for a folder that has weights, or none of either. Raises ConfigError for a description that is none."""
        path = folder / RANDOM_WEIGHTS
        if not path.is_file():
            return None
        seed = read_json(path).get("seed")
        if not isinstance(seed, int):
            raise ConfigError(path, "names no seed")
        return cls(seed)

    def model(self, folder: Path, device: torch.device | str, dtype: torch.dtype) -> DualAR:
        """As `load_dual_ar` gives it."""
        with torch.device("meta"):
            model = DualAR(load_model_config(folder))
        model.load_state_dict(dict(self.tensors(folder, device, dtype)), assign=True)
        return model.to(device).eval().requires_grad_(False)

    def tensors(self, folder: Path, device: torch.device | str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the model by name: random matrices, made on the device in their dtype, one at a time."""
        with torch.device("meta"):
            shapes = DualAR(load_model_config(folder)).state_dict()
        noise = torch.Generator(device).manual_seed(self.seed)
        for name, value in shapes.items():
            yield name, _random(value, device, dtype, noise)

    def codec(self, folder: Path, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Codec:
        """As `load_codec` gives it."""
        config, where = load_codec_config(folder), torch.device(device)
        devices = [] if where.type == "cpu" else [where]
        with torch.random.fork_rng(devices=devices, device_type=where.type if devices else "cuda"):
            torch.manual_seed(self.seed)
            with where:
                codec = Codec(config)
        codec = codec.to(where).eval().requires_grad_(False)
        self._make_audible(codec, config)
        return codec.to(dtype)

    @torch.inference_mode()
    def _make_audible(self, codec: Codec, config: CodecConfig) -> None:
        sizes = [config.semantic_codebook_size] + [config.codebook_size] * config.residual_codebooks
        rng = random.Random(self.seed)
        rows = [[rng.randrange(size) for _ in range(_LOUDNESS_FRAMES)] for size in sizes]
        last = codec.decoder.model[len(config.decoder_rates) + 2]
        assert isinstance(last, CausalConv) and last.conv.bias is not None, "a decoder ends with a convolution"
        codes = torch.tensor([rows], device=last.conv.weight.device)
        loudness = codec.decode(codes).square().mean().sqrt()
        for value in (last.conv.weight, last.conv.bias):
            value.data.mul_(LOUDNESS / loudness)


def _random(value: Tensor, device: torch.device | str, dtype: torch.dtype, noise: torch.Generator) -> Tensor:
    """Matrices that keep the size of what they multiply, gains of one, no bias."""
    if value.dim() == 1:
        return torch.ones(value.shape, device=device, dtype=dtype)
    made = torch.empty(value.shape, device=device, dtype=dtype)
    return made.normal_(0.0, 1 / math.sqrt(value.shape[1]), generator=noise)


class ForcedEnds:
    """How many frames a segment gets: what its text takes at CHARS_PER_S, times a log-normal number whose mean is one."""

    def __init__(self, seed: int, frame_s: float) -> None:
        self._rng = random.Random(seed)
        self._frame_s = frame_s

    def frames(self, text: str) -> int:
        """Of the next segment; at least one."""
        factor = self._rng.lognormvariate(-SPREAD * SPREAD / 2, SPREAD)
        return max(1, round(factor * len(text) / CHARS_PER_S / self._frame_s))


def write_folder(shape: str, folder: Path, seed: int = 0) -> None:
    """A model folder of a shape of SHAPES that holds its sizes, a tokenizer of its own and a description, and no weights."""
    made = SHAPES[shape]()
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "config.json": made.model.to_json(),
        "codec.json": made.codec.to_json(),
        "tokenizer.json": _tokenizer(made.model),
        RANDOM_WEIGHTS: {"seed": seed},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content) + "\n", encoding="utf-8")


def _tokenizer(config: ModelConfig) -> dict[str, object]:
    """Byte pairs, merged as often as they are in our own prose, with the control tokens at the ids that the model has for them.

    Bytes alone where the model's ids do not reach further. Prompts would be three times as long then as a real tokenizer makes them.
    """
    names = {"<|im_start|>": config.im_end - 1, "<|im_end|>": config.im_end, "<|voice|>": config.semantic_begin - 5}
    names |= {f"<|semantic:{i}|>": config.semantic_begin + i for i in range(config.n_semantic)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    room = min(config.im_end - 1, config.semantic_begin - 5)
    return {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": name, **flags} for name, number in names.items()],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": _merges(min(_MERGED, room)),
    }


def _merges(most: int) -> dict[str, object]:
    """A tokenizer's model of at most so many tokens, learned from the modules beside this one: they are there wherever this is."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    assert len(alphabet) == _BYTES <= most, "byte-level text has a character for each byte"
    trainer = trainers.BpeTrainer(vocab_size=most, initial_alphabet=alphabet, show_progress=False, min_frequency=2)
    texts = (path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py")))
    learned.train_from_iterator(texts, trainer)
    model: dict[str, object] = json.loads(learned.to_str())["model"]
    return model
