from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.config import Limits, TagMode
from protocol.connection import Connection, decode_event
from protocol.errors import CLOSE_CODES, CloseCode, ErrorCode
from protocol.messages import COMMANDS, EVENTS, LiveTurn, WarningCode
from protocol.schema import DOCUMENT, FOLDER, command_schema, event_schema
from protocol.tables import command_table, event_table, filled, limits_table

TEXT = (FOLDER / DOCUMENT).read_text("utf-8")
SCHEMAS: dict[str, Any] = {name: command_schema(model) for name, model in COMMANDS.items()}
SCHEMAS |= {f"event:{name}" if name in COMMANDS else name: event_schema(model) for name, model in EVENTS.items()}


def rows(table: str) -> list[list[str]]:
    """Cells of a Markdown table's lines, without its header."""
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def table_after(heading: str) -> list[list[str]]:
    """The first table after a line."""
    after = TEXT.split(f"\n{heading}\n")
    assert len(after) == 2, f"{heading!r} stands {len(after) - 1} times"
    return rows(re.split(r"\n\n(?=[^|\s<])", after[1].lstrip("\n"))[0])


def leaves(schema: dict[str, Any], node: dict[str, Any], path: str = "") -> Iterator[str]:
    """Dotted names of the fields of a schema; not of `config` and `limits`, which have their own tables."""
    for name, field in node["properties"].items():
        options = [option["$ref"].split("/")[-1] for option in field.get("anyOf", [field]) if "$ref" in option]
        inner = [schema["$defs"][option] for option in options if "properties" in schema["$defs"][option]]
        if inner and name not in ("config", "limits"):
            yield from leaves(schema, inner[0], f"{path}{name}.")
        elif path or name != "type":
            yield path + name


def table_of(name: str) -> list[list[str]]:
    place = re.search(rf"<!-- table: {re.escape(name)} -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    assert place, f"no table {name}"
    return rows(place[1])


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_field_of_a_message_stands_in_its_table_and_nothing_else_does(name: str) -> None:
    assert [row[0] for row in table_of(name)] == list(leaves(SCHEMAS[name], SCHEMAS[name]))


def test_every_message_has_a_heading_and_no_heading_is_of_another() -> None:
    headings = re.findall(r"^### `(.*)`$", TEXT, re.MULTILINE)
    assert headings == [*COMMANDS, *EVENTS]


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_table_stands_under_its_heading(name: str) -> None:
    heading = name.removeprefix("event:")  # of a name that a command has as well: the second of its headings
    section = TEXT.split(f"\n### `{heading}`\n")[1 if heading == name else 2].split("\n##")[0]
    assert re.findall(r"<!-- table: (\S+) -->", section) == [name]


def test_every_limit_stands_in_its_table_with_its_number() -> None:
    assert [(row[0], row[1]) for row in table_of("limits")] == [
        (name, str(value)) for name, value in Limits().model_dump().items()
    ]


def test_every_code_stands_in_its_table_and_nothing_else_does() -> None:
    assert [row[0] for row in table_after("## Errors")] == [code.value for code in ErrorCode]
    assert [row[0] for row in table_after("Warnings refuse nothing:")] == [code.value for code in WarningCode]
    (closes,) = re.findall(r"(\| close code .*?)\n\n", TEXT, re.DOTALL)
    codes = [int(code) for row in rows(closes) for code in row[0].split(", ")]
    assert codes == [code.value for code in sorted(CloseCode, key=lambda code: codes.index(code.value))]


@pytest.mark.parametrize("row", table_after("## Errors"), ids=lambda row: row[0])
def test_an_error_closes_with_the_code_in_its_row(row: list[str]) -> None:
    code = CLOSE_CODES.get(ErrorCode(row[0]))
    assert row[1].split(",")[0].split(" ")[0] == ("" if code is None else str(code.value))


@pytest.mark.parametrize("line", re.findall(r"```json client\n(.*?)```", TEXT, re.DOTALL))
def test_what_a_client_says_in_an_example_is_taken(line: str) -> None:
    connection = Connection(Limits())
    for message in line.splitlines():
        assert connection.receive_text(message, 0.0).type == json.loads(message)["type"]


@pytest.mark.parametrize("line", re.findall(r"```json server\n(.*?)```", TEXT, re.DOTALL))
def test_what_a_server_says_in_an_example_is_an_event_with_all_that_it_always_has(line: str) -> None:
    for message in line.splitlines():
        event = decode_event(message)
        assert event is not None
        required = SCHEMAS[event.type]["required"]
        assert set(required) <= json.loads(message).keys()


def test_every_word_in_code_style_with_an_underscore_exists() -> None:
    """A field, limit or code that was renamed must not live on in the prose."""
    known = {
        part for name in SCHEMAS for leaf in leaves(SCHEMAS[name], SCHEMAS[name]) for part in (leaf, *leaf.split("."))
    }
    known |= set(LiveTurn.model_fields)
    known |= (
        {code.value for code in (*ErrorCode, *WarningCode)}
        | set(Limits.model_fields)
        | {
            "pcm_s16le",
            "session_",
            "pause_ttl",
            "ws_url",
        }
    )
    used = set(re.findall(r"`([a-z]+_[a-z_]*)`", TEXT))
    assert used - known == set()


def test_the_words_of_a_setting_are_listed() -> None:
    assert next(row for row in table_of("session.update") if row[0] == "tags")[1] == "`, `".join(
        mode.value for mode in TagMode
    )


SMALL: dict[str, Any] = {
    "properties": {
        "type": {"const": "x"},
        "a": {"type": "integer", "minimum": 1, "exclusiveMaximum": 10, "default": 3, "description": "A | B."},
        "b": {"anyOf": [{"$ref": "#/$defs/Inner"}, {"type": "null"}], "default": None, "description": "Gone."},
        "c": {"type": "number", "exclusiveMinimum": 0, "maximum": 2.0, "description": "C."},
        "d": {"type": "number", "minimum": 0, "description": "D."},
        "e": {"type": "integer", "description": "E."},
        "f": {"anyOf": [{"enum": ["u", "v"]}, {"type": "string", "maxLength": 5}], "description": "F."},
    },
    "required": ["type", "c"],
    "$defs": {
        "Inner": {"properties": {"z": {"type": "boolean", "default": True, "description": "Z."}}, "required": ["z"]}
    },
}


def test_a_table_tells_value_default_and_meaning() -> None:
    assert command_table(SMALL).splitlines()[2:] == [
        r"| `a` | integer 1 to 9 | `3` | A \| B. |",
        "| `b.z` | boolean | - | Z. |",
        "| `c` | number > 0 to 2 | required | C. |",
        "| `d` | number >= 0 | - | D. |",
        "| `e` | integer | - | E. |",
        "| `f` | `u`, `v`, ... | - | F. |",
    ]


def test_a_table_of_an_event_tells_whether_a_field_is_always_there() -> None:
    assert [row[2] for row in rows(event_table(SMALL))] == ["if any", "if any", "always", "if any", "if any", "if any"]


def test_a_table_of_limits_has_their_numbers() -> None:
    schema = {"properties": {"a": {"type": "integer", "default": 3, "description": "A."}}}
    assert rows(limits_table(schema)) == [["a", "3", "A."]]


def test_tables_replace_what_stood_in_their_places_and_only_that() -> None:
    text = "x\n<!-- table: a -->\nold\n<!-- end -->\ny\n<!-- table: b -->\n<!-- end -->\n"
    new = filled(text, {"a": "A\n", "b": "B\n"})
    assert new == "x\n<!-- table: a -->\nA\n<!-- end -->\ny\n<!-- table: b -->\nB\n<!-- end -->\n"
    assert filled(new, {"a": "A\n", "b": "B\n"}) == new


@pytest.mark.parametrize(
    ("places", "tables", "wrong"),
    [(["a"], ["a", "b"], "b"), (["a", "b"], ["a"], "b"), (["a", "a"], ["a"], "a")],
)
def test_a_table_without_exactly_one_place_is_an_error(places: list[str], tables: list[str], wrong: str) -> None:
    text = "".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in places)
    with pytest.raises(ValueError, match=f": {wrong}$"):
        filled(text, dict.fromkeys(tables, ""))


def test_the_document_names_the_schemas_folder() -> None:
    assert "(schema)" in TEXT and Path(FOLDER, "schema").is_dir()
