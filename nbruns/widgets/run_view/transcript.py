"""A run as a list of keyed HTML blocks: the same rendering for the live view, `to_html()` and the saved notebook.

Everything in a run except its numbers comes from outside, and is escaped or sanitised here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from nbruns.objects import Message, Run, RunStep, ToolCall, count_of, items_of
from nbruns.snapshot import RunSnapshot
from nbruns.widgets.blocks import Block
from nbruns.widgets.highlight import coloured_html, lexer_for, marks
from nbruns.widgets.html import duration
from nbruns.widgets.json_text import pretty_json_html, show_controls
from nbruns.widgets.markdown import MarkdownBlocks, is_link, link_html
from nbruns.widgets.run_view.sources import (
    annotated,
    annotations_of,
    footnotes,
    results_html,
    sources_html,
    with_footnotes,
)

#: What a terminal takes for a command, or for a change of the direction in which it writes.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHEET = files("nbruns.widgets").joinpath("static/transcript.css").read_text(encoding="utf-8")
#: The style sheet as every saved transcript carries it: without comments and line ends.
STYLE = " ".join(re.sub(r"/\*.*?\*/", "", _SHEET, flags=re.DOTALL).split())

#: What a call is that nobody has answered; while the form shows the whole of it, this line is enough.
WAITS = "awaiting output"
#: Why an answer is incomplete, in plain words.
INCOMPLETE = {
    "max_completion_tokens": "The answer was cut off: the run reached max_completion_tokens.",
    "max_prompt_tokens": "The run stopped: its prompt would exceed max_prompt_tokens.",
    "content_filter": "The answer was cut off by the content filter.",
}
#: What became of a run that did not complete, in plain words.
ENDINGS = {
    "cancelled": "The run was cancelled.",
    "expired": "The run expired before it was completed: runs expire after 10 minutes, including time spent "
    "waiting for tool outputs.",
    "failed": "The run failed.",
    "incomplete": "The run ended incomplete.",
}


class Transcript:
    """The blocks of one run; finished parts are rendered once and kept."""

    def __init__(self) -> None:
        self._texts: dict[str, MarkdownBlocks] = {}
        self._calls: dict[str, tuple[object, Block]] = {}

    def blocks(
        self, snapshot: RunSnapshot, notes: Iterable[tuple[str, str]] = (), assistant: str = ""
    ) -> list[Block]:
        """Return the blocks of the run, with notes ("note" or "error", and a text) at the end.

        `assistant` is its name.
        """
        found = [
            Block("head", "head", head_html(snapshot, assistant)),
            *self._body(snapshot),
            *_ending(snapshot.run),
        ]
        if snapshot.error:
            found.append(
                _note("event", "error", _error_words("The server reported an error", snapshot.error))
            )
        return found + [_note(f"note/{number}", *note) for number, note in enumerate(notes)]

    def _body(self, snapshot: RunSnapshot) -> Iterator[Block]:
        messages = {message.id: message for message in snapshot.messages}
        searches = _searches(snapshot)
        for step in snapshot.steps:
            if message := messages.pop(step.message_id or "", None):
                yield from self._message(message, searches)
            yield from self._step(step, _awaited(snapshot.run))
        for message in messages.values():  # a server that sends no steps
            yield from self._message(message, searches)
        if not any(step.tool_calls for step in snapshot.steps):
            yield from (self._call(call, None, {}) for call in _awaited(snapshot.run).values())

    def _message(self, message: Message, searches: Sequence[ToolCall]) -> Iterator[Block]:
        anchor = str(message.id)
        text = self._texts.setdefault(message.id, MarkdownBlocks(f"{message.id}/", anchor))
        yield from text.update(message.text, complete=message.status in ("completed", "incomplete"))
        sources = footnotes(message, searches)
        if sources:
            yield Block(f"{message.id}/sources", "sources", sources_html(sources, anchor))
        if names := _files(message, {source.cited for source in sources}):
            listed = " ".join(names)
            yield Block(f"{message.id}/files", "text", f"<p>{listed}</p>")

    def _step(self, step: RunStep, awaited: Mapping[str, ToolCall]) -> Iterator[Block]:
        for call in step.tool_calls:
            yield self._call(call, step, awaited)
        if step.last_error:
            yield _note(f"{step.id}/error", "error", _error_words("This step failed", step.last_error))

    def _call(self, call: ToolCall, step: RunStep | None, awaited: Mapping[str, ToolCall]) -> Block:
        state = _call_state(call, step, awaited)
        known = self._calls.get(call.id or "")
        if known is None or known[0] != (call, state):
            known = (call, state), Block(f"call/{call.id}", "call", call_html(call, state))
            self._calls[call.id or ""] = known
        return known[1]


def _searches(snapshot: RunSnapshot) -> list[ToolCall]:
    return [call for step in snapshot.steps for call in step.tool_calls if call.type == "file_search"]


def _awaited(run: Run | None) -> dict[str, ToolCall]:
    """The calls whose answer the run waits for, by id."""
    return {call.id: call for call in run.tool_calls} if run and run.status == "requires_action" else {}


def to_html(blocks: list[Block]) -> str:
    """The blocks as HTML that needs nothing else: with its style, and readable without.

    It is shown whole: only what grows needs a region that scrolls and stays at its end. JupyterLab would have
    MathJax look for formulas in it, which know links to JavaScript and style sheets, and would take its keys: a
    class and an attribute forbid that.
    """
    head = "".join(block.to_html() for block in blocks if block.kind == "head")
    body = "".join(block.to_html() for block in blocks if block.kind != "head")
    classes = "nbruns nbruns-saved mathjax_ignore tex2jax_ignore"
    return (
        f'<div class="{classes}" data-lm-suppress-shortcuts><style>{STYLE}</style>'
        f'<div class="nbruns-bar">{head}</div><div class="nbruns-blocks">{body}</div></div>'
    )


def plain_text(snapshot: RunSnapshot) -> str:
    """Return the run as text for a terminal: status, calls and messages, without control characters.

    Citations become footnotes, with their sources below each message.
    """
    calls = [f"{call.name}({call.arguments})" for call in snapshot.tool_calls]
    searches = _searches(snapshot)
    texts = [with_footnotes(message.text, footnotes(message, searches)) for message in snapshot.messages]
    lines = [repr(snapshot.run), *calls, *"\n\n".join(filter(None, texts)).split("\n")]
    return "\n".join(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", line) for line in lines if line or not calls)


def head_html(snapshot: RunSnapshot, assistant: str = "") -> str:
    """Status, assistant, model, time and tokens in one line."""
    run = snapshot.run
    if run is None:
        return '<span class="nbruns-badge" data-status="queued" role="status">starting</span>'
    status = escape(str(run.status))
    parts = [
        f'<span class="nbruns-badge" data-status="{status}" role="status">{status.replace("_", " ")}</span>',
        assistant and f'<span class="nbruns-assistant">{escape(assistant)}</span>',
        f'<span class="nbruns-model">{escape(str(run.model or ""))}</span>',
        _elapsed_html(run),
        _tokens_html(snapshot),
        f'<span class="nbruns-id" title="{escape(_ids(run))}">{escape(str(run.id))}</span>',
    ]
    return '<span class="nbruns-dot"> · </span>'.join(part for part in parts if part)


def _ids(run: Run) -> str:
    return f"thread {run.thread_id}, assistant {run.assistant_id}"


def _elapsed_html(run: Run) -> str:
    if (took := run.duration) is not None and run.is_terminal:
        return f'<span class="nbruns-time">{escape(duration(took.total_seconds()))}</span>'
    if run.is_terminal or run.created_at_utc is None:
        return ""
    return f'<span class="nbruns-time" data-since="{run.created_at_utc.timestamp():.0f}"></span>'  # the page counts


def _tokens_html(snapshot: RunSnapshot) -> str:
    run = snapshot.run
    usages = [step.usage for step in snapshot.steps] if run is None or run.usage is None else [run.usage]
    counted = [usage for usage in usages if usage and count_of(usage.total_tokens) is not None]
    total, inward, outward = (
        sum(count_of(getattr(usage, f"{name}_tokens")) or 0 for usage in counted)
        for name in ("total", "prompt", "completion")
    )
    split = f"{inward:,} in, {outward:,} out"
    return f'<span class="nbruns-tokens" title="{split}">{total:,} tokens</span>' if total else ""


def call_html(call: ToolCall, state: str) -> str:
    """A tool call as a card that folds."""
    if call.results is not None and state not in ("called", WAITS):
        number = len(call.results)
        state = f"{number or 'no'} {'result' if number == 1 else 'results'} · {state}"
    render = _CALLS.get(str(call.type), _unknown_call)
    name = f'<span class="nbruns-name">{escape(call.name)}</span>'
    summary = f'<summary>{name} <span class="nbruns-state">{escape(state)}</span></summary>'
    waits = ' class="nbruns-waits"' if state == WAITS else ""
    return f"<details open{waits}>{summary}{render(call)}</details>"


def _call_state(call: ToolCall, step: RunStep | None, awaited: Mapping[str, ToolCall]) -> str:
    if step is None or (call.output is None and call.id in awaited):
        return WAITS
    if step.status == "completed" and step.duration is not None:
        return duration(step.duration.total_seconds())
    if step.status == "in_progress":
        return "answered" if call.output is not None else "called"
    return str(step.status or "").replace("_", " ")


def _part(label: str, html: str, kind: str = "") -> str:
    return f'<p class="nbruns-label">{label}</p><pre class="nbruns-part{kind}">{html}</pre>' if html else ""


def _function_call(call: ToolCall) -> str:
    output = "" if call.output is None else pretty_json_html(call.output) or "(empty)"
    return _part("Arguments", pretty_json_html(call.arguments)) + _part("Output", output, " nbruns-output")


def _code_interpreter_call(call: ToolCall) -> str:
    detail = _detail(call)
    code = call.arguments
    outputs = "\n".join(_code_output(output) for output in items_of(detail.get("outputs")))
    return _part("Code", coloured_html(code, marks(code, lexer_for("python")))) + _part("Output", outputs)


def _code_output(output: Any) -> str:
    if not isinstance(output, Mapping):
        return ""
    if output.get("type") == "logs":
        return escape(str(output.get("logs") or ""))
    image = output.get("image")
    name = image.get("file_id") if isinstance(image, Mapping) else output.get("type")
    return f'<span class="nbruns-file">[image: {escape(str(name))}]</span>'


def _file_search_call(call: ToolCall) -> str:
    queries = [str(query) for query in items_of(_detail(call).get("queries"))]
    asked = "".join(f'<li dir="auto">{escape(show_controls(query[:1000]))}</li>' for query in queries[:20])
    searched = f'<p class="nbruns-label">Queries</p><ul class="nbruns-queries">{asked}</ul>' if asked else ""
    found = results_html(call)
    if not found:
        return searched
    return f'{searched}<p class="nbruns-label">Found</p><div class="nbruns-found">{found}</div>'


def _unknown_call(call: ToolCall) -> str:
    return _part("Details", pretty_json_html(json.dumps(_detail(call) or call.to_dict(), ensure_ascii=False)))


def _detail(call: ToolCall) -> Mapping[str, Any]:
    detail = call.to_dict().get(str(call.type))
    return detail if isinstance(detail, Mapping) else {}


_CALLS: dict[str, Callable[[ToolCall], str]] = {
    "function": _function_call,
    "code_interpreter": _code_interpreter_call,
    "file_search": _file_search_call,
}


def _files(message: Message, cited: Iterable[str]) -> list[str]:
    """Return a message's images, and the citations that are not in its text, as HTML: names, and links to pages."""
    names: list[str] = []
    for part in message.content if isinstance(message.content, list) else ():
        if isinstance(part, Mapping):
            names += _image_names(part)
    others = [each for each in annotations_of(message) if str(each.get("text")) not in cited]
    names += [_cited(str(each.get("text") or ""), source) for each in others if (source := annotated(each))]
    return list(dict.fromkeys(names))


def _image_names(part: Mapping[str, Any]) -> list[str]:
    image = part.get(str(part.get("type")))
    if part.get("type") not in ("image_file", "image_url") or not isinstance(image, Mapping):
        return []
    return [_file(f"image: {image.get('file_id') or image.get('url')}")]


def _cited(text: str, source: Mapping[str, Any]) -> str:
    url = str(source.get("url") or "")
    if is_link(url):
        return _file(text, link_html(url, str(source.get("title") or url)))
    name = source.get("file_name") or source.get("filename") or source.get("file_id") or url
    return _file(f"{text} {name}".strip())


def _file(text: str, html: str = "") -> str:
    return f'<span class="nbruns-file">[{" ".join(filter(None, (escape(text), html)))}]</span>'


def _note(key: str, kind: str, words: str) -> Block:
    return Block(key, kind, f"<p>{escape(words)}</p>")


def _ending(run: Run | None) -> list[Block]:
    if run is None or str(run.status) not in ENDINGS:
        return []
    details = run.incomplete_details if isinstance(run.incomplete_details, Mapping) else {}
    words = INCOMPLETE.get(str(details.get("reason"))) if run.status == "incomplete" else None
    if words is None:
        words = _error_words(ENDINGS[run.status].removesuffix("."), run.last_error or details)
    return [_note("ending", "note" if run.status == "cancelled" else "error", words)]


def _error_words(what: str, error: Any) -> str:
    if not isinstance(error, Mapping):
        return f"{what}."
    reason = str(error.get("message") or error.get("reason") or "")
    code = f" ({error['code']})" if error.get("code") else ""
    return f"{what}: {reason}{code}" if reason or code else f"{what}."
