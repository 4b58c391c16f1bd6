"""The clients that `parley bench --dialect` has, by name.

Knows which there are. Does not know what they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from realtime.bench_dialects import Fish, OnSocket, OpenAI, OpenAIStream, Speaker, Wire
from realtime.bench_elevenlabs import ElevenLabs
from realtime.bench_phone import Telephone
from realtime.bench_steered import STEERED

MakeSpeaker = Callable[[str, str, str | None], Speaker]  # of the server's address, the session's name and a key


def _on(wire: Callable[[], Wire]) -> MakeSpeaker:
    return lambda url, session, key: OnSocket(wire(), url, session, key)


SPEAKERS: Final[Mapping[str, MakeSpeaker]] = {
    "fish": _on(Fish),
    "openai": OpenAI,
    "openai-stream": _on(OpenAIStream),
    "elevenlabs": ElevenLabs,
    **STEERED,
    "twilio": Telephone,
}
