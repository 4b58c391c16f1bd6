"""Reports of this code that measure what no client can see, each a command of its own: run, and read from their last line.

Knows what they are called and what their figures mean. Does not know how they measure.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio

from realtime.bench_promises import Figure, Finding, Promise, never


@dataclass(frozen=True, slots=True)
class Report:
    """A module that is run."""

    module: str
    arguments: tuple[str, ...]
    read: Callable[
        [Mapping[str, Any]], Sequence[Finding]
    ]  # its last line, parsed; raises KeyError, TypeError, ValueError


def _reactions(told: Mapping[str, Any]) -> Sequence[Finding]:
    detail = f"{told['sessions']} sessions, {told['cancels']} cancels"
    return (
        Promise("cancel, in the server, p99", told["cancel_p99_ms"], 5.0, "ms", detail=detail),
        Promise("event loop late, p99", told["lag_p99_ms"], 3.0, "ms", detail=detail),
        Promise("event loop late, p99.9", told["lag_p999_ms"], 20.0, "ms", detail=detail),
        never("promises of the report broken", len(told["broken"]), "; ".join(told["broken"]) or "none"),
    )


def _hearing(told: Mapping[str, Any]) -> Sequence[Finding]:
    starts = [start for start in told["starts"] if start["promised"]]
    alarms = [alarm for alarm in told["alarms"] if alarm["promised"]]
    minutes = sum(alarm["minutes"] for alarm in alarms)
    return (
        Figure("speech noticed, p50 of the worst condition", max(start["delay_p50_ms"] for start in starts), "ms"),
        Figure("speech noticed, p95 of the worst condition", max(start["delay_p95_ms"] for start in starts), "ms"),
        Figure("phrases missed", sum(s["missed"] for s in starts), "times", f"of {sum(s['phrases'] for s in starts)}"),
        Figure(
            "false alarms a minute", sum(alarm["alarms"] for alarm in alarms) / minutes, "", f"{minutes:.1f} minutes"
        ),
        never("promises of the report broken", len(told["broken"]), "; ".join(map(str, told["broken"])) or "none"),
    )


REPORTS: Final[Mapping[str, Report]] = {
    "reactions": Report("realtime.reactions", ("--turns", "8"), _reactions),
    "hearing": Report("realtime.hearing_report", ("--quick",), _hearing),
}


async def reported(report: Report) -> Sequence[Finding]:
    """Run it. One that says nothing, or nothing that can be read, is a promise broken."""
    # -P and this path: as for the bench's own server.
    root = str(Path(__file__).parent.parent)
    code = f"import runpy, sys; sys.path.insert(0, {root!r}); runpy.run_module({report.module!r}, run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-P", "-c", code, *report.arguments]
    # In that folder, where a report's own children find the code.
    done = await anyio.run_process(command, check=False, cwd=root)
    try:
        return report.read(json.loads(done.stdout.decode().strip().splitlines()[-1]))
    except (IndexError, KeyError, TypeError, ValueError):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return (never("broke off", 1, said[-1] if said else f"exit code {done.returncode}"),)
