"""The objects as they go over the wire: every field, in the order and with the defaults of the original."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

JSON = dict[str, Any]

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 24
#: The statuses of runs that go on, and of those that have ended.
ACTIVE = ("queued", "in_progress", "requires_action", "cancelling")
ENDED = ("cancelled", "failed", "completed", "incomplete", "expired")
#: Set by the run, never by who creates it.
NO_USAGE: JSON = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
_USAGE_DETAILS: dict[str, JSON] = {
    "prompt_token_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def new_id(prefix: str) -> str:
    """An id that nobody can guess: about 143 random bits."""
    return prefix + "_" + "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))


def derived_id(prefix: str, *path: object) -> str:
    """The same id for the same path: a leg of a run that is done again makes the same objects."""
    number = int.from_bytes(hashlib.sha256("/".join(map(str, path)).encode()).digest())
    letters = []
    for _ in range(_ID_LENGTH):
        number, letter = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[letter])
    return prefix + "_" + "".join(letters)


def assistant(params: JSON, now: int) -> JSON:
    """A new assistant."""
    return {
        "id": new_id("asst"),
        "object": "assistant",
        "created_at": now,
        "name": params.get("name"),
        "description": params.get("description"),
        "model": params["model"],
        "instructions": params.get("instructions"),
        "tools": params.get("tools") or [],
        "top_p": _or(params.get("top_p"), 1.0),
        "temperature": _or(params.get("temperature"), 1.0),
        "reasoning_effort": params.get("reasoning_effort"),
        "tool_resources": params.get("tool_resources") or {},
        "metadata": params.get("metadata") or {},
        "response_format": params.get("response_format") or "auto",
    }


#: What a null in an update sets, where that is not null.
ASSISTANT_DEFAULTS: JSON = {
    "tools": [],
    "top_p": 1.0,
    "temperature": 1.0,
    "tool_resources": {},
    "metadata": {},
    "response_format": "auto",
}


def thread(params: JSON, now: int) -> JSON:
    """A new thread."""
    return {
        "id": new_id("thread"),
        "object": "thread",
        "created_at": now,
        "metadata": params.get("metadata") or {},
        "tool_resources": params.get("tool_resources") or {},
    }


def message(params: JSON, thread_id: str, now: int) -> JSON:
    """A message that a user put on a thread."""
    return {
        "id": new_id("msg"),
        "object": "thread.message",
        "created_at": now,
        "assistant_id": None,
        "thread_id": thread_id,
        "run_id": None,
        "status": "completed",
        "incomplete_details": None,
        "incomplete_at": None,
        "completed_at": now,
        "role": params["role"],
        "content": params["content"],
        "attachments": params.get("attachments") or [],
        "metadata": params.get("metadata") or {},
    }


def answer(run: JSON, id: str, now: int) -> JSON:
    """A message that a run has begun to write."""
    return {
        "id": id,
        "object": "thread.message",
        "created_at": now,
        "assistant_id": run["assistant_id"],
        "thread_id": run["thread_id"],
        "run_id": run["id"],
        "status": "in_progress",
        "incomplete_details": None,
        "incomplete_at": None,
        "completed_at": None,
        "role": "assistant",
        "content": [],
        "attachments": [],
        "metadata": {},
    }


def run(assistant: JSON, params: JSON, thread_id: str, now: int, lifetime: int) -> JSON:
    """A new run: the assistant's settings, as far as `params` does not override them."""
    overrides = {name: value for name, value in params.items() if value is not None}
    chosen = {**assistant, **overrides}
    instructions = [chosen["instructions"], overrides.get("additional_instructions")]
    return {
        "id": new_id("run"),
        "object": "thread.run",
        "created_at": now,
        "assistant_id": assistant["id"],
        "thread_id": thread_id,
        "status": "queued",
        "started_at": None,
        "expires_at": now + lifetime,
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "required_action": None,
        "last_error": None,
        "model": chosen["model"],
        "instructions": "\n".join(part for part in instructions if part) or chosen["instructions"],
        "tools": chosen["tools"],
        "tool_resources": chosen["tool_resources"],
        "metadata": overrides.get("metadata", {}),
        "temperature": chosen["temperature"],
        "top_p": chosen["top_p"],
        "reasoning_effort": chosen["reasoning_effort"],
        "max_completion_tokens": overrides.get("max_completion_tokens"),
        "max_prompt_tokens": overrides.get("max_prompt_tokens"),
        "truncation_strategy": overrides.get("truncation_strategy", {"type": "auto", "last_messages": None}),
        "incomplete_details": None,
        "usage": None,
        "response_format": chosen["response_format"],
        "tool_choice": overrides.get("tool_choice", "auto"),
        "parallel_tool_calls": overrides.get("parallel_tool_calls", True),
    }


def step(run: JSON, id: str, details: JSON, now: int) -> JSON:
    """A step that a run has begun; `details` is its `step_details`."""
    return {
        "id": id,
        "object": "thread.run.step",
        "created_at": now,
        "run_id": run["id"],
        "assistant_id": run["assistant_id"],
        "thread_id": run["thread_id"],
        "type": details["type"],
        "status": "in_progress",
        "cancelled_at": None,
        "completed_at": None,
        "expired_at": None,
        "expires_at": run["expires_at"],
        "failed_at": None,
        "last_error": None,
        "step_details": details,
        "usage": None,
        "metadata": {},
    }


def text_part(text: str) -> JSON:
    """A part of a message's content."""
    return {"type": "text", "text": {"value": text, "annotations": []}}


def content_part(kind: str, text: str) -> JSON:
    """A part of what a run wrote: `text`, or a `refusal`."""
    return text_part(text) if kind == "text" else {"type": "refusal", "refusal": text}


def usage(counts: JSON) -> JSON:
    """What a model says that it has used, with the details that the original adds."""
    return {**NO_USAGE, **_USAGE_DETAILS, **counts}


def total_usage(parts: list[JSON]) -> JSON:
    """The sum of what a run's steps have used."""
    total = {name: sum(part.get(name, 0) for part in parts) for name in NO_USAGE}
    details = {
        group: {name: sum(part.get(group, zeros).get(name, 0) for part in parts) for name in zeros}
        for group, zeros in _USAGE_DETAILS.items()
    }
    return usage({**total, **details})


def content_delta(message_id: str, index: int, kind: str, text: str, *, first: bool) -> JSON:
    """More of a part of a message: of a `text`, or of a `refusal`."""
    part = content_part(kind, text)
    if kind == "text" and not first:
        part = {"type": "text", "text": {"value": text}}
    content = [{"index": index, **part}]
    return {"id": message_id, "object": "thread.message.delta", "delta": {"content": content}}


def tool_call_delta(step_id: str, call: JSON) -> JSON:
    """More of a tool call: its id and name first, then its arguments piece by piece."""
    details = {"type": "tool_calls", "tool_calls": [call]}
    return {"id": step_id, "object": "thread.run.step.delta", "delta": {"step_details": details}}


def newly_shown(before: JSON, now: JSON) -> JSON:
    """What a delta says of a hosted call's details: the rest of texts and lists that have grown, else the value."""
    shown = {}
    for name, value in now.items():
        known = before.get(name)
        if value == known:
            continue
        if isinstance(value, str) and isinstance(known, str) and value.startswith(known):
            value = value[len(known) :]
        elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
            start = len(known) if isinstance(known, list) else 0
            value = [{"index": index, **item} for index, item in enumerate(value) if index >= start]
        shown[name] = value
    return shown


def page(items: list[JSON], has_more: bool) -> JSON:
    """A list of objects."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def deleted(object: str, id: str) -> JSON:
    """The answer to a deletion."""
    return {"id": id, "object": object + ".deleted", "deleted": True}


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
