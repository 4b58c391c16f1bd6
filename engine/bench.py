"""`python -m engine.bench`: where a frame's time goes, without sockets or sessions.

Parts, in the order in which they are measured, each for every number of --streams unless it says otherwise:
  ready     seconds until the first stream may come, by phase, and what was compiled; for the largest number of streams
  pieces    milliseconds of a step's pieces, and the roof beside them: bytes of weights, keys and values that a step must read, over the
            measured bandwidth of a copy
  capacity  the most streams, up to the largest number, of --positions each that a step carries: 19 of 20 take less than 0.9 of a frame
  prefill   of a prompt of --prefill positions
  codec     in float32 and in TF32, not in a graph
  clone     from a recording of --recording seconds to a voice that is ready, which positions are computed when it is known, and how long
            a first frame takes with a known voice of --prefix positions; alone
  memory    what a stream holds, and --streams of --positions each
  serve     what listeners of streams in real time hear; after that beside --newcomers and with --cancels
Prints as it goes; the last line is JSON. `compiled` counts what was compiled in each part: after `ready` it should be nothing. `python -m
engine.bench_plot` makes a picture of the pieces of a --json.
With --random-weights no checkpoint is needed: see `engine.random_weights` for what is unrealistic then. `parley bench` measures the rest of
the way, over the public protocol.

  python -m engine.bench --random-weights s2-pro --device cuda --graphs --streams 1 8 64 256
  python -m engine.bench --random-weights s2-pro --device cuda --quantize nf4 --memory-limit-gb 12 --parts serve
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.bench_parts import bandwidth
from engine.bench_rows import PARTS, Bench, gigabytes
from engine.bench_start import Compilations, since
from engine.load import Loaded, load_model
from engine.quantize import FORMATS, QuantizeError
from engine.random_weights import SHAPES, write_folder

NOW = time.perf_counter


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.kernels and not args.fused:
        parser.error("--kernels are for few rows, and need --fused for more")
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
    python_s, compiled = seconds_of_this_process(), Compilations()
    result: dict[str, Any] = {"compile_caches_before": compiled.folders()}
    with tempfile.TemporaryDirectory() as scratch:
        begun = NOW()
        try:
            loaded = _load(args, Path(scratch))
        except QuantizeError as error:
            parser.error(str(error))
        result |= {
            "model": loaded.info.name,
            "device": loaded.info.device,
            "dtype": loaded.info.dtype,
            "torch": torch.__version__,
            "graphs": args.graphs,
            "fused": args.fused,
            "kernels": args.kernels,
            "ahead": args.ahead,
            "quantize": args.quantize,
            "python_s": round(python_s, 2),
            "load_s": round(NOW() - begun, 2),
            "compiled": {"load": compiled.seen()},
            "frame_ms": 1000 * loaded.info.frame_s,
        }
    device = loaded.model.device
    if device.type == "cuda":
        result["device_memory"] = limit | {"loaded_gb": gigabytes(torch.cuda.memory_allocated(device))}
        result["device_memory"]["load_peak_gb"] = gigabytes(torch.cuda.max_memory_allocated(device))
    result["copy_gb_s"] = round(bandwidth(device, NOW, little=bool(limit)) / 1e9, 1)
    print(f"{result['model']} on {result['device']}, {result['dtype']}; copy {result['copy_gb_s']} GB/s", flush=True)
    bench = Bench(args, loaded, result["copy_gb_s"] * 1e9, NOW, compiled)
    for name, part in PARTS.items():
        if name in args.parts:
            before = compiled.seen()
            result[name] = part(bench)
            result["compiled"][name] = since(before, compiled.seen())
            _write(args.json, result)
    if device.type == "cuda":
        result["device_memory"] |= peak_memory(device)
        print(f"memory: {json.dumps(result['device_memory'])}")
    result["compile_caches_after"] = compiled.folders()
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
    parser.add_argument(
        "--kernels",
        action=argparse.BooleanOptionalAction,
        help="of our own for few rows, beside --fused (default: on a GPU with Triton)",
    )
    parser.add_argument(
        "--ahead",
        type=int,
        metavar="LINES",
        help="of a matrix's rows that such a kernel fetches while the one before it runs; 0: it waits (default: engine.products_triton's)",
    )
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
    parser.add_argument(
        "--newcomers", type=float, default=0.0, metavar="PER_S", help="who come to `serve`, at random (default: none)"
    )
    parser.add_argument(
        "--newcomer-positions",
        type=int,
        default=700,
        metavar="N",
        help="of prompt that a newcomer brings (default: %(default)s)",
    )
    parser.add_argument(
        "--cancels", type=float, default=0.0, metavar="PER_S", help="of turns of `serve`, at random (default: none)"
    )
    parser.add_argument(
        "--recording", type=float, default=15.0, metavar="S", help="that is cloned (default: %(default)g)"
    )
    parser.add_argument("--positions", type=int, nargs="+", default=[1000, 2000, 4000], help="of a stream", metavar="N")
    parser.add_argument("--prefill", type=int, nargs="+", default=[128, 512, 1024], metavar="POSITIONS")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["pieces", "prefill"])
    parser.add_argument("--profile", type=Path, help="folder for a trace and a table of some steps of each `pieces`")
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
    if args.ahead is not None:
        from engine import products_triton  # only here: it needs Triton

        products_triton.ahead = args.ahead
    fast = {"fused": args.fused, "kernels": args.kernels}
    return load_model(folder, name, args.device, args.dtype, None, quantize=args.quantize, **fast)


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


def seconds_of_this_process() -> float:
    """How long it has been running, on Linux: what Python and its imports took."""
    began = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19]
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(began) / os.sysconf("SC_CLK_TCK")


def _write(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
