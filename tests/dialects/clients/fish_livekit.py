"""LiveKit's Fish Audio plugin, as it comes: wav, a socket from its pool for each turn, and a close where somebody interrupts."""

import sys

from livekit.plugins import fishaudio
from talk_livekit import run

url, _, key = sys.argv[1:4]
run(lambda session: fishaudio.TTS(api_key=key, base_url=f"{url}/s/fish-livekit", http_session=session))
