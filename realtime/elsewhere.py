"""Requests whose address says that their session lives in another process of the server are answered by that process.

Knows addresses, and how a refusal is delivered to whom. Does not know how a request gets there (`realtime.siblings`). A session that is
named in a message, or in a body, is the dialect's to find (`realtime.dialects.twilio`, `realtime.dialects.request`).
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from protocol.errors import ProtocolError
from realtime.dialects.entering import SESSION_NAME, refused, response
from realtime.dialects.mount import shape_of
from realtime.entrance import Wish
from realtime.http import LIVE_PATH, refusal_response
from realtime.live import refuse_handshake
from realtime.service import Service
from realtime.siblings import of_room, of_token, relay_handshake, relay_http

_ROOMS = "/s/"


class Elsewhere:
    """ASGI middleware. What is this process's passes; with one process, everything does."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        index = self._place(scope) if kind in ("http", "websocket") else None
        if index is None:
            await self._app(scope, receive, send)
            return
        try:
            if kind == "websocket":
                await relay_handshake(self._service, scope, index)
            else:
                await relay_http(self._service, scope, receive, send, index)
        except ProtocolError as error:
            await _refuse(error, scope, receive, send)

    def _place(self, scope: Scope) -> int | None:
        """Whose it is. None: this process's, or nobody's."""
        path: str = scope["path"]
        if path.startswith(_ROOMS):
            name, inside, _ = path.removeprefix(_ROOMS).partition("/")
            return of_room(self._service, scope, name) if inside and SESSION_NAME.fullmatch(name) else None
        if path == LIVE_PATH and scope["type"] == "websocket":
            try:
                wish = Wish.parse(scope["query_string"].decode())
            except (ProtocolError, UnicodeDecodeError):
                return None  # and is told why
            return of_token(self._service, scope, wish.resume) if wish.resume is not None else None
        return None


async def _refuse(error: ProtocolError, scope: Scope, receive: Receive, send: Send) -> None:
    """As the endpoint would have."""
    shape = shape_of(scope["path"])
    if shape is not None:
        await response(refused(error), shape)(scope, receive, send)
    elif scope["path"] == LIVE_PATH:
        await refuse_handshake(WebSocket(scope, receive, send), error)
    else:
        await refusal_response(error)(scope, receive, send)
