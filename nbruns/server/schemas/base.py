"""The basis of all schemas: the base classes, the field types, and the conversion of pydantic's errors to API errors.

Each object and each request of the API is one pydantic model, which validates requests, creates objects, and is
described in /openapi.json. Limits are those of the OpenAPI description of the Assistants API; messages and codes are
those of OpenAI's server.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
)
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

from nbruns.server.hosted.protocol import refused as refused
from nbruns.server.schemas.errors import Refused
from nbruns.text import JSON

T = TypeVar("T")

MAX_TEXT = 256_000
#: Maximum nesting depth of fields that accept any object.
MAX_DEPTH = 100
#: The largest integer that JavaScript represents exactly. All databases can store it.
MAX_NUMBER = 2**53 - 1


class Schema(BaseModel):
    """A request, or a part of one or of an object. Unknown fields are refused, no type is converted into another."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=(), defer_build=True)


class Object(Schema):
    """An object as it is stored and answered: every field, in the order and with the defaults of the original."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    @classmethod
    def new(cls, **fields: Any) -> JSON:
        """Return a new object as JSON, with defaults for the fields that are left out."""
        given = cls.defaults() | fields
        if given.keys() != cls.model_fields.keys():
            raise TypeError(f"{cls.__name__} lacks or has not: {given.keys() ^ cls.model_fields.keys()}")
        return {name: given[name] for name in cls.model_fields}

    @classmethod
    def defaults(cls) -> JSON:
        """Return the default values of the optional fields."""
        return {name: make() for name, make in _defaults(cls).items()}


@cache
def _defaults(schema: type[Object]) -> dict[str, Callable[[], Any]]:
    """Return a factory for each default. pydantic's own method inspects the factory each time, which is slow."""
    fields = {name: field for name, field in schema.model_fields.items() if not field.is_required()}
    return {
        name: cast(Callable[[], Any], field.default_factory or partial(copy.deepcopy, field.default))
        for name, field in fields.items()
    }


def given(part: Schema) -> JSON:
    """Return the fields of a part of a request that were given."""
    return {name: getattr(part, name) for name in part.model_fields_set}


def empty() -> Any:
    """The default of an object that is a part of another."""
    return {}


def plain(part: BaseModel) -> JSON:
    """Return a validated part of a request as JSON, without nulls."""
    # The validators of some fields convert the declared model to JSON. pydantic accepts that, but would warn.
    return part.model_dump(exclude_none=True, by_alias=True, warnings=False)


def parse(schema: type[Schema], body: Any) -> JSON:
    """Return the fields of a request that were given. A null is kept, and means the same as omitting the field."""
    return given(_validated(schema, body))


def parse_query(schema: type[Schema], given: Iterable[tuple[str, str]]) -> JSON:
    """Return the parameters of a query string, with defaults. Unknown parameters are ignored. Empty ones count as
    omitted, because programs send `after=` without a value."""
    values: JSON = {}
    for name, value in given:
        if name.endswith("[]"):
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    return dict(_validated(schema, {name: value for name, value in values.items() if value}))


def _validated(schema: type[Schema], value: Any) -> Schema:
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise refusal(error) from None


@dataclass(frozen=True)
class Chars:
    """Limits on a text in characters.

    Unlike pydantic's own, they accept lone surrogates. `pattern` must match the whole text, and `said` describes
    it.
    """

    most: int = MAX_TEXT
    least: int = 0
    pattern: str = ""
    said: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JSON:
        limits = {"maxLength": self.most, "minLength": self.least, "pattern": f"^{self.pattern}$"}
        return handler(schema) | {name: limit for name, limit in limits.items() if limit not in (0, "^$")}

    def _check(self, text: str) -> str:
        got = f"a string with length {len(text)}"
        if len(text) > self.most:
            expected = f"a string with maximum length {self.most}"
            raise wrong("string too long", expected, got, "string_above_max_length")
        if len(text) < self.least:
            raise wrong("empty string", f"a string with minimum length {self.least}", got, "empty_string")
        if self.pattern and not re.fullmatch(self.pattern, text):
            raise wrong("string does not match pattern", self.said, "others", "invalid_value")
        return text


def wrong(what: str, expected: str, got: str, code: str) -> PydanticCustomError:
    """Return the error for a value of the right type that is out of bounds. Raise it in a validator."""
    return PydanticCustomError("wrong", "", {"wrong": what, "expected": expected, "got": got, "code": code})


def _not_too_deep(value: JSON) -> JSON:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return value
    expected = f"at most {MAX_DEPTH} objects and arrays in one another"
    raise wrong("nested too deeply", expected, "more", "object_above_max_depth")


def _at_most_16(pairs: dict[str, str]) -> dict[str, str]:
    if len(pairs) > 16:
        got = f"an object with {len(pairs)} properties"
        expected = "an object with at most 16 properties"
        raise wrong("too many properties", expected, got, "object_above_max_properties")
    return pairs


def whole_number(text: Any) -> Any:
    """Return the number in a text of a query or a form. Other values are unchanged, to be refused later."""
    # Longer numbers exceed every limit, and would take long to parse.
    return int(text) if isinstance(text, str) and re.fullmatch("-?[0-9]{1,4000}", text) else text


# Databases and log lines can't contain control characters and lone surrogates.
_PRINTABLE, _PRINTABLE_SAID = r"[^\u0000-\u001f\u007f-\u009f\ud800-\udfff]", "printable characters only"

Text = Annotated[str, Chars()]
#: An id or the name of a model.
Id = Annotated[str, Chars(256, 1, f"{_PRINTABLE}+", _PRINTABLE_SAID)]
#: A value to filter a list by.
Filter = Annotated[str, Chars(256, 0, f"{_PRINTABLE}*", _PRINTABLE_SAID)]
#: The name of a function.
Name = Annotated[str, Chars(64, 1, "[A-Za-z0-9_-]+", "letters, digits, _ and - only")]
#: An object that is stored unchanged.
AnyObject = Annotated[
    JSON,
    AfterValidator(_not_too_deep),
    Field(json_schema_extra={"description": f"At most {MAX_DEPTH} levels deep."}),
]
Metadata = Annotated[
    dict[Annotated[str, Chars(64)], Annotated[str, Chars(512)]],
    AfterValidator(_at_most_16),
    Field(json_schema_extra={"maxProperties": 16}),
]
Time = Annotated[int, Field(description="Unix time in seconds.")]
Count = Annotated[int, Field(ge=0)]
Limit = Annotated[int, Field(ge=256, le=MAX_NUMBER)]


class ListQuery(Schema):
    """Which page of a list is wanted."""

    model_config = ConfigDict(extra="ignore")

    limit: Annotated[int, Field(ge=1, le=100), BeforeValidator(whole_number)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: Filter | None = None
    before: Filter | None = None


class Page(Object, Generic[T]):
    """A part of a list."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"ListOf{params[0].__name__}"


class Error(Object):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Object):
    error: Error


class Health(Object):
    status: Literal["ok"] = "ok"
    version: str


class Document(Object, extra="allow"):
    """An OpenAPI document."""

    openapi: str
    info: JSON
    paths: JSON


class NoQuery(Schema):
    """A request without parameters in its address."""

    model_config = ConfigDict(extra="ignore")


def tag_of(value: Any) -> str | None:
    """Return the tag of a member of a union: `(str)` for a string, else the object's `type` in angle brackets. Names of
    fields contain no brackets, so tags can be recognized in the path of an error."""
    if isinstance(value, str):
        return "(str)"
    kind = value.get("type") if isinstance(value, dict) else None
    return f"<{kind}>" if isinstance(kind, str) else None


BY_TYPE = Discriminator(tag_of)


# The order matters: in Python, True is also an int.
_WORDS: list[tuple[type, str]] = [
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a decimal"),
    (str, "a string"),
    (list, "an array"),
    (dict, "an object"),
    (type(None), "null"),
]
#: Names of the types that pydantic expected, by the type of its error.
_EXPECTED = {
    "string_type": "a string",
    "literal_error": "a string",
    "int_type": "an integer",
    "float_type": "a decimal",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "union_tag_not_found": "an object",
}


def refusal(error: ValidationError) -> Refused:
    """Return the API error for pydantic's errors. It is about the first of the most basic ones."""
    details = min(error.errors(include_url=False), key=_rank)
    name = ""
    for part in details["loc"]:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part == "[key]":  # follows the key itself, in a dict
            name = f"{name.rpartition('.')[0]} key"
        elif not part.startswith(("<", "(")):
            name += f".{part}" if name else part
    return _in_words(details, name)


def _rank(details: ErrorDetails) -> int:
    # Errors inside an object of an unknown type are meaningless.
    if details["loc"][-1:] == ("type",):
        return 0
    return {"extra_forbidden": 1, "missing": 2}.get(details["type"], 3)


def _in_words(details: ErrorDetails, name: str) -> Refused:
    kind, value = details["type"], details["input"]
    context: JSON = details.get("ctx", {})
    if kind == "refused":
        message = context["message"].replace("{name}", name)
        return Refused(message, param=name + context["within"], code=context["code"])
    if kind == "wrong":
        return _invalid(name, **context)
    if kind == "extra_forbidden":
        name = name[: len(name) - len(str(details["loc"][-1])) + 100]
        return Refused(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
    if kind == "missing" or (value is None and details["loc"] and isinstance(details["loc"][-1], str)):
        return missing(name)
    if kind == "union_tag_not_found" and isinstance(value, dict):
        kind, name, value = "string_type", f"{name}.type", value.get("type")
        if value is None:
            return missing(name)
    if kind == "union_tag_invalid":
        name, value = f"{name}.type", value["type"]
    elif kind in _EXPECTED and not (kind == "literal_error" and isinstance(value, str)):
        return _wrong_type(name or "body", _EXPECTED[kind], value)
    if kind in ("union_tag_invalid", "literal_error"):
        return _unsupported(name, value, context.get("expected_tags") or context["expected"])
    return _out_of_bounds(kind, name, value, context)


def missing(name: str) -> Refused:
    """Return the error for a request that lacks a parameter."""
    message = f"Missing required parameter: '{name}'."
    return Refused(message, param=name, code="missing_required_parameter")


def _wrong_type(name: str, expected: str, value: object) -> Refused:
    got = next(word for kind, word in _WORDS if isinstance(value, kind))
    message = f"Invalid type for '{name}': expected {expected}, but got {got} instead."
    return Refused(message, param=name, code="invalid_type")


def _unsupported(name: str, value: str, expected: str) -> Refused:
    *others, last = re.findall("'<?([^'(]*?)>?'", expected)
    comma = "," if len(others) > 1 else ""
    known = "".join(f"'{each}', " for each in others).removesuffix(", ") + f"{comma} and '{last}'"
    message = f"Invalid value: '{value[:100]}'. Supported values are: {known if others else repr(last)}."
    return Refused(message, param=name, code="invalid_value")


def _out_of_bounds(kind: str, name: str, value: Any, context: JSON) -> Refused:
    if kind in ("too_long", "too_short"):
        side, limit = ("maximum", "max_length") if kind == "too_long" else ("minimum", "min_length")
        expected, got = f"an array with {side} length {context[limit]}", f"an array with length {len(value)}"
        what, code = (
            ("array too long", "array_above_max_length")
            if side == "maximum"
            else ("empty array", "empty_array")
        )
        return _invalid(name, what, expected, got, code)
    side, sign, limit = {
        "greater_than_equal": ("below minimum", ">=", "ge"),
        "less_than_equal": ("above maximum", "<=", "le"),
    }[kind]
    number = "integer" if isinstance(context[limit], int) else "decimal"
    # Python can't convert an int of more than 4,300 digits to text.
    got = str(value) if abs(value) <= MAX_NUMBER else "a number of many digits"
    code = f"{number}_{side.split()[0]}_{side.split()[1][:3]}_value"
    return _invalid(name, f"{number} {side} value", f"a value {sign} {int(context[limit])}", got, code)


def _invalid(name: str, wrong: str, expected: str, got: str, code: str) -> Refused:
    message = f"Invalid '{name}': {wrong}. Expected {expected}, but got {got} instead."
    return Refused(message, param=name, code=code)
