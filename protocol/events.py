"""What a server says: one class an event.

Knows fields, types and meanings. Does not know when an event is sent, nor its bytes. Lists of codes and reasons are open: a client takes
a word it does not know as such, so that a newer server can say more.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, JsonValue

from protocol.config import Count, Id, Lax, Limits, Ms, SessionConfig, TurnNumber, Wire
from protocol.errors import ErrorCode, ProtocolError


class Status(StrEnum):
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


class HeardSource(StrEnum):
    CLIENT = "client"  # played_ms was given
    ACK = "ack"  # the last playback.update, and the time since then if it was playing
    MARK = "mark"  # the last mark that a telephone sent back, and the time since then
    CLOCK = "clock"  # estimated from when audio was sent
    NONE = "none"  # no audio was sent


class AlignmentSource(StrEnum):
    MODEL = "model"
    ESTIMATE = "estimate"


class MarkState(StrEnum):
    GENERATED = "generated"  # the audio up to it exists
    PLAYED = "played"  # the listener has heard it
    DROPPED = "dropped"  # the listener will not hear it


class SpeechAction(StrEnum):
    """What somebody's speech did to the turn that was speaking."""

    NONE = "none"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    RESUMED = "resumed"


class DetachReason(StrEnum):
    """Why a leg is not there any more."""

    HANGUP = "hangup"  # the other side ended it
    LOST = "lost"  # its connection did
    REPLACED = "replaced"  # another one came


class ClosingReason(StrEnum):
    RESTART = "restart"
    EXPIRED = "expired"
    IDLE = "idle"


class WarningCode(StrEnum):
    LATE_TEXT = "late_text"  # text for a turn that the server ended; dropped, told once a turn
    TURN_IDLE_CLOSED = "turn_idle_closed"  # an open turn got no text for turn_idle_ms and was ended
    UNDERRUN = "underrun"  # the listener ran out of audio while text was there
    UNSUPPORTED_SCRIPT = "unsupported_script"  # text that the model cannot read; left out, told once a script and turn
    TEXT_NORMALIZED = "text_normalized"  # text was left out or reworded, as `normalize` says
    SLOW_CONSUMER = "slow_consumer"  # on resume: the socket before this one was dropped because it took no data
    TEXT_LEFT_OUT = "text_left_out"  # the model ended a segment before its last word
    SPEECH_CUT = "speech_cut"  # degenerate speech was ended at its last sane frame
    SPEECH_RETRIED = "speech_retried"  # degenerate speech was thrown away unsent and drawn again


class EventBase(Wire):
    """Any event. Optional fields without a value are absent on the wire."""


class AnswerBase(EventBase):
    """An event that can answer a command."""

    event_id: Id | None = Field(default=None, description="event_id of the command that this answers.")


class LiveTurn(Wire):
    """A turn that is not over when a socket resumes its session: what of the client's messages has arrived."""

    turn: Id = Field(description="Id of the turn.")
    n: TurnNumber = Field(description="Its number.")
    text_chars: Count = Field(description="Code points of its text that arrived.")
    text_ended: bool = Field(description="Whether its turn.end arrived.")


class SessionCreated(EventBase):
    """First event of a session, and of a socket that resumes one."""

    type: Literal["session.created"] = "session.created"
    session: Id = Field(description="Id of the session.")
    resume_token: str | None = Field(
        default=None,
        repr=False,
        description="Secret that resumes this session from another socket; absent where it cannot be resumed.",
    )
    resumed: bool = Field(default=False, description="Whether the session existed before this socket.")
    turns: Annotated[tuple[LiveTurn, ...], Lax] = Field(
        default=(),
        description="Turns that are not over: `turn`, `n`, `text_chars` and `text_ended` of each. What the server lacks, send again.",
    )
    config: SessionConfig = Field(description="Configuration in effect.")
    limits: Limits = Field(description="Every number used to refuse something.")
    model: str = Field(description="Name of the loaded model.")
    sample_rate: int = Field(ge=1, description="The model's own rate in Hz: output at this rate is not resampled.")
    pre_skip: Count = Field(
        description="Samples at output rate that the decoder of every turn must drop first; 0 but for opus."
    )
    server_time: Count = Field(description="Unix time in ms.")
    expires_at: Count = Field(description="Unix time in ms at which the session ends.")


class SessionUpdated(AnswerBase):
    """A session.update was accepted."""

    type: Literal["session.updated"] = "session.updated"
    config: SessionConfig = Field(description="Configuration from `from_turn` on.")
    from_turn: TurnNumber = Field(description="Number n of the first turn it applies to.")
    pre_skip: Count = Field(description="As in session.created, from that turn on.")


class TurnStarted(EventBase):
    """Sent just before the first audio of a turn."""

    type: Literal["turn.started"] = "turn.started"
    turn: Id = Field(description="Id of the turn.")
    n: TurnNumber = Field(description="Its number, as in the audio header.")
    queue_ms: Count = Field(description="How long its text waited behind other turns and for a place in the engine.")
    first_audio_ms: Count = Field(description="From the turn's first text to its first audio.")


class AlignmentItem(NamedTuple):
    """One spoken word; an array on the wire."""

    text: str
    start_ms: Ms
    end_ms: Ms
    char_start: Count
    char_end: Count
    speaker: Count | None = None


class Alignment(EventBase):
    """When words are spoken. A later item replaces an earlier one with the same character range."""

    type: Literal["alignment"] = "alignment"
    turn: Id = Field(description="Id of the turn.")
    items: Annotated[tuple[AlignmentItem, ...], Lax] = Field(
        description="Arrays [text, start_ms, end_ms, char_start, char_end, speaker or null]."
    )
    source: Annotated[AlignmentSource, Lax] | Id = Field(
        default=AlignmentSource.ESTIMATE,
        union_mode="left_to_right",
        description="Where the times come from. model: from what the model attended to; estimate: from the text and the audio's length.",
    )
    final: bool = Field(description="Whether these items will not be replaced.")


class MarkEvent(EventBase):
    """The speech has come to a mark, or never will."""

    type: Literal["mark"] = "mark"
    turn: Id = Field(description="Id of the turn.")
    name: Id = Field(description="As in the client's mark.")
    at_ms: Ms | None = Field(
        default=None, description="Where in the turn's audio it is; absent if that was never known."
    )
    state: Annotated[MarkState, Lax] | Id = Field(
        union_mode="left_to_right",
        description="generated: the audio up to it exists; played: the listener has heard it, where there is a playback clock; dropped: "
        "the turn was cut before it.",
    )


class TurnPaused(AnswerBase):
    """A turn stands still."""

    type: Literal["turn.paused"] = "turn.paused"
    turn: Id = Field(description="Id of the turn.")
    at_ms: Ms = Field(description="What was heard of it.")


class TurnResumed(AnswerBase):
    """A turn that was paused goes on."""

    type: Literal["turn.resumed"] = "turn.resumed"
    turn: Id = Field(description="Id of the turn.")
    at_ms: Ms = Field(description="Where the listener goes on.")


class Heard(Wire):
    """What the listener has heard of a turn. text + remaining is the turn's raw input text."""

    ms: Ms = Field(description="Audio heard.")
    text: str = Field(repr=False, description="Raw text that was heard, tags included.")
    remaining: str = Field(repr=False, description="Raw text that was not.")
    char_end: Count = Field(description="Code points in `text`.")
    source: Annotated[HeardSource, Lax] | Id = Field(
        union_mode="left_to_right",
        description="client: from played_ms; ack: from playback.update; mark: from what a telephone has played; clock: estimated from when "
        "audio was sent; none: none was sent.",
    )


class Kept(Wire):
    """What the conversation keeps of a turn."""

    kept_ms: Ms = Field(description="Audio that conditions later turns.")
    kept_chars: Count = Field(description="Code points of raw text that do.")


class TurnMetrics(Wire):
    """How a turn went."""

    text_to_first_audio_ms: Count | None = Field(
        default=None, description="From first text to first audio; null if there was none."
    )
    queue_ms: Count = Field(default=0, description="As in turn.started.")
    chunks: Count = Field(default=0, description="Segments that the text was spoken in.")
    rtf: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Seconds of generation per second of audio; null without audio."
    )
    min_lead_ms: int | None = Field(
        default=None,
        description="Least audio ahead of playback while the turn spoke; negative is an underrun; null without audio.",
    )
    underruns: Count = Field(default=0, description="Times the listener ran out of audio while text was there.")
    text_chars: Count = Field(default=0, description="Code points of raw input.")
    audio_tokens: Count = Field(default=0, description="Codec frames generated.")


class TurnDone(AnswerBase):
    """The one end of a turn. No audio with this n follows."""

    type: Literal["turn.done"] = "turn.done"
    turn: Id = Field(description="Id of the turn.")
    n: TurnNumber = Field(description="Its number.")
    status: Annotated[Status, Lax] = Field(description="How it ended.")
    reason: Id | None = Field(default=None, description="Why it was cancelled or failed.")
    audio_ms: Ms = Field(description="Audio generated and kept.")
    sent_ms: Ms = Field(description="Audio sent.")
    heard: Heard = Field(description="What was heard.")
    context: Kept = Field(description="What later turns remember.")
    metrics: TurnMetrics = Field(description="How it went.")


class TurnPlayed(EventBase):
    """The listener has heard a completed turn to its end; only where there is a playback clock. It can no longer be cancelled."""

    type: Literal["turn.played"] = "turn.played"
    turn: Id = Field(description="Id of the turn.")
    ms: Ms = Field(description="What was heard of it.")


class ContextUpdated(AnswerBase):
    """The conversation after a context command, or after a turn.cancel of a turn that was done but not yet heard to its end."""

    type: Literal["context.updated"] = "context.updated"
    turn: Id | None = Field(default=None, description="Turn that was cut after its turn.done.")
    heard: Heard | None = Field(default=None, description="What of that turn was heard; replaces its turn.done.heard.")
    turns: Count = Field(description="Turns it holds.")
    audio_s: Annotated[float, Field(ge=0)] = Field(description="Seconds of heard speech it holds.")
    text_chars: Count = Field(description="Code points of heard text it holds.")
    messages: Count = Field(default=0, description="Messages of context.append it holds.")
    used: bool | None = Field(
        default=None, description="Answer to context.append: whether the words condition how the next turns are spoken."
    )


class SpeechStarted(EventBase):
    """Somebody on the client's side has begun to speak."""

    type: Literal["speech.started"] = "speech.started"
    session_ms: Count = Field(description="When it began, by the age of the session.")
    leg: Count = Field(default=0, description="Where the sound came from; 0 is this socket.")
    turn: Id | None = Field(default=None, description="Turn that was speaking.")
    action: Annotated[SpeechAction, Lax] = Field(description="What it did to that turn.")


class SpeechStopped(EventBase):
    """Somebody on the client's side has stopped speaking, or a turn that was paused for it goes on."""

    type: Literal["speech.stopped"] = "speech.stopped"
    session_ms: Count = Field(description="When it ended, by the age of the session.")
    leg: Count = Field(default=0, description="Where the sound came from; 0 is this socket.")
    turn: Id | None = Field(default=None, description="Turn that was speaking when it began.")
    action: Annotated[SpeechAction, Lax] = Field(description="What it did to that turn.")


class LegAttached(EventBase):
    """A telephone is there: turns that are opened from now on are spoken to it, and not to the socket."""

    type: Literal["leg.attached"] = "leg.attached"
    leg: Annotated[int, Field(ge=1)] = Field(description="Its number.")
    kind: Id = Field(description="Whose telephone: twilio.")
    call: Id = Field(description="The call, as they name it.")


class LegDetached(EventBase):
    """It is gone: what was spoken to it is cancelled, and new turns are spoken to the socket again."""

    type: Literal["leg.detached"] = "leg.detached"
    leg: Annotated[int, Field(ge=1)] = Field(description="Its number.")
    kind: Id = Field(description="As in leg.attached.")
    call: Id = Field(description="As in leg.attached.")
    reason: Annotated[DetachReason, Lax] | Id = Field(
        union_mode="left_to_right",
        description="hangup: the other side ended the call, or the connection, in order; lost: the connection was lost; replaced: another "
        "call came to the session.",
    )


class Dtmf(EventBase):
    """A key of the telephone was pressed."""

    type: Literal["dtmf"] = "dtmf"
    leg: Annotated[int, Field(ge=1)] = Field(description="Where.")
    digit: Id = Field(description="0 to 9, *, # or A to D.")
    turn: Id | None = Field(default=None, description="Turn that was speaking.")
    action: Annotated[SpeechAction, Lax] = Field(description="What it did to that turn: none or cancelled.")


class WarningEvent(EventBase):
    """Something the client may want to know; nothing was refused."""

    type: Literal["warning"] = "warning"
    code: Annotated[WarningCode, Lax] | Id = Field(union_mode="left_to_right", description="What happened.")
    turn: Id | None = Field(default=None, description="Turn it concerns.")
    message: str = Field(description="For people.")


class ErrorEvent(AnswerBase):
    """A command was refused, a turn failed, or the socket is about to close."""

    type: Literal["error"] = "error"
    code: Annotated[ErrorCode, Lax] | Id = Field(union_mode="left_to_right", description="What is wrong.")
    message: str = Field(description="For people; gives the value and the bound.")
    fatal: bool = Field(default=False, description="Whether the socket closes now.")
    turn: Id | None = Field(default=None, description="Turn it concerns.")
    param: str | None = Field(default=None, description="Dotted path of the field at fault.")
    retry_after_ms: Count | None = Field(default=None, description="When it is worth trying again.")

    @classmethod
    def of(cls, error: ProtocolError) -> ErrorEvent:
        """The event that tells a client of `error`."""
        return cls(
            code=error.code,
            message=error.message,
            fatal=error.fatal,
            turn=error.turn,
            event_id=error.event_id,
            param=error.param,
            retry_after_ms=error.retry_after_ms,
        )


class Pong(AnswerBase):
    """Answer to ping."""

    type: Literal["pong"] = "pong"
    t: JsonValue = Field(default=None, description="As in the ping; absent if null.")
    session_ms: Count = Field(description="Age of the session.")
    turn: Id | None = Field(default=None, description="Turn that speaks.")
    sent_ms: Ms | None = Field(default=None, description="Audio of that turn sent so far.")


class SessionClosing(EventBase):
    """The server is about to close the socket, and the session is over then: it cannot be resumed."""

    type: Literal["session.closing"] = "session.closing"
    reason: Annotated[ClosingReason, Lax] | Id = Field(union_mode="left_to_right", description="Why.")
    in_ms: Ms = Field(description="Time left.")
    message: str | None = Field(default=None, description="For people: what ends, and what to do.")
    retry_after_ms: Count | None = Field(
        default=None, description="When it is worth connecting for a new session; absent: at once."
    )


class Audio(EventBase):
    """One packet, where audio.transport is json."""

    type: Literal["audio"] = "audio"
    turn: Id = Field(description="Id of the turn.")
    n: TurnNumber = Field(description="Its number.")
    flags: Annotated[int, Field(ge=0, le=255)] = Field(
        description="1 first, 2 last, 4 samples were dropped before; added up."
    )
    position: Annotated[int, Field(ge=0, lt=2**64)] = Field(description="First sample within the turn, at output rate.")
    data: str = Field(repr=False, description="Payload in base64.")


Event = (
    SessionCreated
    | SessionUpdated
    | TurnStarted
    | Alignment
    | MarkEvent
    | TurnPaused
    | TurnResumed
    | TurnDone
    | TurnPlayed
    | ContextUpdated
    | SpeechStarted
    | SpeechStopped
    | LegAttached
    | LegDetached
    | Dtmf
    | WarningEvent
    | ErrorEvent
    | Pong
    | SessionClosing
    | Audio
)
