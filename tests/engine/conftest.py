"""What the engine's tests share: the unpacked reference fixture, its expected arrays, and where kernels run."""

from __future__ import annotations

import lzma
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.conftest import GPU_REASON

# Kernels run on a CPU then, slowly, given the package triton. Matrices of bfloat16 are not multiplied there.
INTERPRETED = "TRITON_INTERPRET" in os.environ
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


@pytest.fixture
def device() -> str:
    """Where kernels run: a GPU, or a CPU with Triton's interpreter."""
    import torch  # only here: a part of the tests runs without it

    if INTERPRETED and find_spec("triton") is not None:
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip(GPU_REASON)
    return "cuda"
