"""What a talk with a LiveKit plugin is, whichever: two turns, and between them one that is interrupted."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
from livekit.agents import tts, utils

LONG = "The captain painted the boat. The sailor sold the ladder. The nurse carried the clock to the old pilot."


async def heard(events: AsyncIterator[Any], leave_after_s: float | None) -> dict:
    """leave_after_s: so long after the first sound."""
    started, first, last, audio_s = time.monotonic(), None, None, 0.0
    async for event in events:
        now = time.monotonic()
        first, last = first or now, now
        audio_s += event.frame.duration
        if leave_after_s is not None and now - first >= leave_after_s:
            break
    return {"audio_s": audio_s, "first_s": first - started, "took_s": last - first, "left": time.monotonic()}


async def speak(plugin: tts.TTS, text: str, leave_after_s: float | None = None) -> dict:
    """In pieces where the plugin takes them."""
    if plugin.capabilities.streaming:
        async with plugin.stream() as stream:
            for word in text.split(" "):
                stream.push_text(word + " ")
            stream.end_input()
            found = await heard(stream, leave_after_s)
    else:
        async with plugin.synthesize(text) as stream:
            found = await heard(stream, leave_after_s)
    return {**found, "close_s": time.monotonic() - found.pop("left")}


async def talk(make: Callable[[aiohttp.ClientSession], tts.TTS]) -> None:
    """Prints what was found."""
    async with aiohttp.ClientSession() as session:
        utils.http_context._ContextVar.set(lambda: session)
        plugin = make(session)
        turns = [
            await speak(plugin, "The young doctor found the map."),
            await speak(plugin, LONG, 1.2),
            await speak(plugin, "The baker forgot it."),
        ]
        await plugin.aclose()
    print(json.dumps({"turns": turns}))


def run(make: Callable[[aiohttp.ClientSession], tts.TTS]) -> None:
    """The whole program."""
    asyncio.run(talk(make))
