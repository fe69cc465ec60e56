"""Values made from JSON schemas are valid under them, the same every time, and use what the user said."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry

from nbruns.demo.example import example

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "children", "next"],
        }
    },
}
VEHICLES = {
    "type": "object",
    "properties": {"kind": {"enum": ["car", "boat"]}},
    "required": ["kind"],
    "oneOf": [
        {
            "properties": {"kind": {"const": "boat"}, "sails": {"type": "integer", "minimum": 1}},
            "required": ["sails"],
        },
        {"properties": {"kind": {"const": "car"}, "wheels": {"enum": [3, 4]}}, "required": ["wheels"]},
    ],
}


def one(**schema: Any) -> dict[str, Any]:
    """An object with one required property of this schema."""
    return {"type": "object", "properties": {"it": schema}, "required": ["it"], "additionalProperties": False}


SCHEMAS: dict[str, Any] = {
    "anything": True,
    "no type at all": {},
    "empty object": {"type": "object", "properties": {}, "additionalProperties": False},
    "properties without a type": {"properties": {"a": {"minimum": 3}}, "required": ["a"]},
    "required but not declared": {"type": "object", "required": ["a", "b"]},
    "property of no type": one(description="anything"),
    "nullable": one(type=["null", "string"], minLength=2),
    "only null": one(type="null"),
    "boolean": one(type="boolean"),
    "boolean that must be false": one(type="boolean", const=False),
    "enum of mixed types": one(enum=[None, 3, "x", {"y": []}]),
    "enum cut by a type": one(enum=["a", 7], type="integer"),
    "const object": one(const={"deep": [1, None]}),
    "default that is not valid": one(type="integer", default="seven"),
    "examples of which one is valid": one(type="string", examples=[3, "yes"], pattern="^y"),
    "between": one(type="integer", minimum=10, maximum=11),
    "exclusive": one(type="number", exclusiveMinimum=0, exclusiveMaximum=0.1),
    "integer between fractions": one(type="integer", exclusiveMinimum=2.5, exclusiveMaximum=3.5),
    "below zero": one(type="integer", maximum=-5),
    "multiple": one(type="integer", multipleOf=7, minimum=50),
    "small steps": one(type="number", multipleOf=0.25, minimum=0.3),
    "multiple below": one(type="integer", multipleOf=6, maximum=-7),
    "huge": one(type="integer", minimum=10**30),
    "long": one(type="string", minLength=64),
    "short": one(type="string", maxLength=1),
    "empty string": one(type="string", maxLength=0),
    "exact length": one(type="string", minLength=3, maxLength=3),
    "pattern": one(type="string", pattern=r"^[A-Z]{3}-\d{4}$"),
    "pattern with alternatives": one(type="string", pattern="^(north|south)-(east|west)$"),
    "pattern and length": one(type="string", pattern="^[a-z]+$", minLength=9, maxLength=12),
    "pattern of many": one(type="string", pattern="^[ab]{200}$"),
    "pattern not anchored": one(type="string", pattern=r"\d"),
    "negated class": one(type="string", pattern=r"^[^a-zA-Z\s]{2}$"),
    "look-ahead": one(type="string", pattern=r"^(?=.*\d)[a-z\d]{4,}$", examples=["abc1"]),
    "pattern of a date": one(type="string", pattern=r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$"),
    "phone": one(type="string", pattern=r"^\+?[1-9]\d{6,14}$"),
    **{
        f"format {name}": one(type="string", format=name)
        for name in ("date", "date-time", "time", "email", "uuid")
    },
    **{
        f"format {name}": one(type="string", format=name)
        for name in ("ipv4", "ipv6", "uri", "hostname", "regex")
    },
    "array": one(type="array", items={"type": "integer"}),
    "array of nothing in particular": one(type="array"),
    "array that must be empty": one(type="array", maxItems=0),
    "three of them": one(type="array", items={"type": "string"}, minItems=3),
    "unique strings": one(type="array", items={"type": "string"}, minItems=3, uniqueItems=True),
    "unique members": one(type="array", items={"enum": ["a", "b", "c"]}, minItems=3, uniqueItems=True),
    "unique integers": one(
        type="array", items={"type": "integer", "minimum": 5}, minItems=4, uniqueItems=True
    ),
    "tuple": one(type="array", prefixItems=[{"type": "string"}, {"type": "number"}], items=False),
    "contains": one(type="array", items={"type": "integer"}, contains={"const": 42}),
    "matrix": one(
        type="array", minItems=2, items={"type": "array", "minItems": 2, "items": {"type": "number"}}
    ),
    "map": one(type="object", additionalProperties={"type": "integer"}, minProperties=2),
    "at least one of the optional": one(
        type="object", properties={"a": {}, "b": {"type": "null"}}, minProperties=1
    ),
    "dependent": one(
        type="object", properties={"a": {"type": "string"}}, required=["a"], dependentRequired={"a": ["b"]}
    ),
    "anyOf": one(anyOf=[{"type": "integer", "minimum": 3}, {"type": "string"}]),
    "anyOf beside a type": {
        "type": "object",
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        "properties": {},
    },
    "anyOf of which one is impossible": one(anyOf=[False, {"type": "string"}]),
    "oneOf": VEHICLES,
    "oneOf that overlap": one(oneOf=[{"type": "integer"}, {"type": "integer", "minimum": 5}]),
    "allOf": one(allOf=[{"type": "integer", "minimum": 3}, {"minimum": 80}]),
    "allOf of which one is no more than true": one(allOf=[True, {"type": "integer", "minimum": 3}]),
    "allOf of objects": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]},
        ]
    },
    "not": one(type="integer", **{"not": {"enum": [0, 1]}}),
    "if and then": {
        "type": "object",
        "properties": {"a": {"const": 1}},
        "required": ["a"],
        "if": {"properties": {"a": {"const": 1}}},
        "then": {"required": ["b"]},
        "else": {"required": ["c"]},
    },
    "reference": {**one(**{"$ref": "#/$defs/short"}), "$defs": {"short": {"type": "string", "maxLength": 2}}},
    "reference to a reference": {
        **one(**{"$ref": "#/$defs/a"}),
        "$defs": {"a": {"$ref": "#/$defs/b~1c"}, "b/c": {"type": "integer", "minimum": 9}},
    },
    "reference with a description": {
        **one(**{"$ref": "#/definitions/d", "description": "a day"}),
        "definitions": {"d": {"type": "string", "format": "date"}},
    },
    "recursion": TREE,
    "recursion through the root": {"type": "object", "properties": {"me": {"$ref": "#"}}},
    "draft 4": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        **one(type="integer", minimum=3, exclusiveMinimum=True),
    },
    "draft 7 tuple": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **one(type="array", items=[{"type": "string"}, {"type": "null"}], additionalItems=False),
    },
    "unknown keywords": one(type="string", **{"x-nullable": True, "nullable": "perhaps", "$comment": "hm"}),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_values_are_valid(name: str) -> None:
    schema = SCHEMAS[name]
    draft = Draft202012Validator
    if isinstance(schema, dict) and "$schema" in schema:
        from jsonschema.validators import validator_for

        draft = validator_for(schema)
    value = example(schema, ["Compare 17 things in Oslo"])
    draft(schema, registry=Registry(), format_checker=draft.FORMAT_CHECKER).validate(value)
    assert json.loads(json.dumps(value)) == value


HOSTILE: dict[str, Any] = {
    "not a schema": {"type": 7},
    "properties that are none": {"type": "object", "properties": []},
    "no such reference": one(**{"$ref": "#/$defs/missing"}),
    "a reference elsewhere": one(**{"$ref": "http://127.0.0.1:9/schema.json"}),
    "a reference to itself": {"$ref": "#"},
    "a circle of references": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    },
    "endless": {"$defs": {"a": one(**{"$ref": "#/$defs/a"})}, "$ref": "#/$defs/a"},
    "endless and wide": {
        "$defs": {
            "a": {
                "type": "object",
                "required": list("abcdefgh"),
                "additionalProperties": {"$ref": "#/$defs/a"},
            }
        },
        "$ref": "#/$defs/a",
    },
    "nothing is valid": False,
    "a contradiction": one(type="integer", minimum=5, maximum=4),
    "a pattern that is none": one(type="string", pattern="(["),
    "a pattern of another dialect": one(type="string", pattern=r"^\p{Lu}+$"),
    "a pattern that wants too much": one(type="string", pattern="^(a{1000}){1000}$"),
    "too many items": one(type="array", items={"type": "string"}, minItems=10**9),
    "too long a string": one(type="string", minLength=10**12),
    "too many properties": one(type="object", minProperties=10**9),
    "infinite": one(type="number", minimum=1e308, multipleOf=1e-300),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_get_a_small_value_soon(name: str) -> None:
    assert len(json.dumps(example(HOSTILE[name], ["Oslo"]))) < 100_000


S = {"type": "string"}
STRINGS = {"type": "array", "items": S}
INTEGERS = {"type": "array", "items": {"type": "integer"}}
SAID: list[tuple[str, dict[str, Any], Any]] = [
    ("What should I wear in Oslo?", {"city": S}, {"city": "Oslo"}),
    ("weather in oslo please", {"city": S}, {"city": "oslo"}),
    ("Is New York warmer?", {"location": S}, {"location": "New York"}),
    ("Tell Ada about Bergen", {"where": {"type": "string", "description": "a place"}}, {"where": "Bergen"}),
    ("From Oslo to Bergen", {"origin": S, "destination": S}, {"origin": "Oslo", "destination": "Bergen"}),
    ("What is 17 times 24.5?", {"a": {"type": "number"}, "b": {"type": "number"}}, {"a": 17, "b": 24.5}),
    ("Round 2.5 to 3 digits", {"digits": {"type": "integer"}}, {"digits": 3}),
    ("On 2026-12-24, please", {"on": {"type": "string", "format": "date"}}, {"on": "2026-12-24"}),
    ("Meet tomorrow", {"date": S}, {"date": "tomorrow"}),
    ('Find "the red balloon"', {"title": S}, {"title": "the red balloon"}),
    ("Write to bo@example.org.", {"toEmail": S}, {"toEmail": "bo@example.org"}),
    ("Read https://example.org/a?b=1.", {"url": S}, {"url": "https://example.org/a?b=1"}),
    ("Where is order 4711?", {"order_id": S}, {"order_id": "4711"}),
    ("In fahrenheit", {"unit": {"enum": ["celsius", "fahrenheit"]}}, {"unit": "fahrenheit"}),
    ("Oslo, Bergen and Tromsø", {"cities": STRINGS}, {"cities": ["Oslo", "Bergen", "Tromsø"]}),
    ("Oslo, then Rome", {"stops": {**STRINGS, "description": "the cities"}}, {"stops": ["Oslo", "Rome"]}),
    ("Please write to Ada Lovelace", {"recipient": S}, {"recipient": "Ada Lovelace"}),
    ("Mean of 3, 4 and 5", {"values": INTEGERS}, {"values": [3, 4, 5]}),
    ("cats and dogs", {"query": S}, {"query": "cats and dogs"}),
    ("Weather in Oslo", {"city": {"type": "string", "default": "Paris"}}, {"city": "Oslo"}),
    ("Hello", {"city": {"type": "string", "default": "Paris"}}, {"city": "Paris"}),
    ("When is high tide in Bergen?", {"harbour": S}, {"harbour": "Bergen"}),
    ("When is high tide?", {"harbour": S}, {"harbour": "Oslo"}),
    ("Hello", {"colour": S}, {"colour": "some colour"}),
    ("Hello", {"city": {**S, "description": "City and state, e.g. San Francisco, CA"}}, {"city": "San Francisco, CA"}),
    ("Hello", {"ticker": {**S, "description": "Such as 'ACME' or 'INIT'."}}, {"ticker": "ACME"}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "properties", "expected"), SAID)
def test_arguments_use_what_the_user_said(message: str, properties: dict[str, Any], expected: Any) -> None:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    assert example(schema, [message]) == expected


def test_optional_parameters_are_filled_in_only_where_the_user_said_something() -> None:
    nullable = {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": nullable}}
    assert example(schema, ["hello"]) == {}
    assert example(schema, ["3 days in Oslo"]) == {"city": "Oslo", "days": 3}


def test_the_latest_message_goes_first_and_earlier_ones_fill_in() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    assert example(schema, ["And in Bergen?", "Weather in Oslo"]) == {"city": "Bergen"}
    assert example(schema, ["And tomorrow?", "Weather in Oslo"]) == {"city": "Oslo"}


def test_recursion_ends_where_it_may() -> None:
    assert len(json.dumps(example(TREE))) < 500


def test_a_description_beside_a_reference_goes_before_the_one_behind_it() -> None:
    defs = {"word": {"type": "string", "description": "a person"}}
    schema = {**one(**{"$ref": "#/$defs/word", "description": "a town"}), "$defs": defs}
    assert example(schema, ["Let Ada come to Bergen"]) == {"it": "Bergen"}


def test_nothing_is_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        example(one(**{"$ref": url}))
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_values_do_not_depend_on_the_process() -> None:
    said = ["17 in Oslo"]
    here = [example(schema, said) for schema in SCHEMAS.values()]
    program = (
        "import json, sys; from nbruns.demo.example import example; schemas, said = json.load(sys.stdin);"
        "print(json.dumps([example(schema, said) for schema in schemas]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([list(SCHEMAS.values()), said]),
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == here
