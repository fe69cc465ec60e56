"""The parameters of every request: a table for each, and nothing else is accepted.

Limits are those of the OpenAPI description of the Assistants API, messages and codes those of the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from nbruns.server.checks import (
    Check,
    anything,
    array,
    boolean,
    choice,
    invalid,
    labels,
    mapping,
    number,
    text,
)
from nbruns.server.refusal import Refused
from nbruns.server.store import Page

JSON = dict[str, Any]

NAME_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def page(query: Mapping[str, str]) -> Page:
    """The part of a list that a query asks for."""
    order = choice("asc", "desc")(query.get("order") or "desc", "order")
    limit = query.get("limit") or "20"
    if not limit.removeprefix("-").isdecimal():
        message = "Invalid type for 'limit': expected an integer, but got a string instead."
        raise Refused(message, param="limit", code="invalid_type")
    count = number(integer=True, least=1, most=100)(int(limit[:9]), "limit")
    return Page(count, cast(Any, order), query.get("after") or None, query.get("before") or None)


def tool(value: Any, name: str) -> JSON:
    """A function tool; the hosted tools are refused, because nothing here could run them."""
    kind = anything(value, name).get("type")
    if kind in ("code_interpreter", "file_search"):
        message = (
            f"'{name}': this server does not run the hosted tool '{kind}'. Pass function tools instead: "
            "your own program runs those and submits their outputs."
        )
        raise Refused(message, param=f"{name}.type", code="unsupported_tool")
    if kind is not None:  # before what the object lacks: other types have other fields
        choice("function")(kind, f"{name}.type")
    given = _FUNCTION_TOOL(value, name)["function"]
    filled = {
        "name": given["name"],
        "description": given.get("description"),
        "parameters": given.get("parameters") or {"type": "object", "properties": {}},
        "strict": given.get("strict") or False,
    }
    return {"type": "function", "function": {key: kept for key, kept in filled.items() if kept is not None}}


def function_name(value: Any, name: str) -> str:
    """The name of a function, as models take them."""
    given: str = text(64, least=1)(value, name)
    if not NAME_LETTERS.issuperset(given):
        raise invalid(
            name, "string does not match pattern", "letters, digits, _ and - only", "others", "invalid_value"
        )
    return given


def response_format(value: Any, name: str) -> Any:
    """auto, or an object that names a type."""
    return choice("auto")(value, name) if isinstance(value, str) else _RESPONSE_FORMAT(value, name)


def tool_choice(value: Any, name: str) -> Any:
    """none, auto, required, or a function by name."""
    return _TOOL_CHOICE(value, name) if isinstance(value, str) else _NAMED_TOOL(value, name)


def truncation_strategy(value: Any, name: str) -> JSON:
    """How the thread is shortened."""
    given = _TRUNCATION(value, name)
    if given["type"] == "last_messages" and given.get("last_messages") is None:
        param = f"{name}.last_messages"
        raise Refused(
            f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
        )
    return {"type": given["type"], "last_messages": given.get("last_messages")}


def content(value: Any, name: str) -> list[JSON]:
    """A message's content: text, or parts."""
    if isinstance(value, str):
        return [_text_object(text(least=1)(value, name))]
    parts: list[JSON] = array(_part)(value, name)
    if not parts:
        raise invalid(name, "empty array", "an array with at least one part", "an empty one", "empty_array")
    return parts


def _part(value: Any, name: str) -> JSON:
    kind = choice(*_PARTS)(anything(value, name).get("type"), f"{name}.type")
    part = mapping({"type": text(), kind: _PARTS[kind]}, kind)(value, name)[kind]
    if kind == "text":
        return _text_object(part)
    return {"type": kind, kind: {**part, "detail": part.get("detail") or "auto"}}


def _text_object(value: str) -> JSON:
    return {"type": "text", "text": {"value": value, "annotations": []}}


_FUNCTION = mapping(
    {"name": function_name, "description": text(), "parameters": anything, "strict": boolean}, "name"
)
_FUNCTION_TOOL = mapping({"type": text(), "function": _FUNCTION}, "type", "function")
_RESPONSE_FORMAT = mapping(
    {"type": choice("text", "json_object", "json_schema"), "json_schema": anything}, "type"
)
_TOOL_CHOICE = choice("none", "auto", "required")
_NAMED_TOOL = mapping(
    {"type": choice("function"), "function": mapping({"name": function_name}, "name")}, "type", "function"
)
_TRUNCATION = mapping(
    {"type": choice("auto", "last_messages"), "last_messages": number(least=1, integer=True)}, "type"
)
_DETAIL = choice("auto", "low", "high")
_PARTS: dict[str, Check] = {
    "text": text(),
    "image_url": mapping({"url": text(), "detail": _DETAIL}, "url"),
    "image_file": mapping({"file_id": text(256), "detail": _DETAIL}, "file_id"),
}
_ID = text(256, least=1)
_MODEL = text(256, least=1)
_SAMPLING: dict[str, Check] = {
    "temperature": number(least=0, most=2),
    "top_p": number(least=0, most=1),
    "reasoning_effort": choice("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "response_format": response_format,
}

UPDATE: dict[str, Check] = {"metadata": labels}
ASSISTANT: dict[str, Check] = {
    "model": _MODEL,
    "name": text(256),
    "description": text(512),
    "instructions": text(),
    "tools": array(tool, most=128),
    "tool_resources": anything,
    "metadata": labels,
    **_SAMPLING,
}
MESSAGE: dict[str, Check] = {
    "role": choice("user", "assistant"),
    "content": content,
    "attachments": array(mapping({"file_id": _ID, "tools": array(anything)}, "file_id")),
    "metadata": labels,
}
_MESSAGES = array(mapping(MESSAGE, "role", "content"))
THREAD: dict[str, Check] = {"messages": _MESSAGES, "tool_resources": anything, "metadata": labels}
UPDATE_THREAD: dict[str, Check] = {"tool_resources": anything, "metadata": labels}
_RUN: dict[str, Check] = {
    "assistant_id": _ID,
    "model": _MODEL,
    "instructions": text(),
    "tools": array(tool, most=20),
    "metadata": labels,
    "stream": boolean,
    "max_prompt_tokens": number(least=256, integer=True),
    "max_completion_tokens": number(least=256, integer=True),
    "truncation_strategy": truncation_strategy,
    "tool_choice": tool_choice,
    "parallel_tool_calls": boolean,
    **_SAMPLING,
}
RUN: dict[str, Check] = {**_RUN, "additional_instructions": text(), "additional_messages": _MESSAGES}
THREAD_AND_RUN: dict[str, Check] = {**_RUN, "thread": mapping(THREAD), "tool_resources": anything}
_OUTPUT = mapping({"tool_call_id": _ID, "output": text(1_000_000)}, "tool_call_id")
SUBMISSION: dict[str, Check] = {"tool_outputs": array(_OUTPUT), "stream": boolean}
