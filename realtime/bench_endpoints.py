"""Clients of somebody else's speech endpoints, at the address that is given: OpenAI's request, Fish Audio's request and its socket.

Knows what such a request says and how its answer begins: raw samples, or a WAV header before them. Does not know load or figures. What is
asked is the least that the vendors' documentation has, so that a compatible server knows it; `Endpoint.extra` adds what one of them wants.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import anyio
import httpx2
import ormsgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from realtime.bench_dialects import DialectFailed, Hear, Speaker
from realtime.bench_options import Endpoint
from realtime.failure import leaf

CONNECT_S: Final = 10.0
MOST_HEADER: Final = 1 << 16
REFUSING: Final = (429, 503)  # too many requests; no room


@dataclass(eq=False)
class Refused(DialectFailed):
    """Not now."""

    reason: str
    retry_after_s: float | None  # as it was told

    def __str__(self) -> str:
        return self.reason


class Samples:
    """Takes an answer's bytes and passes on its samples: 16 bit, one channel, with or without a WAV header."""

    def __init__(self, hear: Hear, rate_hz: int) -> None:
        """rate_hz: of samples without a header."""
        self.rate_hz = rate_hz
        self._hear = hear
        self._head: bytes | None = b""  # what came before it was clear what it is; None: it is

    def take(self, data: bytes) -> None:
        """More of it. Raises DialectFailed for what is not such sound."""
        if self._head is None:
            self._hear(data)
            return
        self._head += data
        if len(self._head) < 4:
            return
        begins = 0
        if self._head[:4] == b"RIFF":
            found = self._samples_begin(self._head)
            if found is None:
                return
            begins = found
        elif self._head[:3] == b"ID3" or self._head[:4] in (b"OggS", b"fLaC"):
            raise DialectFailed("the answer is no samples, but a compressed file")
        head, self._head = self._head, None
        if head[begins:]:
            self._hear(head[begins:])

    def _samples_begin(self, head: bytes) -> int | None:
        """Behind the header of a WAV file; None: more of it is to come."""
        place = 12
        while place + 8 <= len(head):
            name, size = head[place : place + 4], int.from_bytes(head[place + 4 : place + 8], "little")
            if name == b"data":
                return place + 8
            if name == b"fmt " and place + 24 <= len(head):
                self._check_format(head[place + 8 : place + 24])
            place += 8 + size + size % 2
        if len(head) > MOST_HEADER:
            raise DialectFailed("the answer is a WAV file whose samples never begin")
        return None

    def _check_format(self, fields: bytes) -> None:
        channels, bits = int.from_bytes(fields[2:4], "little"), int.from_bytes(fields[14:16], "little")
        if (channels, bits) != (1, 16):
            raise DialectFailed(f"the answer has {channels} channels of {bits} bits; only one of 16 bits is measured")
        self.rate_hz = int.from_bytes(fields[4:8], "little")


class Caller(Speaker, Protocol):
    """Somebody who speaks through an endpoint."""

    rate_hz: int  # of what was heard last
    whole_text: bool  # it is asked when all of the text is there

    async def connect(self) -> None:
        """Do what can be done before there is a text. Raises DialectFailed, OSError."""


class OnRequest:
    """Fish Audio's POST /v1/tts: all of the text, and an answer of sound as it is made. Interrupted by hanging up."""

    whole_text = True

    def __init__(self, url: str, key: str | None, endpoint: Endpoint, http: httpx2.AsyncClient) -> None:
        """http: shared by all callers, as an application's is, so that connections are kept."""
        self.rate_hz, self._url, self._endpoint = endpoint.rate_hz, url, endpoint
        self._headers = {**_headers(key, endpoint), "Accept-Encoding": "identity"}
        self._http = http
        self._scope = anyio.CancelScope()
        self._gone = anyio.Event()

    def fields(self, text: str) -> dict[str, Any]:
        """Of the request."""
        return _fish_request(text, self._endpoint)

    async def connect(self) -> None:
        """See `Caller`. The pool connects with the first request."""

    async def close(self) -> None:
        """See `Speaker`. The pool is not ours."""

    async def speak(self, deltas: AsyncIterator[str], hear: Hear) -> None:
        """See `Speaker`."""
        self._scope, self._gone = anyio.CancelScope(), anyio.Event()
        samples = Samples(hear, self._endpoint.rate_hz)

        def take(data: bytes) -> None:
            samples.take(data)
            self.rate_hz = samples.rate_hz

        try:
            with self._scope:
                body = self.fields("".join([delta async for delta in deltas]))
                async with self._http.stream("POST", self._url, json=body, headers=self._headers) as answer:
                    if answer.status_code != 200:
                        raise _refused(answer.status_code, answer.headers, await answer.aread())
                    async for data in answer.aiter_bytes():
                        take(data)
        except httpx2.HTTPError as error:
            raise DialectFailed(str(error) or type(error).__name__) from error
        finally:
            self._gone.set()

    async def interrupt(self) -> None:
        """See `Speaker`."""
        self._scope.cancel()
        await self._gone.wait()


class OpenAIRequest(OnRequest):
    """POST /v1/audio/speech."""

    def fields(self, text: str) -> dict[str, Any]:
        """Of the request."""
        own = {"model": self._endpoint.model, "voice": self._endpoint.voice, "input": text, "response_format": "pcm"}
        return {**own, **self._endpoint.extra}


class FishSocket:
    """Fish Audio's /v1/tts/live: text in pieces. Each turn has a socket of its own; interrupted by closing it."""

    whole_text = False

    def __init__(self, url: str, key: str | None, endpoint: Endpoint) -> None:
        """url: as it is asked."""
        self.rate_hz, self._url, self._endpoint = endpoint.rate_hz, url, endpoint
        self._headers = _headers(key, endpoint)
        self._talking: ClientConnection | None = None
        self._socket: ClientConnection | None = None
        self._left = False

    async def connect(self) -> None:
        """See `Caller`."""
        if self._socket is None:
            try:
                self._socket = await connect(
                    self._url, additional_headers=self._headers, compression=None, proxy=None, open_timeout=CONNECT_S
                )
            except InvalidStatus as error:
                answer = error.response
                raise _refused(answer.status_code, answer.headers, bytes(answer.body or b"")) from error
            except InvalidHandshake as error:
                raise DialectFailed(f"no handshake: {error}") from error

    async def speak(self, deltas: AsyncIterator[str], hear: Hear) -> None:
        """See `Speaker`."""
        await self.connect()
        socket, self._socket, self._left = self._socket, None, False
        assert socket is not None, "it was connected just now"
        self._talking = socket
        try:
            async with socket, anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, socket, deltas)
                while (sound := _sound(await socket.recv())) is not None:
                    if sound:
                        hear(sound)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            if not isinstance(error := leaf(errors), ConnectionClosed):
                raise error from None
            if not self._left:
                raise DialectFailed("the server closed the connection") from None

    async def interrupt(self) -> None:
        """See `Speaker`."""
        self._left = True
        if self._talking is not None:
            await self._talking.close()

    async def close(self) -> None:
        """See `Speaker`."""
        if self._socket is not None:
            await self._socket.close()

    async def _write(self, socket: ClientConnection, deltas: AsyncIterator[str]) -> None:
        request = _fish_request("", self._endpoint)
        with suppress(ConnectionClosed):  # whoever listens is told as well
            await socket.send(ormsgpack.packb({"event": "start", "request": request}))
            async for delta in deltas:
                await socket.send(ormsgpack.packb({"event": "text", "text": delta}))
            await socket.send(ormsgpack.packb({"event": "stop"}))


Pool = httpx2.AsyncClient  # of connections


def pool() -> Pool:
    """For all callers of a run; as many connections as there are callers, and no proxy: the way to it is measured, too."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(timeout=httpx2.Timeout(None, connect=CONNECT_S), trust_env=False, limits=limits)


def caller(url: str, key: str | None, dialect: str, endpoint: Endpoint, http: Pool) -> Caller:
    """Whoever speaks `dialect` ("openai" or "fish") at `url`."""
    if dialect == "openai":
        return OpenAIRequest(url, key, endpoint, http)
    if urlsplit(url).scheme in ("ws", "wss"):
        return FishSocket(url, key, endpoint)
    return OnRequest(url, key, endpoint, http)


def _headers(key: str | None, endpoint: Endpoint) -> dict[str, str]:
    shown = {"Authorization": f"Bearer {key}"} if key is not None else {}
    return {**shown, "model": endpoint.model}  # Fish reads its model there


def _fish_request(text: str, endpoint: Endpoint) -> dict[str, Any]:
    request = {"text": text, "format": "pcm", "sample_rate": endpoint.rate_hz, "latency": "balanced"}
    voice = {"reference_id": endpoint.voice} if endpoint.voice is not None else {}
    return {**request, **voice, **endpoint.extra}


def _sound(message: str | bytes) -> bytes | None:
    """Samples, none of them, or (None) the turn is over. Raises DialectFailed."""
    fields = ormsgpack.unpackb(message) if isinstance(message, bytes) else {}
    if fields.get("event") == "audio":
        return bytes(fields["audio"])
    if fields.get("reason") == "error":
        raise DialectFailed(str(fields.get("message")))
    return None if fields.get("event") == "finish" else b""


def _refused(status: int, headers: Mapping[str, str], body: bytes) -> DialectFailed:
    text = f"{status}: {body.decode('utf-8', 'replace')[:300]}"
    if status not in REFUSING:
        return DialectFailed(text)
    told = headers.get("Retry-After", "")
    return Refused(text, float(told) if told.isascii() and told.isdigit() else None)
