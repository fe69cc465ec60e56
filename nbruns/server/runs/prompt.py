"""The prompt of a turn: instructions, the thread's messages, and the previous steps of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping

import sqlalchemy as sa

from nbruns.server import hosted
from nbruns.server.models import Prompt, truncation
from nbruns.server.runs.toolbox import resource_files
from nbruns.server.schemas import objects
from nbruns.server.storage import files, store
from nbruns.text import JSON


def resource_names(conn: sa.Connection, run: JSON) -> dict[str, list[str]]:
    """Return the names of the files in a run's `tool_resources`, by type of tool."""
    wanted = resource_files(conn, run)
    known = files.filenames(conn, {id for ids in wanted.values() for id in ids})
    return {type: [known[id] for id in ids if id in known] for type, ids in wanted.items()}


def build(conn: sa.Connection, run: JSON, declared: hosted.Declared) -> Prompt:
    """Return the prompt for a run's next turn."""
    system = [{"role": "system", "content": run["instructions"]}] if run["instructions"] else []
    last = (run["truncation_strategy"] or {}).get("last_messages")
    conversation = store.conversation(conn, run, last)
    named = {
        each["file_id"] for message in conversation for each in message["attachments"] if "file_id" in each
    }
    names = files.filenames(conn, named)
    thread = [_message(message, names) for message in conversation]
    so_far = _turns(conn, run)
    notes = [{"role": "system", "content": note} for note in declared.notes]
    messages = [*system, *notes, *(message for message in thread if message["content"]), *so_far]
    return Prompt(
        model=run["model"],
        messages=_within_limit(conn, run, messages),
        tools=declared.functions,
        tool_choice=_tool_choice(run, declared, begun=bool(so_far)),
        parallel_tool_calls=run["parallel_tool_calls"],
        response_format=run["response_format"],
        temperature=run["temperature"],
        top_p=run["top_p"],
        max_completion_tokens=_tokens_left(conn, run, "completion_tokens"),
        reasoning_effort=run["reasoning_effort"],
        deadline=run["expires_at"],
    )


def _within_limit(conn: sa.Connection, run: JSON, messages: list[JSON]) -> list[JSON]:
    left = _tokens_left(conn, run, "prompt_tokens")
    if left is None:
        return messages
    tools = len(json.dumps(run["tools"])) if run["tools"] else 0
    return truncation.within(messages, left - tools / truncation.CHARACTERS_PER_TOKEN)


def _turns(conn: sa.Connection, run: JSON) -> list[JSON]:
    hosted_calls = store.hosted_calls(conn, run["id"])
    texts = {message["id"]: text_of(message) for message in store.of_run(conn, store.messages, run["id"])}
    turns: list[JSON] = []
    for step in _of_earlier_turns(store.of_run(conn, store.steps, run["id"])):
        details = step["step_details"]
        if details["type"] == "message_creation":
            text = texts.get(details["message_creation"]["message_id"], "")
            turns.append({"role": "assistant", "content": text})
        else:
            calls = [hosted_calls.get(call["id"]) or call["function"] for call in details["tool_calls"]]
            turns += _tool_turns([call["id"] for call in details["tool_calls"]], calls, turns)
    return turns


def _of_earlier_turns(steps: list[JSON]) -> list[JSON]:
    # Completed turns end with tool calls and their outputs. Later steps belong to an interrupted attempt of this turn,
    # which is repeated.
    ends = [at for at, step in enumerate(steps) if _is_completed(step) and step["type"] == "tool_calls"]
    return [step for step in steps[: ends[-1] + 1] if _is_completed(step)] if ends else []


def _is_completed(step: JSON) -> bool:
    return bool(step["status"] == "completed")


def _tool_turns(ids: list[str], calls: list[JSON], before: list[JSON]) -> list[JSON]:
    asked = [
        {"id": id, "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
        for id, call in zip(ids, calls, strict=True)
    ]
    answered = [
        {"role": "tool", "tool_call_id": id, "content": call["output"] or ""}
        for id, call in zip(ids, calls, strict=True)
    ]
    # The text and the tool calls of an answer are one message.
    said = before.pop()["content"] if before and before[-1]["role"] == "assistant" else None
    return [{"role": "assistant", "content": said, "tool_calls": asked}, *answered]


def _message(message: JSON, names: Mapping[str, str]) -> JSON:
    has_image = any(part["type"] in ("image_url", "image_file") for part in message["content"])
    shown = has_image and message["role"] == "user"  # models accept images only in the user's messages
    return {"role": message["role"], "content": _parts(message, names) if shown else text_of(message, names)}


def _parts(message: JSON, names: Mapping[str, str]) -> list[JSON]:
    """Return the parts of a message, including images. Parts that models don't accept become notes."""
    parts = [
        part if part["type"] in ("image_url", "image_file") else {"type": "text", "text": _part(part)}
        for part in message["content"]
    ]
    return [*parts, *({"type": "text", "text": note} for note in _notes(message, names))]


def text_of(message: JSON, names: Mapping[str, str] | None = None) -> str:
    """Return the text of a message, with notes for parts that are not text. `names` contains names of files, by id."""
    return "\n".join([*(_part(part) for part in message["content"]), *_notes(message, names or {})])


def _notes(message: JSON, names: Mapping[str, str]) -> list[str]:
    ids = dict.fromkeys(str(attachment.get("file_id")) for attachment in message["attachments"])
    return [f"[attached file {names.get(id, id)}]" for id in ids]


def _part(part: JSON) -> str:
    match part["type"]:
        case "text":
            return str(part["text"]["value"])
        case "refusal":
            return str(part["refusal"])
        case "image_url":
            return f"[image {part['image_url']['url'][:200]}]"
        case other:
            return f"[{other} {part[other].get('file_id')}]"


def _tool_choice(run: JSON, declared: hosted.Declared, *, begun: bool) -> str | JSON | None:
    # If there are outputs, the named or required tool has already been called. Requiring it again would never end.
    choice: str | JSON | None = run["tool_choice"]
    if choice != "none" and begun:
        return "auto"
    if isinstance(choice, dict) and choice["type"] != "function":
        names = [name for name, (type, _) in declared.hosted.items() if type == choice["type"]]
        if len(names) != 1:
            return "required" if names else "auto"
        return {"type": "function", "function": {"name": names[0]}}
    return choice


def exhausted(conn: sa.Connection, run: JSON) -> str | None:
    """Return the limit that the run has already reached, or None."""
    if run["max_completion_tokens"] is None and run["max_prompt_tokens"] is None:
        return None
    used = _used(conn, run)
    for limit, tokens in (
        ("max_completion_tokens", "completion_tokens"),
        ("max_prompt_tokens", "prompt_tokens"),
    ):
        if run[limit] is not None and used[tokens] >= run[limit]:
            return limit
    return None


def _tokens_left(conn: sa.Connection, run: JSON, kind: str) -> int | None:
    limit: int | None = run[f"max_{kind}"]
    return None if limit is None else limit - int(_used(conn, run)[kind])


def _used(conn: sa.Connection, run: JSON) -> JSON:
    known = [used for used in store.step_usages(conn, run["id"]).values() if used]
    return objects.total_usage(known) or objects.NO_USAGE
