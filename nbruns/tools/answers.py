"""Tool outputs: call the registered function, and convert its result or error to text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nbruns.errors import ToolError
from nbruns.objects import Run, ToolCall
from nbruns.tools import Tool, as_tool


@dataclass(frozen=True)
class Answer:
    """The output of one call. The API has no error flag for outputs, so errors are marked in the text."""

    text: str
    is_error: bool = False

    @property
    def output(self) -> str:
        """The text to submit."""
        return f"Error: {self.text}" if self.is_error else self.text


def tools_by_name(tools: Iterable[Tool | Callable[..., Any]]) -> dict[str, Tool]:
    """Return the functions as tools, by tool name."""
    return {str(tool.name): tool for tool in map(as_tool, tools)}


def answer(tool: Tool, arguments: str | Mapping[str, Any]) -> Answer:
    """Call the tool. Errors become an answer that reports them to the model."""
    try:
        return Answer(tool.call(arguments))
    except ToolError as error:
        return Answer(str(error), is_error=True)


def tool_of(call: ToolCall, tools: Mapping[str, Tool]) -> Tool | None:
    """Return the tool registered for a call, or None."""
    return tools.get(call.name) if call.type == "function" else None


def answers_of(run: Run, tools: Mapping[str, Tool]) -> list[Answer | None]:
    """Return one answer per call, in order (ids may repeat), with None for calls without a tool."""
    known = [(call, tool_of(call, tools)) for call in run.tool_calls]
    return [None if tool is None else answer(tool, call.arguments) for call, tool in known]
