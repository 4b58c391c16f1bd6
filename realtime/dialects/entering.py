"""Who may speak a dialect here, in the words of HTTP: keys in every spelling, foreign pages, and room for one more.

Knows headers, keys and refusals. Does not know any protocol, or how a refusal is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import Response

from engine.api import Busy, EngineError, SynthesisFailed
from protocol.dialects.interface import ErrorShape, Opening, Refused
from protocol.errors import ErrorCode, ProtocolError
from realtime.auth import Credential
from realtime.service import Service

SESSION_NAME: Final = re.compile(r"[A-Za-z0-9._~-]{1,64}")  # what needs no escape in a path
_STATUSES: Final = {ErrorCode.TOO_MANY_SESSIONS: 429, ErrorCode.NO_CAPACITY: 503, ErrorCode.FORBIDDEN: 403}


def opening(connection: HTTPConnection, body: bytes = b"") -> Opening:
    """Raises Refused for a session that cannot be called so."""
    path = {name: str(value) for name, value in connection.path_params.items()}
    session = checked_name(path.pop("session", None))
    return Opening(path, dict(connection.query_params), dict(connection.headers), body, session)


def checked_name(session: str | None) -> str | None:
    """A session's name. Raises Refused."""
    if session is not None and SESSION_NAME.fullmatch(session) is None:
        raise Refused(400, "a session's name is 1 to 64 letters, digits and . _ ~ -", param="session")
    return session


def owner(service: Service, headers: Mapping[str, str], *, later: bool = False) -> str | None:
    """Whose key is shown. None: none is, and it may come `later`. Raises Refused."""
    if not service.gate.trusts(headers.get("origin"), headers.get("host")):
        raise Refused(403, "this origin may not connect; the operator can allow it with allowed_origins", "forbidden")
    credential, shown = service.gate.of_headers(headers)
    if credential is Credential.NONE and later:
        return None
    if shown is None:
        raise unauthorized()
    return shown


def unauthorized() -> Refused:
    """No key, or a wrong one."""
    return Refused(401, "a key is needed, and none or a wrong one was shown", "unauthorized")


def refused(error: ProtocolError) -> Refused:
    """The server's own refusal in HTTP's words."""
    retry_s = None if error.retry_after_ms is None else -(-error.retry_after_ms // 1000)
    return Refused(_STATUSES.get(error.code, 500), error.message, error.code.value, error.param, retry_s)


def engine_refused(error: EngineError) -> Refused:
    """The engine could not do what was asked for beside speech."""
    match error:
        case Busy():
            return Refused(503, str(error), "no_capacity", retry_after_s=max(1, round(error.retry_after_s)))
        case SynthesisFailed():
            return Refused(422, error.detail, error.code)
    return Refused(503, "the engine was restarted", "engine_restarted", retry_after_s=1)


def response(error: Refused, shape: ErrorShape, reason_header: str | None = None) -> Response:
    """As a client of that vendor reads it. reason_header: see `SocketRoute`."""
    media_type, body = shape(error)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if reason_header is not None:
        headers[reason_header] = " ".join(error.message.encode("ascii", "replace").decode().split())
    return Response(body, error.status, headers, media_type)
