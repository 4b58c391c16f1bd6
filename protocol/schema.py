"""JSON Schema of every message in schema/, and the tables of PROTOCOL.md: `python -m protocol.schema [--check]`.

Knows the difference between the two directions: a server refuses unknown fields, so client messages are closed; clients ignore them, so
server messages are open. Does not know what no schema can say (which fields contradict each other): `config.apply` does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, JsonValue

from protocol.config import Limits
from protocol.messages import COMMANDS, EVENTS
from protocol.tables import command_table, event_table, filled, limits_table

FOLDER: Final = Path(__file__).parent
DOCUMENT: Final = Path("PROTOCOL.md")

JsonSchema = dict[str, JsonValue]


def command_schema(model: type[BaseModel]) -> JsonSchema:
    """Schema of what a client may send."""
    schema: JsonSchema = model.model_json_schema(mode="validation")
    return _finished(model, schema, _required(model) | {"type"})


def event_schema(model: type[BaseModel]) -> JsonSchema:
    """Schema of what a server sends: a field is required where it is always there, and unknown ones are allowed."""
    schema = _opened(model.model_json_schema(mode="serialization"))
    assert isinstance(schema, dict), "an object was opened"
    definitions = schema.get("$defs", {})
    assert isinstance(definitions, dict), "definitions have names"
    for inner in definitions.values():
        if isinstance(inner, dict) and isinstance(fields := inner.get("properties"), dict):
            inner["required"] = [*fields]  # inside, what has no value is null
    # An optional field without a value is left out (messages.event_fields), so it is neither required nor null.
    optional = {name for name, field in model.model_fields.items() if not field.is_required() and field.default is None}
    properties = schema["properties"]
    assert isinstance(properties, dict), "every event is an object with fields"
    schema["properties"] = {name: _not_null(value) if name in optional else value for name, value in properties.items()}
    return _finished(model, schema, model.model_fields.keys() - optional)


def files(document: str) -> dict[Path, str]:
    """Path within FOLDER and content of everything that is written; the same on every call. `document` is PROTOCOL.md as it is."""
    schemas = {Path("schema", "client", f"{name}.json"): command_schema(model) for name, model in COMMANDS.items()}
    schemas |= {Path("schema", "server", f"{name}.json"): event_schema(model) for name, model in EVENTS.items()}
    tables = {name: command_table(command_schema(model)) for name, model in COMMANDS.items()}
    events = {name: event_table(event_schema(model)) for name, model in EVENTS.items()}
    # A command and an event may share a name (mark).
    tables |= {f"event:{name}" if name in COMMANDS else name: table for name, table in events.items()}
    tables["limits"] = limits_table(Limits.model_json_schema())
    texts = {path: json.dumps(schema, indent=2, sort_keys=True) + "\n" for path, schema in sorted(schemas.items())}
    return texts | {DOCUMENT: filled(document, tables)}


def drift(folder: Path) -> list[str]:
    """What `write` would change in `folder`, a line for each file."""
    wanted = files((folder / DOCUMENT).read_text("utf-8"))
    present = {path.relative_to(folder): path.read_text("utf-8") for path in _written(folder)}
    lines = [f"{path}: missing" for path in wanted if path not in present]
    lines += [f"{path}: differs" for path in wanted if path in present and present[path] != wanted[path]]
    lines += [f"{path}: no such message" for path in present if path not in wanted]
    return sorted(lines)


def write(folder: Path) -> None:
    """Make the schemas and the tables in `folder`, which holds a PROTOCOL.md, those of the code."""
    wanted = files((folder / DOCUMENT).read_text("utf-8"))
    for path in _written(folder):
        if path.relative_to(folder) not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


def _written(folder: Path) -> list[Path]:
    return [*sorted((folder / "schema").rglob("*.json")), folder / DOCUMENT]


def main(arguments: Sequence[str], folder: Path = FOLDER) -> int:
    """Exit status: 1 if --check found a file that is not what the code says."""
    parser = argparse.ArgumentParser(
        prog="python -m protocol.schema",
        description="Write the JSON Schema of every message and the tables of PROTOCOL.md.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file is out of date")
    if not parser.parse_args(arguments).check:
        write(folder)
        return 0
    lines = drift(folder)
    if lines:
        print("\n".join([*lines, "out of date; run python -m protocol.schema"]), file=sys.stderr)
    return 1 if lines else 0


def _required(model: type[BaseModel]) -> set[str]:
    return {name for name, field in model.model_fields.items() if field.is_required()}


def _finished(model: type[BaseModel], schema: JsonSchema, required: set[str]) -> JsonSchema:
    ordered: list[JsonValue] = [name for name in model.model_fields if name in required]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "required": ordered}


def _opened(node: JsonValue) -> JsonValue:
    """The schema without `additionalProperties: false`, at every depth."""
    if isinstance(node, dict):
        return {key: _opened(value) for key, value in node.items() if (key, value) != ("additionalProperties", False)}
    return [_opened(item) for item in node] if isinstance(node, list) else node


def _not_null(node: JsonValue) -> JsonValue:
    """The schema of a property, pydantic's `X or null, default null`, whose null never shows on the wire."""
    assert isinstance(node, dict), "a property has a schema"
    kept: JsonSchema = {key: value for key, value in node.items() if key not in ("default", "anyOf")}
    options = node.get("anyOf", [])  # absent where null is one value of many: JsonValue
    assert isinstance(options, list), "alternatives are listed"
    for option in options:
        assert isinstance(option, dict), "an alternative is a schema"
        kept |= {} if option == {"type": "null"} else option
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
