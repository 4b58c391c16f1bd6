"""One session: opening it, reading it, going on over another socket when one is lost, and whom a message is for.

Knows which turn or call an event belongs to, and what must be said again after a resumption. Does not know what a turn does with its events
(`turn`), how messages are paced (`link`), nor how a server is reached (`socket`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Final
from weakref import WeakValueDictionary

import anyio
from anyio.abc import TaskGroup
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from protocol.audio_frame import Flag, Kind, unpack
from protocol.client.calls import Calls
from protocol.client.errors import ClientError, ConnectionLost, Refused, ServerError, SessionEnded
from protocol.client.link import Link, closed
from protocol.client.memory import Memory
from protocol.client.microphone import Microphone
from protocol.client.socket import ask, renewing, resuming
from protocol.client.turn import AudioChunk, Deltas, Turn, TurnEvent
from protocol.commands import (
    After,
    AudioInput,
    Command,
    ContextAppend,
    ContextClear,
    ContextTruncate,
    Ping,
    Role,
    Scope,
    SessionClose,
    SessionUpdate,
    TurnCancel,
    TurnStart,
)
from protocol.config import SamplingConfig, SessionConfig, Transport
from protocol.connection import decode_event
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.events import (
    AnswerBase,
    Audio,
    ClosingReason,
    ContextUpdated,
    ErrorEvent,
    Event,
    Heard,
    Pong,
    SessionClosing,
    SessionCreated,
    SessionUpdated,
    TurnDone,
    TurnResumed,
    TurnStarted,
)

NO_SESSION: Final = 404  # HTTP's status for it
GONE: Final = "the server does not know the session any more"
ENDING_CLOSES: Final = frozenset(
    {CloseCode.SERVICE_RESTART, CloseCode.SESSION_EXPIRED}
)  # there is no session to resume
FINAL_CLOSES: Final = frozenset({CloseCode.NORMAL, CloseCode.TAKEN_OVER})  # ends that somebody wanted


class Client:
    """One session. Calls may come from several tasks of one event loop; after the connection is lost each of them raises why."""

    session: SessionCreated  # as the server opened it
    config: SessionConfig  # in effect from the next turn on

    def __init__(
        self,
        open_socket: Callable[[str], Awaitable[ClientConnection]],
        url: str,
        group: TaskGroup,
        on_event: Callable[[Event], None],
        unread_bytes: int,
        renew_s: float,
    ) -> None:
        """`connect` makes it."""
        self._renew_s = renew_s
        self._ending = False  # the server ends the session: no turn begins in it
        self._renewing = False  # another is being asked for
        self._announced: tuple[AudioInput, Microphone] | None = None
        self._open_socket = open_socket
        self._url = url
        self._socket: ClientConnection | None = None  # the newest
        self._link = Link(group, unread_bytes, self._lost)
        self._calls = Calls(self._link)
        self._memory = Memory()
        self._on_event = on_event
        self._ids = count(1)
        self._turns: dict[str, Turn] = {}  # by id, in the order of speaking, until their turn.done
        self._spoken: WeakValueDictionary[str, Turn] = WeakValueDictionary()  # by id, after it
        self._numbers: dict[int, Turn] = {}  # by n, from turn.started to turn.done
        self._resumptions = 0
        self._closing = False  # we asked the server to close
        self._created = anyio.Event()
        self._ended = anyio.Event()

    def speak(
        self,
        deltas: Deltas | None = None,
        *,
        voice: str | None = None,
        speed: float | None = None,
        volume_db: float | None = None,
        sampling: SamplingConfig | None = None,
        after: After = After.QUEUE,
    ) -> Turn:
        """Open a turn and return at once. `deltas` is sent as it comes, and the turn ended after it; None: call append and end yourself.

        A plain iterable is consumed in the event loop: one that blocks belongs in a thread. What it raises, the turn raises.
        """
        name = f"t{next(self._ids)}"
        options = {"voice": voice, "speed": speed, "volume_db": volume_db, "sampling": sampling}
        given = {key: value for key, value in options.items() if value is not None}
        start = TurnStart.model_validate({"turn": name, "after": after, "event_id": f"{name}:start"} | given)
        turn = Turn(self._link, self._calls, start)
        self._turns[name] = turn
        if self._link.failure is not None:
            turn._fail(self._link.failure)
        else:
            if self._ending:
                turn._wait_for_session()
            self._link.spawn(partial(turn._run, deltas))
        return turn

    async def cancel(self, played_ms: int | None = None, reason: str = "user") -> None:
        """Stop every turn that is not over; each ends with its TurnDone. played_ms counts in the first of them, the one that speaks."""
        turns = list(self._turns.values())
        for turn in turns:
            turn._hush()
            turn._cancelling = TurnCancel(turn=turn.id, scope=Scope.TURN, reason=reason)
            await turn._open()
        if turns:
            turns[0]._cancelling = TurnCancel(turn=turns[0].id, scope=Scope.ALL, played_ms=played_ms, reason=reason)
            if not turns[0]._waits:
                await self._link.post(turns[0]._cancelling)

    async def interrupt(self, turn: Turn, played_ms: int | None = None, reason: str = "barge_in") -> Heard | None:
        """The listener heard so much of `turn` and wants no more of it, nor of those behind it; returns what of its text was heard.

        Stop your own sound first. `turn` may be done and still play. None: nothing of it was ever said.
        """
        behind = [other for other in self._turns.values() if other is not turn]
        await turn.cancel(played_ms, reason)
        for other in behind:
            await other.cancel(0, reason)
        await self.ping()  # answered behind the cancels: what they changed has come by then
        return turn.heard

    async def update(self, update: SessionUpdate) -> SessionUpdated:
        """Change settings from the next turn on. Raises ServerError where it is refused, ValueError for audio without labels."""
        if "audio" in update.model_fields_set and update.audio.transport is Transport.RAW:
            raise ValueError("audio.transport raw does not say which turn a packet belongs to; use binary or json")
        return await self._calls.call(update, SessionUpdated)

    async def append_context(self, text: str, role: Role = Role.USER) -> ContextUpdated:
        """Tell what somebody else said, so that it is part of the conversation. Never spoken."""
        return await self._calls.call(ContextAppend(role=role, text=text), ContextUpdated)

    async def truncate(self, turn: Turn, played_ms: int) -> ContextUpdated:
        """Correct how much of a turn that is over was heard. Raises ServerError once a later turn has begun to sound."""
        return await self._calls.call(ContextTruncate(turn=turn.id, played_ms=played_ms), ContextUpdated)

    async def listen(self, announced: AudioInput) -> Microphone:
        """Send what this side hears, in the format that is announced; `speech.started` and `speech.stopped` come to on_event."""
        await self._link.until_open()
        await self._link.post(announced)
        self._announced = announced, Microphone(self._link)
        return self._announced[1]

    async def clear_context(self, keep_voice: bool = True) -> ContextUpdated:
        """Let the server forget the conversation."""
        return await self._calls.call(ContextClear(keep_voice=keep_voice), ContextUpdated)

    async def ping(self) -> Pong:
        """Ask for a sign of life."""
        return await self._calls.call(Ping(), Pong)

    async def close(self, drain: bool = True) -> None:
        """Let the server close: after what was asked for was spoken, or now. Returns when it has; read the turns meanwhile."""
        self._closing = True
        await self._link.until_open()
        await self._link.post(SessionClose(drain=drain))
        await self._ended.wait()

    async def _wait_for_session(self, timeout_s: float) -> None:
        with anyio.move_on_after(timeout_s):
            await self._created.wait()
        self._link.raise_failure()
        if not self._created.is_set():
            raise Refused(None, f"no session.created within {timeout_s:g} s")

    async def _close(self) -> None:
        if self._socket is not None:
            await self._socket.close()

    async def _read(self, socket: ClientConnection) -> None:
        """The one task that reads, from one socket after the other. Awaits nothing but the socket."""
        next_socket: ClientConnection | None = socket
        while next_socket is not None:
            self._socket = next_socket
            self._link.attach(next_socket)
            lost = await self._read_socket(next_socket)
            self._link.detach()
            if not self._link.lasting or self._closing or lost.code in FINAL_CLOSES:
                self._link.lose(lost)
            next_socket = await self._come_back(lost) if self._link.failure is None else None

    async def _read_socket(self, socket: ClientConnection) -> ConnectionLost:
        """Until it is lost."""
        opened = False
        try:
            while True:
                message = await socket.recv()
                if isinstance(message, bytes):
                    self._take_binary(message)
                elif (event := decode_event(message)) is not None:
                    # What opens this socket is new, whatever was said before on another.
                    if self._memory.event(message) or not opened:
                        self._take(event)
                    opened = True
        except ConnectionClosed as error:
            return closed(error)
        except (ProtocolError, binascii.Error) as error:
            broken = ConnectionLost(None, f"the server sent what is no message of the protocol: {error}")
            self._link.lose(broken)
            return broken

    async def _come_back(self, lost: ConnectionLost) -> ClientConnection | None:
        """Another socket to the same session, or to another one where that has ended; None: the connection is lost for good."""
        failure: ClientError = lost
        if self.session.resume_token is not None and lost.code not in ENDING_CLOSES:
            url = resuming(self._url, self.session.resume_token, self._memory.have)
            found = await ask(self._open_socket, url, self._link.limits.resume_ttl_s)
            if isinstance(found, ClientConnection):
                self._memory.expect_repeats()
                return found
            if found is not None:
                failure = found
                self._ending = self._ending or found.status == NO_SESSION
        if self._ending:
            failure = ConnectionLost(lost.code, GONE)
            again = renewing(self._url)
            if again is not None and self._renew_s > 0:
                self._renewing = True
                found = await ask(self._open_socket, again, self._renew_s)
                if isinstance(found, ClientConnection):
                    return found
                failure = found or failure
        self._link.lose(failure)
        return None

    async def _catch_up(self) -> None:
        """Ask for a sign of life: what comes before it, the server has said before."""
        self._resumptions += 1
        with suppress(ClientError):
            await self._link.say(Ping(event_id=f"resumption:{self._resumptions}"))

    async def _go_on(self, known: SessionCreated) -> None:
        """Say again what the server lacks. Nothing else is said before: all of it is settled before the first `await`."""
        if known is not self.session or not self._link.has_socket:  # this socket is lost, too
            return
        self._memory.all_new()
        live = {turn.turn: turn for turn in known.turns}
        again: list[Command] = []
        for turn in self._turns.values():
            again += turn._say_again(live.get(turn.id))
        again += self._calls.unanswered()
        self._link.open()
        with suppress(ClientError):
            for command in again:
                await self._link.say(command)

    def _take_binary(self, message: bytes) -> None:
        try:
            frame = unpack(message)
        except ProtocolError as error:
            if error.code is ErrorCode.UNSUPPORTED:  # a kind of a later version
                return
            raise
        if frame.kind is not Kind.SPEECH or not self._memory.audio(frame.n, frame.position):
            return
        turn = self._numbers.get(frame.n)
        if turn is not None:
            turn._hear(AudioChunk(turn.id, frame.n, frame.position, frame.payload, frame.flags))

    def _take(self, event: Event) -> None:
        if isinstance(event, SessionCreated):
            self._take_session(event)
        elif isinstance(event, Audio):
            if self._memory.audio(event.n, event.position) and (turn := self._turns.get(event.turn)) is not None:
                payload = base64.b64decode(event.data, validate=True)
                turn._hear(AudioChunk(event.turn, event.n, event.position, payload, Flag(event.flags)))
        elif isinstance(event, ErrorEvent):
            self._take_error(event)
        elif isinstance(event, Pong) and event.event_id == f"resumption:{self._resumptions}":
            self._link.spawn(partial(self._go_on, self.session))
        elif isinstance(event, TurnEvent) and event.turn in self._turns:
            self._take_turn_event(self._turns[event.turn], event)
        else:
            if isinstance(event, SessionUpdated):
                self.config = event.config
            elif isinstance(event, SessionClosing):
                self._end_session(event)
            elif isinstance(event, ContextUpdated) and (turn := self._spoken.get(event.turn or "")) is not None:
                turn.heard = event.heard or turn.heard
            self._answer(event)

    def _end_session(self, event: SessionClosing) -> None:
        """The server says that the session will be over. If another is to follow, new turns wait for it."""
        if self._renew_s > 0 and event.reason in (ClosingReason.RESTART, ClosingReason.EXPIRED):
            self._ending = self._link.lasting = True

    def _take_session(self, event: SessionCreated) -> None:
        known = self._created.is_set()
        if self._renewing and not event.resumed:
            self._begin_anew(event)
            return
        if known and (not event.resumed or event.session != self.session.session):
            self._link.lose(ConnectionLost(None, GONE))
            return
        self.session, self.config, self._link.limits = event, event.config, event.limits
        self._link.lasting = event.resume_token is not None
        if known:
            self._on_event(event)
            self._link.spawn(self._catch_up)
        else:
            self._link.open()
            self._created.set()

    def _begin_anew(self, event: SessionCreated) -> None:
        """Another session follows the one that the server has ended."""
        former, config = self.session, self.config
        self.session, self.config, self._link.limits = event, event.config, event.limits
        self._link.lasting = event.resume_token is not None
        self._ending = self._renewing = False
        self._memory = Memory()
        for turn in {turn.id: turn for turn in self._numbers.values()}.values():
            del self._turns[turn.id]
            turn._fail(SessionEnded(former.session))
        self._numbers.clear()
        self._spoken.clear()
        self._on_event(event)
        self._link.spawn(partial(self._restore, config))
        self._link.spawn(partial(self._say_first, event))

    async def _restore(self, config: SessionConfig) -> None:
        """Give another session the settings of the one before."""
        try:
            await self._calls.call(SessionUpdate.model_validate(config.model_dump()), SessionUpdated)
        except ServerError as error:  # a voice is gone, say
            self._on_event(error.event)
        except ClientError:
            return  # everybody learns it

    async def _say_first(self, known: SessionCreated) -> None:
        """Say in another session what it should know, and the turns of which nothing was heard in the one before."""
        if known is not self.session or not self._link.has_socket:
            return
        again = self._calls.unanswered()
        if self._announced is not None:
            again.append(self._announced[0])
            self._announced[1]._restart()
        for turn in self._turns.values():
            again += turn._say_again(None)
        self._link.open()
        with suppress(ClientError):
            for command in again:
                await self._link.say(command)

    def _take_turn_event(self, turn: Turn, event: TurnEvent) -> None:
        if isinstance(event, TurnStarted):
            self._numbers[event.n] = turn
        elif isinstance(event, TurnDone):
            del self._turns[turn.id]
            self._numbers.pop(event.n, None)
            self._spoken[turn.id] = turn
        elif isinstance(event, TurnResumed):
            for n in [n for n, numbered in self._numbers.items() if numbered is turn]:
                self._memory.rewound(n)
        turn._learn(event)
        self._calls.answer(event.event_id if isinstance(event, AnswerBase) else None, event)

    def _take_error(self, event: ErrorEvent) -> None:
        of_turn = event.turn or (event.event_id or "").partition(":")[0]
        if event.fatal and event.code == ErrorCode.SESSION_EXPIRED and self._ending:
            self._on_event(event)  # as was announced
        elif event.fatal:
            self._link.lose(ServerError(event))
        elif self._calls.answer(event.event_id, event):
            return
        elif of_turn in self._turns and (self._turns[of_turn]._waits or self._is_turned_away(event)):
            self._turns[of_turn]._wait_for_session()
        elif of_turn in self._turns:
            self._turns[of_turn]._refuse(event)
            if event.event_id == f"{of_turn}:start":
                del self._turns[of_turn]  # it never was one
        else:
            self._on_event(event)

    def _is_turned_away(self, event: ErrorEvent) -> bool:
        """Whether a turn was not opened because the session is about to end; it was on its way when we learned that."""
        return self._ending and event.code == ErrorCode.NO_CAPACITY and event.event_id is not None

    def _answer(self, event: Event) -> None:
        event_id = event.event_id if isinstance(event, AnswerBase) else None
        if not self._calls.answer(event_id, event):
            self._on_event(event)

    def _lost(self, failure: ClientError) -> None:
        """Everybody who waits learns why the connection ended."""
        for turn in self._turns.values():
            turn._fail(failure)
        self._calls.give_up()
        self._created.set()
        self._ended.set()
