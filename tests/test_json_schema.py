"""Validation against schemas that come from anywhere."""

from __future__ import annotations

import time
from typing import Any

import pytest

from nbruns.json_schema import FORMATS, MOST, check_schema, problems


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ({"type": "integer"}, "3", "Must be a whole number."),
        ({"type": ["string", "null"]}, 3, "Must be a text or null."),
        ({"enum": ["a", 1, None]}, "b", "Must be one of a, 1, None."),
        ({"const": 5}, 6, "Must be 5."),
        ({"minimum": 1}, 0, "Must be at least 1."),
        ({"exclusiveMaximum": 1}, 1, "Must be less than 1."),
        ({"multipleOf": 5}, 6, "Must be a multiple of 5."),
        ({"pattern": "^[a-z]+$"}, "ABC", "Must match the pattern ^[a-z]+$"),
        ({"minLength": 2}, "a", "Must have at least 2 characters, has 1."),
        ({"maxItems": 1}, [1, 2], "Must have at most 1 items, has 2."),
        ({"uniqueItems": True}, [1, 1], "Items must be unique."),
        ({"required": ["a", "b"]}, {"a": 1}, "b: Required."),
        ({"properties": {"a": {"items": {"type": "null"}}}}, {"a": [1]}, "a.0: Must be null."),
        ({"anyOf": [{"type": "integer", "maximum": 3}, {"type": "null"}]}, 4, "Must be at most 3."),
        (
            {"additionalProperties": False, "properties": {"a": {}}},
            {"b": 1},
            "b: Unknown property: remove it.",
        ),
        ({"not": {"const": 1}}, 1, "1 should not be valid under {'const': 1}"),
    ],
)
def test_what_does_not_fit_is_said_in_words_at_its_place(schema: Any, value: Any, said: str) -> None:
    assert [str(problem) for problem in problems(value, schema)] == [said]


@pytest.mark.parametrize(
    "name", ["date", "time", "date-time", "duration", "email", "idn-email", "uri", "uuid", "ipv4", "ipv6"]
)
def test_formats_are_checked(name: str) -> None:
    schema = {"type": "string", "format": name}
    assert problems(FORMATS[name], schema) == []
    assert problems(5, {"format": name}) == []  # a format is for texts
    text = f"Not a valid {name}. Example: {FORMATS[name]}"
    if name == "date":
        text = "Not a date. Use YYYY-MM-DD, for example 2026-08-26."
    for wrong in ("", "soon"):
        assert [problem.words for problem in problems(wrong, schema)] == [text]


@pytest.mark.parametrize(
    ("name", "text", "fits"),
    [
        ("date-time", "2026-08-26T09:30:00+02:00", True),
        ("date-time", "2026-08-26T09:30:00", False),  # of which zone?
        ("date-time", "2026-08-26 09:30:00Z", False),
        ("date-time", "2026-02-30T09:30:00Z", False),
        ("date", "2026-02-29", False),
        ("duration", "PT", False),
        ("duration", "P1W", True),
        ("uri", "https://example.org/a b", False),
        ("unknown", "anything", True),
        ("regex", "[", True),
    ],
)
def test_formats_are_those_of_the_specification(name: str, text: str, fits: bool) -> None:
    assert (problems(text, {"format": name}) == []) is fits


SELF = {"$ref": "#"}
DEEP: dict[str, Any] = {}
for _ in range(5_000):
    DEEP = {"properties": {"a": DEEP}}


@pytest.mark.parametrize(
    "schema",
    [
        SELF,
        DEEP,
        {"$ref": "#/$defs/none"},
        {"$ref": "https://127.0.0.1:1/schema.json"},
        {"$dynamicRef": "#x"},
        {"type": 5},
        {"minimum": "x"},
        {"required": 5},
        {"required": [5]},
        {"properties": 5},
        {"enum": 5},
        {"anyOf": {}},
        {"pattern": "["},
        {"pattern": "(?!x)y"},
        {"patternProperties": {"(a+)+$": {"type": "null"}}},
        {"$schema": "http://evil.example/"},
    ],
    ids=lambda schema: "deep" if schema is DEEP else str(schema)[:40],
)
def test_what_is_no_schema_or_can_not_be_checked_stands_in_nobodys_way(schema: Any) -> None:
    for value in ({"a": {"a": 1}}, "x", 5, [1], None):
        assert isinstance(problems(value, schema), list)


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: asked.append(a) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: asked.append(address))
    for key in ("$ref", "$dynamicRef", "$schema"):
        problems({}, {key: "http://evil.example/schema.json"})
    assert asked == []


def test_a_pattern_can_not_stall() -> None:
    for schema in ({"pattern": "^(a+)+$"}, {"properties": {"x": {"pattern": r"(x+x+)+y"}}}):
        value = "a" * 5_000 + "!"
        began = time.process_time()
        problems(value if "pattern" in schema else {"x": "x" * 5_000}, schema)
        assert time.process_time() - began < 20  # a backtracking engine would outlive the sun


def test_names_that_only_a_pattern_could_tell_are_let_through() -> None:
    closed = {"additionalProperties": False, "properties": {"a": {"type": "integer"}}}
    patterned = {**closed, "patternProperties": {"^x-": {}}}
    for name in ("x-b", "b"):
        (problem,) = problems({"a": "1", name: 1}, patterned)
        assert str(problem) == "a: Must be a whole number."


def test_only_so_many_problems_are_told() -> None:
    assert len(problems([None] * 1000, {"items": {"type": "integer"}})) == MOST


def test_long_words_are_cut() -> None:
    (problem,) = problems("b", {"enum": ["a" * 10_000]})
    assert len(problem.words) <= 200


def test_a_schema_is_checked_when_it_is_given() -> None:
    check_schema({"type": "object"})
    with pytest.raises(ValueError, match="Not a JSON Schema: 'what' is not valid"):
        check_schema({"type": "what"})
