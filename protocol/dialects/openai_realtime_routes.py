"""Where OpenAI's realtime clients connect to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.dialects.interface import SocketRoute
from protocol.dialects.openai_realtime import RealtimeSocket
from protocol.dialects.openai_speech import errors

_KEY: Final = "openai-insecure-api-key."


def key_in_subprotocols(offered: Sequence[str]) -> str | None:
    """As OpenAI's client for browsers shows it."""
    return next((name.removeprefix(_KEY) for name in offered if name.startswith(_KEY)), None)


SOCKETS: Final = (
    SocketRoute(
        "/v1/realtime",
        RealtimeSocket,
        errors,
        subprotocols=("realtime",),
        key_in_subprotocols=key_in_subprotocols,
    ),
)
