"""What the engine's tests share: the unpacked reference fixture and its expected arrays."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

FIXTURE = Path(__file__).parent.parent / "fixtures" / "s2pro"


@pytest.fixture(scope="session")
def s2pro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the reference checkpoint in its real layout; do not write into it."""
    folder = tmp_path_factory.mktemp("s2pro")
    for source in FIXTURE.iterdir():
        if source.suffix == ".xz":
            (folder / source.stem).write_bytes(lzma.decompress(source.read_bytes()))
        else:
            shutil.copyfile(source, folder / source.name)
    return folder


@pytest.fixture(scope="session")
def expected() -> dict[str, npt.NDArray[np.generic]]:
    """Every array of the fixture's expected.npz, by name; read-only by agreement."""
    with np.load(FIXTURE / "expected.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}
