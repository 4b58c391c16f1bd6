"""What a record says, for records of which the answer can be worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from protocol.config import Latency
from protocol.events import Kept, TurnMetrics
from protocol.messages import Heard, Status, TurnDone
from realtime.bench_figures import (
    Delta,
    Packet,
    TurnFigures,
    TurnRecord,
    figures,
    first_audible,
    in_share,
    percentile,
)

TEXT = "In the end, the old gardener found the kettle."
PACKET_MS = 20.0


def done(sent_ms: int = 1000, rtf: float | None = 0.25) -> TurnDone:
    return TurnDone(
        turn="t",
        n=1,
        status=Status.COMPLETED,
        audio_ms=sent_ms,
        sent_ms=sent_ms,
        heard=Heard(ms=sent_ms, text=TEXT, remaining="", char_end=len(TEXT), source="clock"),
        context=Kept(kept_ms=sent_ms, kept_chars=len(TEXT)),
        metrics=TurnMetrics(rtf=rtf),
    )


def packets(first_at: float, count: int = 50, ahead_ms: float = 0.0) -> tuple[Packet, ...]:
    """Packets that arrive in time: each as long before it is due as it can, at most `ahead_ms`."""
    return tuple(
        Packet(first_at + max(0.0, index * PACKET_MS - ahead_ms) / 1000, index * PACKET_MS, (index + 1) * PACKET_MS)
        for index in range(count)
    )


def record(**changes: object) -> TurnRecord:
    """The whole text at once at second 10, sound from 10.2 on, the first sample audible."""
    plain = TurnRecord(
        deltas=(Delta(10.0, TEXT),),
        ended_at=10.0,
        packets=packets(10.2),
        audible_ms=0.0,
        words=((500.0, 0), (1000.0, 12)),
        latency=Latency.LOW,
        done=done(),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def found(**changes: object) -> TurnFigures:
    figured = figures(record(**changes))
    assert figured is not None
    return figured


def late(after: int, by_ms: float) -> tuple[Packet, ...]:
    """Packets in time, of which those from `after` on come so much later."""
    return tuple(
        replace(packet, at=packet.at + by_ms / 1000) if index >= after else packet
        for index, packet in enumerate(packets(10.2))
    )


def test_a_turn_whose_text_was_all_there_waits_for_the_engine_alone() -> None:
    turn = found()
    assert turn.audible_ms == pytest.approx(200)
    assert turn.engine_wait_ms == pytest.approx(200)
    assert turn.text_wait_ms == 0
    assert turn.first_packet_ms == pytest.approx(200)


def test_silence_before_the_first_audible_sample_is_waiting() -> None:
    turn = found(audible_ms=135.5)
    assert turn.engine_wait_ms == pytest.approx(335.5)
    assert turn.first_packet_ms == pytest.approx(200)


def test_a_first_packet_that_came_long_before_the_audible_one_does_not_make_it_earlier() -> None:
    """Everything arrives in one burst, but the listener hears it in its own time."""
    assert found(packets=packets(10.2, ahead_ms=1e9), audible_ms=400.0).engine_wait_ms == pytest.approx(600)


def test_lateness_in_front_of_the_first_audible_sample_is_waiting() -> None:
    assert found(packets=late(after=2, by_ms=70), audible_ms=100.0).engine_wait_ms == pytest.approx(200 + 100 + 70)


def test_lateness_behind_the_first_audible_sample_is_not() -> None:
    assert found(packets=late(after=10, by_ms=70), audible_ms=100.0).engine_wait_ms == pytest.approx(300)


def test_waiting_for_text_ends_with_the_delta_that_completes_the_first_segment() -> None:
    """A border is known when the character behind it has come: here the space, with the third delta."""
    deltas = (Delta(10.0, "In the "), Delta(10.1, "end,"), Delta(10.3, " the"), Delta(10.5, " old gardener."))
    turn = found(deltas=deltas, ended_at=10.5, packets=packets(10.4))
    assert turn.text_wait_ms == pytest.approx(300)
    assert turn.engine_wait_ms == pytest.approx(100)
    assert turn.audible_ms == pytest.approx(400)


def test_a_text_without_a_border_waits_for_its_end() -> None:
    turn = found(deltas=(Delta(10.0, "Hello"),), ended_at=10.25, packets=packets(10.3))
    assert turn.text_wait_ms == pytest.approx(250)


def test_a_writer_who_hesitates_is_waited_for_only_as_long_as_the_server_waits() -> None:
    """The idle rule lets the words go that are there, 0.35 s after the last of them."""
    deltas = (Delta(10.0, "In the end the "), Delta(12.0, "gardener left."))
    turn = found(deltas=deltas, ended_at=12.0, packets=packets(10.5))
    assert turn.text_wait_ms == pytest.approx(350)
    assert turn.engine_wait_ms == pytest.approx(150)


@pytest.mark.parametrize("ahead_ms", [0.0, 100.0, 2000.0])
def test_sound_in_time_is_never_short(ahead_ms: float) -> None:
    turn = found(packets=packets(10.2, ahead_ms=ahead_ms))
    assert turn.short_ms == pytest.approx(0, abs=1e-6)
    assert turn.text_short_ms == 0


def test_late_sound_is_short_by_its_lateness() -> None:
    assert found(packets=late(after=25, by_ms=130)).short_ms == pytest.approx(130)


def test_lateness_counts_for_a_listener_who_never_stops() -> None:
    """Two gaps of 40 ms need 80 ms of patience, and the catching up between them does not help who has stopped."""
    twice = tuple(
        replace(packet, at=packet.at + (0.04 if index >= 10 else 0) + (0.04 if index >= 30 else 0))
        for index, packet in enumerate(packets(10.2))
    )
    assert found(packets=twice).short_ms == pytest.approx(80)


SLOWLY = (
    Delta(10.0, "In the end, the"),
    Delta(10.25, " old"),
    Delta(10.5, " gardener"),
    Delta(10.75, " found"),
    Delta(11.0, " the kettle."),
)


def test_sound_that_waited_for_its_text_is_the_writers_lateness() -> None:
    """The second segment's text was complete at 11.0; its sound was due at 10.7 and came at 11.1."""
    turn = found(deltas=SLOWLY, ended_at=11.0, packets=late(after=25, by_ms=400))
    assert turn.text_short_ms == pytest.approx(300)
    assert turn.short_ms == pytest.approx(100)


def test_without_word_times_all_lateness_is_the_engines() -> None:
    turn = found(deltas=SLOWLY, ended_at=11.0, packets=late(after=25, by_ms=400), words=())
    assert turn.short_ms == pytest.approx(400)
    assert turn.text_short_ms == 0


def test_a_turn_without_anything_audible_has_no_figures() -> None:
    assert figures(record(audible_ms=None)) is None
    assert figures(record(packets=())) is None


def test_a_cancel_takes_until_its_turn_done() -> None:
    assert found().cancel_ms is None
    assert found(cancelled_at=11.0, done_at=11.004).cancel_ms == pytest.approx(4)


def test_audible_is_what_is_louder_than_50_db_below_full_scale() -> None:
    quiet, loud = 10 ** (-50.1 / 20), 10 ** (-49.9 / 20)
    assert first_audible(np.array([0, quiet, -quiet, -loud, 1], np.float32)) == 3
    assert first_audible(np.full(1000, quiet, np.float32)) is None
    assert first_audible(np.zeros(0, np.float32)) is None


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (95, 95), (99, 99), (100, 100), (1, 1), (0.5, 1)])
def test_a_percentile_is_a_value_that_occurred(percent: float, value: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], percent) == value


def test_high_percentiles_of_few_values_are_the_worst_of_them() -> None:
    assert percentile([3.0, 1.0, 2.0], 95) == 3.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_share_counts_the_bound_itself() -> None:
    assert in_share([0, 50, 51, 200], 50) == 0.5
    assert math.isnan(in_share([], 50))
