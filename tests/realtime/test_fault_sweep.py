"""The worst moment, for every moment: a connection is cancelled, or its client vanishes, after the N-th step, for every N.

All of the server's own code runs, over a socket that is a list: no network, no waiting. Unrealistic: the client's messages all wait when it
connects, and an engine's step takes no time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from starlette.websockets import WebSocket

from engine.api import EngineDied
from protocol.connection import decode_event
from protocol.messages import Event, TurnDone
from realtime.live import live
from realtime.scripted import Script, ScriptedEngine
from realtime.service import Service
from realtime.settings import Settings
from realtime.transport import EXTENSION
from tests.realtime.stage import words

Message = MutableMapping[str, Any]

CONVERSATION: tuple[dict[str, Any], ...] = (
    {
        "type": "session.update",
        "pacing": {"clock": "none"},
        "audio": {"output": {"format": "pcm_s16le", "rate": 24000}},
    },
    {"type": "text.append", "turn": "a", "text": words(6)},
    {"type": "mark", "turn": "a", "name": "m"},
    {"type": "turn.end", "turn": "a"},
    {"type": "text.append", "turn": "b", "text": words(20)},
    {"type": "turn.pause"},
    {"type": "turn.resume"},
    {"type": "turn.cancel", "turn": "b", "scope": "turn"},
    {"type": "context.truncate", "turn": "b", "played_ms": 0},
    {"type": "text.append", "turn": "c", "text": words(4)},
    {"type": "turn.end", "turn": "c"},
)


class Peer:
    """A client, its network, and what the endpoint needs of a socket (`realtime.transport.LiveSocket`)."""

    def __init__(self, vanishes_after: int | None = None) -> None:
        """vanishes_after: messages that reach it before its connection breaks, for good."""
        self.writable = asyncio.Event()
        self.writable.set()
        self.pong_at = 0.0
        self.farewell = False
        self.received: list[str | bytes] = []
        self._vanishes_after = vanishes_after
        self._to_send: list[Message] = [{"type": "websocket.connect"}]
        self._to_send += [{"type": "websocket.receive", "text": json.dumps(message)} for message in CONVERSATION]
        self._broken = asyncio.Event()

    @property
    def unread(self) -> bool:
        return bool(self._to_send) and not self._broken.is_set()

    def abort(self) -> None:
        self._broken.set()

    @contextmanager
    def corked(self) -> Iterator[None]:
        yield

    def put(self, message: bytes | str) -> None:
        if len(self.received) == self._vanishes_after:
            self._broken.set()
        if self._broken.is_set():
            raise OSError("the connection is broken")
        self.received.append(message)

    async def receive(self) -> Message:
        if self._to_send and not self._broken.is_set():
            return self._to_send.pop(0)
        await self._broken.wait()
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(self, message: Message) -> None:
        if message["type"] == "websocket.accept":
            return
        if message["type"] == "websocket.send":
            self.put(message.get("text") or message["bytes"])
        elif self._broken.is_set():
            raise OSError("the connection is broken")

    @property
    def events(self) -> list[Event]:
        found = [decode_event(message) for message in self.received if isinstance(message, str)]
        return [event for event in found if event is not None]

    def connect(self, service: Service) -> WebSocket:
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": "/v1/live",
            "query_string": b"",
            "headers": [],
            "subprotocols": [],
            "extensions": {EXTENSION: self},
            "app": SimpleNamespace(state=SimpleNamespace(service=service)),
        }
        return WebSocket(scope, self.receive, self.send)


async def serve(peer_of: Any, during: Any, script: Script | None = None) -> tuple[ScriptedEngine, Peer, Service]:
    """A server with one connection, while `during(task, peer)` runs; then the server ends."""
    engine = ScriptedEngine(script or Script(frames_per_char=0.3))
    service = Service(Settings(port=0), engine, asyncio.get_running_loop().time, lambda: 0.0)
    peer = peer_of()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.run)
        await service.until_ready()
        connection = asyncio.get_running_loop().create_task(live(peer.connect(service)))
        await during(connection, peer)
        connection.cancel()
        await asyncio.wait([connection])
        assert connection.cancelled() or connection.exception() is None
        assert not service.sockets, "the socket is let go"
        for session in service.sessions:
            session.end()
        await anyio.wait_all_tasks_blocked()
        assert not engine.streams, "every stream is ended"
        assert not len(service.sessions), "no session is left"
        tasks.cancel_scope.cancel()
    return engine, peer, service


def ended(peer: Peer) -> list[str]:
    """The turns whose end was told, in the order of their names; one that was told twice is there twice."""
    return sorted(event.turn for event in peer.events if isinstance(event, TurnDone))


async def all_done(connection: asyncio.Task[None], peer: Peer) -> None:
    while sum(isinstance(event, TurnDone) for event in peer.events) < 3 and not connection.done():
        await asyncio.sleep(0)


def test_without_a_fault_every_turn_ends() -> None:
    _, peer, _ = asyncio.run(serve(Peer, all_done))
    done = {event.turn: event.status for event in peer.events if isinstance(event, TurnDone)}
    assert done == {"a": "completed", "b": "cancelled", "c": "completed"}


@pytest.mark.parametrize("step", range(80))
def test_a_connection_may_be_cancelled_at_any_step(step: int) -> None:
    async def cancel(connection: asyncio.Task[None], peer: Peer) -> None:
        for _ in range(step):
            await asyncio.sleep(0)

    _, peer, _ = asyncio.run(serve(Peer, cancel))
    assert ended(peer) == sorted(set(ended(peer))), "a turn ends once"


@pytest.mark.parametrize("message", range(30))
def test_a_client_may_vanish_at_any_message(message: int) -> None:
    async def vanish(connection: asyncio.Task[None], peer: Peer) -> None:
        await asyncio.wait([connection])

    _, peer, _ = asyncio.run(serve(lambda: Peer(vanishes_after=message), vanish))
    assert len(peer.received) == message
    assert ended(peer) == sorted(set(ended(peer))), "a turn ends once"


@pytest.mark.parametrize("step", range(2, 30))
def test_the_engine_may_fail_at_any_step(step: int) -> None:
    script = Script(frames_per_char=0.3, errors={step: EngineDied()})
    _, peer, _ = asyncio.run(serve(Peer, all_done, script))
    assert ended(peer) == sorted(set(ended(peer))), "a turn ends once"
    done = {event.turn: str(event.status) for event in peer.events if isinstance(event, TurnDone)}
    assert sorted(done) == ["a", "b", "c"]
    assert "failed" in done.values() or step >= 12, "the first turn has more frames"
