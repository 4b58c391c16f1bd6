"""`parley bench`: what a server is worth, measured by clients of its public protocol.

Knows the order of a run: a server (its own, or one that runs), the load, the result, and the conditions that a number is worth nothing
without. Does not know how clients behave (`bench_load`), what figures mean (`bench_figures`, and `parley bench --help`), or how an engine
is made: a server of its own is a process like any other.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, TextIO
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import ProxyHandler, Request, build_opener

import anyio
from pydantic import JsonValue

from realtime.bench_arrivals import Strangers
from realtime.bench_load import Load, Measured
from realtime.bench_options import BenchOptions
from realtime.bench_report import summed_up
from realtime.failure import FAILED, MISUSED, CommandFailed

ASK_S: Final = 5.0
PACKAGES: Final = ("parley", "torch", "numpy", "websockets", "uvicorn", "starlette", "anyio", "opuslib")


def bench(options: BenchOptions, own_server: bool, out: TextIO, err: TextIO) -> int:
    """Measure and print; the exit code. Blocks. Raises CommandFailed where there is nothing to measure."""

    load = Strangers if options.arrivals is not None else Load

    async def run() -> Measured:
        return await load(options, time.monotonic, _progress(options, err)).run()

    begun = datetime.now(UTC)
    # Somebody else's list of models says nothing of the one that speaks.
    model = loaded_model(options.url, options.key) if options.endpoint is None else {}
    with _undisturbed():
        measured = anyio.run(run)
    result = summed_up(measured, _conditions(options, own_server, begun, measured, model))
    print(result.table(), file=out)
    print(json.dumps(result.summary), file=out, flush=True)
    return FAILED if result.failed else 0


def live_url(text: str) -> str:
    """The WebSocket address of a server that was named by its web address, or by that of its WebSocket. Raises CommandFailed."""
    parts = urlsplit(text)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise CommandFailed(f"{text} is no address of a server, such as ws://127.0.0.1:8300/v1/live", MISUSED)
    return urlunsplit((scheme, parts.netloc, parts.path if parts.path.strip("/") else "/v1/live", parts.query, ""))


def loaded_model(url: str, key: str | None) -> dict[str, JsonValue]:
    """What the server says of its model; empty where it does not. Raises CommandFailed where nobody answers, or the key is wrong."""
    parts = urlsplit(url)
    address = urlunsplit(("https" if parts.scheme == "wss" else "http", parts.netloc, "/v1/models", "", ""))
    request = Request(address, headers={"Authorization": f"Bearer {key}"} if key is not None else {})
    try:
        # Without the environment's proxies: the WebSocket beside it is what is measured, and it goes straight.
        with build_opener(ProxyHandler({})).open(request, timeout=ASK_S) as answer:
            models = json.load(answer)["data"]
    except HTTPError as error:
        if error.code in (401, 403):
            raise CommandFailed(f"{address} answers {error.code}: show a key with --key") from error
        return {}
    except (OSError, HTTPException) as error:
        raise CommandFailed(f"no server answers at {url}; leave --url out to start one") from error
    except (ValueError, KeyError, TypeError):
        return {}
    return models[0] if isinstance(models, list) and models and isinstance(models[0], dict) else {}


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the interpreter from looking for garbage among all that was loaded, for 12 ms and more now and then, in which nobody listens."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _progress(options: BenchOptions, err: TextIO) -> Callable[[int], None]:
    total = options.streams * options.turns if options.arrivals is None else None

    def show(over: int) -> None:
        if err.isatty():
            of = f" of {total}" if total is not None else ""
            print(f"\r{over}{of} turns", end="\n" if over == total else "", file=err, flush=True)

    return show


def _conditions(
    options: BenchOptions, own_server: bool, begun: datetime, measured: Measured, model: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    if options.arrivals is None:
        load: dict[str, JsonValue] = {
            "streams": options.streams,
            "turns": options.turns,
            "warm_up_turns": 1,
            "pause_s": options.pause_s,
        }
    else:
        load = {
            "arrivals_per_s": options.arrivals.per_s,
            "duration_s": options.arrivals.duration_s,
            "warm_up_s": options.arrivals.warm_up_s,
        }
    return {
        **circumstances({"id": measured.model, **model}, options.url, own_server, begun),
        **load,
        "text": "generated English, no two turns alike",
        "text_rate": options.text_rate,
        "cancel_every": options.cancel_every,
        "clock": options.clock.value,
        "latency": options.latency.value,
        "format": options.fmt.value if options.dialect is None else "pcm_s16le",
        "frame_ms": model.get("frame_ms"),
        "roof_ms": model.get("roof_ms"),
        "dialect": options.dialect,
        "endpoint": options.endpoint is not None,
        "voice": options.voice if options.endpoint is None else options.endpoint.voice,
        "rate": measured.rate,
        "seed": options.seed,
    }


def circumstances(model: Mapping[str, JsonValue], url: str, own_server: bool, begun: datetime) -> dict[str, JsonValue]:
    """What a figure of this machine is worth nothing without. model: as `loaded_model` tells it."""
    return {
        "model": model.get("id"),
        "device": model.get("device"),
        "dtype": model.get("dtype"),
        "server": "own" if own_server else urlsplit(url).netloc,
        "begun": begun.isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
