"""The benchmark's clients that interrupt by a message: Cartesia's, Deepgram's on both of its sockets, and OpenAI's realtime ones.

Knows those wires as pipecat and the vendors' SDKs write them. Does not know load, texts or figures.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol
from urllib.parse import urlsplit, urlunsplit

import anyio
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from realtime.bench_dialects import RATE_HZ, DialectFailed, Hear, Speaker, dialled
from realtime.failure import leaf


class SteeredWire(Protocol):
    """A dialect whose connection goes on after an interruption. Every method gives messages to send."""

    path: str
    query: str
    answers: bool  # whether messages that interrupt are answered

    def text(self, delta: str) -> Sequence[str]:
        """More of the turn's text; the first opens a turn."""

    def end(self) -> Sequence[str]:
        """Behind the last."""

    def interrupt(self) -> Sequence[str]:
        """Stop the turn."""

    def sound(self, message: str | bytes) -> bytes | None:
        """Samples, none of them, or (None) the turn is over or has stopped. Raises DialectFailed."""


class Cartesia:
    """A context a turn; tokens as they come."""

    path = "/tts/websocket"
    query = ""
    answers = False

    def __init__(self) -> None:
        self._contexts = 0
        self._open = False

    def text(self, delta: str) -> Sequence[str]:
        self._contexts += not self._open
        self._open = True
        return [self._packed(delta, True)]

    def end(self) -> Sequence[str]:
        self._open = False
        return [self._packed("", False)]

    def interrupt(self) -> Sequence[str]:
        self._open = False
        return [json.dumps({"context_id": self._context, "cancel": True})]

    def sound(self, message: str | bytes) -> bytes | None:
        fields: dict[str, Any] = json.loads(message)
        if fields["type"] == "error":
            raise DialectFailed(str(fields["message"]))
        if fields["context_id"] != self._context:
            return b""  # of a turn before, on its way when that was interrupted
        if fields["type"] == "chunk":
            return base64.b64decode(fields["data"])
        return None if fields["type"] == "done" else b""

    @property
    def _context(self) -> str:
        return f"turn-{self._contexts}"

    def _packed(self, text: str, goes_on: bool) -> str:
        raw = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": RATE_HZ}
        spoken = {"transcript": text, "continue": goes_on, "context_id": self._context}
        return json.dumps({**spoken, "model_id": "parley", "voice": "default", "output_format": raw})


class Deepgram:
    """`/v1/speak`."""

    path = "/v1/speak"
    query = f"encoding=linear16&sample_rate={RATE_HZ}"
    answers = True
    _stop = "Clear"
    _last = ("Flushed", "Cleared")

    def text(self, delta: str) -> Sequence[str]:
        return [json.dumps({"type": "Speak", "text": delta})]

    def end(self) -> Sequence[str]:
        return [json.dumps({"type": "Flush"})]

    def interrupt(self) -> Sequence[str]:
        return [json.dumps({"type": self._stop})]

    def sound(self, message: str | bytes) -> bytes | None:
        if isinstance(message, bytes):
            return message
        fields: dict[str, Any] = json.loads(message)
        if fields["type"] == "Error":
            raise DialectFailed(str(fields["description"]))
        return None if fields["type"] in self._last else b""


class Flux(Deepgram):
    """`/v2/speak`."""

    path = "/v2/speak"
    _stop = "Interrupt"
    _last = ("SpeechMetadata", "SpeechInterrupted")


class Realtime:
    """OpenAI's realtime socket: a response speaks a text that is there as a whole."""

    path = "/v1/realtime"
    query = "model=parley"
    answers = True

    def __init__(self) -> None:
        self._text: list[str] = []

    def text(self, delta: str) -> Sequence[str]:
        self._text.append(delta)
        return ()

    def end(self) -> Sequence[str]:
        content = [{"type": "input_text", "text": "".join(self._text)}]
        self._text.clear()
        item = {"type": "message", "role": "user", "content": content}
        return [json.dumps({"type": "response.create", "response": {"input": [item]}})]

    def interrupt(self) -> Sequence[str]:
        asked = not self._text
        self._text.clear()
        return [json.dumps({"type": "response.cancel"})] if asked else ()

    def sound(self, message: str | bytes) -> bytes | None:
        fields: dict[str, Any] = json.loads(message)
        match fields["type"]:
            case "response.output_audio.delta":
                return base64.b64decode(fields["delta"])
            case "error":
                raise DialectFailed(str(fields["error"]["message"]))
            case "response.done":
                return None
        return b""


class Steered:
    """See `bench_dialects.Speaker`."""

    def __init__(self, wire: SteeredWire, url: str, session: str, key: str | None) -> None:
        """url: of the server, its scheme http or ws, its path is not looked at."""
        self._wire = wire
        parts = urlsplit(url)
        scheme = "wss" if parts.scheme in ("https", "wss") else "ws"
        self._url = urlunsplit((scheme, parts.netloc, f"/s/{session}{wire.path}", wire.query, ""))
        self._headers = {"Authorization": f"Token {key}"} if key is not None else {}
        self._socket: ClientConnection | None = None
        self._over = anyio.Event()
        self._writing = anyio.CancelScope()

    async def speak(self, deltas: AsyncIterator[str], hear: Hear) -> None:
        """See `Speaker`."""
        self._over, self._writing = anyio.Event(), anyio.CancelScope()
        over, socket = self._over, await self._connected()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, socket, deltas)
                tasks.start_soon(_watch, over, tasks.cancel_scope)
                while (sound := self._wire.sound(await socket.recv())) is not None:
                    if sound:
                        hear(sound)
                over.set()
        except BaseExceptionGroup as errors:
            if not isinstance(error := leaf(errors), ConnectionClosed):
                raise error from None
            self._socket = None
            raise DialectFailed("the server closed the connection") from None
        finally:
            over.set()

    async def interrupt(self) -> None:
        """See `Speaker`."""
        self._writing.cancel()
        socket, messages = self._socket, self._wire.interrupt()
        if socket is not None and messages and not self._over.is_set():
            with suppress(ConnectionClosed):
                for message in messages:
                    await socket.send(message)
            if self._wire.answers:
                await self._over.wait()
        self._over.set()

    async def close(self) -> None:
        """See `Speaker`."""
        if self._socket is not None:
            await self._socket.close()

    async def _connected(self) -> ClientConnection:
        if self._socket is None:
            self._socket = await dialled(self._url, self._headers)
        return self._socket

    async def _write(self, socket: ClientConnection, deltas: AsyncIterator[str]) -> None:
        with self._writing, suppress(ConnectionClosed):  # whoever listens is told as well
            async for delta in deltas:
                for message in self._wire.text(delta):
                    await socket.send(message)
            for message in self._wire.end():
                await socket.send(message)


async def _watch(over: anyio.Event, scope: anyio.CancelScope) -> None:
    await over.wait()
    scope.cancel()


def _of(wire: Callable[[], SteeredWire]) -> Callable[[str, str, str | None], Speaker]:
    return lambda url, session, key: Steered(wire(), url, session, key)


STEERED: Final[Mapping[str, Callable[[str, str, str | None], Speaker]]] = {
    "cartesia": _of(Cartesia),
    "deepgram": _of(Deepgram),
    "deepgram-flux": _of(Flux),
    "openai-realtime": _of(Realtime),
}
"""As `bench_dialects.SPEAKERS`."""
