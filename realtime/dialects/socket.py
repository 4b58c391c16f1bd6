"""A dialect over a WebSocket: the handshake, the loop that reads, and what becomes of it when the client is gone.

Knows WebSockets. Does not know any protocol. The loop that reads never waits for speech, nor for a voice to be made: a client that closes
is noticed at once, and pings are answered by the layer below.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Final, cast

import anyio
import anyio.abc
from anyio.streams.memory import MemoryObjectReceiveStream
from starlette.websockets import WebSocket, WebSocketDisconnect

from protocol.dialects.interface import Opening, Refused, SocketRoute, StartResponse
from protocol.errors import CloseCode, ProtocolError
from realtime.dialects.entering import opening, owner, refused, response, unauthorized
from realtime.dialects.host import LocalHost
from realtime.dialects.room import Rooms
from realtime.dialects.visit import Visit
from realtime.service import Service
from realtime.transport import EXTENSION, LiveSocket

log = logging.getLogger("parley.dialects")

WAITING: Final = 256  # messages of a client that came while a voice is made; beyond, it is not read
POLICY: Final = 1008  # close code of RFC 6455


class SocketEndpoint:
    """The ASGI endpoint of one route. Needs uvicorn with `realtime.transport.LiveWebSocket`."""

    def __init__(self, route: SocketRoute) -> None:
        self._route = route

    async def serve(self, ws: WebSocket) -> None:
        """Serve one connection, from handshake to close."""
        service: Service = ws.app.state.service
        route = self._route
        try:
            came = opening(ws)
            shown = owner(service, self._headers(ws, came), later=route.key_in_message is not None)
            refusal = service.refusal() or (service.refusal_of_strangers() if shown is None else None)
            if refusal is not None:
                raise refused(refusal)
            if shown is None:
                await self._stranger(ws, service, came)
                return
            async with _entered(shown, came, route, ws) as visit:
                await self._accept(ws)
                await _serve(ws, visit, None)
        except Refused as error:
            await ws.send_denial_response(response(error, route.errors, route.reason_header))
        except WebSocketDisconnect:
            return

    def _headers(self, ws: WebSocket, came: Opening) -> Mapping[str, str]:
        """With the key as an Authorization, if it is shown beside the names of subprotocols."""
        read = self._route.key_in_subprotocols
        key = read(ws.scope["subprotocols"]) if read is not None else None
        if key is None or "authorization" in came.headers:
            return came.headers
        return {**came.headers, "authorization": f"Bearer {key}"}

    async def _accept(self, ws: WebSocket) -> None:
        cast(LiveSocket, ws.scope["extensions"][EXTENSION]).take_messages_of(self._route.max_bytes)
        agreed = next((name for name in ws.scope["subprotocols"] if name in self._route.subprotocols), None)
        await ws.accept(subprotocol=agreed)

    async def _stranger(self, ws: WebSocket, service: Service, came: Opening) -> None:
        """The key comes in the first message, soon, or the socket is closed."""
        shows = self._route.key_in_message
        assert shows is not None, "the caller has looked"
        await self._accept(ws)
        first: str | bytes | None = None
        shown: str | None = None
        with service.stranger(), anyio.move_on_after(service.settings.limits.unauthenticated_s):
            first = await _receive(ws)
            key = shows.read(first)
            shown = service.gate.owner(key) if key is not None else None
        try:
            if shown is None or first is None:
                raise unauthorized()
            async with _entered(shown, came, self._route, ws) as visit:
                await _serve(ws, visit, first)
        except Refused as error:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await ws.send_text(shows.refused(error))
                await ws.close(POLICY, error.code)


@contextlib.asynccontextmanager
async def _entered(owner: str, came: Opening, route: SocketRoute, ws: WebSocket) -> AsyncIterator[Visit]:
    """A visit to the session that is meant. Raises Refused."""
    service: Service = ws.app.state.service
    rooms: Rooms = ws.app.state.rooms
    prefix = rooms.next_prefix()
    dialect = route.open(LocalHost(service, prefix, came.session is not None), came)
    try:
        room = await rooms.enter(owner, came.session)
    except ProtocolError as error:
        raise refused(error) from error
    visit = Visit(service, room, prefix, dialect, _SocketSink(ws))
    service.sockets += 1
    try:
        yield visit
    finally:
        service.sockets -= 1
        visit.left()


async def _serve(ws: WebSocket, visit: Visit, first: str | bytes | None) -> None:
    """Until one side closes."""
    send, receive = anyio.create_memory_object_stream[str | bytes](WAITING)
    async with send, receive, anyio.create_task_group() as tasks:
        tasks.start_soon(_work, visit, receive)
        tasks.start_soon(_write, visit, tasks.cancel_scope)
        if first is not None:
            send.send_nowait(first)
        try:
            while True:
                await send.send(await _receive(ws))
        except WebSocketDisconnect:
            visit.left()
        tasks.cancel_scope.cancel()


async def _work(visit: Visit, messages: MemoryObjectReceiveStream[str | bytes]) -> None:
    try:
        await visit.open()
        async for message in messages:
            await visit.received(message)
    except Exception:  # supervisor: a bug ends this connection alone
        log.exception("dialect failed")
        visit.evict(CloseCode.INTERNAL, "internal")


async def _write(visit: Visit, scope: anyio.CancelScope) -> None:
    try:
        await visit.write()
    except (WebSocketDisconnect, RuntimeError):
        return  # the reader is told as well
    scope.cancel()


async def _receive(ws: WebSocket) -> str | bytes:
    """Raises WebSocketDisconnect."""
    message = await ws.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", CloseCode.GOING_AWAY))
    text = message.get("text")
    return text if text is not None else cast(bytes, message.get("bytes") or b"")


class _SocketSink:
    """See `visit.Sink`."""

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        self._socket = cast(LiveSocket, ws.scope["extensions"][EXTENSION])

    async def write(self, message: str | bytes | StartResponse) -> None:
        assert not isinstance(message, StartResponse), "a WebSocket has no response"
        await (self._ws.send_text(message) if isinstance(message, str) else self._ws.send_bytes(message))

    async def close(self, code: int, reason: str) -> None:
        await self._ws.close(code, reason)

    def abort(self) -> None:
        self._socket.abort()

    @property
    def pong_at(self) -> float:
        return self._socket.pong_at
