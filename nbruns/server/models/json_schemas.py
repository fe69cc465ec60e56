"""AnswerReader JSON schemas: references and `allOf` merged in, the alternatives spelled out, the types named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

from nbruns.text import JSON

Schema = JSON | bool
Node = JSON

#: What a grammar may be made of: parts of a schema, options of its alternatives and of one enum, repetitions (those
#: inside one another multiplied), characters of a pattern. llama.cpp takes minutes for more, or ends the process.
MAX_PARTS, MAX_OPTIONS, MAX_REPEATS, MAX_PATTERN = 1_000, 200, 20_000, 500
_REPEATS = ("minItems", "minLength", "minProperties", "minContains", "maxItems", "maxLength", "maxProperties")

#: References to references are followed this far.
CHAIN = 16

#: Type that a keyword implies if a schema states none.
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
    """Yield the node with each of its alternatives merged in."""
    for word in ("anyOf", "oneOf"):
        rest = {key: value for key, value in node.items() if key != word}
        for part in node.get(word, ()):
            yield resolved(merged(resolved(part, root), rest), root)
    if "if" in node:
        rest = {key: value for key, value in node.items() if key not in ("if", "then", "else")}
        yield resolved(merged(merged(node["if"], node.get("then", {})), rest), root)
        yield resolved(merged(node.get("else", {}), rest), root)


class TooLarge(ValueError):
    """A schema is too large for a grammar; the message names the limit."""


def check_size(schema: Schema) -> None:
    """Raise TooLarge for a schema of which no grammar can be made in good time."""
    parts = 0
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        item, repeated = waiting.pop()
        parts += 1
        if parts > MAX_PARTS:
            raise TooLarge(f"it has over {MAX_PARTS:,} parts")
        if isinstance(item, dict):
            counts = [item[word] for word in _REPEATS if isinstance(item.get(word), int | float)]
            repeated *= int(min(max([1, *counts]), MAX_REPEATS + 1))
            if repeated > MAX_REPEATS:
                raise TooLarge(f"it asks for over {MAX_REPEATS:,} repetitions")
            if len(str(item.get("pattern", ""))) > MAX_PATTERN:
                raise TooLarge(f"a pattern has over {MAX_PATTERN:,} characters")
        inside = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        waiting += [(part, repeated) for part in inside]
    if _options(schema) > MAX_OPTIONS:
        raise TooLarge(f"its alternatives make over {MAX_OPTIONS:,} options")


def _options(schema: Any) -> int:
    """Count the options for one value: those of `allOf` multiply, otherwise the largest part counts."""
    if isinstance(schema, list):
        return max([1, *map(_options, schema)])
    if not isinstance(schema, dict):
        return 1
    options = max(1, len(schema["enum"])) if isinstance(schema.get("enum"), list) else 1
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            options *= max(1, sum(map(_options, schema[word])))
    if isinstance(schema.get("allOf"), list):
        options *= prod(map(_options, schema["allOf"]))
    inside = (part for word, part in schema.items() if word not in ("anyOf", "oneOf", "allOf", "enum"))
    return max([options, *map(_options, inside)])


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
    """Merge two schemas. If they disagree, `right` wins."""
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
