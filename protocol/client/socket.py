"""Opening a WebSocket to a server, for a new session or for one that goes on.

Knows addresses, handshakes and refusals. Does not know messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import anyio
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from protocol.client.errors import Refused

SUBPROTOCOL: Final = "live.v1"
CLOSE_TIMEOUT_S: Final = 2.0
PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses after which another try may be let in
FIRST_WAIT_S: Final = 0.05  # a proxy that was reloaded answers again at once
LONGEST_WAIT_S: Final = 2.0


async def open_socket(url: str, token: str | None, timeout_s: float) -> ClientConnection:
    """Raises Refused."""
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    try:
        return await websocket_connect(
            url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=headers,
            compression=None,
            open_timeout=timeout_s,
            close_timeout=CLOSE_TIMEOUT_S,
        )
    except InvalidStatus as error:
        detail = error.response.body.decode("utf-8", "replace").strip() if error.response.body else "no reason given"
        told = error.response.headers.get("Retry-After", "")
        retry_after_s = (
            float(told) if told.isascii() and told.isdigit() else None
        )  # a date, as proxies may send it, is none
        raise Refused(error.response.status_code, detail, retry_after_s) from error
    except (OSError, InvalidHandshake) as error:  # TimeoutError is an OSError
        raise Refused(None, f"{url}: {str(error) or 'timed out'}") from error


def resuming(url: str, resume_token: str, have: tuple[int, int] | None) -> str:
    """The address that goes on with a session. have: number of a turn, and a sample of it before which nothing is missing."""
    parts = urlsplit(url)
    # A client secret was good for one connection; the resume token takes its place.
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("token", "resume", "have")]
    again = [("resume", resume_token)] + ([("have", f"{have[0]}:{have[1]}")] if have is not None else [])
    return urlunsplit(parts._replace(query=urlencode(kept + again, safe=":")))


def renewing(url: str) -> str | None:
    """The address of another session like the one that this address opened; None: it was good for one."""
    return None if "token" in dict(parse_qsl(urlsplit(url).query)) else url


def waits() -> Iterator[float]:
    """Seconds before each try to come back; endless."""
    wait_s = 0.0
    while True:
        yield wait_s
        wait_s = min(LONGEST_WAIT_S, max(FIRST_WAIT_S, 2 * wait_s))


async def ask(
    open_socket: Callable[[str], Awaitable[ClientConnection]], url: str, patience_s: float
) -> ClientConnection | Refused | None:
    """A socket, asked for again and again; or why there will be none, or None: nobody let us in for so long."""
    with anyio.move_on_after(patience_s):
        for wait_s in waits():
            await anyio.sleep(wait_s)
            try:
                return await open_socket(url)
            except Refused as refused:
                if refused.status is not None and refused.status not in PASSING:
                    return refused
    return None
