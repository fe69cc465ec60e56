"""Shorten a conversation by leaving out messages in its middle."""

from __future__ import annotations

import json

from nbruns.text import JSON

Messages = list[JSON]

#: Estimate for when no tokenizer is available.
CHARACTERS_PER_TOKEN = 4


def within(messages: Messages, tokens: float) -> Messages:
    """Return the messages, shortened to an estimated number of tokens.

    Everything that belongs to the last question is kept, so the result can still be longer.
    """
    excess = sum(map(_length, messages)) - tokens * CHARACTERS_PER_TOKEN
    return without(messages, excess) if excess > 0 else messages


def shorter(messages: Messages) -> Messages:
    """Return the messages without about half of those that can be left out; unchanged if none can."""
    return without(messages, sum(_length(messages[at]) for at in _droppable(messages)) / 2)


def without(messages: Messages, characters: float) -> Messages:
    """Return the messages without a number of characters in their middle. The first message is dropped last."""
    first, *middle = _droppable(messages) or [-1]
    dropped = set[int]()
    for at in [*middle, first]:
        if characters <= 0 or at < 0:
            break
        dropped.add(at)
        characters -= _length(messages[at])
    return [message for at, message in enumerate(messages) if at not in dropped]


def _droppable(messages: Messages) -> list[int]:
    question = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=0)
    return [at for at in range(question) if messages[at]["role"] in ("user", "assistant")]


def _length(message: JSON) -> int:
    said = message.get("content") or ""
    text = said if isinstance(said, str) else "".join(part.get("text", "") for part in said)
    return len(text) + (len(json.dumps(calls)) if (calls := message.get("tool_calls")) else 0)
