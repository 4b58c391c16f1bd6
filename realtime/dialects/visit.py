"""One foreign connection at a room: what its dialect wants is done, in order, and what it says is written by one task.

Knows dialects, rooms and when to wait. Does not know WebSockets or HTTP (`realtime.dialects.socket` and `realtime.dialects.request` do),
nor any protocol.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import anyio

from engine.api import EngineError, SynthesisFailed
from protocol.commands import Command, SessionUpdate, TurnStart
from protocol.dialects.interface import CloseSocket, Dialect, Output, PrepareVoice, Refused, StartResponse
from protocol.errors import CloseCode
from protocol.events import Event
from realtime.dialects.entering import engine_refused
from realtime.dialects.room import Room
from realtime.recording_file import RecordingRefused
from realtime.references import ReferenceRefused
from realtime.service import Service
from realtime.voices import VoiceNotFound, VoiceUnusable

log = logging.getLogger("parley.dialects")

HIGH_WATER_BYTES: Final = 64 * 1024  # of messages that wait to be written; above, the session is not asked for more
_FOREIGN_CODES: Final = range(1000, 1016)  # what a client that does not know us can read


class Sink(Protocol):
    """Where a client reads."""

    async def write(self, message: str | bytes | StartResponse) -> None:
        """Raises OSError where nobody reads any more. Waits while the peer takes nothing."""

    async def close(self, code: int, reason: str) -> None:
        """The end, as it should be."""

    def abort(self) -> None:
        """The end, at once."""

    @property
    def pong_at(self) -> float:
        """When the peer last answered a ping; 0 where nobody asks."""


class Visit:
    """See `room.Guest`. Start `write` in a task, then `open`; at the end, call `left`."""

    def __init__(self, service: Service, room: Room, prefix: str, dialect: Dialect, sink: Sink) -> None:
        self.prefix = prefix
        self.closing = False  # nothing is written after what is there now
        self._service = service
        self._clock = service.clock
        self._room = room
        self._dialect = dialect
        self._sink = sink
        self._queue: deque[str | bytes | StartResponse | CloseSocket] = deque()
        self._queued = 0  # bytes of it
        self._to_write = asyncio.Event()
        self._ready = asyncio.Event()
        self._ready.set()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._gone = False

    @property
    def pong_at(self) -> float:
        """See `room.Guest`."""
        return self._sink.pong_at

    async def ready(self) -> None:
        """See `room.Guest`."""
        await self._ready.wait()

    async def open(self) -> None:
        """Let the dialect begin."""
        self._room.enter(self)
        await self._perform(self._dialect.opened(self._clock()))

    async def received(self, message: str | bytes) -> None:
        """The client said something. Waits where a voice must be made for it first, and for nothing else."""
        if not self.closing:
            await self._perform(self._dialect.received(message, self._clock()))

    def event(self, event: Event) -> None:
        """See `room.Guest`."""
        self._guarded(lambda now: self._dialect.event(event, now))

    def audio(self, turn: str, payload: bytes) -> None:
        """See `room.Guest`."""
        self._guarded(lambda now: self._dialect.audio(turn, payload, now))

    def evict(self, code: int, reason: str) -> None:
        """See `room.Guest`."""
        if code not in _FOREIGN_CODES:
            code = CloseCode.GOING_AWAY
        self._put(CloseSocket(code, reason))

    def left(self) -> None:
        """The client is gone: what nobody will hear is cancelled, now. Idempotent."""
        if self._gone:
            return
        self._gone = self.closing = True
        self._ready.set()
        if self._timer is not None:
            self._timer.cancel()
        try:
            for command in self._dialect.disconnected(self._clock()):
                self._room.do(self, command)
        finally:
            self._room.exit(self)

    async def write(self) -> None:
        """The only writer to the client. Returns at the end of it."""
        while True:
            self._to_write.clear()
            while self._queue:
                message = self._queue.popleft()
                with anyio.move_on_after(self._service.settings.limits.drain_s) as patience:
                    if isinstance(message, CloseSocket):
                        await self._sink.close(message.code, message.reason)
                        return
                    await self._sink.write(message)
                if patience.cancelled_caught:
                    log.warning("slow consumer dropped", extra={"session": self._room.session.id})
                    self._sink.abort()
                    return
                self._count(-_size(message))
            await self._to_write.wait()

    def _guarded(self, ask: Callable[[float], Sequence[Output]]) -> None:
        """Do what the dialect wants. A bug in it ends this connection and touches no other."""
        if self.closing:
            return
        try:
            self._apply(ask(self._clock()))
        except Exception:  # supervisor
            log.exception("dialect failed", extra={"session": self._room.session.id})
            self._put(CloseSocket(CloseCode.INTERNAL, "internal"))

    def _apply(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            assert not isinstance(output, PrepareVoice), "only opened and received may wait"
            self._do(output)
        self._set_timer()

    async def _perform(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if isinstance(output, PrepareVoice):
                await self._perform(await self._prepare(output))
            else:
                if isinstance(output, SessionUpdate | TurnStart):
                    await self._encode_voices(output)
                self._do(output)
        self._set_timer()

    def _do(self, output: Command | str | bytes | StartResponse | CloseSocket) -> None:
        if isinstance(output, str | bytes | StartResponse | CloseSocket):
            self._put(output)
        elif not self._gone:
            self._room.do(self, output)

    def _put(self, message: str | bytes | StartResponse | CloseSocket) -> None:
        if self.closing:
            return
        self._queue.append(message)
        self._count(_size(message))
        self.closing = isinstance(message, CloseSocket)
        self._to_write.set()

    def _count(self, size: int) -> None:
        self._queued += size
        if self._queued < HIGH_WATER_BYTES or self.closing:
            self._ready.set()
        else:
            self._ready.clear()

    async def _prepare(self, wanted: PrepareVoice) -> Sequence[Output]:
        try:
            voice = await self._service.encoder.inline(await self._service.references.loaded(wanted.recordings))
        except ReferenceRefused as error:
            return wanted.refused(Refused(400, str(error)))
        except RecordingRefused as error:
            return wanted.refused(Refused(400, f"the reference recording {error}"))
        except SynthesisFailed as error:
            return wanted.refused(
                Refused(400, f"the reference recording cannot be encoded: {error.detail}", error.code)
            )
        except EngineError as error:
            return wanted.refused(engine_refused(error))
        return wanted.then(self._service.voices.hold(voice))

    async def _encode_voices(self, command: SessionUpdate | TurnStart) -> None:
        """Whoever asks for a voice right after it was added waits for its codes."""
        named: list[str | None] = [command.voice]
        if isinstance(command, SessionUpdate) and command.voices:
            named += command.voices.values()
        for name in named:
            try:
                if name is not None:
                    await self._service.encoder.ready(name)
            except (VoiceNotFound, VoiceUnusable):
                return  # the session looks for itself, and the dialect is told
            except EngineError as error:
                log.warning("voice %r cannot be encoded: %s", name, error)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_at = self._dialect.deadline
        if not self.closing and math.isfinite(due_at):
            self._timer = self._loop.call_at(due_at, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._guarded(self._dialect.tick)


def _size(message: str | bytes | StartResponse | CloseSocket) -> int:
    return len(message) if isinstance(message, str | bytes) else 0
