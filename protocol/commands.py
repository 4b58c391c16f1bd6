"""What a client may say: one class a command.

Knows fields, types, bounds and meanings. Does not know what a server does with them, nor how a refusal is worded (`protocol.messages`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from protocol.config import MAX_APPEND_CHARS, MAX_TOKEN_CHARS, ConfigFields, Id, Lax, Ms, SamplingConfig, Wire


class After(StrEnum):
    QUEUE = "queue"
    INTERRUPT = "interrupt"


class Scope(StrEnum):
    ALL = "all"
    TURN = "turn"


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
    sampling: SamplingConfig | None = Field(
        default=None, description="Sampling of this turn; fields that are not given are the session's."
    )


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


class ContextClear(CommandBase):
    """Forget the conversation."""

    type: Literal["context.clear"] = "context.clear"
    keep_voice: bool = Field(
        default=True, description="Whether the session's voice stays; false goes back to the model's own."
    )


class Ping(CommandBase):
    """Answered at once by `pong`, also while speech is being generated."""

    type: Literal["ping"] = "ping"
    t: JsonValue = Field(default=None, description="Anything; comes back unchanged.")


class SessionClose(CommandBase):
    """End the session."""

    type: Literal["session.close"] = "session.close"
    drain: bool = Field(default=True, description="true: after what was asked for has been spoken; false: now.")


Command = SessionUpdate | TextAppend | TextFlush | TurnEnd | TurnStart | TurnCancel | ContextClear | Ping | SessionClose
