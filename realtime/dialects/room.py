"""A native session with several foreign connections at it, one after the other or at a time.

Knows which turn belongs to which connection, and that a session with a name outlives them all. Does not know any protocol: commands come
in, events and audio go to whoever opened the turn. To the session this is its one socket, which never goes away while the room is open.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

import anyio
import anyio.abc
from anyio.lowlevel import checkpoint

from protocol.audio_frame import unpack
from protocol.commands import Command, SessionUpdate
from protocol.connection import decode_event
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.events import AnswerBase, ErrorEvent, Event, SessionUpdated, TurnDone, TurnStarted
from realtime.entrance import Shown
from realtime.live_session import LiveSession
from realtime.outbox import Close
from realtime.service import Service

log = logging.getLogger("parley.dialects")

BREATH: Final = 8  # messages handed out before other tasks get their turn


class Guest(Protocol):
    """A connection, as the room sees it. No method waits but `ready`."""

    prefix: str  # its turns' ids begin with it, and the event_ids of its commands

    @property
    def pong_at(self) -> float:
        """When its peer last answered a ping."""

    async def ready(self) -> None:
        """Return when its client takes more: until then nobody gets anything, because nothing may overtake."""

    def event(self, event: Event) -> None:
        """One of its turns, or its command, or all."""

    def audio(self, turn: str, payload: bytes) -> None:
        """Of one of its turns."""

    def evict(self, code: int, reason: str) -> None:
        """The session is over."""


class Room:
    """Around one session. Start `run` in a task of the service; then guests enter."""

    def __init__(self, service: Service, session: LiveSession, named: bool) -> None:
        """named: it stays when nobody is in it, until the session is idle for too long."""
        self.session = session
        self._service = service
        self._named = named
        self._guests: list[Guest] = []
        self._turns: dict[int, str] = {}  # that speak: id by number
        self._commands = 0
        self._settings: SessionUpdate | None = None  # the last one that was handed in
        self._to_take = asyncio.Event()
        self._over = False
        self._left: ProtocolError | None = None

    @property
    def over(self) -> bool:
        """Whether it is too late to enter."""
        return self._over or self.session.over

    @property
    def empty(self) -> bool:
        """Whether no connection is in it."""
        return not self._guests

    @property
    def pong_at(self) -> float:
        """See `live_session.Attached`."""
        return max((guest.pong_at for guest in self._guests), default=0.0)

    def wake(self) -> None:
        """See `live_session.Attached`."""
        self._to_take.set()

    def leave(self, error: ProtocolError | None) -> None:
        """See `live_session.Attached`."""
        code = CloseCode.INTERNAL if error is None or error.code is ErrorCode.INTERNAL else CloseCode.GOING_AWAY
        self._end(code, "internal" if error is None else error.code.value)

    def enter(self, guest: Guest) -> None:
        """From now on it may do things, and gets what concerns it."""
        self._guests.append(guest)
        self.session.rest(False)

    def exit(self, guest: Guest) -> None:
        """It is gone; it has cancelled what it wanted to. The session ends if it was nobody else's. Idempotent."""
        if guest in self._guests:
            self._guests.remove(guest)
            if not self._guests and self._named:
                self.session.rest(True)
            elif not self._guests:
                self._end(CloseCode.NORMAL, "closed")

    def do(self, guest: Guest, command: Command) -> None:
        """Carry out a command of a guest. Settings that hold already are not set again."""
        if self._over:
            return
        if isinstance(command, SessionUpdate):
            if command == self._settings:
                return
            self._settings = command
        self._commands += 1
        self.session.handle(command.model_copy(update={"event_id": f"{guest.prefix}c{self._commands}"}))

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Hand out what the session says, until it is over."""
        self.session.attach(self, None, resumed=False)
        task_status.started()
        try:
            while not self._over:
                self._to_take.clear()
                taken = await self._take_some()
                if taken:
                    self.session.written()
                    await checkpoint()
                elif not self._over:
                    await self._to_take.wait()
        except Exception:  # supervisor: a bug ends this session alone
            log.exception("room failed", extra={"session": self.session.id})
            self._end(CloseCode.INTERNAL, "internal")
        finally:
            self._end(CloseCode.GOING_AWAY, "closed")

    async def _take_some(self) -> int:
        taken = 0
        while taken < BREATH and not self._over:
            item = self.session.outbox.take(self._service.clock())
            if item is None:
                break
            taken += 1
            if isinstance(item, Close):
                self._end(item.code, item.reason)
                break
            guest = self._hand_out(item)
            if guest is not None:
                await guest.ready()
        return taken

    def _hand_out(self, message: str | bytes) -> Guest | None:
        """Returns who must be waited for."""
        if isinstance(message, bytes):
            frame = unpack(message)
            turn = self._turns.get(frame.n)
            guest = self._of(turn)
            if guest is not None and turn is not None:
                guest.audio(turn, frame.payload)
            return guest
        event = decode_event(message)
        if event is None or isinstance(event, SessionUpdated):
            return None
        if isinstance(event, TurnStarted):
            self._turns[event.n] = event.turn
        elif isinstance(event, TurnDone):
            self._turns.pop(event.n, None)
        elif isinstance(event, ErrorEvent):
            self._settings = None  # perhaps they were refused
        return self._tell(event)

    def _tell(self, event: Event) -> Guest | None:
        name = getattr(event, "turn", None) or (event.event_id if isinstance(event, AnswerBase) else None)
        if name is not None:
            guest = self._of(name)
            if guest is not None:
                guest.event(event)
            return guest
        for each in list(self._guests):
            each.event(event)
        return None

    def _of(self, name: str | None) -> Guest | None:
        if name is None:
            return None
        return next((guest for guest in self._guests if name.startswith(guest.prefix)), None)

    def _end(self, code: int, reason: str) -> None:
        if not self._over:
            self._over = True
            for guest in list(self._guests):
                guest.evict(code, reason)
            self.session.detach(self, for_good=True)
            self._to_take.set()


class Rooms:
    """Those of one server that have a name, and the making of those that have none."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._named: dict[str, Room] = {}
        self._guests = 0
        self._lock = anyio.Lock()  # two sockets with one name at a time must not make two sessions

    def next_prefix(self) -> str:
        """Of a guest's turns; no two are alike, and none is the beginning of another."""
        self._guests += 1
        return f"d{self._guests}-"

    async def enter(self, owner: str, name: str | None) -> Room:
        """The session of that name, which is made if there is none; None: one of its own. Raises ProtocolError."""
        if name is None:
            return await self._open(owner, named=False)
        async with self._lock:
            room = self._named.get(name)
            if room is None or room.over:
                self._forget_those_that_are_over()
                room = self._named[name] = await self._open(owner, named=True)
            elif room.session.owner != owner:
                raise ProtocolError.fatal_error(ErrorCode.FORBIDDEN, "the session was made with another key")
        return room

    def find(self, owner: str, name: str) -> Room | None:
        """The session of that name, if it lives and is the owner's."""
        room = self._named.get(name)
        return room if room is not None and not room.over and room.session.owner == owner else None

    async def _open(self, owner: str, named: bool) -> Room:
        session = await self._service.open_session(Shown(owner))
        room = Room(self._service, session, named)
        try:
            await self._service.start(room.run)
        except BaseException:  # cancelled before it ran
            session.end()
            raise
        return room

    def _forget_those_that_are_over(self) -> None:
        self._named = {name: room for name, room in self._named.items() if not room.over}
