"""Where OpenAI's realtime clients connect to."""

from __future__ import annotations

from typing import Final

from protocol.dialects.interface import SocketRoute
from protocol.dialects.openai_realtime import RealtimeSocket
from protocol.dialects.openai_speech import errors

SOCKETS: Final = (SocketRoute("/v1/realtime", RealtimeSocket, errors, subprotocols=("realtime",)),)
