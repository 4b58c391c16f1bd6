"""The turns of a session, as its ear sees them: which one speaks, how loud it is, and what speech may do to it.

Knows where a listener is in each turn's audio. Does not know sound from the client, nor why it asks.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.events import Event, SpeechStopped
from realtime.floor import Floor
from realtime.interruption import Interruptions


class SpeakingTurns:
    """See `hearing.SpeakingSide`."""

    def __init__(
        self,
        floor: Floor,
        interruptions: Interruptions,
        prepare_answer: Callable[[], None],
        emit: Callable[[Event], None],
    ) -> None:
        """`prepare_answer`: have the engine ready, because somebody has finished speaking and an answer is likely."""
        self._floor = floor
        self._interruptions = interruptions
        self._prepare_answer = prepare_answer
        self._emit = emit

    def speaking_turn(self, now: float) -> str | None:
        """See SpeakingSide."""
        turn = self._floor.speaking(now) if self._floor.paused() is None else None
        # A turn that was only started, to be ready for its text, is an answer that still waits for the caller to finish.
        return turn.id if turn is not None and (turn.started or turn.text.chars) else None

    def sounding_turn(self, now: float) -> str | None:
        """See SpeakingSide."""
        turn = self._floor.speaking(now) if self._floor.paused() is None else None
        return turn.id if turn is not None and turn.clock is not None and turn.clock.played_ms(now) > 0 else None

    def played_db(self, start: float, end: float) -> float | None:
        """See SpeakingSide."""
        heard = [turn.sounding_db(start, end) for turn in self._floor.sounding()]
        return max((level for level in heard if level is not None), default=None)

    def pause_turn(self, turn: str, now: float) -> None:
        """See SpeakingSide."""
        found = self._floor.find(turn)
        assert found is not None, "the turn that speaks can be found"
        self._interruptions.hold(found, None, now)

    def resume_turn(self, turn: str, now: float) -> bool:
        """See SpeakingSide."""
        paused = self._floor.paused()
        if paused is None or paused.id != turn:
            return False
        self._interruptions.let_go(paused, None, now)
        return True

    def cancel_turn(self, turn: str, now: float, reason: str = "barge_in") -> None:
        """See SpeakingSide."""
        found = self._floor.find(turn)
        assert found is not None, "the turn that speaks can be found"
        self._floor.interrupt(self._floor.since(found), reason, None, now, by_server=True)

    def tell(self, event: Event) -> None:
        """See SpeakingSide."""
        self._emit(event)
        if isinstance(event, SpeechStopped):
            self._prepare_answer()
