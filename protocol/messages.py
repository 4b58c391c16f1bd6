"""Every message of the protocol by name, and JSON objects to messages and back.

Knows how a refusal is worded. Does not know bytes, nor the limits that a server lowered (`protocol.connection`). Commands refuse what they
do not know; `parse_event`, the client's side, ignores it. All times are integer milliseconds from the start of the turn's audio unless the
name says `session_`; character ranges count Unicode code points of the turn's raw input text.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, get_args

from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails

from protocol.commands import (
    After,
    AudioInput,
    BargeIn,
    Command,
    CommandBase,
    ContextAppend,
    ContextClear,
    ContextTruncate,
    InputAudioAppend,
    Mark,
    Ping,
    PlaybackState,
    PlaybackUpdate,
    Role,
    Scope,
    SessionClose,
    SessionUpdate,
    TextAppend,
    TextFlush,
    TurnCancel,
    TurnEnd,
    TurnPause,
    TurnResume,
    TurnStart,
    UplinkFormat,
)
from protocol.config import MAX_ID_CHARS
from protocol.errors import ErrorCode, ProtocolError, clipped, quoted
from protocol.events import (
    Alignment,
    AlignmentItem,
    AlignmentSource,
    AnswerBase,
    Audio,
    ClosingReason,
    ContextUpdated,
    DetachReason,
    Dtmf,
    ErrorEvent,
    Event,
    EventBase,
    Heard,
    HeardSource,
    Kept,
    LegAttached,
    LegDetached,
    LiveTurn,
    MarkEvent,
    MarkState,
    Pong,
    SessionClosing,
    SessionCreated,
    SessionUpdated,
    SpeechAction,
    SpeechStarted,
    SpeechStopped,
    Status,
    TurnDone,
    TurnMetrics,
    TurnPaused,
    TurnPlayed,
    TurnResumed,
    TurnStarted,
    WarningCode,
    WarningEvent,
)
from protocol.surrogates import has_half

__all__ = [
    "COMMANDS",
    "EVENTS",
    "After",
    "Alignment",
    "AlignmentItem",
    "AlignmentSource",
    "AnswerBase",
    "Audio",
    "AudioInput",
    "BargeIn",
    "ClosingReason",
    "Command",
    "CommandBase",
    "ContextAppend",
    "ContextClear",
    "ContextTruncate",
    "ContextUpdated",
    "DetachReason",
    "Dtmf",
    "ErrorEvent",
    "Event",
    "EventBase",
    "Heard",
    "HeardSource",
    "InputAudioAppend",
    "Kept",
    "LegAttached",
    "LegDetached",
    "LiveTurn",
    "Mark",
    "MarkEvent",
    "MarkState",
    "Ping",
    "PlaybackState",
    "PlaybackUpdate",
    "Pong",
    "Role",
    "Scope",
    "SessionClose",
    "SessionClosing",
    "SessionCreated",
    "SessionUpdate",
    "SessionUpdated",
    "SpeechAction",
    "SpeechStarted",
    "SpeechStopped",
    "Status",
    "TextAppend",
    "TextFlush",
    "TurnCancel",
    "TurnDone",
    "TurnEnd",
    "TurnMetrics",
    "TurnPause",
    "TurnPaused",
    "TurnPlayed",
    "TurnResume",
    "TurnResumed",
    "TurnStart",
    "TurnStarted",
    "UplinkFormat",
    "WarningCode",
    "WarningEvent",
    "command_fields",
    "event_fields",
    "parse_command",
    "parse_event",
    "usable_event_id",
]

COMMANDS: Final[Mapping[str, type[Command]]] = MappingProxyType(
    {model.model_fields["type"].default: model for model in get_args(Command)}
)
EVENTS: Final[Mapping[str, type[Event]]] = MappingProxyType(
    {model.model_fields["type"].default: model for model in get_args(Event)}
)


def parse_command(message: Mapping[str, object]) -> Command:
    """The command that a JSON object is. Raises ProtocolError, with the message's event_id where it has a usable one.

    `bad_message` without a `type` string, `unsupported` for a type or field that does not exist, `invalid_value` for a value of the
    wrong type or out of bounds.
    """
    event_id = usable_event_id(message.get("event_id"))
    name = message.get("type")
    if not isinstance(name, str):
        text = "a message needs a type" if name is None else f"type is {quoted(name)} but should be a string"
        raise ProtocolError(ErrorCode.BAD_MESSAGE, text, param="type", event_id=event_id)
    model = COMMANDS.get(name)
    if model is None:
        raise ProtocolError(
            ErrorCode.UNSUPPORTED, f"unknown message type {quoted(name)}", param="type", event_id=event_id
        )
    try:
        return model.model_validate(message)
    except ValidationError as error:
        raise _refusal(name, error, event_id) from None  # pydantic's own text repeats the whole input


def parse_event(message: Mapping[str, object]) -> Event | None:
    """The event that a JSON object is; None for a type that this version does not know. Unknown fields are dropped.

    Raises ProtocolError `bad_message` for a known type that does not hold what it should.
    """
    name = message.get("type")
    model = EVENTS.get(name) if isinstance(name, str) else None
    if model is None:
        return None
    try:
        return model.model_validate(message, extra="ignore")
    except ValidationError as error:
        refusal = _refusal(str(name), error, None)
        raise ProtocolError(ErrorCode.BAD_MESSAGE, refusal.message, param=refusal.param) from None


def usable_event_id(value: object) -> str | None:
    """`value` if it can be echoed as an event_id, even where the rest of its message is refused; else None."""
    return value if isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS and not has_half(value) else None


def command_fields(command: Command) -> dict[str, JsonValue]:
    """The JSON object of a command: `type` and the fields that were set, nested objects alike."""
    return {"type": command.type, **command.model_dump(mode="json", exclude_unset=True, exclude={"type"})}


def event_fields(event: Event) -> dict[str, JsonValue]:
    """The JSON object of an event, without the optional fields that have no value."""
    fields = event.model_dump(mode="json", exclude={"type"})
    return {"type": event.type, **{name: value for name, value in fields.items() if value is not None}}


def _refusal(name: str, error: ValidationError, event_id: str | None) -> ProtocolError:
    """The first of pydantic's findings in the protocol's words; an unknown field goes first, as the likely cause of the others."""
    findings = error.errors(include_url=False)
    finding = next((item for item in findings if item["type"] == "extra_forbidden"), findings[0])
    param = ".".join(clipped(str(part)) for part in finding["loc"] if part != "[key]")
    if finding["type"] == "extra_forbidden":
        return ProtocolError(ErrorCode.UNSUPPORTED, f"{name} has no field {param}", param=param, event_id=event_id)
    return ProtocolError(ErrorCode.INVALID_VALUE, f"{param} {_complaint(finding)}", param=param, event_id=event_id)


def _complaint(finding: ErrorDetails) -> str:
    value, bounds = finding["input"], finding.get("ctx", {})
    if finding["type"] == "missing":
        return "is missing"
    if finding["type"] == "string_too_long":
        return f"has {len(value)} characters, more than {bounds['max_length']}"
    if finding["type"] == "too_long":
        return f"has {len(value)} entries, more than {bounds['max_length']}"
    if finding["type"] in ("model_type", "dict_type"):
        return f"is {quoted(value)} but should be an object"
    advice = finding["msg"].removeprefix("Input ").removeprefix("String ").removeprefix("Dictionary ")
    # A token is a secret and goes into no message; what is wrong with it shows in the advice.
    return advice if finding["loc"] == ("token",) else f"is {quoted(value)} but {advice}"
