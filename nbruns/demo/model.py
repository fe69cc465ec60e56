"""The model `demo`: a script that calls the tools of a run and answers with their outputs."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator
from typing import Any

from nbruns.demo import answer_text, code
from nbruns.demo.example import example, is_quick
from nbruns.json_schema import Schema, merged
from nbruns.server.limited_process import LimitExceeded, Processes
from nbruns.server.models.protocol import (
    Delta,
    Finish,
    FinishReason,
    ModelError,
    Prompt,
    TextDelta,
    ToolCallDelta,
    answer_schema,
    answered,
    functions_due,
    questions,
    usage,
)
from nbruns.text import JSON

#: Number of characters that count as a token, because there is no tokenizer.
CHARACTERS_PER_TOKEN = 4
_ATTACHED = re.compile(r"(?:\n\[attached file [^\]\n]*\])+\Z")


class Scripted:
    """Model that answers offline by fixed rules. The same prompt gets the same answer, except for the ids of calls.

    It first calls function tools: all of them with `parallel_tool_calls`, otherwise the first, or the one that
    `tool_choice` names; none with "none". Arguments are generated from the parameter schemas and the user's message.
    For code_interpreter, it writes code if the message is about a table, a plot or a sum. After the outputs, or without
    tools, it answers in Markdown, or in JSON for a `response_format`. 4 characters count as a token, and `pause`
    seconds pass between pieces.
    """

    def __init__(self, pause: float = 0.015) -> None:
        self.pause = pause
        self._processes = Processes()

    async def answer(self, prompt: Prompt) -> AsyncIterator[Delta]:
        """Yield the answer word by word."""
        room, spent = _room(prompt), 0
        deltas = await self._calls(prompt) or await self._text(prompt)
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

    async def close(self) -> None:
        """Stop the processes that generate examples for schemas."""
        await self._processes.close()

    async def _calls(self, prompt: Prompt) -> list[Delta]:
        due, said = functions_due(prompt), _said(prompt)
        written = _written_code(prompt, due)
        due = [function for function in due if function["name"] != code.FUNCTION or written is not None]
        calls: list[Delta] = []
        for index, function in enumerate(due if prompt.parallel_tool_calls else due[:1]):
            schema = merged({"type": "object"}, function.get("parameters") or {})
            of = f"the parameters of the function '{function['name']}'"
            if function["name"] == code.FUNCTION:
                values: Any = {code.PARAMETER: written}
            else:
                values = await self._example(schema, said, of)
            arguments = json.dumps(values, ensure_ascii=False)
            calls.append(ToolCallDelta(index, id=f"call_{secrets.token_hex(12)}", name=function["name"]))
            calls += [ToolCallDelta(index, arguments=piece) for piece in _pieces(arguments)]
        return calls

    async def _text(self, prompt: Prompt) -> list[Delta]:
        schema, said = answer_schema(prompt), _said(prompt)
        if schema is None:
            calls = answered(prompt)
            text = answer_text.from_outputs(calls, said) if calls else answer_text.without_tools(said)
            answers = (str(each.get("content")) for each in prompt.messages if each["role"] == "assistant")
            if any(answer_text.COLOPHON in answer for answer in answers):  # only once in a conversation
                text = text.partition(f"\n---\n\n{answer_text.COLOPHON}")[0]
        elif schema == {"type": "object"}:
            text = json.dumps(answer_text.as_object(said), ensure_ascii=False)
        else:
            text = json.dumps(await self._example(schema, said, "the response format"), ensure_ascii=False)
        return [TextDelta(piece) for piece in _pieces(text)]

    async def _example(self, schema: Schema, said: list[str], of: str) -> Any:
        if is_quick(schema):
            return example(schema, said)
        try:
            return await self._processes.call("nbruns.demo.example:example", schema, said)
        except (LimitExceeded, RuntimeError) as error:
            why = f"Working with the JSON Schema of {of} failed ({error})."
            mend = "Simplify it: patterns, references to itself and long lists can take for ever."
            raise ModelError("invalid_prompt", f"{why} {mend}") from None


def _said(prompt: Prompt) -> list[str]:
    """Return the user's messages, latest first, without the server's notes about attached files."""
    return [_ATTACHED.sub("", text) for text in questions(prompt)]


def _written_code(prompt: Prompt, due: list[JSON]) -> str | None:
    """Return the code to run for a prompt; None if code_interpreter is not available or not needed."""
    function = next((each for each in due if each["name"] == code.FUNCTION), None)
    if function is None:
        return None
    wanted = isinstance(prompt.tool_choice, dict) or prompt.tool_choice == "required"
    return code.code_for(function, questions(prompt), wanted=wanted)


def tokens(characters: int) -> int:
    """Convert a number of characters to a number of tokens."""
    return -(-characters // CHARACTERS_PER_TOKEN)


def _room(prompt: Prompt) -> int:
    limit = prompt.max_completion_tokens
    return limit * CHARACTERS_PER_TOKEN if limit is not None else 1 << 30


def _pieces(text: str) -> list[str]:
    """Split a text into words, each with the space that follows it."""
    return re.findall(r"\s*\S{1,24}\s*", text) or [text]


def _length(delta: Delta) -> int:
    if isinstance(delta, ToolCallDelta):
        return len(delta.name or "") + len(delta.arguments)
    return len(delta.text) if isinstance(delta, TextDelta) else 0


def _cut(delta: Delta, room: int) -> Delta | None:
    """Return the delta, truncated to `room`; None if nothing fits."""
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
