"""Who steps next: deadlines in, a plan out. No tensors, no clock.

Knows when each stream's listener will run dry and how much prefill fits beside speaking streams. Does not know what a step does.
The deadline of a stream is the moment its lead runs out: frames delivered, minus the time since the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COMFORTABLE_S = 1.0  # a stream with more lead than this sits a step out while another is about to run dry
URGENT_S = 0.1  # two frames: less than this and the listener may hear the gap
BESIDE_SPEECH = (
    128  # prefill positions a step while somebody speaks with little lead: about one decode step's worth of work
)
ALONE = 1024  # prefill positions a step otherwise; bounds how long a newcomer waits for the step in flight


@dataclass(frozen=True, slots=True)
class View:
    """What the scheduler sees of one stream."""

    key: int
    missing: int  # prompt positions still to be prefilled before the next frame; 0 while decoding
    has_credit: bool  # may generate another frame
    waiting_since_s: float  # when its current work became possible
    lead_s: float | None  # audio delivered and not yet due; None before the first frame of the turn


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: prefill some positions of some streams, decode one frame of others."""

    prefill: tuple[tuple[int, int], ...]  # (key, positions), in order
    decode: tuple[int, ...]  # keys

    def __bool__(self) -> bool:
        return bool(self.prefill or self.decode)


def plan(views: Sequence[View]) -> Plan:
    """The next step for these streams, at most one entry for each.

    Every stream that can decode does, in one batch, unless somebody is about to run dry: then those with a comfortable lead sit out.
    Prefill goes to who has nothing to play first, oldest first, and shrinks while a speaking stream is urgent.
    """
    ready = [view for view in views if view.has_credit and not view.missing]
    urgent = [view for view in ready if view.lead_s is not None and view.lead_s < URGENT_S]
    decoding = [view for view in ready if not urgent or view.lead_s is None or view.lead_s < COMFORTABLE_S]
    budget = BESIDE_SPEECH if urgent else ALONE
    prefill = []
    waiting = [view for view in views if view.missing and view.has_credit]
    for view in sorted(waiting, key=lambda v: (float("-inf") if v.lead_s is None else v.lead_s, v.waiting_since_s)):
        if budget == 0:
            break
        positions = min(view.missing, budget)
        prefill.append((view.key, positions))
        budget -= positions
    return Plan(tuple(prefill), tuple(view.key for view in decoding))
