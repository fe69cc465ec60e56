"""The Responses endpoint of an upstream. Nothing is stored there: each request contains the whole conversation."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

from nbruns.server.models.endpoint import Endpoint, StreamedError, counted, mapping, said, stated, text
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

#: Why a response can be incomplete; anything else counts as `length`.
INCOMPLETE: dict[str, FinishReason] = {"content_filter": "content_filter"}

#: Minimum of max_output_tokens in the API.
LEAST_TOKENS = 16


def body(prompt: Prompt) -> JSON:
    """Return the body of a request."""
    limit = prompt.max_completion_tokens
    with_tools = {
        "tools": [_tool(tool["function"]) for tool in prompt.tools],
        "tool_choice": _tool_choice(prompt.tool_choice),
        "parallel_tool_calls": prompt.parallel_tool_calls,
    }
    parameters = {
        "model": prompt.model,
        "input": [item for message in prompt.messages for item in _items(message)],
        "text": _text(prompt.response_format),
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "max_output_tokens": None if limit is None else max(limit, LEAST_TOKENS),
        "reasoning": {"effort": prompt.reasoning_effort} if prompt.reasoning_effort else None,
        **(with_tools if prompt.tools else {}),
    }
    return {**stated(parameters), "stream": True, "store": False}


def _items(message: JSON) -> Iterator[JSON]:
    """Return a message as items: text, calls, or the output of a call."""
    if message["role"] == "tool":
        output = {"call_id": message["tool_call_id"], "output": message["content"]}
        yield {"type": "function_call_output", **output}
        return
    if message["content"]:
        yield {"type": "message", "role": message["role"], "content": _content(message)}
    for call in message.get("tool_calls") or ():
        yield {"type": "function_call", "call_id": call["id"], **call["function"]}


def _content(message: JSON) -> str | list[JSON]:
    content = message["content"]
    if message["role"] == "assistant":  # llama.cpp's server accepts no other form
        return [{"type": "output_text", "text": content}]
    return content if isinstance(content, str) else [_PARTS[part["type"]](part) for part in content]


_PARTS: dict[str, Callable[[JSON], JSON]] = {
    "text": lambda part: {"type": "input_text", "text": part["text"]},
    "image_url": lambda part: {
        "type": "input_image",
        "image_url": part["image_url"]["url"],
        "detail": part["image_url"].get("detail", "auto"),
    },
}


def _tool(function: JSON) -> JSON:
    # Unlike in other APIs, strict is the default here.
    return {"type": "function", "strict": False, **function}


def _tool_choice(choice: str | JSON | None) -> str | JSON | None:
    return {"type": "function", **choice["function"]} if isinstance(choice, dict) else choice


def _text(wanted: str | JSON | None) -> JSON | None:
    if not isinstance(wanted, dict):
        return None
    return {"format": {"type": wanted["type"], **wanted.get("json_schema", {})}}


class AnswerReader:
    """Reads an answer, event by event."""

    def __init__(self, body: JSON) -> None:
        self.finish: Finish | None = None
        self._limit: int | None = body.get("max_output_tokens")
        self._calls: list[Any] = []
        self._begun: set[int] = set()

    def read(self, event: JSON) -> Iterator[Delta]:
        """Yield the deltas of an event. Events that are not in the table have none."""
        if (read := _EVENTS.get(text(event.get("type")))) is not None:
            yield from read(self, event)

    def said(self, event: JSON) -> Iterator[Delta]:
        """More text."""
        yield TextDelta(said(event.get("delta")))

    def refused(self, event: JSON) -> Iterator[Delta]:
        """More of a refusal."""
        yield RefusalDelta(text(event.get("delta")))

    def item_added(self, event: JSON) -> Iterator[Delta]:
        """The start of a call, or of an item that has its own events."""
        item = mapping(event.get("item"))
        if item.get("type") == "function_call":
            self._calls.append(_place(event, item))
            id = text(item.get("call_id")) or f"call_{secrets.token_hex(12)}"
            yield ToolCallDelta(len(self._calls) - 1, id=id, name=text(item.get("name")))

    def arguments(self, event: JSON) -> Iterator[Delta]:
        """More arguments of a call."""
        if not self._calls:
            return
        index = self._index(event, {"id": event.get("item_id")})
        self._begun.add(index)
        yield ToolCallDelta(index, arguments=text(event.get("delta")))

    def item_done(self, event: JSON) -> Iterator[Delta]:
        """The end of a call, with the complete call if it was not streamed."""
        item = mapping(event.get("item"))
        if item.get("type") != "function_call":
            return
        if _place(event, item) not in self._calls:
            yield from self.item_added(event)
        index = self._index(event, item)
        if index not in self._begun:
            yield ToolCallDelta(index, arguments=text(item.get("arguments")))

    def completed(self, event: JSON) -> Iterator[Delta]:
        """The end of the answer."""
        used = self._used(event)
        # llama.cpp's server reports truncated responses as completed.
        cut = self._limit is not None and used is not None and used["completion_tokens"] >= self._limit
        self.finish = Finish("length" if cut else "tool_calls" if self._calls else "stop", used)
        yield from ()

    def incomplete(self, event: JSON) -> Iterator[Delta]:
        """The end of an incomplete answer."""
        details = mapping(mapping(event.get("response")).get("incomplete_details"))
        self.finish = Finish(INCOMPLETE.get(text(details.get("reason")), "length"), self._used(event))
        yield from ()

    def failed(self, event: JSON) -> Iterator[Delta]:
        """An error, which can be in several places of the event."""
        yield from ()
        raise StreamedError(mapping(event.get("response")).get("error") or event.get("error") or event)

    def _index(self, event: JSON, item: JSON) -> int:
        place = _place(event, item)
        return self._calls.index(place) if place in self._calls else len(self._calls) - 1

    def _used(self, event: JSON) -> JSON | None:
        return counted(mapping(mapping(event.get("response")).get("usage")), "input", "output")


def _place(event: JSON, item: JSON) -> Any:
    """Return what identifies an item of an answer: its index, or its id if the index is missing."""
    place = event.get("output_index")
    return item.get("id") if place is None else place


_EVENTS: dict[str, Callable[[AnswerReader, JSON], Iterator[Delta]]] = {
    "response.output_text.delta": AnswerReader.said,
    "response.refusal.delta": AnswerReader.refused,
    "response.output_item.added": AnswerReader.item_added,
    "response.function_call_arguments.delta": AnswerReader.arguments,
    "response.output_item.done": AnswerReader.item_done,
    "response.completed": AnswerReader.completed,
    "response.incomplete": AnswerReader.incomplete,
    "response.failed": AnswerReader.failed,
    "response.cancelled": AnswerReader.failed,
    "error": AnswerReader.failed,
}

RESPONSES = Endpoint("/responses", body, AnswerReader)
