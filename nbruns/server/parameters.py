"""The parameters of every request: a table for each, and nothing else is accepted.

Limits are those of the OpenAPI description of the Assistants API, messages and codes those of the original.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nbruns.server.checks import (
    Check,
    anything,
    array,
    boolean,
    choice,
    labels,
    mapping,
    missing,
    number,
    tagged,
    text,
    text_or,
    then,
)
from nbruns.server.hosted import TOOLS
from nbruns.server.refusal import Refused
from nbruns.server.wire import ACTIVE, ENDED

JSON = dict[str, Any]

HOSTED = ("code_interpreter", "file_search")


def _named(tool: JSON, name: str) -> JSON:
    return {"type": tool["type"]}


def _entry(tool: JSON, name: str) -> JSON:
    return TOOLS[tool["type"]].check(tool, name)


def _or_hosted(check: Check, kept: Callable[[JSON, str], JSON] = _named) -> Check:
    """What passes a check, or names a hosted tool that this server offers. Others are refused, and told why."""

    def take(value: Any, name: str) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind in TOOLS:
            return kept(value, name)
        if kind in HOSTED:
            message = (
                f"'{name}': this server does not run the hosted tool '{kind}'. Pass function tools instead: "
                "your own program runs those and submits their outputs."
            )
            raise Refused(message, param=f"{name}.type", code="unsupported_tool")
        return check(value, name)

    return Check(check.schema, take)


def _or_file(check: Check) -> Check:
    """What passes a check; where it is an image in a file, a refusal that says why: no files are kept here."""

    def take(value: Any, name: str) -> Any:
        if isinstance(value, dict) and value.get("type") == "image_file":
            message = f"'{name}': this server keeps no files. Pass the image's address, as an 'image_url'."
            raise Refused(message, param=f"{name}.type", code="unsupported_content")
        return check(value, name)

    return Check(check.schema, take)


def _filled_tool(given: JSON) -> JSON:
    function = given["function"]
    filled = {
        "name": function["name"],
        "description": function.get("description"),
        "parameters": function.get("parameters") or {"type": "object", "properties": {}},
        "strict": function.get("strict") or False,
    }
    return {"type": "function", "function": {key: kept for key, kept in filled.items() if kept is not None}}


def _truncation_strategy(value: Any, name: str) -> JSON:
    given = _TRUNCATION(value, name)
    if given["type"] == "last_messages" and given.get("last_messages") is None:
        raise missing(f"{name}.last_messages")
    return {"type": given["type"], "last_messages": given.get("last_messages")}


def _text_part(value: str) -> JSON:
    return {"type": "text", "text": {"value": value, "annotations": []}}


def _image_part(part: JSON) -> JSON:
    kind = part["type"]
    return {"type": kind, kind: {**part[kind], "detail": part[kind].get("detail") or "auto"}}


def _without_nulls(given: JSON) -> JSON:
    return {name: value for name, value in given.items() if value is not None}


def _part(kind: str, check: Check) -> Check:
    return mapping({"type": choice(kind), kind: check}, "type", kind)


# Neither a database nor a line of a log takes control characters or halves of characters.
_PRINTABLE = {"pattern": r"[^\u0000-\u001f\u007f-\u009f\ud800-\udfff]+", "said": "printable characters only"}
_ID = text(256, least=1, **_PRINTABLE)
_MODEL = text(256, least=1, **_PRINTABLE)
_NAME = text(64, least=1, pattern="[A-Za-z0-9_-]+", said="letters, digits, _ and - only")

_FUNCTION = mapping({"name": _NAME, "description": text(), "parameters": anything, "strict": boolean}, "name")
TOOL = _or_hosted(
    then(
        tagged(
            {"function": mapping({"type": choice("function"), "function": _FUNCTION}, "type", "function")}
        ),
        _filled_tool,
    ),
    _entry,
)
_JSON_SCHEMA = then(
    mapping({"name": _NAME, "description": text(), "schema": anything, "strict": boolean}, "name"),
    _without_nulls,
)
RESPONSE_FORMAT = text_or(
    choice("auto"),
    tagged(
        {
            "text": mapping({"type": choice("text")}, "type"),
            "json_object": mapping({"type": choice("json_object")}, "type"),
            "json_schema": _part("json_schema", _JSON_SCHEMA),
        }
    ),
)
TOOL_CHOICE = text_or(
    choice("none", "auto", "required"),
    _or_hosted(tagged({"function": _part("function", mapping({"name": _NAME}, "name"))})),
)
_TRUNCATION = mapping(
    {"type": choice("auto", "last_messages"), "last_messages": number(least=1, integer=True)}, "type"
)
TRUNCATION_STRATEGY = Check(_TRUNCATION.schema, _truncation_strategy)
_DETAIL = choice("auto", "low", "high")
_IMAGE_URL = mapping({"url": text(), "detail": _DETAIL}, "url")
CONTENT = text_or(
    then(text(least=1), lambda value: [_text_part(value)]),
    array(
        _or_file(
            tagged(
                {
                    "text": then(_part("text", text()), lambda part: _text_part(part["text"])),
                    "image_url": then(_part("image_url", _IMAGE_URL), _image_part),
                }
            )
        ),
        least=1,
    ),
)
# They name hosted tools, all of which are refused.
_ATTACHMENT_TOOLS = Check({"type": "array", "maxItems": 0}, array(_or_hosted(mapping({}))).take)
TOOL_RESOURCES = then(
    mapping(
        {
            "code_interpreter": then(mapping({"file_ids": array(_ID, most=20)}), _without_nulls),
            "file_search": then(mapping({"vector_store_ids": array(_ID, most=1)}), _without_nulls),
        }
    ),
    _without_nulls,
)
_SAMPLING: dict[str, Check] = {
    "temperature": number(least=0, most=2, default=1),
    "top_p": number(least=0, most=1, default=1),
    "reasoning_effort": choice("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "response_format": RESPONSE_FORMAT,
}

# Empty ones are taken for left out: programs write after=… with what they have.
_FILTER = text(256, pattern=_PRINTABLE["pattern"].replace("+", "*"), said=_PRINTABLE["said"])
LIST: dict[str, Check] = {
    "limit": number(integer=True, least=1, most=100, default=20),
    "order": choice("asc", "desc", default="desc"),
    "after": _FILTER,
    "before": _FILTER,
}
INCLUDE: dict[str, Check] = {
    "include[]": array(choice("step_details.tool_calls[*].file_search.results[*].content"), most=10)
}
LIST_MESSAGES: dict[str, Check] = {**LIST, "run_id": _FILTER}
LIST_RUNS: dict[str, Check] = {
    **LIST,
    "thread_id": _FILTER,
    "assistant_id": _FILTER,
    "model": _FILTER,
    "status": choice(*ACTIVE, *ENDED),
}

_ASSISTANT: dict[str, Check] = {
    "model": _MODEL,
    "name": text(256),
    "description": text(512),
    "instructions": text(),
    "tools": array(TOOL, most=128),
    "tool_resources": TOOL_RESOURCES,
    "metadata": labels,
    **_SAMPLING,
}
CREATE_ASSISTANT = mapping(_ASSISTANT, "model")
UPDATE_ASSISTANT = mapping(_ASSISTANT)
UPDATE = mapping({"metadata": labels})
CREATE_MESSAGE = mapping(
    {
        "role": choice("user", "assistant"),
        "content": CONTENT,
        "attachments": array(mapping({"file_id": _ID, "tools": _ATTACHMENT_TOOLS}, "file_id")),
        "metadata": labels,
    },
    "role",
    "content",
)
_UPDATE_THREAD: dict[str, Check] = {"tool_resources": TOOL_RESOURCES, "metadata": labels}
UPDATE_THREAD = mapping(_UPDATE_THREAD)
CREATE_THREAD = mapping({"messages": array(CREATE_MESSAGE), **_UPDATE_THREAD})
_RUN: dict[str, Check] = {
    "assistant_id": _ID,
    "model": _MODEL,
    "instructions": text(),
    "tools": array(TOOL, most=20),
    "metadata": labels,
    "stream": boolean,
    "max_prompt_tokens": number(least=256, integer=True),
    "max_completion_tokens": number(least=256, integer=True),
    "truncation_strategy": TRUNCATION_STRATEGY,
    "tool_choice": TOOL_CHOICE,
    "parallel_tool_calls": Check({**boolean.schema, "default": True}, boolean.take),
    **_SAMPLING,
}
_ADDITIONAL: dict[str, Check] = {
    "additional_instructions": text(),
    "additional_messages": array(CREATE_MESSAGE),
}
CREATE_RUN = mapping({**_RUN, **_ADDITIONAL}, "assistant_id")
CREATE_THREAD_AND_RUN = mapping(
    {**_RUN, "thread": CREATE_THREAD, "tool_resources": TOOL_RESOURCES}, "assistant_id"
)
_OUTPUT = mapping({"tool_call_id": _ID, "output": text(1_000_000)}, "tool_call_id")
SUBMIT_TOOL_OUTPUTS = mapping({"tool_outputs": array(_OUTPUT), "stream": boolean}, "tool_outputs")


def query(table: Mapping[str, Check], given: Iterable[tuple[str, str]]) -> JSON:
    """What a query string says, checked. Names that are not in the table are passed over."""
    said: dict[str, list[str]] = {}
    for name, value in given:
        said.setdefault(name, []).append(value)
    return {
        name: check(_read(check, said[name]), name) or None if name in said else check.schema.get("default")
        for name, check in table.items()
    }


def _read(check: Check, values: list[str]) -> Any:
    if check.schema["type"] == "array":
        return values
    # Longer numbers are beyond every limit; reading them would take its time.
    is_number = check.schema["type"] == "integer" and re.fullmatch("-?[0-9]{1,4000}", values[-1])
    return int(values[-1]) if is_number else values[-1]
