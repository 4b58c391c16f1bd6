"""Deepgram's first speech socket, `/v1/speak`: `Flush` is the end of a turn, and `Clear` an interruption.

Knows its messages as the deepgram SDK, pipecat and LiveKit send and read them. Source: those clients' code. `Flushed` behind the last sound
is how clients know that a turn is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from protocol.dialects.deepgram_markup import Markup
from protocol.dialects.deepgram_request import packed, request_id
from protocol.dialects.deepgram_socket import Socket
from protocol.dialects.interface import CloseSocket, Host, Opening, Output, Refused
from protocol.dialects.speeches import Speech
from protocol.events import ErrorEvent, Event, Status, TurnDone


class SpeakSocket(Socket):
    """See `interface.Dialect`."""

    def __init__(self, host: Host, opening: Opening) -> None:
        """Raises Refused."""
        super().__init__(host, opening)
        self._answers = 0  # Flushed and Cleared so far

    def _greeting(self) -> str:
        identity = request_id(self._host, "/v1/speak")
        return packed(
            "Metadata",
            request_id=identity,
            model_name=self._host.model_name,
            model_version="1",
            model_uuid=identity,
        )

    def _patience(self) -> str:
        return self._greeting()

    def _refusal(self, refused: Refused) -> str:
        return packed("Warning", code=refused.code, description=refused.message)

    def _do(self, fields: Mapping[str, object], now: float) -> Sequence[Output]:
        match fields:
            case {"type": "Flush"}:
                return self._flush()
            case {"type": "Clear"}:
                return self._clear()
            case {"type": "Close"}:
                return self._close()
        raise Refused(400, f"no message {fields.get('type')!r}: Speak, Flush, Clear, Close")

    def _happened(self, event: Event) -> Sequence[Output]:
        turn = self._speeches.event(event)
        if turn is None:
            return ()
        match event:
            case TurnDone(status=Status.COMPLETED):
                return self._finished()
            case TurnDone():
                return self._fail(turn, event.reason or "failed", f"the turn was {event.status.value}")
            case ErrorEvent():
                return self._fail(turn, str(event.code), event.message)
        return ()

    def _begin(self) -> tuple[Speech, list[Output]]:
        return Speech("", self._encoder, self._settings), []

    def _flush(self) -> Sequence[Output]:
        turn = self._open
        if turn is None:  # it is answered all the same, behind what is still spoken
            turn, _ = self._begin()
            self._turns.append(turn)
        return [*self._end(turn), *self._finished()]

    def _clear(self) -> Sequence[Output]:
        cut = self._speeches.cut([*self._turns, *self._speeches.heard], "barge_in")
        self._turns.clear()
        self._markup = Markup()
        return [*cut, self._answer("Cleared")]

    def _close(self) -> Sequence[Output]:
        self._closing = True
        turn = self._open
        return [*(self._end(turn) if turn is not None else []), *self._finished()]

    def _finished(self) -> list[Output]:
        """In the order in which they were asked for."""
        outputs: list[Output] = []
        while self._turns and self._turns[0].finished:
            self._turns.pop(0).over = True
            outputs.append(self._answer("Flushed"))
        if self._closing and not self._turns:
            outputs.append(CloseSocket())
        return outputs

    def _fail(self, turn: Speech, code: str, why: str) -> list[Output]:
        """The client is told, and the turn is over as if it had been spoken: nobody has to wait for it."""
        told = packed("Error", code=code, description=why, err_code=code, err_msg=why)
        return [*self._cut(turn), told, self._answer("Flushed"), *self._finished()]

    def _answer(self, kind: str) -> str:
        self._answers += 1
        return packed(kind, sequence_id=self._answers - 1)
