"""What a client can set on a session, the numbers that refuse it, and how a partial update becomes a whole configuration.

Knows every setting's meaning, unit, bound and default; each default is written here and nowhere else. Does not know messages or
sockets, nor which voices exist: the server checks those after `apply`.

The same classes describe a whole configuration and a partial update: what pydantic remembers as set (`model_fields_set`) is what a
client sent. Hence no field is checked against another when it is parsed; `apply` does that on the merged whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from protocol.errors import ErrorCode, ProtocolError, clipped, quoted

MAX_JSON_BYTES: Final = 64 * 1024
MAX_BINARY_BYTES: Final = 256 * 1024
MAX_APPEND_CHARS: Final = 4096
MAX_TURN_CHARS: Final = 20_000
MAX_ID_CHARS: Final = 64
MAX_TOKEN_CHARS: Final = 2048  # fits the 4 KiB that a socket may send before it is authenticated
MAX_LEAD_MS: Final = 30_000
MAX_HISTORY_S: Final = 120
MAX_HISTORY_TURNS: Final = 500
MAX_FRAMES: Final = 16_384
MAX_SEED: Final = 2**53 - 1  # what every JSON reader keeps exactly
MAX_MS: Final = 24 * 3600 * 1000  # no session lives for a day
PACKETS_MS: Final = (10, 20, 40, 60)
MAX_METADATA: Final = 16
MAX_METADATA_CHARS: Final = 512
MAX_SPEAKERS: Final = 8
MAX_LEXICON: Final = 200
MAX_LEXICON_KEY_CHARS: Final = 64
MAX_LEXICON_VALUE_CHARS: Final = 256
MIN_SPEED: Final = 0.25
MAX_SPEED: Final = 4.0
MAX_VOLUME_DB: Final = 20.0


class Wire(BaseModel):
    """Base of everything that crosses the wire: immutable, no unknown field, no conversion between JSON types, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Format(StrEnum):
    OPUS = "opus"
    PCM_S16LE = "pcm_s16le"
    PCM_F32LE = "pcm_f32le"
    MULAW = "mulaw"
    ALAW = "alaw"


class Transport(StrEnum):
    BINARY = "binary"
    RAW = "raw"
    JSON = "json"


class Clock(StrEnum):
    ACK = "ack"
    REALTIME = "realtime"
    NONE = "none"


class Latency(StrEnum):
    LOW = "low"
    BALANCED = "balanced"
    QUALITY = "quality"


class TagMode(StrEnum):
    PERFORM = "perform"
    LITERAL = "literal"
    STRIP = "strip"


class AlignmentMode(StrEnum):
    NONE = "none"
    WORD = "word"
    CHAR = "char"


class Language(StrEnum):
    ENGLISH = "en"
    GERMAN = "de"


class Snap(StrEnum):
    WORD = "word"
    FRAME = "frame"


# An enum is compared by its exact value; `strict` would ask a JSON string to be an enum member already.
Lax = Field(strict=False)
Speed = Annotated[float, Field(ge=MIN_SPEED, le=MAX_SPEED)]
VolumeDb = Annotated[float, Field(ge=-MAX_VOLUME_DB, le=MAX_VOLUME_DB)]
LexiconKey = Annotated[str, Field(min_length=1, max_length=MAX_LEXICON_KEY_CHARS)]
LexiconValue = Annotated[str, Field(min_length=1, max_length=MAX_LEXICON_VALUE_CHARS)]
Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]
Ms = Annotated[int, Field(ge=0, le=MAX_MS)]
Count = Annotated[int, Field(ge=0)]
TurnNumber = Annotated[int, Field(ge=0, lt=2**32)]  # u32 in the audio header


def _packet_ms(value: int) -> int:
    if value not in PACKETS_MS:
        raise PydanticCustomError("packet_ms", "Input should be 10, 20, 40 or 60")
    return value


# Not a Literal, which would take 20.0 for 20.
PacketMs = Annotated[int, AfterValidator(_packet_ms), Field(json_schema_extra={"enum": [*PACKETS_MS]})]

FIXED_RATES: Final[Mapping[Format, int]] = {Format.OPUS: 48_000, Format.MULAW: 8_000, Format.ALAW: 8_000}
"""Formats with one sample rate, in Hz; the others take any of OutputConfig.rate."""


class OutputConfig(Wire):
    """How the speech is encoded."""

    format: Annotated[Format, Lax] = Field(default=Format.OPUS, description="Encoding of the audio payload.")
    rate: int = Field(
        default=48_000,
        ge=8_000,
        le=48_000,
        multiple_of=25,
        description="Sample rate in Hz. opus: 48000 only; mulaw and alaw: 8000 only; PCM: any multiple of 25. Where a change of format "
        "forbids the present rate and gives none, it becomes the format's own.",
    )
    frame_ms: PacketMs = Field(default=20, description="Duration of one packet, in ms.")
    bitrate: int | None = Field(
        default=None,
        ge=6_000,
        le=510_000,
        description="Opus target in bits/s; null leaves it to the encoder. Only for opus; a change to another format drops it.",
    )


class AudioConfig(Wire):
    """The audio the server sends."""

    output: OutputConfig = Field(default=OutputConfig(), description="Encoding.")
    transport: Annotated[Transport, Lax] = Field(
        default=Transport.BINARY,
        description="binary: 16-byte header and payload; raw: payload alone, for a client that plays one turn at a time; "
        "json: `audio` events with base64.",
    )


class PacingConfig(Wire):
    """How far ahead of the listener audio is sent."""

    lead_ms: int = Field(
        default=2_000, ge=0, le=MAX_LEAD_MS, description="Most audio sent ahead of the playback clock, in ms."
    )
    burst_ms: int = Field(
        default=400,
        ge=0,
        le=MAX_LEAD_MS,
        description="Audio at the start of a turn that is sent as soon as it exists, in ms; after it, at most 1.25 times real "
        "time until the lead is full. Never more than lead_ms.",
    )
    clock: Annotated[Clock, Lax] = Field(
        default=Clock.ACK,
        description="Where the listener is. ack: where playback.update says, and until the first of them of a turn as with realtime; "
        "realtime: playback is taken to start with the first message of a turn; none: no pacing, as for a file.",
    )


class HistoryConfig(Wire):
    """How much of the conversation conditions the next turn."""

    max_s: float = Field(
        default=60.0,
        ge=0,
        le=MAX_HISTORY_S,
        description="Heard speech kept, in seconds. A session starts with what the loaded checkpoint is good for.",
    )
    max_turns: int = Field(default=50, ge=0, le=MAX_HISTORY_TURNS, description="Turns kept.")


class CutConfig(Wire):
    """Where an interrupted turn is cut."""

    snap: Annotated[Snap, Lax] = Field(default=Snap.WORD, description="word: at a word's end; frame: at a codec frame.")
    min_heard: float = Field(
        default=0.5, ge=0, le=1, description="Share of a word that must have been heard for the word to count as heard."
    )


class SamplingConfig(Wire):
    """How the model draws its tokens."""

    temperature: float = Field(default=0.8, gt=0, le=2, description="Divides the logits that the filters left.")
    top_p: float = Field(default=0.9, gt=0, le=1, description="Probability mass kept.")
    top_k: int = Field(default=30, ge=1, le=1024, description="Candidates kept; 1 is greedy.")
    repetition_penalty: float = Field(
        default=1.0, ge=1, le=2, description="Over the last 16 semantic tokens; 1 is none."
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="With the number of the turn it fixes every draw.")
    max_frames: int = Field(
        default=2_048, ge=1, le=MAX_FRAMES, description="A turn never gets longer than this many codec frames."
    )


class ConfigFields(Wire):
    """Fields shared by a session's configuration and by `session.update`."""

    voice: Id | None = Field(default=None, description="Id of the voice; null is the model's own.")
    voices: dict[Id, Id] = Field(
        default={},
        max_length=MAX_SPEAKERS,
        description='Voices of the speakers of `<|speaker:i|>`: {"0": id, "1": id}. An update replaces all of them; where there are any, '
        "`voice` is not used.",
    )
    audio: AudioConfig = Field(default=AudioConfig(), description="What is sent, and how.")
    pacing: PacingConfig = Field(default=PacingConfig(), description="How far ahead it is sent.")
    latency: Annotated[Latency, Lax] = Field(
        default=Latency.LOW,
        description="When the first segment of a turn is spoken. low: a clause of two words or more; balanced: five or more; "
        "quality: a sentence.",
    )
    speed: Speed = Field(default=1.0, description="How fast it is spoken, at the same pitch.")
    volume_db: VolumeDb = Field(default=0.0, description="How much louder, in dB.")
    normalize: bool = Field(
        default=True,
        description="Markdown marks, bullets, code blocks, links, tables and emoji are not read as symbols, and numbers are written out "
        "where the model needs words; a `text_normalized` warning says what was changed. false: the text reaches the model as it stands.",
    )
    language: Annotated[Language, Lax] | None = Field(
        default=None,
        description="Language that numbers are written out in; null: guessed from the turn's text, English or German.",
    )
    lexicon: dict[LexiconKey, LexiconValue] = Field(
        default={},
        max_length=MAX_LEXICON,
        description="Whole words and how they are to be spoken; a word in lower case also stands for its other cases. Spoken that way, "
        "reported as written. Without `[ ] < > |`, words without space. An update replaces all of them.",
    )
    tags: Annotated[TagMode, Lax] = Field(
        default=TagMode.PERFORM,
        description="`[tags]` in the text. perform: they act; literal: they are read as text; strip: they are removed.",
    )
    alignment: Annotated[AlignmentMode, Lax] = Field(
        default=AlignmentMode.NONE,
        description="Whether `alignment` events are sent, and for words or single characters.",
    )
    history: HistoryConfig = Field(default=HistoryConfig(), description="What conditions the next turn.")
    cut: CutConfig = Field(default=CutConfig(), description="Where an interruption cuts.")
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="How tokens are drawn.")
    metadata: dict[Id, Annotated[str, Field(max_length=MAX_METADATA_CHARS)]] = Field(
        default={},
        max_length=MAX_METADATA,
        description="The client's own labels, shown again in `config`; an update replaces all of them.",
    )


class SessionConfig(ConfigFields):
    """The whole configuration in effect, as `session.created` and `session.updated` show it."""


class Limits(Wire):
    """Every number that is used to refuse something; `session.created` publishes it. A server may lower most, and raise none."""

    json_bytes: int = Field(
        default=MAX_JSON_BYTES, ge=4096, le=MAX_JSON_BYTES, description="Largest text message, in UTF-8 bytes."
    )
    json_depth: int = Field(default=16, ge=8, le=16, description="Deepest nesting of objects and arrays in a message.")
    json_values: int = Field(default=1024, ge=256, le=1024, description="Most keys and values in a message.")
    binary_bytes: int = Field(
        default=MAX_BINARY_BYTES,
        ge=MAX_JSON_BYTES,
        le=MAX_BINARY_BYTES,
        description="Largest message of any kind, in bytes.",
    )
    bad_messages: int = Field(default=3, ge=1, le=3, description="Unparsable messages; this many close the socket.")
    messages_per_s: int = Field(default=200, ge=1, le=200, description="Messages a second, after a burst of as many.")
    unauthenticated_bytes: int = Field(
        default=4096, ge=256, le=4096, description="Largest first message of a socket without a token."
    )
    unauthenticated_s: int = Field(default=5, ge=1, le=5, description="Seconds that such a socket has to send it.")
    append_chars: int = Field(
        default=MAX_APPEND_CHARS, ge=1, le=MAX_APPEND_CHARS, description="Characters of one text.append."
    )
    turn_chars: int = Field(default=MAX_TURN_CHARS, ge=1, le=MAX_TURN_CHARS, description="Characters of one turn.")
    pending_chars: int = Field(
        default=MAX_TURN_CHARS,
        ge=1,
        le=MAX_TURN_CHARS,
        description="Characters received and not yet spoken, over all turns.",
    )
    queued_turns: int = Field(default=8, ge=1, le=8, description="Turns waiting behind the one that speaks.")
    turn_audio_s: int = Field(default=600, ge=1, le=600, description="Audio of one turn, in seconds.")
    uplink_ms: int = Field(default=100, ge=10, le=100, description="Sound in one message of the client's, in ms.")
    turn_idle_ms: int = Field(
        default=30_000, ge=1, le=30_000, description="An open turn without new text for so long is ended."
    )
    idle_s: int = Field(
        default=600, ge=1, le=600, description="A session without message, audio or pong for so long is closed."
    )
    drain_s: int = Field(default=30, ge=1, le=30, description="A socket that takes no data for so long is closed.")
    session_s: int = Field(default=4 * 3600, ge=1, le=4 * 3600, description="A session never lives longer, in seconds.")
    context_chars: int = Field(
        default=MAX_TURN_CHARS,
        ge=0,
        le=MAX_TURN_CHARS,
        description="Characters of context.append that are kept; the oldest go.",
    )
    turn_marks: int = Field(default=256, ge=1, le=256, description="Marks of one turn.")
    pause_ttl_ms: int = Field(
        default=10_000, ge=1, le=10_000, description="A turn that is paused for so long is cancelled."
    )
    disconnect_grace_ms: int = Field(
        default=3_000,
        ge=0,
        le=3_000,
        description="After the socket is lost, speech is generated for so long; then the turn is cancelled.",
    )
    resume_ttl_s: int = Field(
        default=60, ge=0, le=60, description="A session without a socket lives for so long; 0: it cannot be resumed."
    )
    replay_s: int = Field(
        default=30,
        ge=1,
        le=30,
        description="Audio that was sent and can be sent again, in seconds: to a socket that resumes, or after a pause.",
    )
    # Bounds of single fields, the same on every server.
    id_chars: Literal[64] = Field(
        default=MAX_ID_CHARS, description="Characters of an id, a reason or a key of metadata."
    )
    metadata_entries: Literal[16] = Field(default=MAX_METADATA, description="Entries of metadata.")
    metadata_chars: Literal[512] = Field(default=MAX_METADATA_CHARS, description="Characters of a value of metadata.")
    speakers: Literal[8] = Field(default=MAX_SPEAKERS, description="Entries of voices.")
    lexicon_entries: Literal[200] = Field(default=MAX_LEXICON, description="Entries of lexicon.")
    lexicon_key_chars: Literal[64] = Field(
        default=MAX_LEXICON_KEY_CHARS, description="Characters of a word of lexicon."
    )
    lexicon_value_chars: Literal[256] = Field(
        default=MAX_LEXICON_VALUE_CHARS, description="Characters of how a word of lexicon is spoken."
    )
    lead_ms: Literal[30_000] = Field(default=MAX_LEAD_MS, description="pacing.lead_ms and pacing.burst_ms.")
    history_s: Literal[120] = Field(default=MAX_HISTORY_S, description="history.max_s.")
    history_turns: Literal[500] = Field(default=MAX_HISTORY_TURNS, description="history.max_turns.")
    max_frames: Literal[16_384] = Field(default=MAX_FRAMES, description="sampling.max_frames.")
    played_ms: Literal[86_400_000] = Field(default=MAX_MS, description="played_ms: a day.")


_SPEAKERS: Final = frozenset(str(speaker) for speaker in range(MAX_SPEAKERS))
# What marks tags and speakers stays out: a lexicon respells words and does nothing else.
_WORD: Final = re.compile(r"(?=.*[^\W_])[^\s\[\]<>|]+\Z")
_SPOKEN: Final = re.compile(r"(?=.*\S)[^\n\r\[\]<>|]+\Z")
_Part = TypeVar("_Part", bound=Wire)


def override(base: _Part, update: Wire) -> _Part:
    """`base` with every field that `update` was given and `base` has; nested objects field by field. Pure."""
    changes: dict[str, object] = {}
    for name in update.model_fields_set & type(base).model_fields.keys():
        given, present = getattr(update, name), getattr(base, name)
        changes[name] = override(present, given) if isinstance(given, Wire) and isinstance(present, Wire) else given
    return base.model_copy(update=changes)


def apply(config: SessionConfig, update: ConfigFields) -> SessionConfig:
    """The configuration after an update, checked as a whole. Pure: either all of the update holds or none.

    Raises ProtocolError `invalid_value` where fields contradict each other.
    """
    merged = override(config, update)
    output = _settled(merged.audio.output, update.audio.output)
    _check(output)
    _check_voices(merged.voices)
    _check_lexicon(merged.lexicon)
    return merged.model_copy(update={"audio": merged.audio.model_copy(update={"output": output})})


def _settled(output: OutputConfig, given: OutputConfig) -> OutputConfig:
    """What a change of format implies for the fields that the update did not give."""
    if "format" not in given.model_fields_set:
        return output
    changes: dict[str, object] = {}
    if "rate" not in given.model_fields_set:
        changes["rate"] = FIXED_RATES.get(output.format, output.rate)
    if "bitrate" not in given.model_fields_set and output.format is not Format.OPUS:
        changes["bitrate"] = None
    return output.model_copy(update=changes)


def _check(output: OutputConfig) -> None:
    fixed = FIXED_RATES.get(output.format, output.rate)
    if output.rate != fixed:
        text = f"audio.output.rate is {output.rate} but {output.format.value} has {fixed} only"
        raise ProtocolError(ErrorCode.INVALID_VALUE, text, param="audio.output.rate")
    if output.bitrate is not None and output.format is not Format.OPUS:
        text = f"audio.output.bitrate is {output.bitrate} but {output.format.value} has no bitrate to set"
        raise ProtocolError(ErrorCode.INVALID_VALUE, text, param="audio.output.bitrate")


def _check_voices(voices: Mapping[str, str]) -> None:
    for speaker in voices:
        if speaker not in _SPEAKERS:
            text = f"voices has a key {quoted(speaker)}, which is none of 0 to {MAX_SPEAKERS - 1}"
            raise ProtocolError(ErrorCode.INVALID_VALUE, text, param=f"voices.{clipped(speaker)}")


def _check_lexicon(lexicon: Mapping[str, str]) -> None:
    for word, spoken in lexicon.items():
        if not _WORD.match(word):
            text = f"lexicon has the word {quoted(word)}, which has a space or one of [ ] < > |, or no letter or digit"
        elif not _SPOKEN.match(spoken):
            text = f"lexicon speaks {quoted(word)} as {quoted(spoken)}, which has a line end or one of [ ] < > |, or is blank"
        else:
            continue
        raise ProtocolError(ErrorCode.INVALID_VALUE, text, param="lexicon")
