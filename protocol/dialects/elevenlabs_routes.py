"""Where ElevenLabs' clients connect to."""

from __future__ import annotations

from typing import Final

from protocol.dialects.elevenlabs import MultiStream, SingleStream, key_in_message
from protocol.dialects.elevenlabs_dialogue import DialogueStream, dialogue
from protocol.dialects.elevenlabs_http import errors, speech, speech_with_timestamps
from protocol.dialects.interface import RequestRoute, SocketRoute

_PATH: Final = "/v1/text-to-speech/{voice}"
_DIALOGUE: Final = "/v1/text-to-dialogue"
REQUEST_BYTES: Final = 1024 * 1024  # text alone

SOCKETS: Final = (
    SocketRoute(f"{_PATH}/multi-stream-input", MultiStream, errors, key_in_message=key_in_message),
    SocketRoute(f"{_PATH}/stream-input", SingleStream, errors, key_in_message=key_in_message),
    SocketRoute(f"{_DIALOGUE}/multi-stream-input", DialogueStream, errors, key_in_message=key_in_message),
)
REQUESTS: Final = (
    RequestRoute(_PATH, speech, errors, REQUEST_BYTES),
    RequestRoute(f"{_PATH}/stream", speech, errors, REQUEST_BYTES),
    RequestRoute(f"{_PATH}/stream/with-timestamps", speech_with_timestamps, errors, REQUEST_BYTES),
    RequestRoute(_DIALOGUE, dialogue, errors, REQUEST_BYTES),
    RequestRoute(f"{_DIALOGUE}/stream", dialogue, errors, REQUEST_BYTES),
)
