"""What a parameter may be. A check takes a value and the parameter's name; it gives the value as it is to be kept, or
refuses it. Its `schema` tells the same to others, as JSON Schema: /openapi.json is made of these."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nbruns.server.refusal import Refused

JSON = dict[str, Any]

MAX_TEXT = 256_000
#: How many objects and lists may be in one another where any object is taken.
MAX_DEPTH = 100
#: The largest whole number that JavaScript counts to, which every database takes.
MAX_NUMBER = 2**53 - 1
NULL: JSON = {"type": "null"}
# In this order: True is an int to Python, and is not one here.
_WORDS: list[tuple[type, str]] = [
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a decimal"),
    (str, "a string"),
    (list, "an array"),
    (dict, "an object"),
    (type(None), "null"),
]


@dataclass(frozen=True)
class Check:
    """What one parameter may be."""

    schema: JSON
    take: Callable[[Any, str], Any]

    def __call__(self, value: Any, name: str) -> Any:
        return self.take(value, name)


def mapping(table: Mapping[str, Check], *required: str) -> Check:
    """An object with the parameters of a table; a null stays a null, and means what leaving it out means."""

    def take(value: Any, name: str) -> JSON:
        given, within = _object(value, name or "body"), f"{name}." if name else ""
        for unknown in given.keys() - table.keys():
            param = within + unknown[:100]
            raise Refused(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
        for needed in required:
            if given.get(needed) is None:
                raise missing(within + needed)
        return {key: None if item is None else table[key](item, within + key) for key, item in given.items()}

    properties = {
        key: check.schema if key in required else nullable(check.schema) for key, check in table.items()
    }
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return Check(schema | ({"required": [*required]} if required else {}), take)


def tagged(kinds: Mapping[str, Check]) -> Check:
    """An object, what may be in it being told by its `type`."""

    def take(value: Any, name: str) -> JSON:
        kind = _object(value, name).get("type")
        if kind is None:
            raise missing(f"{name}.type")
        taken: JSON = kinds[known(kind, f"{name}.type")](value, name)
        return taken

    known = choice(*kinds)
    return Check({"oneOf": [check.schema for check in kinds.values()]}, take)


def text_or(text: Check, other: Check) -> Check:
    """A string that passes one check, or something else that passes another."""
    return Check(
        {"anyOf": [text.schema, other.schema]},
        lambda value, name: (text if isinstance(value, str) else other)(value, name),
    )


def then(check: Check, change: Callable[[Any], Any]) -> Check:
    """What passes a check, changed into what is kept of it."""
    return Check(check.schema, lambda value, name: change(check(value, name)))


def text(most: int = MAX_TEXT, least: int = 0, pattern: str | None = None, said: str = "") -> Check:
    """A string; `pattern` is for all of it, and `said` tells it in words."""

    def take(value: Any, name: str) -> str:
        if not isinstance(value, str):
            raise _wrong_type(name, "a string", value)
        got = f"a string with length {len(value)}"
        if len(value) > most:
            expected = f"a string with maximum length {most}"
            raise invalid(name, "string too long", expected, got, "string_above_max_length")
        if len(value) < least:
            expected = f"a string with minimum length {least}"
            raise invalid(name, "empty string", expected, got, "empty_string")
        if pattern is not None and not re.fullmatch(pattern, value):
            raise invalid(name, "string does not match pattern", said, "others", "invalid_value")
        return value

    schema = {"type": "string", "maxLength": most}
    schema |= {"minLength": least} if least else {}
    return Check(schema | ({"pattern": f"^{pattern}$"} if pattern else {}), take)


def number(
    *, least: float, most: float = MAX_NUMBER, integer: bool = False, default: float | None = None
) -> Check:
    """A number between `least` and `most`; what leaving it out means is `default`."""
    kind, article = ("integer", "an") if integer else ("decimal", "a")

    def take(value: Any, name: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, int if integer else int | float):
            raise _wrong_type(name, f"{article} {kind}", value)
        if value < least:
            wrong, expected = f"{kind} below minimum value", f"a value >= {least}"
            raise invalid(name, wrong, expected, _shown(value), f"{kind}_below_min_value")
        if value > most:
            wrong, expected = f"{kind} above maximum value", f"a value <= {most}"
            raise invalid(name, wrong, expected, _shown(value), f"{kind}_above_max_value")
        return value if integer else float(value)

    schema: JSON = {"type": "integer" if integer else "number", "minimum": least, "maximum": most}
    return Check(schema | ({} if default is None else {"default": default}), take)


def _boolean(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(name, "a boolean", value)
    return value


def choice(*allowed: str, default: str | None = None) -> Check:
    """One of some strings; what leaving it out means is `default`."""
    *others, last = (f"'{one}'" for one in allowed)
    comma = "," if len(others) > 1 else ""
    known = f"{', '.join(others)}{comma} and {last}" if others else last

    def take(value: Any, name: str) -> str:
        if not isinstance(value, str):
            raise _wrong_type(name, "a string", value)
        if value not in allowed:
            message = f"Invalid value: '{value[:100]}'. Supported values are: {known}."
            raise Refused(message, param=name, code="invalid_value")
        return value

    schema: JSON = {"type": "string", "enum": [*allowed]}
    return Check(schema | ({} if default is None else {"default": default}), take)


def array(of: Check, most: int = 10_000, least: int = 0) -> Check:
    """A list."""

    def take(value: Any, name: str) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong_type(name, "an array", value)
        got = f"an array with length {len(value)}"
        if len(value) > most:
            expected = f"an array with maximum length {most}"
            raise invalid(name, "array too long", expected, got, "array_above_max_length")
        if len(value) < least:
            expected = f"an array with minimum length {least}"
            raise invalid(name, "empty array", expected, got, "empty_array")
        return [of(item, f"{name}[{index}]") for index, item in enumerate(value)]

    schema = {"type": "array", "items": of.schema, "maxItems": most}
    return Check(schema | ({"minItems": least} if least else {}), take)


def _anything(value: Any, name: str) -> JSON:
    given = _object(value, name)
    if _is_deep(given):
        expected = f"at most {MAX_DEPTH} objects and arrays in one another"
        raise invalid(name, "nested too deeply", expected, "more", "object_above_max_depth")
    return given


def _is_deep(value: JSON) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _labels(value: Any, name: str) -> JSON:
    pairs = _object(value, name)
    if len(pairs) > 16:
        expected, got = "an object with at most 16 properties", f"an object with {len(pairs)} properties"
        raise invalid(name, "too many properties", expected, got, "object_above_max_properties")
    for key, label in pairs.items():
        _KEY(key, f"{name} key")
        _LABEL(label, f"{name}.{key}")
    return pairs


_KEY, _LABEL = text(64), text(512)
boolean = Check({"type": "boolean"}, _boolean)
#: An object that is kept as it is.
anything = Check({"type": "object", "description": f"At most {MAX_DEPTH} levels deep."}, _anything)
#: Metadata: up to 16 pairs of strings.
labels = Check(
    {
        "type": "object",
        "maxProperties": 16,
        "propertyNames": {"maxLength": 64},
        "additionalProperties": _LABEL.schema,
    },
    _labels,
)


def nullable(schema: JSON) -> JSON:
    """That, or null."""
    return {"anyOf": [schema, NULL]}


def missing(name: str) -> Refused:
    """The refusal of a request that lacks a parameter."""
    message = f"Missing required parameter: '{name}'."
    return Refused(message, param=name, code="missing_required_parameter")


def invalid(name: str, wrong: str, expected: str, got: str, code: str) -> Refused:
    """The refusal of a value that has the right type."""
    return Refused(
        f"Invalid '{name}': {wrong}. Expected {expected}, but got {got} instead.", param=name, code=code
    )


def _object(value: Any, name: str) -> JSON:
    if not isinstance(value, dict):
        raise _wrong_type(name, "an object", value)
    return value


def _shown(value: float) -> str:
    # Python writes no int of more than 4300 digits.
    return str(value) if abs(value) <= MAX_NUMBER else "a number of many digits"


def _wrong_type(name: str, expected: str, value: object) -> Refused:
    got = next(word for kind, word in _WORDS if isinstance(value, kind))
    message = f"Invalid type for '{name}': expected {expected}, but got {got} instead."
    return Refused(message, param=name, code="invalid_type")
