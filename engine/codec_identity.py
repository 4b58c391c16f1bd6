"""Which codec a folder holds: a name under which codes can be kept, so that no codec ever decodes the codes of another.

Knows which files make a codec what it is. Does not know what is in them, so it needs neither torch nor the weights in memory.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.model_files import RANDOM_WEIGHTS

# In the order in which `codec_weights` takes them; the last one is a seed.
_FILES = ("codec.safetensors", "codec.pth", RANDOM_WEIGHTS)
_SIZES = "codec.json"
_BLOCK_BYTES = 1 << 16
# S2 Pro's file has 1.9 GB: reading 16 MB of it takes 10 ms, all of it seconds at every start. Codecs that differ were trained apart, and
# then nearly every weight differs.
_BLOCKS = 256


def codec_id(folder: Path) -> str:
    """16 hex digits that change with the codec's sizes or weights. The same weights in another file format have another name.

    Raises OSError where the folder has no codec.
    """
    path = next((folder / name for name in _FILES if (folder / name).is_file()), folder / _FILES[0])
    size = path.stat().st_size
    digest = hashlib.sha256(f"{path.name}/{size}/".encode())
    sizes = folder / _SIZES
    if sizes.is_file():
        digest.update(sizes.read_bytes())
    with path.open("rb") as file:
        if size <= _BLOCKS * _BLOCK_BYTES:
            digest.update(file.read())
        else:
            for index in range(_BLOCKS):
                file.seek(index * (size - _BLOCK_BYTES) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]
