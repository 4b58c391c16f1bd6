"""Hypothesis strategies of the JSON that a JSON Schema allows: the few keywords that pydantic writes for our messages.

An unknown keyword fails loudly, so that a new kind of constraint cannot be skipped.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_SILENT = {"title", "description", "default", "$defs", "$schema"}
_KNOWN = {
    "object": {"properties", "required", "additionalProperties", "maxProperties", "propertyNames"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "enum", "const"},
    "integer": {"minimum", "maximum", "exclusiveMaximum", "multipleOf", "enum", "const"},
    "number": {"minimum", "maximum", "exclusiveMinimum"},
    "boolean": set(),
    "null": set(),
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def matching(schema: dict[str, Any], definitions: dict[str, Any] | None = None) -> st.SearchStrategy[Any]:
    """Values that `schema` allows; strings stay short unless their bound is, and open-ended integers stay below 2**40."""
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    if "$ref" in schema:
        return matching(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    if "anyOf" in schema:
        return st.one_of([matching(option, definitions) for option in schema["anyOf"]])
    if "type" not in schema:
        assert schema.keys() <= _SILENT, schema
        return json_values
    kind = schema["type"]
    unknown = schema.keys() - _KNOWN[kind] - _SILENT - {"type"}
    assert not unknown, f"from_schema.py does not know {unknown}"
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if kind == "object":
        return _objects(schema, definitions)
    if kind == "array":
        return _arrays(schema, definitions)
    if kind == "string":
        return st.text(min_size=schema.get("minLength", 0), max_size=min(schema.get("maxLength", 8), 64))
    if kind == "integer":
        step, top = schema.get("multipleOf", 1), schema.get("maximum", schema.get("exclusiveMaximum", 2**40 + 1) - 1)
        return st.integers(-(-schema.get("minimum", -(2**40)) // step), top // step).map(lambda value: value * step)
    if kind == "number":
        bottom = schema.get("exclusiveMinimum", schema.get("minimum", -1e9))
        return st.floats(bottom, schema.get("maximum", 1e9), exclude_min="exclusiveMinimum" in schema)
    return st.booleans() if kind == "boolean" else st.none()


def _objects(schema: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "properties" not in schema:
        keys = matching(schema["propertyNames"] | {"type": "string"}, definitions)
        return st.dictionaries(keys, matching(schema["additionalProperties"], definitions), max_size=3)
    members = {name: matching(value, definitions) for name, value in schema["properties"].items()}
    required = schema.get("required", [])
    return st.fixed_dictionaries(
        {name: members[name] for name in required},
        optional={name: value for name, value in members.items() if name not in required},
    )


def _arrays(schema: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "items" in schema:
        return st.lists(matching(schema["items"], definitions), max_size=3)
    items = [matching(item, definitions) for item in schema["prefixItems"]]
    sizes = range(schema["minItems"], schema["maxItems"] + 1)
    return st.one_of([st.tuples(*items[:size]).map(list) for size in sizes])
