"""A telephone at a session: while it is there, new turns are spoken to it, and it says what its listener has heard, said and pressed.

Knows which turns belong to it and what the session is told of it. Does not know any telephone company's messages
(`protocol.dialects.twilio`), nor sockets. There is one at a time: one that comes takes the place of the one before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.audio_frame import AudioFrame, Flag, Kind
from protocol.commands import AudioInput
from protocol.config import AudioConfig, Clock, Format, OutputConfig, PacingConfig, SessionConfig, Transport
from protocol.errors import CloseCode
from protocol.events import DetachReason, Dtmf, Event, LegAttached, LegDetached, SpeechAction
from realtime.floor import Floor
from realtime.hearing import Hearing
from realtime.outbox import Outbox
from realtime.speaking_side import SpeakingTurns
from realtime.voice_activity import SpeechModel

AUDIO: Final = AudioConfig(
    output=OutputConfig(format=Format.MULAW, rate=8_000, frame_ms=20, bitrate=None), transport=Transport.BINARY
)
# What a telephone holds it plays on until it is told to drop it: no more than it takes to ride out a slow network.
PACING: Final = PacingConfig(lead_ms=1_000, burst_ms=400, clock=Clock.ACK)


class OnDigit(StrEnum):
    """What a key does to the turn that speaks."""

    TELL = "tell"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Call:
    """Who is there, and what may interrupt."""

    kind: str  # whose telephone, such as twilio
    id: str  # as they call it
    sound: AudioInput  # of the caller, and what their speech does
    on_digit: OnDigit


@dataclass(slots=True)
class _Leg:
    number: int  # 1 for the first
    call: Call
    outbox: Outbox  # for what it is to hear
    hearing: Hearing
    position: int = 0  # samples that came from it


class Legs:
    """Of one session. What concerns a leg that was replaced does nothing."""

    def __init__(
        self,
        floor: Floor,
        speaking: SpeakingTurns,
        outbox: Outbox,
        model: Callable[[], SpeechModel],
        message_ms: int,
        started_at: float,
        emit: Callable[[Event], None],
    ) -> None:
        """outbox: the session's; while there is a leg, it is told of everything that is put there. The rest as for `Hearing`."""
        self._floor = floor
        self._speaking = speaking
        self._outbox = outbox
        self._model = model
        self._message_ms = message_ms
        self._started_at = started_at
        self._emit = emit
        self._leg: _Leg | None = None
        self._count = 0

    @property
    def number(self) -> int:
        """Of the leg that is there; 0: none is, and turns are spoken to the socket."""
        return self._leg.number if self._leg is not None else 0

    @property
    def deadline(self) -> float:
        """When `tick` is due; infinity: never."""
        return self._leg.hearing.deadline if self._leg is not None else math.inf

    def config(self, config: SessionConfig) -> SessionConfig:
        """What a turn is opened with that is spoken now."""
        return config.model_copy(update={"audio": AUDIO, "pacing": PACING}) if self._leg is not None else config

    def attach(self, call: Call, outbox: Outbox, now: float) -> int:
        """It is there: what is to be heard and known there comes into `outbox`. Returns its number. Raises ProtocolError."""
        number = self._count + 1
        hearing = Hearing(self._speaking, self._model, self._message_ms, self._started_at, number)
        hearing.announce(call.sound, now)
        if self._leg is not None:
            self.detach(self._leg.number, DetachReason.REPLACED, now)
        self._count = number
        self._leg = _Leg(number, call, outbox, hearing)
        self._emit(LegAttached(leg=number, kind=call.kind, call=call.id))
        self._outbox.leg = outbox
        return number

    def detach(self, leg: int, reason: DetachReason, now: float) -> None:
        """It is gone: nobody hears what was spoken to it. Idempotent."""
        gone = self._at(leg)
        if gone is None:
            return
        gone.hearing.mute(now)
        self._leg = None
        self._emit(LegDetached(leg=leg, kind=gone.call.kind, call=gone.call.id, reason=reason))
        turns = [turn for turn in self._floor.known if turn.options.leg == leg]
        self._floor.interrupt(turns, "hangup", None, now, by_server=True)
        self._outbox.leg = None
        gone.outbox.close(CloseCode.NORMAL, reason.value)

    def hear(self, leg: int, payload: bytes, now: float) -> None:
        """Sound came from it: mu-law."""
        there = self._at(leg)
        if there is None:
            return
        most = AUDIO.output.rate * self._message_ms // 1000
        for at in range(0, len(payload), most):
            piece = payload[at : at + most]
            there.hearing.frame(AudioFrame(Kind.UPLINK, Flag.NONE, leg, 0, there.position, piece), now)
            there.position += len(piece)

    def press(self, leg: int, digit: str, now: float) -> None:
        """A key was pressed there."""
        there = self._at(leg)
        if there is None:
            return
        turn = self._speaking.speaking_turn(now)
        cancels = turn is not None and there.call.on_digit is OnDigit.CANCEL
        action = SpeechAction.CANCELLED if cancels else SpeechAction.NONE
        # Told first: the turn.done that follows from it then explains itself.
        self._emit(Dtmf(leg=leg, digit=digit, turn=turn, action=action))
        if turn is not None and cancels:
            self._speaking.cancel_turn(turn, now, "dtmf")
            there.hearing.decided()

    def progress(self, leg: int, turn_id: str, ms: int | None, at_most_ms: int | None, now: float) -> None:
        """Its listener has come to `ms` of a turn, and not to `at_most_ms`, for all that is known."""
        turn = self._floor.find(turn_id)
        if turn is None or turn.options.leg != leg or turn.clock is None or turn.clock.stopped:
            return
        if ms is not None and turn.paused_at is None and turn.clock.first_sent_at is not None:
            turn.clock.report(max(ms, turn.clock.reported_ms or 0.0), playing=True, now=now)
        turn.clock.limit_ms = math.inf if at_most_ms is None else at_most_ms

    def decided(self) -> None:
        """See `Hearing.decided`."""
        if self._leg is not None:
            self._leg.hearing.decided()

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._leg is not None:
            self._leg.hearing.tick(now)

    def _at(self, leg: int) -> _Leg | None:
        return self._leg if self._leg is not None and self._leg.number == leg else None
