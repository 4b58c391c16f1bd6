"""Figures as a table for people and one line of JSON for programs. Knows nothing of what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    key: str  # its name in the JSON
    title: str  # what it says, for people
    value: float  # a fraction, 0..1
    target: float | None = None  # None: reported, not judged
    at_most: bool = False  # the target is an upper bound
    teacher: float | None = None  # the same measured on the teacher; it must be near perfect, or the measure is wrong
    count: int = 0  # of sentences, or whatever it is a share of

    @property
    def passed(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        # Shares of a few dozen are compared to two-digit targets: no rounding in anybody's favour beyond what floats do.
        return self.value <= self.target + 1e-9 if self.at_most else self.value >= self.target - 1e-9


def share(key: str, title: str, hits: Sequence[bool], target: float | None, teacher: Sequence[bool] = ()) -> Row:
    """The row of "in so many cases"; no cases at all count as none that succeeded."""
    value = sum(hits) / len(hits) if hits else 0.0
    return Row(key, title, value, target, teacher=sum(teacher) / len(teacher) if teacher else None, count=len(hits))


def table(groups: Mapping[str, Sequence[Row]]) -> str:
    """All rows under the headings of their groups."""
    width = max((len(row.title) for rows in groups.values() for row in rows), default=0)
    head = f"{'':{width}}  {'model':>7}  {'target':>8}  {'':4}  {'teacher':>7}  {'of':>5}"
    lines = [head]
    for name, rows in groups.items():
        lines += ["", name, "-" * len(head)]
        lines += [_line(row, width) for row in rows]
    judged = [row for rows in groups.values() for row in rows if row.passed is not None]
    lines += ["", f"{sum(bool(row.passed) for row in judged)} of {len(judged)} targets reached"]
    return "\n".join(lines)


def _line(row: Row, width: int) -> str:
    sign = "<=" if row.at_most else ">="
    target = "" if row.target is None else f"{sign} {row.target:.3f}"
    verdict = {None: "", True: "ok", False: "FAIL"}[row.passed]
    teacher = "" if row.teacher is None else f"{row.teacher:.3f}"
    count = str(row.count or "")
    return f"{row.title:{width}}  {row.value:7.3f}  {target:>8}  {verdict:4}  {teacher:>7}  {count:>5}"


def json_line(groups: Mapping[str, Sequence[Row]], conditions: Mapping[str, str | int | float | bool]) -> str:
    """Every figure by its key; which failed; targets and the teacher's own figures by the same keys; and how it all came about.

    Raises ValueError where two rows share a key.
    """
    rows = [row for group in groups.values() for row in group]
    figures: dict[str, float] = {}
    for row in rows:
        if row.key in figures:
            raise ValueError(f"two rows are called {row.key}")
        figures[row.key] = _fraction(row.value)
    return json.dumps(
        figures
        | {
            "failed": [row.key for row in rows if row.passed is False],
            "targets": {row.key: _fraction(row.target) for row in rows if row.target is not None},
            "teacher": {row.key: _fraction(row.teacher) for row in rows if row.teacher is not None},
            "conditions": dict(conditions),
        }
    )


def _fraction(value: float) -> float:
    """An error rate exceeds 1 where more is said than was asked for."""
    return round(min(value, 1.0), 5)
