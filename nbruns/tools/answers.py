"""What is submitted for a tool call: a function's output, or an error, either as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nbruns.errors import ToolError
from nbruns.objects import Run, ToolCall
from nbruns.tools import Tool, as_tool


@dataclass(frozen=True)
class Answer:
    """An answer to one call. The API knows no errors here: the text tells the model that it is one."""

    text: str
    is_error: bool = False

    @property
    def output(self) -> str:
        """What is submitted."""
        return f"Error: {self.text}" if self.is_error else self.text


def tools_by_name(tools: Iterable[Tool | Callable[..., Any]]) -> dict[str, Tool]:
    """The functions as tools, by the name that the model knows them by."""
    return {str(tool.name): tool for tool in map(as_tool, tools)}


def answer(tool: Tool, arguments: str | Mapping[str, Any]) -> Answer:
    """Call the tool; what it refuses or raises is an error for the model to read and the user to see."""
    try:
        return Answer(tool.call(arguments))
    except ToolError as error:
        return Answer(str(error), is_error=True)


def tool_of(call: ToolCall, tools: Mapping[str, Tool]) -> Tool | None:
    """The tool that answers a call; None where there is none."""
    return tools.get(call.name) if call.type == "function" else None


def answers_of(run: Run, tools: Mapping[str, Tool]) -> list[Answer | None]:
    """An answer for each call, in their order, for two calls may share an id; None where there is no tool."""
    known = [(call, tool_of(call, tools)) for call in run.tool_calls]
    return [None if tool is None else answer(tool, call.arguments) for call, tool in known]
