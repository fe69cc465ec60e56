"""A table of runs as plain HTML: what a notebook keeps, and what is there wherever the live table is not."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from nbruns.widgets.runs_rows import COLUMNS

#: Rows that are saved: enough to see what it is, and not megabytes in a notebook.
SAVED = 20
#: Their columns; the rest is ids.
_SHOWN = ("created_at", "status", "model", "running_time", "total_tokens", "why", "id")

_SHEET = files("nbruns.widgets").joinpath("static/runs_saved.css").read_text(encoding="utf-8")
STYLE = " ".join(re.sub(r"/\*.*?\*/", "", _SHEET, flags=re.DOTALL).split())


def to_html(rows: Sequence[Sequence[str]], caption: str, place: str) -> str:
    """The rows (cells in the order of COLUMNS) as a table with its style. `place` names the live table that takes
    its place on a page that has it."""
    wanted = [number for number, name in enumerate(COLUMNS) if name in _SHOWN]
    columns = [column for name, column in COLUMNS.items() if name in _SHOWN]
    head = "".join(f'<th scope="col">{escape(column.label)}</th>' for column in columns)
    body = "".join(
        "<tr>"
        + "".join(_cell(row[number], column.kind) for number, column in zip(wanted, columns, strict=True))
        + "</tr>"
        for row in rows
    )
    table = f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return (
        f'<div class="nbruns-place mathjax_ignore tex2jax_ignore" data-nbruns-table="{escape(place)}">'
        f'<div class="nbruns-runs-saved"><style>{STYLE}</style>{table}</div></div>'
    )


def page_takes_places() -> bool:
    """Whether the page is of the kind where live tables take their places, as JupyterLab and Notebook are. Colab
    and VS Code keep outputs apart and get widgets to show there only by their own means."""
    return "google.colab" not in sys.modules and not any(name.startswith("VSCODE_") for name in os.environ)


def _cell(text: str, kind: str) -> str:
    shown = escape(text if len(text) <= 200 else f"{text[:199]}…")
    if kind == "status":
        shown = f'<span data-status="{escape(text)}">{shown.replace("_", " ")}</span>'
    return f'<td class="nbruns-{kind}">{shown}</td>'
