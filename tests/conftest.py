"""What every part of the suite shares: the GPU mark, and a switch that proves which part does without torch.

`filterwarnings = error` in pyproject.toml already fails a test on any warning.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import settings

# A shared two-core machine stalls longer than any useful deadline; and a run that failed must fail again.
settings.register_profile("parley", deadline=None, derandomize=True)
settings.load_profile("parley")

# .ci/skips.py accepts a skip for this reason and no other.
GPU_REASON = "needs a GPU"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-torch", action="store_true", help="make importing torch fail; leave out tests marked torch or gpu"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--no-torch"):
        # None here makes the import fail, so that a test which needs torch and is not marked cannot pass by luck.
        sys.modules["torch"] = None  # type: ignore[assignment]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--no-torch"):
        left_out = [item for item in items if item.get_closest_marker("torch") or item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip(GPU_REASON)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    root = str(Path(__file__).parents[1])
    subprocess.run([*build, "-w", str(folder), root], check=True, capture_output=True, text=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="session")
def installed(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's packages in a folder of their own; what they need is taken from this environment."""
    folder = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*install, str(wheel.filename)], check=True, capture_output=True, text=True)
    return folder
