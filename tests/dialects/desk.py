"""A dialect on a desk: no session, no socket. What is handed in is answered by what it wants done, and a test looks at that.

`Desk.says` gives the outputs of what a client says, `Desk.hears` those of what the session tells. Sound is not encoded: what goes into an
encoder comes out of it, so that a transcript shows where it went.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from protocol.commands import Command
from protocol.config import Clock, Format, OutputConfig, PacingConfig
from protocol.dialects.interface import Dialect, FormatRefused, Host, HostLimits, Opening, Output, SoundFormat
from protocol.events import Event, Heard, HeardSource, Kept, Status, TurnDone, TurnMetrics, TurnStarted
from protocol.messages import command_fields

FORMATS = ("pcm", "pcm_f32le", "wav", "flac", "mp3", "opus", "aac", "mulaw", "alaw")


class PlainEncoder:
    """Lets through what it gets; says what it was asked for."""

    def __init__(self, fmt: SoundFormat, packet_ms: int) -> None:
        self.format = fmt
        self.media_type = f"audio/{fmt.name}"
        self.rate = fmt.rate or 24_000
        self.output = OutputConfig(format=Format.PCM_F32LE, rate=self.rate, frame_ms=packet_ms, bitrate=None)

    def push(self, payload: bytes) -> bytes:
        return payload

    def finish(self, audio_ms: int | None = None) -> bytes:
        return b"" if self.format.name.startswith("pcm") else b"<end>"


class DeskHost:
    """See `interface.Host`."""

    turn_prefix = "t"
    limits = HostLimits(append_chars=4096, turn_chars=20_000)
    model_rate = 22_050
    model_name = "mini"

    def __init__(self, paced: bool = True, voices: Sequence[str] = ("anna", "ben")) -> None:
        self.paced = paced
        self.pacing = PacingConfig(lead_ms=1000, burst_ms=400, clock=Clock.REALTIME if paced else Clock.NONE)
        self.encoders: list[PlainEncoder] = []  # that were made
        self._voices = voices

    def encoder(self, fmt: SoundFormat, packet_ms: int = 40) -> PlainEncoder:
        if fmt.name not in FORMATS:
            raise FormatRefused(f"no format {fmt.name!r}")
        self.encoders.append(PlainEncoder(fmt, packet_ms))
        return self.encoders[-1]

    def voice(self, name: str | None) -> str | None:
        return name if name in self._voices else None

    def voice_names(self) -> Sequence[str]:
        return ["default", *self._voices]


class Desk:
    """One dialect and its host."""

    def __init__(
        self, make: Callable[[Host, Opening], Dialect], opening: Opening | None = None, paced: bool = True
    ) -> None:
        self.host = DeskHost(paced)
        self.now = 0.0
        self.dialect = make(self.host, opening or Opening())
        self.first = self._plain(self.dialect.opened(self.now))
        self._numbers = 0

    def says(self, *messages: str | bytes) -> list[object]:
        """The outputs, with commands as the fields that were set (`session.update` as its type alone)."""
        return [output for message in messages for output in self._plain(self.dialect.received(message, self.now))]

    def hears(self, *events: Event) -> list[object]:
        return [output for event in events for output in self._plain(self.dialect.event(event, self.now))]

    def sound(self, turn: str, payload: bytes = b"\1" * 2000) -> list[object]:
        return self._plain(self.dialect.audio(turn, payload, self.now))

    def started(self, turn: str) -> list[object]:
        self._numbers += 1
        return self.hears(TurnStarted(turn=turn, n=self._numbers, queue_ms=0, first_audio_ms=50))

    def ends(
        self, turn: str, status: Status = Status.COMPLETED, sent_ms: int = 1000, reason: str | None = None
    ) -> list[object]:
        return self.hears(done(turn, status, sent_ms, reason))

    def leaves(self) -> list[object]:
        return self._plain(self.dialect.disconnected(self.now))

    def _plain(self, outputs: Sequence[Output | Command]) -> list[object]:
        return [_plain(output) for output in outputs]


def done(turn: str, status: Status = Status.COMPLETED, sent_ms: int = 1000, reason: str | None = None) -> TurnDone:
    """A turn.done as a session would say it."""
    heard = Heard(ms=sent_ms, text="", remaining="", char_end=0, source=HeardSource.CLOCK)
    return TurnDone(
        turn=turn,
        n=1,
        status=status,
        reason=reason,
        audio_ms=sent_ms,
        sent_ms=sent_ms,
        heard=heard,
        context=Kept(kept_ms=sent_ms, kept_chars=0),
        metrics=TurnMetrics(),
    )


def _plain(output: Output | Command) -> object:
    if not hasattr(output, "model_fields_set"):
        return output
    fields: Mapping[str, object] = command_fields(output)
    return "session.update" if fields["type"] == "session.update" else dict(fields)
