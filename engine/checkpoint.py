"""The Dual-AR weights on disk: read strictly, in every layout that exists, and written in the nested one.

Knows file names, key names and 8-bit storage. Does not know the codec's file (`engine.codec_weights`) or the arithmetic.
The reference loads with strict=False, so that a wrong name fails silently; here a checkpoint fits exactly or is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.config import ModelConfig, load_model_config, read_json
from engine.model import DualAR
from engine.packed import eight_bit
from engine.quantize import Quantized, is_put, is_quantized, joined, put, to_format
from engine.random_weights import RandomWeights

Matrix = TypeVar("Matrix", Tensor, Quantized)

_INDEX, _SINGLE, _PICKLE = "model.safetensors.index.json", "model.safetensors", "model.pth"
_TEXT, _AUDIO, _TABLE = "text_model.model.", "audio_decoder.", "codebook_embeddings."
_SHOWN = 8  # keys that an error lists of each kind; a wrong prefix would otherwise list hundreds


@dataclass(eq=False)
class CheckpointError(Exception):
    """A folder's weights are not those of the model that its config.json describes."""

    path: Path
    detail: str = ""
    missing: list[str] = field(default_factory=list)  # names that the model has and the files lack
    unexpected: list[str] = field(default_factory=list)  # names that the files have and the model lacks
    misshapen: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)  # name, expected, found

    def __str__(self) -> str:
        shapes = [f"{name} (expected {want}, found {found})" for name, want, found in self.misshapen]
        listed = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", shapes))
        parts = [self.detail] if self.detail else []
        for title, names in listed:
            if names:
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                parts.append(f"{len(names)} {title}: {', '.join(names[:_SHOWN])}{more}")
        return f"{self.path}: {'; '.join(parts)}"


def load_dual_ar(
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantize: str | None = None,
) -> DualAR:
    """The model of a checkpoint folder, in eval mode, without gradients; `prepare_serving` is left to the caller.

    quantize: a format of `engine.quantize` for the slow stack's matrices, which the device can have. Weights go to the device one at a time
    and are quantised there one by one, so it never holds more than the finished model and a tensor. Raises ConfigError, QuantizeError, or
    CheckpointError, which names keys and shapes.
    """
    config = load_model_config(folder)
    read = _Weights(folder, torch.device(device), dtype, quantize)
    if "fast_project_in.weight" in read.plain:
        config = replace(config, project_in=True)  # honoured where it is on disk, though equal widths do not need it
    with torch.device("meta"):
        model = DualAR(config)
    _check_fit(folder, model, read.plain, read.quantized)
    for number, block in enumerate(model.layers):
        if quantize is not None:
            put(block, f"layers.{number}", read.quantized)  # type: ignore[arg-type]
    model.load_state_dict(read.plain, assign=True)
    model.stored_8_bit = read.stored_8_bit
    return model.to(device).eval().requires_grad_(False)


def save_dual_ar(
    model: DualAR, config: ModelConfig, folder: Path, int8: bool = False, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write config.json and model.safetensors in the nested form. Matrices become `dtype`, or int8 with a scale a row.

    Raises ConfigError for a configuration that the nested form cannot express. The tokenizer's files are not written.
    """
    assert not is_put(model.layers[0]), "what is quantised for serving is no checkpoint any more"  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_json(), indent=2) + "\n", encoding="utf-8")
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        value = tensor.detach().cpu()
        if int8 and value.ndim == 2:
            tensors |= quantized(_disk_name(name), value)
        else:
            # A copy, because w1 and w3 of a model that serves share memory, which the format refuses.
            tensors[_disk_name(name)] = value.to(dtype, copy=True).contiguous()
    save_file(tensors, folder / _SINGLE, metadata={"format": "pt"})


def quantized(name: str, matrix: Tensor) -> dict[str, Tensor]:
    """8-bit storage of a tensor: NAME as int8 and NAME.scale, one bfloat16 for each entry of dim 0; `widened` undoes it."""
    rows, scale = eight_bit(matrix)
    return {name: rows, f"{name}.scale": scale.bfloat16()}  # exact: see eight_bit


def widened(path: Path, weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors in `dtype`, int8 ones times their scale. Consumes `weights`. Raises CheckpointError for one without a scale."""
    wide = {}
    for name in [name for name in weights if not _is_scale(name, weights)]:
        value = weights.pop(name)
        if value.dtype != torch.int8:
            wide[name] = value.to(dtype)
            continue
        scale = weights.pop(f"{name}.scale", None)
        if scale is None or scale.shape != value.shape[:1]:
            found = "none" if scale is None else f"of shape {tuple(scale.shape)}"
            raise CheckpointError(
                path, f"{name} is int8 {tuple(value.shape)}: its {name}.scale must be {(value.shape[0],)}, is {found}"
            )
        wide[name] = (value.float() * scale.float().view(-1, *(1,) * (value.ndim - 1))).to(dtype)
    return wide


def _is_scale(name: str, weights: dict[str, Tensor]) -> bool:
    owner = weights.get(name.removesuffix(".scale")) if name.endswith(".scale") else None
    return owner is not None and owner.dtype == torch.int8


class _Weights:
    """Every tensor of a folder under its internal name."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, quantize: str | None) -> None:
        raw: dict[str, Tensor] = {}
        waiting: dict[str, Tensor] = {}  # stored in 8 bits, to be quantised: on the CPU, as they may get smaller
        self.stored_8_bit = False  # are the blocks' matrices
        self.quantized: dict[str, Quantized] = {}
        for disk_name, tensor in _tensors(folder, device, dtype):
            name = _internal_name(disk_name)
            small, exact = tensor.dtype == torch.int8, tensor.dtype == torch.int8 or name.endswith(".scale")
            self.stored_8_bit |= small and "layers." in name
            if quantize is None or not is_quantized(name.removesuffix(".scale")):
                # Floats shrink or grow before they travel, so that the largest single tensor bounds what is held twice.
                raw[name] = tensor.to(device) if exact else tensor.to(device, dtype)
            elif exact:
                waiting[name] = tensor
            else:
                self.quantized[name] = to_format(tensor.to(device), quantize)
        if quantize is not None:
            for name in [name for name in waiting if not _is_scale(name, waiting)]:
                self.quantized[name] = _from_8_bits(folder, waiting, name, device, quantize)
        self.plain = _join_legacy(folder, widened(folder, raw, dtype), torch.cat)
        self.quantized = _join_legacy(folder, self.quantized, joined)


def _from_8_bits(path: Path, weights: dict[str, Tensor], name: str, device: torch.device, format: str) -> Quantized:
    """One that is stored in 8 bits, and its scale; they leave `weights`. Raises CheckpointError for one without a scale."""
    stored = {key: weights.pop(key) for key in (name, f"{name}.scale") if key in weights}
    if format == "int8" and f"{name}.scale" in stored:
        rows, scale = stored[name], stored[f"{name}.scale"].bfloat16()
        if scale.shape == rows.shape[:1]:
            return Quantized(format, rows.to(device), scale.to(device))
    (matrix,) = widened(path, stored, torch.float32).values()
    return to_format(matrix.to(device), format)


def _tensors(folder: Path, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Name on disk and tensor, file after file. The reference's order: an index, a single file, a pickle.

    device, dtype: for weights that are on no disk; all others come as they are.
    """
    if (random := RandomWeights.of(folder)) is not None:
        yield from random.tensors(folder, device, dtype)
    elif (folder / _INDEX).is_file():
        yield from _sharded(folder)
    elif (folder / _SINGLE).is_file():
        yield from _safetensors(folder / _SINGLE)
    elif (folder / _PICKLE).is_file():
        yield from _pickled(folder / _PICKLE)
    else:
        raise CheckpointError(folder, f"none of {_INDEX}, {_SINGLE} and {_PICKLE} exists")


def _sharded(folder: Path) -> Iterator[tuple[str, Tensor]]:
    places = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(places, dict):
        raise CheckpointError(folder / _INDEX, "holds no weight_map")
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            raise CheckpointError(folder / _INDEX, f"{shard!r} is not a file name beside it")
        if not (folder / shard).is_file():
            raise CheckpointError(folder / shard, "a shard that the index names does not exist")
        promised = {name for name, place in places.items() if place == shard}
        for name, tensor in _safetensors(folder / shard):
            promised.discard(name)
            yield name, tensor
        if promised:
            raise CheckpointError(
                folder / shard, "the index promises more than the shard holds", missing=sorted(promised)
            )


def _safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dict)
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise CheckpointError(path, f"not a safetensors file: {error}") from error


def _pickled(path: Path) -> Iterator[tuple[str, Tensor]]:
    """An older file of the flat form: `model.` before every name, and leftovers of an audio encoder that nothing uses."""
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    for name, tensor in loaded.get("state_dict", loaded).items():
        if "audio_" not in name:
            yield name.removeprefix("model."), tensor


def _internal_name(name: str) -> str:
    """The model's name of a tensor on disk (spec 2.3); names of the flat form are internal ones already."""
    if name.startswith(_AUDIO):
        name = name.removeprefix(_AUDIO)
        return name if name.startswith(_TABLE) else f"fast_{name}"
    return name.removeprefix(_TEXT)


def _disk_name(name: str) -> str:
    """The inverse of `_internal_name`, in the nested form."""
    if name.startswith(_TABLE):
        return _AUDIO + name
    return _AUDIO + name.removeprefix("fast_") if name.startswith("fast_") else _TEXT + name


def _join_legacy(path: Path, weights: dict[str, Matrix], join: Callable[[list[Matrix]], Matrix]) -> dict[str, Matrix]:
    """Older files of the flat form keep wq, wk and wv apart."""
    for query in [name for name in weights if ".attention.wq." in name]:
        names = [query.replace(".wq.", f".{part}.") for part in ("wq", "wk", "wv")]
        absent = [name for name in names if name not in weights]
        if absent:
            raise CheckpointError(path, missing=absent)
        weights[query.replace(".wq.", ".wqkv.")] = join([weights.pop(name) for name in names])
    return weights


def _check_fit(path: Path, model: DualAR, weights: dict[str, Tensor], matrices: dict[str, Quantized]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in (weights | matrices).items()}
    error = CheckpointError(
        path,
        missing=sorted(wanted.keys() - found.keys()),
        unexpected=sorted(found.keys() - wanted.keys()),
        misshapen=[
            (name, wanted[name], found[name]) for name in wanted if name in found and wanted[name] != found[name]
        ],
    )
    if error.missing or error.unexpected or error.misshapen:
        raise error
