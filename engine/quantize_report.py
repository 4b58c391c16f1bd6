"""What a format of `engine.quantize` costs a model: `python -m engine.quantize_report [MODEL]`.

The model speaks some sentences; then the float32 model and each quantised one are fed the same prompts and frames, and what they would have
drawn next is compared, frame by frame. That is a hundred times as sensitive as listening, and endings are seen apart. Does not know whether
the speech is any good: `engine.evaluate` tells.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine import commands as c
from engine.api import Conversation, EngineLimits, Frame, SamplingParams, Voice
from engine.attention import causal
from engine.checkpoint import load_dual_ar
from engine.load import Loaded, core_of, load_model
from engine.model import DualAR
from engine.prompt import Columns, PromptBuilder
from engine.quantize import FORMATS, check, matrix_bytes

_SENTENCES = Path(__file__).parent / "evaluate" / "sentences_en.txt"
_NOBODY = Voice("report")
_ROWS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Forced:
    """What a model is fed: the prompt of a sentence, its frames, and the end of its message."""

    columns: Columns  # [K + 1, T]
    first: int  # of the columns whose next frame is compared; the last is `frames` behind it and should end the segment
    frames: int


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """What a model makes of everything that it is fed."""

    head: Tensor  # logits [decisions, semantic entries + 1], the last column ends a segment
    fast: Tensor  # logits [frames, K - 1, entries], of codebooks 1 to K - 1


@dataclass(frozen=True, slots=True)
class Difference:
    """Of a model's decisions from the float32 model's."""

    format: str
    megabytes: float  # of the slow stack's matrices
    head_error: float  # rms of the logits' difference over the rms of the logits, each less their mean
    top_1: float  # share of decisions with the same likeliest entry
    endings: float  # share of decisions that agree about ending the segment there
    end_shift: float  # largest change of the probability to end it
    fast_error: float
    fast_top_1: float


def speak(loaded: Loaded, texts: Sequence[str]) -> list[Forced]:
    """Have a model say each text, sampled as it is by default."""
    core = core_of(loaded, EngineLimits(max_streams=_ROWS, kv_positions=_ROWS * 2048))
    codes: dict[int, list[Columns]] = {number: [] for number in range(len(texts))}
    for begin in range(0, len(texts), _ROWS):
        for number in range(begin, min(begin + _ROWS, len(texts))):
            core.handle(c.Open(number, Conversation(f"{number}"), _NOBODY, SamplingParams(seed=number), 0))
            core.handle(c.Push(number, texts[number]))
            core.handle(c.Finish(number))
            core.handle(c.Allow(number, SamplingParams().max_frames))
        while core.has_work():
            for stream, event in core.step().events:
                if isinstance(event, Frame):
                    codes[stream].append(event.codes[:, None].astype(np.int64))
    core.close()
    return [_forced(loaded.prompts, text, np.concatenate(codes[i], 1)) for i, text in enumerate(texts) if codes[i]]


def _forced(prompts: PromptBuilder, text: str, codes: Columns) -> Forced:
    before = np.concatenate((prompts.system(_NOBODY), prompts.user(text)), 1)
    columns = np.concatenate((before, prompts.frames(codes.astype(np.int16))), 1)
    return Forced(columns, before.shape[1] - 1, codes.shape[1])


@torch.inference_mode()
def decide(model: DualAR, fed: Sequence[Forced]) -> Decisions:
    """Feed a model, prepared for serving."""
    head, fast = [], []
    for one in fed:
        columns = torch.from_numpy(one.columns).to(model.device)[None]
        positions = torch.arange(columns.shape[2], device=model.device)[None]
        hidden = model.slow(model.embed(columns), positions, causal)
        head.append(model.head(hidden.head[0, one.first :]).float().cpu())
        codes = columns[0, 1:, one.first + 1 :].T  # [frames, K]
        fast.append(model.fast(hidden.fast[0, one.first : -1], codes)[:, 1:].float().cpu())
    return Decisions(torch.cat(head), torch.cat(fast))


def difference(format: str, megabytes: float, exact: Decisions, found: Decisions) -> Difference:
    """Of `found` from `exact`."""
    end = exact.head.shape[1] - 1
    best, other = exact.head.argmax(1), found.head.argmax(1)
    shift = (found.head.softmax(1) - exact.head.softmax(1))[:, end].abs().max()
    return Difference(
        format,
        round(megabytes, 2),
        _relative(exact.head, found.head),
        float((best == other).float().mean()),
        float(((best == end) == (other == end)).float().mean()),
        float(shift),
        _relative(exact.fast, found.fast),
        float((exact.fast.argmax(-1) == found.fast.argmax(-1)).float().mean()),
    )


def _relative(exact: Tensor, found: Tensor) -> float:
    """What all logits have in common changes no draw."""
    exact, found = (x - x.mean(-1, keepdim=True) for x in (exact, found))
    return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def compare(folder: Path, fed: Sequence[Forced], formats: Sequence[str], device: str) -> list[Difference]:
    """Each format against float32, one model at a time. Raises QuantizeError for one that cannot be had."""
    for format in formats:
        check(format, torch.device(device))
    model = load_dual_ar(folder, device)
    model.prepare_serving()
    exact, out = decide(model, fed), []
    for format in formats:
        del model
        model = load_dual_ar(folder, device, quantize=format)
        model.prepare_serving()
        out.append(difference(format, matrix_bytes(model) / 1e6, exact, decide(model, fed)))
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code."""
    parser = argparse.ArgumentParser(prog="engine.quantize_report", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", nargs="?", default="mini", help="mini, a folder or a repository (default: mini)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--sentences", type=int, default=40, help="of engine/evaluate (default: %(default)s)")
    args = parser.parse_args(argv)
    from engine.hub import resolve  # only here: a machine without registries may lack what the hub needs

    folder = resolve(args.model).folder
    texts = _SENTENCES.read_text(encoding="utf-8").splitlines()[: args.sentences]
    fed = speak(load_model(folder, args.model, args.device, "auto", None), texts)
    found = compare(folder, fed, args.formats, args.device)
    print(f"{len(fed)} sentences, {sum(one.frames for one in fed)} frames, against float32")
    print("format      MB  head error  top 1  endings  end shift  fast error  fast top 1")
    for row in found:
        print(
            f"{row.format:6}{row.megabytes:8.1f}{row.head_error:12.4f}{row.top_1:7.3f}{row.endings:9.4f}"
            f"{row.end_shift:11.4f}{row.fast_error:12.4f}{row.fast_top_1:12.3f}"
        )
    print(json.dumps([asdict(row) for row in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
