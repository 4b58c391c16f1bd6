"""The benchmark's telephone: a call at a native session, with Twilio's half of the wire played here.

Knows a call's messages as Twilio sends and reads them, and how a telephone plays. Does not know load, texts or figures. The turns are said
by a client of our own protocol, as an application does; the caller interrupts by a key.
"""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import anyio
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from realtime.bench_dialects import CONNECT_S, RATE_HZ, DialectFailed, Hear
from realtime.failure import leaf
from realtime.g711_expanding import decode_mulaw

PHONE_HZ: Final = 8_000
STREAM: Final = "MZ00000000000000000000000000000001"
_FORMAT: Final = {"encoding": "audio/x-mulaw", "sampleRate": PHONE_HZ, "channels": 1}


class Telephone:
    """See `bench_dialects.Speaker`. Between turns nobody listens: marks of what is played then come back when the next one begins."""

    def __init__(self, url: str, session: str, key: str | None) -> None:
        """url: of the server, its scheme http or ws, its path is not looked at. session: has an id of its own."""
        parts = urlsplit(url)
        scheme = "wss" if parts.scheme in ("https", "wss") else "ws"
        self._live = urlunsplit((scheme, parts.netloc, "/v1/live", "", ""))
        self._twilio = urlunsplit((scheme, parts.netloc, "/twilio", "", ""))
        self._key = key
        self._client: ClientConnection | None = None
        self._phone: ClientConnection | None = None
        self._turns = 0
        self._line: deque[tuple[float, str]] = deque()  # seconds to be played, and the mark behind them
        self._waiting_s = 0.0  # to be played, without a mark yet
        self._came = anyio.Event()  # something to be played
        self._playing = anyio.CancelScope()
        self._cleared = anyio.Event()
        self._marked = ""  # the newest mark
        self._changed = anyio.Event()

    async def speak(self, deltas: AsyncIterator[str], hear: Hear) -> None:
        """See `Speaker`."""
        client, phone = await self._connected()
        self._turns += 1
        turn = f"t{self._turns}"
        while self._line:  # of the turn before, which was played while nobody listened
            await phone.send(_message("mark", {"name": self._line.popleft()[1]}))
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, phone, hear)
                tasks.start_soon(self._play, phone)
                tasks.start_soon(self._say, client, turn, deltas)
                done = await _event(client, "turn.done", turn)
                if done["status"] == "failed":
                    raise DialectFailed(str(done.get("reason")))
                while done["status"] == "completed" and not self._heard(turn, int(done["audio_ms"])):
                    await self._changed.wait()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            error = leaf(errors)
            raise (DialectFailed("the call was lost") if isinstance(error, ConnectionClosed) else error) from None

    async def interrupt(self) -> None:
        """See `Speaker`: a key, until the telephone is told to be silent."""
        assert self._phone is not None, "there is something to interrupt"
        self._cleared = anyio.Event()
        await self._phone.send(_message("dtmf", {"track": "inbound_track", "digit": "1"}))
        await self._cleared.wait()

    async def close(self) -> None:
        """See `Speaker`."""
        for socket in (self._phone, self._client):
            if socket is not None:
                await socket.close()

    async def _connected(self) -> tuple[ClientConnection, ClientConnection]:
        if self._client is None or self._phone is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key is not None else {}
            options: dict[str, Any] = {"compression": None, "proxy": None, "open_timeout": CONNECT_S}
            try:
                self._client = await connect(self._live, additional_headers=headers, **options)
                self._phone = await connect(self._twilio, additional_headers=headers, **options)
            except InvalidHandshake as error:
                raise DialectFailed(f"no handshake: {error}") from error
            created = await _event(self._client, "session.created")
            parameters = {"session": created["session"], "barge_in": "off", "dtmf": "cancel"}
            start = {"streamSid": STREAM, "callSid": "CA1", "mediaFormat": _FORMAT, "customParameters": parameters}
            await self._phone.send(_message("start", start))
            await _event(self._client, "leg.attached")
        return self._client, self._phone

    def _heard(self, turn: str, audio_ms: int) -> bool:
        """Whether all of a turn came; a mark's time is rounded down."""
        name, _, at_ms = self._marked.rpartition(":")
        return name == turn and int(at_ms) >= audio_ms - 1

    async def _say(self, client: ClientConnection, turn: str, deltas: AsyncIterator[str]) -> None:
        with suppress(ConnectionClosed):  # whoever listens is told as well
            async for delta in deltas:
                await client.send(json.dumps({"type": "text.append", "turn": turn, "text": delta}))
            await client.send(json.dumps({"type": "turn.end", "turn": turn}))

    async def _listen(self, phone: ClientConnection, hear: Hear) -> None:
        while True:
            fields = json.loads(await phone.recv())
            if fields["event"] == "media":
                sound = base64.b64decode(fields["media"]["payload"])
                hear(np.repeat(decode_mulaw(sound), RATE_HZ // PHONE_HZ).astype("<i2").tobytes())
                self._waiting_s += len(sound) / PHONE_HZ
            elif fields["event"] == "mark":
                self._marked = fields["mark"]["name"]
                self._line.append((self._waiting_s, self._marked))
                self._waiting_s = 0.0
                self._came.set()
                self._changed.set()
                self._changed = anyio.Event()
            elif fields["event"] == "clear":
                names, self._waiting_s = [name for _, name in self._line], 0.0
                self._line.clear()
                self._playing.cancel()
                self._cleared.set()
                for name in names:
                    await phone.send(_message("mark", {"name": name}))

    async def _play(self, phone: ClientConnection) -> None:
        """From mark to mark: what comes between two of them is played while the next comes."""
        while True:
            if not self._line:
                self._came = anyio.Event()
                await self._came.wait()
                continue
            with anyio.CancelScope() as self._playing:
                await anyio.sleep(self._line[0][0])
                await phone.send(_message("mark", {"name": self._line.popleft()[1]}))


def _message(event: str, body: dict[str, Any]) -> str:
    return json.dumps({"event": event, "streamSid": STREAM, event: body})


async def _event(client: ClientConnection, kind: str, turn: str | None = None) -> dict[str, Any]:
    """The next of this type, and of this turn. Raises DialectFailed for an error that comes instead."""
    while True:
        message = await client.recv()
        fields: dict[str, Any] = json.loads(message) if isinstance(message, str) else {}
        if fields.get("type") == "error":
            raise DialectFailed(str(fields["message"]))
        if fields.get("type") == kind and turn in (None, fields.get("turn")):
            return fields
