"""How the products of the codec's frame are cut on a GPU (`engine.codec_triton`).

Knows tiles, what they take of a multiprocessor, and a model of how long one works; which of them was measured to be best goes before what
the model says. Does not know kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    joined: bool = False  # of what has two halves: all products of a part of the inputs at once


# What was measured on an H200 to be better than what is reckoned to be: of rows, columns, channels and taps.
PLANS: dict[tuple[int, int, int, int], Plan] = {
    (2, 2048, 1024, 1): Plan(16, 64, 1, 128, 4, 5),
    (2, 4096, 1024, 1): Plan(16, 64, 1, 128, 4, 5),
    (4, 1536, 1024, 7): Plan(16, 32, 1, 128, 4, 5),
    (4, 4096, 1024, 1): Plan(16, 64, 1, 128, 4, 5),
    (4, 6144, 1536, 2): Plan(16, 64, 1, 128, 4, 5),
    (32, 3072, 768, 2): Plan(32, 32, 1, 128, 4, 4),
    (64, 2048, 1024, 1): Plan(64, 16, 1, 64, 4, 4),
    (64, 3072, 1024, 1): Plan(64, 32, 1, 64, 4, 4),
    (128, 1024, 4096, 1): Plan(64, 16, 1, 64, 4, 4),
    (128, 2048, 1024, 1): Plan(64, 32, 1, 64, 4, 4),
    (256, 384, 384, 1): Plan(64, 16, 1, 64, 4, 4),
    (256, 384, 384, 7): Plan(32, 32, 1, 128, 4, 4),
    (256, 768, 384, 2): Plan(64, 32, 1, 64, 4, 4),
    (256, 1024, 1024, 1): Plan(64, 32, 1, 64, 4, 4),
    (256, 1024, 3072, 1): Plan(64, 32, 1, 64, 4, 4),
    (256, 1024, 4096, 1): Plan(64, 32, 1, 64, 4, 4),
    (256, 1536, 1024, 7): Plan(64, 64, 1, 64, 4, 4),
    (256, 4096, 1024, 1): Plan(64, 64, 1, 64, 4, 4),
    (256, 6144, 1536, 2): Plan(64, 64, 3, 64, 4, 4),
    (1024, 192, 192, 1): Plan(32, 64, 1, 64, 4, 4),
    (1024, 192, 192, 2): Plan(64, 32, 1, 64, 4, 4),
    (1024, 192, 192, 7): Plan(64, 32, 1, 64, 4, 4),
    (1024, 1536, 1024, 7): Plan(64, 64, 3, 64, 4, 4),
    (2048, 96, 96, 7): Plan(64, 32, 1, 32, 4, 5),
    (2048, 768, 768, 1): Plan(128, 128, 1, 64, 8, 4),
    (2048, 768, 768, 7): Plan(64, 64, 3, 64, 4, 4),
    (2048, 3072, 768, 2): Plan(128, 128, 1, 64, 8, 4),
    (8192, 768, 768, 1): Plan(128, 128, 1, 64, 8, 4),
    (8192, 3072, 768, 2): Plan(128, 128, 1, 64, 8, 4),
    (16384, 384, 384, 1): Plan(64, 128, 1, 64, 4, 4),
    (65536, 384, 384, 1): Plan(64, 128, 1, 64, 4, 4),
    (65536, 768, 384, 2): Plan(128, 128, 1, 64, 8, 4),
    (131072, 96, 96, 1): Plan(128, 32, 1, 32, 4, 5),
    (262144, 192, 192, 2): Plan(128, 64, 1, 64, 4, 4),
    (524288, 96, 96, 1): Plan(128, 32, 1, 32, 4, 5),
    (524288, 96, 96, 7): Plan(64, 32, 3, 32, 4, 5),
}


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
def plan_of(
    rows: int, columns: int, channels: int, taps: int, gated: bool = False, precise: bool = False, joined: bool = False
) -> Plan:
    """The one that a product runs with. precise: both factors have two halves. joined: see Plan; of what is precise alone."""
    measured, known = PLANS.get((rows, columns, channels, taps)), plans(rows, columns, channels, gated)
    if measured is not None and _fits(measured, columns, channels, gated):  # a gated product may have the same shape
        known = [measured]
    if precise and joined:
        known = [_joined(plan) for plan in known]
    depth = (3 if precise else 1) * taps * channels
    return min(known, key=lambda plan: reckoned(plan, rows, columns, depth, gated))


def _joined(plan: Plan) -> Plan:
    """With both halves of inputs and matrix at once, as many of them as there is room for."""
    stage = 4 * plan.deep * (plan.rows + plan.cols * plan.parts)
    if 2 * stage > _SHARED:
        return replace(plan, joined=True, deep=plan.deep // 2, stages=min(plan.stages, 2 * _SHARED // stage))
    return replace(plan, joined=True, stages=min(plan.stages, _SHARED // stage))
