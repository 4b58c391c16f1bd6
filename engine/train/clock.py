"""Progress lines and learning curves of a stage.

Knows how to print a line a while, keep figures as JSON lines and draw them. Does not know what the figures mean.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path


class Progress:
    """Prints and keeps figures; a stage that resumes appends to the same file."""

    def __init__(self, path: Path, quiet: bool = False) -> None:
        """quiet: only the clock, for a process whose equal already keeps the figures."""
        self._path, self._quiet = path, quiet
        self._start = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def seconds(self) -> float:
        """Since this stage started (or resumed)."""
        return time.monotonic() - self._start

    def note(self, step: int, figures: Mapping[str, float]) -> None:
        """Print one line and append it to the file."""
        if self._quiet:
            return
        row = {"step": step, "seconds": round(self.seconds, 1)} | {
            name: round(float(v), 5) for name, v in figures.items()
        }
        print(f"[{self._path.stem}] " + " ".join(f"{name}={value}" for name, value in row.items()), flush=True)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def draw_curves(source: Path, target: Path) -> None:
    """Draw every figure of a JSON-lines file against its step into a small png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in source.read_text().splitlines()]
    names = sorted({name for row in rows for name in row} - {"step", "seconds"})
    figure, axes = pyplot.subplots(-(-len(names) // 4), 4, figsize=(10, 2 * -(-len(names) // 4)), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    offset, last = 0, 0
    for row in rows:  # a resumed stage counts its steps on from the ones before it
        offset += last if row["step"] < last else 0
        last = row["step"]
        row["at"] = offset + row["step"]
    for axis, name in zip(axes.flat, names, strict=False):
        points = [(row["at"], row[name]) for row in rows if name in row]
        axis.plot(*zip(*points, strict=True), linewidth=0.8)
        axis.set_title(name, fontsize=7)
        axis.tick_params(labelsize=6)
    figure.tight_layout()
    figure.savefig(target, dpi=70)
    pyplot.close(figure)
