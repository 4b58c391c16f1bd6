"""What a session does with sound from its client: it tells who speaks when, and lets that speech act on the turn that speaks.

Knows the messages of the uplink, their refusals and their events. Does not know how speech is found in sound (`realtime.ear`), nor turns:
the speaking side of the session is a protocol of seven methods.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from typing import Final, Protocol

from protocol.audio_frame import AudioFrame, Flag
from protocol.commands import AudioInput, InputAudioAppend
from protocol.errors import ErrorCode, ProtocolError
from protocol.events import Event, SpeechAction, SpeechStarted, SpeechStopped
from realtime.barge_in import BargeInPolicy
from realtime.ear import Ear, Noticed
from realtime.opus import OpusUnavailable
from realtime.uplink import DEFAULT_RATES_HZ, UplinkAudio
from realtime.voice_activity import HOP_S, SpeechModel, Turned

SOCKET_LEG: Final = 0


class SpeakingSide(Protocol):
    """What hearing needs of the session that it belongs to. All of it happens at once."""

    def speaking_turn(self, now: float) -> str | None:
        """The turn that a listener hears, or would hear next; None: there is none, or it is paused."""

    def sounding_turn(self, now: float) -> str | None:
        """The turn that a listener hears; None: there is none, it has not begun to sound, or it is paused."""

    def played_db(self, start: float, end: float) -> float | None:
        """Level of what the listener's loudspeaker plays between two times; None: nothing, or nobody knows."""

    def pause_turn(self, turn: str, now: float) -> None:
        """Silence it for now. A pause that lasts too long ends it, as one that the client asked for."""

    def resume_turn(self, turn: str, now: float) -> bool:
        """Let it go on. False: it is over, or not paused any more."""

    def cancel_turn(self, turn: str, now: float) -> None:
        """Interrupt it and those behind it."""

    def tell(self, event: Event) -> None:
        """Send it to the client."""


class Hearing:
    """A session's ear and what follows from it."""

    def __init__(
        self,
        side: SpeakingSide,
        model: Callable[[], SpeechModel],
        message_ms: int,
        started_at: float,
        leg: int = SOCKET_LEG,
    ) -> None:
        """message_ms: the longest message that is taken. started_at: when the session began, from which its events count.

        leg: whose sound it is, see `legs`.
        """
        self._side = side
        self._leg = leg
        self._make_model = model
        self._message_ms = message_ms
        self._started_at = started_at
        self._ear: Ear | None = None  # None: no sound was announced
        self._policy: BargeInPolicy | None = None
        self._turn: str | None = None  # that was speaking when somebody began to, or was interrupted since then
        self._min_speech_s = 0.0
        # The turn that was last heard while somebody spoke, and since when.
        self._sounding: tuple[str, float] | None = None
        self._ended_at = 0.0  # of the last speech

    @property
    def deadline(self) -> float:
        """When `tick` is due; infinity: never."""
        times = [self._policy.deadline] if self._policy is not None else []
        if self._ear is not None and self._ear.speaking:
            times.append(self._ear.mute_at)
        return min(times, default=math.inf)

    def announce(self, command: AudioInput, now: float) -> None:
        """From now on sound comes as described there. Raises ProtocolError; what was announced before then holds on."""
        try:
            audio = UplinkAudio(command.format, command.rate or DEFAULT_RATES_HZ[command.format])
            ear = Ear(audio, self._message_ms, command.min_speech_ms / 1000, self._make_model())
        except ValueError as error:
            raise ProtocolError(ErrorCode.INVALID_VALUE, str(error), param="rate") from error
        except OpusUnavailable as error:
            raise ProtocolError(ErrorCode.UNSUPPORTED, str(error), param="format") from error
        resume_after_s = math.inf if command.resume_after_ms is None else command.resume_after_ms / 1000
        self.mute(now)
        self.decided()
        self._ear, self._policy = ear, BargeInPolicy(command.barge_in, resume_after_s)
        self._min_speech_s = command.min_speech_ms / 1000

    def frame(self, frame: AudioFrame, now: float) -> bool:
        """Sound in a binary message. Returns whether something may have come of it; else `deadline` is what it was, or later.

        Raises ProtocolError.
        """
        if frame.leg != self._leg:
            text = f"leg {frame.leg} is not attached to this socket, which is leg {self._leg}"
            raise ProtocolError(ErrorCode.INVALID_VALUE, text, param="leg")
        if frame.n != 0:
            raise ProtocolError(ErrorCode.INVALID_VALUE, f"sound belongs to no turn, but n is {frame.n}", param="n")
        ear = self._announced()
        if frame.flags & Flag.FIRST:
            self._act(ear.restart(), now)
        told = self._hear(ear, frame.payload, frame.position, now)
        if frame.flags & Flag.LAST:
            self.mute(now)
        return told or frame.flags is not Flag.NONE

    def append(self, command: InputAudioAppend, now: float) -> None:
        """Sound in a text message. Raises ProtocolError."""
        ear = self._announced()
        try:
            payload = base64.b64decode(command.audio, validate=True)
        except binascii.Error as error:
            raise ProtocolError(ErrorCode.INVALID_VALUE, f"audio is no base64: {error}", param="audio") from error
        self._hear(ear, payload, None, now)

    def mute(self, now: float) -> None:
        """No more sound comes for now: the client said so, or its socket is gone."""
        if self._ear is not None:
            self._act(self._ear.mute(), now)

    def decided(self) -> None:
        """The client has decided about the turn: one that we paused does not go on by itself. Call it for each command that means so."""
        if self._policy is not None:
            self._policy.decided()

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._ear is not None and self._ear.speaking and now >= self._ear.mute_at:
            self.mute(now)
        turn = self._policy.resumes(now) if self._policy is not None else None
        if turn is not None and self._side.resume_turn(turn, now):
            self._stopped(SpeechAction.RESUMED)

    def _announced(self) -> Ear:
        if self._ear is None:
            raise ProtocolError(ErrorCode.INVALID_VALUE, "sound came before an audio.input announced it", param="audio")
        return self._ear

    def _hear(self, ear: Ear, payload: bytes, position: int | None, now: float) -> bool:
        try:
            noticed = ear.hear(payload, position, now, self._side.played_db)
        except ValueError as error:
            raise ProtocolError(ErrorCode.INVALID_VALUE, str(error), param="audio") from error
        self._act(noticed, now)
        if ear.speaking:
            self._note_overlap(ear, now)
        return bool(noticed) or ear.speaking

    def _act(self, noticed: list[Noticed], now: float) -> None:
        for item in noticed:
            if item.what is Turned.STARTED:
                self._on_started(item.at, now)
            else:
                self._on_stopped(item.at, now)

    def _on_started(self, at: float, now: float) -> None:
        assert self._policy is not None, "an ear has a policy"
        self._turn, self._sounding = self._side.speaking_turn(now), None
        self._interrupt(self._turn, self._policy.started(self._turn), at, now)

    def _interrupt(self, turn: str | None, action: SpeechAction, at: float, now: float) -> None:
        """Tell of speech that began at `at`, and of what it does to the turn; then do that."""
        # Told first: what follows from it, turn.paused or turn.done, then explains itself.
        self._side.tell(SpeechStarted(session_ms=self._session_ms(at), leg=self._leg, turn=turn, action=action))
        if turn is not None and action is SpeechAction.PAUSED:
            self._side.pause_turn(turn, now)
        elif turn is not None and action is SpeechAction.CANCELLED:
            self._side.cancel_turn(turn, now)

    def _note_overlap(self, ear: Ear, now: float) -> None:
        """Somebody who spoke before a turn began to sound interrupts it by going on, as one does who begins then.

        Not by having spoken: the client may know sooner than we do that they have finished, and its answer is not to wait for us.
        """
        assert self._policy is not None, "an ear has a policy"
        turn = self._side.sounding_turn(now)
        if turn is None or turn == self._turn:
            return
        if self._sounding is None or self._sounding[0] != turn:
            self._sounding = (turn, now)
        if ear.last_speech_at - self._sounding[1] < max(self._min_speech_s, HOP_S):
            return
        action = self._policy.started(turn)
        if action is not SpeechAction.NONE:
            self._interrupt(turn, action, ear.began_at, now)
        self._turn = turn

    def _on_stopped(self, at: float, now: float) -> None:
        assert self._policy is not None, "an ear has a policy"
        self._ended_at = at
        self._policy.stopped(at)
        if now < self._policy.deadline:
            self._stopped(SpeechAction.NONE)
        else:
            self.tick(now)

    def _stopped(self, action: SpeechAction) -> None:
        session_ms = self._session_ms(self._ended_at)
        self._side.tell(SpeechStopped(session_ms=session_ms, leg=self._leg, turn=self._turn, action=action))

    def _session_ms(self, at: float) -> int:
        return max(0, round((at - self._started_at) * 1000))
