"""The schemas that real tools have: each becomes a form that reads back what a model sent.

For each: whose style it is, the schema, arguments that a model sends, and those arguments that are edited as JSON
because no field can show them.
"""

from __future__ import annotations

import copy
import json
from typing import Any, NamedTuple

import pytest

from nbruns.json_schema import check_schema, problems
from nbruns.widgets.form.arguments import ArgumentsEditor
from nbruns.widgets.form.field import Field
from nbruns.widgets.form.scalar_fields import JSONField


class Case(NamedTuple):
    style: str
    schema: dict[str, Any]
    arguments: dict[str, Any]
    as_json: tuple[str, ...] = ()


def obj(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), **more}


TEXT, INT, NULL = {"type": "string"}, {"type": "integer"}, {"type": "null"}

CASES = [
    Case(
        "OpenAI's documentation: a flat function",
        obj(
            {
                "location": {"type": "string", "description": "City and country, e.g. Bogotá, Colombia"},
                "units": {"type": "string", "enum": ["celsius", "fahrenheit"], "description": "Units."},
            },
            "location",
            "units",
            additionalProperties=False,
        ),
        {"location": "Bogotá, Colombia", "units": "celsius"},
    ),
    Case(
        "OpenAI's strict schemas: everything required, optional is nullable",
        obj(
            {
                "to": {"type": ["string", "null"], "description": "Recipient."},
                "urgent": {"type": ["boolean", "null"]},
                "level": {"type": ["string", "null"], "enum": ["low", "high", None]},
                "tags": {"type": ["array", "null"], "items": TEXT},
                "options": {
                    "anyOf": [obj({"num_results": {"type": ["number", "null"]}}, "num_results"), NULL]
                },
            },
            *("to", "urgent", "level", "tags", "options"),
            additionalProperties=False,
        ),
        {"to": None, "urgent": None, "level": None, "tags": ["a"], "options": {"num_results": 5}},
    ),
    Case(
        "pydantic: references, a nested model, a list of models, an optional one, an enum",
        obj(
            {
                "place": {"$ref": "#/$defs/Place"},
                "route": {"items": {"$ref": "#/$defs/Place"}, "title": "Route", "type": "array"},
                "via": {"anyOf": [{"$ref": "#/$defs/Place"}, NULL], "default": None},
                "sky": {"allOf": [{"$ref": "#/$defs/Sky"}], "default": "clear"},
                "when": {"anyOf": [{"format": "date-time", "type": "string"}, NULL], "default": None},
            },
            *("place", "route"),
            **{
                "$defs": {
                    "Place": obj(
                        {"city": {"title": "City", "type": "string"}, "n": {**INT, "default": 1}}, "city"
                    ),
                    "Sky": {"enum": ["clear", "rain"], "title": "Sky", "type": "string"},
                }
            },
        ),
        {
            "place": {"city": "Oslo"},
            "route": [{"city": "Voss", "n": 2}],
            "when": "2026-08-26T09:00:00Z",
            "sky": "rain",
        },
    ),
    Case(
        "pydantic: a union with a discriminator",
        obj(
            {
                "shape": {
                    "discriminator": {"mapping": {"circle": "#/$defs/C"}, "propertyName": "kind"},
                    "oneOf": [{"$ref": "#/$defs/C"}, {"$ref": "#/$defs/S"}],
                }
            },
            "shape",
            **{
                "$defs": {
                    "C": obj({"kind": {"const": "circle"}, "r": {"type": "number"}}, "kind", "r"),
                    "S": obj({"kind": {"const": "square"}, "a": {"type": "number"}}, "kind", "a"),
                }
            },
        ),
        {"shape": {"kind": "square", "a": 1.5}},
    ),
    Case(
        "pydantic: a tuple, a set, bounds, bytes, any value",
        obj(
            {
                "pair": {
                    "maxItems": 2,
                    "minItems": 2,
                    "prefixItems": [INT, TEXT],
                    "type": "array",
                },
                "unique": {"items": INT, "type": "array", "uniqueItems": True},
                "ratio": {"exclusiveMinimum": 0, "maximum": 1, "type": "number"},
                "raw": {"format": "binary", "type": "string"},
                "anything": {"title": "Anything"},
            },
            "pair",
        ),
        {"pair": [1, "x"], "unique": [1, 2], "ratio": 0.5, "raw": "abc", "anything": [{"x": None}]},
        ("pair", "anything"),
    ),
    Case(
        "zod: additionalProperties false, literals in a union, records, references into properties",
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            **obj(
                {
                    "mode": {
                        "anyOf": [{"type": "string", "const": "fast"}, {"type": "string", "const": "slow"}]
                    },
                    "headers": {"type": "object", "additionalProperties": TEXT},
                    "from": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
                    "to": {"$ref": "#/properties/from"},
                    "mail": {"type": "string", "format": "email"},
                    "id": {"type": "string", "pattern": "^(?!0)[a-z0-9]+$"},
                },
                "mode",
                additionalProperties=False,
            ),
        },
        {
            "mode": "slow",
            "headers": {"a": "b"},
            "from": {"x": 1},
            "to": {"x": 2.5},
            "mail": "a@b.c",
            "id": "a1",
        },
    ),
    Case(
        "an MCP server for files: arrays of edits, defaults",
        obj(
            {
                "path": TEXT,
                "edits": {
                    "type": "array",
                    "items": obj({"oldText": TEXT, "newText": TEXT}, "oldText", "newText"),
                },
                "dryRun": {"type": "boolean", "default": False, "description": "Preview changes"},
            },
            *("path", "edits"),
        ),
        {"path": "/a b.txt", "edits": [{"oldText": "a\nb", "newText": ""}]},
    ),
    Case(
        "an MCP server for a repository: numbers with bounds, mixed enums, arrays of texts",
        obj(
            {
                "owner": TEXT,
                "state": {"type": "string", "enum": ["open", "closed", "all"]},
                "labels": {"type": "array", "items": TEXT},
                "perPage": {"type": "number", "minimum": 1, "maximum": 100},
                "page": {"type": ["integer", "string"]},
                "since": {"type": "string", "format": "date"},
            },
            "owner",
        ),
        {"owner": "o", "labels": ["bug", "ui"], "perPage": 30, "page": 2, "since": "2026-01-31"},
    ),
    Case(
        "an MCP server for a database: no properties at all",
        {"type": "object"},
        {"sql": "select 1", "parameters": [1, None]},
    ),
    Case("an MCP server's tool without arguments", {"type": "object", "properties": {}, "required": []}, {}),
    Case(
        "either of two properties is required",
        obj({"id": INT, "name": TEXT}, anyOf=[{"required": ["id"]}, {"required": ["name"]}]),
        {"name": "x"},
    ),
    Case(
        "no types anywhere",
        {"properties": {"a": {"description": "?"}, "b": {"enum": [1, "one", None, True]}, "c": {"const": 3}}},
        {"a": {"k": 1}, "b": "one", "c": 3},
        ("a",),
    ),
    Case(
        "defaults of the wrong type",
        obj(
            {
                "n": {"type": "integer", "default": "three"},
                "b": {"type": "boolean", "default": "yes"},
                "l": {"type": "array", "items": INT, "default": "none"},
                "o": {**obj({"x": INT}), "default": []},
                "e": {"enum": ["a"], "default": 5},
            }
        ),
        {},
    ),
    Case(
        "recursion",
        {
            "$ref": "#/definitions/Filter",
            "definitions": {
                "Filter": obj(
                    {
                        "field": TEXT,
                        "and": {"type": "array", "items": {"$ref": "#/definitions/Filter"}},
                        "not": {"$ref": "#/definitions/Filter"},
                    }
                )
            },
        },
        {"and": [{"field": "a"}, {"not": {"field": "b"}}]},
    ),
    Case(
        "allOf of objects",
        {"allOf": [obj({"a": INT}, "a"), {"$ref": "#/$defs/B"}], "$defs": {"B": obj({"b": TEXT}, "b")}},
        {"a": 1, "b": "x"},
    ),
    Case(
        "one of several objects at the top",
        {"oneOf": [obj({"url": {"type": "string", "format": "uri"}}, "url"), obj({"text": TEXT}, "text")]},
        {"text": "x"},
    ),
    Case(
        "LangChain: titles everywhere, a reference with siblings",
        obj(
            {"tool_input": {"$ref": "#/$defs/In", "title": "Input", "description": "What goes in"}},
            "tool_input",
            title="args",
            **{"$defs": {"In": obj({"q": {"title": "Q", "type": "string"}}, "q", title="In")}},
        ),
        {"tool_input": {"q": "x"}},
    ),
    Case(
        "names that are hard to say",
        obj({"$filter": TEXT, "a.b": INT, "x-y": TEXT, "": TEXT, "Ærø 東京": TEXT, "a" * 300: INT}),
        {"$filter": "f", "a.b": 1, "x-y": "y", "": "e", "Ærø 東京": "t", "a" * 300: 2},
    ),
    Case(
        "conditions that no field can show are validated all the same",
        obj(
            {"kind": {"enum": ["a", "b"]}, "n": INT},
            "kind",
            **{"if": {"properties": {"kind": {"const": "a"}}}, "then": {"required": ["n"]}},
        ),
        {"kind": "a", "n": 1},
    ),
    Case(
        "dictionaries of lists, lists of dictionaries, either a text or a list",
        obj(
            {
                "map": {"type": "object", "additionalProperties": {"type": "array", "items": INT}},
                "list": {"type": "array", "items": {"type": "object", "additionalProperties": TEXT}},
                "stop": {"anyOf": [TEXT, {"type": "array", "items": TEXT}]},
                "free": {"type": "object", "additionalProperties": True},
            }
        ),
        {"map": {"a": [1]}, "list": [{"k": "v"}], "stop": ["x"], "free": {"deep": {"er": 1}}},
        (),
    ),
]

by_style = pytest.mark.parametrize("case", CASES, ids=lambda case: case.style)


@by_style
def test_what_the_model_sent_comes_back(case: Case) -> None:
    check_schema(case.schema)
    assert problems(case.arguments, case.schema) == []  # the case itself is right
    editor = ArgumentsEditor(json.dumps(case.arguments), copy.deepcopy(case.schema))
    assert editor.read() == case.arguments


@by_style
def test_what_can_be_a_field_is_one(case: Case) -> None:
    editor = ArgumentsEditor(json.dumps(case.arguments), case.schema)
    as_json = {name for name, field in editor.fields.items() if isinstance(field, JSONField)}
    assert as_json == set(case.as_json)


def switched_on(field: Field) -> None:
    """Open all that may be left out, as somebody would who looks at everything."""
    if getattr(field, "_sent", None) is not None:
        field._sent.value = True
    if hasattr(field, "_add"):
        field._add.click()
    for _, inner in field.fields() if hasattr(field, "fields") else []:
        switched_on(inner)


@by_style
def test_everything_can_be_opened_and_what_was_given_is_still_there(case: Case) -> None:
    editor = ArgumentsEditor(json.dumps(case.arguments), case.schema)
    if editor._field is not None:
        switched_on(editor._field)
    editor.freeze(True)
    try:
        read = editor.read()
    except ValueError:
        return  # what was opened and not filled in is said
    assert isinstance(read, dict) and read.keys() >= case.arguments.keys()


@by_style
@pytest.mark.parametrize(
    "sent", ["{}", '{"unknown": 1}', "null", "[]", '"text"', "{", "", '{"a": 1e999}', "[" * 10_000]
)
def test_whatever_a_model_sends_is_shown_and_not_lost(case: Case, sent: str) -> None:
    editor = ArgumentsEditor(sent, case.schema)
    try:
        read = editor.read()
    except ValueError:  # said at the field, where what was sent stands
        assert 'role="alert"' in "".join(values_of(editor))
        return
    assert read == sent or json.loads(sent or "{}") == read


def values_of(widget: Any) -> list[str]:
    inside = [text for child in getattr(widget, "children", ()) for text in values_of(child)]
    return [str(getattr(widget, "value", "")), *inside]


@pytest.mark.parametrize(
    ("style", "typed", "said"),
    [
        ("OpenAI's documentation", {"location": ""}, None),
        ("an MCP server for a repository", {"perPage": "101"}, "perPage: Must be at most 100."),
        ("an MCP server for a repository", {"perPage": "x"}, "perPage: Not a number."),
        ("zod", {"mail": "nobody"}, "mail: Not a valid email. Example: ada@example.org"),
        (
            "pydantic: references",
            {"when": "soon"},
            "when: Not a valid date-time. Example: 2026-08-26T09:30:00Z",
        ),
        ("pydantic: a tuple", {"pair": "[1]"}, "pair: Must have at least 2 items, has 1."),
        ("conditions", {"n": ""}, "n: Required."),
        ("either of two", {"name": ""}, "Matches none of the alternatives."),
    ],
)
def test_what_is_wrong_is_said_at_its_field(style: str, typed: dict[str, str], said: str | None) -> None:
    case = next(case for case in CASES if case.style.startswith(style))
    editor = ArgumentsEditor(json.dumps(case.arguments), case.schema)
    for name, text in typed.items():
        editor.fields[name].control.value = text
    if said is None:
        assert editor.read()
        return
    with pytest.raises(ValueError) as refused:
        editor.read()
    assert str(refused.value) == said
    field = editor.fields.get(said.partition(":")[0], editor._field)
    assert 'role="alert"' in field._note.value
