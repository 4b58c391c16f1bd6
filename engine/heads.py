"""Which attention heads of a checkpoint follow the text: data beside the weights, in alignment.json.

Knows the file and to which weights it belongs. Does not know tensors, nor how heads are chosen (`engine.align`) or used (`engine.gaze`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from engine.config import ConfigError, StackConfig, read_json

log = logging.getLogger("parley.engine")

FILE = "alignment.json"
_BLOCK_BYTES = 1 << 16
_BLOCKS = 16  # of each file: weights that were trained on differ nearly everywhere, and S2 Pro's files have 9 GB


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """A query head of the slow stack."""

    layer: int
    head: int


@dataclass(frozen=True, slots=True)
class ChosenHeads:
    """What alignment.json says."""

    heads: tuple[Head, ...]  # at least one; what they look at is averaged
    weights: str  # `weights_id` of the weights that they were chosen on
    score: float  # of all together on the sentences that they were chosen with, in [0, 1]; see engine.align

    @classmethod
    def load(cls, folder: Path, stack: StackConfig) -> Self | None:
        """None where the folder has no such file, or one that was made for other weights (logged: `engine.align` makes it anew).

        Raises ConfigError for a file that says something else, or names heads that the model does not have.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        raw = read_json(path)
        try:
            heads = tuple(Head(int(layer), int(head)) for layer, head in raw["heads"])
            chosen = cls(heads, str(raw["weights"]), float(raw["score"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(path, f"is not what engine.align writes ({error!r})") from error
        if chosen.weights != weights_id(folder):
            log.warning("%s was made for other weights; word times are estimated. Make it anew: engine.align", path)
            return None
        if not heads:
            raise ConfigError(path, "names no head")
        for head in heads:
            if not (0 <= head.layer < stack.n_layer and 0 <= head.head < stack.n_head):
                raise ConfigError(path, f"{head} is none of {stack.n_layer} layers of {stack.n_head} heads")
        return chosen

    def save(self, folder: Path) -> Path:
        """Write the file. Returns its path."""
        path = folder / FILE
        heads = [[head.layer, head.head] for head in self.heads]
        text = json.dumps({"heads": heads, "weights": self.weights, "score": round(self.score, 3)}, indent=1)
        path.write_text(text + "\n", encoding="utf-8")
        return path


def weights_id(folder: Path) -> str:
    """16 hex digits that change with the language model's weights. Raises OSError for a folder without any."""
    files = sorted(folder.glob("model*.safetensors")) or [folder / "model.pth"]
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}/{size}/".encode())
        with path.open("rb") as file:
            for index in range(_BLOCKS):
                file.seek(index * max(0, size - _BLOCK_BYTES) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]
