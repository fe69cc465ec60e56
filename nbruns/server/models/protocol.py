"""The protocol of models.

A model receives a `Prompt` and yields deltas: text, pieces of tool calls, and finally a `Finish`. It raises
`ModelError` for a run's `last_error`. Closing or cancelling the iteration stops the generation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

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
