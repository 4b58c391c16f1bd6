"""`WS /v1/live`: a socket, its session, and the few tasks between them.

Knows who is let in and how a refusal is delivered; when to wait and what for. Does not know what a command means: every task waits for one
thing (a message, a stream's event, a deadline, room in the socket) and then calls one method of the session, which never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from typing import Final, cast

import anyio
import anyio.abc
from anyio.lowlevel import checkpoint
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from engine.api import EngineDied, EngineError
from protocol.commands import Command, SessionUpdate, TurnStart
from protocol.connection import Connection, encode_event
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.events import ErrorEvent
from realtime.auth import Credential
from realtime.outbox import Close, Outbox
from realtime.service import Service
from realtime.session import Session
from realtime.speech import Speech
from realtime.transport import EXTENSION, LiveSocket
from realtime.turn import Turn
from realtime.voices import VoiceNotFound, VoiceUnusable

log = logging.getLogger("parley.live")

SUBPROTOCOL: Final = "live.v1"
BREATH: Final = 8  # messages written before other tasks get their turn: with PCM some 0.2 ms


async def live(ws: WebSocket) -> None:
    """The endpoint. Needs uvicorn with `realtime.transport.LiveWebSocket`."""
    service: Service = ws.app.state.service
    refusal = _refusal(service, ws)
    if refusal is not None:
        await _refuse_handshake(ws, refusal)
        return
    shown = service.gate.credential(ws.headers.get("authorization"))
    await ws.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in ws.scope["subprotocols"] else None)
    connection = Connection(service.settings.limits, authenticated=shown is Credential.RIGHT)
    first: Command | None = None
    try:
        if not connection.authenticated:
            first = await _first_message(ws, connection, service)
            if first is None:
                return
            refusal = service.refusal()
            if refusal is not None:  # somebody else took the last place meanwhile, or the server began to end
                await _say_and_close(ws, refusal)
                return
        await LiveSession(ws, connection, service).run(first)
    except WebSocketDisconnect:
        return
    except Exception:  # supervisor: a bug ends this connection, says so, and touches no other
        log.exception("session failed")
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            error = ProtocolError.fatal_error(ErrorCode.INTERNAL, "the server made a mistake")
            await _say_and_close(ws, error)


def _refusal(service: Service, ws: WebSocket) -> ProtocolError | None:
    """Why this request is not let in, or None."""
    if not service.gate.trusts(ws.headers.get("origin"), ws.headers.get("host")):
        return ProtocolError.fatal_error(
            ErrorCode.FORBIDDEN, "this origin may not connect; the operator can allow it with allowed_origins"
        )
    if service.gate.credential(ws.headers.get("authorization")) is Credential.WRONG:
        return ProtocolError.fatal_error(ErrorCode.UNAUTHORIZED, "wrong key")
    return service.refusal()


async def _refuse_handshake(ws: WebSocket, error: ProtocolError) -> None:
    """A browser cannot read the status of a handshake: it gets an error event and a close code."""
    if ws.headers.get("origin") is not None:
        await ws.accept()
        with contextlib.suppress(WebSocketDisconnect):
            await _say_and_close(ws, error)
        return
    assert error.close_code is not None, "a refusal is fatal"
    headers = {"WWW-Authenticate": "Bearer"} if error.code is ErrorCode.UNAUTHORIZED else {}
    if error.retry_after_ms is not None:
        headers["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    body = {"error": {"message": error.message, "type": "refused", "code": error.code.value}}
    await ws.send_denial_response(JSONResponse(body, status_code=error.close_code - 4000, headers=headers))


async def _say_and_close(ws: WebSocket, error: ProtocolError) -> None:
    await ws.send_text(encode_event(ErrorEvent.of(error)))
    await ws.close(error.close_code or CloseCode.INTERNAL, error.code.value)


async def _first_message(ws: WebSocket, connection: Connection, service: Service) -> Command | None:
    """What a socket without a key may send: one session.update with a token, soon. None: it was refused, or it left."""
    limits = service.settings.limits
    error = ProtocolError.fatal_error(
        ErrorCode.UNAUTHORIZED, f"no token within unauthenticated_s={limits.unauthenticated_s}"
    )
    service.unauthenticated += 1
    try:
        with anyio.move_on_after(limits.unauthenticated_s):
            message = await ws.receive()
            if message["type"] == "websocket.disconnect":
                return None
            command = _read(connection, message.get("text"), message.get("bytes"), service.clock())
            if isinstance(command, SessionUpdate) and command.token is not None and service.gate.knows(command.token):
                connection.authenticated = True
                return command
            error = ProtocolError.fatal_error(ErrorCode.UNAUTHORIZED, "wrong key")
    except ProtocolError as refused:
        error = refused
    finally:
        service.unauthenticated -= 1
    await _say_and_close(ws, error)
    return None


def _read(connection: Connection, text: str | None, data: bytes | None, now: float) -> Command:
    if text is not None:
        return connection.receive_text(text, now)
    connection.receive_bytes(data or b"", now)


class LiveSession:
    """One authenticated socket with its session."""

    def __init__(self, ws: WebSocket, connection: Connection, service: Service) -> None:
        self._ws = ws
        self._connection = connection
        self._service = service
        self._clock = service.clock
        self._socket = cast(LiveSocket, ws.scope["extensions"][EXTENSION])
        self._written = asyncio.Event()  # there is something to write
        self._outbox = Outbox(self._on_put)
        self._sooner = asyncio.Event()  # the deadline that is waited for came nearer
        self._deadline = 0.0
        self._tasks = anyio.create_task_group()
        self._session = Session(
            session_id=f"s-{secrets.token_urlsafe(12)}",
            engine=service.engine,
            voices=service.voices,
            limits=service.settings.limits,
            admission_timeout_s=service.settings.admission_timeout_s,
            outbox=self._outbox,
            spawn=self._spawn,
            now=self._clock(),
        )

    async def run(self, first: Command | None) -> None:
        """Serve the socket until it closes. `first`: the command that showed the key."""
        session = self._session
        self._service.sessions.add(self)
        log.info("session opened", extra={"session": session.id})
        try:
            async with self._tasks:
                self._outbox.event(encode_event(session.created(round(time.time() * 1000), self._clock())))
                if first is not None:
                    await self._voice_encoded(first)
                    session.handle(first, self._clock())
                self._tasks.start_soon(self._write)
                self._tasks.start_soon(self._keep_time)
                await self._receive()
                self._tasks.cancel_scope.cancel()
        finally:
            self._service.sessions.discard(self)
            session.disconnect(self._clock())
            log.info("session closed", extra={"session": session.id})

    def drain(self, grace_s: float) -> None:
        """See `service.Drainable`."""
        self._session.drain(grace_s, self._clock())
        self._changed()

    async def _receive(self) -> None:
        while True:
            message = await self._ws.receive()
            if message["type"] == "websocket.disconnect":
                return
            now = self._clock()
            try:
                command = _read(self._connection, message.get("text"), message.get("bytes"), now)
                self._check_token(command)
            except ProtocolError as error:
                self._session.refuse(error, now)
            else:
                await self._voice_encoded(command)
                self._session.handle(command, self._clock())
            self._changed()
            await checkpoint()  # a flood of small messages arrives in one piece and is handed out without a pause

    async def _voice_encoded(self, command: Command) -> None:
        """Whoever asks for a voice right after it was added waits for its codes, and so does what the same client sends next."""
        if not isinstance(command, SessionUpdate | TurnStart) or not isinstance(command.voice, str):
            return
        try:
            await self._service.encoder.ready(command.voice)
        except (VoiceNotFound, VoiceUnusable):
            return  # the session looks for itself and tells the client
        except EngineError as error:
            log.warning("voice %r cannot be encoded: %s", command.voice, error)

    def _check_token(self, command: Command) -> None:
        """A key that comes although it is not needed must be right all the same: a client that sent it relies on it."""
        if (
            isinstance(command, SessionUpdate)
            and command.token is not None
            and not self._service.gate.knows(command.token)
        ):
            raise ProtocolError.fatal_error(ErrorCode.UNAUTHORIZED, "wrong key")

    async def _write(self) -> None:
        """The only writer of the socket. What it takes from the outbox is written at once: nothing can overtake it, or come too late."""
        taken = 0
        while True:
            self._written.clear()
            if not self._socket.writable.is_set() and not await self._drains():
                return
            item = self._outbox.take(self._clock())
            if item is None:
                await self._written.wait()
                continue
            try:
                if isinstance(item, Close):
                    await self._ws.close(item.code, item.reason)
                    return
                await (self._ws.send_text(item) if isinstance(item, str) else self._ws.send_bytes(item))
            except WebSocketDisconnect:
                return  # the reader is told as well, and ends the session
            self._session.on_written(self._clock())
            self._changed()
            taken += 1
            if taken % BREATH == 0:
                await checkpoint()

    async def _drains(self) -> bool:
        """Wait until the socket takes data again; drop a peer that has not taken any for too long."""
        with anyio.move_on_after(self._service.settings.limits.drain_s):
            await self._socket.writable.wait()
            return True
        log.warning("slow consumer dropped", extra={"session": self._session.id})
        self._socket.abort()
        return False

    def _on_put(self) -> None:
        self._written.set()
        if self._outbox.overflowed:
            log.warning("session dropped: it does not read its answers", extra={"session": self._session.id})
            self._socket.abort()

    async def _keep_time(self) -> None:
        while not self._session.closed:
            self._sooner.clear()
            now = self._clock()
            self._deadline = self._session.deadline(now)
            with anyio.move_on_after(max(0.0, self._deadline - now)):
                await self._sooner.wait()
                continue
            self._session.alive(self._socket.pong_at)
            self._session.tick(self._clock())

    def _changed(self) -> None:
        """Something happened to the session: its deadline may have come nearer. One that moved away is noticed when it comes."""
        if not self._session.closed and self._session.deadline(self._clock()) < self._deadline:
            self._sooner.set()

    def _spawn(self, turn: Turn, speech: Speech) -> None:
        self._tasks.start_soon(self._pump, turn, speech)

    async def _pump(self, turn: Turn, speech: Speech) -> None:
        """Hand a stream's events to the session; ends by itself after a cancel."""
        session = self._session
        try:
            async for event in speech.stream:
                session.on_event(turn, speech, event, self._clock())
                self._changed()
                await checkpoint()  # frames that waited together are encoded one by one, between a client's commands
        except EngineError as error:
            if isinstance(error, EngineDied):
                self._service.engine_died()
            session.on_error(turn, speech, error, self._clock())
        else:
            session.on_end(turn, speech, self._clock())
        self._changed()
