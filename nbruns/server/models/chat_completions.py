"""The Chat Completions endpoint of an upstream."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from nbruns.server.models.endpoint import (
    Endpoint,
    StreamedError,
    counted,
    items,
    mapping,
    said,
    stated,
    text,
)
from nbruns.server.models.protocol import (
    Delta,
    Finish,
    FinishReason,
    Prompt,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)
from nbruns.text import JSON

#: Finish reasons of the endpoint, and their meaning. Unknown reasons count as `stop`.
REASONS: dict[str, FinishReason] = {
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


def body(prompt: Prompt) -> JSON:
    """Return the body of a request."""
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
    return {**stated(parameters), "stream": True, "stream_options": {"include_usage": True}}


class AnswerReader:
    """Reads an answer, chunk by chunk."""

    def __init__(self, body: JSON) -> None:
        self._reason: FinishReason | None = None
        self._usage: JSON | None = None
        self._calls: list[int] = []

    @property
    def finish(self) -> Finish | None:
        """How the answer ended; None while it has not, or if it was cut off."""
        return Finish(self._reason, self._usage) if self._reason else None

    def read(self, event: JSON) -> Iterator[Delta]:
        """Yield the deltas of a chunk."""
        if event.get("error"):
            raise StreamedError(event["error"])
        if used := mapping(event.get("usage")):
            self._usage = counted(used, "prompt", "completion") or self._usage
        for choice in items(event.get("choices"))[:1]:
            delta = mapping(choice.get("delta"))
            if content := said(delta.get("content")):
                yield TextDelta(content)
            if refused := said(delta.get("refusal")):
                yield RefusalDelta(refused)
            for call in items(delta.get("tool_calls")):
                yield self._call(call)
            if finished := choice.get("finish_reason"):
                reason = REASONS.get(finished, "stop")
                self._reason = "tool_calls" if self._calls and reason == "stop" else reason

    def _call(self, call: JSON) -> ToolCallDelta:
        """Return a piece of a call. Servers that omit `index` send complete calls, or continue the last one."""
        function = mapping(call.get("function"))
        name, arguments = text(function.get("name")), text(function.get("arguments"))
        index = call.get("index")
        index = index if isinstance(index, int) else len(self._calls) - (not name)
        if index in self._calls:
            return ToolCallDelta(self._calls.index(index), arguments=arguments)
        self._calls.append(index)
        id = text(call.get("id")) or f"call_{secrets.token_hex(12)}"
        return ToolCallDelta(len(self._calls) - 1, id=id, name=name, arguments=arguments)


CHAT = Endpoint("/chat/completions", body, AnswerReader)
