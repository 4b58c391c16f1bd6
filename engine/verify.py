"""Check this engine's numbers against a folder that carries expected ones: `python -m engine.verify FOLDER`.

The folder is a checkpoint (single file or sharded, any sizes) with scenarios.json and expected.npz beside it, as in
tests/fixtures/s2pro. Prints what was compared, the largest error, the tolerance and whether that is ok; exits with 1 where
something falls short and with 2 where the folder cannot be read. An array that a check would need and the folder lacks gets
a line of its own, and so do arrays that no check looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from engine import verify_ar, verify_codec
from engine.checkpoint import CheckpointError
from engine.codec_weights import CodecWeightsError
from engine.config import ConfigError, read_json
from engine.verify_report import Report


def verify(folder: Path, device: str = "cpu") -> Report:
    """Run every check that the folder has arrays for. Raises ConfigError, CheckpointError or CodecWeightsError."""
    path = folder / "expected.npz"
    if not path.is_file():
        raise ConfigError(path, "no such file")
    with np.load(path) as arrays:
        report = Report({name: arrays[name] for name in arrays.files}, torch.device(device))
    scenarios = read_json(folder / "scenarios.json")
    with torch.inference_mode():
        verify_ar.check(folder, scenarios, report)
        verify_codec.check(folder, report)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m engine.verify", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="a checkpoint folder with scenarios.json and expected.npz")
    parser.add_argument("--device", default="cpu", help="where to compute, as torch names it (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    options = parser.parse_args(arguments)
    torch.backends.cudnn.allow_tf32 = False  # on by default for convolutions; the tolerances are those of float32
    try:
        report = verify(options.folder, options.device)
    except (ConfigError, CheckpointError, CodecWeightsError) as error:
        print(error, file=sys.stderr)
        return 2
    unseen = sorted(report.arrays.keys() - report.looked_at)
    if options.json:
        rows = [{"what": row.what, "error": row.error, "tolerance": row.tolerance, "ok": row.ok} for row in report.rows]
        print(json.dumps({"ok": report.ok, "rows": rows, "not_compared": unseen}, indent=1))
    else:
        print(report.table())
        print(_summary(report, unseen))
    return 0 if report.ok else 1


def _summary(report: Report, unseen: Iterable[str]) -> str:
    failed = sum(row.ok is False for row in report.rows)
    absent = sum(row.ok is None for row in report.rows)
    compared = len(report.rows) - absent
    lines = [f"{compared} comparisons, {failed} failed, {absent} with nothing to compare with"]
    if names := ", ".join(unseen):
        lines.append(f"in the folder, and looked at by no check: {names}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
