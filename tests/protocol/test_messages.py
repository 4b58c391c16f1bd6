from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from protocol.config import Limits, SamplingConfig, SessionConfig
from protocol.errors import MAX_QUOTED_CHARS, CloseCode, ErrorCode, ProtocolError
from protocol.messages import (
    COMMANDS,
    EVENTS,
    Alignment,
    AlignmentItem,
    ErrorEvent,
    Pong,
    SessionCreated,
    SessionUpdate,
    TextAppend,
    TurnCancel,
    TurnStart,
    WarningCode,
    WarningEvent,
    command_fields,
    event_fields,
    parse_command,
    parse_event,
)
from protocol.schema import command_schema, event_schema
from tests.protocol.from_schema import json_values, matching

COMMAND_SCHEMAS: dict[str, Any] = {name: command_schema(model) for name, model in COMMANDS.items()}
EVENT_SCHEMAS: dict[str, Any] = {name: event_schema(model) for name, model in EVENTS.items()}


REQUIRED: dict[str, dict[str, Any]] = {
    "text.append": {"text": ""},
    "mark": {"name": "here"},
    "playback.update": {"turn": "a", "played_ms": 0},
    "context.append": {"text": "Hello?"},
    "context.truncate": {"turn": "a", "played_ms": 0},
    "input_audio.append": {"audio": ""},
}


def refusal(**message: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        parse_command(message)
    assert not caught.value.fatal
    return caught.value


def fields(schema: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every leaf field of an object schema with its path; of `X or null` the X."""

    def walk(node: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
        if "anyOf" in node:
            node = next(option for option in node["anyOf"] if option.get("type") != "null")
        node = schema["$defs"][node["$ref"].removeprefix("#/$defs/")] if "$ref" in node else node
        if "properties" in node:
            for name, child in node["properties"].items():
                yield from walk(child, (*path, name))
        else:
            yield path, node

    return walk(schema, ())


def with_value(name: str, path: tuple[str, ...], value: object) -> dict[str, Any]:
    """A valid message of type `name` but for `value` at `path`."""
    message: dict[str, Any] = {"type": name} | REQUIRED.get(name, {})
    inner = message
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = value
    return message


LEAVES = [(name, path, node) for name, schema in COMMAND_SCHEMAS.items() for path, node in fields(schema)]
NUMBERS = [leaf for leaf in LEAVES if leaf[2].get("type") in ("integer", "number")]
STRINGS = [leaf for leaf in LEAVES if leaf[2].get("type") == "string" and leaf[1] != ("type",)]


def ids(leaf: tuple[str, tuple[str, ...], dict[str, Any]]) -> str:
    return f"{leaf[0]} {'.'.join(leaf[1])}"


def test_the_messages_are_those_of_the_protocol() -> None:
    commands = (
        "session.update text.append text.flush turn.end turn.start mark turn.cancel turn.pause turn.resume playback.update context.append "
        "context.truncate context.clear audio.input input_audio.append ping session.close"
    )
    events = (
        "session.created session.updated turn.started alignment mark turn.paused turn.resumed turn.done turn.played context.updated "
        "speech.started speech.stopped leg.attached leg.detached dtmf warning error pong session.closing audio"
    )
    assert [*COMMANDS] == commands.split()
    assert [*EVENTS] == events.split()


@pytest.mark.parametrize("name", COMMANDS)
@given(data=st.data())
def test_what_a_command_schema_allows_is_parsed_and_comes_back_the_same(name: str, data: st.DataObject) -> None:
    message = data.draw(matching(COMMAND_SCHEMAS[name]))
    command = parse_command(message)
    assert command.type == name
    assert command_fields(command) == message
    assert parse_command(json.loads(json.dumps(command_fields(command)))) == command


@pytest.mark.parametrize("name", EVENTS)
@given(data=st.data())
def test_what_an_event_schema_allows_is_parsed_and_survives_a_round_trip(name: str, data: st.DataObject) -> None:
    message = data.draw(matching(EVENT_SCHEMAS[name]))
    event = parse_event(message)
    assert event is not None and event.type == name
    assert parse_event(json.loads(json.dumps(event_fields(event)))) == event


@pytest.mark.parametrize("leaf", NUMBERS, ids=ids)
def test_every_number_has_bounds_and_keeps_them(leaf: tuple[str, tuple[str, ...], dict[str, Any]]) -> None:
    name, path, node = leaf
    if "enum" in node:
        inside, outside = node["enum"], [node["enum"][0] - 1, node["enum"][-1] + 1]
        bounds = [str(node["enum"][0]), str(node["enum"][-1])]
    else:
        step = node.get("multipleOf", 1)
        bottom, top = node.get("minimum", node.get("exclusiveMinimum")), node["maximum"]
        inside = [top] + ([bottom] if "minimum" in node else [])
        outside = [bottom - step if "minimum" in node else bottom, top + step]
        bounds = [
            f"{bottom:g}" if isinstance(bottom, float) else str(bottom),
            f"{top:g}" if isinstance(top, float) else str(top),
        ]
    for value in inside:
        parse_command(with_value(name, path, value))
    for value, bound in zip(outside, bounds, strict=True):
        error = refusal(**with_value(name, path, value))
        assert (error.code, error.param) == (ErrorCode.INVALID_VALUE, ".".join(path))
        assert str(value) in error.message and bound in error.message


@pytest.mark.parametrize("leaf", NUMBERS, ids=ids)
@pytest.mark.parametrize("value", ["1", True, [1], {}, float("nan"), float("inf")], ids=repr)
def test_what_is_no_number_is_never_taken_for_one(
    leaf: tuple[str, tuple[str, ...], dict[str, Any]], value: object
) -> None:
    name, path, _ = leaf
    error = refusal(**with_value(name, path, value))
    assert (error.code, error.param) == (ErrorCode.INVALID_VALUE, ".".join(path))


@pytest.mark.parametrize("leaf", [leaf for leaf in NUMBERS if leaf[2]["type"] == "integer"], ids=ids)
def test_a_fraction_is_never_taken_for_an_integer(leaf: tuple[str, tuple[str, ...], dict[str, Any]]) -> None:
    name, path, node = leaf
    for value in (float(node["maximum"] if "maximum" in node else node["enum"][0]), 20.5):
        assert refusal(**with_value(name, path, value)).code is ErrorCode.INVALID_VALUE


@pytest.mark.parametrize("leaf", STRINGS, ids=ids)
@pytest.mark.parametrize("value", [1, True, ["opus"], {}], ids=repr)
def test_what_is_no_string_is_never_taken_for_one(
    leaf: tuple[str, tuple[str, ...], dict[str, Any]], value: object
) -> None:
    name, path, _ = leaf
    error = refusal(**with_value(name, path, value))
    assert (error.code, error.param) == (ErrorCode.INVALID_VALUE, ".".join(path))


@pytest.mark.parametrize("leaf", STRINGS, ids=ids)
def test_every_string_is_a_listed_word_or_has_a_longest_length(
    leaf: tuple[str, tuple[str, ...], dict[str, Any]],
) -> None:
    name, path, node = leaf
    if "enum" in node:
        for word in node["enum"]:
            parse_command(with_value(name, path, word))
        error = refusal(**with_value(name, path, node["enum"][0].upper()))
        assert all(word in error.message for word in node["enum"])
    else:
        parse_command(with_value(name, path, "x" * node["maxLength"]))
        error = refusal(**with_value(name, path, "x" * (node["maxLength"] + 1)))
        assert str(node["maxLength"]) in error.message and str(node["maxLength"] + 1) in error.message
    assert (error.code, error.param) == (ErrorCode.INVALID_VALUE, ".".join(path))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_field_that_does_not_exist_is_unsupported_and_named(name: str) -> None:
    error = refusal(**with_value(name, ("plyed_ms",), 3), event_id="e1")
    assert (error.code, error.param, error.event_id) == (ErrorCode.UNSUPPORTED, "plyed_ms", "e1")


def test_a_nested_field_that_does_not_exist_is_named_by_its_path() -> None:
    error = refusal(type="session.update", audio={"output": {"rte": 8000}})
    assert (error.code, error.param) == (ErrorCode.UNSUPPORTED, "audio.output.rte")


@pytest.mark.parametrize("later", ["accent", "mood"])
def test_a_setting_of_a_later_version_is_unsupported(later: str) -> None:
    assert refusal(type="session.update", **{later: 1}).code is ErrorCode.UNSUPPORTED


def test_an_unknown_field_is_reported_before_what_it_may_have_caused() -> None:
    assert refusal(type="text.append", txt="hello").param == "txt"


def test_an_unknown_type_is_unsupported() -> None:
    error = refusal(type="turn.rewind", event_id="e1")
    assert (error.code, error.param, error.event_id) == (ErrorCode.UNSUPPORTED, "type", "e1")
    assert '"turn.rewind"' in error.message


@pytest.mark.parametrize("message", [{}, {"type": None}, {"type": 5}, {"type": ["ping"]}], ids=repr)
def test_a_message_without_a_type_is_a_bad_message(message: dict[str, Any]) -> None:
    assert refusal(**message).code is ErrorCode.BAD_MESSAGE


def test_a_missing_field_is_named() -> None:
    error = refusal(type="text.append")
    assert (error.code, error.param, error.message) == (ErrorCode.INVALID_VALUE, "text", "text is missing")


def test_a_refusal_echoes_a_usable_event_id_and_no_other() -> None:
    assert refusal(type="ping", event_id="e1", x=1).event_id == "e1"
    for bad in ("", "x" * 65, 5, "\ud83d"):
        assert refusal(type="ping", event_id=bad, x=1).event_id is None


def test_a_refusal_never_repeats_much_of_a_value() -> None:
    error = refusal(type="session.update", latency="x" * 60_000)
    assert len(error.message) < MAX_QUOTED_CHARS + 100
    error = refusal(type="session.update", **{"k" * 60_000: 1})
    assert error.param is not None and len(error.param) == MAX_QUOTED_CHARS


@pytest.mark.parametrize("token", ["", "hunter2" * 1000, ["hunter2"]])
def test_a_refusal_never_repeats_a_token(token: object) -> None:
    error = refusal(type="session.update", token=token)
    assert error.param == "token"
    assert "hunter2" not in error.message


def test_an_object_is_asked_for_where_one_is_missing() -> None:
    assert refusal(type="session.update", audio=5).message == "audio is 5 but should be an object"
    assert refusal(type="session.update", metadata=[]).message == "metadata is [] but should be an object"


def test_metadata_is_a_few_short_strings() -> None:
    parse_command({"type": "session.update", "metadata": {f"k{i}": "x" * 512 for i in range(16)}})
    assert refusal(type="session.update", metadata={f"k{i}": "" for i in range(17)}).message == (
        "metadata has 17 entries, more than 16"
    )
    assert refusal(type="session.update", metadata={"a": "x" * 513}).param == "metadata.a"
    assert refusal(type="session.update", metadata={"k" * 65: ""}).param == "metadata." + "k" * 65
    assert refusal(type="session.update", metadata={"a": 1}).param == "metadata.a"


def test_secrets_and_speech_are_not_in_a_repr() -> None:
    shown = repr([SessionUpdate(token="hunter2"), TextAppend(text="private words")])
    assert "hunter2" not in shown and "private" not in shown


def test_a_command_says_only_what_was_set() -> None:
    assert command_fields(TurnCancel()) == {"type": "turn.cancel"}
    command = TurnStart(sampling=SamplingConfig(top_k=1))
    assert command_fields(command) == {"type": "turn.start", "sampling": {"top_k": 1}}


def test_an_event_leaves_out_what_has_no_value() -> None:
    warning = WarningEvent(code=WarningCode.UNDERRUN, message="short by 40 ms")
    assert event_fields(warning) == {"type": "warning", "code": "underrun", "message": "short by 40 ms"}
    assert event_fields(Pong(t=None, session_ms=1)) == {"type": "pong", "session_ms": 1}


def test_a_configuration_is_shown_whole_with_its_nulls() -> None:
    event = parse_event(
        {
            "type": "session.updated",
            "config": SessionConfig().model_dump(mode="json"),
            "from_turn": 3,
            "pre_skip": 312,
        }
    )
    assert event is not None
    config = event_fields(event)["config"]
    assert isinstance(config, dict) and config["voice"] is None and "history" in config


def test_an_aligned_word_is_an_array() -> None:
    event = Alignment(
        turn="t", items=(AlignmentItem("Hi", 0, 120, 0, 2), AlignmentItem("you", 120, 300, 3, 6, 1)), final=True
    )
    assert event_fields(event)["items"] == [["Hi", 0, 120, 0, 2, None], ["you", 120, 300, 3, 6, 1]]


def test_an_error_event_tells_everything_about_the_error() -> None:
    error = ProtocolError(ErrorCode.RATE_LIMITED, "slow down", "text", "t1", "e1", 40, CloseCode.MESSAGE_TOO_BIG)
    assert event_fields(ErrorEvent.of(error)) == {
        "type": "error",
        "code": "rate_limited",
        "message": "slow down",
        "fatal": True,
        "turn": "t1",
        "event_id": "e1",
        "param": "text",
        "retry_after_ms": 40,
    }


def test_a_client_ignores_fields_and_events_it_does_not_know() -> None:
    event = parse_event({"type": "pong", "session_ms": 5, "mood": "fine"})
    assert event == Pong(session_ms=5)
    created = {name: 1 for name in ("sample_rate", "pre_skip", "server_time", "expires_at")} | {
        "session": "s",
        "model": "m",
    }
    config = SessionConfig().model_dump(mode="json") | {"mood": 1}
    event = parse_event(
        {"type": "session.created", "config": config, "limits": Limits().model_dump() | {"later": 7}, **created}
    )
    assert isinstance(event, SessionCreated) and (event.config, event.limits) == (SessionConfig(), Limits())
    for unknown in ({"type": "leg.moved"}, {"type": 5}, {}):
        assert parse_event(unknown) is None


def test_a_client_takes_a_code_it_does_not_know_as_a_word() -> None:
    event = parse_event({"type": "error", "code": "on_fire", "message": "m", "fatal": True})
    assert isinstance(event, ErrorEvent) and event.code == "on_fire"
    known = parse_event({"type": "error", "code": "internal", "message": "m", "fatal": True})
    assert isinstance(known, ErrorEvent) and known.code is ErrorCode.INTERNAL


def test_an_event_that_does_not_hold_what_it_should_is_a_bad_message() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_event({"type": "turn.started", "turn": "t", "n": -1, "queue_ms": 0, "first_audio_ms": 0})
    assert (caught.value.code, caught.value.param) == (ErrorCode.BAD_MESSAGE, "n")


def test_a_server_cannot_build_an_event_with_a_number_that_json_lacks() -> None:
    with pytest.raises(ValidationError):
        EVENTS["context.updated"].model_validate({"turns": 0, "audio_s": float("nan"), "text_chars": 0})


@given(
    st.dictionaries(
        st.sampled_from(["type", "text", "turn", "audio", "token", "event_id", "t"]) | st.text(max_size=3), json_values
    )
)
def test_any_object_is_a_command_or_a_protocol_error(message: dict[str, Any]) -> None:
    try:
        assert parse_command(message).type == message["type"]
    except ProtocolError as error:
        assert error.message and error.close_code is None, "bad input does not end the session"


@given(st.sampled_from([*COMMANDS]), st.data())
def test_any_object_with_a_known_type_is_a_command_or_a_protocol_error(name: str, data: st.DataObject) -> None:
    keys = st.sampled_from([*COMMANDS[name].model_fields])
    message = data.draw(st.dictionaries(keys, json_values)) | {"type": name}
    try:
        assert parse_command(message).type == name
    except ProtocolError as error:
        assert error.code in (ErrorCode.INVALID_VALUE, ErrorCode.UNSUPPORTED)
