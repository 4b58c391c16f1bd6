"""Which turn a client's text belongs to: ids, opening and ending turns, and text that comes too late.

Knows the ids that were used and the bounds of text. Does not know audio, or what becomes of a turn once it is open.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.api import Engine
from protocol.commands import Mark, TextAppend, TextFlush, TurnEnd, TurnStart
from protocol.config import Limits
from protocol.errors import ErrorCode, ProtocolError, quoted
from protocol.events import Event, WarningCode, WarningEvent
from realtime.ended import EndedTurns
from realtime.floor import Floor
from realtime.interruption import unknown
from realtime.outbox import Outbox
from realtime.turn import Turn
from realtime.turn_options import TurnOptions


class Manuscript:
    """The text side of one conversation's turns. Every method raises ProtocolError for what it refuses, and then has done nothing."""

    def __init__(
        self,
        floor: Floor,
        ended: EndedTurns,
        limits: Limits,
        engine: Engine,
        outbox: Outbox,
        options: Callable[[TurnStart, float], TurnOptions],
        emit: Callable[[Event], None],
    ) -> None:
        """`options`: what a turn that is opened now is made with; raises ProtocolError where it cannot be."""
        self.next_n = 1  # number of the next turn
        self._floor = floor
        self._ended = ended
        self._limits = limits
        self._engine = engine
        self._outbox = outbox
        self._options = options
        self._emit = emit

    def append(self, command: TextAppend, now: float) -> None:
        """More text; opens a turn if none is open."""
        turn = self._open_turn(command.turn)
        if turn is None and self._drops_late_text(command.turn):
            return
        so_far = turn.text.chars if turn is not None else 0
        if so_far + len(command.text) > self._limits.turn_chars:
            bound = f"{so_far} characters and {len(command.text)} more exceed turn_chars={self._limits.turn_chars}"
            raise ProtocolError(ErrorCode.TEXT_OVERFLOW, bound, param="text", turn=command.turn)
        pending = sum(known.pending_chars for known in self._floor.turns)
        if pending + len(command.text) > self._limits.pending_chars:
            bound = f"{pending} characters wait and {len(command.text)} more exceed pending_chars={self._limits.pending_chars}"
            raise ProtocolError(ErrorCode.TEXT_OVERFLOW, bound, param="text", turn=command.turn)
        if turn is None:
            turn = self._open(command.turn, self._options(TurnStart(turn=command.turn), now), now)
        turn.append(command.text, now)

    def flush(self, command: TextFlush) -> None:
        """Speak what is there."""
        turn = self._meant(command.turn)
        if turn is not None:
            turn.text.flush()

    def end(self, command: TurnEnd, now: float) -> None:
        """No more text; where no turn is open, a turn without any: an LLM that said nothing."""
        turn = self._meant(command.turn)
        awaited = self._ended.text_ended(command.turn)
        if turn is None and command.turn is None and not awaited:
            turn = self._open(None, self._options(TurnStart(), now), now)
        if turn is not None:
            turn.text.end()

    def mark(self, command: Mark, now: float) -> None:
        """A place in the text; opens a turn if none is open."""
        turn = self._open_turn(command.turn)
        if turn is None and self._drops_late_text(command.turn):
            return
        if turn is not None and turn.mark_count >= self._limits.turn_marks:
            text = f"a turn has at most turn_marks={self._limits.turn_marks} marks"
            raise ProtocolError(ErrorCode.LIMIT_EXCEEDED, text, turn=turn.id)
        if turn is None:
            turn = self._open(command.turn, self._options(TurnStart(turn=command.turn), now), now)
        turn.mark(command.name)

    def start(self, command: TurnStart, interrupt: Callable[[], None], now: float) -> None:
        """Open a turn. `interrupt` is called once nothing can go wrong any more: what cannot be opened interrupts nobody."""
        if command.turn is not None and (self._live(command.turn) is not None or command.turn in self._ended):
            text = f"turn {quoted(command.turn)} exists already"
            raise ProtocolError(ErrorCode.INVALID_VALUE, text, param="turn", turn=command.turn)
        options = self._options(command, now)
        interrupt()
        self._open(command.turn, options, now)

    def over(self, turn: Turn, by_server: bool) -> None:
        """A turn is over."""
        self._ended.add(turn.id, text_missing=by_server and not turn.text.ended)

    def _open_turn(self, turn_id: str | None) -> Turn | None:
        """The open turn that is meant, or None: a new one. Raises ProtocolError for one that has ended."""
        if turn_id is None:
            return next((turn for turn in reversed(self._floor.turns) if not turn.text.ended), None)
        turn = self._live(turn_id)
        if (turn is not None and turn.text.ended) or self._ended.finished(turn_id):
            text = f"turn {quoted(turn_id)} has ended"
            raise ProtocolError(ErrorCode.INVALID_VALUE, text, param="turn", turn=turn_id)
        return turn

    def _meant(self, turn_id: str | None) -> Turn | None:
        """The open turn, or the one of that id if it lives; None if it is over. Raises ProtocolError for one that never was."""
        if turn_id is None:
            return self._open_turn(None)
        turn = self._live(turn_id)
        if turn is None and turn_id not in self._ended:
            raise unknown(turn_id)
        return turn

    def _drops_late_text(self, turn_id: str | None) -> bool:
        """Whether text is for a turn that the server ended in its middle; the client is told so once."""
        late = self._ended.late(turn_id)
        if late is not None and self._ended.tell(late):
            text = "the server has ended the turn; text for it is dropped until turn.end, turn.start or a new id"
            self._emit(WarningEvent(code=WarningCode.LATE_TEXT, turn=late, message=text))
        return late is not None

    def _open(self, turn_id: str | None, options: TurnOptions, now: float) -> Turn:
        """A new turn behind the others. Raises ProtocolError where too many wait."""
        if len(self._floor.turns) > self._limits.queued_turns:
            text = f"{len(self._floor.turns) - 1} turns wait already: queued_turns={self._limits.queued_turns}"
            raise ProtocolError(ErrorCode.LIMIT_EXCEEDED, text, turn=turn_id)
        turn = Turn(turn_id or self._minted(), self.next_n, options, self._engine, self._outbox, now)
        self.next_n += 1
        self._ended.text_ended()
        self._floor.add(turn)
        return turn

    def _minted(self) -> str:
        name = f"turn-{self.next_n}"
        while self._live(name) is not None or name in self._ended:
            name += "+"  # a client has used the name for a turn of its own
        return name

    def _live(self, turn_id: str) -> Turn | None:
        return next((turn for turn in self._floor.turns if turn.id == turn_id), None)
