"""fish-audio-sdk: two utterances, the second of which is interrupted, and a third."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fishaudio import FishAudio
from fishaudio.types import FlushEvent, TTSConfig

url, folder, key = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
client = FishAudio(api_key=key, base_url=f"{url}/s/fish-talk")
config = TTSConfig(format="pcm", sample_rate=24000, temperature=0.8, top_p=0.9, repetition_penalty=1.0)
BYTES_A_SECOND = 48_000


def words(text: str) -> Iterator[str]:
    """As a language model writes."""
    for word in text.split():
        yield word + " "


def speak(text: str, stop_after_s: float | None = None) -> dict:
    """stop_after_s: leave so long after the first sound."""
    started, first, audio, messages = time.monotonic(), None, b"", []
    for chunk in client.tts.stream_websocket(words(text), config=config):
        now = time.monotonic()
        first = first or now
        audio += chunk
        messages.append(len(chunk))
        if stop_after_s is not None and now - first >= stop_after_s:
            break
    ended = time.monotonic()
    return {
        "audio_s": len(audio) / BYTES_A_SECOND,
        "first_s": first - started,
        "took_s": ended - first,
        "close_s": time.monotonic() - ended,
        "smallest": min(messages[:-1]),
        "largest": max(messages),
    }


one = speak("The young doctor found the map in the basket.")
two = speak(
    "The captain painted the boat. The sailor sold the ladder. The nurse carried the clock to the old pilot.", 1.5
)
three = speak("The baker forgot the violin.")

whole = client.tts.convert(text="The baker forgot the violin.", format="wav")
(folder / "fish.wav").write_bytes(whole)
flushed = b"".join(client.tts.stream_websocket(iter(["The old pilot.", FlushEvent(), "Sold it."]), config=config))
refusals = []
try:
    FishAudio(api_key="wrong-wrong-wrong", base_url=url).tts.convert(text="Hello.")
except Exception as error:  # what the SDK makes of a refusal is what is looked at
    refusals.append([type(error).__name__, str(error)])
try:
    client.tts.convert(text=" ")
except Exception as error:
    refusals.append([type(error).__name__, str(error)])
print(json.dumps({"turns": [one, two, three], "flushed_s": len(flushed) / BYTES_A_SECOND, "refusals": refusals}))
