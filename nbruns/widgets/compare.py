"""Show runs side by side: aligned transcripts with marked differences, durations, tokens and costs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from html import escape
from importlib.resources import files
from itertools import groupby
from string import ascii_uppercase
from typing import Any, NamedTuple

import pandas as pd

from nbruns.client import Client
from nbruns.client.concurrent import fetch_all
from nbruns.client.runs import Runs
from nbruns.client.transport import Transport
from nbruns.errors import SetupError
from nbruns.frames import cost, runs_frame
from nbruns.objects import Run
from nbruns.snapshot import RunSnapshot
from nbruns.text import excerpt
from nbruns.widgets.blocks import Block
from nbruns.widgets.differences import marked, same_words, words_of
from nbruns.widgets.html import duration
from nbruns.widgets.run_view.details import RunDetails, details_of, fetch_details, question_html
from nbruns.widgets.run_view.transcript import STYLE, Transcript, head_html, printable
from nbruns.widgets.run_view.view import RunView

_SHEET = files("nbruns.widgets").joinpath("static/compare.css").read_text(encoding="utf-8")
_STYLE = f"{STYLE} {' '.join(re.sub(r'/[*].*?[*]/', '', _SHEET, flags=re.DOTALL).split())}"

#: A run to compare: a run, a pair (run id, thread id), a snapshot, or a view.
Comparable = Run | tuple[str, str] | RunSnapshot | RunView


class Part(NamedTuple):
    """One part of a transcript: a question, a call, a message, or the end of the run."""

    kind: str  # only parts of the same kind are aligned; for calls, it contains the name of the tool
    text: str
    html: str


def compare(
    *runs: Comparable | pd.DataFrame,
    client: Client | Runs | None = None,
    prices: cost.Prices | None = None,
    labels: Sequence[str] = (),
) -> Comparison:
    """Return runs side by side. Transcripts are aligned turn by turn, and differing words are marked.

        nbruns.compare(run, client.runs.fork(run, model="another-model"), client=client)
        nbruns.compare(*table.selected, client=client)

    In the first run, marked words are those that no other run has; in the others, those that the first doesn't have.

    Args:
        *runs: At least two runs, as Run objects, pairs (run id, thread id), DataFrames of runs, snapshots or views.
        client: The client that retrieves steps and messages. Snapshots and views don't need it.
        prices: Prices of a million tokens by model, as for `df.runs.cost`. Default: those of genai-prices, if it is
            installed (extra `cost`).
        labels: A label for each run. Default: A, B, …

    Returns:
        A `Comparison`, which a cell displays.

    Raises:
        ValueError: Fewer than two runs are given, or the number of labels differs.
        TypeError: `client` is missing for runs that must be retrieved, or something is not a run.
    """
    wanted = [each for given in runs for each in _each(given)]
    if len(wanted) < 2:
        raise ValueError(f"Pass at least two runs to compare, not {len(wanted)}.")
    names = list(labels) or [_letter(number) for number in range(len(wanted))]
    if len(names) != len(wanted):
        raise ValueError(f"Pass a label for each of the {len(wanted)} runs, not {len(names)}.")
    source: Any = getattr(client, "runs", client)
    if source is None and any(isinstance(each, (Run, tuple)) for each in wanted):
        raise TypeError(
            "Pass client=… to retrieve the steps and messages of the runs. Snapshots and views contain theirs."
        )
    return Comparison(_all_details(wanted, source), names, prices)


def _each(given: Any) -> Iterable[Comparable]:
    if isinstance(given, pd.DataFrame):
        return [*zip(given["id"], given["thread_id"], strict=True)]
    is_pair = isinstance(given, tuple) and len(given) == 2 and all(isinstance(id, str) for id in given)
    if is_pair or isinstance(given, (Run, RunSnapshot, RunView)):
        return [given]
    raise TypeError(
        f"Compare runs, pairs (run id, thread id), frames, snapshots or views, not {excerpt(repr(given))}."
    )


def _all_details(wanted: Sequence[Comparable], runs: Runs | None) -> list[RunDetails]:
    def fetch(transport: Transport, each: Run | tuple[str, str]) -> RunDetails:
        id, thread = (each.id, each.thread_id) if isinstance(each, Run) else each
        return fetch_details(Runs(transport), transport, id, thread)

    absent = [each for each in wanted if isinstance(each, (Run, tuple))]
    fetched = iter(fetch_all(runs._transport, fetch, absent, "runs") if runs is not None and absent else ())
    return [
        next(fetched)
        if isinstance(each, (Run, tuple))
        else details_of(each.snapshot if isinstance(each, RunView) else each)
        for each in wanted
    ]


def _letter(number: int) -> str:
    return ascii_uppercase[number] if number < 26 else str(number + 1)


class Comparison:
    """Runs side by side, as `nbruns.compare` returns them. A cell displays it, and the notebook saves it."""

    def __init__(
        self, all_details: Sequence[RunDetails], labels: Sequence[str], prices: cost.Prices | None = None
    ) -> None:
        self._labels = list(labels)
        self._snapshots = [details.snapshot for details in all_details]
        #: The runs as a DataFrame, indexed by label, with the column `cost`.
        self.frame: pd.DataFrame = _frame(all_details, labels, prices)
        parts = [
            _parts(details, snapshot) for details, snapshot in zip(all_details, self._snapshots, strict=True)
        ]
        self._rows = _aligned(parts)

    def to_html(self) -> str:
        """Return the comparison as HTML that needs neither a kernel nor a network."""
        heads = "".join(
            f'<div class="nbruns-column" role="columnheader"><b>{escape(label)}</b> '
            f'<div class="nbruns-block nbruns-head">{head_html(snapshot)}</div></div>'
            for label, snapshot in zip(self._labels, self._snapshots, strict=True)
        )
        rows = "".join(self._row_html(row) for row in self._rows)
        classes = "nbruns nbruns-saved nbruns-compare mathjax_ignore tex2jax_ignore"
        return (
            f'<div class="{classes}" style="--nb-runs: {len(self._labels)}" data-lm-suppress-shortcuts>'
            f"<style>{_STYLE}</style>{self._facts_html()}"
            f'<div class="nbruns-sides nbruns-blocks" role="table" aria-label="Transcripts">'
            f'<div class="nbruns-side-row nbruns-columns" role="row">{heads}</div>{rows}</div></div>'
        )

    def _row_html(self, row: Sequence[Part | None]) -> str:
        htmls = _marked_row([part and part.html for part in row], _html_mark(0), _html_mark(1))
        cells = (
            f'<div class="nbruns-side" role="cell" data-label="{escape(label)}">'
            f"{html if html is not None else '<span class=nbruns-absent>–</span>'}</div>"
            for label, html in zip(self._labels, htmls, strict=True)
        )
        is_same = len({part and part.text for part in row}) == 1
        return f'<div class="nbruns-side-row{" nbruns-same" * is_same}" role="row">{"".join(cells)}</div>'

    def _facts_html(self) -> str:
        heads = "".join(f'<th scope="col">{escape(label)}</th>' for label in self._labels)
        rows = "".join(
            f'<tr><th scope="row">{name}</th>{"".join(map(_bar_html, values, texts))}</tr>'
            for name, values, texts in self._facts()
        )
        body = f"<thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody>"
        return (
            f'<table class="nbruns-took"><caption>What the runs took</caption>{body}</table>' if rows else ""
        )

    def _facts(self) -> list[tuple[str, list[float | None], list[str]]]:
        """Return each measure: its name, each run's share of the largest value, and the values as text."""
        found = []
        for name, column, text in _MEASURES:
            series = self.frame.get(column)
            if series is None or series.isna().all():
                continue
            numbers = [None if pd.isna(each) else float(_number(each)) for each in series]
            most = max(each for each in numbers if each is not None) or 1.0
            shares = [None if each is None else each / most for each in numbers]
            found.append((name, shares, ["unknown" if each is None else text(each) for each in numbers]))
        return found

    def __repr__(self) -> str:
        lines = [
            f"{label}: {run.id} · {run.status} · {run.model}"
            for label, run in zip(self._labels, (snapshot.run for snapshot in self._snapshots), strict=True)
            if run is not None
        ]
        for name, _, texts in self._facts():
            values = (f"{label} {text}" for label, text in zip(self._labels, texts, strict=True))
            lines.append(f"{name}: {', '.join(values)}")
        return "\n".join([*lines, "", *(line for row in self._rows for line in self._row_text(row))])

    def _row_text(self, row: Sequence[Part | None]) -> list[str]:
        texts = _marked_row([part and part.text for part in row], "[-{}-]".format, "{{+{}+}}".format)
        if None not in row and len(set(texts)) == 1:
            return [f"{' = '.join(self._labels)}: {texts[0]}"]
        return [
            f"{label}: {'–' if text is None else text}"
            for label, text in zip(self._labels, texts, strict=True)
        ]

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/plain": printable(repr(self)), "text/html": self.to_html()}


def _frame(
    all_details: Sequence[RunDetails], labels: Sequence[str], prices: cost.Prices | None
) -> pd.DataFrame:
    frames = [runs_frame([details.run]) for details in all_details]
    frame = pd.concat(frames, ignore_index=True)
    for name in ("status", "model"):
        frame[name] = frame[name].astype("string")
    try:
        frame["cost"] = cost.cost_of(frame, prices)
    except SetupError:
        pass  # without prices, costs are missing
    frame.index = pd.Index(labels)
    return frame


def _number(value: Any) -> Any:
    return value.total_seconds() if hasattr(value, "total_seconds") else value


_MEASURES = (
    ("Duration", "duration", duration),
    ("Input tokens", "prompt_tokens", "{:,.0f}".format),
    ("Output tokens", "completion_tokens", "{:,.0f}".format),
    ("Cost", "cost", "{:,.4g}".format),
)


def _bar_html(share: float | None, text: str) -> str:
    bar = f'<span class="nbruns-bar-of" style="width:{100 * share:.1f}%"></span>' if share else ""
    return f"<td><span>{escape(text)}</span>{bar}</td>"


def _parts(details: RunDetails, snapshot: RunSnapshot) -> list[Part]:
    """Return the parts of a transcript. Messages consist of several blocks, which are joined."""
    found = [Part("question", f"user: {each.text}", question_html(each)) for each in details.questions]
    calls = {f"call/{call.id}": call for call in snapshot.tool_calls}
    messages = {str(message.id): message for message in snapshot.messages}
    blocks = [block for block in Transcript().blocks(snapshot) if block.kind not in ("head", "timeline")]
    for key, of_part in groupby(blocks, key=lambda block: _part_of(block, messages)):
        html = "".join(block.to_html() for block in of_part)
        if call := calls.get(key):
            output = "" if call.output is None else f" → {call.output}"
            found.append(Part(f"call {call.name}", f"{call.name}({call.arguments}){output}", html))
        elif message := messages.get(key):
            found.append(Part("message", f"assistant: {message.text}", html))
        else:
            found.append(Part(key, re.sub(r"<[^>]*>", "", html), html))
    return found


def _part_of(block: Block, messages: Iterable[str]) -> str:
    owner = block.key.rpartition("/")[0]
    return owner if owner in messages else block.key


def _aligned(transcripts: Sequence[Sequence[Part]]) -> list[list[Part | None]]:
    """Return rows with one part of each transcript, or None. Each transcript is aligned to those before it."""
    rows: list[list[Part | None]] = []
    kinds: list[str] = []
    for number, parts in enumerate(transcripts):
        matcher = SequenceMatcher(None, kinds, [part.kind for part in parts], autojunk=False)
        merged: list[list[Part | None]] = []
        for tag, a, a_end, b, b_end in matcher.get_opcodes():
            if tag == "equal":
                merged += [[*row, part] for row, part in zip(rows[a:a_end], parts[b:b_end], strict=True)]
            else:
                merged += [[*row, None] for row in rows[a:a_end]]
                merged += [[*[None] * number, part] for part in parts[b:b_end]]
        rows = merged
        kinds = [next(part.kind for part in row if part is not None) for row in rows]
    return rows


def _marked_row(texts: Sequence[str | None], first: Any, others: Any) -> list[str | None]:
    """Mark differing words: in the first text, those that no other has; in the others, those that the first lacks."""
    words = [None if text is None else words_of(text) for text in texts]
    base = next((i for i, each in enumerate(words) if each is not None), 0)
    kept = words[base]
    rest = [each for each in words[base + 1 :] if each is not None]
    if kept is None or not rest:
        return list(texts)
    shared: set[int] = set().union(*(same_words(kept, each) for each in rest))
    marked_texts = [None if each is None else marked(each, same_words(each, kept), others) for each in words]
    marked_texts[base] = marked(kept, shared, first)
    return marked_texts


def _html_mark(number: int) -> Any:
    kind = ("nbruns-gone", "nbruns-new")[number]
    return f'<mark class="{kind}">{{}}</mark>'.format
