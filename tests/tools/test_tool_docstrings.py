"""What the model reads of a function and of its parameters, from docstrings as people write them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Annotated, Any

import pydantic
import pytest

from nbruns.tools import as_tool, tool


def google(city: str, unit: str = "C") -> str:
    """Tell the weather.

    For a place.

    Args:
        city: Where: a town
            or a village.
        unit (str, optional): Celsius or Fahrenheit.

    Returns:
        What is known.

    Raises:
        LookupError: No such city.

    Note:
        Stations sleep at night.
    """
    return city + unit


def google_with_types(city: str, unit: str = "C") -> str:
    """Tell the weather.

    Arguments:
      city (str): Where: a town or a village.
      unit (Literal["C", "F"]): Celsius or Fahrenheit.
    """
    return city + unit


def numpy(city: str, unit: str = "C") -> str:
    """Tell the weather.

    For a place.

    Parameters
    ----------
    city : str
        Where: a town
        or a village.
    unit : {"C", "F"}, optional
        Celsius or Fahrenheit.

    Returns
    -------
    str
        What is known.
    """
    return city + unit


def sphinx(city: str, unit: str = "C") -> str:
    """Tell the weather.

    For a place.

    :param city: Where: a town
        or a village.
    :param str unit: Celsius or Fahrenheit.
    :type city: str
    :returns: What is known.
    :rtype: str
    """
    return city + unit


@pytest.mark.parametrize("function", [google, google_with_types, numpy, sphinx])
def test_parameters_are_described_in_the_schema_and_not_twice(function: Any) -> None:
    told = as_tool(function).to_dict()["function"]
    words = {name: prop["description"] for name, prop in told["parameters"]["properties"].items()}
    assert words == {"city": "Where: a town or a village.", "unit": "Celsius or Fahrenheit."}
    assert told["description"].startswith("Tell the weather.")
    assert "village" not in told["description"] and "Fahrenheit" not in told["description"]


def test_what_is_said_beside_the_parameters_is_kept() -> None:
    assert as_tool(google).description == (
        "Tell the weather.\n\nFor a place.\n\nReturns: What is known.\n\nRaises: LookupError: No such city.\n\n"
        "Note: Stations sleep at night."
    )
    assert as_tool(numpy).description == as_tool(sphinx).description
    assert as_tool(sphinx).description == "Tell the weather.\n\nFor a place.\n\nReturns: What is known."


def test_examples_are_kept_as_they_are() -> None:
    def look(city: str) -> str:
        """Look.

        Args:
            city: Where.

        Examples:
            A town:

            >>> look("Oslo")
            'Rain'
        """
        return city

    assert look.__doc__ and as_tool(look).description == (
        "Look.\n\nExamples:\nA town:\n>>> look(\"Oslo\")\n'Rain'"
    )


PLAIN = [
    "Tell the weather: now.\n\nFor example: x\n  indented\nParameters are none.",
    "Args:\n    somebody: else",
    "Do.\n\nArgs:\n    city\n    : what\n    x(",
    "Parameters\n----------\n",
    ":param",
    ":param : \n:param city:",
    "",
]


@pytest.mark.parametrize("docstring", PLAIN)
def test_a_docstring_that_describes_none_of_the_parameters_is_taken_as_it_is(docstring: str) -> None:
    def look(city: str) -> str:
        return city

    look.__doc__ = docstring
    assert as_tool(look).description == inspect.cleandoc(docstring)
    assert as_tool(look).parameters["properties"] == {"city": {"type": "string"}}


def test_an_annotation_s_own_words_come_first() -> None:
    @tool
    def look(city: Annotated[str, pydantic.Field(description="From the annotation.")]) -> str:
        """Look.

        Args:
            city: From the docstring.
        """
        return city

    assert look.parameters["properties"]["city"]["description"] == "From the annotation."


def test_a_given_description_replaces_the_docstring_s_but_not_its_parameters() -> None:
    told = tool(description="Say it.")(google)
    assert told.description == "Say it."
    assert told.parameters["properties"]["unit"]["description"] == "Celsius or Fahrenheit."


def test_the_parser_is_loaded_only_for_docstrings_that_need_it() -> None:
    program = (
        "import sys\nfrom nbruns.tools import tool\n"
        "@tool\ndef plain(n: int) -> int:\n    'Count to n.'\n    return n\n"
        "plain.to_dict(), plain.call({'n': 1})\nassert 'griffe' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
