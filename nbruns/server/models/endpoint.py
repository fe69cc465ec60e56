"""Common parts of the two endpoints of an upstream: a request body, and events that are converted to deltas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from nbruns.server.models.protocol import Delta, Finish, Prompt, usage
from nbruns.text import JSON


class AnswerReader(Protocol):
    """Reads an answer, event by event."""

    @property
    def finish(self) -> Finish | None:
        """How the answer ended; None while it has not, or if it was cut off."""

    def read(self, event: JSON) -> Iterator[Delta]:
        """Yield the deltas of an event. Raises StreamedError if the event is an error."""


@dataclass(frozen=True)
class Endpoint:
    """An endpoint: its path below the base URL, and functions for the request body and for reading the answer."""

    path: str
    body: Callable[[Prompt], JSON]
    reading: Callable[[JSON], AnswerReader]


class StreamedError(Exception):
    """Error in the middle of a stream, with the upstream's error object."""

    def __init__(self, error: Any) -> None:
        self.error = error
        message = mapping(error).get("message") or error
        super().__init__(message if isinstance(message, str) else json.dumps(message))


def stated(parameters: JSON) -> JSON:
    """Return the parameters that are set. The upstream uses its own defaults for the others."""
    return {name: value for name, value in parameters.items() if value is not None}


def mapping(value: Any) -> JSON:
    """Return an object, or an empty one for anything else: upstreams omit objects or send null."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[JSON]:
    """Return the objects of a list, or an empty list for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text(value: Any) -> str:
    """Return a string; objects become JSON, because some upstreams send arguments as objects."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)


def said(content: Any) -> str:
    """Return the text of a content, which can be a list of parts. Reasoning is not part of the answer."""
    if not isinstance(content, list):
        return text(content)
    return "".join(part if isinstance(part, str) else text(mapping(part).get("text")) for part in content)


def count(value: Any) -> int | None:
    """Return a number of tokens, or None if the value is not one."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}(\.0*)?", value.strip()):
        value = float(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value < 1e15 and value == int(value) else None


def counted(used: JSON, prompt: str, completion: str) -> JSON | None:
    """Return usage under the API's names, or None if the endpoint doesn't report it."""
    prompt_tokens, completion_tokens = (
        count(used.get(f"{prompt}_tokens")),
        count(used.get(f"{completion}_tokens")),
    )
    if prompt_tokens is None or completion_tokens is None:
        return None
    return usage(
        prompt_tokens,
        completion_tokens,
        cached=count(mapping(used.get(f"{prompt}_tokens_details")).get("cached_tokens")) or 0,
        reasoning=count(mapping(used.get(f"{completion}_tokens_details")).get("reasoning_tokens")) or 0,
    )
