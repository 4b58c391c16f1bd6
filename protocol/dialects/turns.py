"""The turns that one dialect has opened: their ids, their text, and which of them are still heard.

Knows native commands and events. Does not know any foreign message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.commands import Command, Scope, TextAppend, TurnCancel
from protocol.dialects.interface import Host
from protocol.errors import ErrorCode
from protocol.events import ErrorEvent, Event, Status, TurnDone, TurnPlayed
from protocol.surrogates import join


@dataclass
class TurnState:
    """What is known of one turn."""

    id: str
    chars: int = 0  # of its text
    half: str = ""  # of a character whose other half has not come: JSON can spell that
    done: TurnDone | None = None
    played: bool = False  # heard to its end, or nobody will ever know


class Turns:
    """Those of one connection, oldest first. A turn that was played or cut is forgotten."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._count = 0
        self._turns: dict[str, TurnState] = {}

    def new(self) -> str:
        """A new id. The caller opens the turn: with a text.append, or a turn.start before it."""
        self._count += 1
        turn = f"{self._host.turn_prefix}{self._count}"
        self._turns[turn] = TurnState(turn)
        return turn

    def say(self, turn: str, text: str) -> list[Command]:
        """More text for it, in as many appends as it takes."""
        state = self._turns[turn]
        text, state.half = join(state.half, text)
        state.chars += len(text)
        size = self._host.limits.append_chars
        return [TextAppend(text=text[at : at + size], turn=turn) for at in range(0, len(text), size)]

    def chars(self, turn: str) -> int:
        """Of its text so far; 0 for one that was forgotten."""
        return self._turns[turn].chars if turn in self._turns else 0

    def event(self, event: Event) -> None:
        """Call it with every event first."""
        match event:
            case TurnDone() if event.turn in self._turns:
                state = self._turns[event.turn]
                state.done = event
                # Unpaced audio is heard as soon as it is sent, as far as anybody knows.
                if event.status is not Status.COMPLETED or not self._host.paced or not event.sent_ms:
                    del self._turns[event.turn]
            case TurnPlayed() | ErrorEvent(code=ErrorCode.UNKNOWN_TURN, turn=str()):  # the latter was never opened
                self._turns.pop(event.turn or "", None)

    def live(self, turn: str | None) -> bool:
        """Whether its turn.done has not come."""
        state = self._turns.get(turn) if turn is not None else None
        return state is not None and state.done is None

    @property
    def speaking(self) -> Sequence[str]:
        """Those without a turn.done."""
        return [state.id for state in self._turns.values() if state.done is None]

    @property
    def heard(self) -> Sequence[str]:
        """Those that somebody may be listening to: the ones that speak, and those that are done and not yet played out."""
        return list(self._turns)

    def cancel(self, turns: Sequence[str], reason: str) -> list[Command]:
        """End these; what was heard of them the session knows. The newest first: nothing of a later one is begun in between."""
        return [TurnCancel(turn=turn, scope=Scope.TURN, reason=reason) for turn in reversed(turns)]
