"""The details of one run as HTML sections: transcript, steps, tool calls, usage and raw JSON.

All external text is escaped or sanitized here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from nbruns.client.pagination import iter_pages
from nbruns.client.transport import Transport, path_of
from nbruns.objects import Message, Run, RunStep, Usage, excerpt_json
from nbruns.snapshot import RunSnapshot
from nbruns.text import JSON
from nbruns.widgets.html import duration
from nbruns.widgets.json_text import pretty_json_html
from nbruns.widgets.markdown import MarkdownBlocks
from nbruns.widgets.run_view.transcript import Transcript, call_html, head_html

if TYPE_CHECKING:
    from nbruns.client.runs import Runs

#: Maximum number of characters of each JSON payload in the page.
MAX_JSON_CHARS = 50_000
#: Maximum number of earlier messages to search for the user's question.
_MAX_EARLIER_MESSAGES = 20


@dataclass(frozen=True)
class Details:
    """A run with its steps, its messages, and the user messages it responds to."""

    run: Run
    steps: Sequence[RunStep] = ()
    messages: Sequence[Message] = ()
    questions: Sequence[Message] = field(default=())

    def to_wire(self) -> JSON:
        """Return the JSON for the page: id, head, and the sections as [name, HTML]."""
        sections = [[name, render(self)] for name, render in SECTIONS.items()]
        return {"id": self.run.id, "head": head_html(self._snapshot()), "sections": sections}

    def _snapshot(self) -> RunSnapshot:
        snapshot = RunSnapshot()
        for step in self.steps:
            snapshot.apply(f"thread.run.step.{step.status}", step.to_dict())
        for message in self.messages:
            snapshot.apply(f"thread.message.{message.status or 'completed'}", message.to_dict())
        snapshot.apply(f"thread.run.{self.run.status}", self.run.to_dict())
        return snapshot

    def end(self, step: RunStep) -> Any:
        """Return the end time of a step in UTC, or None while it is active."""
        ends = (step.completed_at_utc, step.failed_at_utc, step.cancelled_at_utc, step.expired_at_utc)
        return next((end for end in ends if end is not None), None)


def fetch(runs: Runs, transport: Transport, run_id: str, thread_id: str) -> Details:
    """Fetch a run with its steps and messages. Errors of the client propagate."""
    run = runs.retrieve(run_id, thread_id)
    steps = [runs.steps.with_passages(step) for step in runs.steps.iter(run, thread_id)]
    path = path_of("threads", thread_id, "messages")
    own = [Message(m) for m in iter_pages(transport, path, {"order": "asc", "run_id": run_id})]
    own = [message for message in own if message.run_id == run_id]  # some servers ignore run_id
    query = {"order": "desc"} | ({"after": own[0].id} if own else {})
    before = [Message(m) for m in iter_pages(transport, path, query, _MAX_EARLIER_MESSAGES)]
    earlier = [m for m in before if own or (m.created_at or 0) <= (run.created_at or 0)]
    questions = list(takewhile(lambda message: message.role == "user", earlier))[::-1]
    return Details(run, steps, own, questions)


def _transcript(details: Details) -> str:
    questions = "".join(map(_question, details.questions))
    blocks = Transcript().blocks(details._snapshot())
    return questions + "".join(block.to_html() for block in blocks if block.kind != "head")


def _question(message: Message) -> str:
    blocks = MarkdownBlocks(f"{message.id}/").update(message.text, complete=True)
    text = "".join(block.to_html() for block in blocks)
    return f'<div class="nbruns-asked"><p class="nbruns-label">user</p>{text}</div>'


def _steps(details: Details) -> str:
    if not details.steps:
        return _empty("No steps")
    began = details.steps[0].created_at_utc
    ends = [end for step in details.steps if (end := details.end(step)) is not None]
    whole = max(((end - began).total_seconds() for end in ends), default=0.0) if began else 0.0
    rows = [_step_row(details, step, began, whole or 1.0) for step in details.steps]
    return _table(("Step", "Status", "Duration", "Tokens", "When"), rows)


def _step_row(details: Details, step: RunStep, began: Any, whole: float) -> list[str]:
    names = ", ".join(call.name for call in step.tool_calls) or str(step.type or "").replace("_", " ")
    start, end = step.created_at_utc, details.end(step)
    elapsed = (end - start).total_seconds() if start and end else None
    bar = ""
    if elapsed is not None and began:
        left = 100 * max((start - began).total_seconds(), 0) / whole
        bar = f'<span class="nbruns-bar-of" style="margin-left:{left:.1f}%;width:{100 * elapsed / whole:.1f}%"></span>'
    tokens = f"{step.usage.total_tokens:,}" if step.usage and isinstance(step.usage.total_tokens, int) else ""
    shown = f'<span class="nbruns-name">{escape(names)}</span>'
    return [
        shown,
        escape(str(step.status or "")),
        "" if elapsed is None else escape(duration(elapsed)),
        tokens,
        bar,
    ]


def _tool_calls(details: Details) -> str:
    cards = []
    for step in details.steps:
        start, end = step.created_at_utc, details.end(step)
        state = duration((end - start).total_seconds()) if start and end else str(step.status or "")
        cards += [
            f'<div class="nbruns-block nbruns-call">{call_html(call, state)}</div>'
            for call in step.tool_calls
        ]
    return "".join(cards) or _empty("No tool calls")


_USAGE: dict[str, Callable[[Usage], Any]] = {
    "Prompt": lambda usage: usage.prompt_tokens,
    "Cached": lambda usage: _inner(usage, "cached_tokens", "prompt_token_details", "prompt_tokens_details"),
    "Completion": lambda usage: usage.completion_tokens,
    "Reasoning": lambda usage: _inner(usage, "reasoning_tokens", "completion_tokens_details"),
    "Total": lambda usage: usage.total_tokens,
}


def _inner(usage: Usage, name: str, *details: str) -> Any:
    sent = usage.to_dict()
    found = (sent[key].get(name) for key in details if isinstance(sent.get(key), dict))
    return next(found, None)


def _usage(details: Details) -> str:
    named: list[tuple[str, Usage | None]] = [
        (
            ", ".join(call.name for call in step.tool_calls) or str(step.type or "").replace("_", " "),
            step.usage,
        )
        for step in details.steps
    ]
    rows = [
        [f'<span class="nbruns-name">{escape(name)}</span>', *_usage_cells(usage)] for name, usage in named
    ]
    if details.run.usage is not None:
        rows.append(["<strong>run</strong>", *_usage_cells(details.run.usage)])
    if not any(usage for _, usage in named) and details.run.usage is None:
        return _empty("No usage reported. Servers report it when a run ends.")
    return _table(("Step", *_USAGE), rows, "nbruns-facts nbruns-counts")


def _usage_cells(usage: Usage | None) -> list[str]:
    values = [read(usage) if usage is not None else None for read in _USAGE.values()]
    return [f"{value:,}" if isinstance(value, int) else "" for value in values]


def _json(details: Details) -> str:
    parts: list[tuple[str, Any]] = [("Run", details.run.to_dict())]
    parts += [(f"Steps ({len(details.steps)})", [step.to_dict() for step in details.steps])]
    parts += [(f"Messages ({len(details.messages)})", [message.to_dict() for message in details.messages])]
    return "".join(
        f'<details class="nbruns-json"{" open" if name == "Run" else ""}><summary>{name}</summary>'
        f"<pre>{pretty_json_html(excerpt_json(payload, MAX_JSON_CHARS))}</pre></details>"
        for name, payload in parts
    )


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]], kind: str = "nbruns-facts") -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _empty(text: str) -> str:
    return f'<p class="nbruns-nothing">{escape(text)}</p>'


#: Sections in display order: name and render function.
SECTIONS: dict[str, Callable[[Details], str]] = {
    "Transcript": _transcript,
    "Steps": _steps,
    "Tool calls": _tool_calls,
    "Usage": _usage,
    "JSON": _json,
}
