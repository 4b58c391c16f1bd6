"""One client's conversation with the server: what each command means.

Knows the ids and the configuration that a client may refer to, its limits, and how long it may live. Does not know sockets, JSON or
tasks: its methods never wait, take the time as an argument, and put what is to be sent into the outbox. Around it, tasks only wait and
then call one method: `handle` for a command, `on_event`, `on_end` and `on_error` for a stream, `on_written` after each message written,
`tick` at `deadline`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from engine.api import Engine, EngineError, StreamEvent
from protocol.audio_frame import AudioFrame
from protocol.commands import (
    After,
    AudioInput,
    Command,
    ContextAppend,
    ContextClear,
    ContextTruncate,
    InputAudioAppend,
    Mark,
    Ping,
    PlaybackUpdate,
    SessionClose,
    SessionUpdate,
    TextAppend,
    TextFlush,
    TurnCancel,
    TurnEnd,
    TurnPause,
    TurnResume,
    TurnStart,
)
from protocol.config import Limits, apply
from protocol.connection import encode_event
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.events import (
    ClosingReason,
    ErrorEvent,
    Event,
    LiveTurn,
    Pong,
    SessionClosing,
    SessionCreated,
    SessionUpdated,
    WarningCode,
    WarningEvent,
)
from realtime.context import Context, Said
from realtime.ended import EndedTurns
from realtime.floor import Floor
from realtime.hearing import Hearing
from realtime.interruption import Interruptions
from realtime.legs import Legs
from realtime.lifetime import Closing, Due, Lifetime
from realtime.manuscript import Manuscript
from realtime.options import (
    first_config,
    output_format,
    pre_skip,
    session_voice,
    turn_options,
)
from realtime.outbox import Outbox
from realtime.speaking_side import SpeakingTurns
from realtime.speech import Speech
from realtime.turn import Turn
from realtime.turn_options import TurnOptions
from realtime.voice_activity import SileroModel, SpeechModel
from realtime.voices import VoiceStore

RESTART_MS: Final = 5_000  # from the end of a server to the beginning of the next

# Commands by which a client decides about a turn that was paused because somebody spoke.
_DECISIONS: Final = (TurnCancel, TurnPause, TurnResume, TurnStart, ContextAppend)


class Session:
    """One conversation. `spawn` is called with every new stream: hand its events back from a task."""

    def __init__(
        self,
        session_id: str,
        engine: Engine,
        voices: VoiceStore,
        limits: Limits,
        admission_timeout_s: float,
        outbox: Outbox,
        spawn: Callable[[Turn, Speech], None],
        now: float,
        speech_model: Callable[[], SpeechModel] = SileroModel,
    ) -> None:
        self.id = session_id
        self.closed = False  # nothing that is handed in changes anything any more
        self._engine = engine
        self._voices = voices
        self._limits = limits
        self._outbox = outbox
        self._config = first_config(engine.info)
        history = self._config.history
        context = Context(engine.info.frame_s, history.max_s, history.max_turns)
        self._ended = EndedTurns()
        self.floor = Floor(
            session_id, engine, outbox, context, admission_timeout_s, limits.pause_ttl_ms / 1000, spawn, self._turn_over
        )
        self._text = Manuscript(self.floor, self._ended, limits, engine, outbox, self._options, self._emit)
        self._interruptions = Interruptions(self.floor, self._ended, self._emit)
        speaking = SpeakingTurns(self.floor, self._interruptions, self._prepare_answer, self._emit)
        self._hearing = Hearing(speaking, speech_model, limits.uplink_ms, now)
        self._legs = Legs(self.floor, speaking, outbox, speech_model, limits.uplink_ms, now, self._emit)
        self._life = Lifetime(limits, now)

    def created(
        self, unix_ms: int, now: float, resume_token: str | None = None, resumed: bool = False
    ) -> SessionCreated:
        """The first event of the session, and of every socket that resumes it."""
        return SessionCreated(
            session=self.id,
            resume_token=resume_token,
            resumed=resumed,
            turns=tuple(
                LiveTurn(turn=turn.id, n=turn.n, text_chars=turn.text.chars, text_ended=turn.text.ended)
                for turn in self.floor.turns
            ),
            config=self._config,
            limits=self._limits,
            model=self._engine.info.name,
            sample_rate=self._engine.info.sample_rate,
            pre_skip=pre_skip(output_format(self._config.audio.output), self._engine.info),
            server_time=unix_ms,
            expires_at=unix_ms + max(0, round(self._life.left_s(now) * 1000)),
        )

    def handle(self, command: Command, now: float) -> None:
        """Carry out a command, or refuse it with an error event."""
        if self.closed:
            return
        self._life.touch(now)
        try:
            self._carry_out(command, now)
        except ProtocolError as error:
            self.refuse(replace(error, event_id=command.event_id), now)
        self._go_on(now)

    def on_audio(self, frame: AudioFrame, now: float) -> bool:
        """Sound came from the client. Returns whether something may have come of it; else `deadline` is what it was, or later."""
        if self.closed:
            return True
        self._life.touch(now)
        told = True
        try:
            told = self._hearing.frame(frame, now)
        except ProtocolError as error:
            self.refuse(error, now)
        if told:
            self._go_on(now)
        return told

    def on_leg(self, act: Callable[[Legs, float], None], now: float) -> None:
        """Something happened at a telephone: it is there or gone, or has told something. Raises what `act` does."""
        if self.closed:
            return
        self._life.touch(now)
        act(self._legs, now)
        self._go_on(now)

    def refuse(self, error: ProtocolError, now: float) -> None:
        """Tell the client of an error; a fatal one ends the session."""
        if self.closed:
            return
        self._life.touch(now)
        if error.close_code is not None:
            self._cancel_all(error.code.value, now)
        self._emit(ErrorEvent.of(error))
        if error.close_code is not None:
            self._close(error.close_code, error.code.value)

    def alive(self, now: float) -> None:
        """The peer answered a ping of the WebSocket."""
        self._life.touch(now)

    def on_event(self, turn: Turn, speech: Speech, event: StreamEvent, now: float) -> bool:
        """A stream delivered something. Returns whether something became possible by it; else `deadline` is what it was, or later."""
        possible = turn.on_event(speech, event, now)
        if possible:
            self._go_on(now)
        return possible

    def on_end(self, turn: Turn, speech: Speech, now: float) -> None:
        """A stream is over, after all its events."""
        turn.on_end(speech, now)
        self._go_on(now)

    def on_error(self, turn: Turn, speech: Speech, error: EngineError, now: float) -> None:
        """A stream broke: its turn fails, the session goes on."""
        self.floor.on_error(turn, speech, error, now)
        self._go_on(now)

    def on_written(self, now: float) -> None:
        """A message was taken from the outbox."""
        if self.floor.waits_for_writer:
            self._go_on(now)

    def deadline(self, now: float) -> float:
        """When `tick` is due if nothing else happens. Ask again after each call of another method."""
        speaks = bool(self.floor.turns)
        silent_at = -math.inf if speaks else self.floor.silent_at
        times = [self._life.deadline(speaks, silent_at), self.floor.deadline(now)]
        times += [self._hearing.deadline, self._legs.deadline]
        times += [self._idle_at(turn) for turn in self.floor.turns if not turn.text.ended]
        return min(times)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self.closed:
            return
        for turn in self.floor.turns:
            if not turn.text.ended and now >= self._idle_at(turn):
                text = f"no text came for turn_idle_ms={self._limits.turn_idle_ms}; the turn was ended"
                self._emit(WarningEvent(code=WarningCode.TURN_IDLE_CLOSED, turn=turn.id, message=text))
                turn.text.end()
        self._hearing.tick(now)
        self._legs.tick(now)
        while not self.closed and (due := self._life.due(bool(self.floor.turns), self.floor.silent_at, now)):
            self._meet(due, now)
        self._go_on(now)

    def detach(self, now: float) -> None:
        """The socket is lost, and another may come: go on without a listener for a while. Idempotent."""
        self._life.detach(now)
        self._hearing.mute(now)

    def attach(self, now: float) -> None:
        """There is a socket again. Idempotent; call `tick` when it takes what is put."""
        self._life.attach(now)

    def drain(self, grace_s: float, now: float) -> None:
        """The server is about to end: say so, let what was begun be spoken, begin nothing."""
        if not self.closed:
            self._emit(
                SessionClosing(
                    reason=ClosingReason.RESTART,
                    in_ms=round(grace_s * 1000),
                    message="the server restarts, and this session ends with it: connect again for a new one",
                    retry_after_ms=self._restarted_in_ms(grace_s),
                )
            )
            self._life.close(Closing(CloseCode.SERVICE_RESTART, "restart", now + grace_s))
            self._go_on(now)

    def disconnect(self, now: float) -> None:
        """Nobody will listen again: nothing is spoken any more, and the engine forgets the conversation. Call it once, at the end."""
        if not self.closed:
            self._cancel_all("disconnected", now)
            self._close(CloseCode.GOING_AWAY, "disconnected")
        self._engine.forget(self.id)

    def _carry_out(self, command: Command, now: float) -> None:
        match command:
            case TextAppend():
                self._text.append(command, now)
            case PlaybackUpdate():
                self._interruptions.report(command, now)
            case TurnCancel():
                self._interruptions.cancel(command, now)
            case TurnPause():
                self._interruptions.pause(command, now)
            case TurnResume():
                self._interruptions.resume(command, now)
            case TurnEnd():
                self._text.end(command, now)
            case TextFlush():
                self._text.flush(command)
            case Mark():
                self._text.mark(command, now)
            case TurnStart():
                self._start(command, now)
            case SessionUpdate():
                self._update(command)
            case ContextAppend() | ContextClear() | ContextTruncate():
                self._change_context(command, now)
            case Ping():
                self._pong(command, now)
            case SessionClose():
                self._close_asked(command, now)
            case AudioInput():
                self._hearing.announce(command, now)
            case InputAudioAppend():
                self._hearing.append(command, now)
        if isinstance(command, _DECISIONS):
            self._hearing.decided()
            self._legs.decided()

    def _start(self, command: TurnStart, now: float) -> None:
        def interrupt() -> None:
            first = self.floor.speaking(now) if command.after is After.INTERRUPT else None
            if first is not None:
                self.floor.interrupt(self.floor.since(first), "superseded", None, now)

        self._text.start(command, interrupt, now)

    def _options(self, command: TurnStart, now: float) -> TurnOptions:
        closing = self._life.closing
        if closing is not None and closing.code is CloseCode.SERVICE_RESTART:
            text = "the server restarts: the session takes no new turn; connect again for a new one"
            retry_ms = self._restarted_in_ms(closing.deadline - now)
            raise ProtocolError(ErrorCode.NO_CAPACITY, text, turn=command.turn, retry_after_ms=retry_ms)
        if closing is not None:
            raise ProtocolError(
                ErrorCode.INVALID_VALUE, "the session is closing and takes no new turn", turn=command.turn
            )
        config = self._legs.config(self._config)
        options = turn_options(config, command, self._voices, self._engine.info, self._limits)
        return replace(options, leg=self._legs.number)

    @staticmethod
    def _restarted_in_ms(left_s: float) -> int:
        """When there will be another server, if this one ends so soon."""
        return round(max(0.0, left_s) * 1000) + RESTART_MS

    def _cancel_all(self, reason: str, now: float) -> None:
        self.floor.interrupt(list(self.floor.turns), reason, None, now, by_server=True)

    def _update(self, command: SessionUpdate) -> None:
        config = apply(self._config, command)
        session_voice(self._voices, config)
        skip = pre_skip(output_format(config.audio.output), self._engine.info)
        other_voice = (config.voice, config.voices) != (self._config.voice, self._config.voices)
        self._config = config
        self.floor.context = self.floor.context.limited(config.history.max_s, config.history.max_turns)
        if other_voice:
            self._prepare_answer()
        self._emit(SessionUpdated(config=config, from_turn=self._text.next_n, pre_skip=skip, event_id=command.event_id))

    def _prepare_answer(self) -> None:
        """Have voice and history computed before the next turn's text comes."""
        if not self.floor.turns:
            with suppress(ProtocolError):  # a voice that was removed meanwhile: whoever opens a turn is told
                self.floor.prepare(session_voice(self._voices, self._config))

    def _change_context(self, command: ContextAppend | ContextTruncate | ContextClear, now: float) -> None:
        match command:
            case ContextTruncate():
                self._interruptions.truncate(command, now)
            case ContextAppend():
                said = Said(command.role, command.text)
                self.floor.context = self.floor.context.told(said, self._limits.context_chars)
                self.floor.tell_context(command.event_id, used=False)  # no checkpoint of today is conditioned on it
            case ContextClear():
                self.floor.forget()
                if not command.keep_voice:
                    self._config = self._config.model_copy(update={"voice": None, "voices": {}})
                self.floor.tell_context(command.event_id)

    def _pong(self, command: Ping, now: float) -> None:
        turn = self.floor.speaking(now)
        self._emit(
            Pong(
                t=command.t,
                session_ms=round((now - self._life.created_at) * 1000),
                turn=turn.id if turn is not None else None,
                sent_ms=round(turn.sent_ms) if turn is not None else None,
                event_id=command.event_id,
            )
        )

    def _close_asked(self, command: SessionClose, now: float) -> None:
        if command.drain:
            for turn in self.floor.turns:
                turn.text.end()
        else:
            self._cancel_all("closed", now)
        self._life.close(Closing(CloseCode.NORMAL, "closed", math.inf))

    def _meet(self, due: Due, now: float) -> None:
        """Do what is due."""
        closing = self._life.closing
        match due:
            case Due.NOTICE:
                left_ms = max(0, round(self._life.left_s(now) * 1000))
                text = f"the session ends after session_s={self._limits.session_s}: connect again for a new one"
                self._emit(SessionClosing(reason=ClosingReason.EXPIRED, in_ms=left_ms, message=text))
            case Due.EXPIRED:
                text = f"the session has lived for session_s={self._limits.session_s}"
                self.refuse(ProtocolError.fatal_error(ErrorCode.SESSION_EXPIRED, text), now)
            case Due.IDLE:
                text = f"no message, audio or pong for idle_s={self._limits.idle_s}"
                self._emit(SessionClosing(reason=ClosingReason.IDLE, in_ms=0, message=text))
                self.refuse(ProtocolError.fatal_error(ErrorCode.IDLE, text), now)
            case Due.HUSH:
                self._cancel_all("disconnected", now)
            case Due.GONE:
                self._cancel_all("disconnected", now)
                self._close(CloseCode.GOING_AWAY, "disconnected")
            case Due.CLOSE:
                assert closing is not None, "a close is due after it was asked for"
                self._cancel_all(closing.reason, now)
                self._close(closing.code, closing.reason)

    def _idle_at(self, turn: Turn) -> float:
        return turn.touched_at + self._limits.turn_idle_ms / 1000

    def _turn_over(self, turn: Turn, by_server: bool) -> None:
        self._text.over(turn, by_server)

    def _go_on(self, now: float) -> None:
        if self.closed:
            return
        self.floor.advance(now)
        closing = self._life.closing
        if closing is not None and not self.floor.turns:
            self._close(closing.code, closing.reason)

    def _close(self, code: CloseCode, reason: str) -> None:
        self.closed = True
        self._outbox.close(code, reason)

    def _emit(self, event: Event) -> None:
        self._outbox.event(encode_event(event))
