"""Hosted tools: tools that the server runs, by the `type` that assistants and runs use for them.

A model sees a hosted tool as a function. When it calls one, the server runs it and asks the model again, so the run
doesn't require action. `TOOLS` is the registry: nothing outside this package knows which tools exist.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbruns.server.hosted.code_interpreter import CodeInterpreter
from nbruns.server.hosted.file_search import FileSearch
from nbruns.server.hosted.mcp import Mcp
from nbruns.server.hosted.protocol import (
    Context,
    Executed,
    Found,
    Function,
    Functions,
    HostedTool,
    Result,
    ToolSchema,
    refused,
)
from nbruns.text import JSON

__all__ = [
    "FILE_TOOLS",
    "REFUSED",
    "TOOLS",
    "Context",
    "Declared",
    "Executed",
    "Found",
    "Function",
    "Functions",
    "HostedTool",
    "Result",
    "ToolSchema",
    "asked_for",
    "citations",
    "close",
    "declared",
    "details_of",
    "entry",
    "explanation",
    "forget",
    "images",
    "keep_headers",
    "keep_secrets",
    "leave",
    "needs_approval",
    "offered",
    "refused",
    "up_front",
    "without_content",
]

#: The tools that this server offers, by type.
TOOLS: dict[str, HostedTool] = {
    "code_interpreter": CodeInterpreter(),
    "file_search": FileSearch(),
    "mcp": Mcp(),
}
#: Maximum number of characters of a function's name.
_MAX_NAME = 64
#: Tools that this server can't run with its current settings, with instructions for its operator. Set at startup.
REFUSED: dict[str, str] = {}
#: The tools that use files, if the server offers them.
FILE_TOOLS = ("file_search", "code_interpreter")


def offered(type: str) -> bool:
    """Whether this server runs a hosted tool."""
    return type in TOOLS and type not in REFUSED


def explanation(type: str) -> str:
    """Return why this server doesn't run the hosted tool `type`, and what to do instead.

    Used wherever a request names a tool: in assistants, runs, tool choices and attachments."""
    others = sorted(filter(offered, TOOLS))
    runs = f" (it runs {', '.join(others)})" if others else ""
    ways = f" {REFUSED[type]}" if type in REFUSED else ""
    return (
        f"this server does not run the hosted tool '{type[:100]}'{runs}.{ways} Pass function tools instead: your own "
        "program runs those and submits their outputs."
    )


@dataclass(frozen=True)
class Declared:
    """The tools of a run, declared as functions for the model."""

    #: The functions of the user and of hosted tools.
    functions: list[JSON]
    #: For each function of a hosted tool, by name: the type of the tool, and the initial details of its calls.
    hosted: dict[str, tuple[str, JSON]]
    #: Notes for the model about tools that are not available.
    notes: list[str]


async def declared(run: JSON, files: Mapping[str, Sequence[str]]) -> Declared:
    """Return a run's tools as functions for the model.

    Functions of the user keep their names. A hosted tool's function with the same name is renamed. `files` contains the
    names of the files in the `tool_resources`, by type of tool."""
    functions = [tool for tool in run["tools"] if tool["type"] == "function"]
    taken = {tool["function"]["name"] for tool in functions}
    found = Declared(functions, {}, [])
    for tool in run["tools"]:
        if tool["type"] in TOOLS:
            given = await TOOLS[tool["type"]].functions(tool, run, files.get(tool["type"], ()))
            for function in given.functions:
                name = _free_name(function.definition["name"], taken)
                taken.add(name)
                found.hosted[name] = tool["type"], function.details
                functions.append({"type": "function", "function": {**function.definition, "name": name}})
            if given.note:
                found.notes.append(given.note)
    return found


def _free_name(name: str, taken: Collection[str]) -> str:
    free, count = name[:_MAX_NAME], 1
    while free in taken:
        suffix = "_hosted" if count == 1 else f"_hosted{count}"
        free, count = name[: _MAX_NAME - len(suffix)] + suffix, count + 1
    return free


def entry(id: str, type: str, details: JSON) -> JSON:
    """Return the entry of a hosted tool's call in a run step."""
    return {"id": id, "type": type, **({type: details} if TOOLS[type].nested else details)}


def details_of(call: JSON) -> JSON:
    """Return the details in the entry of a hosted tool's call."""
    if TOOLS[call["type"]].nested:
        details: JSON = call[call["type"]]
        return details
    return {name: value for name, value in call.items() if name not in ("id", "type")}


def needs_approval(run: JSON, call: JSON) -> bool:
    """Whether the user has to approve a call before it is executed."""
    return TOOLS[call["type"]].needs_approval(run, details_of(call))


def asked_for(call: JSON) -> JSON:
    """Return a call in the form in which a required action asks for its approval."""
    shown = {name: value for name, value in details_of(call).items() if name != "output"}
    return entry(call["id"], call["type"], shown)


def keep_secrets(run: JSON, resources: JSON) -> None:
    """Keep the secrets in the `tool_resources` of a run in memory."""
    for type in resources.keys() & TOOLS.keys():
        TOOLS[type].keep_secrets(run, resources[type])


def keep_headers(run: JSON, call: JSON, headers: Any) -> None:
    """Keep the headers in the approval of a call in memory."""
    TOOLS[call["type"]].keep_headers(run, details_of(call), headers)


def forget(run_id: str) -> None:
    """Delete the secrets of a run that has ended."""
    for tool in TOOLS.values():
        tool.forget(run_id)


async def leave(run_id: str) -> None:
    """Close the resources that are open for a run, because it has ended or requires action."""
    for tool in list(TOOLS.values()):
        await tool.leave(run_id)


async def close() -> None:
    """Close the resources of all runs, because the server stops."""
    for tool in list(TOOLS.values()):
        await tool.close()


def up_front(type: str, question: str) -> str | None:
    """Return the arguments for calling a hosted tool on behalf of a model that can't call tools; None if only a model
    can write them."""
    return TOOLS[type].ask(question)


def citations(
    text: str, details: Mapping[str, Sequence[JSON]], paths: Mapping[str, Mapping[str, str]]
) -> list[JSON]:
    """Return the annotations of a message's text. `details` contains the results of the run's calls, and `paths` the
    files created in the thread, both by type of tool."""
    return [
        mark
        for type in {**details, **paths}
        if type in TOOLS
        for mark in TOOLS[type].cite(text, details.get(type, ()), paths.get(type, {}))
    ]


def images(step: JSON) -> list[str]:
    """Return the ids of the images that the hosted calls of a step created."""
    return [
        image
        for call in step["step_details"].get("tool_calls") or ()
        if call["type"] in TOOLS
        for image in TOOLS[call["type"]].images(details_of(call))
    ]


def without_content(step: JSON) -> JSON:
    """Return a step without the content of hosted tools' results, which is only sent if `include` asks for it."""
    calls = step["step_details"].get("tool_calls")
    if not calls or all(call["type"] not in TOOLS for call in calls):
        return step
    shown = [
        entry(call["id"], call["type"], TOOLS[call["type"]].without_content(details_of(call)))
        if call["type"] in TOOLS
        else call
        for call in calls
    ]
    return {**step, "step_details": {**step["step_details"], "tool_calls": shown}}
