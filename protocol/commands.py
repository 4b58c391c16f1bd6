"""What a client may say: one class a command.

Knows fields, types, bounds and meanings. Does not know what a server does with them, nor how a refusal is worded (`protocol.messages`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from protocol.config import (
    MAX_APPEND_CHARS,
    MAX_JSON_BYTES,
    MAX_TOKEN_CHARS,
    ConfigFields,
    Id,
    Lax,
    Ms,
    SamplingConfig,
    Speed,
    VolumeDb,
    Wire,
)


class After(StrEnum):
    QUEUE = "queue"
    INTERRUPT = "interrupt"


class Scope(StrEnum):
    ALL = "all"
    TURN = "turn"


class PlaybackState(StrEnum):
    PLAYING = "playing"
    STALLED = "stalled"  # there was nothing to play, or the player was stopped from outside
    ENDED = "ended"  # the turn was played to its end


class Role(StrEnum):
    USER = "user"
    SYSTEM = "system"
    ASSISTANT = "assistant"


class UplinkFormat(StrEnum):
    PCM_S16LE = "pcm_s16le"
    MULAW = "mulaw"
    ALAW = "alaw"
    OPUS = "opus"


class BargeIn(StrEnum):
    OFF = "off"
    PAUSE = "pause"
    CANCEL = "cancel"


class CommandBase(Wire):
    """Any command."""

    event_id: Id | None = Field(
        default=None, description="The client's own id of this message; echoed in its answer or error."
    )


class SessionUpdate(ConfigFields, CommandBase):
    """Change settings from the next turn on. Fields that are not given stay as they are; all or nothing."""

    type: Literal["session.update"] = "session.update"
    token: Annotated[str, Field(min_length=1, max_length=MAX_TOKEN_CHARS)] | None = Field(
        default=None,
        repr=False,
        description="Key, from a client that cannot send an Authorization header. Looked at in the first message of a socket without one.",
    )


class TextAppend(CommandBase):
    """More text for a turn; opens one if none is open. Appends are joined verbatim and may be cut anywhere."""

    type: Literal["text.append"] = "text.append"
    text: str = Field(
        max_length=MAX_APPEND_CHARS, repr=False, description="Text, which may hold parts of tags and speaker tokens."
    )
    turn: Id | None = Field(default=None, description="Turn it belongs to; the open one if absent.")


class TextFlush(CommandBase):
    """Speak what is there now; the turn stays open."""

    type: Literal["text.flush"] = "text.flush"
    turn: Id | None = Field(default=None, description="The open turn if absent.")


class TurnEnd(CommandBase):
    """No more text for this turn."""

    type: Literal["turn.end"] = "turn.end"
    turn: Id | None = Field(default=None, description="The open turn if absent.")


class TurnStart(CommandBase):
    """Open a turn before its text: to set its options, to pre-empt, or to have voice and history ready."""

    type: Literal["turn.start"] = "turn.start"
    turn: Id | None = Field(default=None, description="Id of the new turn; minted if absent.")
    after: Annotated[After, Lax] = Field(
        default=After.QUEUE,
        description="queue: behind the turns that wait; interrupt: cancel them and the one that speaks.",
    )
    voice: Id | None = Field(default=None, description="Voice of this turn; the session's if absent.")
    speed: Speed | None = Field(default=None, description="Speed of this turn; the session's if absent.")
    volume_db: VolumeDb | None = Field(default=None, description="Volume of this turn; the session's if absent.")
    sampling: SamplingConfig | None = Field(
        default=None, description="Sampling of this turn; fields that are not given are the session's."
    )


class Mark(CommandBase):
    """Be told when the speech comes to this place: the end of the text so far."""

    type: Literal["mark"] = "mark"
    name: Id = Field(description="The client's name for it; comes back in `mark` events.")
    turn: Id | None = Field(default=None, description="The open turn if absent.")


class TurnCancel(CommandBase):
    """Stop. Idempotent; every turn it ends is answered by its turn.done."""

    type: Literal["turn.cancel"] = "turn.cancel"
    turn: Id | None = Field(default=None, description="The one that speaks if absent.")
    scope: Annotated[Scope, Lax] = Field(default=Scope.ALL, description="all: queued turns too; turn: this one alone.")
    played_ms: Ms | None = Field(
        default=None, description="How much of the turn the listener has heard; the server estimates if absent."
    )
    reason: Id = Field(
        default="barge_in",
        description="Why: barge_in, superseded, user or a word of the client's; echoed in turn.done.",
    )


class TurnPause(CommandBase):
    """Stop for now, perhaps for good: nothing is lost for pause_ttl_ms, then it becomes a cancel."""

    type: Literal["turn.pause"] = "turn.pause"
    turn: Id | None = Field(default=None, description="The one that speaks if absent.")
    played_ms: Ms | None = Field(
        default=None, description="How much of the turn the listener has heard; the server estimates if absent."
    )


class TurnResume(CommandBase):
    """Go on after a pause. Nothing is generated again."""

    type: Literal["turn.resume"] = "turn.resume"
    turn: Id | None = Field(default=None, description="The one that is paused if absent.")
    from_ms: Ms | None = Field(
        default=None,
        description="Send the audio again from the start of the word at this time, for a client that dropped what it had; absent: go on "
        "behind what was sent.",
    )


class PlaybackUpdate(CommandBase):
    """Where the listener is: every 200 to 500 ms, and when playing starts, stalls or ends."""

    type: Literal["playback.update"] = "playback.update"
    turn: Id = Field(description="Turn that is, or was, played.")
    played_ms: Ms = Field(description="How much of it was heard. It never falls.")
    state: Annotated[PlaybackState, Lax] = Field(
        default=PlaybackState.PLAYING,
        description="playing: it goes on from there; stalled: it stands still; ended: it was played to its end.",
    )


class ContextAppend(CommandBase):
    """What somebody else said, or what the agent was told: part of the conversation, never spoken."""

    type: Literal["context.append"] = "context.append"
    role: Annotated[Role, Lax] = Field(default=Role.USER, description="Whose words these are.")
    text: str = Field(min_length=1, max_length=MAX_APPEND_CHARS, repr=False, description="The words.")


class ContextTruncate(CommandBase):
    """A later, better word on how much of a turn was heard that is over. Legal until a later turn has begun to sound."""

    type: Literal["context.truncate"] = "context.truncate"
    turn: Id = Field(description="Turn that is over.")
    played_ms: Ms = Field(description="How much of it the listener has heard.")


class ContextClear(CommandBase):
    """Forget the conversation."""

    type: Literal["context.clear"] = "context.clear"
    keep_voice: bool = Field(
        default=True, description="Whether the session's voice stays; false goes back to the model's own."
    )


class AudioInput(CommandBase):
    """Announce sound from the client's microphone or caller: binary messages of kind 2, or `input_audio.append`."""

    type: Literal["audio.input"] = "audio.input"
    format: Annotated[UplinkFormat, Lax] = Field(default=UplinkFormat.PCM_S16LE, description="Encoding of its payload.")
    rate: Annotated[int, Field(ge=8_000, le=48_000, multiple_of=25)] | None = Field(
        default=None,
        description="Sample rate in Hz; absent: 16000 for PCM, 8000 for mulaw and alaw, 48000 for opus, which have no other.",
    )
    barge_in: Annotated[BargeIn, Lax] = Field(
        default=BargeIn.OFF,
        description="What speech does to the turn that speaks. off: it is told of; pause: the turn is paused, and goes on after a false "
        "alarm; cancel: the turn is cancelled.",
    )
    min_speech_ms: int = Field(
        default=200, ge=0, le=5_000, description="Speech that is shorter is none: it is not told and does nothing."
    )
    resume_after_ms: Annotated[int, Field(ge=0, le=30_000)] | None = Field(
        default=2_000,
        description="barge_in pause: the turn goes on by itself after so much silence in which the client did nothing; null: never.",
    )


class InputAudioAppend(CommandBase):
    """Sound from the client, for a client that cannot send binary messages."""

    type: Literal["input_audio.append"] = "input_audio.append"
    audio: str = Field(max_length=MAX_JSON_BYTES, repr=False, description="Payload in base64.")


class Ping(CommandBase):
    """Answered at once by `pong`, also while speech is being generated."""

    type: Literal["ping"] = "ping"
    t: JsonValue = Field(default=None, description="Anything; comes back unchanged.")


class SessionClose(CommandBase):
    """End the session."""

    type: Literal["session.close"] = "session.close"
    drain: bool = Field(default=True, description="true: after what was asked for has been spoken; false: now.")


Command = (
    SessionUpdate
    | TextAppend
    | TextFlush
    | TurnEnd
    | TurnStart
    | Mark
    | TurnCancel
    | TurnPause
    | TurnResume
    | PlaybackUpdate
    | ContextAppend
    | ContextTruncate
    | ContextClear
    | AudioInput
    | InputAudioAppend
    | Ping
    | SessionClose
)
