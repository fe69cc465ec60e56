"""Models of a Chat Completions endpoint elsewhere, asked through the package openai."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from nbruns.errors import SetupError, excerpt
from nbruns.server.models.contract import (
    Delta,
    ErrorCode,
    Finish,
    FinishReason,
    ModelError,
    Prompt,
    TextDelta,
    ToolCallDelta,
    usage,
)

#: Where the key is looked for, in this order; it is never given in any other way.
KEYS = ("NBRUNS_UPSTREAM_API_KEY", "OPENAI_API_KEY")

#: What an HTTP status means for a run.
CODES: dict[int, ErrorCode] = {400: "invalid_prompt", 422: "invalid_prompt", 429: "rate_limit_exceeded"}

#: What the reasons to finish mean; unknown ones count as `stop`.
REASONS: dict[str, FinishReason] = {
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


class Upstream:
    """Every model of the Chat Completions endpoint at `base_url` (such as `http://127.0.0.1:11434/v1`).

    The key comes from the environment, NBRUNS_UPSTREAM_API_KEY or else OPENAI_API_KEY, and stays here; an
    endpoint that needs none gets a placeholder. What fails is tried again `max_retries` times, unless a part
    of the answer has come already.
    """

    def __init__(self, base_url: str, *, max_retries: int = 2, timeout: float = 600) -> None:
        if find_spec("openai") is None:
            raise SetupError(
                "An upstream is asked through the package openai, which is missing: pip install openai"
            )
        from openai import AsyncOpenAI

        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SetupError(
                "The upstream must be the URL of an endpoint, such as http://127.0.0.1:11434/v1."
            )
        self.host = parts.hostname + (f":{parts.port}" if parts.port else "")
        self._key = next((os.environ[name] for name in KEYS if os.environ.get(name)), "")
        self._client = AsyncOpenAI(
            base_url=base_url, api_key=self._key or "none", max_retries=max_retries, timeout=timeout
        )

    async def answer(self, prompt: Prompt) -> AsyncIterator[Delta]:
        """Yield the upstream's answer as it comes."""
        answer = _Answer()
        try:
            stream: Any = await self._client.chat.completions.create(**request(prompt))
            async with stream as chunks:
                async for chunk in chunks:
                    for delta in answer.read(chunk):
                        yield delta
        except Exception as error:
            raise self._failure(error) from None  # its request carries the key
        if answer.reason is None:
            raise ModelError(
                "server_error", f"The upstream {self.host} ended its answer without finishing it."
            )
        yield Finish(answer.reason, answer.usage)

    def _failure(self, error: Exception) -> ModelError:
        if isinstance(error, ModelError):
            return error
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            mend = f"set {KEYS[0]} to its key where the server is started, and start it again"
            return ModelError("server_error", f"The upstream {self.host} refused the key ({status}): {mend}.")
        text = str(error) or type(error).__name__
        said = excerpt(text.replace(self._key, "…") if self._key else text)
        return ModelError(CODES.get(status or 0, "server_error"), f"The upstream {self.host} failed: {said}")


def request(prompt: Prompt) -> dict[str, Any]:
    """The parameters of a Chat Completions request; what the run does not set is left to the upstream."""
    with_tools = {
        "tools": prompt.tools,
        "tool_choice": prompt.tool_choice,
        "parallel_tool_calls": prompt.parallel_tool_calls,
    }
    parameters = {
        "model": prompt.model,
        "messages": prompt.messages,
        "response_format": prompt.response_format if prompt.response_format != "auto" else None,
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "max_completion_tokens": prompt.max_completion_tokens,
        "reasoning_effort": prompt.reasoning_effort,
        **(with_tools if prompt.tools else {}),
    }
    stated = {name: value for name, value in parameters.items() if value is not None}
    return {**stated, "stream": True, "stream_options": {"include_usage": True}}


class _Answer:
    """An answer as far as it has been read."""

    def __init__(self) -> None:
        self.reason: FinishReason | None = None
        self.usage = usage(0, 0)
        self._calls: list[int] = []

    def read(self, chunk: Any) -> Iterator[Delta]:
        """Yield what a chunk adds."""
        if chunk.usage is not None:
            self.usage = usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        for choice in chunk.choices[:1]:
            if text := choice.delta.content or getattr(choice.delta, "refusal", None):
                yield TextDelta(text)
            for call in choice.delta.tool_calls or ():
                yield self._call(call)
            if choice.finish_reason:
                reason = REASONS.get(choice.finish_reason, "stop")
                self.reason = "tool_calls" if self._calls and reason == "stop" else reason

    def _call(self, call: Any) -> ToolCallDelta:
        """A piece of a call; servers that leave `index` out send each call whole, or go on with the last."""
        name = call.function.name if call.function else None
        arguments = (call.function.arguments if call.function else None) or ""
        index = call.index if call.index is not None else len(self._calls) - (not name)
        if index in self._calls:
            return ToolCallDelta(self._calls.index(index), arguments=arguments)
        self._calls.append(index)
        id = call.id or f"call_{secrets.token_hex(12)}"
        return ToolCallDelta(len(self._calls) - 1, id=id, name=name or "", arguments=arguments)
