"""A telephone at Twilio, without Twilio: its half of Media Streams, as its service was seen to behave.

`Handset` is the part that holds sound: what is sent is played in order and in real time, a mark comes back when the sound before it was
played, and a `clear` empties the buffer and sends every mark back at once; the caller's sound goes up as 20 ms of mu-law each. `Phone`
connects one to a server. Unrealistic: no jitter, no loss, no delay on the way.
"""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from protocol.client import connect as open_session
from protocol.messages import Dtmf, Event, LegAttached, LegDetached, Status
from realtime.audio import to_int16
from realtime.g711 import encode_mulaw
from realtime.hearing_sounds import Sound
from realtime.resample import Resampler
from tests.realtime.sockets import KEY

STREAM = "MZ18ad3ab5a668481ce02b83e7395059f0"
CALL = "CA0123456789abcdef0123456789abcdef"
QUIET = b"\xff" * 160
TICK_S = 0.02


def start(parameters: Mapping[str, str] | None = None, **changes: Any) -> list[str]:
    """The first two messages of a call, as Twilio sends them."""
    fields = {
        "accountSid": "AC0123456789abcdef0123456789abcdef",
        "streamSid": STREAM,
        "callSid": CALL,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": dict(parameters or {}),
        **changes,
    }
    return [
        json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}),
        json.dumps({"event": "start", "sequenceNumber": "1", "start": fields, "streamSid": STREAM}),
    ]


def media(payload: bytes, number: int = 1) -> str:
    """20 ms of the caller."""
    body = {
        "track": "inbound",
        "chunk": str(number),
        "timestamp": str(number * 20),
        "payload": base64.b64encode(payload).decode(),
    }
    return json.dumps({"event": "media", "sequenceNumber": str(number + 1), "media": body, "streamSid": STREAM})


def echo(name: str) -> str:
    """A mark that comes back."""
    return json.dumps({"event": "mark", "sequenceNumber": "9", "streamSid": STREAM, "mark": {"name": name}})


def dtmf(digit: str) -> str:
    """A key that is pressed."""
    body = {"track": "inbound_track", "digit": digit}
    return json.dumps({"event": "dtmf", "streamSid": STREAM, "sequenceNumber": "5", "dtmf": body})


def stop() -> str:
    """The caller hangs up."""
    body = {"accountSid": "AC0123456789abcdef0123456789abcdef", "callSid": CALL}
    return json.dumps({"event": "stop", "sequenceNumber": "7", "stop": body, "streamSid": STREAM})


def as_mulaw(sound: Sound) -> list[bytes]:
    """Sound at 16 kHz as a telephone sends it, 20 ms each."""
    resampler = Resampler(16_000, 8_000)
    coded = encode_mulaw(to_int16(np.concatenate((resampler.push(sound), resampler.finish()))))
    return [coded[at : at + 160] for at in range(0, len(coded) - 159, 160)]


class Handset:
    """What is between the wire and the caller's ear and mouth. Time passes in ticks of 20 ms."""

    def __init__(self) -> None:
        self.heard = b""  # what was played to the caller
        self.played: list[str] = []  # names of the marks that came back because of that
        self.buffered = 0  # bytes that wait to be played
        self.most_buffered = 0
        self.sent: list[dict[str, Any]] = []  # what the server sent, without sound
        self.clears = 0
        self._line: deque[bytes | str] = deque()  # sound to be played, and marks behind it
        self._mouth: deque[bytes] = deque()
        self.ticks = 0  # of 20 ms that have passed

    def say(self, sound: Sound) -> None:
        """The caller speaks, from now on."""
        self._mouth.extend(as_mulaw(sound))

    @property
    def speaking(self) -> bool:
        """Whether the caller does."""
        return bool(self._mouth)

    def take(self, message: str) -> list[str]:
        """The server sent this; the answers."""
        fields = json.loads(message)
        assert fields["streamSid"] == STREAM, "every message names the stream"
        if fields["event"] == "media":
            assert fields["media"].keys() == {"payload"}, "Twilio takes nothing else there"
            payload = base64.b64decode(fields["media"]["payload"], validate=True)
            assert payload and len(payload) % 160 == 0, "20 ms are the unit"
            self._line.extend(payload[at : at + 160] for at in range(0, len(payload), 160))
            self.buffered += len(payload)
            self.most_buffered = max(self.most_buffered, self.buffered)
            return []
        self.sent.append(fields)
        if fields["event"] == "mark":
            self._line.append(fields["mark"]["name"])
            return []
        assert fields["event"] == "clear", "there is nothing else"
        self.clears += 1
        names = [item for item in self._line if isinstance(item, str)]
        self._line.clear()
        self.buffered = 0
        return [echo(name) for name in names]

    def tick(self) -> list[str]:
        """20 ms pass; what is sent in them."""
        self.ticks += 1
        sent: list[str] = []
        while self._line and isinstance(self._line[0], str):
            self.played.append(str(self._line.popleft()))
            sent.append(echo(self.played[-1]))
        if self._line:
            self.heard += bytes(self._line.popleft())  # type: ignore[arg-type]
            self.buffered -= 160
        return [*sent, media(self._mouth.popleft() if self._mouth else QUIET, self.ticks)]


class Phone(Handset):
    """One that calls a server. Call `say`, `press` and `hang_up` while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.code: int | None = None  # of the close
        self._keys: deque[str] = deque()
        self._changed = anyio.Event()

    def press(self, digit: str) -> None:
        """The caller presses a key."""
        self._keys.append(dtmf(digit))

    def hang_up(self) -> None:
        """The caller has had enough."""
        self._keys.append(stop())

    async def until(self, so: Callable[[], bool]) -> None:
        """Wait until this is so, or the call has ended."""
        while self.code is None and not so():
            await self._changed.wait()

    async def until_ended(self) -> None:
        """Wait until one side has hung up."""
        await self.until(lambda: False)

    async def until_heard(self, ms: int) -> None:
        """Wait until the caller has heard so much more."""
        enough = len(self.heard) + ms * 8
        await self.until(lambda: len(self.heard) >= enough)

    async def until_cleared(self, times: int) -> None:
        """Wait until the buffer was cleared so often."""
        await self.until(lambda: self.clears >= times)

    async def run(
        self, url: str, parameters: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Call, until one side hangs up."""
        async with connect(url, additional_headers=headers, compression=None, proxy=None) as ws:
            for message in start(parameters):
                await ws.send(message)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._pass_time, ws)
                async for message in ws:
                    for answer in self.take(str(message)):
                        await ws.send(answer)
                    self._tell()
                tasks.cancel_scope.cancel()
            self.code = ws.close_code
            self._tell()

    async def _pass_time(self, ws: ClientConnection) -> None:
        at = anyio.current_time()
        while True:
            try:
                for message in self.tick():
                    await ws.send(message)
                while self._keys:
                    await ws.send(self._keys.popleft())
            except ConnectionClosed:
                return
            self._tell()
            at += TICK_S
            await anyio.sleep_until(at)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


async def call_into_a_session(live: str, twilio: str) -> tuple[Phone, list[Dtmf]]:
    """Begin a session at one address and speak to its telephone, which calls the other. The phone, and its keys as the session saw them."""
    events: list[Event] = []

    async def until_told(kind: type[Event]) -> None:
        while not any(isinstance(event, kind) for event in events):
            await anyio.sleep(0.01)

    async with open_session(live, token=KEY, on_event=events.append) as client, anyio.create_task_group() as tasks:
        phone = Phone()
        tasks.start_soon(phone.run, twilio, {"session": client.session.session, "token": KEY})
        await until_told(LegAttached)
        turn = client.speak(["Hello on the phone."])
        done = await turn.finish()
        assert done.status is Status.COMPLETED
        await phone.until(lambda: len(phone.heard) >= done.audio_ms * 8)
        phone.press("4")
        phone.hang_up()
        await phone.until_ended()
        await until_told(LegDetached)
    return phone, [event for event in events if isinstance(event, Dtmf)]
