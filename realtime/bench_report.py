"""The benchmark's results: all turns' figures in one object, and the table that a person reads.

Knows what is reported and how it is summed up. Does not know how it was measured (`bench_figures`) nor the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from protocol.config import Clock
from realtime.bench_figures import Failure, Refusal, TurnFigures, figures, in_share, percentile
from realtime.bench_load import Measured

PERCENTS: Final = (50, 95, 99)
BOUNDS_MS: Final = (50, 100, 200)
MOST_REASONS: Final = 5  # of refusals that are told; some name a time
EACH_STREAM: Final = 16  # so many streams get a figure each in the table; more are summed up

Json = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that a run found out, as JSON and for people."""

    summary: Json
    failed: int  # measured turns

    def table(self) -> str:
        """Lines for a terminal."""
        return "\n".join(_lines(self.summary))


def summed_up(measured: Measured, conditions: Mapping[str, JsonValue]) -> Result:
    """The result of a run under `conditions`, which are passed on."""
    streams: list[list[TurnFigures]] = []
    failures: Counter[str] = Counter()
    refusals: list[Refusal] = []
    for outcomes in measured.outcomes:
        streams.append([])
        for outcome in outcomes:
            if isinstance(outcome, Refusal):
                refusals.append(outcome)
            elif isinstance(outcome, Failure):
                failures[outcome.reason] += 1
            elif (found := figures(outcome)) is not None:
                streams[-1].append(found)
            else:
                failures["nothing audible came"] += 1
    turns = [turn for stream in streams for turn in stream]
    summary: Json = {
        "conditions": dict(conditions),
        "turns": {
            "measured": sum(map(len, measured.outcomes)) - len(refusals),
            "failed": failures.total(),
            "failures": dict(failures),
            "cancelled": sum(turn.cancel_ms is not None for turn in turns),
        },
        "wall_s": round(measured.ended_at - measured.begun_at, 3),
        "speech_s": round(sum(turn.audio_ms for turn in turns) / 1000, 3),
        "client_late_ms": _spread(1000 * late for late in measured.late_s),
        "roof": _roof(conditions),
    }
    if "arrivals_per_s" in conditions:
        summary |= _strangers(measured, refusals)
    if turns:
        as_fast_as_possible = conditions["clock"] == Clock.NONE
        summary |= _figures(turns, [stream for stream in streams if stream], as_fast_as_possible)
    return Result(summary, failures.total())


def _roof(conditions: Mapping[str, JsonValue]) -> Json | None:
    """The least that a frame could take, where the server tells it: no figure of it can be below."""
    roof_ms, frame_ms = conditions.get("roof_ms"), conditions.get("frame_ms")
    if not isinstance(roof_ms, int | float) or not isinstance(frame_ms, int | float):
        return None
    return {"frame_ms": roof_ms, "real_time_factor": round(roof_ms / frame_ms, 4)}


def _strangers(measured: Measured, refusals: Sequence[Refusal]) -> Json:
    there, reasons = measured.at_once, Counter(refusal.reason for refusal in refusals)
    told = [1000 * refusal.retry_after_s for refusal in refusals if refusal.retry_after_s is not None]
    return {
        "refused": {
            "turns": len(refusals),
            "reasons": dict(reasons.most_common(MOST_REASONS)),
            "told_when": len(told),
            "retry_after_ms": _spread(told),
        },
        "at_once": {"mean": round(sum(there) / len(there), 2), "most": max(there)} if there else None,
        "connecting_ms": _spread(1000 * s for s in measured.connecting_s),
    }


def _figures(turns: Sequence[TurnFigures], streams: Sequence[Sequence[TurnFigures]], as_fast_as_possible: bool) -> Json:
    short = [turn.short_ms for turn in turns]
    worst_of_streams = [max(turn.short_ms for turn in stream) for stream in streams]
    rtf: list[JsonValue] = [_rtf(stream) for stream in streams]
    return {
        "first_audible_ms": {
            "waiting_for_engine": _spread(turn.engine_wait_ms for turn in turns),
            "waiting_for_text": _spread(turn.text_wait_ms for turn in turns),
            "from_turn_start": _spread(turn.audible_ms for turn in turns),
        },
        "first_packet_ms": _spread(turn.first_packet_ms for turn in turns),
        "real_time_factor": {
            "shows": "throughput" if as_fast_as_possible else "latency of frames",
            "worst": max((f for f in rtf if isinstance(f, float)), default=None),
            "streams": rtf,
        },
        "elapsed_per_speech": _elapsed_per_speech(turns) if as_fast_as_possible else None,
        "short_by_ms": {**_spread(short), "streams": [round(worst, 1) for worst in worst_of_streams]},
        "never_short_by_more": {
            str(bound): {
                "turns": round(in_share(short, bound), 4),
                "streams": round(in_share(worst_of_streams, bound), 4),
            }
            for bound in BOUNDS_MS
        },
        "underruns_told_by_server": sum(turn.underruns for turn in turns),
        "text_short_ms": _spread(turn.text_short_ms for turn in turns),
        "cancel_ms": _spread(turn.cancel_ms for turn in turns if turn.cancel_ms is not None),
    }


def _rtf(stream: Sequence[TurnFigures]) -> float | None:
    """Of all speech of a stream: each turn counts by its length."""
    counted = [(turn.rtf, turn.audio_ms) for turn in stream if turn.rtf is not None]
    speech_ms = sum(ms for _, ms in counted)
    return round(sum(rtf * ms for rtf, ms in counted) / speech_ms, 4) if speech_ms else None


def _elapsed_per_speech(turns: Sequence[TurnFigures]) -> float | None:
    """What a client with a clock of its own sees of the real-time factor: everything counts, also the way to the first packet."""
    whole = [turn for turn in turns if turn.cancel_ms is None]
    speech_ms = sum(turn.audio_ms for turn in whole)
    return round(sum(turn.elapsed_ms for turn in whole) / speech_ms, 4) if speech_ms else None


def _spread(values: Iterable[float]) -> Json:
    """Percentiles and the worst; empty without values."""
    known = sorted(values)
    if not known:
        return {}
    spread: Json = {f"p{percent}": round(percentile(known, percent), 1) for percent in PERCENTS}
    return spread | {"worst": round(known[-1], 1)}


def _lines(summary: Json) -> Iterable[str]:
    conditions, turns = _part(summary, "conditions"), _part(summary, "turns")
    if "arrivals_per_s" in conditions:
        load = f"{conditions['arrivals_per_s']:g} turns a second at random for {conditions['duration_s']:g} s"
    else:
        load = f"{conditions['streams']} streams x {conditions['turns']} turns"
    yield (
        f"{load} of {conditions['model']} on "
        f"{conditions['device'] or 'an unknown device'}, {conditions['format']} at {conditions['rate']} Hz, "
        + (f"typed at {conditions['text_rate']:g} characters/s" if conditions["text_rate"] else "each text at once")
        + (", as fast as possible" if conditions["clock"] == Clock.NONE else ", played in real time")
    )
    yield (
        f"{turns['measured']} turns measured, {turns['failed']} failed, {turns['cancelled']} cancelled; "
        f"{summary['speech_s']} s of speech"
    )
    if "refused" in summary:
        yield from _lines_of_strangers(summary)
    for reason, count in _part(turns, "failures").items():
        yield f"  failed {count} times: {reason}"
    if "first_audible_ms" not in summary:
        return
    audible = _part(summary, "first_audible_ms")
    yield ""
    yield f"{'ms':34}{'p50':>9}{'p95':>9}{'p99':>9}{'worst':>9}"
    yield _row("first audible, from turn start", _part(audible, "from_turn_start"))
    yield _row("  waiting for text", _part(audible, "waiting_for_text"))
    yield _row("  waiting for engine", _part(audible, "waiting_for_engine"))
    yield _row("first packet, from the text", _part(summary, "first_packet_ms"))
    yield _row("short by", _part(summary, "short_by_ms"))
    yield _row("  besides, without text", _part(summary, "text_short_ms"))
    if cancel := _part(summary, "cancel_ms"):
        yield _row("cancel", cancel)
    if connecting := summary.get("connecting_ms"):
        assert isinstance(connecting, dict), "a spread"
        yield _row("connecting, before the turn", connecting)
    yield _row("client late", _part(summary, "client_late_ms"))
    yield ""
    rtf = _part(summary, "real_time_factor")
    streams = rtf["streams"]
    assert isinstance(streams, list), "one a stream"
    if len(streams) > EACH_STREAM:
        known = [f for f in streams if isinstance(f, float)]
        told = "  ".join(f"p{p} {percentile(known, p):.3f}" for p in PERCENTS) if known else "?"
        yield f"real-time factor of {len(streams)} streams     {told}"
    else:
        yield "real-time factor of each stream    " + "  ".join(f"{f:.3f}" if f is not None else "?" for f in streams)
    if summary["roof"] is not None:
        roof = _part(summary, "roof")
        yield f"  the roof is {roof['real_time_factor']}: weights cannot be read in less than {roof['frame_ms']} ms a frame"
    if rtf["shows"] == "throughput":
        yield "  is throughput: nothing held generation back"
        if summary["elapsed_per_speech"] is not None:
            yield f"  from first text to last packet  {summary['elapsed_per_speech']:>7} s per second of speech"
    else:
        yield "  is the latency of single frames: a listener's pace holds generation back; --clock none shows throughput"
    for bound, share in _part(summary, "never_short_by_more").items():
        assert isinstance(share, dict), "turns and streams"
        yield f"never short by more than {bound:>3} ms    {share['turns']:7.1%} of turns, {share['streams']:7.1%} of streams"


def _lines_of_strangers(summary: Json) -> Iterable[str]:
    refused, at_once = _part(summary, "refused"), summary["at_once"]
    wait = _part(refused, "retry_after_ms")
    told = f", told to come again after {wait['p50']:.0f} ms (p50) to {wait['worst']:.0f} ms" if wait else ""
    yield f"{refused['turns']} turns besides were refused{told}"
    for reason, count in _part(refused, "reasons").items():
        yield f"  refused {count} times: {reason}"
    if isinstance(at_once, dict):
        yield f"{at_once['mean']} turns at once on the mean, {at_once['most']} at most"


def _row(name: str, spread: Json) -> str:
    return f"{name:34}" + "".join(f"{spread[key]:9.1f}" for key in ("p50", "p95", "p99", "worst"))


def _part(summary: Json, name: str) -> Json:
    part = summary[name]
    assert isinstance(part, dict), "made above"
    return part
