"""Deepgram's first speech socket, `/v1/speak`: text comes by `Speak`, and `Flush` is the end of a turn.

Knows its messages as the deepgram SDK, pipecat and LiveKit send and read them. Source: those clients' code. Sound is sent as it is, in
binary messages; `Flushed` behind the last of it is how clients know that a turn is over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from protocol.commands import Command
from protocol.dialects.deepgram_markup import Markup
from protocol.dialects.deepgram_request import QUIET_S, SpeakRequest, packed, read_object, request_id
from protocol.dialects.interface import CloseSocket, Host, Opening, Output, Refused
from protocol.dialects.speeches import Speech, Speeches
from protocol.events import ErrorEvent, Event, Status, TurnDone


class SpeakSocket:
    """See `interface.Dialect`."""

    def __init__(self, host: Host, opening: Opening) -> None:
        """Raises Refused."""
        self._host = host
        self._request = SpeakRequest.read(opening.query)
        self._encoder = self._request.socket_encoder(host)
        self._settings = self._request.settings(host, self._encoder)
        self._speeches: Speeches[Speech] = Speeches(host)
        self._turns: list[Speech] = []  # that are not over, oldest first; the last one may take text
        self._markup = Markup()
        self._answers = 0  # Flushed and Cleared so far
        self._closing = False
        self._told_at = 0.0

    def opened(self, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        self._told_at = now
        return [self._metadata()]

    def received(self, message: str | bytes, now: float) -> Sequence[Output]:
        """See `Dialect`. After Close nothing more is read."""
        if self._closing:
            return ()
        try:
            fields = read_object(message)
            match fields:
                case {"type": "Speak", "text": str(text)}:
                    return self._speak(text, now)
                case {"type": "Flush"}:
                    return self._told(self._flush(), now)
                case {"type": "Clear"}:
                    return self._told(self._clear(), now)
                case {"type": "Close"}:
                    return self._close()
            raise Refused(400, f"no message {fields.get('type')!r}: Speak, Flush, Clear, Close")
        except Refused as refused:
            return self._told([packed("Warning", code=refused.code, description=refused.message)], now)

    def event(self, event: Event, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        return [*self._happened(event, now), *self._speeches.let_in()]

    def _happened(self, event: Event, now: float) -> Sequence[Output]:
        turn = self._speeches.event(event)
        if turn is None:
            return ()
        match event:
            case TurnDone(status=Status.COMPLETED):
                return self._told(self._finished(), now)
            case TurnDone():
                return self._told(self._fail(turn, event.reason or "failed", f"the turn was {event.status.value}"), now)
            case ErrorEvent():
                return self._told(self._fail(turn, str(event.code), event.message), now)
        return ()

    def audio(self, turn: str, payload: bytes, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        if self._speeches.of(turn) is None:
            return ()
        data = self._encoder.push(payload)
        return self._told([data], now) if data else ()

    def disconnected(self, now: float) -> Sequence[Command]:
        """LiveKit interrupts by this alone, perhaps with a Flush and a Close before it."""
        return self._speeches.leave("barge_in")

    @property
    def deadline(self) -> float:
        """See `Dialect`."""
        return self._told_at + QUIET_S if self._turns else math.inf

    def tick(self, now: float) -> Sequence[Output]:
        """A client that waits for speech gets a word, or it gives up."""
        return self._told([self._metadata()], now) if self._turns and now >= self.deadline else ()

    def _speak(self, text: str, now: float) -> Sequence[Output]:
        text = self._markup.text(text)
        turn = self._turns[-1] if self._turns and not self._turns[-1].ended else None
        if turn is None:
            if not text.strip():
                return ()
            turn = Speech("", self._encoder, self._settings)
            self._turns.append(turn)
            self._told_at = now
        if turn.chars + len(text) > self._host.limits.turn_chars:
            raise Refused(400, f"more than {self._host.limits.turn_chars} characters before a Flush", "DATA-0001")
        return self._speeches.say(turn, text)

    def _flush(self) -> Sequence[Output]:
        turn = self._turns[-1] if self._turns and not self._turns[-1].ended else None
        if turn is None:  # it is answered all the same, behind what is still spoken
            turn = Speech("", self._encoder, self._settings)
            self._turns.append(turn)
        return [*self._rest(turn), *self._speeches.end(turn), *self._finished()]

    def _rest(self, turn: Speech) -> list[Output]:
        return self._speeches.say(turn, self._markup.rest())

    def _clear(self) -> Sequence[Output]:
        cut = self._speeches.cut([*self._turns, *self._speeches.heard], "barge_in")
        self._turns.clear()
        self._markup = Markup()
        return [*cut, self._answer("Cleared")]

    def _close(self) -> Sequence[Output]:
        self._closing = True
        last = self._turns[-1] if self._turns else None
        if last is None or last.ended:
            return self._finished()
        return [*self._rest(last), *self._speeches.end(last), *self._finished()]

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
        cut = self._speeches.cut([turn], "failed")
        self._turns.remove(turn)
        flushed = [self._answer("Flushed")]
        return [*cut, told, *flushed, *self._finished()]

    def _answer(self, kind: str) -> str:
        self._answers += 1
        return packed(kind, sequence_id=self._answers - 1)

    def _metadata(self) -> str:
        identity = request_id(self._host, "/v1/speak")
        return packed(
            "Metadata",
            request_id=identity,
            model_name=self._host.model_name,
            model_version="1",
            model_uuid=identity,
        )

    def _told(self, outputs: Sequence[Output], now: float) -> Sequence[Output]:
        if outputs:
            self._told_at = now
        return outputs
