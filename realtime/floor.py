"""Who has the floor: the turns of one conversation in order, one speaking, and what is remembered of those before.

Knows when a turn may be generated, when it may be heard, when it is over, and how an interruption reaches backwards and forwards: to
a completed turn that is still being played, and to turns that were generated upon a history that turned out otherwise. Does not know
commands, or ids that a client may use.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from engine.api import Busy, Engine, EngineDied, EngineError, SynthesisFailed
from protocol.connection import encode_event
from protocol.errors import ErrorCode, ProtocolError
from protocol.events import ErrorEvent, Heard, HeardSource, Status
from realtime.context import Context
from realtime.outbox import Outbox
from realtime.speech import Speech
from realtime.turn import Played, Turn


class Floor:
    """The turns of one conversation. `spawn` is called with every new stream, `ended` with every turn that is over."""

    def __init__(
        self,
        conversation_id: str,
        engine: Engine,
        outbox: Outbox,
        context: Context,
        admission_timeout_s: float,
        spawn: Callable[[Turn, Speech], None],
        ended: Callable[[Turn, Status], None],
    ) -> None:
        self.context = context  # what was heard, of turns that are over
        self.turns: list[Turn] = []  # that live, in the order in which they speak
        self._rate = 1.0  # how fast the last turn was spoken
        self._conversation_id = conversation_id
        self._engine = engine
        self._outbox = outbox
        self._admission_timeout_s = admission_timeout_s
        self._spawn = spawn
        self._ended = ended
        self._played: list[Turn] = []  # over, and perhaps still being heard; the newest stays until the next is over
        self._silenced: set[int] = (
            set()
        )  # of those, the numbers of the ones that a client cut: their clocks mean nothing any more

    @property
    def silent_at(self) -> float:
        """When the listener will have heard what was sent; minus infinity: has."""
        clocks = (turn.clock for turn in self._played if turn.n not in self._silenced)
        return max((clock.ends_at for clock in clocks if clock is not None), default=-math.inf)

    @property
    def waits_for_writer(self) -> bool:
        """Whether writing a message has made something possible."""
        return bool(self.turns) and self.turns[0].waits_for_writer

    def add(self, turn: Turn) -> None:
        """Put a turn behind the others, and have the engine ready for it."""
        if not self.turns:
            self._prepare(turn)
        self.turns.append(turn)

    def speaking(self, now: float) -> Turn | None:
        """The turn that the listener hears, or will hear next; it may be over."""
        for turn in self._played:
            if turn.n not in self._silenced and turn.clock is not None and now < turn.clock.ends_at:
                return turn
        return self.turns[0] if self.turns else None

    def last_played(self) -> Turn | None:
        """The newest turn that is over but was sent: who tells how much of it was played may cut it late."""
        return self._played[-1] if self._played else None

    def find(self, turn_id: str) -> Turn | None:
        """A turn that can be cancelled."""
        return next((turn for turn in (*self._played, *self.turns) if turn.id == turn_id), None)

    def since(self, first: Turn) -> list[Turn]:
        """`first` and the turns that speak after it."""
        return [turn for turn in (*self._played, *self.turns) if turn.n >= first.n]

    def advance(self, now: float) -> None:
        """Do everything that has become possible."""
        while True:
            for turn in self.turns:
                turn.take_text(now)
            while self._admit(now):
                pass
            if not self.turns:
                return
            head = self.turns[0]
            head.release(now, self.silent_at)
            if not head.delivered:
                return
            self._end(head, Status.COMPLETED, None, None, now, None)

    def deadline(self, now: float) -> float:
        """When `advance` could do more if nothing else happens; infinity: something else must."""
        times = [turn.text_deadline(now) for turn in self.turns]
        times += [turn.retry_at for turn in self.turns if turn.refused_since is not None and turn.wants_speech]
        if self.turns:
            times.append(self.turns[0].release_at())
        return min(times, default=math.inf)

    def on_error(self, turn: Turn, speech: Speech, error: EngineError, now: float) -> None:
        """A stream broke: its turn fails, the conversation goes on."""
        if turn.speech is speech and not turn.over:
            self._fail(turn, error, now)

    def cancel(self, turn: Turn, reason: str, played_ms: float | None, now: float, event_id: str | None = None) -> None:
        """Interrupt a turn that lives."""
        self._end(turn, Status.CANCELLED, reason, turn.played(played_ms, now), now, event_id)

    def cut(self, turn: Turn, played_ms: float | None, now: float) -> Heard | None:
        """Cut a turn that is over but was not heard to its end. None: there is nothing to cut.

        Its clock decides once; after that, as after its end, only a client that says how much was played.
        """
        clock = turn.clock
        if played_ms is None and (turn.n in self._silenced or clock is None or now >= clock.ends_at):
            return None
        self._silenced.add(turn.n)
        played = turn.played(played_ms, now)
        cut = turn.cut(played)
        self.context = self.context.heard(turn.kept(cut))
        self._regenerate(turn.n)
        return turn.heard(cut, played)

    def forget(self) -> None:
        """Start the history anew. What is heard goes on; what is not yet heard is generated again, without the past."""
        self.context = self.context.cleared()
        self._played = []
        self._silenced.clear()
        self._regenerate(0)

    def _prepare(self, turn: Turn) -> None:
        """Have voice and history computed while nobody waits for it: all of it again after old segments were dropped."""
        self._engine.prefetch(self.context.conversation(self._conversation_id), turn.options.voice)

    def _admit(self, now: float) -> bool:
        """Find the next turn to be generated a place in the engine. True: it failed, and there may be another."""
        turn = next((turn for turn in self.turns if not turn.generated), None)
        if turn is None or not turn.wants_speech or now < turn.retry_at:
            return False
        context = self.context
        for earlier in self.turns[: self.turns.index(turn)]:
            context = context.heard(earlier.whole())  # as if it were heard to its end; an interruption takes it back
        try:
            speech = turn.open_speech(context.conversation(self._conversation_id), self._rate, now)
        except Busy as busy:
            assert turn.refused_since is not None, "open_speech notes a refusal"
            if now - turn.refused_since < self._admission_timeout_s:
                return False
            self._fail(turn, busy, now)
            return True
        except EngineError as error:
            self._fail(turn, error, now)
            return True
        self._spawn(turn, speech)
        return False

    def _fail(self, turn: Turn, error: EngineError, now: float) -> None:
        """The server's fault ends a turn: an error that says why, then its turn.done. What was sent will be heard."""
        told = _told(error, turn.id)
        self._outbox.event(encode_event(ErrorEvent.of(told)))
        played = Played(turn.sent_ms, HeardSource.CLOCK if turn.sent_ms else HeardSource.NONE)
        self._end(turn, Status.FAILED, told.code.value, played, now, None)

    def _end(
        self, turn: Turn, status: Status, reason: str | None, played: Played | None, now: float, event_id: str | None
    ) -> None:
        self.turns.remove(turn)
        if turn.speech is not None:
            self._rate = turn.speech.utterance.timeline.rate
        cut = turn.close(status, reason, played, event_id)
        self.context = self.context.heard(turn.kept(cut))
        if status is not Status.CANCELLED:
            still = [known for known in self._played if known.clock is not None and now < known.clock.ends_at]
            self._played = [*still, turn]
            self._silenced &= {known.n for known in self._played}
        if not self.turns:
            self._prepare(turn)
        if status is not Status.COMPLETED:
            self._regenerate(turn.n)
        self._ended(turn, status)

    def _regenerate(self, n: int) -> None:
        """The history before the turns after number `n` has changed: generate anew what nobody has heard of yet."""
        for turn in self.turns:
            if turn.n > n and not turn.started:
                turn.withdraw_speech()


def _told(error: EngineError, turn_id: str) -> ProtocolError:
    """What a client learns of an engine's error."""
    if isinstance(error, Busy):
        retry_ms = math.ceil(error.retry_after_s * 1000)
        return ProtocolError(ErrorCode.NO_CAPACITY, str(error), turn=turn_id, retry_after_ms=retry_ms)
    if isinstance(error, EngineDied):
        return ProtocolError(ErrorCode.ENGINE_RESTARTED, "the engine was restarted; the next turn works", turn=turn_id)
    if isinstance(error, SynthesisFailed):
        return ProtocolError(ErrorCode.SYNTHESIS_FAILED, f"{error.code}: {error.detail}", turn=turn_id)
    return ProtocolError(ErrorCode.INTERNAL, "the engine failed", turn=turn_id)
