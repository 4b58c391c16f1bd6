"""What one turn is made with. Knows settings that were checked. Does not know where they came from."""

from __future__ import annotations

from dataclasses import dataclass

from engine.api import SamplingParams, Voice
from protocol.config import SessionConfig
from realtime.audio import OutputFormat


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """What a turn was opened with; later updates of the session do not touch it."""

    config: SessionConfig
    voice: Voice
    params: SamplingParams
    fmt: OutputFormat
    speed: float = 1.0  # of what is heard over what the model says
    volume_db: float = 0.0
    leg: int = 0  # that it is spoken to, see `legs`; 0: the socket
