"""From schema to field, and back to the value."""

from __future__ import annotations

import datetime
import json
from typing import Any

import ipywidgets
import pytest

from nbruns.widgets.form.field import Field, FieldSpec
from nbruns.widgets.form.fields import FIELDS, MISSING, field_for
from nbruns.widgets.form.group_fields import AlternativesField, ListField, MapField, ObjectField
from nbruns.widgets.form.scalar_fields import (
    BooleanField,
    ChoiceField,
    DateField,
    IntegerField,
    JSONField,
    NumberField,
    TextField,
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
        ({"type": "string", "format": "date-time"}, "2026-11-21T09:00:00Z", TextField),
        ({"type": "integer"}, 3, IntegerField),
        ({"type": "integer"}, 3.5, JSONField),
        ({"type": "integer"}, True, JSONField),
        ({"type": "number"}, 3, NumberField),
        ({"type": "number"}, 3.5, NumberField),
        ({"type": "boolean"}, False, BooleanField),
        ({"enum": ["a", 1, None, [2]]}, [2], ChoiceField),
        ({"enum": ["a", 1]}, "b", JSONField),
        ({"type": "string", "format": "date"}, "2026-08-26", DateField),
        ({"type": "string", "format": "date"}, 26, JSONField),
        ({"enum": [1, 0]}, True, JSONField),
        ({"const": "only"}, "only", ChoiceField),
        ({"type": ["string", "null"]}, "x", TextField),
        ({"type": ["string", "null"]}, None, TextField),
        ({"type": ["string", "integer"]}, "x", AlternativesField),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}, 3, IntegerField),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 3, AlternativesField),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, [3], JSONField),
        ({"$ref": "#/$defs/Unit"}, "C", ChoiceField),
        ({"anyOf": [{"$ref": "#/$defs/Deep"}, {"type": "null"}]}, 3, IntegerField),
        ({"$ref": "#/$defs/Node"}, {}, JSONField),
        ({"$ref": "#/$defs/None"}, {}, JSONField),
        ({"$ref": "https://evil.example/schema.json"}, {}, JSONField),
        ({"type": "array", "items": {"type": "string"}}, ["a"], ListField),
        ({"type": "array", "items": {"type": "string"}}, "a", JSONField),
        ({"type": "array"}, ["a"], JSONField),
        ({"items": {"type": "string"}}, ["a"], ListField),
        ({"properties": {"a": {"type": "integer"}}}, {"a": 1}, ObjectField),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"a": 1}, MapField),
        ({"enum": ["x" * n for n in range(500)], "type": "string"}, "xx", TextField),
        ({"type": "string"}, "half a pair \ud800", JSONField),
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
        ({"type": "boolean"}, 0, True),
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
        ({"type": "integer"}, "4.5", "Not a whole number"),
        ({"type": "number"}, "many", "Not a number"),
        ({"type": "number"}, "nan", "Not a number"),
        ({"type": "integer", "maximum": 3}, "4", "at most 3"),
        ({"type": "string", "pattern": "^[a-z]+$"}, "ABC", "Must match the pattern"),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}]},
            '["a"]',
            "0: Must be a whole number",
        ),
        ({"type": "array"}, "[1, 2", "Not valid JSON"),
        ({"type": "array"}, "[" * 100_000, "Nested too deeply"),
        (
            {"type": "string", "format": "date-time"},
            "soon",
            "Not a valid date-time. Example: 2026-08-26T09:30:00Z",
        ),
        ({"type": "integer"}, "9" * 5_000, "Not a whole number"),
        ({"type": "number"}, "1e999", "Not a number"),
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


def test_what_is_required_is_asked_for() -> None:
    kinds: list[Any] = [{"type": "string"}, {"items": {"type": "string"}}, {"enum": ["a", "b"]}, {}]
    scalars = [{"type": name} for name in ("boolean", "integer", "number")]
    for schema in [*kinds, *scalars, {"type": "string", "format": "date"}]:
        field = field_for("x", schema, required=True)
        with pytest.raises(ValueError, match="Required"):
            field.read()
        assert 'role="alert"' in field._note.value


def test_an_emptied_text_is_empty_where_it_is_required() -> None:
    field = field_for("x", {"type": "string"}, required=True)
    field.control.value = "a"
    field.control.value = ""
    assert (field.read(), field.control.placeholder) == ("", "empty string")


def test_an_emptied_optional_field_is_left_out() -> None:
    field = field_for("x", {"type": "string"}, "Oslo")
    field.control.value = ""
    assert field.read() is MISSING


def test_null_stays_null_where_it_is_allowed_and_is_refused_where_not() -> None:
    assert field_for("x", {"type": ["integer", "null"]}, None).read() is None
    with pytest.raises(ValueError, match="Must be a whole number"):
        field_for("x", {"type": "integer"}, None).read()


STRICT = {"type": ["string", "null"]}


@pytest.mark.parametrize(
    ("schema", "given", "required", "shown", "value"),
    [
        ({"type": "string"}, MISSING, False, "not sent", MISSING),
        ({"type": "string", "default": "C"}, MISSING, False, "default: C", MISSING),
        ({"type": "string", "default": "C"}, "C", False, "", "C"),
        ({"type": "string"}, "", False, "empty string", ""),
        (STRICT, MISSING, True, "null", None),
        (STRICT, None, True, "null", None),
        ({**STRICT, "default": None}, MISSING, False, "default: null", MISSING),
        ({**STRICT, "default": "x"}, None, False, "null", None),
        ({"type": "integer", "default": 3}, MISSING, False, "default: 3", MISSING),
        ({"type": "integer", "default": "three"}, MISSING, False, "default: three", MISSING),
        ({"type": "object", "default": {"a": 1}}, MISSING, False, 'default: {"a": 1}', MISSING),
    ],
)
def test_what_is_sent_what_is_not_and_a_default_look_different(
    schema: Any, given: Any, required: bool, shown: str, value: Any
) -> None:
    field = field_for("x", schema, given, required=required)
    assert (field.control.value or field.control.placeholder) == (shown or given)
    assert field.read() == value and type(field.read()) is type(value)


@pytest.mark.parametrize("kind", [{"enum": ["a", "b"]}, {"type": "boolean"}])
def test_choices_say_what_is_sent_too(kind: Any) -> None:
    def words(field: Field) -> str:
        return str(field.control.label)

    default = (kind.get("enum") or [True])[0]
    assert words(field_for("x", kind)) == "not sent"
    assert words(field_for("x", {**kind, "default": default})) == f"default: {json.dumps(default)}".replace(
        '"', ""
    )
    assert words(field_for("x", kind, required=True)) == "Choose…"
    assert words(field_for("x", kind, default)) == json.dumps(default).strip('"')
    null = field_for("x", {"anyOf": [kind, {"type": "null"}]}, None)
    assert (words(null), null.read()) == ("null", None)
    left_out = field_for("x", kind, default)
    left_out.control.value = -1
    assert left_out.read() is MISSING


def test_an_edited_null_can_be_left_out() -> None:
    field = field_for("x", {"type": "integer"}, None)  # what models send, though it is not allowed
    field.control.value = "3"
    assert field.read() == 3
    field.control.value = ""
    assert (field.read(), field.control.placeholder) == (MISSING, "not sent")


def test_what_is_said_of_a_value_stands_at_its_field() -> None:
    schema = {"type": "string", "format": "date-time", "description": "When it <b>begins</b>."}
    field = field_for("x", schema)
    assert "When it &lt;b&gt;begins&lt;/b&gt;. Example: 2026-08-26T09:30:00Z" in field._note.value
    field.control.value = "soon"
    with pytest.raises(ValueError):
        field.read()
    assert "When it" in field._note.value and "Not a valid date-time" in field._note.value
    field.control.value = "2026-08-26T09:30:00+02:00"
    assert "Not a valid" not in field._note.value
    assert field.read() == "2026-08-26T09:30:00+02:00"


def test_a_calendar_says_its_default_at_its_label() -> None:
    field = field_for("day", {"type": "string", "format": "date", "default": "2026-08-26"})
    assert "2026-08-26" in field.control.description
    assert field.read() is MISSING


def test_a_day_that_is_none_is_shown_as_it_came_and_can_be_mended() -> None:
    field = field_for("day", {"type": "string", "format": "date"}, "soon")
    assert (type(field), field.control.value) == (TextField, "soon")
    with pytest.raises(ValueError, match=r"Not a date\. Use YYYY-MM-DD, for example 2026-08-26"):
        field.read()
    field.control.value = "2026-08-27"
    assert field.read() == "2026-08-27"


def test_long_texts_get_several_lines() -> None:
    assert field_for("x", {"type": "string"}, "one\ntwo").control._model_name == "TextareaModel"


def test_a_broken_schema_does_not_stand_in_the_way() -> None:
    field = field_for("x", {"type": "string", "pattern": "["}, "Oslo")
    assert field.read() == "Oslo"


def test_users_can_teach_it_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    class ColourField(TextField):
        @classmethod
        def knows(cls, spec: FieldSpec) -> bool:
            return bool(spec.schema.get("format") == "colour")

    monkeypatch.setattr("nbruns.widgets.form.fields.FIELDS", [ColourField, *FIELDS])
    assert type(field_for("x", {"type": "string", "format": "colour"}, "red")) is ColourField

    class Slider(Field):
        """What it shows is the value."""

        json_type, python_types = "integer", (int,)

        def make(self, value: Any) -> Any:
            return ipywidgets.IntSlider(0 if value is MISSING else value)

    monkeypatch.setattr("nbruns.widgets.form.fields.FIELDS", [Slider, *FIELDS])
    field = field_for("x", {"type": "integer"}, 3)
    assert (type(field), field.read()) == (Slider, 3)
    field.control.value = 5
    assert field.read() == 5


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("$filter", "$filter"),
        ("$a$", "＄a＄"),
        (r"\(x\)", r"＼(x\)"),
        (r"\begin{x}", r"＼begin{x}"),
        ("a\ud800", r"a\ud800"),
        ("x" * 500, "x" * 79 + "…"),
    ],
)
def test_a_label_is_never_set_as_tex_and_can_be_sent(name: str, label: str) -> None:
    assert field_for(name, {"type": "string"}, required=True).control.description == label


@pytest.mark.parametrize("value", ["Oslo", "3", "true", '"x"', "{", "", " ", "a\nb", 3, 2.5, True])
def test_a_value_of_any_kind_comes_back_even_where_its_text_looks_like_another(value: Any) -> None:
    rows = field_for("x", {"type": "array", "items": {}}, [value])
    (field,) = [field for _, field in rows.fields()]
    assert type(field).__name__ == "AnyField"
    text = field.control.value
    field.control.value = "something else"
    field.control.value = text
    assert rows.read() == [value]
    assert type(rows.read()[0]) is type(value)
