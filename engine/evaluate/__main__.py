"""`python -m engine.evaluate CHECKPOINT`: measure what a checkpoint says; a table, and one line of JSON as the last line.

CHECKPOINT is `mini`, a folder or a repository. Progress goes to standard error. Needs the system package espeak-ng, the teacher that
everything is measured against. With --work DIR what was spoken is kept, and a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine.api import SamplingParams
from engine.checkpoint import CheckpointError
from engine.codec_weights import CodecWeightsError
from engine.config import ConfigError
from engine.evaluate import carry, clarity, external, measure, seed_tts, tags, voices
from engine.evaluate.listening import Ear
from engine.evaluate.report import Row, json_line, table
from engine.evaluate.speaking import Mouth, Setting, SpeakerLost
from engine.evaluate.teaching import Yardstick
from engine.evaluate.trial import FULL, QUICK, Trial
from engine.evaluate.weights import weights_sha256
from engine.hub import HubError, resolve
from engine.load import DTYPES
from engine.quantize import FORMATS, QuantizeError
from engine.train.speaker_net import load_speaker_net
from engine.train.teacher import TeacherError

_HERE = Path(__file__).parent
Groups = dict[str, list[Row]]
GROUPS: dict[str, Callable[[Trial], Groups]] = {
    "clarity": clarity.rows,
    "tags": tags.rows,
    "voices": voices.rows,
    "carry": carry.rows,
}
_CPU_ROWS, _GPU_ROWS = 24, 96  # turns at once: beyond that a step gets longer as fast as it says more
_INTERRUPTED = 130  # as a shell has it for Ctrl-C


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit status: 0 also where targets are missed, 2 for what cannot be measured, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        _check(options)
        groups, conditions = _run(options)
    except (HubError, ConfigError, CheckpointError, CodecWeightsError, TeacherError, QuantizeError) as error:
        return _refuse(error)
    except (UsageError, SpeakerLost, external.OutsideModelError, seed_tts.SeedTtsError, OSError) as error:
        return _refuse(error)
    except KeyboardInterrupt:
        print("interrupted" if options.work else "interrupted; with --work DIR a run can go on", file=sys.stderr)
        return _INTERRUPTED
    line = json_line(groups, conditions)
    print(table(groups))
    print(line, flush=True)
    if options.json_out is not None:
        options.json_out.write_text(line + "\n")
    return 0


def _refuse(error: Exception) -> int:
    print(error, file=sys.stderr)
    return 2


class UsageError(Exception):
    """Options or files that do not fit; the text is one line."""


def _check(options: argparse.Namespace) -> None:
    """Whatever can be known to be wrong before anything is loaded. Raises UsageError."""
    if options.seed_tts and not options.recognizer:
        raise UsageError("--seed-tts needs --recognizer")
    if options.speaker_model and not options.seed_tts:
        raise UsageError("--speaker-model needs --seed-tts")
    if options.temperature <= 0 or not 0 < options.top_p <= 1:
        raise UsageError("--temperature is above 0, and --top-p above 0 and at most 1")
    if (options.workers is not None and options.workers < 0) or (options.rows is not None and options.rows < 1):
        raise UsageError("--workers is 0 or more, and --rows 1 or more")
    out, data = options.json_out, options.espeak_data
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise UsageError(f"--json-out {out} is {'a folder' if out.is_dir() else 'in no folder that exists'}")
    if data is not None and not (data / "espeak-ng-data").is_dir():  # the library would go on with the system's
        raise UsageError(f"--espeak-data {data} holds no folder espeak-ng-data")
    for weights in (options.recognizer_weights, options.speaker_weights):
        if not weights.is_file():
            raise UsageError(f"{weights} is missing; stages `recognizer` and `speaker` of engine.train make such files")
    try:
        device = torch.device(_device(options))
    except RuntimeError as error:
        raise UsageError(f"--device {options.device} is none that torch knows") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {options.device} needs a GPU and a build of torch for it")
    if device.type != "cuda" and options.plain:
        raise UsageError("--plain is for a GPU; a CPU has no other way")


def _run(options: argparse.Namespace) -> tuple[Groups, dict[str, str | int | float | bool]]:
    start = time.monotonic()

    def show(line: str) -> None:
        print(f"[{time.monotonic() - start:5.0f} s] {line}", file=sys.stderr, flush=True)

    listed = seed_tts.read_list(options.seed_tts) if options.seed_tts else []
    english = _sentences(options.sentences or _HERE / "sentences_en.txt")
    teacher = Yardstick(options.espeak_data)
    folder = resolve(options.checkpoint).folder
    weights = weights_sha256(folder)
    setting = _setting(options, folder)
    device = torch.device("cuda" if setting.device.startswith("cuda") else "cpu")
    torch.set_num_threads(1 if device.type == "cpu" else torch.get_num_threads())
    outside = _Outside.load(options, device.type)
    ear, net = Ear(options.recognizer_weights, device), load_speaker_net(options.speaker_weights, device)
    show(f"{folder} on {setting.device}, {max(1, setting.workers)} x {setting.rows} turns at once")
    with Mouth(setting, options.work, show) as mouth:
        german = _sentences(_HERE / "sentences_de.txt")
        sizes = QUICK if options.quick else FULL
        trial = Trial(mouth, ear, net, teacher, english, german, sizes, options.seed)
        groups: Groups = {}
        chosen = [GROUPS[name] for name in options.only or GROUPS]
        trial.rehearse(chosen)
        for group in chosen:
            groups |= group(trial)
        if outside is not None:
            groups |= outside.rows(trial, listed, options, setting)
        info = mouth.info
    show("done")
    conditions = {
        "checkpoint": options.checkpoint, "weights": weights, "device": info.device, "dtype": info.dtype, "plain": options.plain,
        "quick": options.quick, "sentences": len(english), "seed": options.seed, "temperature": options.temperature, "top_p": options.top_p,
        "top_k": setting.params.top_k, "seconds": round(time.monotonic() - start), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    return groups, conditions


@dataclass(frozen=True, slots=True)
class _Outside:
    """Recognisers that somebody else has trained. Loaded before anything is spoken, so that one that cannot be is known at once."""

    hears: external.Hears
    embeds: external.Embeds | None

    @classmethod
    def load(cls, options: argparse.Namespace, device: str) -> _Outside | None:
        """What the options name; None: nothing. Raises OutsideModelError."""
        if not options.recognizer:
            return None
        hears = external.load_recognizer(options.recognizer, device)
        return cls(hears, external.load_speaker_model(options.speaker_model, device) if options.speaker_model else None)

    def rows(
        self, trial: Trial, listed: list[seed_tts.Utterance], options: argparse.Namespace, setting: Setting
    ) -> Groups:
        """Their word errors on the plain sentences and, where a list is given, on that."""
        texts = trial.some(trial.sizes.plain)
        spoken = [take.samples for take in trial.say(texts, "plain sentences")]
        taught = [trial.teacher.say(text) for text in texts]
        groups = {"Words, by a recogniser from outside": external.rows(self.hears, texts, spoken, taught, measure.RATE)}
        if listed:
            if self.embeds is None:
                print("no --speaker-model: speaker similarity is left out", file=sys.stderr)
            run = {"checkpoint": options.checkpoint, "sampling": repr(setting.params)}
            results = seed_tts.measure(
                listed, trial.mouth, self.hears, self.embeds, run=run, work=options.work, progress=sys.stderr
            )
            groups["Seed-TTS"] = seed_tts.rows(results)
        return groups


def _setting(options: argparse.Namespace, folder: Path) -> Setting:
    device = _device(options)
    cpu = device == "cpu"
    workers = options.workers if options.workers is not None else len(os.sched_getaffinity(0))
    params = replace(SamplingParams(), temperature=options.temperature, top_p=options.top_p)
    rows = options.rows or (_CPU_ROWS if cpu else _GPU_ROWS)
    arithmetic = options.quantize, options.dtype, options.plain
    return Setting(folder, options.checkpoint, device, params, workers if cpu else 0, rows, *arithmetic)


def _device(options: argparse.Namespace) -> str:
    if options.device != "auto":
        return str(options.device)
    return "cuda" if torch.cuda.is_available() else "cpu"


def _sentences(path: Path) -> list[str]:
    """One a line. Raises UsageError for a file without any."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the sentences in {path}: {error}") from error
    found = list(dict.fromkeys(line for line in lines if line))
    if len(found) < 2:
        raise UsageError(f"{path} holds {len(found)} different sentences; at least 2 are needed")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine.evaluate", description=__doc__)
    add, sampling = parser.add_argument, SamplingParams()
    add("checkpoint", help="`mini`, a folder or a repository id")
    add("--quick", action="store_true", help="an eighth of the sentences: three minutes on two cores instead of thirty")
    add("--sentences", type=Path, metavar="FILE", help="English text to speak, one sentence a line")
    add("--only", nargs="+", choices=tuple(GROUPS), help="some of the groups (default: all)")
    add("--device", default="auto", help="of torch (default: a GPU where there is one)")
    add(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="of both stacks (default: bfloat16 on a GPU, else float32)",
    )
    add("--plain", action="store_true", help="on a GPU without graphs, compiled blocks and kernels, to compare with")
    add("--quantize", choices=FORMATS, help="keep the slow stack's matrices in 8 or 4 bits (default: as they are)")
    add("--workers", type=int, help="processes on a CPU (default: its cores); 0 or 1 speaks in this one")
    add("--rows", type=int, help=f"turns at once in each process (default: {_CPU_ROWS}, on a GPU {_GPU_ROWS})")
    add("--seed", type=int, default=0, help="of the sampling and of what is picked at random")
    add("--temperature", type=float, default=sampling.temperature)
    add("--top-p", type=float, default=sampling.top_p)
    add("--work", type=Path, metavar="DIR", help="keep what is spoken there, and go on from what lies there")
    add("--json-out", type=Path, metavar="FILE", help="write the line of JSON there too")
    add("--recognizer", metavar="FOLDER_OR_ID", help="a CTC or Whisper model for transformers: adds word error rates")
    add("--seed-tts", type=Path, metavar="LIST", help="a list of that benchmark; needs --recognizer")
    add("--speaker-model", metavar="FOLDER_OR_ID", help="an x-vector model for transformers; needs --seed-tts")
    add("--recognizer-weights", type=Path, default=_HERE / "recognizer.pt", help="of the phoneme recogniser")
    add("--speaker-weights", type=Path, default=_HERE / "speaker.pt", help="of the speaker network")
    add("--espeak-data", type=Path, metavar="DIR", help="folder that holds espeak-ng-data, where the system has none")
    return parser


if __name__ == "__main__":
    sys.exit(main())
