"""Prompts with tools for small models whose chat template doesn't support them.

Tools are listed in the system message in the format of Hermes models, and a last message begins the call for the
model. Outputs are placed below the question as facts, which a model of 135M parameters understands best.
"""

from __future__ import annotations

import json

from nbruns.server.models.protocol import Prompt, text_of
from nbruns.text import JSON

Messages = list[dict[str, str]]

TOOLS = (
    'You have tools. To call one, write <tool_call>{{"name": ..., "arguments": {{...}}}}</tool_call>.\n'
    "<tools>\n{tools}\n</tools>"
)
FACTS = "Answer in one or two short sentences, from the facts given."
DEFAULT = "You are a helpful assistant."


def naming(prompt: Prompt, functions: list[JSON]) -> Messages:
    """Return the messages that make the model write the name of one of the functions."""
    return _asking(prompt, functions, '{"name": "')


def filling(prompt: Prompt, functions: list[JSON], name: str) -> Messages:
    """Return the messages that make the model write a function's arguments. They begin like those of `naming`."""
    return _asking(prompt, functions, f'{{"name": {json.dumps(name)}, "arguments": ')


def answering(prompt: Prompt) -> Messages:
    """Return the messages that make the model answer in text, from the outputs if there are any."""
    instructions, messages = _plain(prompt)
    if any(message["role"] == "tool" for message in prompt.messages):
        return [_system(f"{instructions or DEFAULT} {FACTS}"), *messages]
    return [_system(instructions), *messages] if instructions else messages


def shorter(messages: Messages) -> Messages:
    """Return the messages without the oldest; if only the question is left, with the longest message truncated."""
    last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=0)
    oldest = 1 if messages[0]["role"] == "system" else 0
    if oldest < last:
        return messages[:oldest] + messages[oldest + 1 :]
    longest = max(range(len(messages)), key=lambda i: len(messages[i]["content"]))
    text = messages[longest]["content"]
    cut = {**messages[longest], "content": f"{text[: len(text) // 4]} … {text[-(len(text) // 4) :]}"}
    return [*messages[:longest], cut, *messages[longest + 1 :]]


def _asking(prompt: Prompt, functions: list[JSON], begun: str) -> Messages:
    instructions, messages = _plain(prompt)
    tools = TOOLS.format(tools="\n".join(json.dumps(function) for function in functions))
    call = {"role": "assistant", "content": f"<tool_call>\n{begun}"}
    return [_system(instructions, tools), *messages, call]


def _system(*parts: str) -> dict[str, str]:
    return {"role": "system", "content": "\n".join(filter(None, parts))}


def _plain(prompt: Prompt) -> tuple[str, Messages]:
    """Return the instructions and the messages, with outputs below the question that they answer."""
    instructions: list[str] = []
    messages: Messages = []
    calls: dict[str, str] = {}
    for message in prompt.messages:
        text = text_of(message)
        if message["role"] in ("system", "developer"):
            instructions.append(text)
        elif message["role"] == "tool":
            facts = f"Facts from {calls.get(message['tool_call_id'], 'a tool')}: {text}"
            messages[-1:] = [{**last, "content": f"{last['content']}\n\n{facts}"} for last in messages[-1:]]
        elif text:
            messages.append({"role": message["role"], "content": text})
        for call in message.get("tool_calls") or ():
            calls[call["id"]] = call["function"]["name"] + call["function"]["arguments"]
    return "\n".join(instructions), messages
