"""Create objects as the API returns them: every field, in the order and with the defaults of OpenAI's server."""

from __future__ import annotations

import hashlib
import secrets

from nbruns.server.schemas.assistants import AssistantObject
from nbruns.server.schemas.runs import RunObject, RunStepObject
from nbruns.server.schemas.threads import MessageObject, ThreadObject, text_content
from nbruns.text import JSON

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 24
#: Usage of zero tokens.
NO_USAGE: JSON = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
_USAGE_DETAILS: dict[str, JSON] = {
    "prompt_token_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def new_id(prefix: str, separator: str = "_") -> str:
    """Return a new id with about 143 random bits, so that it can't be guessed."""
    return prefix + separator + _letters(secrets.randbits(256))


def derived_id(prefix: str, *path: object) -> str:
    """Return the id for a path, always the same, so that a repeated turn creates objects with the same ids."""
    return prefix + "_" + _letters(int.from_bytes(hashlib.sha256("/".join(map(str, path)).encode()).digest()))


def _letters(number: int) -> str:
    letters = []
    for _ in range(_ID_LENGTH):
        number, letter = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[letter])
    return "".join(letters)


def assistant(params: JSON, now: int) -> JSON:
    """Return a new assistant."""
    given = {name: value for name, value in params.items() if value is not None}
    return AssistantObject.new(**{"id": new_id("asst"), "created_at": now, **given})


def thread(params: JSON, now: int) -> JSON:
    """Return a new thread."""
    given = {name: params.get(name) or {} for name in ("metadata", "tool_resources")}
    return ThreadObject.new(id=new_id("thread"), created_at=now, **given)


def message(params: JSON, thread_id: str, now: int) -> JSON:
    """Return a message that a request adds to a thread."""
    given = {name: value for name, value in params.items() if value is not None}
    return MessageObject.new(id=new_id("msg"), created_at=now, thread_id=thread_id, completed_at=now, **given)


def answer(run: JSON, id: str, now: int) -> JSON:
    """Return a new message that a run writes."""
    owner = {name: run[name] for name in ("assistant_id", "thread_id")}
    return MessageObject.new(
        id=id, created_at=now, run_id=run["id"], status="in_progress", role="assistant", content=[], **owner
    )


def run(assistant: JSON, params: JSON, thread_id: str, now: int, lifetime: int) -> JSON:
    """Return a new run, with the settings of `params`, otherwise those of the assistant."""
    given = {name: value for name, value in params.items() if value is not None}
    instructions = [
        given.get("instructions", assistant["instructions"]),
        given.get("additional_instructions"),
    ]
    shared = RunObject.model_fields.keys() & {*assistant, *given} - {"id", "object", "created_at"}
    chosen = {**assistant, "metadata": {}, **given}
    return RunObject.new(
        **{name: chosen[name] for name in shared}
        | {
            "id": new_id("run"),
            "created_at": now,
            "thread_id": thread_id,
            "assistant_id": assistant["id"],
            "expires_at": now + lifetime,
            "instructions": "\n".join(part for part in instructions if part) or instructions[0],
        }
    )


def step(run: JSON, id: str, details: JSON, now: int) -> JSON:
    """Return a new step of a run; `details` is its `step_details`."""
    owner = {name: run[name] for name in ("assistant_id", "thread_id", "expires_at")}
    kind = details["type"]
    return RunStepObject.new(
        id=id, created_at=now, run_id=run["id"], type=kind, step_details=details, **owner
    )


def content_part(kind: str, text: str) -> JSON:
    """Return a content part of a run's message: `text`, or a `refusal`."""
    return text_content(text) if kind == "text" else {"type": "refusal", "refusal": text}


#: Usage that is stored if the model didn't report it.
UNKNOWN_USAGE: JSON = {}


def usage(counts: JSON) -> JSON | None:
    """Return usage with the details that OpenAI's server adds, or None if it is unknown."""
    if not counts:
        return None
    return {**NO_USAGE, **_USAGE_DETAILS, **counts}


def total_usage(parts: list[JSON]) -> JSON | None:
    """Return the total usage of a run's steps, or None if the usage of a step is unknown."""
    if not all(parts):
        return None
    total = {name: sum(part.get(name, 0) for part in parts) for name in NO_USAGE}
    details = {
        group: {name: sum(part.get(group, zeros).get(name, 0) for part in parts) for name in zeros}
        for group, zeros in _USAGE_DETAILS.items()
    }
    return usage({**total, **details})


def content_delta(message_id: str, index: int, kind: str, text: str, *, first: bool) -> JSON:
    """Return a delta that appends to a `text` or a `refusal` of a message."""
    part = content_part(kind, text)
    if kind == "text" and not first:
        part = {"type": "text", "text": {"value": text}}
    return part_delta(message_id, index, part)


def part_delta(message_id: str, index: int, part: JSON) -> JSON:
    """Return a delta with a part of a message."""
    content = [{"index": index, **part}]
    return {"id": message_id, "object": "thread.message.delta", "delta": {"content": content}}


def tool_call_delta(step_id: str, call: JSON) -> JSON:
    """Return a delta of a tool call: first its id and name, then its arguments piece by piece."""
    details = {"type": "tool_calls", "tool_calls": [call]}
    return {"id": step_id, "object": "thread.run.step.delta", "delta": {"step_details": details}}


def newly_shown(before: JSON, now: JSON) -> JSON:
    """Return the delta of a hosted call's details: what was appended to texts and lists, otherwise the new
    value.
    """
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
