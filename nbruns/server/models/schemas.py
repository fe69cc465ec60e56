"""Reading JSON schemas: references and `allOf` merged in, the alternatives spelled out, the types named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Schema = dict[str, Any] | bool
Node = dict[str, Any]

#: References to references are followed this far.
CHAIN = 16

#: The type that a keyword speaks of, where a schema states none.
SPEAKS_OF = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "minProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "contains": "array",
    "pattern": "string",
    "format": "string",
    "minLength": "string",
    "maxLength": "string",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "number",
}


def resolved(schema: Schema, root: Schema) -> Node:
    """The schema with its references within `root` and its `allOf` merged in."""
    node: Node = {} if isinstance(schema, bool) else dict(schema)
    for _ in range(CHAIN):
        parts = [_target(node.pop("$ref"), root)] if "$ref" in node else []
        parts += node.pop("allOf", [])
        for part in parts:
            node = merged(part, node)
        if not parts:
            break
    return node


def alternatives(node: Node, root: Schema) -> Iterator[Node]:
    """The node with one of its alternatives merged in, for each that there is."""
    for word in ("anyOf", "oneOf"):
        rest = {key: value for key, value in node.items() if key != word}
        for part in node.get(word, ()):
            yield resolved(merged(resolved(part, root), rest), root)
    if "if" in node:
        rest = {key: value for key, value in node.items() if key not in ("if", "then", "else")}
        yield resolved(merged(merged(node["if"], node.get("then", {})), rest), root)
        yield resolved(merged(node.get("else", {}), rest), root)


def types(node: Node) -> list[str]:
    """The types that a value may have, null last; guessed from the keywords where none is stated."""
    stated = node.get("type")
    if isinstance(stated, str):
        return [stated]
    if stated:
        return sorted(stated, key=lambda kind: kind == "null")
    guessed = list(dict.fromkeys(kind for word, kind in SPEAKS_OF.items() if word in node))
    return guessed or ([] if {"anyOf", "oneOf", "const", "enum"} & node.keys() else ["string"])


def merged(left: Schema, right: Schema) -> Node:
    """Both schemas in one, as far as that goes; where they disagree, `right` is kept."""
    if isinstance(left, bool) or isinstance(right, bool):
        return dict(left) if isinstance(left, dict) else dict(right) if isinstance(right, dict) else {}
    shared = left.keys() & right.keys() & _JOINED.keys()
    return {**left, **right, **{word: _JOINED[word](left[word], right[word]) for word in shared}}


def _target(reference: str, root: Schema) -> Schema:
    """What a reference within the schema points to; nothing is ever fetched."""
    target: Any = root if reference.startswith("#") else {}
    for step in reference.removeprefix("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        target = target.get(step, {}) if isinstance(target, dict) else {}
    return target if isinstance(target, dict | bool) else {}


def _join_properties(left: dict[str, Schema], right: dict[str, Schema]) -> dict[str, Schema]:
    both = {name: merged(left[name], right[name]) for name in left.keys() & right.keys()}
    return {**left, **right, **both}


def _join_types(left: Any, right: Any) -> Any:
    one, other = ([kinds] if isinstance(kinds, str) else kinds for kinds in (left, right))
    return [kind for kind in one if kind in other or (kind == "integer" and "number" in other)] or right


#: How the values of a keyword that both schemas have are joined.
_JOINED: dict[str, Callable[[Any, Any], Any]] = {
    "properties": _join_properties,
    "required": lambda left, right: list(dict.fromkeys([*left, *right])),
    "type": _join_types,
    "enum": lambda left, right: [value for value in left if value in right] or right,
    "minimum": max,
    "maximum": min,
    "minLength": max,
    "maxLength": min,
    "minItems": max,
    "maxItems": min,
    "allOf": lambda left, right: [*left, *right],
    "anyOf": lambda left, right: [merged(one, other) for one in left for other in right],
}
