"""One connection: opening it, reading it, and whom a message is for.

Knows which turn or call an event belongs to. Does not know what a turn does with it (`turn`), nor how messages are paced (`link`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Final, TypeVar
from weakref import WeakValueDictionary

import anyio
from anyio.abc import TaskGroup
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from protocol.audio_frame import Flag, Kind, unpack
from protocol.client.errors import ClientError, ConnectionLost, Refused, ServerError
from protocol.client.link import Link, closed
from protocol.client.turn import AudioChunk, Deltas, Turn
from protocol.commands import After, ContextClear, Ping, Scope, SessionClose, SessionUpdate, TurnCancel, TurnStart
from protocol.config import SamplingConfig, SessionConfig, Transport
from protocol.connection import decode_event
from protocol.errors import ErrorCode, ProtocolError
from protocol.events import (
    Alignment,
    Audio,
    ContextUpdated,
    ErrorEvent,
    Event,
    Pong,
    SessionCreated,
    SessionUpdated,
    TurnDone,
    TurnStarted,
    WarningEvent,
)

SUBPROTOCOL: Final = "live.v1"
MAX_UNREAD_BYTES: Final = 128 * 2**20  # the longest turn, ten minutes, as 48 kHz float samples
CLOSE_TIMEOUT_S: Final = 2.0

_AnswerEvent = TypeVar("_AnswerEvent", SessionUpdated, ContextUpdated, Pong)


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    config: SessionUpdate | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    open_timeout_s: float = 10.0,
    unread_bytes: int = MAX_UNREAD_BYTES,
) -> AsyncIterator[Client]:
    """A session at `url` (ws:// or wss://), configured, until the block ends; turns that still speak are then cut off.

    on_event gets, in the task that reads, every event that concerns neither a turn nor a call. Raises Refused, ServerError, ConnectionLost.
    """
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    try:
        socket = await websocket_connect(
            url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=headers,
            compression=None,
            open_timeout=open_timeout_s,
            close_timeout=CLOSE_TIMEOUT_S,
        )
    except InvalidStatus as error:
        detail = error.response.body.decode("utf-8", "replace").strip() if error.response.body else "no reason given"
        raise Refused(error.response.status_code, detail) from error
    except (OSError, InvalidHandshake) as error:  # TimeoutError is an OSError
        raise Refused(None, f"{url}: {str(error) or 'timed out'}") from error
    try:
        async with anyio.create_task_group() as group:
            client = Client(socket, group, on_event, unread_bytes)
            try:
                group.start_soon(client._read)
                await client._wait_for_session(open_timeout_s)
                if config is not None:
                    await client.update(config)
                yield client
            finally:
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await socket.close()
    except BaseExceptionGroup as errors:
        # The group wraps what the caller's block raised; our own tasks raise nothing.
        if len(errors.exceptions) == 1:
            raise errors.exceptions[0] from errors.exceptions[0].__cause__
        raise


class Client:
    """One session. Calls may come from several tasks of one event loop; after the connection is lost each of them raises why."""

    session: SessionCreated  # as the server opened it
    config: SessionConfig  # in effect from the next turn on

    def __init__(
        self, socket: ClientConnection, group: TaskGroup, on_event: Callable[[Event], None], unread_bytes: int
    ) -> None:
        """`connect` makes it."""
        self._socket = socket
        self._link = Link(socket, group, unread_bytes, self._lost)
        self._on_event = on_event
        self._ids = count(1)
        self._answers: dict[str, _Answer] = {}  # by event_id
        self._turns: dict[str, Turn] = {}  # by id, in the order of speaking, until their turn.done
        self._spoken: WeakValueDictionary[str, Turn] = WeakValueDictionary()  # by id, after it
        self._numbers: dict[int, Turn] = {}  # by n, from turn.started to turn.done
        self._created = anyio.Event()
        self._ended = anyio.Event()

    def speak(
        self,
        deltas: Deltas | None = None,
        *,
        voice: str | None = None,
        sampling: SamplingConfig | None = None,
        after: After = After.QUEUE,
    ) -> Turn:
        """Open a turn and return at once. `deltas` is sent as it comes, and the turn ended after it; None: call append and end yourself.

        A plain iterable is consumed in the event loop: one that blocks belongs in a thread. What it raises, the turn raises.
        """
        name = f"t{next(self._ids)}"
        options = {"voice": voice, "sampling": sampling}
        given = {key: value for key, value in options.items() if value is not None}
        turn = Turn(
            self._link, TurnStart.model_validate({"turn": name, "after": after, "event_id": f"{name}:start"} | given)
        )
        self._turns[name] = turn
        if self._link.failure is not None:
            turn._fail(self._link.failure)
        else:
            self._link.spawn(partial(turn._run, deltas))
        return turn

    async def cancel(self, played_ms: int | None = None, reason: str = "user") -> None:
        """Stop every turn that is not over; each ends with its TurnDone. played_ms counts in the first of them, the one that speaks."""
        turns = list(self._turns.values())
        for turn in turns:
            turn._hush()
            await turn._open()
        if turns:
            await self._link.send(TurnCancel(turn=turns[0].id, scope=Scope.ALL, played_ms=played_ms, reason=reason))

    async def update(self, update: SessionUpdate) -> SessionUpdated:
        """Change settings from the next turn on. Raises ServerError where it is refused, ValueError for audio without labels."""
        if "audio" in update.model_fields_set and update.audio.transport is Transport.RAW:
            raise ValueError("audio.transport raw does not say which turn a packet belongs to; use binary or json")
        return await self._call(update, SessionUpdated)

    async def clear_context(self, keep_voice: bool = True) -> ContextUpdated:
        """Let the server forget the conversation."""
        return await self._call(ContextClear(keep_voice=keep_voice), ContextUpdated)

    async def ping(self) -> Pong:
        """Ask for a sign of life."""
        return await self._call(Ping(), Pong)

    async def close(self, drain: bool = True) -> None:
        """Let the server close: after what was asked for was spoken, or now. Returns when it has; read the turns meanwhile."""
        await self._link.send(SessionClose(drain=drain))
        await self._ended.wait()

    async def _wait_for_session(self, timeout_s: float) -> None:
        with anyio.move_on_after(timeout_s):
            await self._created.wait()
        self._link.raise_failure()
        if not self._created.is_set():
            raise Refused(None, f"no session.created within {timeout_s:g} s")

    async def _call(self, command: SessionUpdate | ContextClear | Ping, expected: type[_AnswerEvent]) -> _AnswerEvent:
        event_id = f"c{next(self._ids)}"
        answer = self._answers[event_id] = _Answer()
        try:
            await self._link.send(command.model_copy(update={"event_id": event_id}))
            await answer.come.wait()
        finally:
            del self._answers[event_id]
        if isinstance(answer.event, ErrorEvent):
            raise ServerError(answer.event)
        if isinstance(answer.event, expected):
            return answer.event
        # No event: the connection was lost, and the reason is there already.
        raise self._link.lose(ConnectionLost(None, f"{command.type} was answered by {type(answer.event).__name__}"))

    async def _read(self) -> None:
        """The one task that reads. Awaits nothing but the socket."""
        try:
            while True:
                message = await self._socket.recv()
                if isinstance(message, bytes):
                    self._take_binary(message)
                elif (event := decode_event(message)) is not None:
                    self._take(event)
        except ConnectionClosed as error:
            self._link.lose(closed(error))
        except (ProtocolError, binascii.Error) as error:
            self._link.lose(ConnectionLost(None, f"the server sent what is no message of the protocol: {error}"))

    def _take_binary(self, message: bytes) -> None:
        try:
            frame = unpack(message)
        except ProtocolError as error:
            if error.code is ErrorCode.UNSUPPORTED:  # a kind of a later version
                return
            raise
        turn = self._numbers.get(frame.n)
        if turn is not None and frame.kind is Kind.SPEECH:
            turn._hear(AudioChunk(turn.id, frame.n, frame.position, frame.payload, frame.flags))

    def _take(self, event: Event) -> None:
        if isinstance(event, SessionCreated):
            self.session, self.config, self._link.limits = event, event.config, event.limits
            self._created.set()
        elif isinstance(event, Audio):
            if (turn := self._turns.get(event.turn)) is not None:
                payload = base64.b64decode(event.data, validate=True)
                turn._hear(AudioChunk(event.turn, event.n, event.position, payload, Flag(event.flags)))
        elif isinstance(event, ErrorEvent):
            self._take_error(event)
        elif isinstance(event, TurnStarted | Alignment | WarningEvent | TurnDone) and event.turn in self._turns:
            self._take_turn_event(self._turns[event.turn], event)
        else:
            if isinstance(event, SessionUpdated):
                self.config = event.config
            elif isinstance(event, ContextUpdated) and (turn := self._spoken.get(event.turn or "")) is not None:
                turn.heard = event.heard or turn.heard
            self._answer(event)

    def _take_turn_event(self, turn: Turn, event: TurnStarted | Alignment | WarningEvent | TurnDone) -> None:
        if isinstance(event, TurnStarted):
            self._numbers[event.n] = turn
        elif isinstance(event, TurnDone):
            del self._turns[turn.id]
            self._numbers.pop(event.n, None)
            self._spoken[turn.id] = turn
        turn._learn(event)

    def _take_error(self, event: ErrorEvent) -> None:
        of_turn = event.turn or (event.event_id or "").partition(":")[0]
        if event.fatal:
            self._link.lose(ServerError(event))
        elif event.event_id in self._answers:
            self._answer(event)
        elif of_turn in self._turns:
            self._turns[of_turn]._refuse(event)
            if event.event_id == f"{of_turn}:start":
                del self._turns[of_turn]  # it never was one
        else:
            self._on_event(event)

    def _answer(self, event: Event) -> None:
        answer = self._answers.get(getattr(event, "event_id", None) or "")
        if answer is None:
            self._on_event(event)
        else:
            answer.event = event
            answer.come.set()

    def _lost(self, failure: ClientError) -> None:
        """Everybody who waits learns why the connection ended."""
        for turn in self._turns.values():
            turn._fail(failure)
        for answer in self._answers.values():
            answer.come.set()
        self._created.set()
        self._ended.set()


class _Answer:
    """What a call waits for."""

    def __init__(self) -> None:
        self.come = anyio.Event()
        self.event: Event | None = None  # None once `come` is set: the connection ended first
