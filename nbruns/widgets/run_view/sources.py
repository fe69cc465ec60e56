"""The sources of an answer: files, passages and pages that its footnotes cite, as HTML and text.

Names and passages are untrusted. They are escaped and truncated here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from nbruns.objects import Message, ToolCall, items_of
from nbruns.text import JSON, excerpt
from nbruns.widgets.html import sendable
from nbruns.widgets.json_text import show_controls
from nbruns.widgets.markdown import MARK, cited_in, footnote_id, is_link, link_html

#: Maximum number of characters shown of a passage and of a file's name, and of results of a search.
MAX_PASSAGE, MAX_NAME, MAX_RESULTS = 5_000, 200, 100
#: Maximum number of characters of a collapsed passage, and of a passage in plain text.
MAX_EXCERPT, MAX_PLAIN_PASSAGE = 160, 300


@dataclass(frozen=True)
class Source:
    """A passage, a file or a page that an answer cites, or that a search found."""

    name: str
    #: Number of the footnote, and the citation in the text; 0 and "" without a footnote.
    number: int = 0
    cited: str = ""
    passage: str = ""
    score: float | None = None
    url: str = ""
    #: Id of a file that the run wrote and that can be downloaded; otherwise "".
    written: str = ""
    #: Whether the server names the source, in an annotation or among the results.
    is_known: bool = True

    def to_html(self, id: str = "") -> str:
        """Return the source as a line that expands to its passage, if there is one."""
        number = f'<span class="nbruns-number">[{self.number}]</span>' if self.number else ""
        name = escape(show_controls(sendable(excerpt(self.name, MAX_NAME))))
        title = link_html(self.url, self.name) if is_link(self.url) else name
        note = "" if self.is_known else '<span class="nbruns-state">not among the results</span>'
        head = f'{number}<span class="nbruns-name">{title}</span>'
        if not self.passage:
            mark = f' id="{escape(id)}"' if id else ""
            button = download_button(self.written, self.name) if self.written else ""
            return f'<p class="nbruns-source"{mark}>{head}{note}{button}{_score_html(self.score)}</p>'
        begin = escape(show_controls(excerpt(self.passage.lstrip("# "), MAX_EXCERPT)))
        summary = (
            f'{head}<span class="nbruns-excerpt" dir="auto">{begin}</span>{note}{_score_html(self.score)}'
        )
        # Browsers expand <details> that contain the target of a link, so the id is inside. JupyterLab only scrolls, to
        # the element with its own attribute.
        inner, outer = (f' id="{escape(id)}"', f' data-jupyter-id="{escape(id)}"') if id else ("", "")
        return (
            f'<details class="nbruns-source"{outer}><summary>{summary}</summary>'
            f'<div class="nbruns-passage" dir="auto"{inner}>{_passage_html(self.passage)}</div></details>'
        )

    def to_text(self) -> str:
        """Return the source as a line of plain text."""
        where = f" <{self.url}>" if is_link(self.url) else ""
        passage = f": {excerpt(self.passage, MAX_PLAIN_PASSAGE)}" if self.passage else ""
        return f"[{self.number}] {excerpt(self.name, MAX_NAME)}{where}{passage}"


def download_button(id: str, name: str) -> str:
    """Return a button that downloads a file. It is only visible next to a composer, which handles it."""
    label = escape(show_controls(f"Download {excerpt(name, MAX_NAME)}"))
    return (
        f'<button type="button" class="nbruns-act" data-nbruns-file="{escape(id)}" aria-label="{label}">'
        "Download</button>"
    )


def results_html(call: ToolCall) -> str:
    """Return the results of a file_search call as HTML, best first."""
    results = call.results or []
    shown = "".join(_found(result).to_html() for result in results[:MAX_RESULTS])
    left = len(results) - MAX_RESULTS
    return shown + (f'<p class="nbruns-source">… and {left:,} more</p>' if left > 0 else "")


def footnotes(message: Message, searches: Iterable[ToolCall]) -> list[Source]:
    """Return the sources of a message's footnotes, by number. `searches` are the file_search calls of its run."""
    cited = cited_in(message.text)
    if not cited:
        return []
    annotations = {str(annotation.get("text")): annotation for annotation in annotations_of(message)}
    found = _Found(searches)
    is_over = message.status in ("completed", "incomplete", None)
    return [
        _source(text, number, annotations.get(text), found, is_over=is_over) for text, number in cited.items()
    ]


def sources_html(sources: list[Source], anchor: str) -> str:
    """Return the list of sources below an answer, to which its footnotes link."""
    lines = "".join(source.to_html(footnote_id(anchor, source.number)) for source in sources)
    return f'<p class="nbruns-label">Sources</p>{lines}'


def with_footnotes(text: str, sources: list[Source]) -> str:
    """Return a text with [1] in place of each citation, and the sources below it."""
    if not sources:
        return text
    numbers = {source.cited: source.number for source in sources}
    marked = MARK.sub(lambda mark: f"[{numbers[mark[0]]}]" if mark[0] in numbers else mark[0], text)
    for cited, number in numbers.items():
        marked = marked.replace(f"({cited})", f"[{number}]") if cited.startswith("sandbox:") else marked
    return "\n".join([marked, "", *(source.to_text() for source in sources)])


def annotations_of(message: Message) -> Iterator[Mapping[str, Any]]:
    """Yield the annotations of a message."""
    for part in items_of(message.content):
        text = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(text, Mapping):
            yield from (each for each in items_of(text.get("annotations")) if isinstance(each, Mapping))


def annotated(annotation: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of an annotation that describes its source."""
    detail = annotation.get(str(annotation.get("type")))
    return detail if isinstance(detail, Mapping) else {}


class _Found:
    """The results of searches, by position, by file id and by file name."""

    def __init__(self, searches: Iterable[ToolCall]) -> None:
        self._by_call = [call.results or [] for call in searches]
        self._first: dict[tuple[str, str], JSON] = {}
        for results in self._by_call:
            for at, result in enumerate(results):
                for field in ("file_id", "file_name"):
                    value = str(result.get(field))
                    self._first.setdefault((field, value), result)
                    self._first.setdefault((f"{field} {at}", value), result)

    def of(self, mark: str, file_id: str) -> JSON | None:
        """Return the result that a citation refers to, or None. If the position doesn't match the file, the file is
        used, because servers number results differently.
        """
        parts = MARK.fullmatch(mark)
        if parts is None:
            return None
        call, at = int(parts[1]), int(parts[2])
        field, value = ("file_id", file_id) if file_id else ("file_name", parts[3] or "")
        placed = self._by_call[call][at : at + 1] if call < len(self._by_call) else []
        if placed and str(placed[0].get(field)) == value:
            return placed[0]
        return self._first.get((f"{field} {at}", value)) or self._first.get((field, value))


def _source(
    cited: str, number: int, annotation: Mapping[str, Any] | None, found: _Found, *, is_over: bool
) -> Source:
    detail = annotated(annotation) if annotation else {}
    file_id, url = (str(detail.get(name) or "") for name in ("file_id", "url"))
    result = found.of(cited, file_id)
    at_hand = _found(result) if result else Source("")
    mark = MARK.fullmatch(cited)
    said = (mark[3] or "") if mark else cited.rpartition("/")[2]
    named = detail.get("title") or detail.get("file_name") or detail.get("filename")
    return Source(
        name=str(named or at_hand.name or said or file_id or url or cited),
        number=number,
        cited=cited,
        passage=at_hand.passage or str(detail.get("quote") or ""),
        score=at_hand.score,
        url=url,
        written=file_id if annotation and annotation.get("type") == "file_path" else "",
        is_known=bool(detail or result or not is_over),
    )


def _found(result: Mapping[str, Any]) -> Source:
    texts = [part.get("text") for part in items_of(result.get("content")) if isinstance(part, Mapping)]
    return Source(
        name=str(result.get("file_name") or result.get("file_id") or "(no name)"),
        passage="\n".join(text for text in texts if isinstance(text, str)).strip(),
        score=_score(result.get("score")),
    )


def _score(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    return min(max(float(value), 0.0), 1.0)


def _score_html(score: float | None) -> str:
    if score is None:
        return ""
    bar = f'<span class="nbruns-scale"><span style="width:{100 * score:.0f}%"></span></span>'
    return f'<span class="nbruns-score" title="score, from 0 to 1">{bar}{score:.2f}</span>'


def _passage_html(passage: str) -> str:
    left = len(passage) - MAX_PASSAGE
    more = f"\n… {left:,} more characters" if left > 0 else ""
    return escape(show_controls(sendable(passage[:MAX_PASSAGE])), quote=False) + more
