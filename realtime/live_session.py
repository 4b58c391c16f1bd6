"""A session with the tasks that it needs, from its first socket to its end: what stays when a socket is lost.

Knows when to wait and what for: a stream's event, a deadline. Does not know sockets: one at a time is attached, takes messages out of the
outbox, and hands commands in. Every task waits for one thing and then calls one method of the session, which never waits.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import anyio
import anyio.abc

from engine.api import EngineDied, EngineError
from protocol.audio_frame import AudioFrame
from protocol.commands import Command
from protocol.config import Clock
from protocol.connection import encode_event
from protocol.errors import ErrorCode, ProtocolError
from protocol.events import WarningCode, WarningEvent
from realtime.audio import AudioPacket
from realtime.legs import Legs
from realtime.outbox import Outbox
from realtime.replay import Have
from realtime.session import Session
from realtime.speech import Job, Speech
from realtime.turn import Turn
from realtime.workshop import Bench

if TYPE_CHECKING:
    from realtime.service import Service

log = logging.getLogger("parley.live")

BREATH: Final = 4  # events of a stream, before others get their turn: with frames some 0.2 ms


class Attached(Protocol):
    """The socket that a session has, as the session sees it."""

    @property
    def pong_at(self) -> float:
        """When the peer last answered a ping, on the service's clock."""

    def wake(self) -> None:
        """There is something to take out of the outbox."""

    def leave(self, error: ProtocolError | None) -> None:
        """Let go of the session: tell the peer why and close, or (None) just drop the connection. Nothing is taken any more from now on."""


class LiveSession:
    """One conversation, in the service's list from its first moment. Start `run` in a task; then `attach` a socket."""

    def __init__(self, session_id: str, owner: str, by_secret: bool, service: Service) -> None:
        """owner: of the key that it was made with. by_secret: its client has no key, the resume token alone lets it in again."""
        self.id = session_id
        self.owner = owner
        self.by_secret = by_secret
        self._ended = False
        self._error: Exception | None = None  # a bug that was found where nobody could raise it
        self._service = service
        self._clock = service.clock
        token = service.sessions.add(self)
        self._token = token if service.settings.limits.resume_ttl_s else None  # resumes it
        self._socket: Attached | None = None
        self._waiting_since: float | None = None  # without a socket; None: it has one
        self._slow = False  # the last socket was dropped because it took no data
        self._loop = asyncio.get_running_loop()  # its clock is the service's
        self._timer: asyncio.TimerHandle | None = None  # of the session's next deadline, or of an earlier one
        self._timer_at = math.inf  # when it rings
        self._finished = asyncio.Event()  # `run` has nothing to wait for any more
        self._tasks = anyio.create_task_group()
        limits = service.settings.limits
        self.outbox = Outbox(self._on_put, limits.replay_s)
        self._session = Session(
            session_id=session_id,
            engine=service.admitting,
            voices=service.voices,
            limits=limits,
            admission_timeout_s=service.settings.admission_timeout_s,
            outbox=self.outbox,
            spawn=self._spawn,
            now=self._clock(),
        )

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Keep the session until it is over. A bug ends this session alone."""
        log.info("session opened", extra={"session": self.id})
        try:
            async with self._tasks:
                task_status.started()
                self._changed()
                await self._finished.wait()
                if self._error is not None:
                    raise self._error
                self._tasks.cancel_scope.cancel()
        except Exception:  # supervisor
            log.exception("session failed", extra={"session": self.id})
            if self._socket is not None:
                self._socket.leave(ProtocolError.fatal_error(ErrorCode.INTERNAL, "the server made a mistake"))
        finally:
            self.end()

    def attach(self, socket: Attached, have: Have | None, resumed: bool) -> list[bytes | str]:
        """From now on `socket` speaks for the client; another that did is told so. Returns what to write before what the outbox holds."""
        now = self._clock()
        former, self._socket = self._socket, socket
        if former is not None:
            former.leave(ProtocolError.fatal_error(ErrorCode.TAKEN_OVER, "another socket has resumed this session"))
        self._waiting_since = None
        again = self.outbox.written_after(have)
        self.outbox.attached = True
        self._session.attach(now)
        created = self._session.created(round(self._service.unix_time() * 1000), now, self._token, resumed)
        greeting: list[bytes | str] = [encode_event(created)]
        if self._slow:
            self._slow = False
            text = f"the socket before this one was dropped: it took no data for drain_s={self._service.settings.limits.drain_s}"
            greeting.append(encode_event(WarningEvent(code=WarningCode.SLOW_CONSUMER, message=text)))
        if resumed:
            log.info("session resumed", extra={"session": self.id, "again": len(again)})
            self._session.tick(now)
        self._changed()
        return [*greeting, *again]

    def detach(self, socket: Attached, for_good: bool, slow: bool = False) -> None:
        """`socket` is gone. for_good: the client does not mean to return; slow: it was dropped. Nothing happens if another was attached."""
        if socket is not self._socket:
            return
        self._socket = None
        if for_good or self._token is None or self.outbox.overflowed or self.over:
            self.end()
            return
        now = self._clock()
        self._slow = slow
        self._waiting_since = now
        self.outbox.detach(now)
        self._session.detach(now)
        self._changed()
        log.info("session waits for its client", extra={"session": self.id})

    def rest(self, resting: bool) -> None:
        """`resting`: nobody is behind the socket now. Nothing else changes, but the session gives way where the server is full."""
        self._waiting_since = self._clock() if resting else None

    @property
    def waiting_since(self) -> float | None:
        """See `sessions.Member`."""
        return self._waiting_since if not self._session.floor.turns else None

    @property
    def over(self) -> bool:
        """Whether it is too late to attach a socket."""
        return self._ended or self._session.closed

    def end(self) -> None:
        """Be over, now: nothing is spoken any more. Idempotent."""
        if not self._ended:
            self._ended = True
            self._service.sessions.discard(self)
            self._session.disconnect(self._clock())
            self._finished.set()
            if self._timer is not None:
                self._timer.cancel()
            log.info("session closed", extra={"session": self.id})

    def drain(self, grace_s: float) -> None:
        """End in time, by itself."""
        self._session.drain(grace_s, self._clock())
        self._changed()

    def handle(self, command: Command) -> None:
        """Carry out what the client asks for."""
        self._session.handle(command, self._clock())
        self._changed()

    def hear(self, frame: AudioFrame) -> None:
        """Sound came from the client. Takes 0.1 ms for each 32 ms of it."""
        if self._session.on_audio(frame, self._clock()):
            self._changed()

    def on_leg(self, act: Callable[[Legs, float], None]) -> None:
        """Something happened at a telephone, see `Session.on_leg`. Does nothing once the session is over; raises what `act` does."""
        self._session.on_leg(act, self._clock())
        self._changed()

    def refuse(self, error: ProtocolError) -> None:
        """Tell the client of an error in what it sent."""
        self._session.refuse(error, self._clock())
        self._changed()

    def written(self) -> None:
        """What was taken out of the outbox has been written."""
        self._session.on_written(self._clock())
        self._changed()

    def _on_put(self) -> None:
        if self.outbox.overflowed:
            log.warning("session dropped: it does not read its answers", extra={"session": self.id})
            if self._socket is not None:
                self._socket.leave(None)
        elif self._socket is not None:
            self._socket.wake()

    def _changed(self) -> None:
        """Something happened to the session: it may be over, or its deadline nearer. One that moved away is noticed when it comes.

        A timer, not a task that waits: this happens some fifty times a second while somebody speaks.
        """
        if self._session.closed:
            self._finished.set()
            return
        due_at = self._session.deadline(self._clock())
        if due_at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_at = self._loop.call_at(due_at, self._on_time), due_at

    def _on_time(self) -> None:
        self._timer, self._timer_at = None, math.inf
        try:
            if self._socket is not None:
                self._session.alive(self._socket.pong_at)
            self._session.tick(self._clock())
            self._changed()
        except Exception as error:  # supervisor: a bug ends this session alone
            self._break(error)

    def _spawn(self, turn: Turn, speech: Speech) -> None:
        patient = turn.options.config.pacing.clock is Clock.NONE
        encoder = _Encoder(self._service.workshop.bench(self._break, patient), self._encoded)
        speech.encode_with(encoder)
        self._tasks.start_soon(self._pump, turn, speech, encoder)

    async def _pump(self, turn: Turn, speech: Speech, encoder: _Encoder) -> None:
        """Hand a stream's events to the session; ends by itself after a cancel."""
        session, events = self._session, 0
        try:
            async for event in speech.stream:
                if session.on_event(turn, speech, event, self._clock()):
                    self._changed()
                events += 1
                if events % BREATH == 0:
                    await asyncio.sleep(0)  # events that waited together are not taken all at once
        except EngineError as error:
            if isinstance(error, EngineDied):
                self._service.engine_died()
            session.on_error(turn, speech, error, self._clock())
        else:
            session.on_end(turn, speech, self._clock())
        finally:
            encoder.bench.give_up_place()
        if turn.over or turn.speech is not speech:
            encoder.bench.close()
        self._changed()

    def _encoded(self, packets: int) -> None:
        """So many packets of a turn are there, and the first of them was waited for. None at all may be the end of it."""
        if not packets:
            self._session.tick(self._clock())
        self._changed()

    def _break(self, error: Exception) -> None:
        """A bug outside of the session's tasks: let `run` see it."""
        self._error = error
        self._finished.set()


class _Encoder:
    """Encodes a turn in a thread, see `speech.Encoder`."""

    def __init__(self, bench: Bench, encoded: Callable[[int], None]) -> None:
        self.bench = bench
        self._encoded = encoded

    def do(self, job: Job, done: Callable[[list[AudioPacket]], bool]) -> None:
        def arrived(packets: list[AudioPacket]) -> None:
            if done(packets):
                self._encoded(len(packets))

        self.bench.do(job, arrived)
