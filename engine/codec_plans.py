"""How the products of the codec's frame are cut on a GPU (`engine.codec_triton`).

Knows tiles, what they take of a multiprocessor, and a model of how long one works; which of them was measured to be best goes before what
the model says. Does not know kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

_UNITS = 132  # multiprocessors of an H100 or H200, which plans are reckoned for
_SHARED = 200_000  # bytes of shared memory that a plan may take


@dataclass(frozen=True, slots=True)
class Plan:
    """How a product is cut: rows and columns of a tile, in `parts` of `cols` columns; inputs at once; warps; loads under way."""

    rows: int
    cols: int
    parts: int
    deep: int
    warps: int
    stages: int


# What was measured to be better than what is reckoned to be: of rows, columns, channels and taps.
PLANS: dict[tuple[int, int, int, int], Plan] = {}


def plans(rows: int, columns: int, channels: int, gated: bool) -> list[Plan]:
    """All that are worth a thought for [rows, taps * channels] times [.., columns]."""
    found = []
    outputs = columns // 2 if gated else columns
    most = next(deep for deep in (128, 64, 32, 16) if channels % deep == 0)
    for tall in (16, 32, 64, 128):
        if tall > 16 and tall >= 2 * rows:
            continue
        for cols in (16, 32, 64, 128, 256):
            for parts in (2,) if gated else (1, 3):
                width = cols * parts
                if outputs % (cols if gated else width) or tall * width > 128 * 192:
                    continue  # larger ones do not fit into registers
                warps = 8 if tall * width >= 128 * 128 or (tall >= 128 and width >= 96) else 4
                deep = most if tall <= 32 and width <= 64 else min(most, 64)
                stages = min(5, _SHARED // (2 * deep * (tall + width)))
                if tall == 16 and deep >= 64:
                    stages = min(stages, 5)
                elif deep >= 64:
                    stages = min(stages, 4)
                if stages >= 2:
                    found.append(Plan(tall, cols, parts, deep, warps, stages))
    return found


def reckoned(plan: Plan, rows: int, columns: int, depth: int, gated: bool) -> float:
    """Clocks that a product with `depth` inputs takes: a model of a multiprocessor, good for comparing plans."""
    width = plan.cols * plan.parts
    programs = -(-rows // plan.rows) * (columns // width)
    fast = plan.rows >= 64
    multiply = plan.rows * width * plan.deep / (1500 if fast else 600)
    load = 2 * plan.deep * (plan.rows + width) / 30
    shared = 2 * plan.deep * (plan.rows + width) * plan.stages
    together = max(
        1, min(220_000 // shared, 64 // plan.warps, 4, 65536 * 4 // (plan.rows * width * 4 + 40 * 128 * plan.warps))
    )
    finish = 1500 + 12 * plan.rows * width / 20

    def wave(count: int) -> float:
        one = max(count * multiply, count * load, 1000 / (plan.stages - 1)) + 40 * count
        return depth / plan.deep * one + finish * (1 + 0.3 * (count - 1))

    each = -(-programs // _UNITS)
    return each // together * wave(together) + (wave(each % together) if each % together else 0.0)


def _fits(plan: Plan, columns: int, channels: int, gated: bool) -> bool:
    """Whether its tiles leave nothing over: others would read past the matrix."""
    if gated:
        return plan.parts == 2 and columns // 2 % plan.cols == 0 and channels % plan.deep == 0
    return columns % (plan.cols * plan.parts) == 0 and channels % plan.deep == 0


@cache
def plan_of(rows: int, columns: int, channels: int, taps: int, gated: bool = False, turns: int = 1) -> Plan:
    """The one that a product runs with. turns: how often it goes through its inputs."""
    measured = PLANS.get((rows, columns, channels, taps))
    if measured is not None and _fits(measured, columns, channels, gated):  # a gated product may have the same shape
        return measured
    known, depth = plans(rows, columns, channels, gated), turns * taps * channels
    return min(known, key=lambda plan: reckoned(plan, rows, columns, depth, gated))
