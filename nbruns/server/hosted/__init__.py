"""Hosted tools: tools that the server runs, by the `type` that assistants and runs use for them.

A model sees a hosted tool as a function. When it calls one, the server runs it and asks the model again, so the run
doesn't require action. `TOOLS` is the registry: nothing outside this package knows which tools exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nbruns.server.hosted.code_interpreter import CodeInterpreter
from nbruns.server.hosted.file_search import FileSearch
from nbruns.server.hosted.protocol import (
    AskedUpFront,
    Context,
    Executed,
    Found,
    HostedTool,
    Result,
    ToolSchema,
)
from nbruns.text import JSON

__all__ = [
    "FILE_TOOLS",
    "REFUSED",
    "TOOLS",
    "Context",
    "Executed",
    "Found",
    "HostedTool",
    "Result",
    "ToolSchema",
    "citations",
    "declared",
    "explanation",
    "images",
    "offered",
    "up_front",
    "without_content",
]

#: The tools that this server offers, by type.
TOOLS: dict[str, HostedTool] = {"code_interpreter": CodeInterpreter(), "file_search": FileSearch()}
#: Those of them that can't run as this server was started: what whoever runs it can do. Filled at the start.
REFUSED: dict[str, str] = {}
#: The tools that files are given to, where they are offered.
FILE_TOOLS = ("file_search", "code_interpreter")


def offered(type: str) -> bool:
    """Whether this server runs a hosted tool."""
    return type in TOOLS and type not in REFUSED


def explanation(type: str) -> str:
    """Return why this server doesn't run the hosted tool `type`, and what to do instead.

    The same wherever a tool is named: in assistants, runs, tool choices and attachments."""
    others = sorted(filter(offered, TOOLS))
    runs = f" (it runs {', '.join(others)})" if others else ""
    ways = f" {REFUSED[type]}" if type in REFUSED else ""
    return (
        f"this server does not run the hosted tool '{type[:100]}'{runs}.{ways} Pass function tools instead: your own "
        "program runs those and submits their outputs."
    )


def declared(
    tools: Sequence[JSON], files: Mapping[str, Sequence[str]] | None = None
) -> tuple[list[JSON], dict[str, str]]:
    """Return a run's tools as functions for the model, and the type of each hosted one by its function's name.

    A function of the user's keeps its name; a hosted tool of the same name gets another. `files` are the names of the
    files in the `tool_resources`, by the tool's type."""
    functions = [tool for tool in tools if tool["type"] == "function"]
    taken = {tool["function"]["name"] for tool in functions}
    types: dict[str, str] = {}
    for tool in tools:
        if tool["type"] in TOOLS:
            function = TOOLS[tool["type"]].declare(tool, (files or {}).get(tool["type"], ()))
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


def citations(
    text: str, details: Mapping[str, Sequence[JSON]], paths: Mapping[str, Mapping[str, str]]
) -> list[JSON]:
    """Return the annotations that the tools make to a message's text; `details` are the run's results, `paths` the
    files that were made in the thread, both by type."""
    return [
        mark
        for type in {**details, **paths}
        if type in TOOLS
        for mark in TOOLS[type].cite(text, details.get(type, ()), paths.get(type, {}))
    ]


def images(step: JSON) -> list[str]:
    """Return the ids of the images that the hosted calls of a step have made."""
    return [
        image
        for call in step["step_details"].get("tool_calls") or ()
        if call["type"] in TOOLS
        for image in TOOLS[call["type"]].images(call[call["type"]])
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
