"""What a dialect is: another protocol's half of a conversation with us, as a pure state machine.

Knows nothing of any protocol, socket or session. A dialect turns what its client says into native commands, and native events and audio
into what its client reads. It does no I/O and reads no clock; `realtime.dialects` runs it. How turns are queued, paced, cut and remembered
is the native session's business, and no dialect repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from protocol.commands import Command
from protocol.config import OutputConfig, PacingConfig
from protocol.events import Event


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """What the client wants to read."""

    name: str  # pcm (16 bit, no header), pcm_f32le, wav, flac, mp3, opus (in Ogg), aac (ADTS), mulaw, alaw
    rate: int | None = None  # Hz; None: the format's own
    bitrate: int | None = None  # bit/s, the nearest that there is; None: the format's own


class StreamEncoder(Protocol):
    """One stream of sound for a client, headers and all. Any number of turns may go into it, one behind the other."""

    @property
    def media_type(self) -> str:
        """For Content-Type."""

    @property
    def output(self) -> OutputConfig:
        """What the session is to send, so that `push` can take it. Give it in the session.update before the turn."""

    @property
    def rate(self) -> int:
        """Samples a second that the client hears."""

    def push(self, payload: bytes) -> bytes:
        """The payload of one native audio message; returns what can be sent now, perhaps nothing."""

    def finish(self, audio_ms: int | None = None) -> bytes:
        """The rest. Call it once, if at all. audio_ms: of all turns that went in, where that is known: the last packet may be padded."""


class FormatRefused(ValueError):
    """No such format, rate or bitrate, or not on this machine; says what there is, or what to install."""


class Host(Protocol):
    """What a dialect may ask of the server it runs in. Nothing here waits."""

    @property
    def turn_prefix(self) -> str:
        """Begin the id of every turn with it: by that, its events find their way back to this dialect."""

    @property
    def pacing(self) -> PacingConfig:
        """How fast to send. Give it in the session.update before the turn."""

    @property
    def paced(self) -> bool:
        """Whether audio is sent about as fast as it is heard: on a path below /s/, where a barge-in must be seen."""

    @property
    def limits(self) -> HostLimits:
        """Bounds that are the native session's."""

    @property
    def model_rate(self) -> int:
        """The loaded model's own sample rate in Hz."""

    @property
    def model_name(self) -> str:
        """The loaded model's."""

    def encoder(self, fmt: SoundFormat, packet_ms: int = 40) -> StreamEncoder:
        """Raises FormatRefused. packet_ms: of audio in one native message, 10 to 100; formats with frames of their own may ignore it."""

    def voice(self, name: str | None) -> str | None:
        """The voice that is meant by a client's name for one: one of ours, an alias, or else the default (None). Never fails."""

    def voice_names(self) -> Sequence[str]:
        """Every voice, `default` first."""


@dataclass(frozen=True, slots=True)
class HostLimits:
    """What the native session refuses more of."""

    append_chars: int  # in one text.append; `Turns.say` cuts
    turn_chars: int  # in one turn: refuse it in your own words


@dataclass(frozen=True, slots=True)
class Opening:
    """How a client came: its handshake, or its request."""

    path: Mapping[str, str] = field(default_factory=dict)  # parameters in the path, such as {voice}
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)  # by lower-case name
    body: bytes = b""  # of a request
    session: str | None = None  # of /s/{session}


@dataclass
class Refused(Exception):
    """There will be no session: an HTTP status, also for a handshake. The route's `ErrorShape` makes the body."""

    status: int
    message: str  # for people
    code: str = "invalid_request"
    param: str | None = None  # the field at fault
    retry_after_s: int | None = None


ErrorShape = Callable[[Refused], tuple[str, str]]
"""A refusal as the clients of one vendor expect it: media type and body."""


@dataclass(frozen=True, slots=True)
class PrepareVoice:
    """Have a voice made of recordings that came with a request. What the client says meanwhile waits.

    Only `opened` and `received` may ask for it, as the last of their outputs.
    """

    # Audio files and what is said in them. A str is a path or an http(s) address, which only some operators allow.
    recordings: tuple[tuple[bytes | str, str], ...]
    then: Callable[[str], Sequence[Output]]  # gets the name to put into voice
    refused: Callable[[Refused], Sequence[Output]]  # gets why not; 5xx: the recording is not at fault


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """The last output: close with this code once everything before it was written. An HTTP answer ends with it, too."""

    code: int = 1000
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StartResponse:
    """HTTP only, and the first message there: status and headers. What follows is the body."""

    status: int
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


Output = Command | str | bytes | PrepareVoice | StartResponse | CloseSocket
"""What a dialect wants done, in order. A native command is carried out; str and bytes are written to the client."""


@dataclass(frozen=True, slots=True)
class KeyInMessage:
    """For clients that show their key in the first message."""

    read: Callable[[str | bytes], str | None]  # what of a message is the key; None: that is no such message
    refused: Callable[[Refused], str]  # the message before the close


@dataclass(frozen=True, slots=True)
class SocketRoute:
    """A WebSocket that some clients connect to. It is served at `path` and at /s/{session}`path`."""

    path: str
    open: Callable[[Host, Opening], Dialect]  # raises Refused
    errors: ErrorShape
    max_bytes: int = 256 * 1024  # of a message
    subprotocols: tuple[str, ...] = ()  # that are agreed to, if the client offers them
    # For pages, which can set no headers and show their key beside the names of subprotocols: the key among those that are offered.
    key_in_subprotocols: Callable[[Sequence[str]], str | None] | None = None
    key_in_message: KeyInMessage | None = None
    # Where clients look for the message of a refused handshake, whose body they do not read.
    reason_header: str | None = None


@dataclass(frozen=True, slots=True)
class RequestRoute:
    """An HTTP request that is answered with speech, likewise at two paths. Its dialect's first message is a StartResponse."""

    path: str
    open: Callable[[Host, Opening], Dialect]  # raises Refused
    errors: ErrorShape
    max_bytes: int = 32 * 1024 * 1024  # of the body
    session: Callable[[Opening], str | None] | None = None  # that the body names; the path comes first. Raises Refused


class Dialect(Protocol):
    """One client's connection, or one HTTP request. Its methods are called one at a time. `now`: seconds, monotonic."""

    def opened(self, now: float) -> Sequence[Output]:
        """First of all, once the client has shown a key and a session is there."""

    def received(self, message: str | bytes, now: float) -> Sequence[Output]:
        """A text (str) or binary (bytes) message came. Never called for HTTP: the request was read before the dialect was made."""

    def event(self, event: Event, now: float) -> Sequence[Output]:
        """Something happened to one of its turns, or to the whole session (an event without a turn).

        Answers to its commands are among it: an `ErrorEvent` without a turn says that a command was refused.
        """

    def audio(self, turn: str, payload: bytes, now: float) -> Sequence[Output]:
        """Audio of one of its turns, to be pushed into the stream's encoder. Between turn.started and turn.done of that turn."""

    def disconnected(self, now: float) -> Sequence[Command]:
        """The client is gone, without another word or after a close. What it will not hear must be cancelled."""

    @property
    def deadline(self) -> float:
        """When `tick` is due if nothing else happens; infinity: never. Asked for after every call of another method."""

    def tick(self, now: float) -> Sequence[Output]:
        """Do what is due."""
