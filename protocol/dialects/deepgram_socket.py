"""What both of Deepgram's speech sockets have in common: text comes by `Speak`, sound goes out as it is, and a turn ends by `Flush`.

Knows turns, and when a client has waited for a word for too long. Does not know any other message. Source: the code of the deepgram SDK,
pipecat and LiveKit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from protocol.commands import Command
from protocol.dialects.deepgram_markup import Markup
from protocol.dialects.deepgram_request import QUIET_S, SpeakRequest, read_object
from protocol.dialects.interface import Host, Opening, Output, Refused
from protocol.dialects.speeches import Speech, Speeches
from protocol.events import Event


class Socket(ABC):
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
        self._closing = False
        self._told_at = 0.0

    def opened(self, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        return self._told([self._greeting()], now)

    def received(self, message: str | bytes, now: float) -> Sequence[Output]:
        """See `Dialect`. After Close nothing more is read."""
        if self._closing:
            return ()
        try:
            fields = read_object(message)
            match fields:
                case {"type": "Speak", "text": str(text)}:
                    return self._speak(text, now)
            return self._told(self._do(fields, now), now)
        except Refused as refused:
            return self._told([self._refusal(refused)], now)

    def event(self, event: Event, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        return [*self._told(self._happened(event), now), *self._speeches.let_in()]

    def audio(self, turn: str, payload: bytes, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        if self._speeches.of(turn) is None:
            return ()
        data = self._encoder.push(payload)
        return self._told([data], now) if data else ()

    def disconnected(self, now: float) -> Sequence[Command]:
        """pipecat and LiveKit close when nobody listens any more, without a word or with a Flush and a Close before it."""
        return self._speeches.leave("barge_in")

    @property
    def deadline(self) -> float:
        """See `Dialect`."""
        return self._told_at + QUIET_S if self._turns else math.inf

    def tick(self, now: float) -> Sequence[Output]:
        """A client that waits for speech gets a word, or it gives up."""
        return self._told([self._patience()], now) if self._turns and now >= self.deadline else ()

    @abstractmethod
    def _greeting(self) -> str:
        """The first message."""

    @abstractmethod
    def _patience(self) -> str:
        """Something that means nothing to any client."""

    @abstractmethod
    def _refusal(self, refused: Refused) -> str:
        """Of a message that makes no sense."""

    @abstractmethod
    def _do(self, fields: Mapping[str, object], now: float) -> Sequence[Output]:
        """What any message but `Speak` asks for. Raises Refused."""

    @abstractmethod
    def _happened(self, event: Event) -> Sequence[Output]:
        """What an event means."""

    @abstractmethod
    def _begin(self) -> tuple[Speech, list[Output]]:
        """A turn for words that came, and what is said of it."""

    @property
    def _open(self) -> Speech | None:
        """The turn that takes text."""
        return self._turns[-1] if self._turns and not self._turns[-1].ended else None

    def _speak(self, text: str, now: float) -> Sequence[Output]:
        text = self._markup.text(text)
        turn = self._open
        told: list[Output] = []
        if turn is None:
            if not text.strip():
                return ()
            turn, told = self._begin()
            self._turns.append(turn)
            self._told_at = now
        if turn.chars + len(text) > self._host.limits.turn_chars:
            raise Refused(400, f"more than {self._host.limits.turn_chars} characters before a Flush", "DATA-0001")
        return [*self._speeches.say(turn, text), *told]

    def _end(self, turn: Speech) -> list[Output]:
        """No more text comes for it."""
        return [*self._speeches.say(turn, self._markup.rest()), *self._speeches.end(turn)]

    def _cut(self, turn: Speech) -> list[Command]:
        """It cannot be spoken to its end."""
        self._turns = [known for known in self._turns if known is not turn]
        return self._speeches.cut([turn], "failed")

    def _told(self, outputs: Sequence[Output], now: float) -> Sequence[Output]:
        if outputs:
            self._told_at = now
        return outputs
