"""Commands that wait for their answer.

Knows which answer belongs to which command, and says again what was not answered. Does not know what any of it means.
"""

from __future__ import annotations

from itertools import count
from typing import TypeVar

import anyio

from protocol.client.errors import ConnectionLost, ServerError
from protocol.client.link import Link
from protocol.commands import Command
from protocol.events import ErrorEvent, EventBase

_AnswerEvent = TypeVar("_AnswerEvent", bound=EventBase)


class Calls:
    """Those of one session."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._ids = count(1)
        self._waiting: dict[str, _Call] = {}  # by event_id, in the order of the calls

    async def call(self, command: Command, expected: type[_AnswerEvent]) -> _AnswerEvent:
        """Send it and wait. Raises ServerError for a refusal, and why the connection was lost for good."""
        event_id = f"c{next(self._ids)}"
        call = self._waiting[event_id] = _Call(command.model_copy(update={"event_id": event_id}))
        try:
            await self._link.post(call.command)
            await call.over.wait()
        finally:
            del self._waiting[event_id]
        if isinstance(call.answer, ErrorEvent):
            raise ServerError(call.answer)
        if isinstance(call.answer, expected):
            return call.answer
        # No answer: the connection was lost, and the reason is there already.
        raise self._link.lose(ConnectionLost(None, f"{command.type} was answered by {type(call.answer).__name__}"))

    def answer(self, event_id: str | None, event: EventBase) -> bool:
        """An event that may be an answer; whether somebody waited for it."""
        call = self._waiting.get(event_id) if event_id is not None else None
        if call is None:
            return False
        call.answer = event
        call.over.set()
        return True

    def unanswered(self) -> list[Command]:
        """What was never carried out, if all answers that the server had given have come."""
        return [call.command for call in self._waiting.values() if not call.over.is_set()]

    def give_up(self) -> None:
        """No answer will come."""
        for call in self._waiting.values():
            call.over.set()


class _Call:
    def __init__(self, command: Command) -> None:
        self.command = command
        self.over = anyio.Event()
        self.answer: EventBase | None = None  # None once `over` is set: the connection ended first
