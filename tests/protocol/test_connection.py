from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.audio_frame import AudioFrame, Flag, Kind, pack, unpack
from protocol.config import Limits, Transport
from protocol.connection import Connection, decode_event, encode_audio, encode_command, encode_event
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.messages import Audio, Command, Ping, Pong, SessionUpdate, TextAppend, TurnCancel, TurnEnd
from tests.protocol.from_schema import json_values

LIMITS = Limits()
HIGH, LOW = "\ud83d", "\ude00"


def refusal(connection: Connection, message: str | bytes, now: float = 0.0) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        if isinstance(message, bytes):
            connection.receive_audio(message, now)
        else:
            connection.receive_text(message, now)
    return caught.value


def said(connection: Connection, **message: Any) -> Command:
    return connection.receive_text(json.dumps(message), 0.0)


def text_of(connection: Connection, **message: Any) -> str:
    command = said(connection, type="text.append", **message)
    assert isinstance(command, TextAppend)
    return command.text


def test_a_message_becomes_a_command() -> None:
    command = Connection(LIMITS).receive_text('{"type":"text.append","text":"grün 😀","turn":"t1"}', 0.0)
    assert command == TextAppend(text="grün 😀", turn="t1")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("\ufeff{}", "not JSON"),
        ('{"type":"ping"} x', "not JSON"),
        ('{"type":"ping","t":"a\nb"}', "not JSON"),
        ("[]", "a message is a JSON object, not []"),
        ('"ping"', 'not "ping"'),
        ("null", "not null"),
        ("{}", "a message needs a type"),
        ('{"type":"ping","type":"turn.cancel"}', 'duplicate key "type"'),
        ('{"type":"ping","t":{"a":1,"b":2,"a":3}}', 'duplicate key "a"'),
        ('{"type":"ping","t":NaN}', "NaN"),
        ('{"type":"ping","t":-Infinity}', "-Infinity"),
        ('{"type":"ping","t":1e999}', "1e999 is out of range"),
        ('{"type":"ping","t":' + "9" * 5000 + "}", "5000 digits"),
        ("[" * 60_000, "nested too deep"),
        ('{"a":' * 12_000, "nested too deep"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_plain_json_object_with_a_type_is_a_bad_message(message: str, reason: str) -> None:
    error = refusal(Connection(LIMITS), message)
    assert (error.code, error.fatal) == (ErrorCode.BAD_MESSAGE, False)
    assert reason in error.message


def test_the_third_bad_message_closes() -> None:
    connection = Connection(LIMITS)
    assert not refusal(connection, "{").fatal
    said(connection, type="ping")
    assert not refusal(connection, '{"type":5}').fatal
    assert refusal(connection, '{"type":"marks"}').code is ErrorCode.UNSUPPORTED
    third = refusal(connection, "[]")
    assert (third.code, third.close_code) == (ErrorCode.BAD_MESSAGE, CloseCode.BAD_MESSAGE)


@pytest.mark.parametrize("filler", ["x", "é", "😀"])
def test_a_json_message_may_be_as_long_as_the_limit_in_bytes_and_no_longer(filler: str) -> None:
    empty = '{"type":"ping","t":""}'
    room = LIMITS.json_bytes - len(empty)
    width = len(filler.encode())
    fits = empty[:-2] + filler * (room // width) + "x" * (room % width) + empty[-2:]
    assert len(fits.encode()) == LIMITS.json_bytes
    Connection(LIMITS).receive_text(fits, 0.0)
    error = refusal(Connection(LIMITS), fits + " ")
    assert (error.code, error.close_code) == (ErrorCode.LIMIT_EXCEEDED, CloseCode.LIMIT_EXCEEDED)
    assert str(LIMITS.json_bytes) in error.message


def test_a_message_beyond_the_largest_of_any_kind_closes_as_too_big() -> None:
    for message in ("x" * (LIMITS.binary_bytes + 1), bytes(LIMITS.binary_bytes + 1)):
        assert refusal(Connection(LIMITS), message).close_code is CloseCode.MESSAGE_TOO_BIG


def test_a_lowered_limit_is_the_one_that_counts() -> None:
    connection = Connection(Limits(json_bytes=5000, append_chars=10, bad_messages=1, binary_bytes=65536))
    assert text_of(connection, text="x" * 10) == "x" * 10
    error = refusal(connection, '{"type":"text.append","text":"12345678901","turn":"t1","event_id":"e1"}')
    assert (error.code, error.param, error.turn, error.event_id) == (ErrorCode.INVALID_VALUE, "text", "t1", "e1")
    assert "11" in error.message and "append_chars=10" in error.message
    assert refusal(connection, bytes(65537)).close_code is CloseCode.MESSAGE_TOO_BIG
    assert refusal(connection, "x").close_code is CloseCode.BAD_MESSAGE
    assert refusal(connection, " " * 5001).code is ErrorCode.LIMIT_EXCEEDED


def test_sound_from_a_client_is_read() -> None:
    message = pack(Kind.UPLINK, Flag.FIRST, 0, 0, 960, b"\x01\x02")
    assert Connection(LIMITS).receive_audio(message, 0.0) == AudioFrame(Kind.UPLINK, Flag.FIRST, 0, 0, 960, b"\x01\x02")


def test_a_client_does_not_send_speech_of_the_servers() -> None:
    error = refusal(Connection(LIMITS), pack(Kind.SPEECH, Flag.NONE, 0, 1, 0, b"\0\0"))
    assert (error.code, error.param, error.fatal) == (ErrorCode.UNSUPPORTED, "kind", False)


def test_sound_counts_as_messages_do() -> None:
    connection = Connection(Limits(messages_per_s=50))
    sound = pack(Kind.UPLINK, Flag.NONE, 0, 0, 0, b"\0\0")
    for _ in range(50):
        connection.receive_audio(sound, 0.0)
    assert refusal(connection, sound).code is ErrorCode.RATE_LIMITED


def test_sound_is_no_way_past_the_key() -> None:
    error = refusal(Connection(LIMITS, authenticated=False), pack(Kind.UPLINK, Flag.NONE, 0, 0, 0, b"\0\0"))
    assert error.close_code is CloseCode.UNAUTHORIZED


def nested(depth: int) -> str:
    return '{"type":"ping","t":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


def test_nesting_has_a_limit_that_does_not_close() -> None:
    connection = Connection(LIMITS)
    connection.receive_text(nested(LIMITS.json_depth), 0.0)
    for depth in (LIMITS.json_depth + 1, 500):
        error = refusal(connection, nested(depth))
        assert (error.code, error.fatal) == (ErrorCode.LIMIT_EXCEEDED, False)
        assert f"json_depth={LIMITS.json_depth}" in error.message


def test_the_number_of_values_has_a_limit_that_does_not_close() -> None:
    connection = Connection(LIMITS)
    most = LIMITS.json_values - 5  # the object itself, its two keys, the type, the array
    assert said(connection, type="ping", t=[0] * most) == Ping(t=[0] * most)
    error = refusal(connection, json.dumps({"event_id": "e1", "type": "ping", "t": [0] * most}))
    assert (error.code, error.fatal, error.event_id) == (ErrorCode.LIMIT_EXCEEDED, False, "e1")


def test_too_many_messages_a_second_are_refused_until_there_is_room() -> None:
    connection = Connection(LIMITS)
    ping = '{"type":"ping","event_id":"e7"}'
    for _ in range(200):
        connection.receive_text(ping, 100.0)
    error = refusal(connection, ping, 100.0)
    assert (error.code, error.fatal, error.event_id, error.retry_after_ms) == (ErrorCode.RATE_LIMITED, False, "e7", 5)
    assert refusal(connection, b"", 100.0).code is ErrorCode.RATE_LIMITED
    assert refusal(connection, ping, 100.004).code is ErrorCode.RATE_LIMITED
    connection.receive_text(ping, 100.006)
    assert refusal(connection, ping, 100.006).code is ErrorCode.RATE_LIMITED
    assert refusal(connection, ping, 99.0).code is ErrorCode.RATE_LIMITED


def test_messages_at_the_rate_of_the_limit_all_pass() -> None:
    connection = Connection(LIMITS)
    for index in range(1000):
        assert connection.receive_text('{"type":"ping"}', index / 200).type == "ping"


def test_a_pause_gives_no_more_than_one_second_of_burst() -> None:
    connection = Connection(Limits(messages_per_s=3))
    connection.receive_text('{"type":"ping"}', 0.0)
    for _ in range(3):
        connection.receive_text('{"type":"ping"}', 1000.0)
    assert refusal(connection, '{"type":"ping"}', 1000.0).retry_after_ms == 334


def test_a_refused_message_leaves_the_text_as_it_was() -> None:
    connection = Connection(Limits(messages_per_s=3, append_chars=4))
    assert text_of(connection, text="a" + HIGH) == "a"
    refusal(connection, json.dumps({"type": "text.append", "text": LOW, "x": 1}))
    refusal(connection, json.dumps({"type": "text.append", "text": LOW + "12345"}))
    assert refusal(connection, json.dumps({"type": "text.append", "text": LOW})).code is ErrorCode.RATE_LIMITED
    resumed = connection.receive_text(json.dumps({"type": "text.append", "text": LOW}), 1.0)
    assert resumed == TextAppend(text="😀")


def test_an_emoji_cut_between_two_appends_is_one_character() -> None:
    connection = Connection(LIMITS)
    assert text_of(connection, text="hi " + HIGH, turn="t1") == "hi "
    assert text_of(connection, text=LOW + " there", turn="t1") == "😀 there"


@pytest.mark.parametrize(
    "between",
    [
        {"type": "ping"},
        {"type": "text.flush"},
        {"type": "session.update", "latency": "quality"},
        {"type": "turn.cancel", "turn": "t0"},
        {"type": "turn.end", "turn": "t0"},
    ],
    ids=lambda message: message["type"],
)
def test_a_half_waits_while_its_turn_may_get_more_text(between: dict[str, Any]) -> None:
    connection = Connection(LIMITS)
    text_of(connection, text=HIGH, turn="t1")
    said(connection, **between)
    assert text_of(connection, text=LOW, turn="t1") == "😀"


@pytest.mark.parametrize(
    "between",
    [
        {"type": "turn.end"},
        {"type": "turn.end", "turn": "t1"},
        {"type": "turn.start", "turn": "t1"},
        {"type": "turn.cancel"},
        {"type": "text.append", "turn": "t2", "text": ""},
    ],
    ids=lambda message: "{type} {turn}".format_map({"turn": ""} | message),
)
def test_a_half_goes_with_its_turn(between: dict[str, Any]) -> None:
    connection = Connection(LIMITS)
    text_of(connection, text=HIGH, turn="t1")
    said(connection, **between)
    assert text_of(connection, text=LOW + "x", turn="t1") == "\ufffdx"


@pytest.mark.parametrize(("first", "second"), [("t1", None), (None, "t1")])
def test_a_half_finds_its_partner_where_only_one_append_names_the_turn(first: str | None, second: str | None) -> None:
    connection = Connection(LIMITS)
    text_of(connection, text=HIGH, turn=first)
    assert text_of(connection, text=LOW, turn=second) == "😀"
    text_of(connection, text=HIGH, turn=first)
    assert text_of(connection, text="x", turn=second) == "x"


def test_a_half_is_not_given_to_another_turn() -> None:
    connection = Connection(LIMITS)
    text_of(connection, text=HIGH, turn="t1")
    assert text_of(connection, text=LOW, turn="t2") == "\ufffd"


def test_a_half_without_its_partner_is_replaced() -> None:
    connection = Connection(LIMITS)
    assert text_of(connection, text=LOW + "a" + HIGH + "b") == "\ufffda\ufffdb"
    assert text_of(connection, text=HIGH) == ""
    assert text_of(connection, text="x") == "\ufffdx"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"type": "turn.end", "turn": HIGH}, "turn"),
        ({"type": "text.append", "text": "", "turn": LOW}, "turn"),
        ({"type": "ping", "t": ["a", {"b": HIGH}]}, "t.1.b"),
        ({"type": "ping", "event_id": HIGH}, "event_id"),
        ({"type": "ping", HIGH: 1}, "?"),
        ({"type": HIGH}, "type"),
    ],
    ids=str,
)
def test_half_a_character_outside_of_text_is_an_invalid_value(message: dict[str, Any], param: str) -> None:
    error = refusal(Connection(LIMITS), json.dumps(message))
    assert (error.code, error.param, error.event_id) == (ErrorCode.INVALID_VALUE, param, None)


def test_an_append_whose_text_is_no_string_is_an_invalid_value() -> None:
    assert refusal(Connection(LIMITS), '{"type":"text.append","text":5}').param == "text"


def test_before_a_token_was_checked_only_a_token_passes() -> None:
    connection = Connection(LIMITS, authenticated=False)
    assert said(connection, type="session.update", token="key", voice="anna") == SessionUpdate(
        token="key", voice="anna"
    )
    connection.authenticated = True
    assert said(connection, type="ping") == Ping()


@pytest.mark.parametrize(
    "message",
    [
        '{"type":"ping"}',
        '{"type":"session.update"}',
        '{"type":"session.update","token":null}',
        "{",
        "",
        '{"type":"x"}',
        b"\x02",
    ],
)
def test_before_a_token_was_checked_anything_else_closes(message: str | bytes) -> None:
    error = refusal(Connection(LIMITS, authenticated=False), message)
    assert (error.code, error.close_code) == (ErrorCode.UNAUTHORIZED, CloseCode.UNAUTHORIZED)


def test_the_first_message_of_an_unknown_client_is_small() -> None:
    message = json.dumps({"type": "session.update", "token": "key"})
    padded = message + " " * (LIMITS.unauthenticated_bytes - len(message))
    Connection(LIMITS, authenticated=False).receive_text(padded, 0.0)
    error = refusal(Connection(LIMITS, authenticated=False), padded + " ")
    assert error.close_code is CloseCode.UNAUTHORIZED and str(LIMITS.unauthenticated_bytes) in error.message


def outcome(call: Callable[[], Command | AudioFrame]) -> Command | AudioFrame | ProtocolError:
    try:
        return call()
    except ProtocolError as error:
        return error


@given(st.lists(st.text(st.characters(), max_size=20) | json_values.map(json.dumps), max_size=5), st.booleans())
def test_any_string_is_a_command_or_a_protocol_error(messages: list[str], authenticated: bool) -> None:
    connection = Connection(LIMITS, authenticated=authenticated)
    for message in messages:
        found = outcome(lambda message=message: connection.receive_text(message, 0.0))  # type: ignore[misc]
        assert isinstance(found, ProtocolError) or found.type


@given(st.binary(max_size=40))
def test_any_bytes_are_sound_or_a_protocol_error(message: bytes) -> None:
    found = outcome(lambda: Connection(LIMITS).receive_audio(message, 0.0))
    assert isinstance(found, ProtocolError) or message.endswith(found.payload)


halves = st.text(st.sampled_from(["a", "😀", HIGH, LOW]), max_size=4)


@given(st.lists(st.tuples(halves, st.sampled_from([None, "t1", "t2"]), st.booleans()), max_size=8))
def test_no_command_ever_holds_half_a_character(appends: list[tuple[str, str | None, bool]]) -> None:
    connection = Connection(LIMITS)
    for text, turn, ends in appends:
        assert not re.search("[\ud800-\udfff]", text_of(connection, text=text, turn=turn))
        if ends:
            said(connection, type="turn.end", turn=turn)


@given(st.lists(halves, max_size=8))
def test_the_appends_of_a_turn_join_to_its_text(pieces: list[str]) -> None:
    connection, whole = Connection(LIMITS), "".join(pieces)
    received = "".join(text_of(connection, text=piece) for piece in pieces)
    complete = whole.removesuffix(HIGH) if whole[-1:] == HIGH else whole
    assert received == complete.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@given(json_values)
def test_a_ping_comes_back_as_it_was(value: Any) -> None:
    command = Connection(LIMITS).receive_text(encode_command(Ping(t=value)), 0.0)
    assert isinstance(command, Ping)
    event = decode_event(encode_event(Pong(t=command.t, session_ms=0)))
    assert isinstance(event, Pong) and event.t == value


def test_a_pong_can_be_sent_for_every_ping_that_was_accepted() -> None:
    command = said(Connection(LIMITS), type="ping", t=10**4000)
    assert isinstance(command, Ping)
    assert decode_event(encode_event(Pong(t=command.t, session_ms=0))) == Pong(t=10**4000, session_ms=0)


def test_messages_are_compact_utf8() -> None:
    assert encode_command(TextAppend(text="grün")) == '{"type":"text.append","text":"grün"}'
    assert encode_command(TurnEnd()) == '{"type":"turn.end"}'
    assert encode_event(Pong(session_ms=3)) == '{"type":"pong","session_ms":3}'


def test_a_cancel_keeps_how_much_was_played() -> None:
    assert said(Connection(LIMITS), type="turn.cancel", played_ms=1234) == TurnCancel(played_ms=1234)


def test_audio_leaves_as_its_transport_asks() -> None:
    packet = ("t1", 7, Flag.FIRST | Flag.LAST, 960, b"\x00opus")
    binary = encode_audio(Transport.BINARY, *packet)
    assert isinstance(binary, bytes)
    frame = unpack(binary)
    assert (frame.leg, frame.n, frame.flags, frame.position, frame.payload) == (
        0,
        7,
        Flag.FIRST | Flag.LAST,
        960,
        b"\x00opus",
    )
    assert encode_audio(Transport.RAW, *packet) == b"\x00opus"
    text = encode_audio(Transport.JSON, *packet)
    assert isinstance(text, str)
    event = decode_event(text)
    assert isinstance(event, Audio)
    assert (event.turn, event.n, event.flags, event.position) == ("t1", 7, 3, 960)
    assert base64.b64decode(event.data) == b"\x00opus"


def test_an_event_of_an_unknown_type_is_none_and_no_event_is_a_bad_message() -> None:
    assert decode_event('{"type":"voicemail","digit":"1"}') is None
    with pytest.raises(ProtocolError, match="not JSON"):
        decode_event("oops")


def test_sound_of_a_client_is_read_with_its_header() -> None:
    frame = Connection(LIMITS).receive_audio(pack(Kind.UPLINK, Flag.NONE, 0, 0, 320, b"ab"), 0.0)
    assert (frame.kind, frame.position, frame.payload) == (Kind.UPLINK, 320, b"ab")


@pytest.mark.parametrize(
    ("message", "code", "fatal"),
    [
        (b"short", ErrorCode.BAD_MESSAGE, False),
        (pack(Kind.SPEECH, Flag.NONE, 0, 0, 0, b""), ErrorCode.UNSUPPORTED, False),
        (bytes([9]) + bytes(15), ErrorCode.UNSUPPORTED, False),
        (bytes(256 * 1024 + 1), ErrorCode.LIMIT_EXCEEDED, True),
    ],
    ids=["short", "speech", "unknown", "large"],
)
def test_what_is_no_sound_of_a_client_is_refused(message: bytes, code: ErrorCode, fatal: bool) -> None:
    with pytest.raises(ProtocolError) as caught:
        Connection(LIMITS).receive_audio(message, 0.0)
    assert (caught.value.code, caught.value.fatal) == (code, fatal)


def test_sound_before_a_token_closes() -> None:
    with pytest.raises(ProtocolError) as caught:
        Connection(LIMITS, authenticated=False).receive_audio(pack(Kind.UPLINK, Flag.NONE, 0, 0, 0, b""), 0.0)
    assert caught.value.close_code == 4401
