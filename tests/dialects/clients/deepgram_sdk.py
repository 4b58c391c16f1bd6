"""deepgram-sdk on both sockets: a turn, one that is interrupted, and a last one; then sound over HTTP."""

import json
import sys
import time
from pathlib import Path

from deepgram import DeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment
from deepgram.speak.v1.types import SpeakV1Text
from deepgram.speak.v2.types import SpeakV2Interrupt, SpeakV2InterruptPlaybackOffset, SpeakV2Speak

url, folder, key = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
LONG = [
    "The captain painted the boat. ",
    "The sailor sold the ladder. ",
    "The nurse carried the clock to the old pilot. ",
]
SOUND = {"encoding": "linear16", "sample_rate": "24000"}


def client(session: str = "", shown: str = key) -> DeepgramClient:
    http = url + session
    ws = http.replace("http", "ws", 1)
    return DeepgramClient(
        api_key=shown,
        environment=DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http),
    )


def listen(socket, until: str, interrupt=None, after_s: float = 1.5) -> dict:
    """interrupt: called so long after the first sound; what comes is read until `until` all the same."""
    started, first, last, size, told = time.monotonic(), None, None, 0, []
    interrupted = None
    while True:
        message = socket.recv()
        now = time.monotonic()
        if isinstance(message, bytes):
            first, last = first or now, now
            size += len(message)
        else:
            told.append(message.dict())
            if message.type == until:
                return {
                    "audio_s": size / 48_000,
                    "first_s": first and first - started,
                    "took_s": first and last - first,
                    "told": told,
                    "answer_s": interrupted and now - interrupted,
                }
        if interrupt is not None and interrupted is None and first and now - first >= after_s <= size / 48_000:
            interrupted = now
            interrupt()


turns = {}
with client("/s/deepgram-one").speak.v1.connect(model="aura-2-thalia-en", **SOUND) as socket:
    kinds = [socket.recv().type]
    for text in ("The young nurse found the map. ", "He sold it."):
        socket.send_text(SpeakV1Text(text=text))
    socket.send_flush()
    one = listen(socket, "Flushed")
    for text in LONG:
        socket.send_text(SpeakV1Text(text=text))
    socket.send_flush()
    two = listen(socket, "Cleared", socket.send_clear)
    socket.send_text(SpeakV1Text(text="The baker forgot the violin."))
    socket.send_flush()
    turns["one"] = [one, two, listen(socket, "Flushed")]
    socket.send_close()

with client("/s/deepgram-two").speak.v2.connect(model="flux-heather-en", **SOUND) as socket:
    kinds.append(socket.recv().type)
    for text in ("The young pilot found the map. ", "He sold it."):
        socket.send_speak(SpeakV2Speak(text=text))
    socket.send_flush()
    one = listen(socket, "SpeechMetadata")
    for text in LONG:
        socket.send_speak(SpeakV2Speak(text=text))
    socket.send_flush()
    before_ms = one["audio_s"] * 1000

    def interrupt() -> None:
        """Whoever plays as it comes has played a second of it now."""
        played = SpeakV2InterruptPlaybackOffset(type="time_ms", value=round(before_ms + 1000))
        socket.send_interrupt(SpeakV2Interrupt(playback_offset=played))

    two = listen(socket, "SpeechInterrupted", interrupt)
    socket.send_speak(SpeakV2Speak(text="The baker forgot the violin."))
    socket.send_flush()
    turns["two"] = [one, two, listen(socket, "SpeechMetadata")]
    socket.send_close()
    kinds.append(socket.recv().type)

plain = client()
sound = b"".join(plain.speak.v1.audio.generate(text="The old pilot sold it.", encoding="linear16", container="wav"))
(folder / "deepgram.wav").write_bytes(sound)
refusals = []
for wrong, text in ((plain, " "), (client(shown="wrong-wrong-wrong"), "Hello.")):
    try:
        b"".join(wrong.speak.v1.audio.generate(text=text))
    except ApiError as error:
        body = json.loads(error.body) if isinstance(error.body, str | bytes) else error.body
        refusals.append([error.status_code, (body if isinstance(body, dict) else body.dict())["err_code"]])
print(json.dumps({"turns": turns, "kinds": kinds, "refusals": refusals}))
