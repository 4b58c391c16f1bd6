"""What one of several server processes does with a request that is another's: it lets the other answer, and the client does not notice.

Knows in which process a session lives, and how a WebSocket or an HTTP request gets there and back. Does not know how the address or the
first message names the session (`realtime.elsewhere` and the dialects do), nor how a refusal is delivered: it raises ProtocolError.

Each process serves the same application to the others on a Unix socket, over TLS where it does so to its clients. What came that way is
never sent on.
"""

from __future__ import annotations

import logging
import ssl
from functools import cache
from typing import Final, cast

from starlette.types import Receive, Scope, Send

from protocol.errors import ErrorCode, ProtocolError
from realtime.relayed_request import relay_request
from realtime.service import CROWDED_RETRY_MS, Service
from realtime.shared import token_name
from realtime.transport import EXTENSION, LiveSocket
from realtime.tunnel import Unreachable, ask, tunnel

log = logging.getLogger("parley.server")

KEPT_BYTES: Final = 256 * 1024  # of what a client says before it is known whose it is
SWITCHING: Final = b" 101 "


def of_room(service: Service, scope: Scope, name: str) -> int | None:
    """Which other process has, or would have, the session of that name. None: this one."""
    return None if _settled(service, scope) else _other(service, service.shared.place_of_room(name))


def of_token(service: Service, scope: Scope, token: str) -> int | None:
    """Which other process has the session that this secret resumes. None: this one, or none."""
    return None if _settled(service, scope) else _other(service, service.shared.holder(token_name(token)))


def keep(service: Service, scope: Scope) -> None:
    """Before a WebSocket is accepted whose session is named in a message: see to it that it can be relayed after that."""
    if not _settled(service, scope):
        _socket(scope).keep(KEPT_BYTES)


def keep_no_more(scope: Scope) -> None:
    """It is this process's."""
    _socket(scope).keep(0)


async def relay_handshake(service: Service, scope: Scope, index: int) -> None:
    """Let another process answer a WebSocket's handshake and all that follows. Returns at the end of it.

    Raises ProtocolError, and nothing was answered, where the other process does not.
    """
    await _relay_socket(service, scope, index, accepted=False)


async def relay_accepted(service: Service, scope: Scope, index: int) -> None:
    """The same for a WebSocket that was accepted after `keep`: the other process reads all messages again, from the first."""
    await _relay_socket(service, scope, index, accepted=True)


async def relay_http(service: Service, scope: Scope, receive: Receive, send: Send, index: int) -> None:
    """Let another process answer an HTTP request. Raises ProtocolError, and nothing was answered, where it does not."""
    service.sockets += 1  # or a server that is to end would not wait
    try:
        path = service.shared.relay_path(index)
        await relay_request(path, _tls(scope), scope, receive, send, service.settings.limits.drain_s)
    except Unreachable as error:
        raise _unreachable(index, error) from error
    finally:
        service.sockets -= 1


async def _relay_socket(service: Service, scope: Scope, index: int, accepted: bool) -> None:
    service.sockets += 1
    try:
        far = await ask(service.shared.relay_path(index), _tls(scope), _handshake(scope))
        skip = 0
        if accepted:
            line = far.head.partition(b"\r\n")[0]
            if SWITCHING not in line:
                far.transport.abort()
                raise Unreachable(f"it answered {line.decode('latin-1')}")
            skip = len(far.head)
        await tunnel(far, _socket(scope), service.settings.limits.drain_s, skip)
    except Unreachable as error:
        raise _unreachable(index, error) from error
    except OSError:
        return  # the client has left
    finally:
        service.sockets -= 1


def _handshake(scope: Scope) -> bytes:
    """As it came."""
    query: bytes = scope["query_string"]
    lines = [b"GET " + scope["raw_path"] + (b"?" + query if query else b"") + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in scope["headers"]]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _settled(service: Service, scope: Scope) -> bool:
    """Whether nobody else is to be asked: there is nobody else, or it was somebody else who sent this."""
    return service.shared.count == 1 or _from_sibling(scope)


def _from_sibling(scope: Scope) -> bool:
    server = scope.get("server")
    return server is not None and server[1] is None  # as uvicorn says of a Unix socket


def _other(service: Service, index: int | None) -> int | None:
    return index if index != service.shared.index else None


def _socket(scope: Scope) -> LiveSocket:
    return cast(LiveSocket, scope["extensions"][EXTENSION])


def _tls(scope: Scope) -> ssl.SSLContext | None:
    return _unverified() if scope["scheme"] in ("https", "wss") else None


@cache
def _unverified() -> ssl.SSLContext:
    """Who listens at the socket is known by its folder, which is nobody else's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _unreachable(index: int, error: Unreachable) -> ProtocolError:
    log.warning("process %d does not answer: %s", index, error)
    text = "the part of the server that has the session is restarting"
    return ProtocolError.fatal_error(ErrorCode.NO_CAPACITY, text, retry_after_ms=CROWDED_RETRY_MS)
