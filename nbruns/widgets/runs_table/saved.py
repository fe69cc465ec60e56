"""A table of runs as plain HTML: what a notebook keeps, and what is there wherever the live table is not."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from nbruns.widgets.notebook.saved import SavedDisplays
from nbruns.widgets.runs_table.rows import COLUMNS

#: Rows that are saved: enough to see what it is, and not megabytes in a notebook.
SAVED = 20
#: Seconds after a change until what the notebook saves has it too: each time JupyterLab draws the output anew.
SETTLED = 1.0
#: Their columns; the rest is ids.
_SHOWN = ("created_at", "status", "model", "duration", "total_tokens", "why", "id")

_SHEET = files("nbruns.widgets").joinpath("static/runs_saved.css").read_text(encoding="utf-8")
STYLE = " ".join(re.sub(r"/\*.*?\*/", "", _SHEET, flags=re.DOTALL).split())


def to_html(rows: Sequence[Sequence[str]], caption: str, place: str) -> str:
    """The rows (cells in the order of COLUMNS) as a table with its style. `place` names the live table that takes
    its place on a page that has it."""
    wanted = [number for number, name in enumerate(COLUMNS) if name in _SHOWN]
    columns = [column for name, column in COLUMNS.items() if name in _SHOWN]
    head = "".join(
        f'<th scope="col" {_aligned(column.kind)}>{escape(column.label)}</th>' for column in columns
    )
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


class Outputs:
    """The outputs of cells that display a table: as it is then, and soon after each change as it is by now."""

    def __init__(self, plain: Callable[[], dict[str, str]]) -> None:
        self._plain = plain
        self._displays = SavedDisplays()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._closed = False

    def show(self, widget: Callable[[], Any]) -> None:
        """Display the table in the output of the cell that runs, together with its `widget` where pages need that:
        what gives its bundle, and metadata that Colab wants."""
        live, metadata = ({}, {}) if page_takes_places() else widget()
        self._displays.show({**live, **self._plain()}, metadata=metadata)

    def save_soon(self) -> None:
        """Have the outputs brought up to date, with all else that changes until then."""
        with self._lock:
            if self._displays and self._timer is None and not self._closed:
                self._timer = threading.Timer(SETTLED, self._save)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Bring the outputs up to date for the last time."""
        with self._lock:
            self._closed = True
        if self._displays:
            self._save()

    def _save(self) -> None:
        self._timer = None  # what changes from now on is saved next
        self._displays.replace(self._plain())


def page_takes_places() -> bool:
    """Whether the page is of the kind where live tables take their places, as JupyterLab and Notebook are. Colab
    and VS Code keep outputs apart and get widgets to show there only by their own means."""
    return "google.colab" not in sys.modules and not any(name.startswith("VSCODE_") for name in os.environ)


def _cell(text: str, kind: str) -> str:
    shown = escape(text if len(text) <= 200 else f"{text[:199]}…")
    if kind == "status":
        shown = f'<span data-status="{escape(text)}">{shown.replace("_", " ")}</span>'
    return f'<td class="nbruns-{kind}" {_aligned(kind)}>{shown}</td>'


def _aligned(kind: str) -> str:
    """Said of each cell: JupyterLab puts all cells to the right where it lets no style sheet through."""
    return f'style="text-align: {"right" if kind == "number" else "left"}"'
