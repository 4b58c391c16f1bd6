"""How many streams a device carries in real time, from how long its steps have taken.

Knows the time of a step by the number of its rows, of prefill by its positions, and how much of the time goes into prefill. Does not know
tensors, queues or clocks: whoever steps says when a step began and ended.

All streams carried means: a step with a row of each of them, and the usual prefill beside it, takes less than a frame lasts. So what
counts is the time of a step with one row more than there are streams. Such a step is hardly ever seen: a fast device makes many small ones,
with the rows whose listeners have just played a frame. So it is read off a line through those that were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from engine.commands import Load
from engine.scheduler import BESIDE_SPEECH_S, NOT_KNOWN, PrefillTime

MOST: Final = 10_000  # streams; no device carries as many
# Times a frame for one stream; what is only a little too slow may be so for a while, and refuses a second one.
HOPELESS: Final = 2.0
MARGIN: Final = 0.1  # of a frame, for what the engine's process does between steps: commands, reports
# Times the largest number of rows seen; a burst of newcomers is let in as fast as larger steps are seen.
TRUSTED: Final = 2
FEW: Final = 4  # of the first steps with so many rows the fastest counts: first ones allocate
UP: Final = 0.06  # three steps of four take less than the estimate, which moves by so much of itself, up ...
DOWN: Final = 0.02  # ... and down: one slow step says little about the next
LINE_STEPS: Final = 16  # between two looks at all that was seen
FORGOTTEN_STEPS: Final = 1000  # a time that was seen so long ago counts half as much on the line
MOST_COUNTED: Final = 200  # steps with one number of rows, on the line
MEASURED_POSITIONS: Final = 32  # a shorter prefill says nothing about a position
LEAST_S: Final = 1e-6  # of a position, where it is known: 0 means that it is not
NEWEST: Final = 0.05  # weight of the latest prefill on the line
# Prefills of no positions, which take no time, that the line passes by: while all others are of one length, each position seems to take
# its share, and nobody believes that a longer one would cost nothing.
NONE: Final = 0.5
USUAL_S: Final = 5.0  # over which the share of prefill is taken
MOST_BESIDE: Final = 0.5  # of a frame that is left to prefill, however much of it there was lately
SHORT: Final = 1 / 16  # weight of the newest step in the share of steps that found somebody short
OFTEN_SHORT: Final = 0.5  # one hiccup of the machine is no reason to refuse anybody
GROWTH: Final = 256  # positions that a stream may still need: ten seconds of speech and their text
RETRY_S: Final = (0.1, 2.0)
TURN_S: Final = 6.0  # that a turn lasts, until one was seen


@dataclass(frozen=True, slots=True)
class Held:
    """What one open stream holds of the cache, in positions."""

    voice: str
    prefix: int  # shared by all who speak with this voice
    own: int  # behind it, computed or still to be


def room_for(held: Sequence[Held], kv_positions: int) -> int:
    """How many streams like these, at least one, a cache of so many positions has room for until they are over; at least one."""
    shared = sum({one.voice: one.prefix for one in held}.values())
    own = sum(one.own for one in held)
    left = kv_positions - shared - own - GROWTH * len(held)
    return max(1, len(held) + math.floor(left / (own / len(held) + GROWTH)))


@dataclass(slots=True)
class _Seen:
    """Steps with one number of rows."""

    step_s: float
    count: int
    at: int  # number of the latest


class _Prefills:
    """The latest ones, and the straight line nearest to them; what is older counts less and less."""

    def __init__(self) -> None:
        self._sums = np.zeros(5)

    def see(self, positions: int, seconds: float) -> None:
        """Another one."""
        self._sums = (1 - NEWEST) * self._sums + [1.0, positions, seconds, positions**2, positions * seconds]

    @property
    def line(self) -> PrefillTime:
        """What they say; there was one at least."""
        weight, positions, seconds, squares, products = self._sums.tolist()
        weight += NONE
        each = (products - positions * seconds / weight) / (squares - positions**2 / weight)
        each = max(LEAST_S, min(each, seconds / positions))
        return PrefillTime(max(0.0, (seconds - each * positions) / weight), each)


@dataclass(slots=True)
class Pace:
    """Times of one device, and what follows. frame_s: seconds of sound that a step makes for each row."""

    frame_s: float
    prefill_time: PrefillTime = NOT_KNOWN  # what prefill has taken lately
    turn_s: float = TURN_S  # how long a stream has been open lately
    _seen: dict[int, _Seen] = field(default_factory=dict)  # by rows
    _line: tuple[float, float] = (0.0, 0.0)  # see `_fitted`
    _prefills: _Prefills = field(default_factory=_Prefills)
    _steps: int = 0
    _short: float = 0.0  # share of the latest steps that found somebody short
    _beside: float = 0.0  # share of the latest seconds that went into prefill
    _waited_s: float = 0.0  # since the latest step
    _made: float = 0.0  # frames in the latest seconds that something was done in, of which these were so many
    _busy_s: float = 0.0
    _ended: float | None = None  # s, the latest step

    def step(self, rows: int, positions: int, began: float, ended: float) -> None:
        """A step was made, with so many rows decoded and so many positions prefilled, between two times in seconds."""
        took, whole, self._waited_s = ended - began, ended - began + self._waited_s, 0.0
        prefill_s = self.prefill_time.of(positions)  # as far as is known
        beside_s = max(0.0, took - (self.step_s(rows) if rows else 0.0)) if positions else 0.0
        # Where many come and go hardly a step is without prefill, so what it took is told from the rest by what it took before.
        if rows and (not positions or 0 < prefill_s < took / 2):
            self._see(rows, whole - prefill_s)
        if positions >= MEASURED_POSITIONS:
            self._prefills.see(positions, beside_s)
            self.prefill_time = self._prefills.line
        since_s = ended - (self._ended if self._ended is not None else began)
        self._beside = self._beside * math.exp(-since_s / USUAL_S) + beside_s / USUAL_S
        self._ended = ended
        kept = math.exp(-whole / USUAL_S)
        self._made, self._busy_s = kept * self._made + rows, kept * self._busy_s + whole

    def wait(self, began: float, ended: float) -> None:
        """Nothing was done but to wait for frames that the step before had drawn. Counts as a part of the next step."""
        self._waited_s += ended - began

    def _see(self, rows: int, took: float) -> None:
        self._steps += 1
        seen = self._seen.setdefault(rows, _Seen(took, 0, 0))
        if seen.count < FEW:
            seen.step_s = min(seen.step_s, took)
        else:
            seen.step_s = min(max(took, seen.step_s * (1 - DOWN)), seen.step_s * (1 + UP))
        seen.count += 1
        seen.at = self._steps
        if seen.count <= FEW or self._steps % LINE_STEPS == 0:
            self._line = self._fitted()

    def find(self, short: bool) -> None:
        """A step is about to be made; whether somebody's listener had nothing left to play although he only waited for steps."""
        self._short += SHORT * (short - self._short)

    @property
    def beside_s(self) -> float:
        """How much prefill a step may have beside a stream that is about to run dry: the less the more often somebody was short lately.

        What fits beside speech depends on all that a step has to do, and on what is done between steps.
        """
        return BESIDE_SPEECH_S * (1 - self._short)

    def close(self, open_s: float) -> None:
        """A stream is over that was open for so long."""
        self.turn_s += 0.1 * (open_s - self.turn_s)

    def step_s(self, rows: int) -> float:
        """How long a step with so many rows takes; 0 while no step was seen."""
        begins, each = self._line
        return begins + each * rows

    def carries(self) -> int:
        """How many streams a step has time for beside the usual prefill; at least one. 0: not known.

        Where one alone takes HOPELESS frames for each of its own, nobody listens to it as it comes, and there is nothing to keep: MOST.
        """
        if not self._seen:
            return 0
        spare_s = self.frame_s * (1 - MARGIN - min(self._beside, MOST_BESIDE))
        begins, each = self._line
        if self._hopeless:
            return MOST
        shown = max(1, int(self._shown))
        if begins >= spare_s:
            return shown
        return max(shown, int((spare_s - begins) / each)) if each * MOST > spare_s - begins else MOST

    @property
    def _shown(self) -> float:
        """How many streams it made enough sound for while it worked lately, whatever it did besides. Few beside each other cost more
        each, so this is what it carries only where it has much to do; then it is nearer than the line."""
        return (1 - MARGIN) * self.frame_s * self._made / self._busy_s if self._busy_s else 0.0

    @property
    def _hopeless(self) -> bool:
        return self.step_s(1) > HOPELESS * self.frame_s

    def load(self, held: Sequence[Held], kv_positions: int, working: bool) -> Load | None:
        """What follows for a front. held: by each open stream, of a cache of so many positions. working: one of them could go on now."""
        carries = self.carries()
        if not carries:
            return None
        if held:
            carries = min(carries, room_for(held, kv_positions))
        # More streams than the device carries, whatever its times say; but who has nothing left to do is short of nothing.
        if working and self._short > OFTEN_SHORT and not self._hopeless:
            carries = min(carries, len(held))
        return Load(carries, min(max(self.turn_s / max(1, len(held)), RETRY_S[0]), RETRY_S[1]))

    def _fitted(self) -> tuple[float, float]:
        """(time of a step without rows, of each row in it), neither below zero: the straight line nearest to what was seen."""
        points = [
            (rows, seen.step_s, min(seen.count, MOST_COUNTED) * 0.5 ** ((self._steps - seen.at) / FORGOTTEN_STEPS))
            for rows, seen in self._seen.items()
        ]
        whole = sum(weight for *_, weight in points)
        rows_mean = sum(rows * weight for rows, _, weight in points) / whole
        s_mean = sum(s * weight for _, s, weight in points) / whole
        spread = sum(weight * (rows - rows_mean) ** 2 for rows, _, weight in points)
        if spread < 1e-3:  # as good as one number of rows: nothing tells its part from that of the step itself
            return 0.0, s_mean / rows_mean
        each = sum(weight * (rows - rows_mean) * (s - s_mean) for rows, s, weight in points) / spread
        each = min(max(each, 0.0), s_mean / rows_mean)
        return s_mean - each * rows_mean, each
