"""Hosted tools: tools that the server runs, by the `type` that assistants and runs use for them.

A model sees a hosted tool as a function. When it calls one, the server runs it and asks the model again, so the run
doesn't require action. `TOOLS` is the registry: nothing outside this package knows which tools exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nbruns.server.hosted.file_search import FileSearch
from nbruns.server.hosted.protocol import AskedUpFront, Context, Found, HostedTool, Result, ToolSchema
from nbruns.text import JSON

__all__ = [
    "FILE_TOOLS",
    "TOOLS",
    "Context",
    "Found",
    "HostedTool",
    "Result",
    "ToolSchema",
    "citations",
    "declared",
    "explanation",
    "up_front",
    "without_content",
]

#: The tools that this server offers, by type.
TOOLS: dict[str, HostedTool] = {"file_search": FileSearch()}
#: The tools that files are given to, where they are offered.
FILE_TOOLS = ("file_search", "code_interpreter")


def explanation(type: str) -> str:
    """Return why this server doesn't run the hosted tool `type`, and what to do instead.

    The same wherever a tool is named: in assistants, runs, tool choices and attachments."""
    offered = f" (it runs {', '.join(sorted(TOOLS))})" if TOOLS else ""
    return (
        f"this server does not run the hosted tool '{type[:100]}'{offered}. Pass function tools instead: your own "
        "program runs those and submits their outputs."
    )


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


def up_front(type: str, question: str) -> str | None:
    """Return the arguments with which a hosted tool is called for a model that can't call tools; None if only a model
    can write them."""
    tool = TOOLS[type]
    return tool.ask(question) if isinstance(tool, AskedUpFront) else None


def citations(text: str, details: Mapping[str, Sequence[JSON]]) -> list[JSON]:
    """Return the annotations that the tools make to a message's text; `details` are the run's results by type."""
    return [
        mark for type, found in details.items() if type in TOOLS for mark in TOOLS[type].cite(text, found)
    ]


def without_content(step: JSON) -> JSON:
    """Return a step without the content of hosted tools' results, as it is shown unless `include` asks for it."""
    calls = step["step_details"].get("tool_calls")
    if not calls or all(call["type"] not in TOOLS for call in calls):
        return step
    shown = [
        {**call, call["type"]: TOOLS[call["type"]].without_content(call[call["type"]])}
        if call["type"] in TOOLS
        else call
        for call in calls
    ]
    return {**step, "step_details": {**step["step_details"], "tool_calls": shown}}
