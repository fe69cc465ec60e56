"""Simplify a JSON Schema for fields: resolve references, split off "or null", merge `allOf`.

Values are not validated here; fields validate against the original schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nbruns.json_schema import TYPES, resolved
from nbruns.text import JSON

#: Maximum number of simplification steps; references may be circular.
_MAX_STEPS = 20
_NULL = ({"type": "null"}, {"const": None}, {"enum": [None]})


class PlainSchema(NamedTuple):
    """A simplified schema, and whether null is allowed too."""

    schema: JSON
    nullable: bool = False


def shape_of(schema: Any, root: Mapping[str, Any]) -> PlainSchema:
    """Return the shape of a schema whose references point into `root`."""
    found: JSON = dict(schema) if isinstance(schema, Mapping) else {}
    nullable = False
    for _ in range(_MAX_STEPS):
        before = found
        found = resolved(found, root)
        found, null_too = _without_null(found)
        nullable |= null_too
        if found == before:
            break
    return PlainSchema(_typed(found), nullable)


def alternatives(schema: Mapping[str, Any]) -> list[Any]:
    """Return the subschemas of anyOf or oneOf; empty if there are none."""
    options = schema.get("anyOf") or schema.get("oneOf")
    return options if isinstance(options, list) else []


def choices(schema: Mapping[str, Any]) -> list[Any]:
    """Return the values of enum or const; empty if there are none."""
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    return listed if isinstance(listed, list) else []


def name_of(option: Any, root: Mapping[str, Any], number: int) -> str:
    """Return a display name for an alternative: its title, its tag or its type."""
    plain = shape_of(option, root).schema
    tags = [
        str(choices(prop)[0])
        for prop in mapping(plain.get("properties")).values()
        if isinstance(prop, Mapping) and len(choices(prop)) == 1
    ]
    title = plain.get("title") if isinstance(plain.get("title"), str) else None
    return title or next(iter(tags), None) or TYPES.get(str(plain.get("type")), f"alternative {number}")


def mapping(value: Any) -> JSON:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _without_null(schema: JSON) -> tuple[JSON, bool]:
    kinds, key = schema.get("type"), "anyOf" if "anyOf" in schema else "oneOf"
    if isinstance(kinds, list):
        left = [kind for kind in kinds if kind != "null"]
        one: JSON = {"type": left[0]} if len(left) == 1 else {}
        many = {"anyOf": [{"type": kind} for kind in left]} if len(left) > 1 else {}
        return {**_without(schema, "type"), **one, **many}, "null" in kinds
    options = schema.get(key)
    if not isinstance(options, list):
        return schema, False
    left = [option for option in options if option not in _NULL]
    rest = _without(schema, key)
    if len(left) == 1 and isinstance(left[0], Mapping):
        return {**left[0], **rest}, len(left) < len(options)
    listed = [choices(option) if isinstance(option, Mapping) else [] for option in left]
    if left and all(listed):  # a choice of constants
        return {**rest, "enum": [value for values in listed for value in values]}, len(left) < len(options)
    return {**rest, key: left}, len(left) < len(options)


def _typed(schema: JSON) -> JSON:
    """Add the type if the schema omits it but implies one."""
    if "type" in schema or alternatives(schema):
        return schema
    if choices(schema):
        return {**schema, "type": "string"} if all(isinstance(c, str) for c in choices(schema)) else schema
    for key, kind in (("properties", "object"), ("items", "array"), ("prefixItems", "array")):
        if key in schema:
            return {**schema, "type": kind}
    return schema


def _without(schema: Mapping[str, Any], key: str) -> JSON:
    return {name: value for name, value in schema.items() if name != key}
