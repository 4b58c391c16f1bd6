"""Under which weights figures were measured, so that figures of others are noticed.

Knows which files of a checkpoint are weights. All of their bytes count (a second for 2 GB): engine.heads.weights_id, which reads some of
them, is for every start of a server and may miss weights of which only a part was trained.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_SUFFIXES = (".safetensors", ".pth")


def weights_sha256(folder: Path) -> str:
    """64 hex digits over `sha256  name` of every file of weights, in the order of their names: what `sha256sum` prints, summed once more.

    Raises OSError, also for a folder without any.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights ({', '.join(_SUFFIXES)})")
    lines = []
    for path in files:
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()
