"""Who has the floor: the turns of one conversation in order, one speaking, and what is remembered of those before.

Knows when a turn may be generated, when it may be heard, when it is over, and how an interruption reaches backwards and forwards: to
a completed turn that is still being played, and to turns that were generated upon a history that turned out otherwise. Does not know
commands, or ids that a client may use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from engine.api import Busy, Engine, EngineDied, EngineError, SynthesisFailed, Voice
from protocol.connection import encode_event
from protocol.errors import ErrorCode, ProtocolError
from protocol.events import ContextUpdated, ErrorEvent, Event, Heard, HeardSource, Status, TurnPlayed
from realtime.context import Context
from realtime.outbox import Outbox
from realtime.playout import PlayClock
from realtime.speech import Speech
from realtime.turn import Played, Turn

REMEMBERED = 16  # turns that are over, while no later one sounds: a client that starts and cancels without end


class Floor:
    """The turns of one conversation. `spawn` is called with every new stream, `ended` with every turn that is over."""

    def __init__(
        self,
        conversation_id: str,
        engine: Engine,
        outbox: Outbox,
        context: Context,
        admission_timeout_s: float,
        pause_ttl_s: float,
        spawn: Callable[[Turn, Speech], None],
        ended: Callable[[Turn, bool], None],
    ) -> None:
        """`ended` is also told whether it was the server that ended the turn, by itself and before all was spoken."""
        self.context = context  # what was heard, of turns that are over
        self.turns: list[Turn] = []  # that live, in the order in which they speak
        self._rate = 1.0  # how fast the last turn was spoken
        self._conversation_id = conversation_id
        self._engine = engine
        self._outbox = outbox
        self._admission_timeout_s = admission_timeout_s
        self._pause_ttl_s = pause_ttl_s
        self._spawn = spawn
        self._ended = ended
        self._over: list[
            Turn
        ] = []  # that are over, and still heard or the newest: what was heard of them may turn out otherwise
        self._unplayed: list[Turn] = []  # completed, and the listener has not come to the end
        self._forgotten = 0  # turns up to this number are not remembered, whatever becomes known of them

    @property
    def silent_at(self) -> float:
        """When the listener will have heard what was sent; minus infinity: has. Infinity: not as it stands."""
        return max((clock.ends_at for turn in self._over if (clock := turn.clock) is not None), default=-math.inf)

    @property
    def waits_for_writer(self) -> bool:
        """Whether writing a message has made something possible."""
        return bool(self.turns) and self.turns[0].waits_for_writer

    def add(self, turn: Turn) -> None:
        """Put a turn behind the others, and have the engine ready for it."""
        if not self.turns:
            self.prepare(turn.options.voice)
        self.turns.append(turn)

    def speaking(self, now: float) -> Turn | None:
        """The turn that the listener hears, or will hear next; it may be over."""
        for turn in self._over:
            if turn.clock is not None and now < turn.clock.ends_at:
                return turn
        return self.turns[0] if self.turns else None

    def last_played(self) -> Turn | None:
        """The newest turn that is over but was sent: who tells how much of it was played may cut it late."""
        return next((turn for turn in reversed(self._over) if turn.clock is not None), None)

    def find(self, turn_id: str) -> Turn | None:
        """A turn that lives, or of which it may still become known how much was heard."""
        return next((turn for turn in self.known if turn.id == turn_id), None)

    def sounding(self) -> list[Turn]:
        """The turns that the listener may hear now."""
        return [turn for turn in (*self._over, *self.turns[:1]) if turn.clock is not None]

    def paused(self) -> Turn | None:
        """The turn that is paused."""
        for turn in self.known:
            if turn.paused_at is not None:
                return turn
        return None

    @property
    def known(self) -> list[Turn]:
        """All turns of which something may still become known, in the order in which they speak."""
        return [*self._over, *self.turns]

    def since(self, first: Turn) -> list[Turn]:
        """`first` and the turns that speak after it."""
        return [turn for turn in self.known if turn.n >= first.n]

    def too_late(self, turn: Turn) -> bool:
        """Whether a later turn has begun to sound, so that what was heard of this one is settled."""
        return any(later.started for later in self.known if later.n > turn.n)

    def advance(self, now: float) -> None:
        """Do everything that has become possible."""
        paused = self.paused()
        if paused is not None and now >= self._pause_ends_at(paused):
            self.interrupt(self.since(paused), "pause_ttl", None, now, by_server=True)
        while True:
            for turn in self.turns:
                turn.take_text(now)
            while self._admit(now):
                pass
            if not self.turns:
                break
            head = self.turns[0]
            head.release(now, self._before())
            if not head.delivered:
                break
            self._end(head, Status.COMPLETED, None, None, now, None)
        self._tell_progress(now)

    def deadline(self, now: float) -> float:
        """When `advance` could do more if nothing else happens; infinity: something else must."""
        at = math.inf
        for turn in self.turns:
            at = min(at, turn.text_deadline(now))
            if turn.refused_since is not None and turn.wants_speech:
                at = min(at, turn.retry_at)
        for turn in self.known:
            at = min(at, turn.mark_at())
            if turn.paused_at is not None:
                at = min(at, self._pause_ends_at(turn))
        for turn in self._unplayed:
            if turn.clock is not None:
                at = min(at, turn.clock.ends_at)
        return min(at, self.turns[0].release_at()) if self.turns else at

    def on_error(self, turn: Turn, speech: Speech, error: EngineError, now: float) -> None:
        """A stream broke: its turn fails, the conversation goes on."""
        if turn.speech is speech and not turn.over:
            self._fail(turn, error, now)

    def interrupt(
        self,
        turns: list[Turn],
        reason: str,
        played_ms: float | None,
        now: float,
        event_id: str | None = None,
        *,
        by_server: bool = False,
    ) -> None:
        """End `turns`, the first of which was heard up to `played_ms`; None leaves it to the clock. Those that are over are cut."""
        for turn in turns:
            if not turn.over:
                played = turn.played(played_ms, now)
                self._end(turn, Status.CANCELLED, reason, played, now, event_id, by_server=by_server)
            elif (heard := self.cut(turn, played_ms, now)) is not None:
                self.tell_context(event_id, turn, heard)
            played_ms = None if played_ms is None else 0.0  # whoever stopped in one turn did not hear the next

    def cut(self, turn: Turn, played_ms: float | None, now: float) -> Heard | None:
        """Cut a turn that is over but was not heard to its end. None: there is nothing to cut.

        Its clock decides once; after that, as after its end, only a client that says how much was played, until a later turn sounds.
        """
        clock = turn.clock
        if (clock is None or now >= clock.ends_at) and (played_ms is None or self.too_late(turn)):
            return None
        played = turn.played(played_ms, now)
        cut = turn.recut(played)
        if clock is not None:
            clock.stop(now)
        self._unplayed = [known for known in self._unplayed if known is not turn]
        if turn.n > self._forgotten:
            self.context = self.context.heard(turn.kept(cut))
            self._regenerate(turn.n)
        return turn.heard(cut, played)

    def forget(self) -> None:
        """Start the history anew. What is heard goes on; what is not yet heard is generated again, without the past."""
        self.context = self.context.cleared()
        self._forgotten = max((turn.n for turn in self._over), default=self._forgotten)
        self._regenerate(0)

    def prepare(self, voice: Voice) -> None:
        """Have voice and history computed while nobody waits for it: all of it again after old segments were dropped."""
        self._engine.prefetch(self.context.conversation(self._conversation_id), voice)

    def tell_context(
        self, event_id: str | None, turn: Turn | None = None, heard: Heard | None = None, used: bool | None = None
    ) -> None:
        """Say what is remembered now."""
        context = self.context
        event = ContextUpdated(
            turns=len(context.turns),
            audio_s=round(context.audio_s, 3),
            text_chars=context.text_chars,
            messages=len(context.said),
            turn=turn.id if turn is not None else None,
            heard=heard,
            used=used,
            event_id=event_id,
        )
        self._emit(event)

    def _before(self) -> PlayClock | None:
        """The clock that the next turn to sound is heard behind."""
        clocks = (turn.clock for turn in reversed(self._over))
        return next((clock for clock in clocks if clock is not None and not clock.stopped), None)

    def _pause_ends_at(self, turn: Turn) -> float:
        assert turn.paused_at is not None, "only a turn that is paused can be so for too long"
        return turn.paused_at + self._pause_ttl_s

    def _tell_progress(self, now: float) -> None:
        """Say which marks and ends the listener has come to."""
        for turn in self.known:
            turn.tell_marks(now)
        for turn in list(self._unplayed):
            if turn.clock is not None and now >= turn.clock.ends_at:
                self._unplayed.remove(turn)
                self._emit(TurnPlayed(turn=turn.id, ms=round(turn.clock.played_ms(now))))

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
            waited_s = now - turn.refused_since
            if waited_s < self._admission_timeout_s:
                return False
            # The engine tells when a place becomes free. Others wait for it, too: who has waited for so long has little hope of it earlier.
            self._fail(turn, replace(busy, retry_after_s=max(busy.retry_after_s, round(waited_s, 1))), now)
            return True
        except EngineError as error:
            self._fail(turn, error, now)
            return True
        self._spawn(turn, speech)
        return False

    def _fail(self, turn: Turn, error: EngineError, now: float) -> None:
        """The server's fault ends a turn: an error that says why, then its turn.done. What was sent will be heard."""
        told = _told(error, turn.id)
        self._emit(ErrorEvent.of(told))
        played = Played(turn.sent_ms, HeardSource.CLOCK if turn.sent_ms else HeardSource.NONE)
        self._end(turn, Status.FAILED, told.code.value, played, now, None, by_server=True)

    def _end(
        self,
        turn: Turn,
        status: Status,
        reason: str | None,
        played: Played | None,
        now: float,
        event_id: str | None,
        *,
        by_server: bool = False,
    ) -> None:
        self.turns.remove(turn)
        if turn.speech is not None:
            self._rate = turn.speech.utterance.timeline.rate
        cut = turn.close(status, reason, played, event_id)
        self.context = self.context.heard(turn.kept(cut))
        if turn.clock is not None and status is Status.CANCELLED:
            turn.clock.stop(now)
        elif turn.clock is not None and turn.clock.paced and status is Status.COMPLETED:
            self._unplayed.append(turn)
        still = [known for known in self._over if self._matters(known, now)]
        self._over = [*still[-REMEMBERED:], turn]
        if not self.turns:
            self.prepare(turn.options.voice)
        if status is not Status.COMPLETED:
            self._regenerate(turn.n)
        self._ended(turn, by_server)

    def _matters(self, turn: Turn, now: float) -> bool:
        """Whether it may still become known how much of it was heard."""
        return (turn.clock is not None and now < turn.clock.ends_at) or not self.too_late(turn)

    def _regenerate(self, n: int) -> None:
        """The history before the turns after number `n` has changed: generate anew what nobody has heard of yet."""
        for turn in self.turns:
            if turn.n > n and not turn.started:
                turn.withdraw_speech()

    def _emit(self, event: Event) -> None:
        self._outbox.event(encode_event(event))


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
