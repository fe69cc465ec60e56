"""Render a run as a list of keyed HTML blocks, for the live view, `to_html()` and the saved notebook.

All text in a run is untrusted. It is escaped or sanitised here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files as package_files
from types import MappingProxyType
from typing import Any, NamedTuple

from nbruns.frames.cost import cost_of_tokens
from nbruns.objects import Message, Run, RunStep, ToolCall, count_of, items_of
from nbruns.snapshot import RunSnapshot
from nbruns.text import excerpt
from nbruns.widgets.blocks import Block
from nbruns.widgets.highlight import coloured_html, lexer_for, marks
from nbruns.widgets.html import duration, money
from nbruns.widgets.json_text import arguments_line, pretty_json_html, show_controls
from nbruns.widgets.markdown import MarkdownBlocks, is_link, link_html, markdown_html
from nbruns.widgets.run_view.sources import (
    annotated,
    annotations_of,
    download_button,
    footnotes,
    results_html,
    sources_html,
    with_footnotes,
)

#: Control characters of terminals, including those that change the direction of text.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHEET = package_files("nbruns.widgets").joinpath("static/transcript.css").read_text(encoding="utf-8")
#: The style sheet that saved transcripts contain, without comments and line breaks.
STYLE = " ".join(re.sub(r"/\*.*?\*/", "", _SHEET, flags=re.DOTALL).split())

#: State of a call that waits for its output.
WAITS = "awaiting output"
#: State of a call that the model is writing, or that a hosted tool is executing.
CALLED = "called"
#: Messages for the reasons why a run is incomplete.
INCOMPLETE = {
    "max_completion_tokens": "The answer was cut off: the run reached max_completion_tokens.",
    "max_prompt_tokens": "The run stopped: its prompt would exceed max_prompt_tokens.",
    "content_filter": "The answer was cut off by the content filter.",
}
#: Messages for the statuses of runs that did not complete.
ENDINGS = {
    "cancelled": "The run was cancelled.",
    "expired": "The run expired before it was completed: runs expire after 10 minutes, including time spent "
    "waiting for tool outputs.",
    "failed": "The run failed.",
    "incomplete": "The run ended incomplete.",
}


#: Maximum number of characters of the arguments, and of the output, in the line of a collapsed call.
_LINE_CHARS = 160


def _copies(what: str) -> str:
    done = "this.dataset.copied='';setTimeout(()=>delete this.dataset.copied,1500)"
    return f"navigator.clipboard.writeText({what}).then(()=>{{{done}}})"


#: Scripts of buttons. They are inline, so that they work in saved HTML too, which contains no other scripts.
COPY_NEXT = _copies("this.parentNode.nextElementSibling.innerText")
COPY_ANSWER = _copies(
    "(()=>{const t=[];let b=this.closest('.nbruns-block');"
    "while((b=b.previousElementSibling)&&!b.matches('.nbruns-user,.nbruns-call'))t.unshift(b.innerText);"
    "return t.join('\\n\\n')})()"
)


def copy_button(script: str, label: str = "Copy") -> str:
    """Return a button that copies; `script` is one of the above."""
    return f'<button type="button" class="nbruns-act" onclick="{script}">{label}</button>'


#: Prefix of the temporary id of a message that has been sent, but whose id is not known yet.
UNSTORED = "sent/"


class FileShown(NamedTuple):
    """The name of a file, and its content as a data URL if it is an image."""

    name: str
    image: str = ""


_NO_FILES: Mapping[str, FileShown] = MappingProxyType({})
_IMAGE_DATA = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+", re.ASCII)


def is_image_data(url: str) -> bool:
    """Whether an address is a data URL of an image, of a type that can't contain scripts."""
    return _IMAGE_DATA.fullmatch(url) is not None


class Transcript:
    """Renders the blocks of one run. Finished parts are rendered once and cached."""

    def __init__(self) -> None:
        self._texts: dict[str, MarkdownBlocks] = {}
        self._calls: dict[str, tuple[object, Block]] = {}

    def blocks(
        self,
        snapshot: RunSnapshot,
        notes: Iterable[tuple[str, str]] = (),
        assistant: str = "",
        question: Iterable[Message] = (),
        files: Mapping[str, FileShown] = _NO_FILES,
    ) -> list[Block]:
        """Return the blocks of a turn of the conversation: the question, and the steps and messages of the run.

        Args:
            snapshot: The run.
            notes: Pairs of "note" or "error" and a text, to show at the end.
            assistant: Name of the assistant.
            question: The messages that the run answers.
            files: Names and images of files, by id.
        """
        found = [
            Block("head", "head", head_html(snapshot, assistant)),
            *(user_block(message, files) for message in question),
            *self._body(snapshot, files),
            *_ending(snapshot.run),
            *_timeline(snapshot),
        ]
        if snapshot.error:
            found.append(
                note_block("event", "error", _error_words("The server reported an error", snapshot.error))
            )
        return found + [note_block(f"note/{number}", *note) for number, note in enumerate(notes)]

    def _body(self, snapshot: RunSnapshot, files: Mapping[str, FileShown]) -> Iterator[Block]:
        messages = {message.id: message for message in snapshot.messages}
        searches = _searches(snapshot)
        drawn = {id for call in snapshot.tool_calls for id in call.images}
        for step in snapshot.steps:
            if message := messages.pop(step.message_id or "", None):
                yield from self._message(message, files, searches, drawn)
            yield from self._step(step, _awaited(snapshot.run), files)
        for message in messages.values():  # some servers send no steps
            yield from self._message(message, files, searches, drawn)
        if not any(step.tool_calls for step in snapshot.steps):
            yield from (self._call(call, None, {}, files) for call in _awaited(snapshot.run).values())

    def _message(
        self,
        message: Message,
        files: Mapping[str, FileShown],
        searches: Sequence[ToolCall],
        drawn: Collection[str],
    ) -> Iterator[Block]:
        anchor = str(message.id)
        text = self._texts.setdefault(message.id, MarkdownBlocks(f"{message.id}/", anchor))
        said, refused = _said(message)
        yield from text.update(said, complete=message.status in ("completed", "incomplete"))
        if refused:
            label = '<p class="nbruns-label">The model refused</p>'
            yield Block(f"{message.id}/refusal", "refusal", f'{label}<p dir="auto">{escape(refused)}</p>')
        sources = footnotes(message, searches)
        if sources:
            yield Block(f"{message.id}/sources", "sources", sources_html(sources, anchor))
        # Images that code created are shown with the code.
        if names := _files(message, files, {source.cited for source in sources}, drawn):
            listed = " ".join(names)
            yield Block(f"{message.id}/files", "text", f"<p>{listed}</p>")

    def _step(
        self, step: RunStep, awaited: Mapping[str, ToolCall], files: Mapping[str, FileShown]
    ) -> Iterator[Block]:
        for call in step.tool_calls:
            yield self._call(call, step, awaited, files)
        if step.last_error:
            yield note_block(f"{step.id}/error", "error", _error_words("This step failed", step.last_error))

    def _call(
        self,
        call: ToolCall,
        step: RunStep | None,
        awaited: Mapping[str, ToolCall],
        files: Mapping[str, FileShown],
    ) -> Block:
        state = _call_state(call, step, awaited)
        shown_of = call, state, len(files) if call.type == "code_interpreter" else 0  # files are only added
        known = self._calls.get(call.id or "")
        if known is None or known[0] != shown_of:
            known = shown_of, Block(f"call/{call.id}", "call", call_html(call, state, files))
            self._calls[call.id or ""] = known
        return known[1]


def _said(message: Message) -> tuple[str, str]:
    """Return the text of a message, and its refusal."""
    parts = items_of(message.content)
    refused = [str(part["refusal"]) for part in parts if isinstance(part, Mapping) and part.get("refusal")]
    if not refused:
        return message.text, ""
    others = [part for part in parts if not (isinstance(part, Mapping) and part.get("refusal"))]
    return Message({"content": others}).text, "\n\n".join(refused)


def _searches(snapshot: RunSnapshot) -> list[ToolCall]:
    return [call for step in snapshot.steps for call in step.tool_calls if call.type == "file_search"]


def _awaited(run: Run | None) -> dict[str, ToolCall]:
    """Return the calls whose outputs the run waits for, by id."""
    return {call.id: call for call in run.tool_calls} if run and run.status == "requires_action" else {}


def to_html(blocks: list[Block], hidden: Iterable[Block] = (), mark: str = "") -> str:
    """Return the blocks as self-contained HTML, with its style sheet, but also readable without it.

    Unlike the live view, it has no scrolling region. A class excludes it from MathJax, whose formulas could contain
    links to scripts and style sheets. An attribute keeps JupyterLab from handling keys in it.

    Args:
        blocks: The blocks.
        hidden: Further blocks, which a live view shows too, and hides here by the class `mark`.
        mark: The CSS class of the hidden blocks.
    """
    head = "".join(block.to_html() for block in blocks if block.kind == "head")
    body = "".join(block.to_html() for block in blocks if block.kind != "head")
    below = "".join(block.to_html() for block in hidden if block.kind != "head")
    if below:
        body += f'<div class="nbruns-part-copy {mark}">{below}</div>'
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
    return printable("\n".join(line for line in lines if line or not calls))


def printable(text: str) -> str:
    """Return a text for a terminal, without control characters."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def head_html(snapshot: RunSnapshot, assistant: str = "") -> str:
    """Return the head line as HTML: status, assistant, model, time and tokens."""
    run = snapshot.run
    if run is None:
        return '<span class="nbruns-badge" data-status="queued" role="status">starting</span>'
    status = escape(str(run.status))
    parts = [
        f'<span class="nbruns-badge" data-status="{status}" role="status">{status.replace("_", " ")}</span>',
        assistant_html(assistant),
        f'<span class="nbruns-model">{escape(str(run.model or ""))}</span>',
        _elapsed_html(run),
        _tokens_html(snapshot),
        f'<span class="nbruns-id" title="{escape(_ids(run))}">{escape(str(run.id))}</span>',
    ]
    return '<span class="nbruns-dot"> · </span>'.join(part for part in parts if part)


def assistant_html(name: str) -> str:
    """Return the name of an assistant as HTML for the head line."""
    return name and f'<span class="nbruns-assistant">{escape(name)}</span>'


def _ids(run: Run) -> str:
    return f"thread {run.thread_id}, assistant {run.assistant_id}"


def _elapsed_html(run: Run) -> str:
    if (took := run.duration) is not None and run.is_terminal:
        return f'<span class="nbruns-time">{escape(duration(took.total_seconds()))}</span>'
    if run.is_terminal or run.created_at_utc is None:
        return ""
    return f'<span class="nbruns-time" data-since="{run.created_at_utc.timestamp():.0f}"></span>'  # the page updates it


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


def call_html(call: ToolCall, state: str, files: Mapping[str, FileShown] = _NO_FILES) -> str:
    """Return a tool call as one line with its state, which expands to the details, such as
    `get_weather(city="Oslo") → light rain, 3 °C`.
    """
    kind = str(call.type)
    if call.results is not None and state not in (CALLED, WAITS):
        number = len(call.results)
        state = f"{number or 'no'} {'result' if number == 1 else 'results'} · {state}"
    if kind == "code_interpreter":
        content = _code_interpreter_call(call, files)
    else:
        content = _CALLS.get(kind, _unknown_call)(call)
    if kind in ("function", "mcp"):
        line = _function_line(call, state)
    else:
        name = f'<span class="nbruns-name">{escape(call.name)}</span>'
        line = f'<span class="nbruns-line">{name}{_queries_html(call)}</span>'
    summary = f'<summary>{line} <span class="nbruns-state">{escape(state)}</span></summary>'
    waits = ' class="nbruns-waits"' if state == WAITS else ""
    is_open = "" if kind in ("function", "mcp", "file_search") else " open"
    return f"<details{is_open}{waits}>{summary}{content}</details>"


def _function_line(call: ToolCall, state: str) -> str:
    line = f'<span class="nbruns-name">{escape(call.name)}</span>'
    # Incomplete arguments are only shown in the details, so that each update changes one place.
    is_written = state == CALLED and not call.arguments.endswith("}")
    given = "…" if is_written else arguments_line(call.arguments)
    line += f'<span class="nbruns-arguments">({escape(given, quote=False)})</span>'
    if call.output is None:
        return f'<span class="nbruns-line">{line}</span>'
    output = excerpt(" ".join(call.output.split()), _LINE_CHARS) or "(empty)"
    wrong = ' data-error=""' if call.output.startswith("Error: ") else ""
    gave = f'<span class="nbruns-gave" dir="auto">{escape(output)}</span>'
    return f'<span class="nbruns-line"{wrong}>{line} → {gave}</span>'


def _queries_html(call: ToolCall) -> str:
    """Return the queries of a search, for the line of a collapsed call."""
    queries = [str(query) for query in items_of(_detail(call).get("queries"))]
    shown = excerpt(", ".join(json.dumps(query, ensure_ascii=False) for query in queries), _LINE_CHARS)
    return f'<span class="nbruns-arguments">({escape(shown, quote=False)})</span>' if queries else ""


def _call_state(call: ToolCall, step: RunStep | None, awaited: Mapping[str, ToolCall]) -> str:
    if step is None or (call.output is None and call.id in awaited):
        return WAITS
    if step.status == "completed" and step.duration is not None:
        return duration(step.duration.total_seconds())
    if step.status == "in_progress":
        return "answered" if call.output is not None else CALLED
    return str(step.status or "").replace("_", " ")


def _part(label: str, html: str, kind: str = "", act: str = "") -> str:
    if not html:
        return ""
    head = f'<p class="nbruns-label">{label}{act}{copy_button(COPY_NEXT)}</p>'
    return f'{head}<pre class="nbruns-part{kind}">{html}</pre>'


def _function_call(call: ToolCall) -> str:
    output = "" if call.output is None else pretty_json_html(call.output) or "(empty)"
    change = (
        f'<button type="button" class="nbruns-act" data-nbruns-output="{escape(call.id or "")}" '
        'title="Go on from another output, in a new thread">Change</button>'
    )
    given = _part("Arguments", pretty_json_html(call.arguments))
    return given + _part("Output", output, " nbruns-output", change if call.type == "function" else "")


def _code_interpreter_call(call: ToolCall, files: Mapping[str, FileShown]) -> str:
    code = call.arguments
    insert = (
        '<button type="button" class="nbruns-act" data-nbruns-insert title="Put the code into a new cell below">'
        "Insert as cell</button>"
    )
    parts = [_part("Code", coloured_html(code, marks(code, lexer_for("python"))), " nbruns-python", insert)]
    for output in items_of(_detail(call).get("outputs")):
        if isinstance(output, Mapping) and output.get("type") == "logs":
            parts.append(_part("Output", escape(str(output.get("logs") or "")), " nbruns-output"))
        elif isinstance(output, Mapping):
            image = output.get("image")
            id = image.get("file_id") if isinstance(image, Mapping) else output.get("type")
            parts.append(f'<div class="nbruns-picture">{file_html(str(id), files, "image: ")}</div>')
    return "".join(parts)


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
    "mcp": _function_call,
    "file_search": _file_search_call,
}


def _files(
    message: Message,
    files: Mapping[str, FileShown],
    cited: Iterable[str] = (),
    drawn: Collection[str] = (),
) -> list[str]:
    """Return a message's images, and the citations that are not in its text, as HTML: images, names, links to pages."""
    names: list[str] = []
    for part in message.content if isinstance(message.content, list) else ():
        image = part.get("image_file") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and not (
            isinstance(image, Mapping) and str(image.get("file_id")) in drawn
        ):
            names += _images(part, files)
    others = [each for each in annotations_of(message) if str(each.get("text")) not in cited]
    names += [_cited(str(each.get("text") or ""), source) for each in others if (source := annotated(each))]
    return list(dict.fromkeys(names))


def _images(part: Mapping[str, Any], files: Mapping[str, FileShown]) -> list[str]:
    image = part.get(str(part.get("type")))
    if part.get("type") not in ("image_file", "image_url") or not isinstance(image, Mapping):
        return []
    if image.get("file_id"):
        return [file_html(str(image["file_id"]), files, "image: ")]
    url = str(image.get("url"))
    if is_image_data(url):
        return [image_html(url, "image")]
    # An image on another server is shown as a link, and never loaded.
    return [_file("image:", link_html(url, url)) if is_link(url) else _file(f"image: {excerpt(url, 100)}")]


def file_html(id: str, files: Mapping[str, FileShown], what: str = "") -> str:
    """Return a file as HTML: the image if it is one, otherwise the name, or the id if the name is not known yet."""
    file = files.get(id)
    if file is not None and file.image:
        return image_html(file.image, file.name)
    name = file.name if file is not None else id
    return f'<span class="nbruns-file" title="{escape(id)}">[{escape(what + name)}]</span>{download_button(id, name)}'


def image_html(data_url: str, name: str) -> str:
    """Return an image element with a data URL."""
    return f'<img class="nbruns-image" src="{escape(data_url)}" alt="{escape(name)}">'


def user_block(message: Message, files: Mapping[str, FileShown] = _NO_FILES) -> Block:
    """Return the block of an input message, usually the user's: its text as typed, images and files."""
    parts = [f'<p class="nbruns-said" dir="auto">{escape(message.text)}</p>'] if message.text else []
    shown = [
        file
        for part in items_of(message.content)
        if isinstance(part, Mapping)
        for file in _images(part, files)
    ]
    shown += [
        file_html(str(each.get("file_id")), files)
        for each in items_of(message.attachments)
        if isinstance(each, Mapping)
    ]
    if shown:
        parts.append(f'<p class="nbruns-attached">{" ".join(shown)}</p>')
    role = "You" if message.role == "user" else str(message.role or "").capitalize()
    acts = _acts(message) if message.role == "user" and is_stored(message) else ""
    head = f'<div class="nbruns-who">{escape(role)}{acts}</div>'
    return Block(f"{message.id}/asked", "user", head + "".join(parts))


def is_stored(message: Message) -> bool:
    """Whether the id of the message is known, so that it can be edited."""
    return bool(message.id) and not message.id.startswith(UNSTORED)


def _acts(message: Message) -> str:
    """Return the buttons of a question. They are only visible next to a composer, which handles them."""
    about = f'type="button" data-nbruns-edit="{escape(message.id)}" data-nbruns-text="{escape(message.text)}"'
    return (
        f'<span class="nbruns-acts"><button {about} title="Ask something else instead, in a new thread">Edit</button>'
        f'<button {about} data-nbruns-again title="Ask the same again, in a new thread; with another model, if you '
        'choose one below">Retry</button></span>'
    )


def earlier_block(messages: Sequence[Message], files: Mapping[str, FileShown] = _NO_FILES) -> Block:
    """Return a collapsed block with the conversation before the question."""
    parts = []
    for message in messages:
        if message.role == "user":
            parts.append(f'<div class="nbruns-user">{user_block(message, files).content}</div>')
        else:
            parts.append(
                markdown_html(message.text) + "".join(f"<p>{name}</p>" for name in _files(message, files))
            )
    count = "1 earlier message" if len(messages) == 1 else f"{len(messages):,} earlier messages"
    return Block("earlier", "earlier", f"<details><summary>{count}</summary>{''.join(parts)}</details>")


def _cited(text: str, source: Mapping[str, Any]) -> str:
    url = str(source.get("url") or "")
    if is_link(url):
        return _file(text, link_html(url, str(source.get("title") or url)))
    name = source.get("file_name") or source.get("filename") or source.get("file_id") or url
    return _file(f"{text} {name}".strip())


def _file(text: str, html: str = "") -> str:
    return f'<span class="nbruns-file">[{" ".join(filter(None, (escape(text), html)))}]</span>'


def note_block(key: str, kind: str, words: str) -> Block:
    """Return a block with a message of one line; `kind` is note, caution or error."""
    return Block(key, kind, f"<p>{escape(words)}</p>")


def _ending(run: Run | None) -> list[Block]:
    if run is None or str(run.status) not in ENDINGS:
        return []
    details = run.incomplete_details if isinstance(run.incomplete_details, Mapping) else {}
    words = INCOMPLETE.get(str(details.get("reason"))) if run.status == "incomplete" else None
    if words is None:
        words = _error_words(ENDINGS[run.status].removesuffix("."), run.last_error or details)
    kind = {"cancelled": "note", "incomplete": "caution"}.get(str(run.status), "error")
    return [note_block("ending", kind, words)]


def _timeline(snapshot: RunSnapshot) -> list[Block]:
    """Return a line with the duration, tokens and cost of an ended run, which expands to a timeline of its steps."""
    run = snapshot.run
    if run is None or not run.is_terminal or not snapshot.steps:
        return []
    steps = snapshot.steps
    count = f"{len(steps)} step" + ("s" if len(steps) > 1 else "")
    spent = [
        count,
        run.duration and duration(run.duration.total_seconds()),
        _tokens_html(snapshot),
        _cost(run),
    ]
    line = " · ".join(each for each in spent if each)
    start, end = run.created_at_utc, run.ended_at_utc
    rows = []
    for step in steps:
        began, ended = step.created_at_utc, step.ended_at_utc
        if start and end and began and ended and start <= began <= ended <= end and end > start:
            whole = (end - start).total_seconds()
            offset, width = (began - start).total_seconds() / whole, (ended - began).total_seconds() / whole
            bar = f'<span style="margin-left:{offset:.1%};width:max(2px,{width:.1%})"></span>'
        else:
            bar = ""
        took = (
            duration(step.duration.total_seconds()) if step.duration is not None else str(step.status or "")
        )
        names = ", ".join(call.name for call in step.tool_calls) or "answer"
        rows.append(
            f'<div class="nbruns-time-row"><span>{escape(excerpt(names, 60))}</span>'
            f'<span class="nbruns-bar-room">{bar}</span><span>{escape(took)}</span></div>'
        )
    copy = copy_button(COPY_ANSWER, "Copy answer") if snapshot.text else ""
    content = f"<details><summary>{line}</summary>{''.join(rows)}</details>{copy}"
    return [Block("timeline", "timeline", content)]


def _cost(run: Run) -> str:
    """Return the cost of a run as HTML; empty if its token counts or prices are unknown."""
    usage = run.usage
    tokens = (
        (count_of(usage.prompt_tokens), count_of(usage.completion_tokens))
        if usage is not None
        else (None, None)
    )
    if tokens[0] is None or tokens[1] is None:
        return ""
    cost = cost_of_tokens(str(run.model or ""), tokens[0], tokens[1], run.created_at_utc)
    return "" if cost is None else f'<span title="by the prices of genai-prices">{escape(money(cost))}</span>'


def _error_words(what: str, error: Any) -> str:
    if not isinstance(error, Mapping):
        return f"{what}."
    reason = str(error.get("message") or error.get("reason") or "")
    code = f" ({error['code']})" if error.get("code") else ""
    return f"{what}: {reason}{code}" if reason or code else f"{what}."
