"""The runs table as plain HTML, which notebooks save and pages without the live table show."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from nbruns.text import excerpt
from nbruns.widgets.notebook.saved import SavedDisplays

#: Number of saved rows. More would make notebooks large.
SAVED_ROWS = 20
#: Delay in seconds between a change and the update of the saved table. JupyterLab re-renders the output each time.
SAVE_DELAY = 1.0
#: Maximum number of characters of a cell.
_MAX_SAVED_CELL = 120

_SHEET = files("nbruns.widgets").joinpath("static/runs_saved.css").read_text(encoding="utf-8")
STYLE = " ".join(re.sub(r"/\*.*?\*/", "", _SHEET, flags=re.DOTALL).split())


def to_html(
    rows: Sequence[Sequence[str | None]], columns: Sequence[tuple[str, str]], caption: str, place: str
) -> str:
    """Render rows as an HTML table with its style sheet. `columns` are their labels and kinds, in order.

    `place` is the id of the live table that replaces this one in pages connected to the kernel.
    """
    head = "".join(f'<th scope="col" {_aligned(kind)}>{escape(label)}</th>' for label, kind in columns)
    body = "".join(
        f"<tr>{''.join(_cell(text or '', kind) for text, (_, kind) in zip(row, columns, strict=False))}</tr>"
        for row in rows  # each row ends with the run's id, which is not shown
    )
    table = f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return (
        f'<div class="nbruns-place mathjax_ignore tex2jax_ignore" data-nbruns-table="{escape(place)}">'
        f'<div class="nbruns-runs-saved"><style>{STYLE}</style>{table}</div></div>'
    )


class Outputs:
    """The cell outputs that display a table, updated shortly after each change."""

    def __init__(self, plain: Callable[[], dict[str, str]]) -> None:
        self._plain = plain
        self._displays = SavedDisplays()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._closed = False

    def show(self, widget: Callable[[], Any]) -> None:
        """Display the table in the current cell's output.

        `widget` returns the widget's MIME bundle and metadata. They are added for front ends such as Colab, where
        the live table can't replace the plain one.
        """
        live, metadata = ({}, {}) if page_takes_places() else widget()
        self._displays.show({**live, **self._plain()}, metadata=metadata)

    def save_soon(self) -> None:
        """Schedule an update of the outputs. Further changes until then are part of the same update."""
        with self._lock:
            if self._displays and self._timer is None and not self._closed:
                self._timer = threading.Timer(SAVE_DELAY, self._save)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Update the outputs one last time."""
        with self._lock:
            self._closed = True
        if self._displays:
            self._save()

    def _save(self) -> None:
        self._timer = None  # later changes schedule a new update
        self._displays.replace(self._plain())


def page_takes_places() -> bool:
    """Whether the live table can replace the plain one in the page, as in JupyterLab and Notebook.

    Colab and VS Code isolate outputs, so there the widget must be part of the output.
    """
    return "google.colab" not in sys.modules and not any(name.startswith("VSCODE_") for name in os.environ)


def _cell(text: str, kind: str) -> str:
    shown = escape(excerpt(text, _MAX_SAVED_CELL))
    if kind == "status":
        shown = f'<span data-status="{escape(text)}">{shown.replace("_", " ")}</span>'
    return f'<td class="nbruns-{kind}" {_aligned(kind)}>{shown}</td>'


def _aligned(kind: str) -> str:
    """Inline alignment for each cell: JupyterLab aligns cells right when it strips the style sheet."""
    return f'style="text-align: {"right" if kind == "number" else "left"}"'
