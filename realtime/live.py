"""`WS /v1/live`: a socket, from its handshake to its close: who is let in, and how messages get from it to a session and back.

Knows how a refusal is delivered and when to wait for the socket. Does not know what a command means, or what becomes of the session when
the socket is lost (`realtime.live_session`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Final, cast

import anyio
import anyio.abc
from starlette.websockets import WebSocket, WebSocketDisconnect

from engine.api import EngineError
from protocol.audio_frame import AudioFrame
from protocol.commands import Command, SessionUpdate, TurnStart
from protocol.connection import Connection, encode_event
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.events import ErrorEvent
from realtime.entrance import Shown, Wish, check_owner
from realtime.http import refusal_response
from realtime.live_session import LiveSession
from realtime.outbox import Close
from realtime.service import Service
from realtime.transport import EXTENSION, LiveSocket
from realtime.voices import VoiceNotFound, VoiceUnusable

log = logging.getLogger("parley.live")

SUBPROTOCOL: Final = "live.v1"
BREATH: Final = 8  # messages written before other tasks get their turn: with PCM some 0.2 ms
LAST_WORDS_S: Final = 1.0  # for a socket that must go to be told why; one that takes no data is not waited for


async def live(ws: WebSocket) -> None:
    """The endpoint. Needs uvicorn with `realtime.transport.LiveWebSocket`."""
    service: Service = ws.app.state.service
    try:
        wish = Wish.parse(ws.url.query)
        shown = _let_in(service, ws, wish)
    except ProtocolError as refusal:
        await refuse_handshake(ws, refusal)
        return
    await _accept(ws)
    connection = Connection(service.settings.limits, authenticated=shown is not None)
    first: Command | None = None
    try:
        if shown is None:
            met = await _first_message(ws, connection, service)
            if met is None:
                return
            first, shown = met
        session = await _session(service, wish, shown)
        await Attachment(ws, connection, service, session).run(wish, first)
    except ProtocolError as refusal:
        with contextlib.suppress(WebSocketDisconnect):
            await _say_and_close(ws, refusal)
    except WebSocketDisconnect:
        return
    except Exception:  # supervisor: a bug ends this connection, says so, and touches no other
        log.exception("connection failed")
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            error = ProtocolError.fatal_error(ErrorCode.INTERNAL, "the server made a mistake")
            await _say_and_close(ws, error)


def _let_in(service: Service, ws: WebSocket, wish: Wish) -> Shown | None:
    """What somebody has shown before the handshake; None: nothing yet, and it may be shown in a message. Raises ProtocolError."""
    if not service.gate.trusts(ws.headers.get("origin"), ws.headers.get("host")):
        raise ProtocolError.fatal_error(
            ErrorCode.FORBIDDEN, "this origin may not connect; the operator can allow it with allowed_origins"
        )
    if wish.resume is None and (refusal := service.refusal()) is not None:
        raise refusal
    shown = service.door.in_address(wish, ws.headers.get("authorization"), service.clock())
    if wish.resume is not None:
        session = _resumed(service, wish.resume)
        if shown is None and session.by_secret:
            return Shown(session.owner)  # its client never had a key
        if shown is not None:
            check_owner(session.owner, shown.owner)
    if shown is None and (refusal := service.refusal_of_strangers()) is not None:
        raise refusal
    return shown


async def _session(service: Service, wish: Wish, shown: Shown) -> LiveSession:
    """The session that is asked for, old or new. Raises ProtocolError."""
    if wish.resume is None:
        return await service.open_session(shown)
    session = _resumed(service, wish.resume)
    check_owner(session.owner, shown.owner)
    return session


def _resumed(service: Service, token: str) -> LiveSession:
    """Raises ProtocolError where nothing can be resumed with this."""
    session = service.sessions.find(token)
    if session is None or session.over:
        raise ProtocolError.fatal_error(
            ErrorCode.UNKNOWN_SESSION, "no session can be resumed with this token (any more)"
        )
    return session


async def _accept(ws: WebSocket) -> None:
    """A browser that asked for the subprotocol fails where it is not answered, and never sees what follows."""
    await ws.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in ws.scope["subprotocols"] else None)


async def refuse_handshake(ws: WebSocket, error: ProtocolError) -> None:
    """A browser cannot read the status of a handshake: it gets an error event and a close code."""
    if ws.headers.get("origin") is not None:
        await _accept(ws)
        with contextlib.suppress(WebSocketDisconnect):
            await _say_and_close(ws, error)
        return
    await ws.send_denial_response(refusal_response(error))


async def _say_and_close(ws: WebSocket, error: ProtocolError) -> None:
    await ws.send_text(encode_event(ErrorEvent.of(error)))
    await ws.close(error.close_code or CloseCode.INTERNAL, error.code.value)


async def _first_message(ws: WebSocket, connection: Connection, service: Service) -> tuple[Command, Shown] | None:
    """What a socket without a key may send: one session.update with a token, soon. None: it was refused, or it left."""
    limits = service.settings.limits
    error = ProtocolError.fatal_error(
        ErrorCode.UNAUTHORIZED, f"no token within unauthenticated_s={limits.unauthenticated_s}"
    )
    try:
        with service.stranger(), anyio.move_on_after(limits.unauthenticated_s):
            message = await ws.receive()
            if message["type"] == "websocket.disconnect":
                return None
            command = _read(connection, message.get("text"), message.get("bytes"), service.clock())
            assert isinstance(command, SessionUpdate) and command.token is not None, (
                "the connection lets nothing else pass"
            )
            shown = service.door.in_message(command.token, service.clock())
            connection.authenticated = True
            return command, shown
    except ProtocolError as refused:
        error = refused
    await _say_and_close(ws, error)
    return None


def _read(connection: Connection, text: str | None, data: bytes | None, now: float) -> Command | AudioFrame:
    return connection.receive_text(text, now) if text is not None else connection.receive_audio(data or b"", now)


class Attachment:
    """One socket that speaks for a session, see `live_session.Attached`."""

    def __init__(self, ws: WebSocket, connection: Connection, service: Service, session: LiveSession) -> None:
        self._ws = ws
        self._connection = connection
        self._service = service
        self._session = session
        self._socket = cast(LiveSocket, ws.scope["extensions"][EXTENSION])
        self._to_write = asyncio.Event()  # there is something for the writer
        self._idle = False  # the writer waits for that
        self._acting = False  # the session carries out what the client asked for
        self._woken = False  # meanwhile it has put something
        self._last: Close | None = None  # was taken, and is the writer's to carry out
        self._scope = anyio.CancelScope()  # left when the session is not ours any more
        self._left = False
        self._why_left: ProtocolError | None = None
        self._slow = False  # the peer took no data for too long

    async def run(self, wish: Wish, first: Command | None) -> None:
        """Serve until the socket closes. `first`: the command that showed the key."""
        session = self._session
        self._service.sockets += 1
        greeting = session.attach(self, wish.have, resumed=wish.resume is not None)
        sane = False
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write, greeting)
                    if first is not None:
                        await self._carry_out(first)
                    await self._receive()
                    tasks.cancel_scope.cancel()
            if self._scope.cancelled_caught:
                await self._farewell()
            sane = True
        except anyio.get_cancelled_exc_class():
            sane = True  # the server ends
            raise
        finally:
            session.detach(self, for_good=self._socket.farewell or not sane, slow=self._slow)
            self._service.sockets -= 1

    @property
    def pong_at(self) -> float:
        """See `Attached`."""
        return self._socket.pong_at

    def wake(self) -> None:
        """See `Attached`."""
        self._woken = True
        if not (self._acting and self._idle):
            self._to_write.set()

    def leave(self, error: ProtocolError | None) -> None:
        """See `Attached`."""
        self._left, self._why_left = True, error
        self._scope.cancel()

    async def _farewell(self) -> None:
        """The session is not ours any more: say so, without waiting for a peer that is not there."""
        with contextlib.suppress(WebSocketDisconnect), anyio.move_on_after(LAST_WORDS_S):
            if self._why_left is not None:
                await _say_and_close(self._ws, self._why_left)
                return
        self._socket.abort()

    async def _receive(self) -> None:
        while True:
            message = await self._ws.receive()
            if message["type"] == "websocket.disconnect" or self._left:
                return
            try:
                command = _read(self._connection, message.get("text"), message.get("bytes"), self._service.clock())
                if isinstance(command, SessionUpdate) and command.token is not None:
                    self._service.door.check_again(command.token, self._session.owner)
            except ProtocolError as error:
                self._let(partial(self._session.refuse, error))
            else:
                if isinstance(command, AudioFrame):
                    self._let(partial(self._session.hear, command))
                else:
                    await self._carry_out(command)
            if self._socket.unread:
                # A flood of small messages arrives in one piece and is handed out without a pause.
                await asyncio.sleep(0)

    async def _carry_out(self, command: Command) -> None:
        """Whoever asks for a voice right after it was added waits for its codes, and so does what the same client sends next."""
        for voice in _voices(command):
            try:
                await self._service.encoder.ready(voice)
            except (VoiceNotFound, VoiceUnusable):
                break  # the session looks for itself and tells the client
            except EngineError as error:
                log.warning("voice %r cannot be encoded: %s", voice, error)
        self._let(partial(self._session.handle, command))

    def _let(self, act: Callable[[], None]) -> None:
        """Let the session act, and answer at once where the writer has nothing to do: to wake it takes a turn of the event loop."""
        self._acting, self._woken = True, False
        try:
            act()
        finally:
            self._acting = False
            if self._woken and self._idle:
                self._answer()

    def _answer(self) -> None:
        written = 0
        if self._socket.writable.is_set() and not self._left:
            try:
                written = self._write_some()
            except OSError:
                return  # the reader is told as well
            if written:
                self._session.written()
        if self._last is not None or written in (0, BREATH):
            self._to_write.set()  # more than this is the writer's

    async def _write(self, greeting: list[bytes | str]) -> None:
        """The writer of the socket; `_answer` takes its place while it waits. What is taken from the outbox is written at once: nothing can
        overtake it, or come too late.
        """
        try:
            for message in greeting:
                if not await self._drains():
                    return
                self._socket.put(message)
            while True:
                self._to_write.clear()
                if not await self._drains():
                    return
                if (
                    self._left
                ):  # the scope ends a writer that waits, not one that was just woken: what it took would be lost
                    return
                written = self._write_some()
                if self._last is not None:
                    await self._ws.close(self._last.code, self._last.reason)
                    return
                if written:
                    self._session.written()
                if written == BREATH or self._to_write.is_set():  # else nothing waits
                    await asyncio.sleep(0)
                else:
                    self._idle = True
                    try:
                        await self._to_write.wait()
                    finally:
                        self._idle = False
        except (WebSocketDisconnect, OSError):
            return  # the reader is told as well

    def _write_some(self) -> int:
        """What there is, at most BREATH messages, in one piece: a call into the kernel costs more than making a message does.

        Returns how many messages; the end, if it was met, is kept. Raises OSError where the socket is closed.
        """
        written, outbox = 0, self._session.outbox
        with self._socket.corked():
            while self._last is None and written < BREATH and (item := outbox.take(self._service.clock())) is not None:
                if isinstance(item, Close):
                    self._last = item
                else:
                    self._socket.put(item)
                    written += 1
        return written

    async def _drains(self) -> bool:
        """Wait until the socket takes data; drop a peer that has not taken any for too long."""
        if self._socket.writable.is_set():
            return True
        with anyio.move_on_after(self._service.settings.limits.drain_s):
            await self._socket.writable.wait()
            return True
        log.warning("slow consumer dropped", extra={"session": self._session.id})
        self._slow = True
        self._socket.abort()
        return False


def _voices(command: Command) -> list[str]:
    """The voices that a command asks for."""
    named: list[object] = []
    if isinstance(command, SessionUpdate | TurnStart):
        named.append(command.voice)
    if isinstance(command, SessionUpdate) and isinstance(command.voices, dict):
        named += command.voices.values()
    return [name for name in named if isinstance(name, str)]
