"""A dialect over one HTTP request: the body is read, then the answer is written as speech comes, chunk by chunk.

Knows ASGI's HTTP messages. Does not know any protocol. A client that hangs up is noticed at once.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from typing import Final

import anyio
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocol.dialects.interface import Opening, Refused, RequestRoute, StartResponse
from protocol.errors import CloseCode, ProtocolError
from realtime.dialects.entering import checked_name, opening, owner, refused, response
from realtime.dialects.host import LocalHost
from realtime.dialects.room import Rooms
from realtime.dialects.visit import Visit
from realtime.service import Service
from realtime.siblings import of_room, relay_http

log = logging.getLogger("parley.dialects")

REQUEST_ID: Final = "x-request-id"  # clients quote it when they report an error


class RequestEndpoint:
    """The ASGI application of one route."""

    def __init__(self, route: RequestRoute) -> None:
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        send = numbered(send)
        service: Service = request.app.state.service
        rooms: Rooms = request.app.state.rooms
        try:
            shown = owner(service, dict(request.headers))
            assert shown is not None, "a key never comes later"
            if (refusal := service.refusal()) is not None:
                raise refused(refusal)
            came = opening(request, await read_body(request, self._route.max_bytes))
            if came.session is None and self._route.session is not None:
                came = replace(came, session=checked_name(self._route.session(came)))
                if await _relayed(service, scope, came, receive, send):
                    return
            prefix = rooms.next_prefix()
            dialect = self._route.open(LocalHost(service, prefix, came.session is not None), came)
            try:
                room = await rooms.enter(shown, came.session)
            except ProtocolError as error:
                raise refused(error) from error
        except ClientDisconnect:
            return
        except Refused as error:
            await response(error, self._route.errors)(scope, receive, send)
            return
        visit = Visit(service, room, prefix, dialect, _ResponseSink(send))
        try:
            await _serve(visit, receive)
        finally:
            visit.left()


def numbered(send: Send) -> Send:
    """Give the answer an id of its own."""

    async def send_numbered(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).setdefault(REQUEST_ID, f"req_{secrets.token_hex(12)}")
        await send(message)

    return send_numbered


class Numbered:
    """ASGI middleware: every answer of a page has an id, too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it answer."""
        await self._app(scope, receive, numbered(send))


async def read_body(request: Request, most: int) -> bytes:
    """Raises Refused where it is too large, ClientDisconnect."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Refused(413, f"the request has more than {most} bytes", "request_too_large")
    return bytes(body)


async def _relayed(service: Service, scope: Scope, came: Opening, receive: Receive, send: Send) -> bool:
    """Whether another process has the session that the body names: then it has answered. Raises Refused."""
    index = of_room(service, scope, came.session) if came.session is not None else None
    if index is None:
        return False
    unread: list[Message] = [{"type": "http.request", "body": came.body, "more_body": False}]

    async def receive_again() -> Message:
        return unread.pop() if unread else await receive()

    try:
        await relay_http(service, scope, receive_again, send, index)
    except ProtocolError as error:
        raise refused(error) from error
    return True


async def _serve(visit: Visit, receive: Receive) -> None:
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            visit.left()
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        tasks.start_soon(_begin, visit)
        await visit.write()
        tasks.cancel_scope.cancel()


async def _begin(visit: Visit) -> None:
    try:
        await visit.open()
    except Exception:  # supervisor: a bug ends this request alone
        log.exception("dialect failed")
        visit.evict(CloseCode.INTERNAL, "internal")


class _ResponseSink:
    """See `visit.Sink`."""

    pong_at = 0.0

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False

    async def write(self, message: str | bytes | StartResponse) -> None:
        if isinstance(message, StartResponse):
            headers = {"content-type": message.media_type, **{k.lower(): v for k, v in message.headers.items()}}
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
            await self._send({"type": "http.response.start", "status": message.status, "headers": raw})
            self._started = True
            return
        assert self._started, "a StartResponse comes first"
        body = message.encode() if isinstance(message, str) else message
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def close(self, code: int, reason: str) -> None:
        if not self._started:
            status = 500 if code == CloseCode.INTERNAL else 503
            await self.write(StartResponse(status, "text/plain; charset=utf-8"))
            await self.write(f"no speech could be made: {reason}\n")
        elif code != CloseCode.NORMAL:
            log.warning("an answer ends early: %s", reason)
            return  # without an end of the body: the client must not take half of an answer for all of it
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self) -> None:
        """The task ends without an end of the body: the server drops the connection."""
