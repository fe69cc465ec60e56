"""Fields that hold fields: what is inside is read, added, removed, left out and told off."""

from __future__ import annotations

from typing import Any

import pytest
from sent import Sent

from nbruns.widgets.form.field import MAX_FIELDS, Field
from nbruns.widgets.form.fields import MISSING, field_for
from nbruns.widgets.form.group_fields import MAX_ROWS, AlternativesField, ListField, MapField, ObjectField
from nbruns.widgets.form.scalar_fields import IntegerField, JSONField, TextField

PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "floor": {"type": "integer", "default": 0}},
    "required": ["city"],
}


def told(field: Field) -> bool:
    """Whether the field says that something is wrong."""
    return 'role="alert"' in field._note.value


def test_an_object_is_read_from_its_fields() -> None:
    field = field_for("place", PLACE, {"more": [1], "city": "Oslo"}, required=True)
    assert isinstance(field, ObjectField)
    assert list(field.children) == ["city", "floor", "more"]
    assert field.read() == {"more": [1], "city": "Oslo"}
    assert list(field.read()) == ["more", "city"]  # in the order in which they were given
    field.children["floor"].control.value = "3"
    field.children["more"].control.value = ""
    assert field.read() == {"city": "Oslo", "floor": 3}
    assert field.edited


def test_an_object_that_may_be_left_out_says_whether_it_is_sent() -> None:
    field = field_for("place", PLACE)
    assert isinstance(field, ObjectField)
    assert field.read() is MISSING and field.fields() == []
    assert field._sent.description == "Send a value (otherwise: not sent)"
    field._sent.value = True
    field.children["city"].control.value = "Oslo"
    assert field.read() == {"city": "Oslo"}
    field._sent.value = False
    assert field.read() is MISSING
    field._sent.value = True
    assert field.read() == {"city": "Oslo"}  # what was typed is still there


def test_an_object_begins_with_its_default() -> None:
    field = field_for("place", {**PLACE, "default": {"city": "Oslo"}})
    assert "otherwise: default: {&quot;" not in field._sent.description  # it is text, not HTML
    assert field._sent.description == 'Send a value (otherwise: default: {"city": "Oslo"})'
    field._sent.value = True
    assert field.read() == {"city": "Oslo"}


def test_a_null_object_stays_null_until_it_is_sent() -> None:
    schema = {"anyOf": [PLACE, {"type": "null"}]}
    for required in (True, False):
        field = field_for("place", schema, None, required=required)
        assert isinstance(field, ObjectField)
        assert field.read() is None
        field._sent.value = True
        field.children["city"].control.value = "Oslo"
        assert field.read() == {"city": "Oslo"}


def test_everything_that_is_wrong_is_said_at_its_place() -> None:
    schema = {
        "type": "object",
        "properties": {"place": PLACE, "stops": {"type": "array", "items": PLACE, "minItems": 2}},
        "required": ["place", "stops"],
    }
    field = field_for(
        "", schema, {"place": {"city": "Oslo"}, "stops": [{"city": "x", "floor": 1}]}, required=True
    )
    assert isinstance(field, ObjectField)
    place, stops = field.children["place"], field.children["stops"]
    assert isinstance(place, ObjectField) and isinstance(stops, ListField)
    with pytest.raises(ValueError, match="stops: Must have at least 2 items, has 1"):
        field.read()
    assert told(stops) and not told(place)
    floors = [place.children["floor"], stops.rows[0][0].children["floor"]]
    for floor in floors:
        floor.control.value = "high"
    with pytest.raises(ValueError, match=r"place: floor: .*Not a whole number.*; stops: 0: floor: "):
        field.read()
    assert all(map(told, floors))
    floors[0].control.value = floors[1].control.value = "1"
    assert not any(map(told, floors))


def test_an_error_deep_inside_is_said_there() -> None:
    limited = {
        "type": "array",
        "items": {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}},
    }
    field = field_for("list", limited, [{"n": 1}, {"n": 2}], required=True)
    field.rows[1][0].children["n"].control.value = "4"
    with pytest.raises(ValueError, match=r"^1\.n: Must be at most 3\.$"):
        field.read()
    assert told(field.rows[1][0].children["n"])
    assert not told(field.rows[0][0].children["n"]) and not told(field)


def test_rows_come_and_go(sent: Sent) -> None:
    field = field_for("numbers", {"type": "array", "items": {"type": "integer"}}, [1, 2, 3], required=True)
    assert isinstance(field, ListField)
    field._add.click()
    field.rows[3][0].control.value = "4"
    assert field.read() == [1, 2, 3, 4]
    closed = field.rows[1][0].control.comm.comm_id
    field.rows[1][1].children[1].click()
    assert field.read() == [1, 3, 4]
    assert [row.control.description for row, _ in field.rows] == ["numbers 1", "numbers 2", "numbers 3"]
    assert [line.children[1].tooltip for _, line in field.rows][1] == "Remove numbers 2"
    assert closed in [message["comm_id"] for message in sent if message["type"] == "comm_close"]
    for _ in range(3):
        field.rows[0][1].children[1].click()
    assert field.read() == []
    for _ in range(MAX_ROWS + 5):
        field._add.click()
    assert field._add.disabled


def test_lists_of_objects_and_of_lists() -> None:
    field = field_for("stops", {"type": "array", "items": PLACE}, [], required=True)
    field._add.click()
    with pytest.raises(ValueError):  # a row without a city is no place; an empty text is one
        field.rows[0][0].children["floor"].control.value = "x"
        field.read()
    field.rows[0][0].children["floor"].control.value = ""
    field.rows[0][0].children["city"].control.value = "Oslo"
    assert field.read() == [{"city": "Oslo"}]
    matrix = field_for("m", {"items": {"items": {"type": "integer"}}}, [[1], [2, 3]], required=True)
    matrix.rows[0][0]._add.click()
    matrix.rows[0][0].rows[1][0].control.value = "9"
    assert matrix.read() == [[1, 9], [2, 3]]


def test_any_names() -> None:
    field = field_for("ages", {"type": "object", "additionalProperties": {"type": "integer"}}, {"Ada": 36})
    assert isinstance(field, MapField)
    assert field.read() == {"Ada": 36}
    field._add.click()
    row = field.rows[1][0].children
    row["name"].control.value, row["value"].control.value = "Ada", "7"
    with pytest.raises(ValueError, match="Duplicate name"):
        field.read()
    assert told(field.rows[1][0])
    row["name"].control.value = "Grace"
    assert field.read() == {"Ada": 36, "Grace": 7}
    row["value"].control.value = "x"
    with pytest.raises(ValueError, match="Not a whole number"):
        field.read()
    assert told(row["value"])


ROUTE = {
    "anyOf": [
        {"type": "object", "title": "Bus", "properties": {"line": {"type": "integer"}}, "required": ["line"]},
        {"type": "string"},
        {"type": "null"},
    ]
}


def test_one_of_several_kinds() -> None:
    field = field_for("route", ROUTE, "by foot", required=True)
    assert isinstance(field, AlternativesField)
    assert [name for name, _ in field._kind.options] == ["Bus", "a text"]
    assert isinstance(field.chosen, TextField)
    assert field.read() == "by foot"
    field._kind.value = 0
    field.chosen.children["line"].control.value = "31"
    assert field.read() == {"line": 31}
    field._kind.value = 1
    assert field.read() == "by foot"  # what was typed is still there
    field._sent.value = False
    assert field.read() is None


def test_what_is_wrong_in_the_chosen_kind_is_said_there() -> None:
    schema = {"oneOf": [{"type": "integer", "maximum": 3}, {"type": "string", "minLength": 2}]}
    field = field_for("x", schema, 1, required=True)
    assert isinstance(field.chosen, IntegerField)
    field.chosen.control.value = "9"
    with pytest.raises(ValueError, match="at most 3"):
        field.read()
    assert told(field) or told(field.chosen)


NODE: dict[str, Any] = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
                "parent": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
            },
            "required": ["name"],
        }
    },
    "$ref": "#/$defs/Node",
}


def test_what_refers_to_itself_goes_as_deep_as_somebody_wants() -> None:
    field = field_for("tree", NODE, {"name": "root", "children": [{"name": "leaf"}]}, required=True)
    assert field.read() == {"name": "root", "children": [{"name": "leaf"}]}
    leaf = field.children["children"].rows[0][0]
    leaf.children["children"]._sent.value = True
    leaf.children["children"]._add.click()
    leaf.children["children"].rows[0][0].children["name"].control.value = "deeper"
    assert field.read()["children"][0]["children"] == [{"name": "deeper"}]


def nested(depth: int) -> dict[str, Any]:
    return {"name": "x", "children": [nested(depth - 1)] if depth else []}


def fields_in(field: Field) -> list[Field]:
    inside = field.fields() if hasattr(field, "fields") else []
    return [field, *(inner for _, child in inside for inner in fields_in(child))]


ENDLESS: dict[str, Any] = {"type": "object", "properties": {}, "required": ["self"]}
ENDLESS["properties"] = {"self": {"$ref": "#"}}
WIDE = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(10_000)}}
DEEP: dict[str, Any] = {}
for _ in range(500):
    DEEP = {"type": "object", "properties": {"a": DEEP, "b": DEEP}, "required": ["a", "b"]}
BUSHY = {
    "$defs": {"X": {"properties": {f"p{n}": {"$ref": "#/$defs/X"} for n in range(20)}}},
    "$ref": "#/$defs/X",
}
BUSHY["$defs"]["X"]["required"] = [f"p{n}" for n in range(20)]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (ENDLESS, {}),
        (WIDE, {}),
        (WIDE, {"p7": "x"}),
        (DEEP, {}),
        (BUSHY, {}),
        (NODE, nested(50)),
        ({"items": {"type": "integer"}}, list(range(10_000))),
        ({"additionalProperties": {"type": "integer"}, "type": "object"}, {str(n): n for n in range(10_000)}),
        ({"anyOf": [{"const": [n]} for n in range(10_000)]}, [5]),
        ({"enum": [str(n) for n in range(100_000)]}, "5"),
        ({"anyOf": [{"type": "object", "properties": {"a": {"$ref": "#"}}}, {"type": "array"}]}, {}),
    ],
    ids=[
        "endless",
        "wide",
        "wide-given",
        "deep",
        "bushy",
        "nested",
        "list",
        "map",
        "kinds",
        "enum",
        "circle",
    ],
)
def test_hostile_schemas_are_bounded_and_the_value_is_kept(schema: Any, value: Any, sent: Sent) -> None:
    field = field_for("x", schema, value, required=True)
    assert len(fields_in(field)) <= MAX_FIELDS + 30
    assert len(sent) < 1_500
    if schema not in (ENDLESS, DEEP, BUSHY):
        assert field.value() == value
    field.freeze(True)


def test_beyond_the_bounds_there_is_json() -> None:
    field = field_for("x", WIDE, {"p7": "x"}, required=True)
    assert isinstance(field, JSONField)
    assert field.read() == {"p7": "x"}
    field.control.value = '{"p7": 7}'
    with pytest.raises(ValueError, match="p7: Must be a text"):
        field.read()
    assert told(field)


def test_frozen_means_all_of_it() -> None:
    schema = {"type": "object", "properties": {"stops": {"type": "array", "items": PLACE}, "route": ROUTE}}
    field = field_for("", schema, {"stops": [{"city": "Oslo"}], "route": "foot"})

    def controls(widget: Any) -> list[Any]:
        inside = [control for child in getattr(widget, "children", ()) for control in controls(child)]
        return [*([widget] if hasattr(widget, "disabled") else []), *inside]

    assert len(controls(field.widget)) > 8
    field.freeze(True)
    assert all(control.disabled for control in controls(field.widget))
    field.freeze(False)
    assert not any(control.disabled for control in controls(field.widget))


def test_what_is_wrong_with_a_value_of_any_name_stands_at_it() -> None:
    ages = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}, "minProperties": 2}
    field = field_for("ages", ages, {"Ada": 36, "Grace": 7})
    grace = field.rows[1][0].children["value"]
    grace.control.value = "-1"
    with pytest.raises(ValueError, match="Grace"):
        field.read()
    assert told(grace)
    grace.control.value = "8"
    field.rows[0][1].children[1].click()
    with pytest.raises(ValueError):
        field.read()
    assert told(field) and not told(grace)


def test_rows_of_groups_are_counted_anew_when_one_goes() -> None:
    legs = {"type": "array", "items": {"type": "object", "properties": {"to": {"type": "string"}}}}
    field = field_for("leg", legs, [{"to": "Oslo"}, {"to": "Bergen"}])
    field.rows[0][1].children[1].click()
    (row,) = [row for row, _ in field.rows]
    assert "leg 1<" in row._legend.value
    assert field.read() == [{"to": "Bergen"}]
