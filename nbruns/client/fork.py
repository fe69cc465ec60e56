"""Fork a run: copy its conversation into a new thread, and answer the calls of the new run with recorded outputs.

Forks use only operations of the original API, so they work with any server. That API can copy messages, but not
tool calls. The new run therefore asks the model again, and where the model makes the same calls, it gets the same
outputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import requests

from nbruns.client.files import VectorStoreFiles
from nbruns.client.pagination import iter_pages
from nbruns.client.resources import MessagesOfThreads, Threads, id_of
from nbruns.client.stream import Event, RunStream
from nbruns.client.transport import Check, Transport, path_of
from nbruns.errors import APIError, ForkError
from nbruns.objects import Message, Run, RunStep, Thread, ToolCall, items_of
from nbruns.text import JSON, excerpt

#: The point at which to fork: a message, step or tool call, or its id.
Point = str | Message | RunStep | ToolCall

#: Settings of a run, its own or from its assistant, that are passed on to the fork.
SETTINGS = (
    "model",
    "instructions",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "temperature",
    "top_p",
    "reasoning_effort",
    "max_prompt_tokens",
    "max_completion_tokens",
    "truncation_strategy",
)
#: Limits of the original API: messages in the request for a new thread, and pairs of metadata.
_MESSAGES_OF_NEW_THREAD, _METADATA_PAIRS = 32, 16


@dataclass
class _Call:
    """A recorded call, and the output with which to answer the same call of the new run, or None."""

    call: ToolCall
    output: str | None
    changed: bool = False


class Record:
    """The function calls of a run, in order, with the outputs that answer them in a fork. Each is used once."""

    def __init__(self, calls: Sequence[_Call]) -> None:
        self._left = list(calls)

    def outputs(self, run: Run) -> list[JSON] | None:
        """Return the outputs for the pending calls of a run, as the API's list; None unless all are recorded."""
        if run.status != "requires_action" or not run.tool_calls:
            return None
        left, found = list(self._left), []
        for call in run.tool_calls:
            same = next((each for each in left if _is_same(each.call, call)), None)
            if same is None or same.output is None:
                return None
            left.remove(same)
            found.append({"tool_call_id": call.id, "output": same.output})
        self._left = left
        return found

    @property
    def unused(self) -> list[ToolCall]:
        """The calls with a changed output that the new run has not made."""
        return [each.call for each in self._left if each.changed]


def _is_same(one: ToolCall, other: ToolCall) -> bool:
    alike = (one.type, one.name) == (other.type, other.name)
    return alike and _arguments(one) == _arguments(other)


def _arguments(call: ToolCall) -> Any:
    """Return the parsed arguments of a call, so that whitespace and the order of names don't matter."""
    with suppress(ValueError, RecursionError):
        return json.loads(call.arguments, strict=False)
    return call.arguments


class ForkStream(RunStream):
    """The stream of a fork. It continues while recorded outputs answer the calls of the run, until the run ends or
    makes a call that is not on record.
    """

    def __init__(
        self,
        transport: Transport,
        opened: requests.Response | JSON,
        record: Record,
        submit: Callable[..., RunStream],
        check: Check,
    ) -> None:
        super().__init__(transport, opened, check=check)
        self._record, self._submit = record, submit
        self._answering: RunStream | None = None

    @property
    def unused(self) -> list[ToolCall]:
        """The calls with a changed output that the new run has not made so far."""
        return self._record.unused

    def recorded_outputs(self, run: Run) -> list[JSON] | None:
        """Return the recorded outputs for the calls that a run waits for. Each output is returned once.

        Args:
            run: The run, with the status `requires_action`.

        Returns:
            The outputs as the API's list; None unless all calls of the run are on record.
        """
        return self._record.outputs(run)

    def close(self) -> None:
        """Stop reading. Another thread can call this. The run continues without the recorded outputs."""
        super().close()
        if self._answering is not None:
            self._answering.close()

    def _iterate(self) -> Iterator[Event]:
        yield from super()._iterate()
        while not self._closed and self.run is not None and (outputs := self.recorded_outputs(self.run)):
            self._answering = self._submit(self.run, outputs, snapshot=self.snapshot)
            if self._closed:  # by another thread, while the stream was read
                self._answering.close()
            yield from self._answering


class Fork(NamedTuple):
    """The new thread of a fork, the parameters of the new run, and the record that answers its calls."""

    thread: Thread
    assistant: str
    params: JSON
    record: Record


def copy_of(
    transport: Transport,
    run: Run,
    *,
    at: Point | None,
    message: Any,
    outputs: Sequence[JSON],
    assistant: str | None,
    replay: bool,
    params: JSON,
) -> Fork:
    """Copy the conversation of a run into a new thread. Raises ForkError if the run has no such point or call."""
    path = path_of("threads", run.thread_id, "runs", run.id, "steps")
    steps = [RunStep(step) for step in iter_pages(transport, path, {"order": "asc"})]
    messages = list(MessagesOfThreads(transport).iter(run.thread_id))
    calls, point, edits = _calls(run, steps), None if at is None else id_of(at), message is not None
    call = _call_at(point, steps, calls)
    end = _end(run, messages, _message_of(point, steps) if call is None else None, edits)
    of_this_run = call is not None or end in (
        _end(run, messages, None, False),
        _end(run, messages, None, True),
    )
    record = _record(calls, calls[:call] if of_this_run and replay else [], outputs)
    kept = messages[:end]
    if edits and not kept:
        raise ForkError(f"Run {run.id} has no question whose text could be changed.")
    copies = [*filter(None, map(_copy, kept[:-1] if edits else kept))]
    if edits:
        copies.append(_edited(kept[-1], message))
    mark = {"forked_from_thread": run.thread_id, "forked_from_run": run.id}
    if point or kept:
        mark["forked_at"] = point or kept[-1].id
    is_other = assistant is not None and assistant != run.assistant_id
    settings = {} if is_other else {name: getattr(run, name) for name in SETTINGS}
    started = {name: value for name, value in settings.items() if value is not None} | params
    started["metadata"] = _marked(params.get("metadata", run.metadata), mark)
    thread = _new_thread(transport, run.thread_id, messages, copies, mark)
    return Fork(thread, assistant or run.assistant_id, started, record)


def _calls(run: Run, steps: Sequence[RunStep]) -> list[_Call]:
    """Return the function calls of a run in order, including those that still wait for outputs."""
    made = [call for step in steps for call in step.tool_calls]
    made += [call for call in run.tool_calls if all(call.id != known.id for known in made)]
    return [_Call(call, call.output) for call in made if call.type == "function"]


def _call_at(point: str | None, steps: Sequence[RunStep], calls: Sequence[_Call]) -> int | None:
    """Return the index of the call at which the fork begins; None if it begins at a message."""
    step = next((each for each in steps if each.id == point), None)
    wanted = {point} if step is None else {call.id for call in step.tool_calls}
    return next((i for i, each in enumerate(calls) if each.call.id in wanted), None) if point else None


def _message_of(point: str | None, steps: Sequence[RunStep]) -> str | None:
    return next((step.message_id for step in steps if step.id == point and step.message_id), point)


def _end(run: Run, messages: Sequence[Message], point: str | None, edited: bool) -> int:
    """Return the number of messages to copy: up to the message `point`, by default all that the run was given. If
    the question is edited, the copy ends with it by default.
    """
    if point is not None:
        at = next((i for i, each in enumerate(messages) if each.id == point), None)
        if at is None:
            raise ForkError(
                f"{excerpt(repr(point))} is no message of thread {run.thread_id}, and no step or function call of run "
                f"{run.id}."
            )
        return at + 1
    own = (i for i, each in enumerate(messages) if each.run_id == run.id and each.role == "assistant")
    end = next(own, None)
    if end is None:  # the run wrote no message: keep the messages that existed when it began
        began = run.created_at_utc
        later = (i for i, m in enumerate(messages) if began and m.created_at_utc and m.created_at_utc > began)
        end = next(later, len(messages))
    questions = [i for i, each in enumerate(messages[:end]) if each.role == "user"]
    return questions[-1] + 1 if edited and questions else end


def _record(calls: Sequence[_Call], answered: Sequence[_Call], outputs: Sequence[JSON]) -> Record:
    """Return a record of the answered calls, with the outputs that the caller has changed."""
    recorded = {id(each): each for each in answered}
    for given in outputs:
        wanted = given.get("tool_call_id")
        call = next((each for each in calls if each.call.id == wanted and not each.changed), None)
        if call is None:
            known = ", ".join(each.call.id for each in calls) or "none"
            raise ForkError(
                f"The run has no function call {excerpt(repr(wanted))}; its calls: {excerpt(known)}."
            )
        call.output, call.changed = str(given.get("output") or ""), True
        recorded[id(call)] = call
    return Record([each for each in calls if id(each) in recorded])


def _copy(message: Message) -> JSON | None:
    """Return a message as a new thread takes it; None if it has no content. Files are referenced, not copied."""
    parts = [*filter(None, map(_part, items_of(message.content)))]
    if not parts:
        return None
    only_text = len(parts) == 1 and parts[0]["type"] == "text"
    copied: JSON = {"role": message.role, "content": parts[0]["text"] if only_text else parts}
    if attachments := [*filter(None, map(_attachment, items_of(message.attachments)))]:
        copied["attachments"] = attachments
    if isinstance(message.metadata, Mapping) and message.metadata:
        copied["metadata"] = dict(message.metadata)
    return copied


def _part(part: Any) -> JSON | None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("image_file", "image_url"):
        return {"type": kind, kind: part.get(kind)}
    text = Message({"content": [part]}).text  # includes refusals, which the API accepts only as text
    return {"type": "text", "text": text} if text else None


def _attachment(attachment: Any) -> JSON | None:
    if not isinstance(attachment, Mapping) or not attachment.get("file_id"):
        return None
    return {name: attachment[name] for name in ("file_id", "tools") if attachment.get(name)}


def _edited(message: Message, content: Any) -> JSON:
    """Return the message with a new text and its own images and files; or with new content, as the API's list."""
    copied = _copy(message) or {"role": message.role}
    if isinstance(content, str):
        parts = copied.get("content")
        images = [each for each in parts if each["type"] != "text"] if isinstance(parts, list) else []
        content = [{"type": "text", "text": content}, *images] if images else content
    return copied | {"content": content}


def _marked(metadata: Any, mark: Mapping[str, str]) -> JSON:
    """Return the metadata with the mark of a fork. Pairs that exceed the API's limit are left out."""
    given = metadata.items() if isinstance(metadata, Mapping) else ()
    own = [(key, value) for key, value in given if not str(key).startswith("forked_")]
    return dict(own[: _METADATA_PAIRS - len(mark)]) | dict(mark)


def _new_thread(
    transport: Transport, original: str, messages: Sequence[Message], copies: Sequence[JSON], mark: JSON
) -> Thread:
    threads, more = Threads(transport), MessagesOfThreads(transport)
    source = threads.retrieve(original)
    params: JSON = {"metadata": _marked(source.metadata, mark)}
    if resources := _resources(transport, source, messages):
        params["tool_resources"] = resources
    first, later = copies[:_MESSAGES_OF_NEW_THREAD], copies[_MESSAGES_OF_NEW_THREAD:]
    thread = threads.create([*first] or None, **params)
    try:
        for each in later:
            more.create(thread, **each)
    except APIError:
        discard(transport, thread)
        raise
    return thread


def unused_text(calls: Sequence[ToolCall]) -> str:
    """Return a warning about changed outputs that were not used; an empty text if all were."""
    names = ", ".join(f"{excerpt(call.name, 80)}({excerpt(call.arguments, 80)})" for call in calls[:10])
    return (
        f"The new run has not made this call again, so its changed output was not used: {names}"
        if calls
        else ""
    )


def discard(transport: Transport, thread: Thread) -> None:
    """Delete the thread of a fork that the server refused."""
    with suppress(APIError):
        Threads(transport).delete(thread)


def _resources(transport: Transport, thread: Thread, messages: Sequence[Message]) -> JSON:
    """Return the thread's `tool_resources` without the files that messages attach.

    The copied messages attach those again. A vector store that contains only attachments was created for them, and
    is left out too. The fork gets its own store; otherwise files attached to the fork later would show up in searches
    of the original thread.
    """
    attached = {
        str(each.get("file_id"))
        for message in messages
        for each in items_of(message.attachments)
        if isinstance(each, Mapping)
    }
    found: JSON = {}
    resources = thread.tool_resources if isinstance(thread.tool_resources, Mapping) else {}
    for tool, given in resources.items():
        own = dict(given) if isinstance(given, Mapping) else {}
        if "file_ids" in own:
            own["file_ids"] = [id for id in items_of(own["file_ids"]) if id not in attached]
        if "vector_store_ids" in own:
            own["vector_store_ids"] = [
                id for id in items_of(own["vector_store_ids"]) if not _is_of(transport, id, attached)
            ]
        if any(own.values()):
            found[tool] = {name: value for name, value in own.items() if value}
    return found


def _is_of(transport: Transport, store: str, attached: set[str]) -> bool:
    """Whether a vector store contains only attachments."""
    if not attached:
        return False
    return all(file.id in attached for file in VectorStoreFiles(transport).iter(store))
