"""`python -m engine.train STAGE --out DIR`: one stage of the recipe, or all of them in order.

Every stage can be repeated: codec and ar go on from the weights that lie in DIR, and `all` skips the stages that it has
finished there. `--scale tiny` runs everything in a minute on a CPU, to see that it runs; nothing intelligible comes out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.checkpoint import load_dual_ar
from engine.codec_weights import load_codec
from engine.model import DualAR
from engine.train.ar_stage import ArPlan, train_ar
from engine.train.check import Check
from engine.train.clock import draw_curves
from engine.train.codec_stage import CodecPlan, train_codec
from engine.train.designs import MINI, TINY, Design
from engine.train.encode_stage import EncodePlan, encode
from engine.train.export import export
from engine.train.generate import Sampling
from engine.train.recognizer import RecognizerPlan, load_recognizer, train_recognizer
from engine.train.replicas import Replicas
from engine.train.speaker_net import SpeakerPlan, train_speaker_net
from engine.train.synthesize import SynthesisPlan, synthesize


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. Hours are of speech, seconds of training."""

    design: Design
    codec_hours: float
    codec_seconds: float
    recognizer_seconds: float
    speaker_seconds: float
    ar_hours: float
    ar_seconds: float
    held_out_hours: float
    shard_hours: float
    codec_batch: int
    recognizer_dim: int
    recognizer_layers: int
    ar_rows: int
    fast_frames: int
    sentences: int | None  # of the check; None is all
    longest_frames: int  # of a sentence in the check
    encode_frames: int  # of a batch


SCALES = {
    "mini": Scale(MINI, 40.0, 560.0, 100.0, 70.0, 450.0, 1000.0, 0.8, 0.4, 32, 224, 5, 24, 10240, None, 280, 18432),
    "tiny": Scale(TINY, 0.01, 3.0, 2.0, 2.0, 0.01, 3.0, 0.01, 0.005, 4, 32, 1, 1, 128, 2, 8, 192),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One invocation."""

    scale: Scale
    out: Path
    scratch: Path  # audio and rows
    device: torch.device
    replicas: Replicas
    workers: int
    seed: int
    data: Path | None
    compile: bool
    options: argparse.Namespace

    def synthesis(self, name: str, hours: float, seed: int, workers: int) -> SynthesisPlan:
        """A plan for one of the three sets: codec, ar, held_out."""
        return SynthesisPlan(
            self.scratch / f"shards-{name}", hours, workers, seed, self.scale.shard_hours,
            pending_gb=self.options.pending_gb, data=self.data, fresh_voices=name == "held_out",
        )  # fmt: skip

    def encoding(self, name: str, follow_s: float) -> EncodePlan:
        """How one of the sets is encoded."""
        return EncodePlan(
            self.scratch / f"shards-{name}",
            self.scratch / f"rows-{name}",
            self.out / "checkpoint",
            follow_s,
            self.scale.encode_frames,
            compile=self.compile,
            share=(self.replicas.rank, self.replicas.size),
        )


def stage_synthesize(run: Run) -> None:
    """Speech for the codec and the recogniser, and a little for validation."""
    wanted = (
        ("held_out", run.scale.held_out_hours, 1, min(4, run.workers)),
        ("codec", run.scale.codec_hours, 2, run.workers),
        ("ar", run.scale.ar_hours, run.seed, run.workers),  # only when asked for: `encode` makes it as it goes
    )
    for name, hours, seed, workers in wanted:
        if name in run.options.sets:
            synthesize(run.synthesis(name, run.options.hours or hours, seed, workers))


def stage_codec(run: Run) -> None:
    """The codec."""
    seconds = run.options.seconds or run.scale.codec_seconds
    plan = CodecPlan(
        run.scratch / "shards-codec",
        run.out,
        seconds,
        run.scale.codec_hours,
        run.scale.codec_batch,
        compile=run.compile,
    )
    train_codec(run.scale.design, plan, run.device, run.replicas)
    if run.replicas.first:
        draw_curves(run.out / "codec.jsonl", run.out / "codec.png")


def stage_recognizer(run: Run) -> None:
    """The phoneme recogniser that `ar` measures with."""
    seconds = run.options.seconds or run.scale.recognizer_seconds
    plan = RecognizerPlan(
        run.scratch / "shards-codec", run.out, seconds, run.scale.codec_hours, dim=run.scale.recognizer_dim,
        layers=run.scale.recognizer_layers, batch=min(96, 4 * run.scale.codec_batch), compile=run.compile,
    )  # fmt: skip
    train_recognizer(plan, run.device)


def stage_speaker(run: Run) -> None:
    """The network that evaluation tells voices apart with."""
    seconds = run.options.seconds or run.scale.speaker_seconds
    if run.scale.recognizer_layers == 1:
        plan = SpeakerPlan(run.out, seconds, 30, 5.0, 1, 8, 1, run.data, dim=32)
    else:
        plan = SpeakerPlan(run.out, seconds, workers=run.workers, data=run.data)
    train_speaker_net(plan, run.device)


def stage_encode(run: Run) -> None:
    """Speech for the language model: synthesized and encoded at the same time."""
    encode(run.scale.design, run.encoding("held_out", 0.0), run.device)
    if run.options.hours == 0:  # somebody else synthesizes
        return encode(run.scale.design, run.encoding("ar", run.options.follow_s), run.device)
    plan = run.synthesis("ar", run.options.hours or run.scale.ar_hours, run.seed, run.workers)
    child = multiprocessing.get_context("spawn").Process(target=synthesize, args=(plan,))
    child.start()
    plan.folder.mkdir(parents=True, exist_ok=True)
    while child.is_alive():
        # Each return costs a compilation on a GPU, so wait longer there.
        encode(run.scale.design, run.encoding("ar", 20.0 if run.compile else 1.0), run.device)
    child.join()
    encode(run.scale.design, run.encoding("ar", 0.0), run.device)
    if child.exitcode:
        raise SystemExit("synthesis failed; see above")


def stage_ar(run: Run) -> None:
    """The language model."""
    seconds = run.options.seconds or run.scale.ar_seconds

    def check(model: DualAR) -> dict[str, float]:
        return _check(run)(model)  # loaded late: this stage may start before codec and recogniser are there

    plan = ArPlan(
        run.scratch / "rows-ar", run.scratch / "rows-held_out", run.out, seconds, run.options.done_s, run.options.total_s,
        batch_rows=run.scale.ar_rows, fast_frames=run.scale.fast_frames, compile=run.compile, check=check,
    )  # fmt: skip
    train_ar(run.scale.design, plan, run.device, run.replicas)
    if run.replicas.first:
        draw_curves(run.out / "ar.jsonl", run.out / "ar.png")


def stage_export(run: Run) -> None:
    """The checkpoint folder."""
    size = export(run.scale.design, run.out / "ar.pt", run.out / "checkpoint")
    print(f"[export] {size / 1e6:.2f} MB of weights in {run.out / 'checkpoint'}")


def stage_check(run: Run) -> None:
    """How clearly the finished checkpoint speaks: figures into check.json."""
    folder = run.out / "checkpoint"
    check, model = _check(run), load_dual_ar(folder, run.device)
    start = time.monotonic()
    figures = check(model)
    print("[check] " + " ".join(f"{name}={value:.4f}" for name, value in figures.items()), flush=True)
    (run.out / "check.json").write_text(json.dumps(figures | {"seconds": time.monotonic() - start}, indent=1) + "\n")


def _check(run: Run) -> Check:
    codec = load_codec(run.out / "checkpoint", run.device)
    recognizer = load_recognizer(run.out / "recognizer.pt", run.device)
    return Check(codec, recognizer, run.data, Sampling(), run.device, run.scale.sentences, run.scale.longest_frames)


STAGES: dict[str, Callable[[Run], None]] = {
    "synthesize": stage_synthesize,
    "codec": stage_codec,
    "recognizer": stage_recognizer,
    "speaker": stage_speaker,
    "encode": stage_encode,
    "ar": stage_ar,
    "export": stage_export,
    "check": stage_check,
}


def run_all(run: Run) -> None:
    """Every stage that is not done yet; a stage that was interrupted is done again (codec and ar go on)."""
    for name, stage in STAGES.items():
        marker = run.out / f"{name}.done"
        if marker.exists():
            continue
        start = time.monotonic()
        stage(run)
        marker.write_text(f"{time.monotonic() - start:.0f} s\n")
        print(f"[all] {name}: {marker.read_text().strip()}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m engine.train", description=__doc__)
    parser.add_argument("stage", choices=("all", *STAGES))
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for weights, curves and the finished checkpoint"
    )
    parser.add_argument(
        "--scratch", type=Path, help="folder for audio and codes, tens of gigabytes (default: OUT/scratch)"
    )
    parser.add_argument("--scale", choices=tuple(SCALES), default="mini")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that synthesize")
    parser.add_argument("--seed", type=int, default=10, help="of the text for `encode`; another one gives other text")
    parser.add_argument("--espeak-data", type=Path, help="folder that holds espeak-ng-data, where the system has none")
    parser.add_argument(
        "--sets",
        nargs="+",
        default=["held_out", "codec"],
        choices=("held_out", "codec", "ar"),
        help="synthesize: which",
    )
    parser.add_argument(
        "--follow-s", type=float, default=20.0, help="encode with --hours 0: give up when no audio came for so long"
    )
    parser.add_argument("--hours", type=float, help="of speech, instead of the scale's")
    parser.add_argument("--seconds", type=float, help="of training, instead of the scale's")
    parser.add_argument(
        "--done-s", type=float, default=0.0, help="ar: seconds of the schedule that earlier calls have done"
    )
    parser.add_argument(
        "--total-s", type=float, default=0.0, help="ar: seconds of the whole schedule, where calls share it"
    )
    parser.add_argument(
        "--pending-gb", type=float, default=30.0, help="synthesis waits while so much audio is not encoded yet"
    )
    options = parser.parse_args(arguments)
    torch.set_float32_matmul_precision("high")
    options.out.mkdir(parents=True, exist_ok=True)
    replicas = Replicas.of_environment()
    device = torch.device(options.device)
    run = Run(
        SCALES[options.scale], options.out, options.scratch or options.out / "scratch", device, replicas, options.workers,
        options.seed,
        options.espeak_data, device.type == "cuda", options,
    )  # fmt: skip
    run_all(run) if options.stage == "all" else STAGES[options.stage](run)


if __name__ == "__main__":
    main()
