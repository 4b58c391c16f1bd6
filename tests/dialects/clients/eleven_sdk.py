"""elevenlabs-python: two texts in pieces, the second of which is abandoned, a third, and what there is over HTTP."""

import base64
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from elevenlabs import VoiceSettings
from elevenlabs.client import ElevenLabs

url, folder, key = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
BYTES_A_SECOND = 48_000


def client(session: str, shown: str = key) -> ElevenLabs:
    """It insists on wss, so that is changed where there is none."""
    made = ElevenLabs(api_key=shown, base_url=f"{url}/s/{session}")
    if url.startswith("http:"):
        made.text_to_speech._ws_base_url = f"{url}/s/{session}".replace("http", "ws", 1)
    return made


def words(text: str) -> Iterator[str]:
    """As a language model writes."""
    for word in text.split():
        yield word + " "


def speak(eleven: ElevenLabs, text: str, stop_after_s: float | None = None) -> dict:
    """stop_after_s: leave so long after the first sound."""
    started, first, audio = time.monotonic(), None, b""
    stream = eleven.text_to_speech.convert_realtime(
        "default",
        text=words(text),
        model_id="eleven_flash_v2_5",
        output_format="pcm_24000",
        voice_settings=VoiceSettings(speed=1.0),
    )
    for chunk in stream:
        now = time.monotonic()
        first = first or now
        audio += chunk
        if stop_after_s is not None and now - first >= stop_after_s:
            break
    ended = time.monotonic()
    stream.close()
    return {
        "audio_s": len(audio) / BYTES_A_SECOND,
        "first_s": first - started,
        "took_s": ended - first,
        "close_s": time.monotonic() - ended,
    }


def refused(ask) -> list:
    """What the SDK makes of a refusal."""
    try:
        b"".join(ask())
    except Exception as error:
        body = getattr(error, "body", None)
        detail = body.get("detail", body) if isinstance(body, dict) else {}
        return [type(error).__name__, getattr(error, "status_code", None), detail.get("code")]
    return []


talk = client("eleven-sdk")
turns = [
    speak(talk, "The young doctor found the map in the basket."),
    speak(
        talk,
        "The captain painted the boat. The sailor sold the ladder. The nurse carried the clock to the old pilot.",
        1.5,
    ),
    speak(talk, "The baker forgot the violin."),
]
once = client("eleven-once")
speech = once.text_to_speech
(folder / "eleven.mp3").write_bytes(b"".join(speech.stream("default", text="The baker forgot the violin.")))
(folder / "eleven.ulaw").write_bytes(b"".join(speech.convert("default", text="Sold it.", output_format="ulaw_8000")))
timed, letters, ends = b"", "", []
for piece in speech.stream_with_timestamps("default", text="The old pilot sold it.", output_format="pcm_24000"):
    timed += base64.b64decode(piece.audio_base_64)
    if piece.alignment is not None:
        letters += "".join(piece.alignment.characters)
        ends += piece.alignment.character_end_times_seconds
whole = speech.convert_with_timestamps("default", text="The old pilot sold it.", output_format="pcm_24000")
print(
    json.dumps(
        {
            "turns": turns,
            "timed": {"audio_s": len(timed) / BYTES_A_SECOND, "letters": letters, "ends": ends},
            "whole": {
                "audio_s": len(base64.b64decode(whole.audio_base_64)) / BYTES_A_SECOND,
                "letters": "".join(whole.alignment.characters),
            },
            "voices": [voice.voice_id for voice in once.voices.get_all().voices],
            "found": [voice.name for voice in once.voices.search(search="default").voices],
            "refusals": [
                refused(lambda: client("x", "wrong-wrong-wrong").text_to_speech.stream("default", text="Hello.")),
                refused(lambda: speech.stream("default", text=" ")),
                refused(lambda: speech.stream("default", text="Hello.", output_format="pcm_1")),
                refused(lambda: speech.convert_realtime("x", text=words("a"), voice_settings=VoiceSettings(speed=9))),
            ],
        }
    )
)
