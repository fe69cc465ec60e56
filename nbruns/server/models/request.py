"""What a prompt requires next: which calls are due, which outputs exist, which text or JSON is wanted."""

from __future__ import annotations

from typing import NamedTuple

from nbruns.server.models.json_schemas import Schema
from nbruns.server.models.protocol import ModelError, Prompt
from nbruns.text import JSON


class Answered(NamedTuple):
    """A tool call of this run with its output."""

    name: str
    arguments: str
    output: str


def text_of(message: JSON) -> str:
    """The text of a message whose content is a string, a list of parts, or absent; images are named."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] if part["type"] == "text" else _image(part) for part in content)


def _image(part: JSON) -> str:
    return f"[image {part['image_url']['url'][:200]}]"


def questions(prompt: Prompt) -> list[str]:
    """Return the messages of the user, the latest first."""
    return [text_of(message) for message in reversed(prompt.messages) if message["role"] == "user"]


def answered(prompt: Prompt) -> list[Answered]:
    """The calls answered in this run: those after the user's last message."""
    last = max((i for i, message in enumerate(prompt.messages) if message["role"] == "user"), default=-1)
    turn = prompt.messages[last + 1 :]
    calls = {call["id"]: call["function"] for message in turn for call in message.get("tool_calls") or ()}
    return [
        Answered(calls[tool]["name"], calls[tool]["arguments"], text_of(message))
        for message in turn
        if message["role"] == "tool" and (tool := message["tool_call_id"]) in calls
    ]


def functions_due(prompt: Prompt) -> list[JSON]:
    """The functions that may be called now, by `tool_choice`; none once calls of this run are answered."""
    if prompt.tool_choice == "none" or answered(prompt):
        return []
    functions = [tool["function"] for tool in prompt.tools if tool["type"] == "function"]
    if not isinstance(prompt.tool_choice, dict):
        return functions
    name = prompt.tool_choice.get("function", {}).get("name")
    named = [function for function in functions if function["name"] == name]
    if not named:
        raise ModelError(
            "invalid_prompt", f"tool_choice names {name!r}, which is not among the run's functions."
        )
    return named


def answer_schema(prompt: Prompt) -> Schema | None:
    """The JSON schema that the answer must have, or None where plain text is wanted."""
    wanted = prompt.response_format
    if not isinstance(wanted, dict) or wanted.get("type") not in ("json_object", "json_schema"):
        return None
    schema: Schema = wanted.get("json_schema", {}).get("schema", {"type": "object"})
    return schema
