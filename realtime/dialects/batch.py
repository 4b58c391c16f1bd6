"""`POST /v1/audio/speech/batch`: every item is a session of its own, as many at once as the engine has places.

Knows how to run a dialect without a client. Does not know the fields of a request.
"""

from __future__ import annotations

from typing import Final

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from protocol.dialects.interface import Refused, StartResponse
from protocol.dialects.openai_batch import Spoken, items, results
from protocol.dialects.openai_request import SpeechRequest, read_json
from protocol.dialects.openai_routes import REQUEST_BYTES
from protocol.dialects.openai_speech import errors, one
from protocol.errors import ProtocolError
from realtime.dialects.entering import opening, owner, refused, response
from realtime.dialects.host import LocalHost
from realtime.dialects.request import read_body
from realtime.dialects.room import Rooms
from realtime.dialects.visit import Visit
from realtime.service import Service

PATIENCE_S: Final = 60.0  # for a place in the engine, which others want as well
RETRY_S: Final = 0.5


class Batch:
    """The ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await _answer(scope, receive, send)


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    service: Service = request.app.state.service
    try:
        shown = owner(service, dict(request.headers))
        assert shown is not None, "a key never comes later"
        if (refusal := service.refusal()) is not None:
            raise refused(refusal)
        came = opening(request, await read_body(request, REQUEST_BYTES))
        wanted = items(read_json(came.body))
    except ClientDisconnect:
        return
    except Refused as error:
        await response(error, errors)(scope, receive, send)
        return
    spoken: list[Spoken | Refused] = [item if isinstance(item, Refused) else Refused(500, "") for item in wanted]
    places = anyio.CapacityLimiter(max(1, service.engine.capacity().max_streams))

    async def speak(index: int, item: SpeechRequest) -> None:
        async with places:
            spoken[index] = await _spoken(service, request.app.state.rooms, shown, item)

    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as work:
            tasks.start_soon(watch)
            for index, item in enumerate(wanted):
                if isinstance(item, SpeechRequest):
                    work.start_soon(speak, index, item)
        await JSONResponse(results(spoken))(scope, receive, send)
        tasks.cancel_scope.cancel()


async def _spoken(service: Service, rooms: Rooms, owner: str, item: SpeechRequest) -> Spoken | Refused:
    """One item. Where others have all places of the engine, it is tried again."""
    deadline = service.clock() + PATIENCE_S
    while True:
        result = await _once(service, rooms, owner, item)
        if not isinstance(result, Refused) or result.status != 503 or service.clock() > deadline:
            return result
        await anyio.sleep(RETRY_S)


async def _once(service: Service, rooms: Rooms, owner: str, item: SpeechRequest) -> Spoken | Refused:
    prefix = rooms.next_prefix()
    try:
        dialect = one(LocalHost(service, prefix, paced=False), item)
        room = await rooms.enter(owner, None)
    except Refused as error:
        return error
    except ProtocolError as error:
        return refused(error)
    sink = _Collected()
    visit = Visit(service, room, prefix, dialect, sink)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(visit.open)
            await visit.write()
            tasks.cancel_scope.cancel()
    finally:
        visit.left()
    return sink.result()


class _Collected:
    """See `visit.Sink`."""

    pong_at = 0.0  # nobody asks

    def __init__(self) -> None:
        self._start: StartResponse | None = None
        self._body = b""
        self._whole = False

    async def write(self, message: str | bytes | StartResponse) -> None:
        if isinstance(message, StartResponse):
            self._start = message
        else:
            self._body += message.encode() if isinstance(message, str) else message

    async def close(self, code: int, reason: str) -> None:
        self._whole = code == 1000

    def abort(self) -> None:
        """Nothing here can be slow."""

    def result(self) -> Spoken | Refused:
        start = self._start
        if start is None or not self._whole:
            return Refused(500, "no speech could be made")
        if start.status == 200:
            return Spoken(self._body, start.media_type)
        message = read_json(self._body)
        assert isinstance(message, dict), "our own error"
        return Refused(start.status, message["error"]["message"])
