"""The details of one run as HTML sections: transcript, steps, tool calls, usage and raw JSON.

All external text is escaped or sanitized here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from nbruns.objects import RunStep, Usage, excerpt_json
from nbruns.text import JSON
from nbruns.widgets.html import duration
from nbruns.widgets.json_text import pretty_json_html
from nbruns.widgets.run_view.details import RunDetails, question_html
from nbruns.widgets.run_view.transcript import Transcript, call_html, head_html

#: Maximum number of characters of each JSON payload in the page.
MAX_JSON_CHARS = 50_000


def to_wire(details: RunDetails) -> JSON:
    """Return the JSON for the page: id, head, and the sections as [name, HTML]."""
    sections = [[name, render(details)] for name, render in SECTIONS.items()]
    return {"id": details.run.id, "head": head_html(details.snapshot), "sections": sections}


def _end(step: RunStep) -> Any:
    """Return the end time of a step in UTC, or None while it is active."""
    ends = (step.completed_at_utc, step.failed_at_utc, step.cancelled_at_utc, step.expired_at_utc)
    return next((end for end in ends if end is not None), None)


def _transcript(details: RunDetails) -> str:
    questions = "".join(map(question_html, details.questions))
    blocks = Transcript().blocks(details.snapshot)
    return questions + "".join(block.to_html() for block in blocks if block.kind != "head")


def _steps(details: RunDetails) -> str:
    if not details.steps:
        return _empty("No steps")
    began = details.steps[0].created_at_utc
    ends = [end for step in details.steps if (end := _end(step)) is not None]
    whole = max(((end - began).total_seconds() for end in ends), default=0.0) if began else 0.0
    rows = [_step_row(details, step, began, whole or 1.0) for step in details.steps]
    return _table(("Step", "Status", "Duration", "Tokens", "When"), rows)


def _step_row(details: RunDetails, step: RunStep, began: Any, whole: float) -> list[str]:
    names = ", ".join(call.name for call in step.tool_calls) or str(step.type or "").replace("_", " ")
    start, end = step.created_at_utc, _end(step)
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


def _tool_calls(details: RunDetails) -> str:
    cards = []
    for step in details.steps:
        start, end = step.created_at_utc, _end(step)
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


def _usage(details: RunDetails) -> str:
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


def _json(details: RunDetails) -> str:
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
SECTIONS: dict[str, Callable[[RunDetails], str]] = {
    "Transcript": _transcript,
    "Steps": _steps,
    "Tool calls": _tool_calls,
    "Usage": _usage,
    "JSON": _json,
}
