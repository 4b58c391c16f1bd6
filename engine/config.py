"""What a checkpoint folder says about its shapes: config.json of the Dual-AR model in both its forms, and codec.json.

Knows field names, defaults and which value stands in for a missing one. Does not know tensors, nor token text beyond
looking up three names. Keys that nothing here reads are tolerated, as in the reference: published files carry training
leftovers.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

IM_END = "<|im_end|>"
_SEMANTIC = re.compile(r"<\|semantic:(\d+)\|>")

Json = dict[str, Any]


@dataclass(eq=False)
class ConfigError(Exception):
    """A folder's configuration cannot be used as it stands."""

    path: Path | None  # the file at fault, where there is one
    detail: str

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}" if self.path else self.detail


@dataclass(frozen=True, slots=True)
class StackConfig:
    """One transformer stack, slow or fast."""

    dim: int
    n_layer: int
    n_head: int
    n_kv_head: int  # heads of K and V; divides n_head
    head_dim: int  # n_head * head_dim need not be dim
    ffn_dim: int
    rope_base: float = 1e6
    norm_eps: float = 1e-6
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False

    def __post_init__(self) -> None:
        for name in ("dim", "n_layer", "n_head", "n_kv_head", "head_dim", "ffn_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(None, f"{name} must be positive, is {getattr(self, name)}")
        if self.n_head % self.n_kv_head:
            raise ConfigError(None, f"n_kv_head={self.n_kv_head} does not divide n_head={self.n_head}")
        if self.head_dim % 2:
            raise ConfigError(None, f"head_dim={self.head_dim} is odd; rotation needs pairs")

    @property
    def q_dim(self) -> int:
        """Width of all query heads."""
        return self.n_head * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all key heads (and of all value heads)."""
        return self.n_kv_head * self.head_dim


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The whole Dual-AR model. Source: spec 2.1 and 2.2."""

    slow: StackConfig
    fast: StackConfig
    vocab_size: int  # rows of the token table; may exceed the tokenizer's length
    codebook_size: int  # entries of the fast head, and the stride of every codebook in the codebook table
    num_codebooks: int  # rows of a frame, the semantic one included
    semantic_begin: int  # id of <|semantic:0|>
    semantic_end: int  # id of the last one, inclusive
    im_end: int  # id that ends a segment
    max_positions: int = 32768  # slow positions, prompt and frames together
    tie_word_embeddings: bool = True
    scale_codebook_embeddings: bool = True  # VQ positions are divided by sqrt(num_codebooks + 1)
    norm_fastlayer_input: bool = True  # the fast stack takes the hidden state after the final norm
    project_in: bool = False  # a linear map with bias stands before the fast stack; always so when its width differs

    def __post_init__(self) -> None:
        if not 0 <= self.semantic_begin <= self.semantic_end < self.vocab_size:
            raise ConfigError(
                None, f"semantic ids {self.semantic_begin}..{self.semantic_end} do not lie in 0..{self.vocab_size - 1}"
            )
        if not 0 <= self.im_end < self.vocab_size:
            raise ConfigError(None, f"im_end={self.im_end} does not lie in 0..{self.vocab_size - 1}")
        if self.num_codebooks < 2:
            raise ConfigError(None, f"num_codebooks={self.num_codebooks}: a frame has at least two")
        if self.slow.dim != self.fast.dim:
            object.__setattr__(self, "project_in", True)

    @property
    def n_semantic(self) -> int:
        """Semantic tokens, so the allowed output rows are n_semantic + 1."""
        return self.semantic_end - self.semantic_begin + 1

    @classmethod
    def from_json(cls, raw: Json, ids: SpecialIds | None = None) -> Self:
        """Read either form; `ids`, from the tokenizer, win over the file, as in the reference. Raises ConfigError."""
        ids = ids or SpecialIds()
        try:
            fields = _nested(raw) if "text_config" in raw else _flat(raw)
        except KeyError as missing:
            raise ConfigError(None, f"required field {missing} is missing") from None
        for name in ("semantic_begin", "semantic_end", "im_end"):
            value = getattr(ids, name)
            if value is not None:
                fields[name] = value
            elif fields[name] is None:
                raise ConfigError(None, f"neither the configuration nor the tokenizer gives {name}")
        return cls(**fields)

    def to_json(self) -> Json:
        """The nested form. Raises ConfigError for a model that it cannot express."""
        if not (self.scale_codebook_embeddings and self.norm_fastlayer_input):
            raise ConfigError(
                None, "the nested form always scales codebook embeddings and feeds the normed hidden state"
            )
        if (self.fast.rope_base, self.fast.norm_eps) != (self.slow.rope_base, self.slow.norm_eps):
            raise ConfigError(None, "the nested form has one rope_base and one norm_eps for both stacks")
        text = _stack_json(self.slow) | {
            "model_type": "fish_qwen3",
            "vocab_size": self.vocab_size,
            "max_seq_len": self.max_positions,
            "tie_word_embeddings": self.tie_word_embeddings,
        }
        audio = _stack_json(self.fast) | {
            "model_type": "fish_qwen3_audio_decoder",
            "vocab_size": self.codebook_size,
            "num_codebooks": self.num_codebooks,
            "text_dim": self.slow.dim,
            "max_seq_len": self.num_codebooks + 1,
            "tie_word_embeddings": False,
        }
        return {
            "model_type": "fish_qwen3_omni",
            "semantic_start_token_id": self.semantic_begin,
            "semantic_end_token_id": self.semantic_end,
            "eos_token_id": self.im_end,
            "text_config": text,
            "audio_decoder_config": audio,
        }


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids looked up by name in a tokenizer; None where it has no such token."""

    semantic_begin: int | None = None
    semantic_end: int | None = None
    im_end: int | None = None

    @classmethod
    def from_tokens(cls, tokens: dict[str, int]) -> Self:
        """tokens: text -> id of the added tokens. Raises ConfigError when the semantic ids have gaps."""
        semantic = sorted(id_ for text, id_ in tokens.items() if _SEMANTIC.fullmatch(text))
        if semantic and semantic[-1] - semantic[0] + 1 != len(semantic):
            raise ConfigError(None, f"the {len(semantic)} semantic tokens span ids {semantic[0]}..{semantic[-1]}")
        if not semantic:
            return cls(im_end=tokens.get(IM_END))
        return cls(semantic[0], semantic[-1], tokens.get(IM_END))


def load_model_config(folder: Path) -> ModelConfig:
    """config.json of a checkpoint folder, with ids from its tokenizer.json where there is one. Raises ConfigError."""
    path = folder / "config.json"
    tokenizer = folder / "tokenizer.json"
    tokens = {}
    if tokenizer.is_file():
        tokens = {token["content"]: token["id"] for token in read_json(tokenizer).get("added_tokens", [])}
    try:
        return ModelConfig.from_json(read_json(path), SpecialIds.from_tokens(tokens))
    except ConfigError as error:
        raise replace(error, path=error.path or path) from None


def read_json(path: Path) -> Json:
    """A JSON object. Raises ConfigError when the file is absent or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(path, "no such file") from None
    except ValueError as error:
        raise ConfigError(path, f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(path, f"holds {type(value).__name__}, not an object")
    return value


def _nested(raw: Json) -> Json:
    """Fields of ModelConfig from the `fish_qwen3_omni` form. Source: spec 2.1."""
    text = raw["text_config"]
    audio = raw.get("audio_decoder_config") or {}
    slow = _stack(text, {})
    # The reference takes rope_base and norm_eps of the fast stack from the text side, whatever its own side says.
    fast = replace(_stack(audio, text), rope_base=slow.rope_base, norm_eps=slow.norm_eps)
    return {
        "slow": slow,
        "fast": fast,
        "vocab_size": text["vocab_size"],
        "codebook_size": audio["vocab_size"],
        "num_codebooks": audio["num_codebooks"],
        "max_positions": text.get("max_seq_len", 32768),
        "tie_word_embeddings": text.get("tie_word_embeddings", True),
        "semantic_begin": raw.get("semantic_start_token_id"),
        "semantic_end": raw.get("semantic_end_token_id"),
        "im_end": raw.get("eos_token_id"),
    }


def _stack(own: Json, other: Json) -> StackConfig:
    """One stack of the nested form; a field that `own` lacks is taken from `other`."""
    merged = other | {name: value for name, value in own.items() if value is not None}
    n_head = merged["n_head"]
    kv = merged.get("n_local_heads", -1)
    return StackConfig(
        dim=merged["dim"],
        n_layer=merged["n_layer"],
        n_head=n_head,
        n_kv_head=n_head if kv == -1 else kv,
        head_dim=merged.get("head_dim") or merged["dim"] // n_head,
        ffn_dim=merged.get("intermediate_size") or _default_ffn_dim(merged["dim"]),
        rope_base=float(merged.get("rope_base", 1e6)),
        norm_eps=float(merged.get("norm_eps", 1e-6)),
        qk_norm=merged.get("attention_qk_norm", False),
        qkv_bias=merged.get("attention_qkv_bias", False),
        o_bias=merged.get("attention_o_bias", False),
    )


_BIAS_AND_NORM = ("attention_qkv_bias", "attention_o_bias", "attention_qk_norm")
_FLAT_DEFAULTS: Json = {
    "vocab_size": 32000,
    "n_layer": 32,
    "n_head": 32,
    "dim": 4096,
    "n_local_heads": -1,
    "head_dim": 64,
    "rope_base": 1e4,
    "norm_eps": 1e-5,
    "max_seq_len": 2048,
    "tie_word_embeddings": True,
    "codebook_size": 160,
    "num_codebooks": 4,
    "scale_codebook_embeddings": False,
    "norm_fastlayer_input": False,
    "n_fast_layer": 4,
    **dict.fromkeys(_BIAS_AND_NORM, False),
}


def _flat(raw: Json) -> Json:
    """Fields of ModelConfig from the `dual_ar` form. Source: spec 2.2."""
    values = _FLAT_DEFAULTS | raw
    slow = _stack(values, {})

    def fast(name: str, fallback: object) -> Any:
        value = values.get(f"fast_{name}")
        return fallback if value is None else value

    fast_values = {
        "dim": fast("dim", slow.dim),
        "n_layer": values["n_fast_layer"],
        "n_head": fast("n_head", slow.n_head),
        "n_local_heads": fast("n_local_heads", slow.n_kv_head),
        "head_dim": fast("head_dim", slow.head_dim),
        "intermediate_size": fast("intermediate_size", slow.ffn_dim),
        "rope_base": slow.rope_base,
        "norm_eps": slow.norm_eps,
        **{name: fast(name, values[name]) for name in _BIAS_AND_NORM},
    }
    return {
        "slow": slow,
        "fast": _stack(fast_values, {}),
        "vocab_size": values["vocab_size"],
        "codebook_size": values["codebook_size"],
        "num_codebooks": values["num_codebooks"],
        "max_positions": values["max_seq_len"],
        "tie_word_embeddings": values["tie_word_embeddings"],
        "scale_codebook_embeddings": values["scale_codebook_embeddings"],
        "norm_fastlayer_input": values["norm_fastlayer_input"],
        "semantic_begin": values.get("semantic_begin_id"),
        "semantic_end": values.get("semantic_end_id"),
        "im_end": values.get("eos_token_id"),
    }


def _default_ffn_dim(dim: int) -> int:
    """Two thirds of 4 * dim, rounded up to a multiple of 256: what the reference does when the file says nothing."""
    return -(-int(2 * 4 * dim / 3) // 256) * 256


def _stack_json(stack: StackConfig) -> Json:
    renamed = {"n_kv_head": "n_local_heads", "ffn_dim": "intermediate_size"}
    renamed |= {name.removeprefix("attention_"): name for name in _BIAS_AND_NORM}
    return {renamed.get(name, name): value for name, value in asdict(stack).items()}


@dataclass(frozen=True, slots=True)
class CodecTransformerConfig:
    """A windowed causal transformer of the codec (`wtr` in spec 7.2)."""

    dim: int
    n_layer: int
    n_head: int
    head_dim: int
    ffn_dim: int
    window: int  # keys a query attends to, its own included
    input_dim: int  # width outside; projections exist only where it differs from dim
    rope_base: float = 1e4
    norm_eps: float = 1e-5

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """One of codec.json's transformer objects. Raises KeyError for a missing field."""
        return cls(
            dim=raw["dim"],
            n_layer=raw["n_layer"],
            n_head=raw["n_head"],
            head_dim=raw["head_dim"],
            ffn_dim=raw["intermediate_size"],
            window=raw["window_size"],
            input_dim=raw["input_dim"] if "input_dim" in raw else raw["dim"],
            rope_base=float(raw.get("rope_base", 1e4)),
            norm_eps=float(raw.get("norm_eps", 1e-5)),
        )

    def to_json(self) -> Json:
        """What from_json reads."""
        raw = asdict(self)
        return raw | {"intermediate_size": raw.pop("ffn_dim"), "window_size": raw.pop("window")}


def _s2_transformer(n_layer: int, window: int) -> CodecTransformerConfig:
    return CodecTransformerConfig(
        dim=1024, n_layer=n_layer, n_head=16, head_dim=64, ffn_dim=3072, window=window, input_dim=1024
    )


@dataclass(frozen=True, slots=True)
class CodecConfig:
    """The codec's hyper-parameters. The defaults are S2 Pro's, which has no file for them. Source: spec 7."""

    sample_rate: int = 44100  # Hz
    encoder_dim: int = 64  # channels after the first convolution; each encoder block doubles them
    encoder_rates: tuple[int, ...] = (2, 4, 8, 8)  # strides of the encoder blocks
    encoder_transformer_layers: tuple[int, ...] = (0, 0, 0, 4)  # layers at the end of each encoder block
    encoder_transformer: CodecTransformerConfig = field(default_factory=lambda: _s2_transformer(4, 512))
    decoder_dim: int = 1536  # channels of the decoder's first convolution; each block halves them
    decoder_rates: tuple[int, ...] = (8, 8, 4, 2)  # strides of the decoder blocks
    latent_dim: int = 1024  # width between encoder, quantizer and decoder
    residual_codebooks: int = 9  # beside the semantic one
    codebook_size: int = 1024  # entries of a residual codebook
    semantic_codebook_size: int = 4096  # entries of codebook 0
    codebook_dim: int = 8  # width in which nearest entries are looked for
    downsample: tuple[int, ...] = (2, 2)  # strides between encoder and quantizer
    pre_module: CodecTransformerConfig = field(default_factory=lambda: _s2_transformer(8, 128))
    post_module: CodecTransformerConfig = field(default_factory=lambda: _s2_transformer(8, 128))

    def __post_init__(self) -> None:
        layers, rates = len(self.encoder_transformer_layers), len(self.encoder_rates)
        if layers != rates:
            raise ConfigError(None, f"encoder_transformer_layers has {layers} entries for {rates} encoder_rates")
        if math.prod(self.encoder_rates) != math.prod(self.decoder_rates):
            raise ConfigError(
                None, f"encoder_rates {self.encoder_rates} and decoder_rates {self.decoder_rates} differ in product"
            )

    @property
    def n_codebooks(self) -> int:
        """Rows of a frame: the semantic codebook and the residual ones."""
        return 1 + self.residual_codebooks

    @property
    def hop_samples(self) -> int:
        """Samples a latent at the encoder's output."""
        return math.prod(self.encoder_rates)

    @property
    def frame_samples(self) -> int:
        """Samples a frame of codes."""
        return self.hop_samples * math.prod(self.downsample)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """Read codec.json's object. Raises ConfigError."""
        try:
            quantizer = raw["quantizer"]
            return cls(
                sample_rate=raw["sample_rate"],
                encoder_dim=raw["encoder_dim"],
                encoder_rates=tuple(raw["encoder_rates"]),
                encoder_transformer_layers=tuple(raw["encoder_transformer_layers"]),
                encoder_transformer=CodecTransformerConfig.from_json(raw["encoder_transformer"]),
                decoder_dim=raw["decoder_dim"],
                decoder_rates=tuple(raw["decoder_rates"]),
                latent_dim=raw["latent_dim"],
                residual_codebooks=quantizer["n_codebooks"],
                codebook_size=quantizer["codebook_size"],
                semantic_codebook_size=quantizer["semantic_codebook_size"],
                codebook_dim=quantizer["codebook_dim"],
                downsample=tuple(quantizer["downsample_factor"]),
                pre_module=CodecTransformerConfig.from_json(quantizer["pre_module"]),
                post_module=CodecTransformerConfig.from_json(quantizer["post_module"]),
            )
        except KeyError as missing:
            raise ConfigError(None, f"required field {missing} is missing") from None

    def to_json(self) -> Json:
        """What from_json reads."""
        return {
            "sample_rate": self.sample_rate,
            "encoder_dim": self.encoder_dim,
            "encoder_rates": list(self.encoder_rates),
            "encoder_transformer_layers": list(self.encoder_transformer_layers),
            "encoder_transformer": self.encoder_transformer.to_json(),
            "decoder_dim": self.decoder_dim,
            "decoder_rates": list(self.decoder_rates),
            "latent_dim": self.latent_dim,
            "quantizer": {
                "input_dim": self.latent_dim,
                "n_codebooks": self.residual_codebooks,
                "codebook_size": self.codebook_size,
                "semantic_codebook_size": self.semantic_codebook_size,
                "codebook_dim": self.codebook_dim,
                "downsample_factor": list(self.downsample),
                "pre_module": self.pre_module.to_json(),
                "post_module": self.post_module.to_json(),
            },
        }


def load_codec_config(folder: Path) -> CodecConfig:
    """codec.json of a checkpoint folder, or S2 Pro's constants where there is none. Raises ConfigError."""
    path = folder / "codec.json"
    if not path.is_file():
        return CodecConfig()
    try:
        return CodecConfig.from_json(read_json(path))
    except ConfigError as error:
        raise replace(error, path=error.path or path) from None
