"""A checkpoint folder's codec weights, from the file to a Codec ready to run.

Knows both files: `codec.pth` as published (a pickle of tensors, weight norms not folded, stale buffers among them) and
`codec.safetensors` (plain folded names in any float type, or int8 with one scale a row). Loading is strict: whatever is
missing, unexpected or of another shape is named in one error. Does not know what the tensors are for (codec.py) or how
the folder got here (hub.py).
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from engine.codec import Codec, WindowTransformer
from engine.config import load_codec_config
from engine.random_weights import RandomWeights

Tensors = dict[str, Tensor]

# The two spellings of a weight norm (magnitude, direction). Published files mix them: parametrisations in encoder and
# decoder, the older form in the quantiser.
_WEIGHT_NORMS = (
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
    (".weight_g", ".weight_v"),
)
_STALE_BUFFERS = ("freqs_cis", "causal_mask")  # tables that the reference saves with every transformer, 302 MB of masks
_SCALE = ".scale"
_NAMED_IN_ERROR = 8  # of each kind: enough to recognise what is wrong; a file of another model has hundreds


@dataclass
class CodecWeightsError(Exception):
    """The folder's codec weights cannot be used."""

    path: Path  # the file at fault, or the folder that has none
    problems: tuple[str, ...]  # each a clause that names tensors

    def __str__(self) -> str:
        return f"{self.path}: {'; '.join(self.problems)}"


def load_codec(folder: Path, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Codec:
    """The folder's codec on `device`, in evaluation mode, its parameters without gradients.

    Takes `codec.safetensors` where there is one, else `codec.pth`; sizes are those of `codec.json`, else S2 Pro's.
    float32 is what gives the reference's codes; bfloat16 gives others. Raises CodecWeightsError and ConfigError.
    """
    if (random := RandomWeights.of(folder)) is not None:
        return random.codec(folder, device, dtype)
    with torch.device("meta"):
        codec = Codec(load_codec_config(folder))
    path, stored = _read(folder)
    stale = {
        f"{name}.{buffer}"
        for name, module in codec.named_modules()
        if isinstance(module, WindowTransformer)
        for buffer in _STALE_BUFFERS
    }
    tensors = {name: tensor for name, tensor in stored.items() if name not in stale}
    wanted = codec.state_dict()
    if problems := tuple(_problems(tensors, wanted)):
        raise CodecWeightsError(path, problems)
    # Copied even where neither device nor type changes: the file behind a mapped tensor may be replaced later.
    weights = {name: _plain(tensors, name).to(device, dtype, copy=True) for name in wanted}
    codec.load_state_dict(weights, strict=True, assign=True)
    return codec.to(device).eval().requires_grad_(False)


def _read(folder: Path) -> tuple[Path, Tensors]:
    """The weights file and its tensors, on the CPU; a mapped pickle reads only what is used of it."""
    plain, published = folder / "codec.safetensors", folder / "codec.pth"
    if plain.is_file():
        try:
            return plain, safetensors.torch.load_file(plain)
        except SafetensorError as error:
            raise CodecWeightsError(plain, (f"not a safetensors file: {error}",)) from error
    if not published.is_file():
        raise CodecWeightsError(folder, (f"has neither {plain.name} nor {published.name}",))
    try:
        mapped = zipfile.is_zipfile(published)  # the older pickle layout cannot be mapped
        raw = torch.load(published, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        raise CodecWeightsError(published, (f"not a pickle of tensors: {error}",)) from error
    return published, _unwrap(published, raw)


def _unwrap(path: Path, raw: object) -> Tensors:
    """The tensors of a state dict, also one below `state_dict` or among a whole training state under `generator.`."""
    if isinstance(raw, Mapping) and isinstance(raw.get("state_dict"), Mapping):
        raw = raw["state_dict"]
    named = isinstance(raw, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in raw.items())
    if not isinstance(raw, Mapping) or not named:
        raise CodecWeightsError(path, ("holds something else than tensors by name",))
    prefix = "generator."
    if any(name.startswith(prefix) for name in raw):
        return {name.removeprefix(prefix): tensor for name, tensor in raw.items() if name.startswith(prefix)}
    return dict(raw)


def _sources(tensors: Tensors, name: str) -> tuple[str, ...] | None:
    """Names of the stored tensors that weight `name` is made of, its own or its direction first; None if it is missing."""
    if name in tensors:
        scaled = tensors[name].dtype == torch.int8 and name + _SCALE in tensors
        return (name, name + _SCALE) if scaled else (name,)
    for magnitude, direction in _WEIGHT_NORMS:
        pair = name.removesuffix(".weight") + direction, name.removesuffix(".weight") + magnitude
        if name.endswith(".weight") and all(part in tensors for part in pair):
            return pair
    return None


def _problems(tensors: Tensors, wanted: Mapping[str, Tensor]) -> Iterator[str]:
    """What keeps `tensors` from being exactly the `wanted` weights, a clause for each kind."""
    missing: list[str] = []
    unusable: list[str] = []
    unexpected = set(tensors)
    for name, weight in wanted.items():
        sources = _sources(tensors, name)
        if sources is None:
            missing.append(name)
            continue
        unexpected.difference_update(sources)
        main, *factor = (tensors[source] for source in sources)
        stored_as_int8 = main.dtype == torch.int8 and sources == (name, name + _SCALE)
        if main.shape != weight.shape:
            unusable.append(f"{sources[0]} {list(main.shape)}, expected {list(weight.shape)}")
        elif factor and factor[0].numel() != weight.shape[0]:
            unusable.append(f"{sources[1]} {list(factor[0].shape)}, expected one for each of {weight.shape[0]} rows")
        elif not all(part.is_floating_point() for part in factor) or not (main.is_floating_point() or stored_as_int8):
            unusable.append(f"{sources[0]} is {main.dtype}" + (f" with {factor[0].dtype}" if factor else ""))
    for kind, names in (("missing", missing), ("unexpected", sorted(unexpected)), ("wrong", unusable)):
        if names:
            more = f" and {len(names) - _NAMED_IN_ERROR} more" if len(names) > _NAMED_IN_ERROR else ""
            yield f"{len(names)} {kind}: {', '.join(names[:_NAMED_IN_ERROR])}{more}"


def _plain(tensors: Tensors, name: str) -> Tensor:
    """Weight `name` in float32 arithmetic: as stored, widened from int8, or folded from its norm."""
    sources = _sources(tensors, name)
    assert sources is not None, "checked before"
    main, *factor = (tensors[source].float() for source in sources)
    if not factor:
        return main
    per_row = factor[0].reshape(-1, *[1] * (main.dim() - 1))
    if sources[0] == name:
        return main * per_row
    # Dimension 0 even for transposed convolutions, where it counts the inputs: so the norms were made.
    norm: Tensor = torch.linalg.vector_norm(main, dim=tuple(range(1, main.dim())), keepdim=True)
    return main * (per_row / norm)
