"""`python -m engine.bench_plot`: what a step takes by its streams, as a picture.

Knows the `pieces` of a result that `python -m engine.bench --json` wrote, and how they are drawn. Does not measure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

# Of each piece: its name in the result, what it is called in the picture, and its colour. Colours that most people tell apart
# (https://jfly.uni-koeln.de/color/).
PIECES: Final = (
    ("all", "a whole step", "#0072b2"),
    ("slow", "slow step", "#d55e00"),
    ("codec", "codec alone", "#009e73"),
    ("draw", "draws, fast loop", "#cc79a7"),
)
GREY: Final = "#555555"


def main(argv: Sequence[str] | None = None) -> int:
    """Draw; the exit code."""
    parser = argparse.ArgumentParser(prog="engine.bench_plot", description=__doc__.partition("\n")[0])
    parser.add_argument("result", type=Path, help="what `python -m engine.bench --parts pieces --json RESULT` wrote")
    parser.add_argument("picture", type=Path, help="file to write; its suffix says of which kind (.png, .svg, .pdf)")
    args = parser.parse_args(argv)
    try:
        result = json.loads(args.result.read_text(encoding="utf-8"))
        if isinstance(result, dict) and not result.get("pieces"):
            parser.error(f"{args.result} has no `pieces`: measure them with --parts pieces")
        draw(result, args.picture)
    except ImportError:
        parser.error("pictures need the optional package matplotlib: pip install 'parley[train]'")
    except (OSError, ValueError) as error:  # a file that is not there, no JSON, an unknown suffix
        parser.error(f"{args.result} cannot be drawn into {args.picture}: {error}")
    except (KeyError, TypeError):
        parser.error(f"{args.result} is no result of engine.bench")
    return 0


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Milliseconds of a step and its pieces over streams, below how long a frame lasts and above the roof.

    Raises OSError, and ValueError for a suffix that nobody knows.
    """
    from matplotlib.figure import Figure  # only here: an optional dependency

    rows = sorted(result["pieces"], key=lambda row: row["streams"])
    streams = [row["streams"] for row in rows]
    figure = Figure(figsize=(8, 4.2))
    axis = figure.subplots()
    whole = [row["all"] for row in rows]
    p50, p95 = [one["p50"] for one in whole], [one["p95"] for one in whole]
    axis.fill_between(streams, p50, p95, color=PIECES[0][2], alpha=0.2, linewidth=0)
    lines = [(name, colour, "-", [row[piece]["p50"] for row in rows]) for piece, name, colour in PIECES]
    lines.append(("roof of a step", GREY, "--", [one["roof"] for one in whole]))
    for name, colour, style, values in lines:
        axis.plot(streams, values, style, color=colour, linewidth=1.6, marker="o" if style == "-" else "", markersize=3)
        axis.annotate(
            name, (streams[-1], values[-1]), (6, 0), textcoords="offset points", color=colour, fontsize=9, va="center"
        )
    frame_ms = result["frame_ms"]
    axis.axhline(frame_ms, color=GREY, linewidth=1)
    axis.annotate(f"a frame lasts {frame_ms:.1f} ms", (0, frame_ms), (4, -11), textcoords="offset points", fontsize=9)
    axis.set_xlim(0, streams[-1] * 1.02)
    axis.set_ylim(0)
    axis.set_xlabel(f"streams, each of some {round(rows[-1]['positions'] / streams[-1], -1):,.0f} positions")
    axis.set_ylabel("ms (p50; band to p95)")
    axis.set_title(_title(result), fontsize=10, loc="left")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=96, bbox_inches="tight")


def _title(result: Mapping[str, Any]) -> str:
    weights = f"{result['dtype']}, slow stack in {result['quantize']}" if result["quantize"] else result["dtype"]
    return f"{result['model']} on {result['device']}, {weights}, torch {result['torch']}"


if __name__ == "__main__":
    sys.exit(main())
