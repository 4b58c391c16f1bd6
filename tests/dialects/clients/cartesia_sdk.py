"""cartesia: two utterances in pieces, the second of which is cancelled, and a third; then sound and events over HTTP."""

import json
import sys
import time
from pathlib import Path

import cartesia

url, folder, key = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
FORMAT = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24_000}
CANCEL_LATE_S = 0.5  # so that something is always under way to a client that cancels
COMMON = {"model_id": "sonic-3", "voice": {"mode": "id", "id": "a-voice-of-theirs"}, "output_format": FORMAT}


def client(session: str = "", shown: str = key) -> cartesia.Cartesia:
    address = url + session
    return cartesia.Cartesia(
        api_key=shown, base_url=address, websocket_base_url=address.replace("http", "ws", 1), max_retries=0
    )


def speak(connection, name: str, pieces: list[str], cancel_after_s: float | None = None) -> dict:
    context = connection.context(context_id=name, add_timestamps=True, max_buffer_delay_ms=0, **COMMON)
    started, first, size, words, kinds, strays = time.monotonic(), None, 0, [], [], []
    for piece in pieces:
        context.push(piece)
    context.no_more_inputs()
    for message in context.receive():
        if message.context_id != name:  # sent before the cancel came; the SDK hands it to whoever reads next
            strays.append({"of": message.context_id, "type": message.type, "behind": len(kinds)})
            continue
        now = time.monotonic()
        kinds.append(message.type)
        if message.type == "chunk":
            first, last = first or now, now
            size += len(message.audio)
        elif message.type == "timestamps":
            times = message.word_timestamps
            words += [[word, at] for word, at in zip(times.words, times.start, strict=True)]
        if cancel_after_s is not None and first and now - first >= cancel_after_s <= size / 48_000:
            time.sleep(CANCEL_LATE_S)
            context.cancel()
            break
    return {
        "audio_s": size / 48_000,
        "first_s": first - started,
        "took_s": last - first,
        "words": words,
        "kinds": sorted(set(kinds)),
        "last": kinds[-1],
        "strays": strays,
    }


with client("/s/cartesia-sdk").tts.websocket_connect() as connection:
    turns = [
        speak(connection, "one", ["The young sailor found ", "the map. ", "He sold it."]),
        speak(
            connection,
            "two",
            [
                "The captain painted the boat.",
                "The sailor sold the ladder.",
                "The nurse carried the clock to the old pilot.",
            ],
            1.5,
        ),
        speak(connection, "three", ["The baker forgot the violin."]),
    ]

plain = client()
wav = plain.tts.generate(
    model_id="sonic-3",
    voice="x",
    output_format={"container": "wav", "encoding": "pcm_s16le", "sample_rate": 44_100},
    transcript="The old pilot sold it.",
)
(folder / "cartesia.wav").write_bytes(wav.read())
events = []
for event in plain.tts.generate_sse(transcript="Hello there.", add_timestamps=True, **COMMON):
    events.append([event.type, len(event.audio or b"") if event.type == "chunk" else 0])

refusals = []
for wrong, text in ((plain, " "), (client(shown="wrong-wrong-wrong"), "Hello.")):
    try:
        wrong.tts.generate(transcript=text, **COMMON)
    except cartesia.APIStatusError as error:
        refusals.append([type(error).__name__, error.body["error_code"]])
with plain.tts.websocket_connect() as connection:
    bad = connection.context(model_id="x", voice="x", output_format={**FORMAT, "encoding": "mp4"})
    bad.push("Hello.")
    refusals += [[message.type, message.status_code] for message in bad.receive()]
print(json.dumps({"turns": turns, "events": events, "refusals": refusals}))
