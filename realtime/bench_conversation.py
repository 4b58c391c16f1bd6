"""`parley bench conversation`: does a server keep what the protocol promises of a conversation?

Knows the order of the probes and what a probe that cannot be played means. Does not know what they try (`bench_probes`,
`bench_probes_sound`, `bench_probes_hearing`), nor what its reports measure (`bench_reports`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final, TextIO

import anyio
from pydantic import JsonValue

from protocol.client import ClientError
from realtime.bench import circumstances, loaded_model
from realtime.bench_probes import PROBES as CONVERSING
from realtime.bench_probes import Probe
from realtime.bench_probes_hearing import barge_in, marks
from realtime.bench_probes_sound import loudness, markup, speed_and_volume
from realtime.bench_promises import Finding, Promise, heading, never, row
from realtime.bench_reports import REPORTS, Report, reported
from realtime.bench_stage import Stage
from realtime.failure import FAILED, leaf


async def _report(report: Report, stage: Stage) -> Sequence[Finding]:
    return await reported(report)


PROBES: Final[Mapping[str, Probe]] = {
    **CONVERSING,
    "speed and volume": speed_and_volume,
    "loudness": loudness,
    "marked-up text": markup,
    "marks": marks,
    "barge-in by voice": barge_in,
    # These measure this code and not the server of an address.
    **{name: partial(_report, report) for name, report in REPORTS.items()},
}
BUDGET_S: Final = 160.0  # for all probes, so that with its server's start the command ends within three minutes


@dataclass(frozen=True, slots=True)
class ConversationOptions:
    """What is asked of the server."""

    url: str
    key: str | None
    turns: int  # of the long conversation
    barge_ins: int  # of them
    seed: int
    probes: Sequence[str]  # names of PROBES, in order


def bench_conversation(options: ConversationOptions, own_server: bool, out: TextIO) -> int:
    """Try and print; the exit code. Blocks. Raises CommandFailed where there is nothing to try."""
    begun = datetime.now(UTC)
    model = loaded_model(options.url, options.key)
    frame_ms = model.get("frame_ms")
    stage = Stage(
        url=options.url,
        key=options.key,
        now=time.monotonic,
        seed=options.seed,
        frame_ms=float(frame_ms) if isinstance(frame_ms, int | float) else None,
        turns=options.turns,
        barge_ins=options.barge_ins,
    )
    found = anyio.run(_played, stage, options.probes, out)
    broken = [finding for _, finding in found if isinstance(finding, Promise) and not finding.kept]
    print(f"{len(broken)} promises broken" if broken else "every promise kept", file=out)
    conditions: dict[str, JsonValue] = {
        **circumstances(model, options.url, own_server, begun),
        "turns": options.turns,
        "barge_ins": options.barge_ins,
        "seed": options.seed,
    }
    print(json.dumps({"conditions": conditions, "broken": len(broken), "found": _json(found)}), file=out, flush=True)
    return FAILED if broken else 0


async def _played(stage: Stage, names: Sequence[str], out: TextIO) -> list[tuple[str, Finding]]:
    """One probe after the other, each shown when it begins and with what it found when it ends."""
    found: list[tuple[str, Finding]] = []
    ends_at = stage.now() + BUDGET_S
    print(heading(), file=out)
    for name in names:
        print(name, file=out, flush=True)
        begun = stage.now()
        findings = await _tried(stage, PROBES[name], ends_at - begun)
        print("\n".join(map(row, findings)), file=out)
        print(f"  took {stage.now() - begun:.1f} s", file=out, flush=True)
        found += [(name, finding) for finding in findings]
    return found


async def _tried(stage: Stage, probe: Probe, patience_s: float) -> Sequence[Finding]:
    """What a probe found; that it broke off, or was not done in time, is a promise broken, too."""
    try:
        with anyio.move_on_after(patience_s):
            return await probe(stage)
        return (never("not done in time", 1, f"all probes together have {BUDGET_S:g} s"),)
    except (ClientError, OSError, BaseExceptionGroup) as error:
        reason = leaf(error)
        if not isinstance(reason, ClientError | OSError):
            raise
        return (never("broke off", 1, str(reason) or type(reason).__name__),)


def _json(found: Sequence[tuple[str, Finding]]) -> dict[str, JsonValue]:
    by_probe: dict[str, JsonValue] = {}
    for name, finding in found:
        findings = by_probe.setdefault(name, [])
        assert isinstance(findings, list), "made above"
        findings.append(finding.json())
    return by_probe
