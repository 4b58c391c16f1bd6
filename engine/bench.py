"""`python -m engine.bench`: where a frame's time goes, without sockets or sessions.

Prints the milliseconds of a step's pieces for some numbers of streams, the roof beside them (bytes of weights, keys and values that a step
must read, over the measured bandwidth of a copy), prefill, and what listeners of streams in real time hear. The last line is JSON.
With --random-weights no checkpoint is needed: see `engine.random_weights` for what is unrealistic then. `parley bench` measures the rest of
the way, over the public protocol.

  python -m engine.bench --random-weights s2-pro --device cuda --graphs --streams 1 8 64 256
  python -m engine.bench --random-weights s2-pro --device cuda --quantize nf4 --memory-limit-gb 12 --parts serve
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.api import EngineLimits
from engine.bench_parts import Serving, Setting, Steps, bandwidth, codec_in_tf32, frame_bytes, prefills
from engine.load import Loaded, core_of, load_model, warm_up
from engine.quantize import FORMATS, QuantizeError
from engine.random_weights import SHAPES, write_folder

PARTS = ("pieces", "prefill", "codec", "serve")
NOW = time.perf_counter


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    limit: dict[str, float] = {}
    if args.memory_limit_gb is not None:
        if not torch.cuda.is_available():
            parser.error("--memory-limit-gb limits a GPU's memory, and there is none")
        try:
            limit = limit_memory(args.memory_limit_gb)
        except ValueError as error:
            parser.error(str(error))
    with tempfile.TemporaryDirectory() as scratch:
        begun = NOW()
        try:
            loaded = _load(args, Path(scratch))
        except QuantizeError as error:
            parser.error(str(error))
        result: dict[str, Any] = {
            "model": loaded.info.name,
            "device": loaded.info.device,
            "dtype": loaded.info.dtype,
            "torch": torch.__version__,
            "graphs": args.graphs,
            "fused": args.fused,
            "quantize": args.quantize,
            "load_s": round(NOW() - begun, 2),
            "frame_ms": 1000 * loaded.info.frame_s,
        }
    device = loaded.model.device
    if device.type == "cuda":
        result["memory"] = limit | {"loaded_gb": gigabytes(torch.cuda.memory_allocated(device))}
        result["memory"]["load_peak_gb"] = gigabytes(torch.cuda.max_memory_allocated(device))
    result["copy_gb_s"] = round(bandwidth(device, NOW) / 1e9, 1)
    print(f"{result['model']} on {result['device']}, {result['dtype']}; copy {result['copy_gb_s']} GB/s", flush=True)
    for part in args.parts:
        result[part] = {"pieces": _pieces, "prefill": _prefill, "codec": _codec, "serve": _serve}[part](
            args, loaded, result["copy_gb_s"] * 1e9
        )
        _write(args.json, result)
    if device.type == "cuda":
        result["memory"] |= peak_memory(device)
        print(f"memory: {json.dumps(result['memory'])}")
    _write(args.json, result)
    print(json.dumps(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="engine.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="mini", help="mini, a folder or a repository (default: mini)")
    parser.add_argument("--random-weights", choices=sorted(SHAPES), help="instead: this shape, and no checkpoint")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, help="of torch on a CPU")
    parser.add_argument("--graphs", action="store_true", help="fixed shapes; CUDA graphs on a GPU")
    parser.add_argument("--fused", action="store_true", help="compiled blocks")
    parser.add_argument("--quantize", choices=FORMATS, help="the slow stack's matrices in 8 or 4 bits")
    parser.add_argument(
        "--memory-limit-gb",
        type=float,
        metavar="GB",
        help="take no more of the GPU than a card of this size (2^30 bytes) has",
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--prefix", type=int, default=300, help="positions of a voice (default: %(default)s)")
    parser.add_argument("--history", type=int, default=350, help="mean positions behind it (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="measured of each piece (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of `serve` (default: %(default)g)")
    parser.add_argument("--warm-up", type=float, default=8.0, help="seconds before that (default: %(default)g)")
    parser.add_argument("--prefill", type=int, nargs="+", default=[128, 512, 1024], metavar="POSITIONS")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["pieces", "prefill"])
    parser.add_argument("--profile", type=Path, help="folder for a trace and a table of ten steps of each `pieces`")
    parser.add_argument("--json", type=Path, help="write the result there as well, after each part")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _load(args: argparse.Namespace, scratch: Path) -> Loaded:
    name = args.random_weights or args.model
    if args.random_weights is not None:
        write_folder(name, folder := scratch, args.seed)
    else:
        from engine.hub import resolve  # only here: a machine without registries may lack what the hub needs

        folder = resolve(name).folder
    return load_model(folder, name, args.device, args.dtype, None, fused=args.fused, quantize=args.quantize)


def _setting(args: argparse.Namespace, streams: int) -> Setting:
    return Setting(streams, args.prefix, args.history, args.seed)


def _pieces(args: argparse.Namespace, loaded: Loaded, copied: float) -> list[dict[str, Any]]:
    out = []
    heads = loaded.heads.heads if loaded.heads is not None else ()
    print(f"{'streams':>8} {'piece':10}{'p50':>9}{'p95':>9}{'p99':>9}  ms a step{'roof':>9}")
    for streams in args.streams:
        begun = NOW()
        steps = Steps(loaded, _setting(args, streams), args.graphs, heads)
        ready_s = NOW() - begun
        begun = NOW()
        steps.pieces(1, NOW)
        warm_s = NOW() - begun
        times = steps.pieces(args.steps, NOW)
        roofs = {name: 1000 * size / copied for name, size in frame_bytes(loaded, steps.positions).items()}
        roof = {"slow": roofs["slow"] + roofs["kv"], "draw": roofs["fast"], "all": sum(roofs.values())}
        row: dict[str, Any] = {"streams": streams, "positions": steps.positions, "ready_s": ready_s, "warm_s": warm_s}
        for name, values in times.items():
            row[name] = {**spread(values), "roof": roof.get(name)}
            beside = f"{roof[name]:9.3f}" if name in roof else ""
            shown = "".join(f"{row[name][p]:9.3f}" for p in ("p50", "p95", "p99"))
            print(f"{streams:8} {name:10}{shown}           {beside}", flush=True)
        row["fast_loop_p50"] = row["draw"]["p50"] - row["sampling"]["p50"]
        row["rtf"] = row["all"]["p50"] / (1000 * loaded.info.frame_s)
        if args.profile is not None:
            _profile(steps, args.profile, streams)
        out.append(row)
        del steps
        _tidy()
    return out


def _profile(steps: Steps, folder: Path, streams: int) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if steps.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(10):
            steps.codec(steps.draw(steps.slow()))
    folder.mkdir(parents=True, exist_ok=True)
    by = "self_device_time_total" if steps.device.type == "cuda" else "self_cpu_time_total"
    table = profile.key_averages().table(sort_by=by, row_limit=60, max_name_column_width=90)
    (folder / f"steps-{streams}.txt").write_text(table, encoding="utf-8")
    profile.export_chrome_trace(str(folder / f"steps-{streams}.json.gz"))


def _prefill(args: argparse.Namespace, loaded: Loaded, copied: float) -> list[dict[str, Any]]:
    out = []
    for positions, times in prefills(loaded, args.prefill, 5, NOW):
        out.append({"positions": positions, **spread(times)})
        print(f"prefill of {positions} positions: {out[-1]['p50']:.2f} ms", flush=True)
    return out


def _codec(args: argparse.Namespace, loaded: Loaded, copied: float) -> list[dict[str, Any]]:
    out = []
    for streams in args.streams:
        out.append({"streams": streams, **codec_in_tf32(loaded, streams, 20, NOW)})
        print(f"codec of {streams} streams, not in a graph: {out[-1]}", flush=True)
    return out


def _serve(args: argparse.Namespace, loaded: Loaded, copied: float) -> list[dict[str, Any]]:
    out = []
    for streams in args.streams:
        setting = _setting(args, streams)
        positions = 4096 + streams * (setting.prefix + 2 * setting.history + 1000)  # four turns
        limits = EngineLimits(max_streams=streams, kv_positions=positions)
        core = core_of(loaded, limits, graphs=args.graphs)
        warm_up(core)
        served = Serving(core, setting, loaded.codec.config.codebook_size, NOW).run(args.seconds, args.warm_up)
        row: dict[str, Any] = {"streams": streams, "failed": len(served.failed), "why": served.failed[:3]}
        row["frames_s"] = served.frames / served.elapsed_s
        firsts = (("first", served.first_ms), ("first_new", served.first_new_ms))
        for name, values in (*firsts, ("short", served.short_ms), ("step", served.step_ms)):
            row[f"{name}_ms"] = {"n": len(values), **spread(values)}
        short = served.short_ms
        row["never_short_by_50_ms"] = sum(value <= 50 for value in short) / len(short) if short else None
        print(f"{streams} streams in real time: {json.dumps(row)}", flush=True)
        out.append(row)
        core.close()
        del core
        _tidy()
    return out


def _tidy() -> None:
    """Graphs and what they belong to hold each other; the next load needs their memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def limit_memory(gb: float) -> dict[str, float]:
    """Let torch have what a card of `gb` GiB would leave it beside the driver's context, as long as nobody else uses this one.

    Raises ValueError where nothing would be left.
    """
    free, total = torch.cuda.mem_get_info()
    context = total - free - torch.cuda.memory_reserved()
    if gb * (1 << 30) <= context:
        raise ValueError(f"{gb:g} GB are less than the {gigabytes(context)} that the driver takes")
    torch.cuda.set_per_process_memory_fraction((gb * (1 << 30) - context) / total)
    return {"limit_gb": gb, "context_gb": gigabytes(context)}


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most that tensors took, that torch kept for them, and that was gone from the device, with driver, code and libraries."""
    free, total = torch.cuda.mem_get_info(device)
    beside = total - free - torch.cuda.memory_reserved(device)
    reserved = torch.cuda.max_memory_reserved(device)
    return {
        "peak_gb": gigabytes(torch.cuda.max_memory_allocated(device)),
        "reserved_gb": gigabytes(reserved),
        "device_gb": gigabytes(reserved + beside),
    }


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


def _write(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
