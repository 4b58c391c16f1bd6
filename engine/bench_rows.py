"""The parts of `python -m engine.bench`: what each measures, a line for people as soon as it is known, and its figures for JSON.

Knows how figures are summed up and printed. Does not know how they are measured (`engine.bench_parts`, `engine.bench_serving`,
`engine.bench_clone`, `engine.bench_start`), nor clocks.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from engine import graphed_decoder
from engine.api import EngineLimits
from engine.bench_clone import clones, firsts, made_voice
from engine.bench_parts import (
    FIRST_FRAMES,
    FRAMES,
    Steps,
    carried,
    codec_in_tf32,
    frame_bytes,
    lengths_of,
    pool_of,
    prefills,
    sync,
)
from engine.bench_serving import NOTHING, TEMPLATE, Besides, Now, Served, Serving, Setting
from engine.bench_start import Compilations, since, stream_memory
from engine.core import EngineCore
from engine.load import Loaded, core_of, warm_up
from engine.roof import step_bytes

SHORT_MS: Final = 50.0  # that a listener may be short by
PAGES_SHARE: Final = 0.8  # of the memory that is free beside the weights, for pages, where streams are looked for
CLONES: Final = 5
FIRSTS: Final = 40  # turns of which the first frame is waited for, alone
PROFILED: Final = 5  # frames

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What every part is given."""

    args: argparse.Namespace
    loaded: Loaded
    copied: float  # bytes a second of a copy
    now: Now
    compiled: Compilations

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.loaded.model.device

    def setting(self, streams: int) -> Setting:
        """Of a load."""
        return Setting(streams, self.args.prefix, self.args.history, self.args.seed)

    def steps(self, rows: int, kv_positions: int) -> Steps:
        """None of which decodes yet."""
        heads = self.loaded.heads.heads if self.loaded.heads is not None else ()
        return Steps(self.loaded, EngineLimits(rows, kv_positions), self.args.graphs, heads)

    def core(self, rows: int, kv_positions: int) -> EngineCore:
        """Ready to serve."""
        core = core_of(self.loaded, EngineLimits(rows, kv_positions), graphs=self.args.graphs)
        warm_up(core)
        return core


def ready(bench: Bench) -> Rows:
    """How long it takes until the first stream may come. Only a process that has measured nothing yet compiles everything."""
    streams, before = max(bench.args.streams), bench.compiled.seen()
    begun = bench.now()
    core = core_of(bench.loaded, EngineLimits(streams, _kv_positions(bench.setting(streams))), graphs=bench.args.graphs)
    captured = bench.now()
    warm_up(core)
    warm = bench.now()
    row: dict[str, Any] = {
        "streams": streams,
        "core_s": round(captured - begun, 4),
        "warm_up_s": round(warm - captured, 4),
        "compiled": since(before, bench.compiled.seen()),
    }
    if bench.device.type == "cuda":
        row["reserved_gb"] = gigabytes(torch.cuda.memory_reserved(bench.device))
    print(f"ready for {streams} streams: {json.dumps(row)}", flush=True)
    core.close()
    del core
    _tidy()
    return [row]


def pieces(bench: Bench) -> Rows:
    """A step's pieces, for each number of streams."""
    out: Rows = []
    loads = [lengths_of(bench.setting(streams)) for streams in bench.args.streams]
    begun = bench.now()
    # One for all: a number of rows has its graphs in it, whatever others there are.
    steps = bench.steps(max(map(len, loads)), max(pool_of(lengths, _frames(bench)) for lengths in loads))
    print(f"{bench.now() - begun:.1f} s until steps of up to {steps.most} streams are captured")
    print(f"{'streams':>8} {'piece':10}{'p50':>9}{'p95':>9}{'p99':>9}  ms a step{'roof':>9}")
    for lengths in loads:
        streams, before = len(lengths), bench.compiled.seen()
        steps.hold(lengths)
        steps.pieces(1, bench.now)
        roofs = {name: 1000 * size / bench.copied for name, size in frame_bytes(bench.loaded, steps.positions).items()}
        roof = {"slow": roofs["slow"] + roofs["kv"], "draw": roofs["fast"], "all": sum(roofs.values())}
        roof["held"] = roof["all"]
        row: dict[str, Any] = {"streams": streams, "positions": steps.positions}
        for name, values in steps.pieces(bench.args.steps, bench.now).items():
            row[name] = {**spread(values), "roof": roof.get(name)}
            beside = f"{roof[name]:9.3f}" if name in roof else ""
            shown = "".join(f"{row[name][p]:9.3f}" for p in ("p50", "p95", "p99"))
            print(f"{streams:8} {name:10}{shown}           {beside}", flush=True)
        row["fast_loop_p50"] = row["draw"]["p50"] - row["sampling"]["p50"]
        row["rtf"] = row["all"]["p50"] / (1000 * bench.loaded.info.frame_s)
        row["compiled"] = since(before, bench.compiled.seen())
        if bench.args.profile is not None:
            _profile(steps, bench.args.profile, streams)
        out.append(row)
    del steps
    _tidy()
    return out


def _frames(bench: Bench) -> int:
    """That a row of `pieces` says at most."""
    steps: int = bench.args.steps
    return 3 * steps + 4 * FIRST_FRAMES + 3 + PROFILED + 4 * max(graphed_decoder.SEVERAL, default=1)


def _profile(steps: Steps, folder: Path, streams: int) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if steps.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(PROFILED):
            steps.frame()
        sync(steps.device)
    folder.mkdir(parents=True, exist_ok=True)
    by = "self_device_time_total" if steps.device.type == "cuda" else "self_cpu_time_total"
    table = profile.key_averages().table(sort_by=by, row_limit=60, max_name_column_width=90)
    (folder / f"steps-{streams}.txt").write_text(table, encoding="utf-8")
    profile.export_chrome_trace(str(folder / f"steps-{streams}.json.gz"))


def capacity(bench: Bench) -> Rows:
    """How many streams of each length a step carries, of at most as many as `--streams` says."""
    out: Rows = []
    most, wanted = max(bench.args.streams), sorted(bench.args.positions)
    positions = max(pool_of([length] * most, FRAMES + FIRST_FRAMES) for length in wanted)
    if bench.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(bench.device)
        each = step_bytes(bench.loaded.model, 1, 1)["kv"]
        positions = min(positions, int(PAGES_SHARE * free / each))
    steps = bench.steps(most, positions)
    for length in wanted:
        found = carried(steps, length, bench.loaded.info.frame_s, bench.now)
        out.append({"positions": length, "streams": found.streams, "bound": found.bound, **spread(found.ms)})
        print(f"streams of {length} positions in real time: {json.dumps(out[-1])}", flush=True)
    del steps
    _tidy()
    return out


def prefill(bench: Bench) -> Rows:
    """For each number of positions."""
    out: Rows = []
    for positions, times in prefills(bench.loaded, bench.args.prefill, 5, bench.now, bench.args.graphs):
        out.append({"positions": positions, "first": round(times[0], 4), **spread(times[1:])})
        print(f"prefill of {positions} positions: {out[-1]['p50']:.2f} ms, the first {times[0]:.2f}", flush=True)
    return out


def codec(bench: Bench) -> Rows:
    """Its precision and time, not in a graph."""
    out: Rows = []
    for streams in bench.args.streams:
        out.append({"streams": streams, **codec_in_tf32(bench.loaded, streams, 20, bench.now)})
        print(f"codec of {streams} streams, not in a graph: {out[-1]}", flush=True)
    return out


def clone(bench: Bench) -> Rows:
    """A cold clone, and what a voice costs once it is known: positions, and the wait for a first frame."""
    seconds = bench.args.recording
    positions = 4096 + 2 * CLONES * math.ceil(100 + 10 * seconds + seconds / bench.loaded.info.frame_s)
    core = bench.core(1, positions)
    before = bench.compiled.seen()
    made = clones(core, bench.loaded.prompts, seconds, CLONES, lambda: sync(bench.device), bench.now)
    row: dict[str, Any] = {"recording_s": seconds, "first_ms_of_all": round(made[0].ready_ms, 2)}
    for name in ("ready_ms", "encode_ms", "prefill_ms"):
        row[name] = spread([getattr(one, name) for one in made[1:]])
    row |= {
        name: [getattr(one, name) for one in made] for name in ("positions", "computed", "known_hint", "known_turn")
    }
    voice = made_voice(core, max(1, bench.args.prefix - TEMPLATE), bench.loaded.codec.config.codebook_size)
    row["known_voice_first_ms"] = spread(firsts(core, voice, FIRSTS, bench.now))
    row["compiled"] = since(before, bench.compiled.seen())
    print(f"cold clone: {json.dumps(row)}", flush=True)
    core.close()
    del core
    _tidy()
    return [row]


def memory(bench: Bench) -> Rows:
    """What a stream holds, and so many of so many positions. Weights and graphs are not in it."""
    each = stream_memory(bench.loaded)
    out: Rows = [{**asdict(each), "row": each.row}]
    for length in bench.args.positions:
        streams = {str(streams): gigabytes(each.of(streams, length)) for streams in bench.args.streams}
        out.append({"positions": length, "stream_mb": round(each.of(1, length) / (1 << 20), 2), "gb": streams})
    for row in out:
        print(f"memory of a stream: {json.dumps(row)}", flush=True)
    return out


def serve(bench: Bench) -> Rows:
    """Streams in real time; the largest number of them then beside newcomers and with interruptions, if asked for."""
    out: Rows = []
    args, settings = bench.args, [bench.setting(streams) for streams in sorted(bench.args.streams)]
    loads = [(setting, "", NOTHING) for setting in settings]
    if args.newcomers:
        besides = Besides(newcomers=args.newcomers, positions=args.newcomer_positions)
        loads.append((settings[-1], "beside newcomers", besides))
    if args.cancels:
        loads.append((settings[-1], "interrupted", Besides(cancels=args.cancels)))
    rows = settings[-1].streams + max(besides.rows for _, _, besides in loads)
    beside = max(besides.kv_positions(args.prefix) for _, _, besides in loads)
    core = bench.core(rows, _kv_positions(settings[-1]) + beside)
    for setting, name, besides in loads:
        before = bench.compiled.seen()
        entries = bench.loaded.codec.config.codebook_size
        served = Serving(core, setting, entries, bench.now, besides).run(args.seconds, args.warm_up)
        row = {"streams": setting.streams, "load": name, **_heard(served, besides)}
        row["compiled"] = since(before, bench.compiled.seen())
        print(f"{setting.streams} streams in real time {name}: {json.dumps(row)}", flush=True)
        out.append(row)
    core.close()
    del core
    _tidy()
    return out


def _heard(served: Served, load: Besides) -> dict[str, Any]:
    row: dict[str, Any] = {"failed": len(served.failed), "why": served.failed[:3]}
    row["frames_s"] = served.frames / served.elapsed_s
    row["carries"] = served.carries
    row["turns_never_short_by_50_ms"] = _in_time(served.short_ms)
    row["streams_never_short_by_50_ms"] = _in_time(list(served.worst_ms.values()))
    names = ["first_ms", "first_new_ms", "short_ms"]
    if load.newcomers:
        names += ["newcomer_first_ms", "newcomer_short_ms"]
        row["turned_away"] = served.turned_away
    if load.cancels:
        names.append("cancel_ms")
    for name in names:
        values = getattr(served, name)
        row[name] = {"n": len(values), **spread(values)}
    return row


def _in_time(short: Sequence[float]) -> float | None:
    return round(sum(value <= SHORT_MS for value in short) / len(short), 4) if short else None


def _kv_positions(setting: Setting) -> int:
    """That streams hold at the end of their four turns, on the mean, and what some may hold more; the voice is shared."""
    more = min(4096, setting.streams * (512 + setting.history))
    return more + setting.prefix + setting.streams * (setting.history + 1100)


PARTS: Final[dict[str, Callable[[Bench], Rows]]] = {
    "ready": ready,
    "pieces": pieces,
    "capacity": capacity,
    "prefill": prefill,
    "codec": codec,
    "clone": clone,
    "memory": memory,
    "serve": serve,
}  # in the order in which they are measured: what compiles first is measured first


def _tidy() -> None:
    """Graphs and what they belong to hold each other; the next load needs their memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gigabytes(size: int) -> float:
    """In 2^30 bytes, as cards are sold."""
    return round(size / (1 << 30), 2)


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Nearest-rank percentiles; None of nothing."""
    if not values:
        return dict.fromkeys(("p50", "p95", "p99", "max"))
    ordered = sorted(values)
    ranks = {f"p{p}": ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)] for p in (50, 95, 99)}
    return {name: round(value, 4) for name, value in (ranks | {"max": ordered[-1]}).items()}
