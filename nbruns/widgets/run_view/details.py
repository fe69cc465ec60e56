"""Fetch a run with its steps, messages and question, and export it as Markdown or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from nbruns.client.pagination import iter_pages
from nbruns.client.transport import Transport, path_of
from nbruns.objects import Message, Run, RunStep, ToolCall, items_of
from nbruns.snapshot import RunSnapshot
from nbruns.text import JSON
from nbruns.widgets.html import duration
from nbruns.widgets.markdown import MarkdownBlocks

if TYPE_CHECKING:
    from nbruns.client.runs import Runs

#: Maximum number of earlier messages to search for the user's question.
_MAX_EARLIER_MESSAGES = 20
#: Backticks that could close a code fence.
_BACKTICKS = re.compile(r"`{3,}")


@dataclass(frozen=True)
class RunDetails:
    """A run with its steps, its messages, and the user messages that it responds to."""

    run: Run
    steps: Sequence[RunStep] = ()
    messages: Sequence[Message] = ()
    questions: Sequence[Message] = ()

    @property
    def snapshot(self) -> RunSnapshot:
        """Return the snapshot that the events of the run would have resulted in."""
        snapshot = RunSnapshot()
        for step in self.steps:
            snapshot.apply(f"thread.run.step.{step.status}", step.to_dict())
        for message in self.messages:
            snapshot.apply(f"thread.message.{message.status or 'completed'}", message.to_dict())
        snapshot.apply(f"thread.run.{self.run.status}", self.run.to_dict())
        return snapshot


def fetch_details(runs: Runs, transport: Transport, run_id: str, thread_id: str) -> RunDetails:
    """Fetch a run with its steps and messages. Errors of the client propagate."""
    run = runs.retrieve(run_id, thread_id)
    steps = [runs.steps.with_passages(step) for step in runs.steps.iter(run, thread_id)]
    path = path_of("threads", thread_id, "messages")
    own = [Message(m) for m in iter_pages(transport, path, {"order": "asc", "run_id": run_id})]
    own = [message for message in own if message.run_id == run_id]  # some servers ignore run_id
    return RunDetails(run, steps, own, fetch_questions(transport, run, own))


def fetch_questions(transport: Transport, run: Run, own: Sequence[Message]) -> list[Message]:
    """Fetch the user messages that a run responds to. `own` are the messages that the run wrote."""
    path = path_of("threads", run.thread_id, "messages")
    query = {"order": "desc"} | ({"after": own[0].id} if own else {})
    before = [Message(m) for m in iter_pages(transport, path, query, _MAX_EARLIER_MESSAGES)]
    earlier = [m for m in before if own or (m.created_at or 0) <= (run.created_at or 0)]
    return list(takewhile(lambda message: message.role == "user", earlier))[::-1]


def details_of(snapshot: RunSnapshot, questions: Sequence[Message] = ()) -> RunDetails:
    """Return the details in a snapshot. Raises ValueError if it has no run yet."""
    with snapshot.lock:
        if snapshot.run is None:
            raise ValueError("The snapshot has no run yet: the stream has not named it.")
        return RunDetails(snapshot.run, snapshot.steps, snapshot.messages, questions)


def question_html(message: Message) -> str:
    """Return a message of the user as HTML."""
    blocks = MarkdownBlocks(f"{message.id}/").update(message.text, complete=True)
    text = "".join(block.to_html() for block in blocks)
    return f'<div class="nbruns-asked"><p class="nbruns-label">user</p>{text}</div>'


def to_markdown(all_details: Iterable[RunDetails], assistant: str = "") -> str:
    """Return a conversation as Markdown: questions, tool calls with their outputs, and answers, each with a heading.

    Texts are Markdown already, and are unchanged. Arguments and outputs are in code fences that they can't close.
    """
    return "\n\n".join(part for details in all_details for part in _markdown(details, assistant)) + "\n"


def to_json(all_details: Iterable[RunDetails]) -> str:
    """Return a conversation as JSON text: a list with the objects of each run as the server sent them."""
    return json.dumps([_json(each) for each in all_details], ensure_ascii=False, indent=2, default=str)


def _json(details: RunDetails) -> JSON:
    kinds = {"questions": details.questions, "steps": details.steps, "messages": details.messages}
    listed = {name: [each.to_dict() for each in objects] for name, objects in kinds.items()}
    return {"run": details.run.to_dict(), **listed}


def _markdown(details: RunDetails, assistant: str) -> Iterator[str]:
    for message in details.questions:
        yield f"## User\n\n{_message(message)}"
    messages = {message.id: message for message in details.messages}
    for step in details.steps:
        if written := messages.pop(step.message_id or "", None):
            yield f"## {_line(assistant) or 'Assistant'}\n\n{_message(written)}"
        yield from map(_call, step.tool_calls)
    for message in messages.values():
        yield f"## {_line(assistant) or 'Assistant'}\n\n{_message(message)}"
    yield _facts(details.run)


def _message(message: Message) -> str:
    parts = [part for part in items_of(message.content) if isinstance(part, Mapping)]
    kinds = ((part.get("type"), part.get(str(part.get("type")))) for part in parts)
    images = [
        f"[image: {_line(image.get('file_id') or image.get('url'))}]"
        for kind, image in kinds
        if kind in ("image_file", "image_url") and isinstance(image, Mapping)
    ]
    attached = [
        f"[file: {_line(each.get('file_id'))}]"
        for each in items_of(message.attachments)
        if isinstance(each, Mapping)
    ]
    return "\n\n".join(filter(None, [message.text, " ".join(images + attached)])) or "*(empty)*"


def _call(call: ToolCall) -> str:
    output = "*No output yet*" if call.output is None and call.type == "function" else ""
    if call.output is not None:
        output = f"Output:\n\n{_fenced(call.output)}"
    language = {"function": "json", "code_interpreter": "python"}.get(str(call.type), "")
    logs = [
        str(each.get("logs"))
        for each in items_of(_detail(call).get("outputs"))
        if isinstance(each, Mapping) and each.get("logs")
    ]
    written = f"Output:\n\n{_fenced(chr(10).join(logs))}" if logs else ""
    arguments = _fenced(call.arguments, language) if call.arguments else ""
    return "\n\n".join(filter(None, [f"### Call of `{_line(call.name)}`", arguments, output, written]))


def _detail(call: ToolCall) -> Mapping[str, Any]:
    detail = call.to_dict().get(str(call.type))
    return detail if isinstance(detail, Mapping) else {}


def _fenced(text: str, language: str = "") -> str:
    fence = max(("```", *(f"{found}`" for found in _BACKTICKS.findall(text))), key=len)
    return f"{fence}{language}\n{text}\n{fence}"


def _facts(run: Run) -> str:
    """Return the last line of a run: its status, model, duration and tokens."""
    took, total = run.duration, run.usage and run.usage.total_tokens
    facts = [
        _line(str(run.status).replace("_", " ")),
        _line(run.model or ""),
        duration(took.total_seconds()) if took is not None and run.is_terminal else "",
        f"{total:,} tokens" if isinstance(total, int) else "",
        _line(run.id or ""),
    ]
    return f"*{' · '.join(filter(None, facts))}*"


def _line(text: Any) -> str:
    """Return a server's text for use within a line of Markdown: on one line, and with markup escaped."""
    return re.sub(r"([`*_\[\]<>\\])", r"\\\1", " ".join(str(text).split())).replace("\\_", "_")
