"""What a server promises of a conversation, and whether it was kept: figures with bounds, as a table and as JSON.

Knows how a figure is judged and shown. Does not know how any is measured (`bench_probes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydantic import JsonValue

from realtime.bench_figures import percentile


class Bound(StrEnum):
    """How a figure keeps a promise."""

    AT_MOST = "<="
    AT_LEAST = ">="


@dataclass(frozen=True, slots=True)
class Promise:
    """One figure and what it must be."""

    name: str  # a sentence's worth
    figure: float | None  # None: nothing was measured, which breaks the promise
    limit: float
    unit: str = ""
    bound: Bound = Bound.AT_MOST
    detail: str = ""  # over what it was measured

    @property
    def kept(self) -> bool:
        """Whether the figure is within its bound."""
        if self.figure is None:
            return False
        return self.figure <= self.limit if self.bound is Bound.AT_MOST else self.figure >= self.limit

    def json(self) -> JsonValue:
        """All of it."""
        return {
            "name": self.name,
            "figure": round(self.figure, 4) if self.figure is not None else None,
            "bound": f"{self.bound} {self.limit:g}",
            "unit": self.unit,
            "kept": self.kept,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that is worth knowing and that nobody promised."""

    name: str
    figure: float
    unit: str
    detail: str = ""

    def json(self) -> JsonValue:
        """All of it."""
        return {"name": self.name, "figure": round(self.figure, 4), "unit": self.unit, "detail": self.detail}


Finding = Promise | Figure


def never(name: str, times: int, detail: str) -> Promise:
    """Something that must not happen."""
    return Promise(name, float(times), 0.0, "times", detail=detail)


def worst(name: str, values: Sequence[float], limit: float, unit: str = "ms") -> Promise:
    """The largest of several."""
    return Promise(name, max(values, default=None), limit, unit, detail=f"worst of {len(values)}")


def p95(name: str, values: Iterable[float], limit: float, unit: str = "ms") -> Promise:
    """The 95th percentile of several."""
    known = sorted(values)
    figure = percentile(known, 95) if known else None
    return Promise(name, figure, limit, unit, detail=f"p95 of {len(known)}")


def heading() -> str:
    """Above rows."""
    return f"{'':46}{'found':>11} {'promised':>11}"


def row(finding: Finding) -> str:
    """One line of the table."""
    figure = "nothing" if finding.figure is None else f"{finding.figure:.4g}"
    bound = f"{finding.bound} {finding.limit:g}" if isinstance(finding, Promise) else ""
    broken = "  BROKEN" if isinstance(finding, Promise) and not finding.kept else ""
    detail = f"  ({finding.detail})" if finding.detail else ""
    return f"  {finding.name:44}{figure:>11} {bound:>11} {finding.unit:6}{detail}{broken}"
