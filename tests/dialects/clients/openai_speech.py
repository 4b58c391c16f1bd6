"""openai: two utterances, the second of which is interrupted, and a third; then every format, and events."""

import base64
import json
import sys
import time
from pathlib import Path

import openai

url, folder, key = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
client = openai.OpenAI(api_key=key, base_url=f"{url}/s/openai-talk/v1", max_retries=0)
BYTES_A_SECOND = 48_000


def speak(text: str, stop_after_s: float | None = None) -> dict:
    started, first, size = time.monotonic(), None, 0
    with client.audio.speech.with_streaming_response.create(
        model="fishaudio/s2-pro", voice="default", input=text, response_format="pcm"
    ) as response:
        for chunk in response.iter_bytes():
            now = time.monotonic()
            first = first or now
            size += len(chunk)
            if stop_after_s is not None and now - first >= stop_after_s:
                break
        ended = time.monotonic()
    return {
        "audio_s": size / BYTES_A_SECOND,
        "first_s": first - started,
        "took_s": ended - first,
        "close_s": time.monotonic() - ended,
        "request_id": response.headers["x-request-id"],
    }


one = speak("The young doctor found the map in the basket.")
two = speak(
    "The captain painted the boat. The sailor sold the ladder. The nurse carried the clock to the old pilot.", 1.5
)
three = speak("The baker forgot the violin.")

fast = openai.OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0)
formats = {}
for name in ("wav", "mp3", "flac", "aac", "opus", "pcm"):
    answer = fast.audio.speech.create(model="tts-1", voice="alloy", input="Hello there.", response_format=name)
    answer.stream_to_file(folder / f"hello.{name}")
    formats[name] = answer.response.headers["content-type"]

kinds, events = [], b""
with fast.audio.speech.with_streaming_response.create(
    model="gpt-4o-mini-tts", voice="alloy", input="Hello there.", response_format="pcm", stream_format="sse"
) as response:
    for line in response.iter_lines():
        if line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            kinds.append(event["type"])
            events += base64.b64decode(event.get("audio", ""))
usage = event["usage"]

refusals = []
for wrong, text in ((fast, ""), (openai.OpenAI(api_key="wrong-wrong-wrong", base_url=f"{url}/v1"), "Hello.")):
    try:
        wrong.audio.speech.create(model="tts-1", voice="alloy", input=text)
    except openai.APIStatusError as error:
        refusals.append([type(error).__name__, error.code, error.param])
print(
    json.dumps(
        {
            "turns": [one, two, three],
            "formats": formats,
            "kinds": [kinds[0], kinds[-1]],
            "events_s": len(events) / BYTES_A_SECOND,
            "usage": usage,
            "refusals": refusals,
            "models": [model.id for model in fast.models.list()],
        }
    )
)
