"""What a client says about its listener: stop, wait, go on, this much was heard.

Knows which turn is meant and what is refused. Does not know how a turn is cut, or what follows for others.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.commands import (
    ContextTruncate,
    PlaybackState,
    PlaybackUpdate,
    Scope,
    TurnCancel,
    TurnPause,
    TurnResume,
)
from protocol.config import Clock
from protocol.errors import ErrorCode, ProtocolError, quoted
from protocol.events import Event, TurnPaused, TurnResumed
from realtime.ended import EndedTurns
from realtime.floor import Floor
from realtime.turn import Turn


class Interruptions:
    """Carries out these commands on the turns of one conversation. Every method raises ProtocolError for what it refuses."""

    def __init__(self, floor: Floor, ended: EndedTurns, emit: Callable[[Event], None]) -> None:
        self._floor = floor
        self._ended = ended
        self._emit = emit

    def cancel(self, command: TurnCancel, now: float) -> None:
        """Stop. Where nothing speaks there is nothing to do: cancelling twice is cancelling once."""
        if command.turn is not None:
            target = self._found(command.turn)
        else:
            target = self._floor.speaking(now)
            if target is None and command.played_ms is not None:
                target = self._floor.last_played()
        if target is not None:
            turns = [target] if command.scope is Scope.TURN else self._floor.since(target)
            self._floor.interrupt(turns, command.reason, command.played_ms, now, command.event_id)

    def pause(self, command: TurnPause, now: float) -> None:
        """Stop for now."""
        speaking = self._floor.paused() or self._floor.speaking(now)
        if command.turn is not None and (speaking is None or self._found(command.turn) is not speaking):
            raise _wrong(f"turn {quoted(command.turn)} is not the one that speaks", "turn", command.turn)
        if speaking is None:
            raise ProtocolError(ErrorCode.UNKNOWN_TURN, "no turn speaks", param="turn")
        self.hold(speaking, command.played_ms, now, command.event_id)

    def hold(self, turn: Turn, played_ms: float | None, now: float, event_id: str | None = None) -> None:
        """Pause the turn that speaks. Idempotent."""
        at_ms = turn.pause(played_ms, now)
        self._emit(TurnPaused(turn=turn.id, at_ms=round(at_ms), event_id=event_id))

    def resume(self, command: TurnResume, now: float) -> None:
        """Go on after a pause."""
        paused = self._floor.paused()
        if command.turn is not None and (paused is None or self._found(command.turn) is not paused):
            raise _wrong(f"turn {quoted(command.turn)} is not paused", "turn", command.turn)
        if paused is None:
            raise ProtocolError(ErrorCode.UNKNOWN_TURN, "no turn is paused", param="turn")
        if paused.over and command.from_ms is not None:
            raise _wrong(f"turn {quoted(paused.id)} is done: none of its audio is sent again", "from_ms", paused.id)
        self.let_go(paused, command.from_ms, now, command.event_id)

    def let_go(self, turn: Turn, from_ms: float | None, now: float, event_id: str | None = None) -> None:
        """End a pause."""
        at_ms = turn.resume(from_ms, now)
        self._emit(TurnResumed(turn=turn.id, at_ms=round(at_ms), event_id=event_id))

    def report(self, command: PlaybackUpdate, now: float) -> None:
        """Where the listener is. What comes late, of a turn that was cut or is long over, changes nothing."""
        turn = self._found(command.turn)
        if turn is None or (turn.clock is not None and turn.clock.stopped):
            return
        if turn.options.config.pacing.clock is Clock.REALTIME:
            raise _wrong("pacing.clock is realtime, which takes no reports", "type", turn.id)
        if turn.options.leg:
            raise _wrong(
                f"leg {turn.options.leg} hears turn {quoted(turn.id)}, and tells itself how much", "type", turn.id
            )
        clock = turn.clock
        if clock is None or clock.first_sent_at is None:
            raise _wrong(f"nothing of turn {quoted(turn.id)} was sent yet", "played_ms", turn.id)
        if clock.reported_ms is not None and command.played_ms < clock.reported_ms:
            text = f"played_ms is {command.played_ms} but was {round(clock.reported_ms)} before"
            raise _wrong(text, "played_ms", turn.id)
        ended = command.state is PlaybackState.ENDED and turn.over
        # Whose player says that it is at the end has heard the end, also where its clock and the sound's length differ by a little.
        played_ms = max(clock.sent_ms, command.played_ms) if ended else command.played_ms
        clock.report(played_ms, command.state is PlaybackState.PLAYING, now)

    def truncate(self, command: ContextTruncate, now: float) -> None:
        """A better word on what was heard of a turn that is over."""
        turn = self._floor.find(command.turn)
        if turn is not None and not turn.over:
            raise _wrong(f"turn {quoted(turn.id)} is not over; cancel it", "turn", turn.id)
        if turn is None and command.turn not in self._ended:
            raise unknown(command.turn)
        heard = self._floor.cut(turn, command.played_ms, now) if turn and not self._floor.too_late(turn) else None
        if turn is None or heard is None:
            text = f"a later turn than {quoted(command.turn)} has begun to sound"
            raise ProtocolError(ErrorCode.TRUNCATE_TOO_LATE, text, param="turn", turn=command.turn)
        self._floor.tell_context(command.event_id, turn, heard)

    def _found(self, turn_id: str) -> Turn | None:
        """The turn, None if it is over and nothing can become of it. Raises ProtocolError for one that never was."""
        turn = self._floor.find(turn_id)
        if turn is None and turn_id not in self._ended:
            raise unknown(turn_id)
        return turn


def unknown(turn_id: str) -> ProtocolError:
    """There never was such a turn, or too long ago."""
    return ProtocolError(ErrorCode.UNKNOWN_TURN, f"no turn {quoted(turn_id)}", param="turn", turn=turn_id)


def _wrong(text: str, param: str, turn_id: str) -> ProtocolError:
    return ProtocolError(ErrorCode.INVALID_VALUE, text, param=param, turn=turn_id)
