"""Generate a valid example for a JSON Schema. The same schema and messages result in the same example.

For each node, candidates are generated, the likeliest first, and the first valid one (according to jsonschema) is used.
Values from the user's messages are preferred over defaults, and defaults over invented values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from referencing import Registry

from nbruns.demo import scalars
from nbruns.demo.findings import Findings
from nbruns.json_schema import Schema, load_jsonschema, merged, resolved
from nbruns.text import JSON

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

#: Below the first depth, only required values are filled in; below the second, none. Schemas can be recursive.
DEEP, DEEPEST = 4, 16
#: Type that a keyword implies if a schema states none.
_IMPLIED = {
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
#: Maximum number of array items taken from the messages.
ITEMS = 5
#: Maximum number of parts, and maximum length of texts, of schemas that count as quick.
QUICK = 500
#: Maximum number of nodes that are filled in, because some schemas never end.
NODES = 2000


def example(schema: Schema, messages: Iterable[str] = ()) -> Any:
    """Return an example for `schema`, with values from `messages` (latest first) if possible.

    If the schema is invalid, or no valid example is found, the value is a best effort. References are only followed
    within the schema.
    """
    load_jsonschema()
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for

    draft: type[Validator] = validator_for(schema, default=Draft202012Validator)
    try:
        draft.check_schema(schema)  # type: ignore[arg-type]  # true and false are schemas too
    except SchemaError:
        return {}
    # An empty registry: jsonschema's own would fetch remote references.
    validator = draft(schema, registry=Registry(), format_checker=draft.FORMAT_CHECKER)
    return _Filling(validator, schema, Findings(list(messages))).fill(schema, "")


def is_quick(schema: Schema) -> bool:
    """Whether an example takes only milliseconds: the schema is small and not recursive, and has no patterns or large
    numbers.
    """
    waiting: list[Any] = [schema]
    for _ in range(QUICK):
        if not waiting:
            return True
        item = waiting.pop()
        if isinstance(item, dict):
            if item.keys() & _SLOW or any(
                isinstance(item.get(word), int) and item[word] > QUICK for word in _LEAST
            ):
                return False
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, str) and len(item) > QUICK:
            return False
    return False


_SLOW = {
    "$ref",
    "$dynamicRef",
    "allOf",
    "pattern",
    "patternProperties",
    "uniqueItems",
    "not",
    "if",
    "contains",
}
_LEAST = ("minItems", "minLength", "minProperties", "minContains")


def _alternatives(node: JSON, root: Schema) -> Iterator[JSON]:
    """Yield the node with each of its alternatives merged in."""
    for word in ("anyOf", "oneOf"):
        rest = {key: value for key, value in node.items() if key != word}
        for part in node.get(word, ()):
            yield resolved(merged(resolved(part, root), rest), root)
    if "if" in node:
        rest = {key: value for key, value in node.items() if key not in ("if", "then", "else")}
        yield resolved(merged(merged(node["if"], node.get("then", {})), rest), root)
        yield resolved(merged(node.get("else", {}), rest), root)


def _types(node: JSON) -> list[str]:
    """Return the types that a value can have, null last. If the schema has no type, they are inferred from keywords."""
    stated = node.get("type")
    if isinstance(stated, str):
        return [stated]
    if stated:
        return sorted(stated, key=lambda kind: kind == "null")
    guessed = list(dict.fromkeys(kind for word, kind in _IMPLIED.items() if word in node))
    return guessed or ([] if {"anyOf", "oneOf", "const", "enum"} & node.keys() else ["string"])


class _Filling:
    """One schema being filled in."""

    def __init__(self, validator: Validator, root: Schema, findings: Findings) -> None:
        self.validator, self.root, self.findings, self.nodes = validator, root, findings, NODES
        self.of_type: dict[str, Callable[[JSON, str, int], Iterable[Any]]] = {
            "object": self._objects,
            "array": self._arrays,
            "string": lambda node, name, _: scalars.strings(node, name),
            "integer": lambda node, _name, _: scalars.integers(node),
            "number": lambda node, _name, _: scalars.numbers(node),
            "boolean": lambda *_: (True, False),
            "null": lambda *_: (None,),
        }

    def fill(self, schema: Schema, name: str, depth: int = 0, avoid: Iterable[Any] = ()) -> Any:
        """Return the first valid candidate, if possible one that is not in `avoid`."""
        second_best: list[Any] = []
        node = resolved(schema, self.root)
        for candidate in self._candidates(node, name, depth):
            if self._valid(candidate, schema):
                if candidate not in avoid:
                    self.findings.take(candidate)
                    return candidate
                second_best.insert(0, candidate)
            second_best.append(candidate)
        return second_best[0] if second_best else None

    def _valid(self, value: Any, schema: Schema) -> bool:
        try:
            return self.validator.evolve(schema=schema).is_valid(value)
        except Exception:  # an unresolvable reference or an unsupported pattern
            return True

    def _candidates(self, node: JSON, name: str, depth: int) -> Iterator[Any]:
        self.nodes -= 1
        if depth > DEEPEST or self.nodes < 0:
            return
        yield from [node["const"]] if "const" in node else []
        yield from self._found(node, name)
        yield from [node["default"]] if "default" in node else []
        yield from node.get("examples", ())
        yield from node.get("enum", ())
        branches = list(_alternatives(node, self.root))
        if depth > DEEP:
            branches.sort(key=lambda branch: _types(branch) != ["null"])
        for branch in branches:
            yield from self._candidates(branch, name, depth + 1)
        for kind in _types(node):
            yield from self.of_type[kind](node, name, depth)

    def _found(self, node: JSON, name: str) -> Iterator[Any]:
        """Yield values from the messages for this node, if it can be a scalar."""
        for option in (node, *_alternatives(node, self.root)):
            kinds, labels = _types(option), (option.get("format", ""), name, option.get("description", ""))
            if "enum" in option:
                yield from (value for value in option["enum"] if self.findings.mentions(str(value)))
            elif "string" in kinds:
                yield from self.findings.offers(*labels)
            elif "integer" in kinds or "number" in kinds:
                yield from self.findings.numbers()

    def _objects(self, node: JSON, _name: str, depth: int) -> Iterator[JSON]:
        properties = node.get("properties", {})
        value = {name: self._property(node, name, depth) for name in _required(node)}
        optional = [name for name in properties if name not in value and depth <= DEEP]
        said = [name for name in optional if self._said(properties[name], name)]
        yield {**value, **{name: self._property(node, name, depth) for name in said}}
        yield value
        spare = [*(name for name in properties if name not in value), *(f"key{i}" for i in range(1, ITEMS))]
        for name in spare[: max(node.get("minProperties", 0) - len(value), 0)]:
            value = {**value, name: self._property(node, name, depth)}
        yield value

    def _property(self, node: JSON, name: str, depth: int) -> Any:
        schema = node.get("properties", {}).get(name, node.get("additionalProperties", {}))
        return self.fill(schema, name, depth + 1)

    def _said(self, schema: Schema, name: str) -> bool:
        """Whether the messages contain a value for this property or for its items."""
        node = resolved(schema, self.root)
        items = node.get("items")
        inner = merged({"description": node.get("description", "")}, items) if isinstance(items, dict) else {}
        return any(self._valid(value, schema) for value in self._found(node, name)) or any(
            True for _ in self._found(resolved(inner, self.root), name) if inner
        )

    def _arrays(self, node: JSON, name: str, depth: int) -> Iterator[list[Any]]:
        items = node.get("items", {})
        ordered = node.get("prefixItems", items if isinstance(items, list) else [])
        rest = node.get("additionalItems", {}) if isinstance(items, list) else items
        if isinstance(rest, dict) and "description" in node:
            rest = merged({"description": node["description"]}, rest)
        value = [self.fill(item, name, depth + 1) for item in ordered]
        value += [self.fill(node["contains"], name, depth + 1)] if "contains" in node else []
        least = max(node.get("minItems", 0), 0 if depth > DEEP else 1)
        while len(value) < least or (len(value) < ITEMS and self._said(rest, name)):
            value.append(self.fill(rest, name, depth + 1, avoid=value))
            if self.nodes < 0:
                break
        yield value
        yield value[: node.get("maxItems", ITEMS)]
        yield value[: node.get("minItems", 0)]


def _required(node: JSON) -> list[str]:
    names = list(node.get("required", ()))
    for name, needed in node.get("dependentRequired", {}).items():
        names += needed if name in names else []
    return list(dict.fromkeys(names))
