"""What the probes of `bench conversation` have in common: a client who plays what it hears, and a network that fails on purpose.

Knows sound as PCM with its place in the turn. Does not know promises.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import anyio
import anyio.abc
import numpy as np
import numpy.typing as npt

from protocol.client import AudioChunk, Client, Turn, TurnItem, connect
from protocol.commands import PlaybackState
from protocol.config import AudioConfig, Format, OutputConfig
from protocol.messages import Event, SessionUpdate, TurnDone
from realtime.audio import PCM_RATES_HZ

REPORT_S: Final = 0.2  # the shortest interval that the protocol asks for


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the probes play."""

    url: str
    key: str | None
    now: Callable[[], float]  # s, monotonic
    seed: int
    frame_ms: float | None  # of the codec; None: the server does not say
    turns: int  # of the long conversation
    barge_ins: int  # among them

    @asynccontextmanager
    async def client(
        self,
        fields: Mapping[str, object],
        url: str | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> AsyncIterator[Client]:
        """A new session, 16-bit PCM at the model's rate, with these fields of `session.update`."""
        async with connect(url or self.url, token=self.key, on_event=on_event, renew_s=0) as client:
            rate = client.session.sample_rate if client.session.sample_rate in PCM_RATES_HZ else PCM_RATES_HZ[-1]
            audio = AudioConfig(output=OutputConfig(format=Format.PCM_S16LE, rate=rate))
            await client.update(SessionUpdate.model_validate({"audio": audio, **fields}))
            yield client


@dataclass(slots=True)
class Take:
    """One turn, as a client got it."""

    text: str
    rate: int  # Hz
    chunks: list[tuple[float, AudioChunk]] = field(default_factory=list)  # (when it came, in s)
    events: list[tuple[float, TurnItem]] = field(default_factory=list)  # the rest
    done: TurnDone | None = None

    def add(self, item: TurnItem, at: float) -> None:
        """Another item came."""
        if isinstance(item, AudioChunk):
            self.chunks.append((at, item))
            return
        self.events.append((at, item))
        if isinstance(item, TurnDone):
            self.done = item

    @property
    def sent_ms(self) -> float:
        """The end of the newest sound."""
        return self.end_ms(self.chunks[-1][1]) if self.chunks else 0.0

    def end_ms(self, chunk: AudioChunk) -> float:
        """The place of its last sample."""
        return 1000 * (chunk.position + len(chunk.payload) // 2) / self.rate

    def samples(self) -> npt.NDArray[np.float32]:
        """The sound of the turn, [n], in [-1, 1]; what came twice counts once."""
        end = max((chunk.position + len(chunk.payload) // 2 for _, chunk in self.chunks), default=0)
        sound = np.zeros(end, np.float32)
        for _, chunk in self.chunks:
            pcm = np.frombuffer(chunk.payload, "<i2").astype(np.float32) / 32768
            sound[chunk.position : chunk.position + len(pcm)] = pcm
        return sound

    def broken(self) -> int:
        """Places where sound is missing or came twice."""
        places = [0] + [chunk.position + len(chunk.payload) // 2 for _, chunk in self.chunks]
        return sum(chunk.position != place for (_, chunk), place in zip(self.chunks, places, strict=False))


async def taken(stage: Stage, client: Client, turn: Turn, text: str) -> Take:
    """A turn to its end."""
    take = Take(text, client.config.audio.output.rate)
    async for item in turn:
        take.add(item, stage.now())
    return take


class Listener:
    """Plays from the first sound on, without a pause, and tells the server how far it is."""

    def __init__(self, stage: Stage, turn: Turn, take: Take) -> None:
        self._stage = stage
        self._turn = turn
        self._take = take
        self.stopped_at: float | None = None  # s, it stands still from then on

    @property
    def heard_ms(self) -> float:
        """How much was heard by now."""
        if not self._take.chunks:
            return 0.0
        now = self._stage.now() if self.stopped_at is None else self.stopped_at
        return min(self._take.sent_ms, 1000 * (now - self._take.chunks[0][0]))

    async def report(self) -> None:
        """Report until cancelled."""
        while True:
            if self._take.chunks:
                state = PlaybackState.PLAYING if self.stopped_at is None else PlaybackState.STALLED
                await self._turn.played(round(self.heard_ms), state)
            await anyio.sleep(REPORT_S)

    async def stop(self) -> None:
        """Stand still, and say so at once."""
        self.stopped_at = self._stage.now()
        await self._turn.played(round(self.heard_ms), PlaybackState.STALLED)


class Network:
    """A way to the server that can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._ways: set[anyio.CancelScope] = set()

    def cut(self) -> None:
        """Everything that is connected breaks off, without a word."""
        for way in list(self._ways):
            way.cancel()

    async def carry(self, near: anyio.abc.SocketStream) -> None:
        """One connection, there and back."""
        async with near, await anyio.connect_tcp(self._host, self._port) as far:
            with anyio.CancelScope() as way:
                self._ways.add(way)
                try:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(_pass_on, near, far, way)
                        await _pass_on(far, near, way)
                finally:
                    self._ways.discard(way)
                    for end in (near, far):
                        _reset(end)


@asynccontextmanager
async def network(url: str) -> AsyncIterator[tuple[Network, str]]:
    """A network between a client and the server at `url` (ws://), and the address at its near end."""
    parts = urlsplit(url)
    way = Network(parts.hostname or "127.0.0.1", parts.port or 80)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, way.carry)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        try:
            yield way, urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
        finally:
            tasks.cancel_scope.cancel()


async def _pass_on(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream, way: anyio.CancelScope) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for data in source:
            await sink.send(data)
    way.cancel()


def _reset(end: anyio.abc.SocketStream) -> None:
    """Let it end as a lost network ends it: no closing handshake, nothing that waits is sent."""
    raw = end.extra(anyio.abc.SocketAttribute.raw_socket)
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
