"""Where ElevenLabs' clients connect to."""

from __future__ import annotations

from typing import Final

from protocol.dialects.elevenlabs import MultiStream, SingleStream, key_in_message
from protocol.dialects.elevenlabs_contexts import SNAKE, refusal
from protocol.dialects.elevenlabs_dialogue import DialogueStream, dialogue
from protocol.dialects.elevenlabs_http import errors, speech, speech_with_timestamps, timed_speech
from protocol.dialects.interface import KeyInMessage, RequestRoute, SocketRoute

_PATH: Final = "/v1/text-to-speech/{voice}"
_DIALOGUE: Final = "/v1/text-to-dialogue"
REQUEST_BYTES: Final = 1024 * 1024  # text alone

_KEY: Final = KeyInMessage(key_in_message, lambda refused: refusal(None, refused))
_DIALOGUE_KEY: Final = KeyInMessage(key_in_message, lambda refused: refusal(None, refused, SNAKE))

SOCKETS: Final = (
    SocketRoute(f"{_PATH}/multi-stream-input", MultiStream, errors, key_in_message=_KEY),
    SocketRoute(f"{_PATH}/stream-input", SingleStream, errors, key_in_message=_KEY),
    SocketRoute(f"{_DIALOGUE}/multi-stream-input", DialogueStream, errors, key_in_message=_DIALOGUE_KEY),
)
REQUESTS: Final = (
    RequestRoute(_PATH, speech, errors, REQUEST_BYTES),
    RequestRoute(f"{_PATH}/with-timestamps", timed_speech, errors, REQUEST_BYTES),
    RequestRoute(f"{_PATH}/stream", speech, errors, REQUEST_BYTES),
    RequestRoute(f"{_PATH}/stream/with-timestamps", speech_with_timestamps, errors, REQUEST_BYTES),
    RequestRoute(_DIALOGUE, dialogue, errors, REQUEST_BYTES),
    RequestRoute(f"{_DIALOGUE}/stream", dialogue, errors, REQUEST_BYTES),
)
