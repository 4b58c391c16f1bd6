"""LiveKit's plugins for Cartesia and for Deepgram's two sockets: a turn each, one that is interrupted, and a last one."""

import asyncio
import json
import sys
import time

import aiohttp
from livekit.plugins import cartesia, deepgram

url, folder, key = sys.argv[1:4]
LONG = "The captain painted the boat. The sailor sold the ladder. The nurse carried the clock to the old pilot."


async def speak(tts, text: str, leave_after_s: float | None = None) -> dict:
    """leave_after_s: so long after the first sound, and when so much has come."""
    started, first, last, audio_s, words = time.monotonic(), None, None, 0.0, []
    async with tts.stream() as stream:
        for word in text.split(" "):
            stream.push_text(word + " ")
        stream.end_input()
        async for event in stream:
            now = time.monotonic()
            first, last = first or now, now
            audio_s += event.frame.duration
            words += [[str(word), word.start_time] for word in event.frame.userdata.get("lk.timed_transcripts", [])]
            if leave_after_s is not None and now - first >= leave_after_s <= audio_s:
                break
        left = time.monotonic()
    return {
        "audio_s": audio_s,
        "first_s": first - started,
        "took_s": last - first,
        "close_s": time.monotonic() - left,
        "words": words,
    }


async def talk(tts, first_text: str) -> dict:
    turns = [
        await speak(tts, first_text),
        await speak(tts, LONG, 1.5),
        await speak(tts, "The baker forgot the violin."),
    ]
    whole = 0.0
    async for event in tts.synthesize("The old pilot sold it."):
        whole += event.frame.duration
    await tts.aclose()
    return {"turns": turns, "whole_s": whole}


async def main() -> None:
    async with aiohttp.ClientSession() as session:
        base = {"api_key": key, "http_session": session}
        services = {
            "cartesia": cartesia.TTS(base_url=f"{url}/s/livekit-cartesia", **base),
            "deepgram": deepgram.TTS(base_url=f"{url}/s/livekit-deepgram/v1/speak", **base),
            "flux": deepgram.TTSv2(base_url=f"{url}/s/livekit-flux/v2/speak", **base),
        }
        first = {"cartesia": "sailor", "deepgram": "nurse", "flux": "farmer"}
        found = {name: await talk(tts, f"The old {first[name]} found the map.") for name, tts in services.items()}
    print(json.dumps(found))


asyncio.run(main())
