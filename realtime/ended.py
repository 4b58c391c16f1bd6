"""Turns that are over: which ids were used, and to which of them text may still be coming.

A client streams a model's output into a turn; if the server ends the turn in the middle, the rest of that text must not be taken for a new
turn (protocol 3, text.append). Knows ids. Does not know turns or why they ended.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

REMEMBERED: Final = 256  # a late command for an older turn is told that it is unknown


@dataclass(slots=True)
class _Ended:
    text_missing: bool  # the client had not ended its text
    told: bool = False  # the client knows that the rest is dropped


class EndedTurns:
    """The newest ended turns of a session."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, _Ended] = OrderedDict()
        self._awaited: str | None = None  # the turn that text without an id still belongs to

    def __contains__(self, turn_id: str) -> bool:
        return turn_id in self._turns

    def add(self, turn_id: str, text_missing: bool) -> None:
        """A turn is over. `text_missing`: the server ended it before the client ended its text."""
        self._turns[turn_id] = _Ended(text_missing)
        if text_missing:
            self._awaited = turn_id
        if len(self._turns) > REMEMBERED:
            self._turns.popitem(last=False)

    def finished(self, turn_id: str) -> bool:
        """Whether it was over when its text had ended, or was ended by the client: text for it is a mistake, not late."""
        turn = self._turns.get(turn_id)
        return turn is not None and not turn.text_missing

    def late(self, turn_id: str | None) -> str | None:
        """The turn that text is late for, whether it names the turn or not; None: it is not late."""
        name = self._awaited if turn_id is None else turn_id
        turn = self._turns.get(name) if name is not None else None
        return name if turn is not None and turn.text_missing else None

    def tell(self, turn_id: str) -> bool:
        """Whether the client is to be told that text for this turn is dropped: True once."""
        turn = self._turns[turn_id]
        told, turn.told = turn.told, True
        return not told

    def text_ended(self, turn_id: str | None = None) -> bool:
        """The client ended the text that was awaited (None: whichever it was), or begins another turn. True: some was awaited."""
        if self._awaited is None or turn_id not in (None, self._awaited):
            return False
        self._awaited = None
        return True
