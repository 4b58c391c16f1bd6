"""LiveKit's ElevenLabs plugin: two turns, and between them two that are interrupted: while they are written, and when they are.

With the name of a model: by that, such as eleven_v3, which is spoken by text-to-dialogue.
"""

import asyncio
import json
import sys
import time

import aiohttp
from livekit.agents.voice.io import TimedString
from livekit.plugins import elevenlabs

url, folder, key = sys.argv[1:4]
LONG = "The captain painted the boat. The sailor sold the ladder. The nurse carried the clock to the old pilot. "


async def speak(tts: elevenlabs.TTS, text: str, leave_after_s: float | None = None, unfinished: bool = False) -> dict:
    """leave_after_s: so long after the first sound. unfinished: the language model has more to say."""
    started, first, last, audio_s, words = time.monotonic(), None, None, 0.0, []
    async with tts.stream() as stream:
        for word in text.split(" "):
            stream.push_text(word + " ")
        if not unfinished:
            stream.end_input()
        async for event in stream:
            now = time.monotonic()
            first, last = first or now, now
            audio_s += event.frame.duration
            words += [[str(word), word.start_time] for word in event.frame.userdata.get("lk.timed_transcripts", [])]
            if leave_after_s is not None and now - first >= leave_after_s:
                break
        left = time.monotonic()
    return {
        "audio_s": audio_s,
        "first_s": first - started,
        "took_s": last - first,
        "close_s": time.monotonic() - left,
        "words": words,
    }


async def main() -> None:
    assert TimedString  # what `words` are
    async with aiohttp.ClientSession() as session:
        model = sys.argv[4] if sys.argv[4:] else "eleven_turbo_v2_5"
        tts = elevenlabs.TTS(
            model=model, api_key=key, voice_id="default", base_url=f"{url}/s/eleven-livekit/v1", http_session=session
        )
        turns = [
            await speak(tts, "The young doctor found the map in the basket. The farmer carried the lamp."),
            await speak(tts, LONG, 1.0, unfinished=True),
            await speak(tts, "The engineer opened the window. " + LONG, 1.0),
            await speak(tts, "The baker forgot the violin."),
        ]
        voices = [voice.id for voice in await tts.list_voices()]
        whole = 0.0
        async for event in tts.synthesize("The old pilot sold it."):
            whole += event.frame.duration
        await tts.aclose()
    print(json.dumps({"turns": turns, "voices": voices, "whole_s": whole}))


asyncio.run(main())
