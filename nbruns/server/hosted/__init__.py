"""Hosted tools: tools that the server runs, by the `type` that assistants and runs use for them.

A model sees a hosted tool as a function. When it calls one, the server runs it and asks the model again, so the run
doesn't require action. `TOOLS` is the registry: nothing outside this package knows which tools exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel

from nbruns.text import JSON


@dataclass(frozen=True)
class Result:
    """Result of a call of a hosted tool: `output` is the text for the model, `details` is shown in the run
    step's entry of the call, under the tool's type.
    """

    output: str
    details: JSON


class HostedTool(Protocol):
    """A tool that the server runs."""

    #: What an entry of `tools` may be.
    schema: type[BaseModel]

    def declare(self, tool: JSON) -> JSON:
        """Return the function that the model sees for an entry of `tools`: name, description, parameters."""
        ...

    def describe(self, arguments: str) -> JSON:
        """Return what the step's entry shows under the tool's type while the model writes the arguments; `arguments`
        is the JSON text as far as it has come."""
        ...

    async def run(self, run: JSON, arguments: str) -> Result:
        """Execute a call. What goes wrong within the call is a Result that the model can read, not an exception.

        A call that a kill has cut off is executed again; one whose result was stored is not. Cancelling the coroutine
        stops the call."""
        ...

    def cite(self, text: str, details: Sequence[JSON]) -> list[JSON]:
        """Return the annotations of a message of the run; `details` are those of the tool's results in it."""
        ...


#: The tools that this server offers, by type.
TOOLS: dict[str, HostedTool] = {}


def declared(tools: Sequence[JSON]) -> tuple[list[JSON], dict[str, str]]:
    """Return a run's tools as functions for the model, and the type of each hosted one by its function's name.

    A function of the user's keeps its name; a hosted tool of the same name gets another."""
    functions = [tool for tool in tools if tool["type"] == "function"]
    taken = {tool["function"]["name"] for tool in functions}
    types: dict[str, str] = {}
    for tool in tools:
        if tool["type"] in TOOLS:
            function = TOOLS[tool["type"]].declare(tool)
            name = function["name"]
            while name in taken:
                name += "_hosted"
            taken.add(name)
            types[name] = tool["type"]
            functions.append({"type": "function", "function": {**function, "name": name}})
    return functions, types


def citations(text: str, details: Mapping[str, Sequence[JSON]]) -> list[JSON]:
    """Return the annotations that the tools make to a message's text; `details` are the run's results by type."""
    return [
        mark for type, found in details.items() if type in TOOLS for mark in TOOLS[type].cite(text, found)
    ]
