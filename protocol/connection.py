"""Wire to typed messages and back, for one socket. Sans-IO: strings and bytes in, commands out or ProtocolError.

Knows JSON, sizes, the message rate, strikes and who has not shown a key yet. Does not know sockets, clocks (`now` is passed in, in seconds,
monotonic), sessions or turns. A refused message changes nothing but the strikes and the rate. The idea of a connection that never touches a
socket is that of h11 and of the websockets library.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Never

from pydantic import JsonValue

from protocol.audio_frame import AudioFrame, Flag, Kind, pack, unpack
from protocol.config import Limits, Transport
from protocol.errors import CLOSE_CODES, CloseCode, ErrorCode, ProtocolError, clipped, quoted
from protocol.messages import (
    Audio,
    Command,
    Event,
    SessionUpdate,
    TextAppend,
    TurnCancel,
    TurnEnd,
    TurnStart,
    command_fields,
    event_fields,
    parse_command,
    parse_event,
    usable_event_id,
)
from protocol.surrogates import has_half, join

JsonObject = dict[str, JsonValue]


class Connection:
    """The receiving half of a server's socket, from its first message to its last."""

    def __init__(self, limits: Limits, *, authenticated: bool = True) -> None:
        """`authenticated` False: only a session.update with a token passes, and anything else closes the socket."""
        self.limits: Final = limits
        self.authenticated = authenticated  # set by the caller once it has checked the token
        self._strikes = 0  # messages that were not JSON objects with a type
        self._bucket = _Bucket(limits.messages_per_s)
        self._half: _HeldHalf | None = None  # what the last text.append ended with

    def receive_text(self, message: str, now: float) -> Command:
        """The command in a text message. Raises ProtocolError; after a fatal one the caller closes and hands in nothing more."""
        try:
            command = self._read(message, self._bucket.take(now))
        except ProtocolError as error:
            raise self._judged(error) from None
        if not self.authenticated and not (isinstance(command, SessionUpdate) and command.token is not None):
            raise self._judged(ProtocolError(ErrorCode.UNAUTHORIZED, f"{command.type} before a token"))
        return command

    def receive_audio(self, message: bytes, now: float) -> AudioFrame:
        """The sound in a binary message of the client's. Raises ProtocolError as `receive_text` does."""
        wait_s = self._bucket.take(now)
        try:
            if len(message) > self.limits.binary_bytes:
                raise _too_big(len(message), self.limits.binary_bytes)
            if wait_s:
                raise _rate_limited(self.limits.messages_per_s, wait_s, None)
            frame = unpack(message)
            if frame.kind is not Kind.UPLINK:
                text = f"a client sends binary messages of kind {Kind.UPLINK.value}, not {frame.kind.value}"
                raise ProtocolError(ErrorCode.UNSUPPORTED, text, param="kind")
        except ProtocolError as error:
            raise self._judged(error) from None
        if not self.authenticated:
            raise self._judged(ProtocolError(ErrorCode.UNAUTHORIZED, "audio before a token"))
        return frame

    def _read(self, message: str, wait_s: float) -> Command:
        self._check_size(message)
        fields = _loads(message)
        if wait_s:
            raise _rate_limited(self.limits.messages_per_s, wait_s, _event_id(fields))
        if fields.get("type") == TextAppend.model_fields["type"].default:
            return self._text_append(fields)
        _check_tree(fields, self.limits)
        command = parse_command(fields)
        if self._half and self._half.dropped_by(command):
            self._half = None
        return command

    def _text_append(self, fields: JsonObject) -> TextAppend:
        """A text.append with its halves joined: a high half at the end waits for the next append of the turn.

        The half that a turn ends with is dropped, being no character. Nothing is held, and nothing that was is let go, if it is refused.
        """
        turn, text, half = fields.get("turn"), fields.get("text"), None
        if isinstance(text, str):
            whole, rest = join(self._half.before(turn, text) if self._half else "", text)
            half = _HeldHalf(rest, turn if isinstance(turn, str) else None) if rest else None
            fields = {**fields, "text": whole}
        _check_tree(fields, self.limits)
        command = parse_command(fields)
        assert isinstance(command, TextAppend), "the caller looked at the type"
        if len(command.text) > self.limits.append_chars:
            excess = f"text has {len(command.text)} characters, more than append_chars={self.limits.append_chars}"
            raise ProtocolError(
                ErrorCode.INVALID_VALUE, excess, param="text", turn=command.turn, event_id=command.event_id
            )
        self._half = half
        return command

    def _check_size(self, message: str) -> None:
        bound = self.limits.json_bytes if self.authenticated else self.limits.unauthenticated_bytes
        # A string of so many characters has at least as many bytes: the copy below is never larger than four times the bound.
        size = len(message) if len(message) > bound else len(message.encode("utf-8", "surrogatepass"))
        if size > self.limits.binary_bytes:
            raise _too_big(size, self.limits.binary_bytes)
        if size > bound:
            text = f"a JSON message of at least {size} bytes exceeds {bound}"
            raise ProtocolError.fatal_error(ErrorCode.LIMIT_EXCEEDED, text)

    def _judged(self, error: ProtocolError) -> ProtocolError:
        """The error with its consequence for the connection."""
        if not self.authenticated:
            return replace(error, code=ErrorCode.UNAUTHORIZED, close_code=CloseCode.UNAUTHORIZED)
        if error.code is ErrorCode.BAD_MESSAGE:
            self._strikes += 1
            if self._strikes >= self.limits.bad_messages:
                return replace(error, close_code=CLOSE_CODES[ErrorCode.BAD_MESSAGE])
        return error


def encode_event(event: Event) -> str:
    """The text message of an event."""
    return _dumps(event_fields(event))


def encode_command(command: Command) -> str:
    """The text message of a command: only the fields that were set. A client's half of the wire."""
    return _dumps(command_fields(command))


def encode_audio(transport: Transport, turn: str, n: int, flags: Flag, position: int, payload: bytes) -> bytes | str:
    """One packet of speech as the message that `audio.transport` asks for. Raises ValueError for a number out of range."""
    if transport is Transport.BINARY:
        return pack(Kind.SPEECH, flags, 0, n, position, payload)
    if transport is Transport.RAW:
        return payload
    data = base64.b64encode(payload).decode("ascii")
    return encode_event(Audio(turn=turn, n=n, flags=int(flags), position=position, data=data))


def decode_event(message: str) -> Event | None:
    """The event in a text message, None for a type that is not known. A client's half. Raises ProtocolError `bad_message`."""
    return parse_event(_loads(message))


@dataclass(frozen=True, slots=True)
class _HeldHalf:
    """The first half of a surrogate pair whose second half has not come."""

    text: str  # one high surrogate
    turn: str | None  # as its text.append named the turn; None is the open one

    def before(self, turn: JsonValue, text: str) -> str:
        """What to put in front of the next append. Where it may be of another turn, only a second half proves that it is not."""
        same = self.turn == turn
        perhaps = self.turn is None or turn is None
        return self.text if same or (perhaps and "\udc00" <= text[:1] <= "\udfff") else ""

    def dropped_by(self, command: Command) -> bool:
        """Whether no more text comes for its turn after this command."""
        if not isinstance(command, TurnEnd | TurnStart | TurnCancel):
            return False
        return self.turn is None or command.turn is None or self.turn == command.turn


class _Bucket:
    """Token bucket: a burst of one second's messages, then so many a second."""

    def __init__(self, per_s: int) -> None:
        self._per_s: Final = per_s
        self._tokens = float(per_s)
        self._at: float | None = None  # when _tokens was right, in seconds

    def take(self, now: float) -> float:
        """0 and one token less, or the seconds until there is one. A clock that goes back adds nothing."""
        elapsed_s = 0.0 if self._at is None else max(0.0, now - self._at)
        self._tokens = min(float(self._per_s), self._tokens + elapsed_s * self._per_s)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._per_s
        self._tokens -= 1
        return 0.0


class _Unparsable(ValueError):
    """JSON that Python would take and we do not; says why."""


def _loads(message: str) -> JsonObject:
    """A JSON object without duplicate keys or numbers that are none. Raises ProtocolError."""
    try:
        value = json.loads(
            message,
            object_pairs_hook=_object,
            parse_float=_number,
            parse_int=_integer,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        raise ProtocolError(ErrorCode.BAD_MESSAGE, f"not JSON: {error.msg} at character {error.pos}") from None
    except _Unparsable as error:
        raise ProtocolError(ErrorCode.BAD_MESSAGE, f"not JSON: {error}") from None
    except RecursionError:
        raise ProtocolError(ErrorCode.BAD_MESSAGE, "nested too deep to be read") from None
    if not isinstance(value, dict):
        raise ProtocolError(ErrorCode.BAD_MESSAGE, f"a message is a JSON object, not {quoted(value)}")
    return value


def _object(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    """Two values for one key would let two readers of one message disagree."""
    members = dict(pairs)
    if len(members) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _Unparsable(f"duplicate key {quoted(max(counts, key=lambda key: counts[key]))}")
    return members


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):  # 1e999 is JSON but no double; it could not be sent back in a pong
        raise _Unparsable(f"number {clipped(digits)} is out of range")
    return value


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # Python refuses to convert thousands of digits
        raise _Unparsable(f"number of {len(digits)} digits") from None


def _constant(name: str) -> Never:
    raise _Unparsable(f"{name} is no JSON number")


# Where a value stands: (where its container stands, key or index). Linked, because joined paths of long keys would take megabytes.
_Place = tuple["_Place", str | int] | None


def _check_tree(fields: JsonObject, limits: Limits) -> None:
    """Refuse what later steps pay for: deep nesting (they recurse), many values (each is reported), halves of characters (no UTF-8)."""
    level: list[tuple[_Place, JsonValue]] = [(None, fields)]
    values = depth = 0
    while level:
        values += len(level)
        if values > limits.json_values:
            text = f"message holds more than json_values={limits.json_values}"
            raise ProtocolError(ErrorCode.LIMIT_EXCEEDED, text, event_id=_event_id(fields))
        for place, value in level:
            if depth >= limits.json_depth and isinstance(value, dict | list):
                text = f"message is nested deeper than json_depth={limits.json_depth}"
                raise ProtocolError(ErrorCode.LIMIT_EXCEEDED, text, param=_dotted(place), event_id=_event_id(fields))
            if isinstance(value, str) and has_half(value):
                text = f"{_dotted(place)} is {quoted(value)}, which holds half of a surrogate pair"
                raise ProtocolError(ErrorCode.INVALID_VALUE, text, param=_dotted(place), event_id=_event_id(fields))
        level = [below for place, value in level for below in _members(place, value)]
        depth += 1


def _members(place: _Place, value: JsonValue) -> Iterator[tuple[_Place, JsonValue]]:
    """What is directly inside: items, and keys, which are strings like others."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield (place, key), key
            yield (place, key), member
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield (place, index), item


def _dotted(place: _Place) -> str:
    keys: list[str] = []
    while place is not None:
        place, key = place
        keys.append(clipped(str(key)))
    return ".".join(reversed(keys))


def _dumps(fields: JsonObject) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _event_id(fields: JsonObject) -> str | None:
    return usable_event_id(fields.get("event_id"))


def _too_big(size: int, bound: int) -> ProtocolError:
    text = f"a message of at least {size} bytes exceeds {bound}"
    return ProtocolError(ErrorCode.LIMIT_EXCEEDED, text, close_code=CloseCode.MESSAGE_TOO_BIG)


def _rate_limited(per_s: int, wait_s: float, event_id: str | None) -> ProtocolError:
    text = f"more than messages_per_s={per_s}; this message was not carried out"
    return ProtocolError(ErrorCode.RATE_LIMITED, text, event_id=event_id, retry_after_ms=math.ceil(wait_s * 1000))
