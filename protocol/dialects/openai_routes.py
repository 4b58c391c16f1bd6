"""Where OpenAI's speech clients connect to."""

from __future__ import annotations

from typing import Final

from protocol.dialects.interface import RequestRoute, SocketRoute
from protocol.dialects.openai_speech import errors, session, speech
from protocol.dialects.openai_stream import SpeechStream

REQUEST_BYTES: Final = 32 * 1024 * 1024  # references come along, in base64
SOCKETS: Final = (SocketRoute("/v1/audio/speech/stream", SpeechStream, errors, REQUEST_BYTES),)
REQUESTS: Final = (RequestRoute("/v1/audio/speech", speech, errors, REQUEST_BYTES, session),)
