"""pipecat's OpenAI service: a request for each sentence, and a hang-up where somebody interrupts."""

import asyncio
import json
import sys

from loguru import logger
from pipecat.services.openai.tts import OpenAITTSService
from talk_pipecat import conversation

url, _, key = sys.argv[1:4]


async def main() -> None:
    settings = OpenAITTSService.Settings(voice="alloy", model="gpt-4o-mini-tts")
    service = OpenAITTSService(api_key=key, base_url=f"{url}/s/openai-pipecat/v1", settings=settings)
    print(json.dumps(await conversation(service)))


logger.remove()
logger.add(sys.stderr, level="WARNING")
asyncio.run(main())
