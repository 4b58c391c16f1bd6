"""Steps of every size before anybody listens, so that it is known how long they take.

Knows what a step consists of. Does not know streams: rows hold nothing, and what they draw is thrown away. So a step is as fast as it can
be, with no history to read; what real ones take is learnt from them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.api import SamplingParams
from engine.captured import buckets
from engine.kv import CachedSequence, Columns
from engine.pace import Pace
from engine.runner import FrameDrawn, Runner

TIMES = 3  # the first one of each size allocates


def rehearse(runner: Runner, pace: Pace, rows: int, clock: Callable[[], float]) -> None:
    """Make steps of as many rows as `buckets` names, until one takes longer than a frame. All rows are free, before and after."""
    width = runner.sampler.draws  # of a column: a token and a code for each codebook
    free_pages = sum(not runner.pool.owners(page) for page in range(runner.pool.pages))
    for size in buckets(min(rows, free_pages)):
        for row in range(size):
            runner.open_row(row, SamplingParams(), 0)
            runner.begin_segment(row, "Rehearsal.")
        sequences = [CachedSequence(runner.pool, width - 1) for _ in range(size)]
        took = min(_step(runner, pace, sequences, np.zeros((width, 1), np.int64), clock) for _ in range(TIMES))
        for row, sequence in enumerate(sequences):
            sequence.truncate(0)
            runner.close_row(row)
        if took > pace.frame_s:
            return


def _step(
    runner: Runner, pace: Pace, sequences: list[CachedSequence], column: Columns, clock: Callable[[], float]
) -> float:
    """Seconds."""
    began, rows = clock(), list(range(len(sequences)))
    for sequence in sequences:
        sequence.extend(column)
    drawn = runner.draw([runner.decode(sequences)], rows)
    silence = np.zeros(len(column) - 1, np.int16)
    codes = np.stack([one.codes if isinstance(one, FrameDrawn) else silence for one in drawn])
    runner.decoder.start(codes[:, :, None], rows)
    runner.decoder.finish()
    ended = clock()
    pace.step(len(rows), 0, began, ended)
    return ended - began
