"""`/twilio`: a phone call, which Twilio connects as a WebSocket, becomes a leg of a session.

Knows the handshake and its signature, which session is meant, and the socket. Does not know Twilio's messages (`protocol.dialects.twilio`),
what a leg does in a session (`realtime.legs`), nor how one becomes the other (`realtime.dialects.twilio_line`).

Who may call: Twilio shows no key. Where the operator has given the account's auth token, a call must be signed with it, and a call that is
signed counts as one that showed the server's first key. Otherwise the TwiML shows a key in the
parameter `token`, or better a client secret, which is good for one call.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, cast

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect

from protocol.commands import Command, TextAppend, TurnEnd, TurnStart
from protocol.config import MAX_ID_CHARS
from protocol.dialects.interface import CloseSocket, Refused
from protocol.dialects.twilio import MediaStream, Started
from protocol.dialects.twilio_call import Wishes
from protocol.dialects.twilio_signature import HEADER, is_signed
from protocol.errors import CloseCode, ProtocolError
from protocol.events import DetachReason, Event
from realtime.dialects.entering import checked_name, opening, owner, refused, response, unauthorized
from realtime.dialects.room import Room, Rooms
from realtime.dialects.twilio_line import Line
from realtime.legs import Call, OnDigit
from realtime.live_session import LiveSession
from realtime.service import Service
from realtime.siblings import keep, keep_no_more, of_room, relay_accepted
from realtime.transport import EXTENSION, LiveSocket

log = logging.getLogger("parley.dialects")

PATH: Final = "/twilio"
KIND: Final = "twilio"
MESSAGE_BYTES: Final = 64 * 1024  # Twilio's have 300
POLICY: Final = 1008  # close code of RFC 6455


def errors(error: Refused) -> tuple[str, str]:
    """Twilio's debugger shows the status alone; this is for whoever tries by hand."""
    return "text/plain; charset=utf-8", error.message + "\n"


async def call(ws: WebSocket) -> None:
    """The endpoint."""
    service: Service = ws.app.state.service
    try:
        came = opening(ws)
        shown = _shown(service, ws)
        refusal = service.refusal() or (service.refusal_of_strangers() if shown is None else None)
        if refusal is not None:
            raise refused(refusal)
    except Refused as error:
        await ws.send_denial_response(response(error, errors))
        return
    cast(LiveSocket, ws.scope["extensions"][EXTENSION]).take_messages_of(MESSAGE_BYTES)
    keep(service, ws.scope)
    await ws.accept()
    try:
        stream = MediaStream()
        started = await _start(ws, service, stream)
        if started is None:
            return
        wishes = Wishes.read(started.parameters)
        index = of_room(service, ws.scope, wishes.session) if wishes.session is not None else None
        if index is not None:
            await _relayed(service, ws, index)
            return
        keep_no_more(ws.scope)
        line = await _connected(service, ws.app.state.rooms, shown, came.session, wishes)
        on_digit = OnDigit.CANCEL if wishes.digits_cancel else OnDigit.TELL
        visit = _Visit(ws, service, stream, wishes, *line)
        await visit.run(Call(KIND, started.call[:MAX_ID_CHARS], wishes.sound, on_digit))
    except Refused as error:
        log.warning("a call is refused: %s", error.message)
        await _close(ws, POLICY, error.code)
    except WebSocketDisconnect:
        return
    except Exception:  # supervisor: a bug ends this call alone
        log.exception("call failed")
        await _close(ws, CloseCode.INTERNAL, "internal")


def _shown(service: Service, ws: WebSocket) -> str | None:
    """Whose call it is, as far as the handshake shows; None: it shows nothing. Raises Refused."""
    secret = service.settings.twilio_auth_token
    if secret is not None and not is_signed(
        secret.get_secret_value(), _address(service, ws), ws.headers.get(HEADER, "")
    ):
        raise Refused(403, "the request is not signed with the auth token of the account", "forbidden")
    shown = owner(service, dict(ws.headers), later=True)
    return service.gate.first_owner if shown is None and secret is not None else shown


def _address(service: Service, ws: WebSocket) -> str:
    """As Twilio called it: it speaks TLS alone, which may have ended before us."""
    base = service.settings.public_url or f"https://{ws.headers.get('host', '')}"
    path: bytes = ws.scope.get("raw_path") or ws.scope["path"].encode()
    return base.replace("http", "ws", 1) + path.decode("ascii", "replace")


async def _start(ws: WebSocket, service: Service, stream: MediaStream) -> Started | None:
    """The beginning of the call; None: it has ended before. Raises Refused, WebSocketDisconnect."""
    with service.stranger(), anyio.move_on_after(service.settings.limits.unauthenticated_s):
        while True:
            message = await ws.receive_text()
            for done in stream.received(message, service.clock()):
                if isinstance(done, Started):
                    return done
                if isinstance(done, CloseSocket):
                    await _close(ws, done.code, done.reason)
                    return None
    raise Refused(408, "no start came", "timeout")


async def _relayed(service: Service, ws: WebSocket, index: int) -> None:
    """The call is another process's, which judges it as if it had come there. Raises Refused."""
    try:
        await relay_accepted(service, ws.scope, index)
    except ProtocolError as error:
        raise refused(error) from error


async def _connected(
    service: Service, rooms: Rooms, shown: str | None, path: str | None, wishes: Wishes
) -> tuple[LiveSession, Room | None]:
    """The session that is meant. Raises Refused."""
    if wishes.token is not None:
        shown = service.gate.owner(wishes.token)
        if shown is None and (grant := service.client_secrets.redeem(wishes.token, service.clock())) is not None:
            shown = grant.owner
    if shown is None:
        raise unauthorized()
    name = checked_name(path or wishes.session)
    if path is not None and wishes.session not in (None, path):
        raise Refused(400, "the address and the parameter name two sessions", param="session")
    session = next((session for session in service.sessions if session.id == name and not session.over), None)
    if session is not None:
        if session.owner != shown:
            raise Refused(403, "the session was made with another key", "forbidden")
        return session, None
    try:
        room = await rooms.enter(shown, name)
    except ProtocolError as error:
        raise refused(error) from error
    return room.session, room


async def _close(ws: WebSocket, code: int, reason: str) -> None:
    try:
        await ws.close(code, reason)
    except (WebSocketDisconnect, RuntimeError):
        return


class _Visit:
    """One call, from when its session is known to its end. See `room.Guest`: a call says its greeting as one."""

    def __init__(
        self,
        ws: WebSocket,
        service: Service,
        stream: MediaStream,
        wishes: Wishes,
        session: LiveSession,
        room: Room | None,
    ) -> None:
        """room: that the session belongs to; None: it is a native client's."""
        self.prefix = ws.app.state.rooms.next_prefix()
        self._ws = ws
        self._socket = cast(LiveSocket, ws.scope["extensions"][EXTENSION])
        self._service = service
        self._wishes = wishes
        self._session = session
        self._room = room
        self._to_write = asyncio.Event()
        self._line = Line(stream, session.on_leg, self._to_write.set)

    async def run(self, call: Call) -> None:
        """Until one side hangs up."""
        self._service.sockets += 1
        if self._room is not None:
            self._room.enter(self)
        try:
            if not self._line.attach(call):
                await _close(self._ws, CloseCode.GOING_AWAY, "the session is over")
                return
            self._greet()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, tasks.cancel_scope)
                await self._read()
                tasks.cancel_scope.cancel()
        finally:
            self._line.detach()
            if self._room is not None:
                self._room.exit(self)
            self._service.sockets -= 1

    @property
    def pong_at(self) -> float:
        """See `room.Guest`."""
        return self._socket.pong_at

    async def ready(self) -> None:
        """See `room.Guest`. What a call is to hear waits elsewhere: nothing here waits for it."""

    def event(self, event: Event) -> None:
        """See `room.Guest`. The line is told by the session."""

    def audio(self, turn: str, payload: bytes) -> None:
        """See `room.Guest`. Likewise."""

    def evict(self, code: int, reason: str) -> None:
        """See `room.Guest`. Likewise."""

    def _greet(self) -> None:
        """Say what the TwiML wants said."""
        if self._wishes.text is None:
            return
        turn = f"{self.prefix}greeting"
        voice = self._service.voices.meant(self._wishes.voice, self._service.settings.voice_aliases)
        commands: tuple[Command, ...] = (
            TurnStart(turn=turn, voice=voice),
            TextAppend(turn=turn, text=self._wishes.text),
            TurnEnd(turn=turn),
        )
        for command in commands:
            if self._room is not None:
                self._room.do(self, command)
            else:
                self._session.handle(command)

    async def _read(self) -> None:
        """Never waits for speech, nor for Twilio to read."""
        try:
            while True:
                message = await self._ws.receive()
                if message["type"] == "websocket.disconnect":
                    if self._socket.farewell:
                        self._line.ended = DetachReason.HANGUP
                    return
                text = message.get("text")
                if text is not None:
                    self._line.received(text, self._service.clock())
        except WebSocketDisconnect:
            return

    async def _write(self, scope: anyio.CancelScope) -> None:
        """The only writer. Ends the call when the session does, or when Twilio takes nothing."""
        try:
            while True:
                self._to_write.clear()
                for message in self._line.take(self._service.clock(), self._session.written):
                    if not await self._send(message):
                        scope.cancel()
                        return
                with anyio.CancelScope(deadline=self._line.deadline):
                    await self._to_write.wait()
        except (WebSocketDisconnect, RuntimeError):
            return  # the reader is told as well

    async def _send(self, message: str | CloseSocket) -> bool:
        """False: it was the last."""
        with anyio.move_on_after(self._service.settings.limits.drain_s):
            if isinstance(message, CloseSocket):
                await self._ws.close(message.code, message.reason)
                return False
            await self._ws.send_text(message)
            return True
        log.warning("slow consumer dropped", extra={"session": self._session.id})
        self._socket.abort()
        return False
