"""What a JSON Schema asks for, as plainly as a field needs it: references followed, "or null" taken out,
`allOf` put together. Nothing here checks a value: fields are validated against the schema as it came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nbruns.tools.json_schema import TYPES

#: Steps until a schema is plain; references may go round in circles.
_STEPS = 20
_NULL = ({"type": "null"}, {"const": None}, {"enum": [None]})


class PlainSchema(NamedTuple):
    """A plain schema, and whether null will do as well."""

    schema: dict[str, Any]
    nullable: bool = False


def shape_of(schema: Any, root: Mapping[str, Any]) -> PlainSchema:
    """The shape of a schema whose references mean `root`."""
    found: dict[str, Any] = dict(schema) if isinstance(schema, Mapping) else {}
    nullable = False
    for _ in range(_STEPS):
        before = found
        found = _joined(_followed(found, root), root)
        found, null_too = _without_null(found)
        nullable |= null_too
        if found == before:
            break
    return PlainSchema(_typed(found), nullable)


def alternatives(schema: Mapping[str, Any]) -> list[Any]:
    """The schemas of which a plain schema wants one; none where it wants what it says itself."""
    options = schema.get("anyOf") or schema.get("oneOf")
    return options if isinstance(options, list) else []


def choices(schema: Mapping[str, Any]) -> list[Any]:
    """The values that a schema lists; none where it lists none."""
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    return listed if isinstance(listed, list) else []


def name_of(option: Any, root: Mapping[str, Any], number: int) -> str:
    """What people may call one of the alternatives."""
    plain = shape_of(option, root).schema
    tags = [
        str(choices(prop)[0])
        for prop in mapping(plain.get("properties")).values()
        if isinstance(prop, Mapping) and len(choices(prop)) == 1
    ]
    title = plain.get("title") if isinstance(plain.get("title"), str) else None
    return title or next(iter(tags), None) or TYPES.get(str(plain.get("type")), f"alternative {number}")


def mapping(value: Any) -> dict[str, Any]:
    """The object that should stand here, an empty one where something else does."""
    return value if isinstance(value, dict) else {}


def _followed(schema: dict[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    target = _definition(schema.get("$ref"), root)
    return schema if target is None else _merged(target, _without(schema, "$ref"))


def _definition(reference: Any, root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    target: Any = root
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        target = target.get(key) if isinstance(target, Mapping) else None
    return target if isinstance(target, Mapping) else None


def _joined(schema: dict[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """`allOf`: all that its parts say, in one."""
    parts = schema.get("allOf")
    if not isinstance(parts, list) or len(parts) > _STEPS:
        return schema
    joined = _without(schema, "allOf")
    for part in parts:
        plain = dict(part) if isinstance(part, Mapping) else {}
        for _ in range(_STEPS):
            plain = _followed(plain, root)
        joined = _merged(plain, joined)
    return joined


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both in one: of properties and required names all, of anything else what `over` says."""
    properties = {**mapping(under.get("properties")), **mapping(over.get("properties"))}
    required = list(dict.fromkeys(map(str, [*_list(under.get("required")), *_list(over.get("required"))])))
    both = {**under, **over}
    return (
        both
        | ({"properties": properties} if properties else {})
        | ({"required": required} if required else {})
    )


def _without_null(schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    kinds, key = schema.get("type"), "anyOf" if "anyOf" in schema else "oneOf"
    if isinstance(kinds, list):
        left = [kind for kind in kinds if kind != "null"]
        one: dict[str, Any] = {"type": left[0]} if len(left) == 1 else {}
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
    if left and all(listed):  # a choice of constants, each with its own words
        return {**rest, "enum": [value for values in listed for value in values]}, len(left) < len(options)
    return {**rest, key: left}, len(left) < len(options)


def _typed(schema: dict[str, Any]) -> dict[str, Any]:
    """With the type that a schema leaves out, where what it says means one."""
    if "type" in schema or alternatives(schema):
        return schema
    if choices(schema):
        return {**schema, "type": "string"} if all(isinstance(c, str) for c in choices(schema)) else schema
    for key, kind in (("properties", "object"), ("items", "array"), ("prefixItems", "array")):
        if key in schema:
            return {**schema, "type": kind}
    return schema


def _without(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != key}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
