"""What a stream tells the scheduler: whether it can go on, and how long its listener can do without."""

import numpy as np
import pytest
import torch

from engine.api import SamplingParams
from engine.guard import SegmentGuard
from engine.kv import CachedSequence, PagePool
from engine.stream import OpenStream, Segment

FRAME_S = 0.05
CODES, COLUMN = np.zeros(2, np.int16), np.zeros((3, 1), np.int64)  # of a frame


def stream(frames: int = 0, credit: int = 100, text: bool = True, now: float = 0.0) -> OpenStream:
    """One that has delivered so many frames, all of them at `now`."""
    pool = PagePool(1, 1, 2, 8, torch.device("cpu"), torch.float32)
    new = OpenStream(1, 0, "c", "v", SamplingParams(), [], 0, allowed=credit, sequence=CachedSequence(pool, 2))
    new.segment = Segment(0, "Hello.", SegmentGuard.of("Hello.", FRAME_S))
    deliver(new, frames, now)
    if not text:
        new.segment = None
    return new


def deliver(to: OpenStream, frames: int, now: float) -> None:
    for _ in range(frames):
        to.deliver(CODES, now, FRAME_S)


def lead(of: OpenStream, now: float) -> float:
    seconds = of.lead_s(now, FRAME_S)
    assert seconds is not None
    return seconds


def test_there_is_no_lead_before_the_first_frame() -> None:
    view = stream().view(5.0, FRAME_S)
    assert view is not None and view.lead_s is None


def test_lead_is_what_was_delivered_minus_the_time_since_the_first_frame() -> None:
    speaking = stream(frames=10, now=1.0)
    view = speaking.view(1.2, FRAME_S)
    assert view is not None and view.lead_s == pytest.approx(0.3)


def test_a_listener_who_ran_dry_plays_on_from_the_frame_that_came_late() -> None:
    speaking = stream(frames=10, now=0.0)
    assert lead(speaking, 2.0) == pytest.approx(-1.5), "waiting for a second and a half"
    deliver(speaking, 1, 2.0)
    assert lead(speaking, 2.0) == pytest.approx(FRAME_S), "and nobody has to make up for it"


def test_nobody_has_to_catch_up_with_a_pause_in_credit_or_text() -> None:
    speaking = stream(frames=10, now=0.0)
    speaking.forgive(60.0, FRAME_S)
    assert lead(speaking, 60.0) == pytest.approx(0.0)


def test_forgiving_a_listener_who_has_something_to_play_changes_nothing() -> None:
    speaking = stream(frames=10, now=0.0)
    speaking.forgive(0.1, FRAME_S)
    assert lead(speaking, 0.1) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("credit", "text", "missing", "can"),
    [
        (100, True, 0, True),
        (100, True, 7, True),
        (3, True, 0, False),
        (3, True, 7, False),  # without credit its text is not prefilled either
        (100, False, 0, False),
        (0, False, 7, True),  # its history is, before there is any text
    ],
)
def test_a_stream_can_go_on_with_text_and_credit_or_with_history_to_prefill(
    credit: int, text: bool, missing: int, can: bool
) -> None:
    speaking = stream(frames=3, credit=credit, text=text)
    speaking.target = np.zeros((3, missing), np.int64) if missing else None
    view = speaking.view(0.0, FRAME_S)
    assert (view is not None) is can
    if view is not None:
        assert view.missing == missing


@pytest.mark.parametrize(("credit", "most"), [(4, 100), (100, 4)])
def test_a_frame_that_is_being_decoded_counts_against_credit_but_not_as_lead(credit: int, most: int) -> None:
    speaking = stream(frames=3, credit=credit, now=0.0)
    speaking.params = SamplingParams(max_frames=most)
    assert speaking.has_credit
    speaking.draw(COLUMN)
    assert not speaking.has_credit and lead(speaking, 0.0) == pytest.approx(3 * FRAME_S)
