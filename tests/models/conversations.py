"""Prompts and answers as tests say them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from nbruns.server.models import Delta, Finish, Model, Prompt, RefusalDelta, TextDelta, ToolCallDelta

if TYPE_CHECKING:
    from nbruns.server.models.upstream import Upstream

T = TypeVar("T")
_LOOP = asyncio.Runner()
opened: list[Upstream] = []

WEATHER = {
    "name": "get_weather",
    "description": "Get the weather in a city",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "The city"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
}
MULTIPLY = {
    "name": "multiply",
    "description": "Multiply two numbers",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
    },
}


@dataclass
class Answer:
    """An answer folded from its deltas."""

    text: str = ""
    refusal: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish: Finish | None = None
    pieces: list[Delta] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        assert self.finish is None, "a delta after the Finish"
        self.pieces.append(delta)
        if isinstance(delta, TextDelta):
            self.text += delta.text
        elif isinstance(delta, ToolCallDelta):
            if delta.index == len(self.calls):
                assert delta.id and delta.name, "the first piece of a call has its id and name"
                function = {"name": delta.name, "arguments": ""}
                self.calls.append({"id": delta.id, "type": "function", "function": function})
            self.calls[delta.index]["function"]["arguments"] += delta.arguments
        elif isinstance(delta, Finish):
            self.finish = delta
        else:
            assert isinstance(delta, RefusalDelta)
            self.refusal += delta.text

    @property
    def called(self) -> list[tuple[str, Any]]:
        """Name and parsed arguments of each call."""
        functions = [call["function"] for call in self.calls]
        return [(function["name"], json.loads(function["arguments"])) for function in functions]


def asked(text: str, *functions: dict[str, Any], **parameters: Any) -> Prompt:
    """A user's question, put to an assistant with these functions."""
    tools = [{"type": "function", "function": function} for function in functions]
    return Prompt("any", [{"role": "user", "content": text}], tools, **parameters)


def followed(prompt: Prompt, answer: Answer, *outputs: str) -> Prompt:
    """The prompt after the calls in `answer` gave these outputs."""
    said = {"role": "assistant", "content": None, "tool_calls": answer.calls}
    pairs = zip(answer.calls, outputs, strict=True)
    gave = [{"role": "tool", "tool_call_id": call["id"], "content": output} for call, output in pairs]
    return replace(prompt, messages=[*prompt.messages, said, *gave])


async def folded(deltas: AsyncIterator[Delta]) -> Answer:
    answer = Answer()
    async for delta in deltas:
        answer.add(delta)
    return answer


def answer(model: Model, prompt: Prompt) -> Answer:
    """Let the model answer, to the end."""
    return run(folded(model.answer(prompt)))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do it in the one event loop of these tests: an upstream's connections belong to theirs."""
    return _LOOP.run(work)


def upstream(url: str, api: str | None = None, max_retries: int = 0, timeout: float = 600) -> Upstream:
    """The models of an endpoint, until the test is over (see conftest)."""
    from nbruns.server.models.upstream import Upstream

    opened.append(Upstream(url, api=api, max_retries=max_retries, timeout=timeout))
    return opened[-1]
