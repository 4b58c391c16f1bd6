"""Which files make up a model, and whose notice goes with it.

Knows the names in a checkpoint folder or repository, and the marks of the Fish Audio Research License. Does not know where
the folder came from (hub.py), nor what is in the weights (config.py, checkpoint.py, codec_weights.py).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

_INDEX = "model.safetensors.index.json"
RANDOM_WEIGHTS = "random_weights.json"  # stands for weights in a folder for measuring; see engine.random_weights


@dataclass(frozen=True, slots=True)
class Attribution:
    """What a licence wants shown wherever the model is offered."""

    notice: str
    built_with: str


FISH_AUDIO = Attribution(
    notice="This model is licensed under the Fish Audio Research License, Copyright (c) 39 AI, INC. All Rights Reserved.",
    built_with="Built with Fish Audio",
)


def missing_files(folder: Path) -> tuple[str, ...]:
    """What the engine would miss in a model folder, by name; empty for a complete one. Reads the index of sharded weights."""
    missing = missing_names({path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set())
    index = folder / _INDEX
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            return (*missing, f"a readable {_INDEX}")
        missing += tuple(shard for shard in sorted(shards) if not (folder / shard).is_file())
    return missing


def wanted_names(names: set[str]) -> list[str]:
    """Of a repository's files, the ones that the engine reads, and the licence."""
    weights, codec, _ = _weights_of(names)
    texts = {"config.json", "codec.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    texts |= {"alignment.json"}  # which heads follow the text, where somebody has asked
    licences = {name for name in names if "/" not in name and name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))}
    return sorted(names & (texts | weights | codec) | licences)


def missing_names(names: set[str]) -> tuple[str, ...]:
    """What is missing among a model's files, as far as names tell."""
    return tuple(name for name in ("config.json", "tokenizer.json") if name not in names) + (
        () if RANDOM_WEIGHTS in names else _weights_of(names)[2]
    )


def _weights_of(names: set[str]) -> tuple[set[str], set[str], tuple[str, ...]]:
    """The files of the weights, those of the codec's weights, and what there should be where there are none."""
    if _INDEX in names:
        weights = {_INDEX, *(name for name in names if re.fullmatch(r"model-[\w-]+\.safetensors", name))}
    else:
        weights = {next((name for name in ("model.safetensors", "model.pth") if name in names), "")} - {""}
    codec = {next((name for name in ("codec.safetensors", "codec.pth") if name in names), "")} - {""}
    missing = (() if weights else ("model.safetensors",)) + (() if codec else ("codec.pth",))
    return weights, codec, missing


def attribution_of(folder: Path, repo: str | None = None) -> Attribution | None:
    """The notice that goes with a model: known by its repository, by a licence file, or by the shape of S2 Pro itself."""
    if repo is not None and repo.split("/")[0].lower() == "fishaudio":
        return FISH_AUDIO
    if (folder / RANDOM_WEIGHTS).is_file():
        return None  # nobody's weights, whatever their shape
    for licence in folder.glob("[Ll][Ii][Cc][Ee][Nn][SsCc][Ee]*"):
        words = licence.read_text(encoding="utf-8", errors="replace").lower().split()
        if "fish audio research license" in " ".join(words):
            return FISH_AUDIO
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        slow = config["text_config"]
        is_s2_pro = (config["model_type"], slow["dim"], slow["n_layer"]) == ("fish_qwen3_omni", 2560, 36)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whoever loads the model says what is wrong with its config
    return FISH_AUDIO if is_s2_pro else None
