"""The tables of PROTOCOL.md: every field of every message, with its bounds and meaning, written from the JSON Schemas.

Knows Markdown and the marks between which a table stands (`<!-- table: ping -->` to `<!-- end -->`). Does not know the prose around them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

Schema = Mapping[str, Any]  # JSON Schema: what it holds is told by its keywords alone

_MARKED: Final = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
# Objects with a table of their own.
_ELSEWHERE: Final = {"SessionConfig": "the settings of `session.update`", "Limits": "the limits"}


def command_table(schema: Schema) -> str:
    """Fields of a client message; an absent default is `-`."""
    rows: list[tuple[str, ...]] = []
    for path, node, needed in _fields(schema, schema, ()):
        default = "required" if needed else "-" if node.get("default") is None else f"`{json.dumps(node['default'])}`"
        rows.append((f"`{path}`", _value(schema, node), default, node["description"]))
    return _table(("field", "value", "default", "meaning"), rows)


def event_table(schema: Schema) -> str:
    """Fields of a server message."""
    rows: list[tuple[str, ...]] = [
        (f"`{path}`", _value(schema, node), "always" if needed else "if any", node["description"])
        for path, node, needed in _fields(schema, schema, ())
    ]
    return _table(("field", "value", "sent", "meaning"), rows)


def limits_table(schema: Schema) -> str:
    """Fields of `session.created.limits`."""
    rows: list[tuple[str, ...]] = [
        (f"`{path}`", str(node["default"]), node["description"]) for path, node, _ in _fields(schema, schema, ())
    ]
    return _table(("limit", "at most", "what is refused beyond it"), rows)


def filled(document: str, tables: Mapping[str, str]) -> str:
    """`document` with every table between its marks. Raises ValueError where a table has not exactly one place, or a place no table."""
    places = [match[2] for match in _MARKED.finditer(document)]
    if sorted(places) != sorted(tables):
        wrong = sorted(name for name in {*places, *tables} if name not in tables or places.count(name) != 1)
        raise ValueError(f"tables without exactly one place of that name: {', '.join(wrong)}")
    return _MARKED.sub(lambda match: match[1] + tables[match[2]] + match[3], document)


def _fields(
    root: Schema, node: Schema, path: tuple[str, ...], needed: bool = True
) -> Iterator[tuple[str, Schema, bool]]:
    """(dotted path, schema, whether it is always there) of every field, objects opened up; without `type`, which the heading is."""
    for name, field in node["properties"].items():
        here = (*path, name)
        always = needed and name in node.get("required", ())
        inner = _opened(root, field)
        if here == ("type",):
            continue
        if inner is None:
            yield ".".join(here), field, always
        else:
            yield from _fields(root, inner, here, always)


def _opened(root: Schema, field: Schema) -> Schema | None:
    """The object schema of a field that is an object with fields of its own, described here."""
    for option in field.get("anyOf", [field]):
        name = option.get("$ref", "").removeprefix("#/$defs/")
        if name and name not in _ELSEWHERE and "properties" in (definition := root["$defs"][name]):
            opened: Schema = definition if option is field else {**definition, "properties": _undecided(definition)}
            return opened
    return None


def _undecided(definition: Schema) -> dict[str, Schema]:
    """The fields of an object that may be absent: what holds then is told elsewhere, not by their defaults."""
    return {name: {**field, "default": None} for name, field in definition["properties"].items()}


def _value(root: Schema, node: Schema) -> str:
    if "anyOf" in node:
        options = [_value(root, option) for option in node["anyOf"]]
        # A list of words followed by any string: the list is open.
        return (
            f"{options[0]}, ..."
            if options[0].startswith("`") and options[-1].startswith("string")
            else " or ".join(options)
        )
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        return _ELSEWHERE.get(name) or _value(root, root["$defs"][name])
    if "enum" in node:
        return ", ".join(f"`{word}`" for word in node["enum"])
    kind = node.get("type", "any JSON")
    if kind in ("integer", "number"):
        return f"{kind} {_range(node)}".strip()
    if kind == "string" and "maxLength" in node:
        return f"string, {node.get('minLength', 0)} to {node['maxLength']} characters"
    if kind == "object":
        return f"object of at most {node['maxProperties']} entries: {_value(root, node['additionalProperties'])}"
    return str(kind)


def _range(node: Schema) -> str:
    low = (
        f"> {node['exclusiveMinimum']}"
        if "exclusiveMinimum" in node
        else str(node.get("minimum", "")).removesuffix(".0")
    )
    # 120.0 reads as 120; a float format would turn large integers into powers.
    high = str(node.get("maximum", node.get("exclusiveMaximum", 0) - 1)).removesuffix(".0")
    if "maximum" in node or "exclusiveMaximum" in node:
        return f"{low} to {high}"
    return f">= {low}" if low else ""


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
