"""The HTTP side of the server: health, models, secrets for browsers, and the page.

Knows what each route says. Does not know what a session does, or which headers keep a browser safe (`realtime.page`). With keys set, every
route asks for one; a browser is asked for a password, so that a person can open the page (any name, the key as the password).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocol.errors import ErrorCode, ProtocolError
from realtime.auth import Credential, Gate
from realtime.dialects.entering import response, unauthorized
from realtime.dialects.mount import SCOPED, shape_of
from realtime.dialects.mount import routes as dialect_routes
from realtime.service import Service

LIVE_PATH: Final = "/v1/live"
MAX_EMPTY_BYTES: Final = 64  # an empty object and white space around it


def routes() -> list[BaseRoute]:
    """Every route but the native WebSocket's. The page comes last: it takes what is left."""
    return [
        Route("/health/live", _live, methods=["GET"]),
        Route("/health/ready", _ready, methods=["GET"]),
        *(Route(prefix + "/v1/models", _models, methods=["GET"]) for prefix in ("", SCOPED)),
        Route("/v1/sessions", _new_session, methods=["POST"]),
        *dialect_routes(),
        Mount("/", StaticFiles(directory=web_root(), html=True)),
    ]


def web_root() -> Path:
    """The page's folder: beside this code where the server is installed, in the checkout otherwise."""
    installed = Path(__file__).parent / "_web"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "web-demo"


class GuardedHttp:
    """ASGI middleware: a key for every HTTP route, and `headers` on every answer. WebSockets pass: `live` asks them itself."""

    def __init__(self, app: ASGIApp, gate: Gate, headers: Mapping[str, str]) -> None:
        self._app = app
        self._gate = gate
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        if self._gate.of_headers(Headers(scope=scope))[0] is not Credential.RIGHT:
            shape = shape_of(scope["path"])
            answer = _unauthorized() if shape is None else response(unauthorized(), shape)
            await answer(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)


def _unauthorized() -> JSONResponse:
    body = {"error": {"message": "a key is needed", "type": "refused", "code": "unauthorized"}}
    response = JSONResponse(body, status_code=401)
    response.headers.append("WWW-Authenticate", 'Basic realm="Parley: any name, the key as password", charset="UTF-8"')
    response.headers.append("WWW-Authenticate", "Bearer")
    return response


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _live(request: Request) -> JSONResponse:
    """The process answers."""
    return JSONResponse({"status": "live"})


async def _ready(request: Request) -> JSONResponse:
    """A turn that came now would be spoken."""
    service = _service(request)
    if service.ready:
        return JSONResponse({"status": "ready"})
    status = "draining" if service.draining else "warming_up"
    return JSONResponse({"status": status}, status_code=503, headers={"Retry-After": "1"})


async def _models(request: Request) -> JSONResponse:
    """The loaded model and its voices, in the shape that OpenAI's clients list models in."""
    service = _service(request)
    info = service.engine.info
    model: dict[str, object] = {
        "id": info.name,
        "object": "model",
        "owned_by": "parley",
        "sample_rate": info.sample_rate,
        "frame_ms": round(info.frame_s * 1000, 3),
        "codebooks": info.codebooks,
        "max_history_s": info.max_history_s,
        "device": info.device,
        "dtype": info.dtype,
        "voices": service.voices.names(),
    }
    if info.roof_s is not None:
        model["roof_ms"] = round(1000 * info.roof_s, 3)
    if info.scripts is not None:
        model["scripts"] = info.scripts
    if info.attribution is not None:
        model["attribution"] = info.attribution
    return JSONResponse({"object": "list", "data": [model]})


async def _new_session(request: Request) -> JSONResponse:
    """A secret that opens one session, once: for a page, whose owner has the key and does not give it away."""
    service = _service(request)
    if not service.gate.trusts(request.headers.get("origin"), request.headers.get("host")):
        return refusal_response(ProtocolError.fatal_error(ErrorCode.FORBIDDEN, "this origin may not ask for a session"))
    if (refusal := service.refusal()) is not None:
        return refusal_response(refusal)
    if await _has_content(request):
        text = "POST /v1/sessions takes no content: a session is configured over its socket"
        return refusal_response(ProtocolError.fatal_error(ErrorCode.BAD_MESSAGE, text))
    owner, now = service.gate.of_headers(request.headers)[1], service.clock()
    assert owner is not None, "GuardedHttp lets nobody else pass"
    made = service.client_secrets.mint(owner, now)
    if made is None:
        retry_ms = math.ceil(service.client_secrets.retry_after_s(now) * 1000)
        text = "too many client secrets are unused"
        return refusal_response(ProtocolError.fatal_error(ErrorCode.TOO_MANY_SESSIONS, text, retry_after_ms=retry_ms))
    secret, grant = made
    address = service.settings.public_url or str(request.base_url).rstrip("/")
    body = {
        "session": grant.session_id,
        "client_secret": secret,
        "ws_url": address.replace("http", "ws", 1) + LIVE_PATH,
        "expires_at": int((service.unix_time() + grant.expires_at - now) * 1000),
    }
    return JSONResponse(body, status_code=201, headers={"Cache-Control": "no-store"})


async def _has_content(request: Request) -> bool:
    """Whether there is a body that says more than `{}`. Reads no more than it needs."""
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_EMPTY_BYTES:
            return True
    return content.strip() not in (b"", b"{}")


def refusal_response(error: ProtocolError) -> JSONResponse:
    """A fatal error as an HTTP answer: its close code less 4000 is the status."""
    assert error.close_code is not None, "a refusal is fatal"
    headers = {"WWW-Authenticate": "Bearer"} if error.code is ErrorCode.UNAUTHORIZED else {}
    if error.retry_after_ms is not None:
        headers["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    body = {"error": {"message": error.message, "type": "refused", "code": error.code.value}}
    return JSONResponse(body, status_code=error.close_code - 4000, headers=headers)
