"""pipecat's Fish Audio service: one `start` for many turns, a second flush at the end of each, and another socket after an interruption."""

import asyncio
import json
import sys

from loguru import logger
from pipecat.services.fish.tts import FishAudioTTSService
from talk_pipecat import conversation

url, _, key = sys.argv[1:4]


async def main() -> None:
    service = FishAudioTTSService(api_key=key, sample_rate=24000)
    service._base_url = f"{url}/s/fish-pipecat/v1/tts/live".replace("http", "ws", 1)  # there is no other way
    print(json.dumps(await conversation(service)))


logger.remove()
logger.add(sys.stderr, level="WARNING")
asyncio.run(main())
