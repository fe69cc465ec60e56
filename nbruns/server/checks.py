"""What a parameter may be. A check is given a value and the parameter's name; it returns the value as it is to
be kept, or refuses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nbruns.server.refusal import Refused

JSON = dict[str, Any]
Check = Callable[[Any, str], Any]

MAX_TEXT = 256_000
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


def parse(table: Mapping[str, Check], body: JSON, *required: str, within: str = "") -> JSON:
    """The parameters in `body`, checked; a null stays a null, and means what leaving it out means."""
    for name in body.keys() - table.keys():
        name = name[:100]
        raise Refused(f"Unknown parameter: '{within}{name}'.", param=within + name, code="unknown_parameter")
    for name in required:
        if body.get(name) is None:
            message = f"Missing required parameter: '{within}{name}'."
            raise Refused(message, param=within + name, code="missing_required_parameter")
    return {
        name: None if value is None else table[name](value, within + name) for name, value in body.items()
    }


def mapping(table: Mapping[str, Check], *required: str) -> Check:
    """An object with the parameters of a table."""
    return lambda value, name: parse(table, anything(value, name), *required, within=name + ".")


def anything(value: Any, name: str) -> JSON:
    """An object that is kept as it is."""
    if not isinstance(value, dict):
        raise _wrong_type(name, "an object", value)
    return value


def text(most: int = MAX_TEXT, least: int = 0) -> Check:
    """A string."""

    def check(value: Any, name: str) -> str:
        if not isinstance(value, str):
            raise _wrong_type(name, "a string", value)
        got = f"a string with length {len(value)}"
        if len(value) > most:
            expected = f"a string with maximum length {most}"
            raise invalid(name, "string too long", expected, got, "string_above_max_length")
        if len(value) < least:
            expected = f"a string with minimum length {least}"
            raise invalid(name, "empty string", expected, got, "empty_string")
        return value

    return check


def number(*, least: float, most: float = float("inf"), integer: bool = False) -> Check:
    """A number between `least` and `most`."""
    kind, article = ("integer", "an") if integer else ("decimal", "a")

    def check(value: Any, name: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, int if integer else int | float):
            raise _wrong_type(name, f"{article} {kind}", value)
        if value < least:
            wrong, expected = f"{kind} below minimum value", f"a value >= {least}"
            raise invalid(name, wrong, expected, str(value), f"{kind}_below_min_value")
        if not value <= most:
            wrong, expected = f"{kind} above maximum value", f"a value <= {most}"
            raise invalid(name, wrong, expected, str(value), f"{kind}_above_max_value")
        return value if integer else float(value)

    return check


def boolean(value: Any, name: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise _wrong_type(name, "a boolean", value)
    return value


def choice(*allowed: str) -> Check:
    """One of some strings."""

    def check(value: Any, name: str) -> str:
        if not isinstance(value, str):
            raise _wrong_type(name, "a string", value)
        if value not in allowed:
            known = ", ".join(f"'{one}'" for one in allowed)
            message = f"Invalid value: '{value[:100]}'. Supported values are: {known}."
            raise Refused(message, param=name, code="invalid_value")
        return value

    return check


def array(of: Check, most: int = 10_000) -> Check:
    """A list."""

    def check(value: Any, name: str) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong_type(name, "an array", value)
        if len(value) > most:
            expected, got = f"an array with maximum length {most}", f"an array with length {len(value)}"
            raise invalid(name, "array too long", expected, got, "array_above_max_length")
        return [of(item, f"{name}[{index}]") for index, item in enumerate(value)]

    return check


def labels(value: Any, name: str) -> JSON:
    """Metadata: up to 16 pairs of strings."""
    pairs = anything(value, name)
    if len(pairs) > 16:
        expected, got = "an object with at most 16 properties", f"an object with {len(pairs)} properties"
        raise invalid(name, "too many properties", expected, got, "object_above_max_properties")
    for key, label in pairs.items():
        text(64)(key, f"{name} key")
        text(512)(label, f"{name}.{key}")
    return pairs


def invalid(name: str, wrong: str, expected: str, got: str, code: str) -> Refused:
    """The refusal of a value that has the right type."""
    return Refused(
        f"Invalid '{name}': {wrong}. Expected {expected}, but got {got} instead.", param=name, code=code
    )


def _wrong_type(name: str, expected: str, value: object) -> Refused:
    got = next(word for kind, word in _WORDS if isinstance(value, kind))
    message = f"Invalid type for '{name}': expected {expected}, but got {got} instead."
    return Refused(message, param=name, code="invalid_type")
