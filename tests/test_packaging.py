"""What a stranger gets: the wheel's content, the open range of torch, the Makefile's refusals, and CI's rule about skips."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MB = 1_000_000
SHOWN = [Path(name) for name in ("engine/gpu.png", "engine/train/curves", "web-demo/samples")]


def names(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if not name.endswith("/")}


def sources(folder: str) -> set[str]:
    """Files of a folder of the checkout, relative to it, without what only the documentation shows."""
    files = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
    found = {path for path in files if "__pycache__" not in path.parts}
    return {str(path.relative_to(folder)) for path in found if not any(map(path.is_relative_to, SHOWN))}


@pytest.mark.parametrize(
    ("folder", "place"),
    [("engine", "engine"), ("protocol", "protocol"), ("realtime", "realtime"), ("web-demo", "realtime/_web")],
)
def test_the_wheel_holds_every_file_of_the_packages_and_of_the_page(
    wheel: zipfile.ZipFile, folder: str, place: str
) -> None:
    assert sources(folder)
    assert {f"{place}/{name}" for name in sources(folder)} <= names(wheel)


@pytest.mark.parametrize(
    "pattern",
    [
        r"engine/mini/config\.json",
        r"engine/mini/tokenizer\.json",
        r"engine/mini/model\.safetensors",
        r"engine/mini/codec\.(safetensors|pth)",
        r"protocol/schema/.+\.json",
        r"realtime/_web/index\.html",
        r"parley-[^/]+\.dist-info/licenses/LICENSE",
    ],
)
def test_the_wheel_has_what_serving_the_mini_takes(wheel: zipfile.ZipFile, pattern: str) -> None:
    assert any(re.fullmatch(pattern, name) for name in names(wheel))


def test_the_wheel_has_nothing_foreign_and_nothing_large(wheel: zipfile.ZipFile) -> None:
    foreign = {
        name for name in names(wheel) if not re.match(r"(engine|protocol|realtime|parley-[^/]+\.dist-info)/", name)
    }
    assert not foreign
    assert not any("/curves/" in name or "/samples/" in name for name in names(wheel))
    assert sum(info.file_size for info in wheel.infolist()) < 30 * MB
    weights = [
        info.file_size for info in wheel.infolist() if re.fullmatch(r"engine/mini/.*\.(safetensors|pth)", info.filename)
    ]
    assert sum(weights) <= 24 * MB


@pytest.mark.parametrize(
    ("code", "place"),
    [
        ("from realtime.http import web_root; print(web_root())", "realtime/_web"),
        ("from engine.hub import resolve; print(resolve('mini').folder)", "engine/mini"),
    ],
)
def test_installed_in_an_empty_folder_it_finds_the_mini_and_the_page(
    installed: Path, tmp_path: Path, code: str, place: str
) -> None:
    outside = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=outside, capture_output=True, text=True)
    assert done.stdout.strip() == str(installed / place), done.stderr


def test_the_wheel_has_the_command_and_its_module(wheel: zipfile.ZipFile) -> None:
    (entry,) = (name for name in names(wheel) if name.endswith("/entry_points.txt"))
    assert "parley = realtime.cli:main" in wheel.read(entry).decode()
    assert "realtime/cli.py" in names(wheel)


def test_torch_may_be_any_newer_one() -> None:
    (torch,) = (need for need in PROJECT["project"]["dependencies"] if need.startswith("torch"))
    assert re.fullmatch(r"torch>=[\d.]+", torch)


def test_the_constraints_name_one_version_of_torch() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if line.startswith("torch")] == ["torch==2.13.0"]


@pytest.mark.parametrize("file", ["Makefile", "constraints.txt", ".ci/run", "pyproject.toml"])
def test_no_package_host_but_pytorchs_cpu_index_is_named(file: str) -> None:
    hosts = re.findall(r"https?://([\w.-]+)", (ROOT / file).read_text(encoding="utf-8"))
    assert set(hosts) <= {"download.pytorch.org"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a clone as the Makefile needs before it installs anything."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Without what a `make test` around this run hands down.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "TORCH"}
    command = ["make", "-C", str(checkout), *arguments]
    return subprocess.run(command, env=outside, capture_output=True, text=True, timeout=180)


def fake_python(folder: Path, script: str) -> str:
    path = folder / "python3"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_set_up_refuses_a_python_that_is_too_old_in_one_line(checkout: Path) -> None:
    old = fake_python(checkout, 'case "$1" in -V) echo Python 3.9.2;; *) exit 1;; esac')
    done = make(checkout, "setup", f"PYTHON={old}")
    assert done.returncode != 0
    assert f"Parley needs Python >= 3.11 and {old} is 3.9.2; name another with PYTHON=..." in done.stderr.splitlines()


def test_set_up_says_which_package_brings_the_venv_module(checkout: Path) -> None:
    bare = fake_python(checkout, 'case "$2" in *ensurepip*) exit 1;; esac')
    done = make(checkout, "setup", f"PYTHON={bare}")
    assert done.returncode != 0
    assert any("apt-get install python3-venv" in line for line in done.stderr.splitlines())


def test_set_up_says_that_a_python_is_not_there(checkout: Path) -> None:
    done = make(checkout, "setup", "PYTHON=python3.99")
    assert done.returncode != 0 and "python3.99 was not found" in done.stderr


def test_an_unknown_build_of_torch_is_refused(checkout: Path) -> None:
    done = make(checkout, "setup", "TORCH=gpu")
    assert done.returncode != 0 and "TORCH=gpu is neither cpu nor cuda" in done.stderr


def check_skips(tmp_path: Path, cases: str) -> subprocess.CompletedProcess[str]:
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    command = [sys.executable, str(ROOT / ".ci" / "skips.py"), str(report)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


PASSED = '<testcase classname="a" name="passes"/>'
SKIPPED = '<testcase classname="a" name="waits"><skipped message="{}"/></testcase>'


def test_ci_accepts_a_skip_for_want_of_a_gpu(tmp_path: Path) -> None:
    done = check_skips(tmp_path, PASSED + SKIPPED.format("needs a GPU"))
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "1 passed, 0 failed, 1 skipped"


def test_ci_refuses_any_other_skip_by_name(tmp_path: Path) -> None:
    done = check_skips(tmp_path, PASSED + SKIPPED.format("no libopus"))
    assert done.returncode != 0
    assert "a.waits: no libopus" in done.stdout


@pytest.mark.parametrize("cases", ["", '<testcase classname="a" name="b"><failure message="no"/></testcase>' + PASSED])
def test_ci_refuses_a_run_without_tests_and_one_with_a_failure(tmp_path: Path, cases: str) -> None:
    assert check_skips(tmp_path, cases).returncode != 0
