"""The sums over turns and streams, and the table."""

import json

import pytest
from pydantic import JsonValue

from realtime.bench_figures import Failure, Outcome, Refusal
from realtime.bench_load import Measured
from realtime.bench_report import Json, summed_up
from tests.realtime.test_bench_figures import done, late, packets, record

CONDITIONS: Json = {
    "model": "mini",
    "device": "cpu",
    "streams": 2,
    "turns": 2,
    "format": "opus",
    "rate": 48000,
    "text_rate": 200.0,
    "clock": "realtime",
}


def measured() -> Measured:
    """Two streams: one in time, one 120 ms late in its second turn."""
    calm: list[Outcome] = [record(), record(packets=packets(10.3))]
    hurried: list[Outcome] = [
        record(packets=packets(10.4), done=done(sent_ms=3000, rtf=0.5)),
        record(packets=late(after=25, by_ms=120), done=done(sent_ms=1000, rtf=0.9)),
    ]
    return Measured([calm, hurried], "mini", 48000, 5.0, 25.0, [0.001, 0.004])


def at(summary: Json, *path: str) -> JsonValue:
    value: JsonValue = summary
    for name in path:
        assert isinstance(value, dict)
        value = value[name]
    return value


def test_turns_are_summed_up_over_all_streams() -> None:
    summary = summed_up(measured(), CONDITIONS).summary
    assert at(summary, "first_audible_ms", "waiting_for_engine") == {"p50": 200, "p95": 400, "p99": 400, "worst": 400}
    assert at(summary, "turns") == {"measured": 4, "failed": 0, "failures": {}, "cancelled": 0}
    assert at(summary, "speech_s") == 6
    assert at(summary, "wall_s") == 20
    assert at(summary, "client_late_ms", "worst") == 4


def test_a_streams_real_time_factor_is_that_of_all_its_speech() -> None:
    summary = summed_up(measured(), CONDITIONS).summary
    assert at(summary, "real_time_factor") == {"shows": "latency of frames", "worst": 0.6, "streams": [0.25, 0.6]}
    assert at(summary, "elapsed_per_speech") is None


def test_where_nothing_held_generation_back_the_clients_count_stands_beside_the_servers() -> None:
    run = Measured(
        [[record(packets=packets(10.4), done=done(sent_ms=2000, rtf=0.5))]], "mini", 48000, 5.0, 25.0, [0.001]
    )
    result = summed_up(run, {**CONDITIONS, "clock": "none"})
    last = packets(10.4)[-1].at
    assert at(result.summary, "real_time_factor", "shows") == "throughput"
    assert at(result.summary, "elapsed_per_speech") == pytest.approx((last - record().deltas[0].at) / 2, abs=1e-4)
    assert "  is throughput: nothing held generation back" in result.table().splitlines()


def test_a_stream_is_as_short_as_its_worst_turn() -> None:
    summary = summed_up(measured(), CONDITIONS).summary
    assert at(summary, "short_by_ms", "streams") == [0, 120]
    assert at(summary, "never_short_by_more") == {
        "50": {"turns": 0.75, "streams": 0.5},
        "100": {"turns": 0.75, "streams": 0.5},
        "200": {"turns": 1, "streams": 1},
    }


STRANGERS: Json = {
    **{name: value for name, value in CONDITIONS.items() if name not in ("streams", "turns")},
    "arrivals_per_s": 2.0,
    "duration_s": 10.0,
    "warm_up_s": 1.0,
}


def strangers() -> Measured:
    """Two who spoke, one of them late, one who failed, two who were refused, of whom one was told until when."""
    refused: list[Outcome] = [Refusal("no_capacity: full", 0.5), Refusal("no_capacity: full", None)]
    came: list[Outcome] = [record(), record(packets=late(after=25, by_ms=120)), Failure("it broke"), *refused]
    return Measured(
        [[one] for one in came], "mini", 48000, 5.0, 25.0, [0.001], connecting_s=[0.01, 0.02], at_once=[1, 2, 3]
    )


def test_who_was_refused_is_in_no_other_figure() -> None:
    result = summed_up(strangers(), STRANGERS)
    assert result.failed == 1
    assert at(result.summary, "turns", "measured") == 3
    assert at(result.summary, "refused") == {
        "turns": 2,
        "reasons": {"no_capacity: full": 2},
        "told_when": 1,
        "retry_after_ms": {"p50": 500, "p95": 500, "p99": 500, "worst": 500},
    }
    assert at(result.summary, "never_short_by_more", "50") == {"turns": 0.5, "streams": 0.5}
    assert at(result.summary, "at_once") == {"mean": 2, "most": 3}
    assert at(result.summary, "connecting_ms", "worst") == 20
    lines = result.table().splitlines()
    assert lines[0].startswith("2 turns a second at random for 10 s of mini on cpu")
    assert "2 turns besides were refused, told to come again after 500 ms (p50) to 500 ms" in lines
    assert "2.0 turns at once on the mean, 3 at most" in lines


def test_nobody_at_all_makes_no_figures() -> None:
    result = summed_up(Measured([], at_once=[]), STRANGERS)
    assert at(result.summary, "turns", "measured") == 0 and "first_audible_ms" not in result.summary
    assert result.table()


def test_many_streams_have_their_factors_summed_up() -> None:
    run = Measured([[record(done=done(rtf=0.01 * n))] for n in range(1, 21)], "mini", 48000, 5.0, 25.0, [0.001])
    assert "real-time factor of 20 streams     p50 0.100  p95 0.190  p99 0.200" in summed_up(run, CONDITIONS).table()


def test_the_roof_stands_beside_the_factor_where_the_server_tells_it() -> None:
    told = summed_up(measured(), {**CONDITIONS, "frame_ms": 46.4, "roof_ms": 3.41})
    assert at(told.summary, "roof") == {"frame_ms": 3.41, "real_time_factor": 0.0735}
    assert "the roof is 0.0735: weights cannot be read in less than 3.41 ms a frame" in told.table()
    for missing in ({"frame_ms": 46.4, "roof_ms": None}, {}):
        assert summed_up(measured(), {**CONDITIONS, **missing}).summary["roof"] is None


def test_cancels_are_counted_and_timed() -> None:
    run = measured()
    run.outcomes[0][0] = record(cancelled_at=12.0, done_at=12.003)
    summary = summed_up(run, CONDITIONS).summary
    assert at(summary, "turns", "cancelled") == 1
    assert at(summary, "cancel_ms", "p50") == 3


def test_failures_are_counted_by_their_reason_and_so_is_silence() -> None:
    run = measured()
    run.outcomes[0] = [Failure("no capacity"), record(audible_ms=None)]
    result = summed_up(run, CONDITIONS)
    assert result.failed == 2
    assert at(result.summary, "turns", "failures") == {"no capacity": 1, "nothing audible came": 1}
    assert at(result.summary, "short_by_ms", "streams") == [120]
    assert "failed 1 times: no capacity" in result.table()


def test_where_every_turn_failed_there_are_no_figures_but_still_a_report() -> None:
    result = summed_up(Measured([[Failure("gone")]], begun_at=1.0, ended_at=2.0), CONDITIONS)
    assert result.failed == 1
    assert "first_audible_ms" not in result.summary
    assert "failed 1 times: gone" in result.table()


def test_the_conditions_are_part_of_the_result_and_all_of_it_is_json() -> None:
    summary = summed_up(measured(), CONDITIONS).summary
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert at(summary, "conditions") == CONDITIONS


@pytest.mark.parametrize(
    "line",
    [
        "2 streams x 2 turns of mini on cpu, opus at 48000 Hz, typed at 200 characters/s, played in real time",
        "  waiting for engine                  200.0    400.0    400.0    400.0",
        "real-time factor of each stream    0.250  0.600",
        "never short by more than  50 ms      75.0% of turns,   50.0% of streams",
    ],
)
def test_the_table_says_it_in_words(line: str) -> None:
    assert line in summed_up(measured(), CONDITIONS).table().splitlines()
