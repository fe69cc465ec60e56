"""From schema to field, and back to the value."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from nbruns.widgets.fields import (
    FIELDS,
    MISSING,
    BooleanField,
    ChoiceField,
    DateField,
    Field,
    IntegerField,
    JSONField,
    NumberField,
    TextField,
    field_for,
)

DEFINITIONS = {
    "$defs": {"Unit": {"enum": ["C", "F"]}, "Node": {"$ref": "#/$defs/Node"}, "Deep": {"type": "integer"}}
}


@pytest.mark.parametrize(
    ("schema", "value", "kind"),
    [
        ({"type": "string"}, "x", TextField),
        ({"type": "string"}, 5, JSONField),  # the model sent something else: as JSON, not lost
        ({"type": "string", "format": "date"}, "2026-11-21", DateField),
        ({"type": "string", "format": "date"}, "tomorrow", TextField),
        ({"type": "string", "format": "date-time"}, "2026-11-21T09:00:00Z", TextField),
        ({"type": "integer"}, 3, IntegerField),
        ({"type": "integer"}, 3.5, JSONField),
        ({"type": "integer"}, True, JSONField),
        ({"type": "number"}, 3, NumberField),
        ({"type": "number"}, 3.5, NumberField),
        ({"type": "boolean"}, False, BooleanField),
        ({"enum": ["a", 1, None, [2]]}, [2], ChoiceField),
        ({"enum": ["a", 1]}, "b", JSONField),
        ({"enum": [1, 0]}, True, JSONField),
        ({"const": "only"}, "only", ChoiceField),
        ({"type": ["string", "null"]}, "x", TextField),
        ({"type": ["string", "null"]}, None, TextField),
        ({"type": ["string", "integer"]}, "x", JSONField),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}, 3, IntegerField),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 3, JSONField),
        ({"$ref": "#/$defs/Unit"}, "C", ChoiceField),
        ({"anyOf": [{"$ref": "#/$defs/Deep"}, {"type": "null"}]}, 3, IntegerField),
        ({"$ref": "#/$defs/Node"}, {}, JSONField),
        ({"$ref": "#/$defs/None"}, {}, JSONField),
        ({"$ref": "https://evil.example/schema.json"}, {}, JSONField),
        ({"type": "array", "items": {"type": "string"}}, ["a"], JSONField),
        ({"type": "object"}, {"a": 1}, JSONField),
        ({}, 1, JSONField),
        (True, 1, JSONField),
    ],
)
def test_the_schema_chooses_the_field_and_the_value_comes_back(
    schema: Any, value: Any, kind: type[Field]
) -> None:
    field = field_for("x", schema, value, root=DEFINITIONS)
    assert type(field) is kind
    if kind is not JSONField or schema in ({}, True):
        assert field.read() == value
        assert type(field.read()) is type(value)


@pytest.mark.parametrize(
    ("schema", "typed", "value"),
    [
        ({"type": "string"}, "Oslo", "Oslo"),
        ({"type": "integer"}, " 42 ", 42),
        ({"type": "number"}, "4e2", 400.0),
        ({"type": "number"}, "42", 42),
        ({"type": "boolean"}, True, True),
        ({"enum": ["a", 7]}, 1, 7),
        ({"type": "string", "format": "date"}, datetime.date(2026, 11, 21), "2026-11-21"),
        ({"type": "array"}, "[1, 2]", [1, 2]),
    ],
)
def test_what_is_typed_is_read(schema: Any, typed: Any, value: Any) -> None:
    field = field_for("x", schema)
    field.control.value = typed
    assert field.read() == value


@pytest.mark.parametrize(
    ("schema", "typed", "words"),
    [
        ({"type": "integer"}, "4.5", "not a whole number"),
        ({"type": "number"}, "many", "not a number"),
        ({"type": "number"}, "nan", "not a number"),
        ({"type": "integer", "maximum": 3}, "4", "greater than the maximum"),
        ({"type": "string", "pattern": "^[a-z]+$"}, "ABC", "does not match"),
        ({"type": "array", "items": {"type": "integer"}}, '["a"]', "is not of type 'integer'"),
        ({"type": "array"}, "[1, 2", "This is not JSON"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(schema: Any, typed: str, words: str) -> None:
    field = field_for("x", schema)
    field.control.value = typed
    with pytest.raises(ValueError, match=words):
        field.read()


def test_what_the_model_left_out_stays_left_out() -> None:
    schemas: list[Any] = [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"enum": ["a"]}, {}]
    for schema in [*schemas, {"type": "string", "format": "date"}]:
        assert field_for("x", schema).read() is MISSING


def test_what_is_required_is_there_or_asked_for() -> None:
    assert field_for("x", {"type": "string"}, required=True).read() == ""
    assert field_for("x", {"enum": ["a", "b"]}, required=True).read() == "a"
    assert field_for("x", {"type": "boolean"}, required=True).read() is False
    with pytest.raises(ValueError, match="required"):
        field_for("x", {"type": "integer"}, required=True).read()


def test_an_emptied_optional_field_is_left_out() -> None:
    field = field_for("x", {"type": "string"}, "Oslo")
    field.control.value = ""
    assert field.read() is MISSING


def test_null_stays_null_where_it_is_allowed_and_is_refused_where_not() -> None:
    assert field_for("x", {"type": ["integer", "null"]}, None).read() is None
    with pytest.raises(ValueError, match="is not of type"):
        field_for("x", {"type": "integer"}, None).read()


def test_long_texts_get_several_lines() -> None:
    assert field_for("x", {"type": "string"}, "one\ntwo").control._model_name == "TextareaModel"


def test_a_broken_schema_does_not_stand_in_the_way() -> None:
    field = field_for("x", {"type": "string", "pattern": "["}, "Oslo")
    assert field.read() == "Oslo"


def test_users_can_teach_it_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    class ColourField(TextField):
        @classmethod
        def knows(cls, schema: Any, value: Any) -> bool:
            return bool(schema.get("format") == "colour")

    monkeypatch.setattr("nbruns.widgets.fields.FIELDS", [ColourField, *FIELDS])
    assert type(field_for("x", {"type": "string", "format": "colour"}, "red")) is ColourField
