"""`demo`: a script in place of a model. It calls the tools it is given and answers from their outputs."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

from nbruns.server.models import demo_text
from nbruns.server.models.contract import Delta, Finish, FinishReason, Prompt, TextDelta, ToolCallDelta, usage
from nbruns.server.models.example import example
from nbruns.server.models.schemas import merged
from nbruns.server.models.turn import answer_schema, answered, functions_due, questions

#: The rule by which tokens are counted, here where there is no tokenizer.
CHARACTERS_PER_TOKEN = 4


class Scripted:
    """Answers by fixed rules, offline: the same prompt gets the same answer (but for the ids of calls).

    Where function tools are due it calls them: all of them with `parallel_tool_calls`, else the first; the
    one that `tool_choice` names; none with "none". Arguments are made from the parameter schemas and from
    what the user's message offers. Once there are outputs, or without tools, it answers in Markdown, or in
    JSON of the `response_format`. Every 4 characters count as a token; `pause` seconds pass between pieces.
    """

    def __init__(self, pause: float = 0.015) -> None:
        self.pause = pause

    async def answer(self, prompt: Prompt) -> AsyncIterator[Delta]:
        """Yield the answer word by word."""
        room, spent = _room(prompt), 0
        deltas = _calls(prompt) or _text(prompt)
        for delta in deltas:
            cut = _cut(delta, room - spent)
            spent += _length(delta)
            if cut is not None:
                yield cut
            if spent > room:
                break
            await asyncio.sleep(self.pause)
        done: FinishReason = "tool_calls" if isinstance(deltas[0], ToolCallDelta) else "stop"
        yield Finish(
            "length" if spent > room else done, usage(_prompt_tokens(prompt), tokens(min(spent, room)))
        )


def tokens(characters: int) -> int:
    """How many tokens so many characters count as."""
    return -(-characters // CHARACTERS_PER_TOKEN)


def _room(prompt: Prompt) -> int:
    limit = prompt.max_completion_tokens
    return limit * CHARACTERS_PER_TOKEN if limit is not None else 1 << 30


def _calls(prompt: Prompt) -> list[Delta]:
    due = functions_due(prompt)
    return [
        delta
        for index, function in enumerate(due if prompt.parallel_tool_calls else due[:1])
        for delta in _call(index, function, questions(prompt))
    ]


def _call(index: int, function: dict[str, Any], said: list[str]) -> Iterator[Delta]:
    schema = merged({"type": "object"}, function.get("parameters") or {})
    arguments = json.dumps(example(schema, said), ensure_ascii=False)
    yield ToolCallDelta(index, id=f"call_{secrets.token_hex(12)}", name=function["name"])
    yield from (ToolCallDelta(index, arguments=piece) for piece in _pieces(arguments))


def _text(prompt: Prompt) -> list[Delta]:
    return [TextDelta(piece) for piece in _pieces(_answer(prompt))]


def _answer(prompt: Prompt) -> str:
    schema, said = answer_schema(prompt), questions(prompt)
    if schema is not None:
        value = demo_text.as_object(said) if schema == {"type": "object"} else example(schema, said)
        return json.dumps(value, ensure_ascii=False)
    calls = answered(prompt)
    return demo_text.from_outputs(calls) if calls else demo_text.without_tools(said)


def _pieces(text: str) -> list[str]:
    """The text in pieces of a word each, with the space that follows it."""
    return re.findall(r"\s*\S{1,24}\s*", text) or [text]


def _length(delta: Delta) -> int:
    if isinstance(delta, ToolCallDelta):
        return len(delta.name or "") + len(delta.arguments)
    return len(delta.text) if isinstance(delta, TextDelta) else 0


def _cut(delta: Delta, room: int) -> Delta | None:
    """The delta as far as there is room for it."""
    if _length(delta) <= room:
        return delta
    if isinstance(delta, TextDelta) and room > 0:
        return TextDelta(delta.text[:room])
    if isinstance(delta, ToolCallDelta) and delta.name is None and room > 0:
        return ToolCallDelta(delta.index, arguments=delta.arguments[:room])
    return None


def _prompt_tokens(prompt: Prompt) -> int:
    parts = [message.get("content") or message.get("tool_calls") for message in prompt.messages]
    texts = [part if isinstance(part, str) else json.dumps(part) for part in [*parts, *prompt.tools]]
    return sum(tokens(len(text)) for text in texts)
