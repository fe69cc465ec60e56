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
    """One turn to be answered: messages in Chat Completions shape, and the run's parameters."""

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
    #: When the run expires (seconds since 1970): nothing is waited for beyond that.
    deadline: float | None = None


@dataclass(frozen=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class RefusalDelta:
    """A piece of the text with which the model refuses to answer."""

    text: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of the tool call at `index`: id and name come with the first, arguments in any number."""

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
    """What a model can have besides: it is called when the server ends."""

    async def close(self) -> None: ...


@runtime_checkable
class ToolUser(Protocol):
    """What a model can have besides: whether it was trained to call tools. Others are taken to have been.

    What hosted tools find for one that was not is given to it up front, and code it writes in its text."""

    @property
    def calls_tools(self) -> bool: ...


class ModelError(Exception):
    """The model could not answer; `code` and `message` become the run's `last_error`."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message


def usage(prompt_tokens: int, completion_tokens: int, *, cached: int = 0, reasoning: int = 0) -> JSON:
    """Usage as the API states it; `cached` prompt tokens and `reasoning` tokens are counted in the others too."""
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
    """The text of a message whose content is a string, a list of parts, or absent; images are named."""
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
