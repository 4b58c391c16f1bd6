"""Who steps next: deadlines in, a plan out. No tensors, no clock.

Knows when each stream's listener will run dry and how much prefill fits beside speaking streams. Does not know what a step does.
The deadline of a stream is the moment its lead runs out: frames delivered, minus the time since the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A stream with more lead than this sits a step out while another is about to run dry or waits to begin.
COMFORTABLE_S = 1.0
RELAXED_S = 0.5  # several slices of a job: while everybody has more, one does no harm
URGENT_S = 0.1  # two frames: less than this and the listener may hear the gap
# Prefill positions a step while somebody speaks with little lead and it is not known how long they take: one decode step's worth of work.
BESIDE_SPEECH = 128
# The same where they are known to be quick. Of 256 streams on a GPU somebody has always just begun, so this is what all newcomers share:
# some 40 a second, of 200 positions each.
MOST_BESIDE_SPEECH = 512
ALONE = 1024  # prefill positions a step otherwise; bounds how long a newcomer waits for the step in flight
LEAST = 16  # prefill positions a step however slow the device: it must go on
# Prefill time a step beside a stream that is about to run dry: with its decode it stays below a frame.
BESIDE_SPEECH_S = 0.015


@dataclass(frozen=True, slots=True)
class PrefillTime:
    """How long prefill takes beside a step: so long however little it is, and so long for each position. All zero: not known."""

    begins_s: float = 0.0
    position_s: float = 0.0

    def of(self, positions: int) -> float:
        """Seconds."""
        return self.begins_s + positions * self.position_s if positions else 0.0

    def within(self, seconds: float, most: int) -> int:
        """How many positions fit; LEAST, where they do not."""
        return most if seconds >= self.of(most) else max(LEAST, int((seconds - self.begins_s) / self.position_s))


NOT_KNOWN = PrefillTime()


@dataclass(frozen=True, slots=True)
class View:
    """What the scheduler sees of a stream that can go on."""

    key: int
    missing: int  # prompt positions still to be prefilled before the next frame; 0 while decoding
    waiting_since_s: float  # when its current work became possible
    lead_s: float | None  # audio delivered and not yet due; None before the first frame of the turn


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: prefill some positions of some streams, decode one frame of others."""

    prefill: tuple[tuple[int, int], ...]  # (key, positions), in order
    decode: tuple[int, ...]  # keys
    relaxed: bool  # nobody minds if the step also does a slice of something else

    def __bool__(self) -> bool:
        return bool(self.prefill or self.decode)


def plan(views: Sequence[View], prefill_time: PrefillTime = NOT_KNOWN, beside_s: float = BESIDE_SPEECH_S) -> Plan:
    """The next step for these streams, at most one entry for each.

    Every stream that can decode does, in one batch, unless somebody is about to run dry or a newcomer waits for his prompt: then those
    with a comfortable lead sit out.
    Prefill goes to who is about to run dry, then to newcomers, oldest first. It shrinks beside a stream that is about to run dry, whose
    next frame comes out at the end of the step, and never takes more than half of what the listener with the smallest lead has left.
    """
    ready = [view for view in views if not view.missing]
    urgent = any(_is_urgent(view) for view in ready)
    pressed = urgent or any(view.missing and (view.lead_s is None or _is_urgent(view)) for view in views)
    decoding = [view for view in ready if not pressed or view.lead_s is None or view.lead_s < COMFORTABLE_S]
    known = prefill_time.position_s > 0
    beside = prefill_time.within(beside_s, MOST_BESIDE_SPEECH) if known else BESIDE_SPEECH
    spare_s = min((view.lead_s - URGENT_S for view in ready if view.lead_s is not None), default=float("inf"))
    left = beside if urgent else max(beside, prefill_time.within(spare_s / 2, ALONE))
    prefill: list[tuple[int, int]] = []
    for view in sorted((view for view in views if view.missing), key=_order):
        if prefill and urgent:
            left = min(left, beside)
        positions = min(view.missing, left)
        if not positions:
            break
        prefill.append((view.key, positions))
        left -= positions
        urgent = urgent or _is_urgent(view)
    relaxed = all(view.lead_s is not None and view.lead_s > RELAXED_S for view in views)
    return Plan(tuple(prefill), tuple(view.key for view in decoding), relaxed)


def _is_urgent(view: View) -> bool:
    return view.lead_s is not None and view.lead_s < URGENT_S


def _order(view: View) -> tuple[int, float, float]:
    if view.lead_s is None:
        return 1, 0.0, view.waiting_since_s
    return 0 if _is_urgent(view) else 2, view.lead_s, view.waiting_since_s
