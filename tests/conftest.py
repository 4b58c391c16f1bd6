"""What every part of the suite shares: its marks, how hard hypothesis tries, and a switch that proves which part does without torch.

`filterwarnings = error` in pyproject.toml already fails a test on any warning. `make test` runs the suite in several processes at once.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Tests run beside each other, and their tensors are so small that a second thread only costs. Before torch, for child processes too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# A shared two-core machine stalls longer than any useful deadline; and a run that failed must fail again.
settings.register_profile("parley", deadline=None, derandomize=True)
# For a night: `make test ARGS="--hypothesis-profile thorough"` tries other examples each time, and many.
settings.register_profile("thorough", deadline=None)
settings.load_profile("parley")
THOROUGH_TIMES = 20  # as many examples, of every test

# .ci/skips.py accepts a skip for this reason and no other.
GPU_REASON = "needs a GPU"

MEETING_PLACE = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


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
    if settings.get_current_profile_name() == "thorough":
        for test in {getattr(item, "obj", None) for item in items}:
            if getattr(test, "is_hypothesis_test", False):
                wanted = THOROUGH_TIMES * test._hypothesis_internal_use_settings.max_examples
                test._hypothesis_internal_use_settings = settings(
                    test._hypothesis_internal_use_settings, max_examples=wanted
                )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip(GPU_REASON)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each process that runs tests (pytest-xdist's) where all of them meet."""
    if MEETING_PLACE not in node.config.stash:
        node.config.stash[MEETING_PLACE] = tempfile.TemporaryDirectory(prefix="parley-tests-")
    node.workerinput["meeting_place"] = node.config.stash[MEETING_PLACE].name


def pytest_unconfigure(config: pytest.Config) -> None:
    if MEETING_PLACE in config.stash:
        config.stash[MEETING_PLACE].cleanup()


@pytest.hookimpl(wrapper=True, tryfirst=True)  # the time that a test may take does not begin before its turn
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test marked `alone` waits for what other processes test, and they for it."""
    place = getattr(item.config, "workerinput", {}).get("meeting_place")
    if place is None:
        return (yield)
    alone = item.get_closest_marker("alone") is not None
    with locked(Path(place, "machine"), fcntl.LOCK_EX if alone else fcntl.LOCK_SH, Path(place, "queue")):
        return (yield)


@contextmanager
def locked(path: Path, how: int, queue: Path) -> Iterator[None]:
    """Hold a lock between processes. Who waits for it keeps the queue, so that nobody overtakes."""
    with path.open("w") as lock, queue.open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(lock, how)
        fcntl.flock(turn, fcntl.LOCK_UN)
        try:
            yield
        finally:  # and not by closing: a forked child has the same open file
            fcntl.flock(lock, fcntl.LOCK_UN)


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
