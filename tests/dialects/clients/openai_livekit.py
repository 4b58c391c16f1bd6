"""LiveKit's OpenAI plugin, as it comes: a request for each turn, events or a stream of mp3, and a hang-up where somebody interrupts."""

import sys

from livekit.plugins import openai
from talk_livekit import run

url, _, key, model = sys.argv[1:5]
run(lambda session: openai.TTS(api_key=key, model=model, base_url=f"{url}/s/openai-livekit-{model}/v1"))
