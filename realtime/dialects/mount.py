"""Every dialect that this server speaks, at its place and below /s/{session}/.

Knows which there are. Does not know what they do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute, compile_path

from protocol.dialects import (
    cartesia_routes,
    deepgram_routes,
    elevenlabs_http,
    elevenlabs_routes,
    fish_routes,
    openai_realtime_routes,
    openai_routes,
    openai_speech,
)
from protocol.dialects.interface import ErrorShape, RequestRoute, SocketRoute
from realtime.dialects import elevenlabs_pages, local_fish_pages, openai_pages, twilio
from realtime.dialects.batch import Batch
from realtime.dialects.request import Numbered, RequestEndpoint
from realtime.dialects.socket import SocketEndpoint

SCOPED: Final = "/s/{session}"


@dataclass(frozen=True, slots=True)
class PageRoute:
    """A request that is answered without a dialect."""

    path: str
    method: str
    endpoint: Callable[..., Any]  # as Starlette's Route takes it
    errors: ErrorShape


# A line for each: protocol/dialects/README.md says how to add one.
SOCKETS: Final[tuple[SocketRoute, ...]] = (
    *fish_routes.SOCKETS,
    *openai_routes.SOCKETS,
    *elevenlabs_routes.SOCKETS,
    *cartesia_routes.SOCKETS,
    *deepgram_routes.SOCKETS,
    *openai_realtime_routes.SOCKETS,
)
REQUESTS: Final[tuple[RequestRoute, ...]] = (
    *fish_routes.REQUESTS,
    *openai_routes.REQUESTS,
    *elevenlabs_routes.REQUESTS,
    *cartesia_routes.REQUESTS,
    *deepgram_routes.REQUESTS,
)
PAGES: Final[tuple[PageRoute, ...]] = (
    PageRoute("/v1/audio/speech/batch", "POST", Batch(), openai_speech.errors),
    PageRoute("/v1/audio/voices", "GET", openai_pages.voices, openai_speech.errors),
    PageRoute("/v1/audio/voices", "POST", openai_pages.add_voice, openai_speech.errors),
    PageRoute("/v1/audio/voices/{name}", "DELETE", openai_pages.remove_voice, openai_speech.errors),
    PageRoute("/v1/voices", "GET", elevenlabs_pages.voices, elevenlabs_http.errors),
    PageRoute("/v2/voices", "GET", elevenlabs_pages.found_voices, elevenlabs_http.errors),
    PageRoute("/v1/voices/add", "POST", elevenlabs_pages.add_voice, elevenlabs_http.errors),
    PageRoute("/v1/voices/{name}", "GET", elevenlabs_pages.voice, elevenlabs_http.errors),
    PageRoute("/v1/voices/{name}", "DELETE", elevenlabs_pages.remove_voice, elevenlabs_http.errors),
    PageRoute("/v1/health", "GET", local_fish_pages.health, fish_routes.errors),
    PageRoute("/v1/health", "POST", local_fish_pages.health, fish_routes.errors),
    PageRoute("/v1/vqgan/encode", "POST", local_fish_pages.encode, fish_routes.errors),
    PageRoute("/v1/vqgan/decode", "POST", local_fish_pages.decode, fish_routes.errors),
)

_ALL: Final[tuple[SocketRoute | RequestRoute | PageRoute, ...]] = (*SOCKETS, *REQUESTS, *PAGES)
_SHAPES: Final = [(compile_path(route.path)[0], route.errors) for route in _ALL]


def shape_of(path: str) -> ErrorShape | None:
    """How the clients of a path's vendor read a refusal; None: no dialect has such a path."""
    if path.startswith("/s/"):
        path = "/" + path.removeprefix("/s/").partition("/")[2]
    return next((shape for pattern, shape in _SHAPES if pattern.fullmatch(path)), None)


def routes() -> list[BaseRoute]:
    """Of all dialects."""
    found: list[BaseRoute] = []
    for prefix in ("", SCOPED):
        found += [WebSocketRoute(prefix + socket.path, SocketEndpoint(socket).serve) for socket in SOCKETS]
        found.append(WebSocketRoute(prefix + twilio.PATH, twilio.call))
        found += [Route(prefix + request.path, RequestEndpoint(request), methods=["POST"]) for request in REQUESTS]
        found += [
            Route(prefix + page.path, page.endpoint, methods=[page.method], middleware=[Middleware(Numbered)])
            for page in PAGES
        ]
    return found
