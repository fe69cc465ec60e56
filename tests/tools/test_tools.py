"""Functions as tools: what the model is told, what it may send, and what it gets back."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal, Optional

import jsonschema
import pydantic
import pytest

from nbruns.errors import ToolError
from nbruns.tools import Tool, as_tool, tool, tool_json


class Sky(Enum):
    CLEAR = "clear"
    RAIN = "rain"


class Place(pydantic.BaseModel):
    city: str
    country: str = "NO"


@dataclasses.dataclass
class Span:
    start: date
    days: int = 1


@tool
def get_weather(
    place: Place,
    span: Span,
    unit: Literal["celsius", "fahrenheit"] = "celsius",
    only: Optional[Sky] = None,  # noqa: UP045 (this spelling is what users write)
    stations: Annotated[list[int], pydantic.Field(description="Numbers of stations.")] = [],  # noqa: B006
    *,
    detail: float | None = 0.5,
) -> dict[str, Any]:
    """Tell the weather.

    For a place and a span of days.
    """
    return {
        "city": place.city,
        "days": span.days,
        "start": span.start,
        "unit": unit,
        "only": only,
        "stations": stations,
    }


def test_the_model_is_told_name_description_and_parameters() -> None:
    told = get_weather.to_dict()
    assert told["type"] == "function"
    assert told["function"]["name"] == "get_weather"
    assert told["function"]["description"] == "Tell the weather.\n\nFor a place and a span of days."
    assert told["function"]["parameters"] == get_weather.parameters
    jsonschema.Draft202012Validator.check_schema(get_weather.parameters)
    json.dumps(told, allow_nan=False)


def test_the_schema_is_that_of_the_signature() -> None:
    schema = get_weather.parameters
    properties = schema["properties"]
    assert list(properties) == ["place", "span", "unit", "only", "stations", "detail"]
    assert schema["required"] == ["place", "span"]
    assert properties["unit"] == {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"}
    assert properties["stations"]["items"] == {"type": "integer"}
    assert properties["stations"]["description"] == "Numbers of stations."
    assert properties["detail"]["anyOf"] == [{"type": "number"}, {"type": "null"}]
    assert schema["$defs"]["Sky"]["enum"] == ["clear", "rain"]
    assert schema["$defs"]["Place"]["required"] == ["city"]
    assert schema["$defs"]["Span"]["properties"]["start"] == {
        "format": "date",
        "title": "Start",
        "type": "string",
    }
    assert schema["additionalProperties"] is False


def test_a_function_without_parameters_or_hints_is_described_too() -> None:
    assert tool(lambda: 1, name="now").parameters == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }  # type: ignore[call-overload]
    assert as_tool(untyped).parameters["properties"] == {"anything": {}}


def untyped(anything):  # type: ignore[no-untyped-def]
    return anything


def test_arguments_arrive_as_the_types_that_the_function_names() -> None:
    got = get_weather.call(
        '{"place": {"city": "Oslo"}, "span": {"start": "2026-08-26", "days": "3"}, "only": "rain"}'
    )
    assert json.loads(got) == {
        "city": "Oslo",
        "days": 3,
        "start": "2026-08-26",
        "unit": "celsius",
        "only": "rain",
        "stations": [],
    }


def test_nested_arguments_are_objects_of_their_classes() -> None:
    seen: dict[str, Any] = {}

    def keep(place: Place, spans: list[Span], sky: Sky = Sky.CLEAR) -> None:
        seen.update(place=place, spans=spans, sky=sky)

    assert as_tool(keep).call({"place": {"city": "Oslo"}, "spans": [{"start": "2026-08-26"}]}) == "null"
    assert seen == {"place": Place(city="Oslo"), "spans": [Span(date(2026, 8, 26))], "sky": Sky.CLEAR}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('{"span": {"start": "2026-08-26"}}', "place: Field required"),
        ('{"place": {}, "span": {"start": "2026-08-26"}}', "place.city: Field required"),
        (
            '{"place": {"city": "Oslo"}, "span": {"start": "soon"}}',
            "span.start: Input should be a valid date",
        ),
        (
            '{"place": {"city": "x"}, "span": {"start": "2026-08-26"}, "unit": "kelvin"}',
            "unit: Input should be 'celsius'",
        ),
        (
            '{"place": {"city": "x"}, "span": {"start": "2026-08-26"}, "stations": [1, "b"]}',
            "stations.1: Input should be",
        ),
        (
            '{"place": {"city": "x"}, "span": {"start": "2026-08-26"}, "until": 1}',
            "until: Extra inputs are not permitted",
        ),
        ('["Oslo"]', "arguments: Input should be a valid dictionary"),
        ("null", "arguments: Input should be a valid dictionary"),
        ("{'city': 'Oslo'}", "the arguments are not JSON: {'city': 'Oslo'}"),
        ('{"place": ', "the arguments are not JSON"),
        ("[" * 100_000, "the arguments are not JSON"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(arguments: str, said: str) -> None:
    with pytest.raises(ToolError) as refused:
        get_weather.call(arguments)
    assert str(refused.value).startswith(f"get_weather: {said}")
    assert len(str(refused.value)) < 700


def test_arguments_that_a_model_left_empty_are_none_at_all() -> None:
    assert as_tool(lambda_free).call("") == "1" == as_tool(lambda_free).call({})


def lambda_free(n: int = 1) -> int:
    return n


@pytest.mark.parametrize(
    "name", ["json", "copy", "schema", "_private", "model_name", "model_config", "model_dump", "self"]
)
@pytest.mark.filterwarnings("error")
def test_a_parameter_may_have_any_name(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def echo({name}: int, other: str = 'x'): return {name}, other", scope)
    echo = as_tool(scope["echo"])
    assert list(echo.parameters["properties"]) == [name, "other"]
    assert echo.call({name: 5}) == '[5,"x"]'
    with pytest.raises(ToolError, match=f"echo: {name}: "):
        echo.call({name: "five"})


def test_a_tool_is_still_the_function() -> None:
    @tool
    def add(a: int, b: int = 2) -> int:
        """Add."""
        return a + b

    assert isinstance(add, Tool)
    assert add(1) == 3 and add(1, b=5) == 6
    assert (add.__name__, add.__doc__, add.returns) == ("add", "Add.", int)
    assert list(inspect.signature(add).parameters) == ["a", "b"]
    assert repr(add) == "Tool(add(a: 'int', b: 'int' = 2) -> 'int')"


def test_a_tool_may_be_given_a_name_and_a_description() -> None:
    @tool(name="sum_up", description="Sum up.")
    def add(a: int) -> int:
        return a

    assert (add.name, add.description, add(1)) == ("sum_up", "Sum up.", 1)


def test_functions_tools_and_json_are_all_tools_for_the_api() -> None:
    ready = {"type": "code_interpreter"}
    assert tool_json(ready) == ready
    assert tool_json(lambda_free) == as_tool(lambda_free).to_dict() == tool_json(as_tool(lambda_free))
    assert as_tool(get_weather) is get_weather


def test_methods_and_partials_are_tools() -> None:
    class Station:
        def read(self, hour: int) -> int:
            """Read it."""
            return hour * 2

    read = as_tool(Station().read)
    assert (read.name, read.description, read.call({"hour": 4})) == ("read", "Read it.", "8")
    partial = tool(functools.partial(lambda_free, 7), name="seven")  # type: ignore[call-overload]
    assert partial.call({}) == "7"


@pytest.mark.parametrize("name", ["get weather", "ø", "a" * 65, "a.b", "x\n"])
def test_a_name_that_the_api_would_refuse_is_refused_here(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not a valid tool name\. Use at most 64 letters, digits"):
        tool(name=name)(lambda_free)


def test_a_lambda_wants_a_name() -> None:
    with pytest.raises(ValueError, match=r"'<lambda>' is not a valid tool name.*pass name="):
        as_tool(lambda: 1)


@pytest.mark.parametrize("value", [None, 5, "get_weather", {"type": "function"}])
def test_only_functions_become_tools(value: Any) -> None:
    with pytest.raises(TypeError, match=f"made from a function, not from {type(value).__name__}"):
        as_tool(value)


def spread(*cities: str) -> None: ...
def options(**options: str) -> None: ...
def positional(city: str, /) -> None: ...


@pytest.mark.parametrize(
    ("function", "parameter"), [(spread, "*cities"), (options, "**options"), (positional, "city")]
)
def test_parameters_that_a_model_cannot_name_are_refused_with_the_way_out(
    function: Any, parameter: str
) -> None:
    with pytest.raises(TypeError, match="can't be passed by name") as refused:
        as_tool(function).to_dict()
    assert f"{function.__name__}: parameter {parameter}" in str(refused.value)


def test_a_hint_that_names_nothing_is_refused_with_the_name() -> None:
    def look(city: Town) -> str: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match="look: its type hints name 'Town', which is not there"):
        as_tool(look).to_dict()


def test_a_type_that_json_has_no_words_for_is_refused_by_the_tools_name() -> None:
    def paint(on: Callable[[int], int], brush: Tool) -> None: ...

    with pytest.raises(TypeError, match="paint: its parameters can't be described to a model"):
        as_tool(paint).to_dict()
