"""Every dialect that this server speaks, at its place and below /s/{session}/.

Knows which there are. Does not know what they do.
"""

from __future__ import annotations

from typing import Final

from starlette.routing import BaseRoute, Route, WebSocketRoute, compile_path

from protocol.dialects import fish_routes
from protocol.dialects.interface import ErrorShape, RequestRoute, SocketRoute
from realtime.dialects.request import RequestEndpoint
from realtime.dialects.socket import SocketEndpoint

SCOPED: Final = "/s/{session}"

# One line a dialect: protocol/dialects/README.md says how to add one.
SOCKETS: Final[tuple[SocketRoute, ...]] = (*fish_routes.SOCKETS,)
REQUESTS: Final[tuple[RequestRoute, ...]] = (*fish_routes.REQUESTS,)

_ALL: Final[tuple[SocketRoute | RequestRoute, ...]] = (*SOCKETS, *REQUESTS)
_SHAPES: Final = [(compile_path(route.path)[0], route.errors) for route in _ALL]


def shape_of(path: str) -> ErrorShape | None:
    """How the clients of a path's vendor read a refusal; None: no dialect has such a path."""
    if path.startswith("/s/"):
        path = "/" + path.removeprefix("/s/").partition("/")[2]
    return next((shape for pattern, shape in _SHAPES if pattern.fullmatch(path)), None)


def routes() -> list[BaseRoute]:
    """Of all dialects."""
    found: list[BaseRoute] = []
    for socket in SOCKETS:
        endpoint = SocketEndpoint(socket).serve
        found += [WebSocketRoute(prefix + socket.path, endpoint) for prefix in ("", SCOPED)]
    for request in REQUESTS:
        application = RequestEndpoint(request)
        found += [Route(prefix + request.path, application, methods=["POST"]) for prefix in ("", SCOPED)]
    return found
