"""JSON Schemas from servers and tools: resolve references, merge, and report the problems of a value.

Schemas are untrusted: references are not fetched, merging is bounded, and patterns run in Rust's linear-time engine.
Unsupported patterns, such as look-ahead, are not checked. An invalid schema reports no problems.
"""

from __future__ import annotations

import datetime
import functools
import importlib.util
import re
import sys
import types
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from nbruns.text import JSON, excerpt

if TYPE_CHECKING:
    from jsonschema import FormatChecker, ValidationError
    from jsonschema.protocols import Validator

Schema = JSON | bool

#: Maximum number of reported problems.
MOST = 20
#: Maximum length of a chain of references, and maximum number of parts merged into one schema.
MAX_CHAIN, MAX_PARTS = 20, 500
TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
#: An example of each format.
FORMATS = {
    "date": "2026-08-26",
    "time": "09:30:00Z",
    "date-time": "2026-08-26T09:30:00Z",
    "duration": "P1DT12H",
    "email": "ada@example.org",
    "idn-email": "ada@example.org",
    "hostname": "example.org",
    "idn-hostname": "example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.org/",
    "uri-reference": "/example",
    "iri": "https://example.org/",
    "iri-reference": "/example",
    "uri-template": "https://example.org/{id}",
    "uuid": "3e4666bf-d5e5-4aa7-b8ce-cefe41c7568a",
    "json-pointer": "/example",
    "relative-json-pointer": "0",
    "regex": "^example$",
}


class Problem(NamedTuple):
    """A problem and its path in the value. For a missing property, the path ends with its name."""

    path: tuple[str | int, ...]
    words: str

    def __str__(self) -> str:
        place = ".".join(map(str, self.path))
        return f"{place}: {self.words}" if place else self.words


def problems(value: Any, schema: Any, root: Mapping[str, Any] | None = None) -> list[Problem]:
    """Return the problems of a value, at most MOST; none if the schema is invalid or refers to something
    missing.

    `root` is the schema that references refer to, if `schema` is only a part of it.
    """
    found: list[Problem] = []
    try:
        validator = _validator(schema if root is None else root).evolve(schema=schema)
        for _, error in zip(range(MOST), validator.iter_errors(value), strict=False):
            found.append(_problem(error))
    except Exception:  # an invalid schema can raise anything; the tool itself still validates
        pass
    return list(dict.fromkeys(found))


def resolved(schema: Any, root: Any) -> JSON:
    """Return the schema with its references within `root` and its `allOf` merged in.

    Unresolvable references count as the empty schema. Nothing is fetched.
    """
    node: JSON = dict(schema) if isinstance(schema, Mapping) else {}
    merges = 0
    for _ in range(MAX_CHAIN):
        parts = [_target(node.pop("$ref"), root)] if "$ref" in node else []
        all_of = node.pop("allOf", None)
        parts += all_of if isinstance(all_of, list) else []
        merges += len(parts)
        if not parts or merges > MAX_PARTS:
            break
        for part in parts:
            node = merged(part, node)
    return node


def _target(reference: Any, root: Any) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#"):
        return {}
    target = root
    for step in reference.removeprefix("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        target = target.get(step) if isinstance(target, Mapping) else None
    return target if isinstance(target, Mapping | bool) else {}


def merged(left: Any, right: Any) -> JSON:
    """Merge two schemas. If they disagree, `right` wins."""
    if not isinstance(left, Mapping) or not isinstance(right, Mapping):
        return dict(left) if isinstance(left, Mapping) else dict(right) if isinstance(right, Mapping) else {}
    both: JSON = {**left, **right}
    for word in left.keys() & right.keys() & _JOINED.keys():
        kinds, join = _JOINED[word]
        if isinstance(left[word], kinds) and isinstance(right[word], kinds):
            both[word] = join(left[word], right[word])
    return both


def _join_properties(left: JSON, right: JSON) -> JSON:
    both = {name: merged(left[name], right[name]) for name in left.keys() & right.keys()}
    return {**left, **right, **both}


def _join_types(left: str | list[str], right: str | list[str]) -> str | list[str]:
    one, other = ([kinds] if isinstance(kinds, str) else kinds for kinds in (left, right))
    shared = [kind for kind in one if kind in other or (kind == "integer" and "number" in other)]
    return right if left == right or not shared else shared


#: How to merge the values of a keyword that both schemas have, if both values have this Python type.
_JOINED: dict[str, tuple[type | types.UnionType, Callable[[Any, Any], Any]]] = {
    "properties": (dict, _join_properties),
    "required": (list, lambda left, right: left + [name for name in right if name not in left]),
    "type": (str | list, _join_types),
    "enum": (list, lambda left, right: [value for value in left if value in right] or right),
    "minimum": (int | float, max),
    "maximum": (int | float, min),
    "minLength": (int | float, max),
    "maxLength": (int | float, min),
    "minItems": (int | float, max),
    "maxItems": (int | float, min),
    "allOf": (list, lambda left, right: [*left, *right]),
}


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise ValueError if it is not a JSON Schema of an object."""
    load_jsonschema()
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        raise ValueError(f"Not a JSON Schema: {excerpt(error.message)}") from error


@functools.cache
def load_jsonschema() -> None:
    """Import jsonschema without the grammar that `rfc3987_syntax` compiles at import, which takes over a second.

    jsonschema imports it if it is installed, as it is with JupyterLab, for the format "iri". The substitute loads
    the real function when that format is first checked, so nothing else changes.
    """
    name = "rfc3987_syntax"
    if "jsonschema" in sys.modules or name in sys.modules or importlib.util.find_spec(name) is None:
        return

    def is_valid_syntax(*args: Any, **kwargs: Any) -> Any:
        return importlib.import_module(name).is_valid_syntax(*args, **kwargs)

    later: Any = types.ModuleType(name)
    later.is_valid_syntax = is_valid_syntax
    sys.modules[name] = later
    try:
        import jsonschema  # noqa: F401
    finally:
        del sys.modules[name]


def _validator(schema: Any) -> Validator:
    load_jsonschema()
    from referencing import Registry

    # An empty registry fetches nothing.
    found: Validator = _validators()(schema, registry=Registry(), format_checker=_formats())
    return found


@functools.cache
def _validators() -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    def additional(validator: Validator, allowed: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
        if "patternProperties" not in schema:
            check = Draft202012Validator.VALIDATORS["additionalProperties"]
            yield from check(validator, allowed, value, schema) or ()

    unchecked = dict.fromkeys(("patternProperties", "unevaluatedProperties"))
    return extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {"pattern": _pattern, "additionalProperties": additional, **unchecked}
    )


def _pattern(_: Validator, pattern: Any, value: Any, __: Any) -> Iterator[ValidationError]:
    from jsonschema import ValidationError

    if isinstance(value, str) and not _matcher(str(pattern))(value):
        yield ValidationError("no match")


@functools.lru_cache(256)
def _matcher(pattern: str) -> Callable[[str], bool]:
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        validator = SchemaValidator(core_schema.str_schema(pattern=pattern))
    except SchemaError:
        return lambda _: True
    return validator.isinstance_python


@functools.cache
def _formats() -> FormatChecker:
    from jsonschema import Draft202012Validator, FormatChecker

    checker = FormatChecker(())
    # The validator's own checks need packages that may be missing; the checks below replace those.
    checker.checkers = {**Draft202012Validator.FORMAT_CHECKER.checkers}
    checker.checkers.pop("regex", None)
    for name, check in _OWN_FORMATS.items():
        checker.checks(name, raises=ValueError)(lambda value, check=check: _checked(check, value))
    return checker


def _checked(check: Callable[[str], object], value: Any) -> bool:
    return not isinstance(value, str) or bool(check(value))


def _date_time(text: str) -> bool:
    return datetime.datetime.fromisoformat(text).tzinfo is not None and re.match(r"\S+[Tt]", text) is not None


_OWN_FORMATS: dict[str, Callable[[str], object]] = {
    "date-time": _date_time,
    # also without a time zone, like Python's own times
    "time": lambda text: bool(datetime.time.fromisoformat(text)) or True,
    "duration": re.compile(
        r"P(?=.)(?:\d+W|(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+(?:\.\d+)?S)?)?)"
    ).fullmatch,
    "uri": lambda text: urllib.parse.urlsplit(text).scheme and not re.search(r"[\s<>]", text),
}


def _problem(error: ValidationError) -> Problem:
    from jsonschema.exceptions import best_match

    if error.validator in ("anyOf", "oneOf") and error.context:
        error = best_match([error]) or error
    path = tuple(error.absolute_path)
    if error.validator == "required":
        named = next((n for n in _names(error.validator_value) if error.message.startswith(repr(n))), "")
        return Problem((*path, named), "Required.")
    if error.validator == "additionalProperties" and error.validator_value is False:
        known = error.schema.get("properties") or {} if isinstance(error.schema, Mapping) else {}
        extra = next(name for name in _names(error.instance) if name not in known)
        return Problem((*path, extra), "Unknown property: remove it.")
    words = _WORDS.get(str(error.validator))
    return Problem(path, excerpt(words(error.validator_value, error.instance) if words else error.message))


def _names(required: Any) -> list[str]:
    return [name for name in required if isinstance(name, str)]


def _types(kinds: Any, _: Any) -> str:
    names = [kinds] if isinstance(kinds, str) else kinds
    return f"Must be {' or '.join(TYPES.get(name, str(name)) for name in names)}."


def _format(name: Any, _: Any) -> str:
    if name == "date":
        return f"Not a date. Use YYYY-MM-DD, for example {FORMATS[name]}."
    return f"Not a valid {name}." + (f" Example: {FORMATS[name]}" if name in FORMATS else "")


#: For each keyword: the message for its value in the schema and the invalid value.
_WORDS: dict[str, Callable[[Any, Any], str]] = {
    "type": _types,
    "enum": lambda allowed, _: f"Must be one of {', '.join(map(str, allowed))}.",
    "const": lambda only, _: f"Must be {only}.",
    "minimum": lambda least, _: f"Must be at least {least}.",
    "maximum": lambda most, _: f"Must be at most {most}.",
    "exclusiveMinimum": lambda least, _: f"Must be more than {least}.",
    "exclusiveMaximum": lambda most, _: f"Must be less than {most}.",
    "multipleOf": lambda unit, _: f"Must be a multiple of {unit}.",
    "minLength": lambda least, text: f"Must have at least {least} characters, has {len(text)}.",
    "maxLength": lambda most, text: f"Must have at most {most} characters, has {len(text)}.",
    "pattern": lambda pattern, _: f"Must match the pattern {pattern}",
    "format": _format,
    "minItems": lambda least, items: f"Must have at least {least} items, has {len(items)}.",
    "maxItems": lambda most, items: f"Must have at most {most} items, has {len(items)}.",
    "anyOf": lambda _, __: "Matches none of the alternatives.",
    "oneOf": lambda _, __: "Must match exactly one of the alternatives.",
    "uniqueItems": lambda _, __: "Items must be unique.",
}
