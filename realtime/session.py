"""One client's conversation with the server: what each command means.

Knows the ids and the configuration that a client may refer to, its limits, and how long it may live. Does not know sockets, JSON or
tasks: its methods never wait, take the time as an argument, and put what is to be sent into the outbox. Around it, tasks only wait and
then call one method: `handle` for a command, `on_event`, `on_end` and `on_error` for a stream, `on_written` after each message written,
`tick` at `deadline`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from engine.api import Engine, EngineError, StreamEvent
from protocol.commands import (
    After,
    Command,
    ContextClear,
    Ping,
    Scope,
    SessionClose,
    SessionUpdate,
    TextAppend,
    TextFlush,
    TurnCancel,
    TurnEnd,
    TurnStart,
)
from protocol.config import Limits, apply
from protocol.connection import encode_event
from protocol.errors import CloseCode, ErrorCode, ProtocolError, quoted
from protocol.events import (
    ClosingReason,
    ContextUpdated,
    ErrorEvent,
    Event,
    Heard,
    LiveTurn,
    Pong,
    SessionClosing,
    SessionCreated,
    SessionUpdated,
    Status,
    WarningCode,
    WarningEvent,
)
from realtime.context import Context
from realtime.ended import EndedTurns
from realtime.floor import Floor
from realtime.lifetime import Closing, Due, Lifetime
from realtime.options import (
    find_voice,
    first_config,
    output_format,
    pre_skip,
    refuse_what_is_not_built,
    turn_options,
)
from realtime.outbox import Outbox
from realtime.speech import Speech
from realtime.turn import Turn, TurnOptions
from realtime.voices import VoiceStore


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
        self.floor = Floor(session_id, engine, outbox, context, admission_timeout_s, spawn, self._turn_over)
        self._life = Lifetime(limits, now)
        self._next_n = 1
        self._ended = EndedTurns()

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

    def on_event(self, turn: Turn, speech: Speech, event: StreamEvent, now: float) -> None:
        """A stream delivered something."""
        turn.on_event(speech, event, now)
        self._go_on(now)

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
        times = [self._life.deadline(bool(self.floor.turns), self.floor.silent_at), self.floor.deadline(now)]
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
        while not self.closed and (due := self._life.due(bool(self.floor.turns), self.floor.silent_at, now)):
            self._meet(due, now)
        self._go_on(now)

    def detach(self, now: float) -> None:
        """The socket is lost, and another may come: go on without a listener for a while. Idempotent."""
        self._life.detach(now)

    def attach(self, now: float) -> None:
        """There is a socket again. Idempotent; call `tick` when it takes what is put."""
        self._life.attach(now)

    def drain(self, grace_s: float, now: float) -> None:
        """The server is about to end: say so, let what was begun be spoken, begin nothing."""
        if not self.closed:
            self._emit(SessionClosing(reason=ClosingReason.RESTART, in_ms=round(grace_s * 1000)))
            self._life.close(Closing(CloseCode.SERVICE_RESTART, "restart", now + grace_s))
            self._go_on(now)

    def disconnect(self, now: float) -> None:
        """Nobody will listen again: nothing is spoken any more, and the engine forgets the conversation. Call it once, at the end."""
        if not self.closed:
            self._cancel_all("disconnected", now)
            self._close(CloseCode.GOING_AWAY, "disconnected")
        self._engine.forget(self.id)

    def _carry_out(self, command: Command, now: float) -> None:
        refuse_what_is_not_built(command)
        match command:
            case TextAppend():
                self._append(command, now)
            case TurnCancel():
                self._cancel(command, now)
            case TurnEnd():
                self._end_text(command, now)
            case TextFlush():
                self._flush(command)
            case TurnStart():
                self._start(command, now)
            case SessionUpdate():
                self._update(command)
            case ContextClear():
                self._clear_context(command)
            case Ping():
                self._pong(command, now)
            case SessionClose():
                self._close_asked(command, now)
            case _:
                text = f"{command.type} is not supported yet"
                raise ProtocolError(ErrorCode.UNSUPPORTED, text, param="type")

    def _append(self, command: TextAppend, now: float) -> None:
        turn = self._turn_for_text(command.turn)
        if turn is None and self._drops_late_text(command.turn):
            return
        so_far = turn.text.chars if turn is not None else 0
        if so_far + len(command.text) > self._limits.turn_chars:
            bound = f"{so_far} characters and {len(command.text)} more exceed turn_chars={self._limits.turn_chars}"
            raise ProtocolError(ErrorCode.TEXT_OVERFLOW, bound, param="text", turn=command.turn)
        pending = sum(known.pending_chars for known in self.floor.turns)
        if pending + len(command.text) > self._limits.pending_chars:
            bound = f"{pending} characters wait and {len(command.text)} more exceed pending_chars={self._limits.pending_chars}"
            raise ProtocolError(ErrorCode.TEXT_OVERFLOW, bound, param="text", turn=command.turn)
        if turn is None:
            turn = self._open(command.turn, self._options(TurnStart(turn=command.turn)), now)
        turn.append(command.text, now)

    def _turn_for_text(self, turn_id: str | None) -> Turn | None:
        """The open turn that is meant, or None: a new one. Raises ProtocolError for one that has ended."""
        if turn_id is None:
            return next((turn for turn in reversed(self.floor.turns) if not turn.text.ended), None)
        turn = self._live(turn_id)
        if (turn is not None and turn.text.ended) or self._ended.finished(turn_id):
            raise ProtocolError(
                ErrorCode.INVALID_VALUE, f"turn {quoted(turn_id)} has ended", param="turn", turn=turn_id
            )
        return turn

    def _drops_late_text(self, turn_id: str | None) -> bool:
        """Whether text is for a turn that the server ended in its middle; the client is told so once."""
        late = self._ended.late(turn_id)
        if late is not None and self._ended.tell(late):
            text = "the turn has failed; text for it is dropped until turn.end, turn.start or a new id"
            self._emit(WarningEvent(code=WarningCode.LATE_TEXT, turn=late, message=text))
        return late is not None

    def _flush(self, command: TextFlush) -> None:
        turn = self._turn_for_text(None) if command.turn is None else self._known(command.turn)
        if turn is not None:
            turn.text.flush()

    def _end_text(self, command: TurnEnd, now: float) -> None:
        turn = self._turn_for_text(None) if command.turn is None else self._known(command.turn)
        awaited = self._ended.text_ended(command.turn)
        if turn is None and command.turn is None and not awaited:
            # An LLM that said nothing: its client waits for a turn.done like any other.
            turn = self._open(None, self._options(TurnStart()), now)
        if turn is not None:
            turn.text.end()

    def _start(self, command: TurnStart, now: float) -> None:
        if command.turn is not None and (self._live(command.turn) is not None or command.turn in self._ended):
            text = f"turn {quoted(command.turn)} exists already"
            raise ProtocolError(ErrorCode.INVALID_VALUE, text, param="turn", turn=command.turn)
        options = self._options(command)  # a turn that cannot be opened interrupts nobody
        first = self.floor.speaking(now) if command.after is After.INTERRUPT else None
        if first is not None:
            self._interrupt(self.floor.since(first), "superseded", None, now, None)
        self._open(command.turn, options, now)

    def _options(self, command: TurnStart) -> TurnOptions:
        if self._life.closing is not None:
            raise ProtocolError(
                ErrorCode.INVALID_VALUE, "the session is closing and takes no new turn", turn=command.turn
            )
        return turn_options(self._config, command, self._voices, self._engine.info, self._limits)

    def _open(self, turn_id: str | None, options: TurnOptions, now: float) -> Turn:
        """A new turn behind the others. Raises ProtocolError where too many wait."""
        if len(self.floor.turns) > self._limits.queued_turns:
            text = f"{len(self.floor.turns) - 1} turns wait already: queued_turns={self._limits.queued_turns}"
            raise ProtocolError(ErrorCode.LIMIT_EXCEEDED, text, turn=turn_id)
        turn = Turn(turn_id or self._minted(), self._next_n, options, self._engine, self._outbox, now)
        self._next_n += 1
        self._ended.text_ended()
        self.floor.add(turn)
        return turn

    def _minted(self) -> str:
        name = f"turn-{self._next_n}"
        while self._live(name) is not None or name in self._ended:
            name += "+"  # a client has used the name for a turn of its own
        return name

    def _cancel(self, command: TurnCancel, now: float) -> None:
        if command.turn is not None:
            target = self.floor.find(command.turn)
            if target is None and command.turn not in self._ended:
                raise _unknown(command.turn)
        else:
            target = self.floor.speaking(now)
            if target is None and command.played_ms is not None:
                target = self.floor.last_played()
        if target is not None:  # else it is over and heard: cancelling twice is cancelling once
            turns = [target] if command.scope is Scope.TURN else self.floor.since(target)
            self._interrupt(turns, command.reason, command.played_ms, now, command.event_id)

    def _interrupt(
        self, turns: list[Turn], reason: str, played_ms: float | None, now: float, event_id: str | None
    ) -> None:
        """End `turns`, the first of which was heard up to `played_ms`; None leaves it to the clock."""
        for turn in turns:
            if not turn.over:
                self.floor.cancel(turn, reason, played_ms, now, event_id)
            elif (heard := self.floor.cut(turn, played_ms, now)) is not None:
                self._emit(self._context_updated(event_id, turn, heard))
            played_ms = None if played_ms is None else 0.0  # whoever stopped in one turn did not hear the next

    def _cancel_all(self, reason: str, now: float) -> None:
        for turn in list(self.floor.turns):
            self.floor.cancel(turn, reason, None, now)

    def _update(self, command: SessionUpdate) -> None:
        config = apply(self._config, command)
        find_voice(self._voices, config.voice)
        skip = pre_skip(output_format(config.audio.output), self._engine.info)
        self._config = config
        self.floor.context = self.floor.context.limited(config.history.max_s, config.history.max_turns)
        self._emit(SessionUpdated(config=config, from_turn=self._next_n, pre_skip=skip, event_id=command.event_id))

    def _clear_context(self, command: ContextClear) -> None:
        self.floor.forget()
        if not command.keep_voice:
            self._config = self._config.model_copy(update={"voice": None})
        self._emit(self._context_updated(command.event_id, None, None))

    def _context_updated(self, event_id: str | None, turn: Turn | None, heard: Heard | None) -> ContextUpdated:
        context = self.floor.context
        return ContextUpdated(
            turns=len(context.turns),
            audio_s=round(context.audio_s, 3),
            text_chars=context.text_chars,
            turn=turn.id if turn is not None else None,
            heard=heard,
            event_id=event_id,
        )

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
                self._emit(SessionClosing(reason=ClosingReason.EXPIRED, in_ms=left_ms))
            case Due.EXPIRED:
                text = f"the session has lived for session_s={self._limits.session_s}"
                self.refuse(ProtocolError.fatal_error(ErrorCode.SESSION_EXPIRED, text), now)
            case Due.IDLE:
                self._emit(SessionClosing(reason=ClosingReason.IDLE, in_ms=0))
                text = f"no message, audio or pong for idle_s={self._limits.idle_s}"
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

    def _live(self, turn_id: str) -> Turn | None:
        return next((turn for turn in self.floor.turns if turn.id == turn_id), None)

    def _known(self, turn_id: str) -> Turn | None:
        """The turn if it lives, None if it is over. Raises ProtocolError for one that never was."""
        turn = self._live(turn_id)
        if turn is None and turn_id not in self._ended:
            raise _unknown(turn_id)
        return turn

    def _turn_over(self, turn: Turn, status: Status) -> None:
        self._ended.add(turn.id, text_missing=status is Status.FAILED and not turn.text.ended)

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


def _unknown(turn_id: str) -> ProtocolError:
    return ProtocolError(ErrorCode.UNKNOWN_TURN, f"no turn {quoted(turn_id)}", param="turn", turn=turn_id)
