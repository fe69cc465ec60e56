"""The protocol of models.

A model receives a `Prompt` and yields deltas: text, pieces of tool calls, and finally a `Finish`. It raises
`ModelError` for a run's `last_error`. Closing or cancelling the iteration stops the generation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from nbruns.json_schema import Schema
from nbruns.text import JSON

FinishReason = Literal["stop", "tool_calls", "length", "content_filter"]
ErrorCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]


@dataclass(frozen=True)
class Prompt:
    """A prompt for one turn: messages in the format of Chat Completions, and the run's parameters."""

    model: str
    messages: list[JSON]
    tools: list[JSON] = field(default_factory=list)
    tool_choice: str | JSON | None = None
    parallel_tool_calls: bool = True
    response_format: str | JSON | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_completion_tokens: int | None = None
    reasoning_effort: str | None = None
    #: Unix time in seconds at which the run expires, after which retries are useless.
    deadline: float | None = None


@dataclass(frozen=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class RefusalDelta:
    """A piece of the text of a refusal."""

    text: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of the tool call at `index`. The first piece has the id and the name; all can have arguments."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True)
class Finish:
    """The last delta: why the answer ended, and its usage."""

    reason: FinishReason
    #: As returned by `usage()`; None if the model doesn't report it.
    usage: JSON | None


Delta = TextDelta | RefusalDelta | ToolCallDelta | Finish


class Model(Protocol):
    """Answers prompts."""

    def answer(self, prompt: Prompt) -> AsyncIterator[Delta]:
        """Yield the answer's deltas, the last of them a `Finish`."""
        ...


@runtime_checkable
class Closing(Protocol):
    """Optional for models: a method that is called when the server stops."""

    async def close(self) -> None: ...


@runtime_checkable
class ToolUser(Protocol):
    """Optional for models: whether the model was trained to call tools. The default is yes.

    For other models, hosted tools are called in advance, and code is taken from the text of the answer."""

    @property
    def calls_tools(self) -> bool: ...


class ModelError(Exception):
    """The model could not answer. `code` and `message` become the run's `last_error`."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message


def usage(prompt_tokens: int, completion_tokens: int, *, cached: int = 0, reasoning: int = 0) -> JSON:
    """Return usage as the API's JSON. `cached` and `reasoning` tokens are included in the other two counts."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        **({"prompt_token_details": {"cached_tokens": cached}} if cached else {}),
        **({"completion_tokens_details": {"reasoning_tokens": reasoning}} if reasoning else {}),
    }


class Answered(NamedTuple):
    """A tool call of this run with its output."""

    name: str
    arguments: str
    output: str


def text_of(message: JSON) -> str:
    """Return the text of a message. Its content can be text, a list of parts, or missing. Images become notes."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] if part["type"] == "text" else _image(part) for part in content)


def _image(part: JSON) -> str:
    url: str = part["image_url"]["url"]
    return "[image]" if url.startswith("data:") else f"[image {url[:200]}]"


def questions(prompt: Prompt) -> list[str]:
    """Return the messages of the user, the latest first."""
    return [text_of(message) for message in reversed(prompt.messages) if message["role"] == "user"]


def answered(prompt: Prompt) -> list[Answered]:
    """Return the answered calls of this run, which are those after the user's last message."""
    last = max((i for i, message in enumerate(prompt.messages) if message["role"] == "user"), default=-1)
    turn = prompt.messages[last + 1 :]
    calls = {call["id"]: call["function"] for message in turn for call in message.get("tool_calls") or ()}
    return [
        Answered(calls[tool]["name"], calls[tool]["arguments"], text_of(message))
        for message in turn
        if message["role"] == "tool" and (tool := message["tool_call_id"]) in calls
    ]


def functions_due(prompt: Prompt) -> list[JSON]:
    """Return the functions to call now, according to `tool_choice`; none after calls of this run were answered."""
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
    """Return the JSON Schema for the answer, or None for plain text."""
    wanted = prompt.response_format
    if not isinstance(wanted, dict) or wanted.get("type") not in ("json_object", "json_schema"):
        return None
    schema: Schema = wanted.get("json_schema", {}).get("schema", {"type": "object"})
    return schema
