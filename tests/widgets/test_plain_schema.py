"""What schemas of all kinds ask for, plainly."""

from __future__ import annotations

from typing import Any

import pytest

from nbruns.widgets.form.plain_schema import name_of, shape_of

ROOT: dict[str, Any] = {
    "$defs": {
        "City": {"type": "string", "title": "City"},
        "Alias": {"$ref": "#/$defs/City"},
        "Loop": {"$ref": "#/$defs/Loop"},
        "Ping": {"$ref": "#/$defs/Pong"},
        "Pong": {"$ref": "#/$defs/Ping"},
        "a/b": {"type": "integer"},
        "Maybe": {"anyOf": [{"$ref": "#/$defs/City"}, {"type": "null"}]},
    },
    "properties": {"first": {"type": "boolean"}},
}
CITY = {"type": "string", "title": "City"}


@pytest.mark.parametrize(
    ("schema", "plain", "nullable"),
    [
        ({"type": "string"}, {"type": "string"}, False),
        ({"$ref": "#/$defs/City"}, CITY, False),
        ({"$ref": "#/$defs/Alias", "description": "Where"}, {**CITY, "description": "Where"}, False),
        ({"$ref": "#/$defs/a~1b"}, {"type": "integer"}, False),
        ({"$ref": "#/properties/first"}, {"type": "boolean"}, False),
        ({"$ref": "#/$defs/Maybe"}, CITY, True),
        ({"allOf": [{"$ref": "#/$defs/City"}], "default": "x"}, {**CITY, "default": "x"}, False),
        (
            {
                "allOf": [
                    {"properties": {"a": {}}, "required": ["a"]},
                    {"properties": {"b": {}}, "required": ["b"]},
                ]
            },
            {"type": "object", "properties": {"b": {}, "a": {}}, "required": ["b", "a"]},
            False,
        ),
        ({"type": ["string", "null"]}, {"type": "string"}, True),
        ({"type": ["null", "string"], "maxLength": 3}, {"type": "string", "maxLength": 3}, True),
        ({"type": ["string", "integer"]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}, False),
        (
            {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": 1},
            {"type": "integer", "default": 1},
            True,
        ),
        ({"oneOf": [{"type": "integer"}, {"const": None}]}, {"type": "integer"}, True),
        ({"anyOf": [{"const": "a"}, {"const": 1}]}, {"enum": ["a", 1]}, False),
        (
            {"oneOf": [{"enum": ["a"]}, {"const": "b", "title": "B"}, {"type": "null"}]},
            {"enum": ["a", "b"], "type": "string"},
            True,
        ),
        ({"enum": ["a", "b"]}, {"enum": ["a", "b"], "type": "string"}, False),
        ({"enum": ["a", 1]}, {"enum": ["a", 1]}, False),
        ({"properties": {}}, {"properties": {}, "type": "object"}, False),
        ({"items": {}}, {"items": {}, "type": "array"}, False),
        ({"type": ["null"]}, {}, True),
        (True, {}, False),
        (None, {}, False),
        ({}, {}, False),
    ],
)
def test_a_schema_is_made_plain(schema: Any, plain: Any, nullable: bool) -> None:
    assert shape_of(schema, ROOT) == (plain, nullable)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/Loop"},
        {"$ref": "#/$defs/Ping"},
        {"$ref": "#"},
        {"$ref": "#/$defs/Nowhere"},
        {"$ref": "https://evil.example/x.json"},
        {"$ref": 5},
        {"allOf": [{"$ref": "#/$defs/Loop"}, {"$ref": "#/$defs/City"}]},
        {"allOf": 5},
        {"allOf": [5]},
        {"anyOf": 5},
        {"anyOf": [5, None]},
        {"anyOf": []},
        {"anyOf": [{"anyOf": [{"anyOf": []}]}]},
        {"type": 5},
        {"type": []},
        {"type": {}},
        {"enum": 5},
        {"properties": 5, "required": 5},
        {"allOf": [{"properties": 5}, {"properties": {"a": 5}}]},
    ],
)
def test_what_is_odd_ends_somewhere(schema: Any) -> None:
    plain, nullable = shape_of(schema, ROOT | {"$ref": "#"})
    assert isinstance(plain, dict) and isinstance(nullable, bool)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"$ref": "#/$defs/City"}, "City"),
        ({"type": "integer"}, "a whole number"),
        ({"properties": {"kind": {"const": "bus"}, "line": {"type": "string"}}}, "bus"),
        ({"properties": {"kind": {"enum": ["train"]}}}, "train"),
        ({"title": 5, "type": "array"}, "a list"),
        ({}, "alternative 2"),
        (5, "alternative 2"),
    ],
)
def test_alternatives_have_names(option: Any, name: str) -> None:
    assert name_of(option, ROOT, 2) == name
