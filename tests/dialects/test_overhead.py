"""What a dialect costs: first audio comes as soon as it does natively.

Other things that the machine does must not decide it. So what is measured is the time that the processor works, of server and client
together, from a request to its first sound. And until that is heard, there is but one frame of the model's: what needs more never comes.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from time import process_time
from urllib.parse import urlsplit

import ormsgpack
from anyio.to_thread import run_sync
from websockets.sync.client import ClientConnection, connect

from realtime.scripted import Script, ScriptedEngine
from tests.realtime.sockets import PATIENCE_S, PLAINLY, serving

TEXT = "Hello there, how are you today?"
SCRIPT = Script(frames_per_char=0.1)
TURNS = 15
BOUND_S = 0.005
PCM = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24_000}
MULAW = {"encoding": "audio/x-mulaw", "sampleRate": 8_000, "channels": 1}

Heard = Callable[[], None]  # is called with the first sound, and may be called with others
Speak = Callable[[Heard], None]


@dataclass(frozen=True)
class Wire:
    """A dialect's WebSocket. Every turn has a number."""

    path: str
    says: Callable[[int], list[str | bytes]]
    sounds: Callable[[str | bytes], bool]
    ends: Callable[[str | bytes], bool]


class Gate:
    """The pace of an engine: the frames behind a turn's first wait until a sound of it was heard."""

    def __init__(self) -> None:
        self._frames = 0
        self._heard = threading.Event()
        self._heard.set()

    def begin(self) -> None:
        self._frames = 0
        self._heard.clear()

    def heard(self) -> None:
        self._heard.set()

    async def sleep(self, seconds: float) -> None:
        self._frames += 1
        if self._frames > 1:
            await run_sync(self._heard.wait, 2 * PATIENCE_S)  # a client is out of patience before


def binary(message: str | bytes) -> bool:
    return isinstance(message, bytes)


def has(*parts: str) -> Callable[[str | bytes], bool]:
    return lambda message: isinstance(message, str) and all(part in message for part in parts)


def unpacked(event: str) -> Callable[[str | bytes], bool]:
    return lambda message: ormsgpack.unpackb(message)["event"] == event  # type: ignore[arg-type]


def packed(event: str, **fields: object) -> bytes:
    return ormsgpack.packb({"event": event, **fields})


def texts(*messages: dict[str, object]) -> list[str | bytes]:
    return [json.dumps(message) for message in messages]


def response() -> dict[str, object]:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": TEXT}]}
    return {"type": "response.create", "response": {"input": [said]}}


WIRES = {
    "fish": Wire(
        "/v1/tts/live",
        lambda turn: [
            packed("start", request={"text": "", "format": "pcm", "latency": "low"}),
            packed("text", text=TEXT),
            packed("stop"),
        ],
        unpacked("audio"),
        unpacked("finish"),
    ),
    "openai-stream": Wire(
        "/v1/audio/speech/stream",
        lambda turn: texts(
            {"type": "session.config", "response_format": "pcm", "stream_audio": True},
            {"type": "input.text", "text": TEXT},
            {"type": "input.done"},
        ),
        binary,
        has("session.done"),
    ),
    "elevenlabs": Wire(
        "/v1/text-to-speech/default/multi-stream-input?output_format=pcm_24000",
        lambda turn: texts(
            {"text": TEXT, "context_id": f"c{turn}"},
            {"context_id": f"c{turn}", "flush": True},
            {"context_id": f"c{turn}", "close_context": True},
        ),
        has('"audio": "'),
        has('"isFinal": true'),
    ),
    "cartesia": Wire(
        "/tts/websocket",
        lambda turn: texts({"context_id": f"c{turn}", "transcript": TEXT, "voice": "x", "output_format": PCM}),
        has('"chunk"'),
        has('"done": true'),
    ),
    "deepgram": Wire(
        "/v1/speak", lambda turn: texts({"type": "Speak", "text": TEXT}, {"type": "Flush"}), binary, has('"Flushed"')
    ),
    "deepgram-flux": Wire(
        "/v2/speak",
        lambda turn: texts({"type": "Speak", "text": TEXT}, {"type": "Flush"}),
        binary,
        has("SpeechMetadata"),
    ),
    "openai-realtime": Wire(
        "/v1/realtime", lambda turn: texts(response()), has("response.output_audio.delta"), has('"response.done"')
    ),
}


def spoken(socket: ClientConnection, wire: Wire) -> Speak:
    turns = iter(range(1_000_000))

    def speak(heard: Heard) -> None:
        for message in wire.says(next(turns)):
            socket.send(message)
        while not wire.ends(message := socket.recv(PATIENCE_S)):
            if wire.sounds(message):
                heard()

    return speak


def openai(connection: http.client.HTTPConnection) -> Speak:
    connection.connect()

    def speak(heard: Heard) -> None:
        body = json.dumps({"input": TEXT, "response_format": "pcm"})
        connection.request("POST", "/v1/audio/speech", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read1(100)
        heard()
        answer.read()
        connection.close()
        connection.connect()  # one that was used is closed when it is idle for a while

    return speak


def twilio(client: ClientConnection, phone: ClientConnection) -> Speak:
    """A call that is a leg of a session; what it is sent is played at once."""
    session = json.loads(client.recv(PATIENCE_S))["session"]
    start = {"streamSid": "MZ1", "callSid": "CA1", "mediaFormat": MULAW, "customParameters": {"session": session}}
    phone.send(json.dumps({"event": "start", "start": start}))
    assert json.loads(client.recv(PATIENCE_S))["type"] == "leg.attached"

    def speak(heard: Heard) -> None:
        for message in texts({"type": "text.append", "text": TEXT}, {"type": "turn.end"}):
            client.send(message)
        marked_ms, played = 0, False
        while not played:
            fields = json.loads(phone.recv(PATIENCE_S))
            if fields["event"] == "media":
                heard()
            elif fields["event"] == "mark":
                marked_ms = int(fields["mark"]["name"].rpartition(":")[2])
                phone.send(json.dumps(fields))
                # The last mark of a turn is the only one that is not at a multiple of 200 ms.
                played = marked_ms % 200 != 0
        while '"turn.played"' not in str(client.recv(PATIENCE_S)):
            pass

    return speak


@contextmanager
def speaking(gate: Gate) -> Iterator[dict[str, Speak]]:
    """Natively and in every dialect."""
    output = {"format": "pcm_s16le", "rate": 24000, "frame_ms": 40}
    update = {"type": "session.update", "audio": {"output": output}, "pacing": {"clock": "none"}}
    native = Wire(
        "/v1/live",
        lambda turn: texts({"type": "text.append", "text": TEXT}, {"type": "turn.end"}),
        binary,
        has('"turn.done"'),
    )
    with serving(ScriptedEngine(SCRIPT, sleep=gate.sleep)) as url, ExitStack() as sockets:

        def dial(path: str) -> ClientConnection:
            return sockets.enter_context(connect(url.replace("http", "ws", 1) + path, **PLAINLY))

        live = dial(native.path)
        live.send(json.dumps(update))
        found = {"native": spoken(live, native)}
        found |= {name: spoken(dial(wire.path), wire) for name, wire in WIRES.items()}
        request = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
        sockets.callback(request.close)
        found["openai"] = openai(request)
        found["twilio"] = twilio(dial("/v1/live"), dial("/twilio"))
        yield found


def first_sound(speak: Speak, gate: Gate) -> float:
    """Seconds of work."""
    gate.begin()
    begun_s = process_time()
    work: list[float] = []

    def heard() -> None:
        work.append(process_time() - begun_s)
        gate.heard()

    speak(heard)
    return work[0]


def test_the_first_audio_of_a_dialect_is_not_later_than_the_native_one() -> None:
    gate = Gate()
    with speaking(gate) as speakers:
        for speak in speakers.values():
            first_sound(speak, gate)  # what is only done once
        work: dict[str, list[float]] = {name: [] for name in speakers}
        for _ in range(TURNS):
            for name, speak in speakers.items():  # in turn: the processor's pace changes
                work[name].append(first_sound(speak, gate))
    typical = {name: median(times) for name, times in work.items()}
    assert all(one - typical["native"] <= BOUND_S for one in typical.values()), typical
