"""Streams that are listened to, as `python -m engine.bench` makes them: in real time, in one thread with the engine's core.

Knows when each speaks, who else comes, who is interrupted, and what a listener hears. Does not know the command line, nor clocks: `now`
gives monotonic seconds.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from engine import commands as c
from engine.api import Codes, Conversation, Frame, Reference, SamplingParams, SpokenSegment, Voice
from engine.cache import MAX_VOICES
from engine.core import EngineCore

Now = Callable[[], float]

TEXT_CHARS = 90  # of a turn: 6 s where ends are forced
TURN_S = 6.5  # that a newcomer stays, about
NEWCOMER_SAYS = 600  # positions, seldom more: text and speech of one turn
LEAD_FRAMES = 43  # that a listener lets the engine be ahead: two seconds
WARM_UP_S = 8.0  # streams begin within, or all of them would prefill in the same step
TURNS = 4  # of a conversation; then the stream begins another
GAP_S = 0.5  # between the end of a turn, as its listener hears it, and the stream's next one
TEMPLATE = 100  # positions of a voice that are no speech: about the template and the transcript


@dataclass(frozen=True, slots=True)
class Setting:
    """How a load is made."""

    streams: int
    prefix: int = 300  # positions of a voice
    # Mean positions of text and speech behind it; of each stream between a third and five thirds of it.
    history: int = 350
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Besides:
    """What happens beside the streams, at random times, so many a second."""

    cancels: float = 0.0  # of a turn that is heard; its stream begins the next one at once
    newcomers: float = 0.0  # who speak one turn, with a voice and a history that nobody has seen
    positions: int = 700  # of which they have so many

    @property
    def rows(self) -> int:
        """That hardly ever more newcomers are there at once than: four standard deviations above the mean."""
        mean = self.newcomers * TURN_S
        return math.ceil(mean + 4 * math.sqrt(mean))

    def kv_positions(self, prefix: int) -> int:
        """Of the cache: for them, and for the voices that are kept when they have gone."""
        return self.rows * (self.positions + NEWCOMER_SAYS) + MAX_VOICES * prefix if self.rows else 0


NOTHING = Besides()


@dataclass(slots=True)
class Heard:
    """A turn as its listener hears it."""

    stream: int  # below zero: of a newcomer
    conversation: str
    new: bool  # the first of its conversation, whose history must be prefilled
    pushed_at: float
    measured: bool
    first_at: float | None = None
    frames: int = 0
    short_s: float = 0.0  # how late the latest frame was
    allowed: int = 0


@dataclass(slots=True)
class Served:
    """What listeners heard after the warm-up."""

    first_ms: list[float] = field(default_factory=list)  # from the text to the first frame, where only the text is new
    first_new_ms: list[float] = field(default_factory=list)  # where the history is new, too, and only the voice known
    short_ms: list[float] = field(default_factory=list)  # of each turn
    worst_ms: dict[int, float] = field(default_factory=dict)  # of each stream's turns
    newcomer_first_ms: list[float] = field(default_factory=list)  # where all of it is new
    newcomer_short_ms: list[float] = field(default_factory=list)  # of each newcomer
    cancel_ms: list[float] = field(default_factory=list)  # from the wish until the row was free
    turned_away: int = 0  # newcomers for whom no row was left
    frames: int = 0
    elapsed_s: float = 0.0
    carries: int | None = None  # streams that the core would let in, as it said last; None: it does not say
    failed: list[str] = field(default_factory=list)


class Serving:
    """Streams in real time: each speaks a turn, pauses, speaks the next."""

    def __init__(self, core: EngineCore, setting: Setting, entries: int, now: Now, besides: Besides = NOTHING) -> None:
        """core: with `setting.streams` rows, and `besides.rows` more. entries: that every codebook has."""
        self._core, self._setting, self._now, self._besides = core, setting, now, besides
        self._rng = random.Random(setting.seed)
        self._codes = np.random.default_rng(setting.seed)
        self._most = entries
        self._voice = self._made_voice("bench", setting.prefix)
        self._keys = count(1)
        self._turns: dict[int, Heard] = {}
        self._numbers = [0] * setting.streams
        self._histories: list[tuple[SpokenSegment, ...]] = [
            self._history(round(setting.history * self._rng.uniform(1 / 3, 5 / 3))) for _ in range(setting.streams)
        ]
        self._strangers = count(1)
        self.served = Served()

    def _made_voice(self, name: str, positions: int) -> Voice:
        return Voice(name, (Reference("A voice.", self._random_codes(max(1, positions - TEMPLATE))),))

    def _random_codes(self, frames: int) -> Codes:
        return self._codes.integers(0, self._most, (self._core.info.codebooks, frames)).astype(np.int16)

    def _history(self, positions: int) -> tuple[SpokenSegment, ...]:
        return (SpokenSegment(self._text(), self._random_codes(positions)),) if positions else ()

    def _text(self) -> str:
        words: list[str] = []
        while sum(map(len, words)) + len(words) < TEXT_CHARS:
            words.append("".join(self._rng.choice("abcdefghijklmnoprstuvwy") for _ in range(self._rng.randint(2, 8))))
        return " ".join(words) + "."

    def run(self, seconds: float, warm_up_s: float = WARM_UP_S) -> Served:
        """Measure for `seconds`, after a warm-up in which streams begin one after the other. The core is then as it was before."""
        begun = self._now()
        waiting = [(begun + self._rng.uniform(0, warm_up_s), n) for n in range(self._setting.streams)]
        heapq.heapify(waiting)
        measured_from = begun + warm_up_s
        cancel_at, newcomer_at = (
            self._next(measured_from, self._besides.cancels),
            self._next(begun, self._besides.newcomers),
        )
        while (now := self._now()) < measured_from + seconds:
            while waiting and waiting[0][0] <= now:
                self._begin(heapq.heappop(waiting)[1], now, now >= measured_from)
            while cancel_at <= now:
                self._interrupt(cancel_at)
                cancel_at = self._next(cancel_at, self._besides.cancels)
            while newcomer_at <= now:
                self._welcome(newcomer_at, newcomer_at >= measured_from)
                newcomer_at = self._next(newcomer_at, self._besides.newcomers)
            self._credit(now)
            if self._core.has_work():
                for again in self._step(now >= measured_from):
                    heapq.heappush(waiting, again)
        self.served.elapsed_s = seconds
        self._close()
        return self.served

    def _next(self, after: float, per_s: float) -> float:
        return after + self._rng.expovariate(per_s) if per_s else math.inf

    def _step(self, measured: bool) -> list[tuple[float, int]]:
        """Make one, and hear what it says. Returns when which streams begin their next turn."""
        report = self._core.step()
        after = self._now()
        if report.load is not None:
            self.served.carries = report.load.carries
        over: list[tuple[float, int]] = []
        for key, event in report.events:
            if isinstance(event, Frame):
                self._hear(self._turns[key], after, measured)
            elif isinstance(event, c.Ended):
                turn = self._turns.pop(key)
                self._end(turn, event)
                if turn.stream >= 0:
                    over.append((max(after, self._heard_until(turn, after)) + GAP_S, turn.stream))
                else:
                    self._core.handle(c.Forget(turn.conversation))
        return over

    def _begin(self, stream: int, now: float, measured: bool) -> None:
        number = self._numbers[stream]
        self._numbers[stream] += 1
        conversation = Conversation(f"{stream}-{number // TURNS}", self._histories[stream])
        self._speak(
            conversation, self._voice, number, Heard(stream, conversation.id, number % TURNS == 0, now, measured)
        )

    def _speak(self, conversation: Conversation, voice: Voice, number: int, turn: Heard) -> None:
        key = next(self._keys)
        self._core.handle(c.Open(key, conversation, voice, SamplingParams(seed=turn.stream % (1 << 32)), number))
        self._core.handle(c.Push(key, self._text()))
        self._core.handle(c.Finish(key))
        self._turns[key] = turn

    def _welcome(self, at: float, measured: bool) -> None:
        if sum(turn.stream < 0 for turn in self._turns.values()) >= self._besides.rows:
            self.served.turned_away += 1
            return
        number = next(self._strangers)
        name = f"stranger-{number}"
        history = self._history(max(1, self._besides.positions - self._setting.prefix))
        voice = self._made_voice(name, self._setting.prefix)
        self._speak(Conversation(name, history), voice, 0, Heard(-number, name, True, at, measured))

    def _interrupt(self, at: float) -> None:
        """Somebody who is heard. His next turn takes the row: one that was not free would fail there."""
        heard = [key for key, turn in self._turns.items() if turn.stream >= 0 and turn.frames]
        if not heard:
            return
        key = self._rng.choice(heard)
        self._core.handle(c.Cancel(key))
        now = self._now()
        self.served.cancel_ms.append(1000 * (now - at))
        turn = self._turns.pop(key)
        self._end(turn, c.Ended())
        self._begin(turn.stream, now, True)

    def _credit(self, now: float) -> None:
        for key, turn in self._turns.items():
            played = 0 if turn.first_at is None else int((now - turn.first_at) / self._core.info.frame_s)
            if played + LEAD_FRAMES > turn.allowed:
                turn.allowed = played + LEAD_FRAMES
                self._core.handle(c.Allow(key, turn.allowed))

    def _hear(self, turn: Heard, now: float, measured: bool) -> None:
        if turn.first_at is None:
            turn.first_at = now
            if turn.measured:
                self._first_of(turn).append(1000 * (now - turn.pushed_at))
        due = turn.first_at + turn.frames * self._core.info.frame_s
        turn.short_s = max(turn.short_s, now - due)
        turn.frames += 1
        self.served.frames += measured

    def _heard_until(self, turn: Heard, now: float) -> float:
        """When a listener who hears every frame in time has heard the last one."""
        return now if turn.first_at is None else turn.first_at + turn.frames * self._core.info.frame_s

    def _first_of(self, turn: Heard) -> list[float]:
        if turn.stream < 0:
            return self.served.newcomer_first_ms
        return self.served.first_new_ms if turn.new else self.served.first_ms

    def _end(self, turn: Heard, ended: c.Ended) -> None:
        if ended.error is not None:
            self.served.failed.append(str(ended.error))
        elif turn.measured and turn.first_at is not None:
            short_ms = 1000 * turn.short_s
            if turn.stream < 0:
                self.served.newcomer_short_ms.append(short_ms)
            else:
                self.served.short_ms.append(short_ms)
                self.served.worst_ms[turn.stream] = max(self.served.worst_ms.get(turn.stream, 0.0), short_ms)

    def _close(self) -> None:
        """Whoever still speaks is counted, and nobody's history is kept."""
        for key, turn in self._turns.items():
            self._end(turn, c.Ended())
            self._core.handle(c.Cancel(key))
        for turn in self._turns.values():
            self._core.handle(c.Forget(turn.conversation))
        for stream, number in enumerate(self._numbers):
            for conversation in range(-(-number // TURNS)):
                self._core.handle(c.Forget(f"{stream}-{conversation}"))
        self._turns.clear()
        while self._core.has_work():
            self._core.step()
