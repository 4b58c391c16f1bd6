from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from protocol.messages import COMMANDS, EVENTS
from protocol.schema import DOCUMENT, FOLDER, command_schema, event_schema, files, main

DOCUMENT_TEXT = (FOLDER / DOCUMENT).read_text("utf-8")
SCHEMAS = {path: text for path, text in files(DOCUMENT_TEXT).items() if path.suffix == ".json"}


def objects(node: Any) -> list[dict[str, Any]]:
    """Every object schema in a schema."""
    if isinstance(node, list):
        return [found for item in node for found in objects(item)]
    if not isinstance(node, dict):
        return []
    here = [node] if node.get("type") == "object" and "properties" in node else []
    return here + [found for item in node.values() for found in objects(item)]


def test_the_schemas_in_the_repository_are_those_of_the_code() -> None:
    run = subprocess.run([sys.executable, "-m", "protocol.schema", "--check"], cwd=FOLDER.parent, check=False)
    assert run.returncode == 0


def test_there_is_one_file_for_each_message() -> None:
    names = {(path.parent.name, path.name.removesuffix(".json")) for path in SCHEMAS}
    assert names == {("client", name) for name in COMMANDS} | {("server", name) for name in EVENTS}


def test_writing_repairs_every_kind_of_drift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / DOCUMENT).write_text(DOCUMENT_TEXT, "utf-8")
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    assert capsys.readouterr().err == ""
    (tmp_path / "schema/client/ping.json").unlink()
    (tmp_path / "schema/client/turn.end.json").write_text("{}")
    (tmp_path / "schema/server/gone.json").write_text("{}")
    (tmp_path / DOCUMENT).write_text(DOCUMENT_TEXT.replace("| `played_ms` |", "| `plaid_ms` |"), "utf-8")
    assert main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err.splitlines() == [
        "PROTOCOL.md: differs",
        "schema/client/ping.json: missing",
        "schema/client/turn.end.json: differs",
        "schema/server/gone.json: no such message",
        "out of date; run python -m protocol.schema",
    ]
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    assert (tmp_path / DOCUMENT).read_text("utf-8") == DOCUMENT_TEXT


def test_checking_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / DOCUMENT).write_text(DOCUMENT_TEXT, "utf-8")
    assert main(["--check"], tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == [DOCUMENT.name]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_closed_and_names_its_type(name: str) -> None:
    schema = command_schema(COMMANDS[name])
    assert all(found["additionalProperties"] is False for found in objects(schema))
    assert "type" in schema["required"]  # type: ignore[operator]


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_open_and_names_its_type(name: str) -> None:
    schema = event_schema(EVENTS[name])
    assert not any(found.get("additionalProperties") is False for found in objects(schema))
    assert "type" in schema["required"]  # type: ignore[operator]


def test_an_optional_field_of_an_event_is_neither_required_nor_null() -> None:
    schema: Any = event_schema(EVENTS["error"])
    assert "retry_after_ms" not in schema["required"]
    assert schema["properties"]["retry_after_ms"]["type"] == "integer"
    assert "null" not in json.dumps(schema["properties"])


@pytest.mark.parametrize(
    ("path", "text"), SCHEMAS.items(), ids=lambda value: str(value) if isinstance(value, Path) else ""
)
def test_every_field_says_what_it_means(path: Path, text: str) -> None:
    for found in objects(json.loads(text)):
        assert found.get("description"), f"an object in {path}"
        for name, field in found["properties"].items():
            assert name == "type" or field.get("description"), f"{name} in {path}"
