"""What somebody's speech does to the turn that speaks: nothing, a pause that may end by itself, or its end.

Knows the three policies of the protocol and when a pause was a false alarm. Does not know how speech is detected, nor how a turn is paused.
It takes the time as an argument and says when it wants to be asked again.
"""

from __future__ import annotations

import math

from protocol.commands import BargeIn
from protocol.events import SpeechAction


class BargeInPolicy:
    """One session's. Tell it of speech; carry out what it answers."""

    def __init__(self, barge_in: BargeIn, resume_after_s: float) -> None:
        self._barge_in = barge_in
        self._resume_after_s = resume_after_s
        self._paused: str | None = None  # turn that we paused, and about which the client has not decided
        self._resume_at = math.inf

    @property
    def deadline(self) -> float:
        """When a paused turn goes on, if nothing happens; infinity: none does."""
        return self._resume_at

    def started(self, speaking: str | None) -> SpeechAction:
        """Somebody speaks: what to do to the turn `speaking` (None: none speaks, or it is paused already)."""
        self._resume_at = math.inf
        if speaking is None or self._barge_in is BargeIn.OFF:
            return SpeechAction.NONE
        if self._barge_in is BargeIn.CANCEL:
            return SpeechAction.CANCELLED
        self._paused = speaking
        return SpeechAction.PAUSED

    def stopped(self, ended_at: float) -> None:
        """Nobody speaks any more; the speech ended at `ended_at`. Look at `deadline`, which may have passed already."""
        if self._paused is not None:
            self._resume_at = ended_at + self._resume_after_s

    def resumes(self, now: float) -> str | None:
        """The turn that goes on now, because its pause was a false alarm. Says so once."""
        if now < self._resume_at:
            return None
        turn = self._paused
        self.decided()
        return turn

    def decided(self) -> None:
        """The client has decided about the turn, or it is over: it does not go on by itself. Safe at any time."""
        self._paused = None
        self._resume_at = math.inf
