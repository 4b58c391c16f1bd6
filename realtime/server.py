"""The server: one port for the WebSocket, HTTP and the page, from the first frame of the warm-up to the last turn of the drain.

Knows uvicorn and signals. Does not know how an engine is made (`realtime.cli` does) or what a session does.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import FrameType
from typing import Final

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute

from engine.api import Engine
from realtime import page
from realtime.dialects.room import Rooms
from realtime.elsewhere import Elsewhere
from realtime.http import LIVE_PATH, GuardedHttp, routes
from realtime.live import live
from realtime.options import first_config
from realtime.repertoire import Repertoire
from realtime.service import Service
from realtime.settings import Settings, SettingsError, check_binding
from realtime.shared import Alone, Shared
from realtime.tls import Certificate, certificate
from realtime.transport import LiveWebSocket

PING_S: Final = 15.0  # protocol 7; a peer that leaves a ping unanswered for as long again is gone
SHUTDOWN_S: Final = 5  # for what is left of the connections once the drain is over
BACKLOG: Final = 2048
GARBAGE_OBJECTS: Final = 50_000  # more than before, since the last look for garbage, ask for another between two ticks
# Ticks of 0.1 s from one look at what is not new any more to the next (1), and at everything (2): with 64 sessions they take 30 and 60 ms.
GARBAGE_TICKS: Final = {1: 600, 2: 6000}
SWITCH_S: Final = 0.001


def create_app(settings: Settings, engine: Engine, shared: Shared | None = None) -> Starlette:
    """The ASGI application; `app.state.service` is its Service. Run it inside the event loop that the engine belongs to.

    shared: with the other processes of this server; None: there are none.
    Raises SettingsError for a checkpoint that names a script which does not exist: everything would be left out.
    """
    try:
        Repertoire.of(engine.info.scripts)
    except ValueError as error:
        raise SettingsError(f"the checkpoint {engine.info.name}: {error}") from error
    shared = shared if shared is not None else Alone()
    service = Service(settings, engine, asyncio.get_running_loop().time, time.time, shared=shared)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.run)
            yield
            tasks.cancel_scope.cancel()

    app = Starlette(
        routes=[WebSocketRoute(LIVE_PATH, live), *routes()],
        middleware=[
            Middleware(GuardedHttp, gate=service.gate, headers=page.headers(settings.page_connects_to)),
            Middleware(Elsewhere, service=service),
        ],
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.rooms = Rooms(service)
    return app


async def serve(
    settings: Settings,
    engine: Callable[[], AbstractAsyncContextManager[Engine]],
    *,
    listening: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then let running turns end; a second signal ends at once.

    The port is taken first, then `engine()` is entered (it loads the model) and left at the end. `listening(url)` is called once a turn
    would be spoken. Raises SettingsError for an address that needs a key and for a certificate that cannot be used, OSError for an address
    that cannot be listened on, and what `engine` raises.
    """
    check_binding(settings)
    shown = certificate(settings)
    with listen(settings.host, settings.port) as sock:
        async with engine() as running:
            await serve_on(sock, settings, running, listening, shown=shown)


async def serve_on(
    sock: socket.socket,
    settings: Settings,
    engine: Engine,
    listening: Callable[[str], None] | None = None,
    websocket: type[LiveWebSocket] = LiveWebSocket,
    shown: Certificate | None = None,
    shared: Shared | None = None,
    siblings: socket.socket | None = None,
) -> None:
    """`serve` on a socket that listens already. `websocket`: one that measures, say. `shown`: for TLS. `shared`: with the other processes
    of this server, which come to `siblings`.
    """
    app = create_app(settings, engine, shared)
    server = DrainingServer(_config(app, settings, websocket, shown), app.state.service)
    sockets = [sock] if siblings is None else [sock, siblings]
    async with anyio.create_task_group() as tasks:
        if listening is not None:
            tasks.start_soon(_announce, server, sock, listening)
        try:
            await server.serve(sockets=sockets)
        except anyio.get_cancelled_exc_class():
            if server.started:  # uvicorn leaves its connections open where it is cancelled instead of told to end
                with anyio.CancelScope(shield=True):
                    await server.shutdown(sockets=sockets)
            raise
        tasks.cancel_scope.cancel()


class DrainingServer(uvicorn.Server):
    """uvicorn, but a signal first lets the turns that were begun be spoken."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self._signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Runs between two byte codes of whatever is running: only counts."""
        self._signals += 1

    async def on_tick(self, counter: int) -> bool:
        """Called every 0.1 s. True: end."""
        if self._signals:
            self.service.drain()
        if self._signals > 1:
            self.force_exit = True
        # Often, so that each look has little to see: 1 ms of new objects, not 15 to 50 each few seconds.
        due = [age for age, ticks in GARBAGE_TICKS.items() if counter % ticks == ticks - 1]
        gc.collect(max(due, default=0))
        return await super().on_tick(counter) or self.force_exit or self.service.drained

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, which knows no connection that was accepted a step ago: Python 3.11 would leave its socket open."""
        for sock in sockets or []:
            asyncio.get_running_loop().remove_reader(sock)
        for _ in ("its transport is made", "its protocol is told"):
            await asyncio.sleep(0)
        await super().shutdown(sockets)


async def _announce(server: DrainingServer, sock: socket.socket, listening: Callable[[str], None]) -> None:
    await server.service.until_ready()
    # Loads libopus and makes a filter, for which the first client, and all others with it, would wait 15 ms.
    first_config(server.service.engine.info)
    _settle()
    listening(address_of(sock, tls=server.config.is_ssl))


def address_of(sock: socket.socket, tls: bool) -> str:
    """What a browser is told for a listening socket; for one that is handed connections, nothing."""
    if sock.family == socket.AF_UNIX:
        return ""
    host, port = sock.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _settle() -> None:
    """Once all is loaded: keep the interpreter from pauses in which nobody is answered."""
    # What is loaded stays. Without this a full collection walks all of it, now and then, for 60 ms.
    gc.collect()
    gc.freeze()
    # Sessions leave next to nothing behind that only a collection finds: 60 objects in 26 s of 64 of them, for which the default walked
    # what they hold 330 times, up to 30 ms each and half a second together. Mostly `on_tick` is first.
    gc.set_threshold(GARBAGE_OBJECTS, 10, 10)
    # A thread that encodes gives the loop the interpreter's lock after so long, instead of 5 ms.
    sys.setswitchinterval(SWITCH_S)


def _config(
    app: Starlette, settings: Settings, websocket: type[LiveWebSocket], shown: Certificate | None
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws=websocket,
        # One byte more than the protocol allows still gets a proper answer; far beyond it the socket closes with 1009 unread.
        ws_max_size=settings.limits.binary_bytes,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        ws_per_message_deflate=False,
        lifespan="on",
        loop="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,  # uvicorn's would hold whole URLs
        log_config=None,
        log_level="warning",
        backlog=BACKLOG,
        timeout_graceful_shutdown=SHUTDOWN_S,
        ssl_certfile=shown.cert if shown is not None else None,
        ssl_keyfile=shown.key if shown is not None else None,
    )


class CannotListen(OSError):
    """Text for the operator: where, and why not."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises CannotListen."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, number, _, address = found[0]
        sock = socket.socket(family, kind, number)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise CannotListen(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return sock
