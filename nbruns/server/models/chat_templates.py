"""Prompts for GGUF files whose chat template supports tools: llama.cpp applies it and parses calls."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from nbruns.server.models import chat_completions, llama
from nbruns.server.models.protocol import Prompt
from nbruns.server.models.request import answer_schema, answered, functions_due, text_of
from nbruns.text import JSON

#: Key of the template in a GGUF file, followed by the type and length of its value.
_TEMPLATE = re.compile(rb"tokenizer\.chat_template\x08\0\0\0(.{8})", re.DOTALL)
#: The template precedes the weights; the vocabulary before it has a few megabytes.
HEAD = 1 << 26
_TOOLS = re.compile(rb"\btools\b")


def knows_tools(path: Path) -> bool:
    """Whether the chat template in a GGUF file has a place for tools."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if (found := _TEMPLATE.search(head)) is None:
        return False
    length = int.from_bytes(found[1], "little")
    return bool(_TOOLS.search(head, found.end(), min(found.end() + length, HEAD)))


def request(prompt: Prompt) -> JSON:
    """A request as llama.cpp takes it."""
    schema = answer_schema(prompt)
    if schema is not None and (answered(prompt) or not prompt.tools):
        # A grammar of the answer leaves no room for calls.
        return {**_body(replace(prompt, tools=[])), "grammar": llama.object_grammar(schema)}
    if isinstance(prompt.tool_choice, dict):  # llama.cpp knows no named choice
        named = [{"type": "function", "function": function} for function in functions_due(prompt)]
        return _body(replace(prompt, tools=named, tool_choice="required"))
    return _body(prompt)


def _body(prompt: Prompt) -> JSON:
    messages = [
        {**message, "content": text_of(message) if message["content"] is not None else None}
        for message in prompt.messages
    ]
    return chat_completions.body(replace(prompt, messages=messages, response_format=None))
