"""`parley ivr`: answers Twilio's question what to do with a call, and attends to the calls.

Knows the webhook, TwiML and how a call finds its session. Does not know what is said (`realtime.ivr`). The sound of a call does not come
here: Twilio connects it to the Parley server, as a leg of the session that is opened here.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import partial
from typing import Final, TextIO
from urllib.parse import parse_qs, urlsplit, urlunsplit
from urllib.request import ProxyHandler, Request, build_opener
from xml.sax.saxutils import quoteattr

import anyio
import anyio.abc
import uvicorn
from anyio.streams.memory import MemoryObjectSendStream
from starlette.applications import Starlette
from starlette.requests import Request as WebRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from protocol.client import ClientError, connect
from protocol.dialects.interface import Refused
from protocol.dialects.twilio_signature import HEADER, is_signed
from protocol.messages import Event
from realtime.dialects.request import read_body
from realtime.dialects.twilio import PATH as TWILIO_PATH
from realtime.failure import CommandFailed, leaf
from realtime.ivr import Attendant
from realtime.ivr_menu import Menu
from realtime.server import listen

log = logging.getLogger("parley.ivr")

VOICE_PATH: Final = "/voice"
MOST_CALLS: Final = 100  # at a time: each is a session
MOST_EVENTS: Final = 1024  # that wait while a text is spoken; more than a call of hours has
FORM_BYTES: Final = 64 * 1024
SHUTDOWN_S: Final = 1  # for what is left of the connections


@dataclass(frozen=True, slots=True)
class IvrOptions:
    """What was asked for."""

    url: str  # of Parley's WebSocket, as this program reaches it
    stream_url: str  # of its /twilio, as Twilio reaches it: wss://
    key: str | None  # of Parley
    auth_token: str | None  # of the Twilio account; None: anybody may call the webhook
    host: str
    port: int
    menu: Menu


def ivr(options: IvrOptions, out: TextIO) -> int:
    """Attend to calls until a signal; the exit code. Blocks. Raises CommandFailed."""

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            address = await tasks.start(IvrServer(options).run)
            print(f"Twilio asks at {address}\nand connects calls to {options.stream_url}", file=out, flush=True)

    try:
        anyio.run(run)
    except (OSError, ExceptionGroup) as error:
        found = leaf(error)
        if not isinstance(found, OSError):
            raise
        raise CommandFailed(found) from error
    return 0


class IvrServer:
    """Make it inside of the event loop, and keep `run` running."""

    def __init__(self, options: IvrOptions) -> None:
        self._options = options
        self._calls = 0
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, or told to end by a signal. The status is the webhook's address. Raises OSError."""
        options = self._options
        with listen(options.host, options.port) as sock:
            app = Starlette(routes=[Route(VOICE_PATH, self._voice, methods=["POST"])])
            server = uvicorn.Server(
                uvicorn.Config(
                    app,
                    http="h11",
                    ws="none",
                    lifespan="off",
                    log_config=None,
                    log_level="warning",
                    access_log=False,
                    server_header=False,
                    timeout_graceful_shutdown=SHUTDOWN_S,
                )
            )
            host, port = sock.getsockname()[:2]
            async with anyio.create_task_group() as self._tasks:
                task_status.started(f"http://{f'[{host}]' if ':' in host else host}:{port}{VOICE_PATH}")
                try:
                    await server.serve(sockets=[sock])
                except anyio.get_cancelled_exc_class():
                    if server.started:  # uvicorn leaves its connections open where it is cancelled
                        with anyio.CancelScope(shield=True):
                            await server.shutdown(sockets=[sock])
                    raise
                self._tasks.cancel_scope.cancel()

    async def _voice(self, request: WebRequest) -> Response:
        """A call comes in: where its sound is to go."""
        options = self._options
        try:
            body = await read_body(request, FORM_BYTES)
        except Refused as error:
            return PlainTextResponse(f"{error.message}\n", error.status)
        if options.auth_token is not None and not _signed(request, body, options.auth_token):
            return PlainTextResponse("the request is not signed by this account\n", 403)
        if self._calls >= MOST_CALLS:
            return PlainTextResponse("too many calls\n", 503, headers={"Retry-After": "5"})
        assert self._tasks is not None, "requests come while it runs"
        try:
            token = await anyio.to_thread.run_sync(client_secret, options.url, options.key) if options.key else None
            session: str = await self._tasks.start(self._attend)
        except (ClientError, OSError, ValueError, ExceptionGroup) as error:
            log.error("a call cannot be taken: %s", error)
            return PlainTextResponse("the voice server does not answer\n", 503)
        return Response(twiml(options.stream_url, session, token), media_type="text/xml")

    async def _attend(self, *, task_status: anyio.abc.TaskStatus[str]) -> None:
        """One call, in a session of its own; the status is its id."""
        send, receive = anyio.create_memory_object_stream[Event](MOST_EVENTS)
        self._calls += 1
        started = False
        try:
            on_event = partial(_note, send)
            async with connect(self._options.url, token=self._options.key, on_event=on_event, renew_s=0.0) as client:
                started = True
                task_status.started(client.session.session)
                await Attendant(client, self._options.menu, receive).attend()
        except (ClientError, OSError, ExceptionGroup) as error:
            if not started:
                raise
            log.error("a call is lost: %s", error)
        finally:
            self._calls -= 1
            send.close()
            receive.close()


def _note(events: MemoryObjectSendStream[Event], event: Event) -> None:
    try:
        events.send_nowait(event)
    except anyio.WouldBlock:
        log.warning("an event of a call is lost: %s", event.type)


def stream_url(url: str) -> str:
    """/twilio of the server whose WebSocket is at `url`."""
    return urlunsplit((*urlsplit(url)[:2], TWILIO_PATH, "", ""))


def twiml(address: str, session: str, token: str | None) -> str:
    """Connect the call to a session. A caller's speech and keys interrupt."""
    given = {"session": session, "token": token, "barge_in": "cancel", "dtmf": "cancel"}
    parameters = "".join(
        f"<Parameter name={quoteattr(name)} value={quoteattr(value)}/>" for name, value in given.items() if value
    )
    stream = f"<Stream url={quoteattr(address)}>{parameters}</Stream>"
    return f'<?xml version="1.0" encoding="UTF-8"?><Response><Connect>{stream}</Connect></Response>'


def client_secret(url: str, key: str) -> str:
    """A secret that is good for one call, so that the key does not stand in TwiML. Blocks. Raises OSError, ValueError."""
    parts = urlsplit(url)
    address = urlunsplit(("https" if parts.scheme == "wss" else "http", parts.netloc, "/v1/sessions", "", ""))
    request = Request(address, data=b"", headers={"Authorization": f"Bearer {key}"})
    with build_opener(ProxyHandler({})).open(request, timeout=5.0) as response:
        return str(json.load(response)["client_secret"])


def _signed(request: WebRequest, body: bytes, token: str) -> bool:
    """Whatever ends TLS before us may have called us by http."""
    given = request.headers.get(HEADER, "")
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
    query = f"?{request.url.query}" if request.url.query else ""
    place = f"{request.headers.get('host', '')}{request.url.path}{query}"
    return any([is_signed(token, f"{scheme}://{place}", given, fields) for scheme in ("https", "http")])
