"""What listeners of a benchmark hear, who comes beside them, and who is interrupted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from engine.api import EngineLimits
from engine.bench_serving import GAP_S, Besides, Heard, Serving, Setting
from engine.commands import Ended
from engine.core import EngineCore
from engine.load import Loaded, core_of, load_model, warm_up
from engine.random_weights import write_folder

pytestmark = pytest.mark.torch
ENTRIES = 32  # of each of the tiny codec's codebooks


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("tiny")
    write_folder("tiny", folder)
    return load_model(folder, "tiny", "cpu", "float32", None)


def ready(tiny: Loaded, rows: int, kv_positions: int) -> EngineCore:
    core = core_of(tiny, EngineLimits(max_streams=rows, kv_positions=kv_positions))
    warm_up(core)
    return core


def clock(tick_s: float) -> Callable[[], float]:
    """Time stands still but when somebody looks."""
    ticks = count()
    return lambda: tick_s * next(ticks)


def test_a_listener_is_short_by_what_the_engine_is_late(tiny: Loaded) -> None:
    """30 ms at each look, and a frame is 16 ms."""
    served = Serving(ready(tiny, 1, 4096), Setting(1, 120, 0), ENTRIES, clock(0.03)).run(20, warm_up_s=0)
    assert served.short_ms and served.worst_ms == {0: max(served.short_ms)}
    assert max(served.short_ms) > 50
    assert all(first >= 30 for first in [*served.first_ms, *served.first_new_ms])
    assert not served.failed


def test_a_stream_speaks_again_when_it_was_heard_out(tiny: Loaded) -> None:
    pauses: list[float] = []

    class Watched(Serving):
        until = 0.0

        def _begin(self, stream: int, now: float, measured: bool) -> None:
            pauses.append(now - self.until)
            super()._begin(stream, now, measured)

        def _end(self, turn: Heard, ended: Ended) -> None:
            assert turn.first_at is not None
            self.until = turn.first_at + turn.frames * tiny.info.frame_s
            super()._end(turn, ended)

    core = ready(tiny, 1, 4096)
    assert not Watched(core, Setting(1, 120, 0), ENTRIES, clock(0.001)).run(12, warm_up_s=0).failed
    assert len(pauses) > 1
    assert all(GAP_S <= pause < GAP_S + 0.1 for pause in pauses[1:])


def test_newcomers_come_beside_the_streams_and_leave_nothing_behind(tiny: Loaded) -> None:
    setting, besides = Setting(2, 120, 20), Besides(newcomers=2.0, positions=300)
    core = ready(tiny, 2 + besides.rows, 8192 + besides.kv_positions(120))
    prefilled = core.cache.counters.prefilled
    served = Serving(core, setting, ENTRIES, clock(0.01), besides).run(3, warm_up_s=0)
    assert served.newcomer_first_ms and served.newcomer_short_ms and served.short_ms
    assert core.cache.counters.prefilled - prefilled > 300 * len(served.newcomer_first_ms), (
        "each has a prompt of his own"
    )
    assert not served.failed and not core.has_work()
    again = Serving(core, setting, ENTRIES, clock(0.01), besides).run(2, warm_up_s=0)
    assert again.short_ms and not again.failed


def test_whoever_finds_no_row_is_turned_away(tiny: Loaded) -> None:
    besides = Besides(newcomers=0.02, positions=130)
    core = ready(tiny, besides.rows, 8192 + besides.kv_positions(120))
    crowd = Serving(core, Setting(0, 120), ENTRIES, clock(0.01), besides)
    for _ in range(besides.rows + 2):
        crowd._welcome(0.0, True)
    assert crowd.served.turned_away == 2


def test_a_row_is_free_when_the_step_in_flight_is_over(tiny: Loaded) -> None:
    core = ready(tiny, 3, 8192)
    served = Serving(core, Setting(3, 120, 0), ENTRIES, clock(0.01), Besides(cancels=20.0)).run(3, warm_up_s=1)
    assert len(served.cancel_ms) > 30
    assert 0 < max(served.cancel_ms) <= 60, "the clock ticks once in a step and five times between two"
    assert not served.failed
