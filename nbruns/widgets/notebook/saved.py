"""Static HTML for the saved notebook: a copy next to the live widget."""

from __future__ import annotations

import os
import sys
import uuid
from typing import Any

from nbruns.text import JSON

#: Style sheets that hide the output above or below if it has no live view. There, JupyterLab shows "Error displaying
#: widget" after the kernel has stopped.
_HIDE_WIDGET_ABOVE = (
    "<style>.jp-OutputArea-child:has(+ .jp-OutputArea-child .nbruns-copy):not(:has(.nbruns-view))"
    " { display: none; }</style>"
)
_HIDE_WIDGET_BELOW = (
    '<div class="nbruns-widget-below"><style>'
    ".jp-OutputArea-child:has(.nbruns-widget-below) + .jp-OutputArea-child:not(:has(.nbruns-view)),"
    " .jp-OutputArea-child:has(.nbruns-widget-below) + .jp-OutputArea-child .nbruns-over > .nbruns { display: none; }"
    "</style></div>"
)


class SavedDisplays:
    """The cell outputs that display a view. Each display is a pair of outputs that any thread can update.

    In a notebook opened without its kernel, JupyterLab shows "Error displaying widget" for every output that
    contains a widget, even if the output also has HTML. So at first the upper output contains the widget, and the lower
    one contains HTML. The live view hides the HTML, which appears if the kernel stops. After `replace`, the upper
    output contains the HTML and the lower one the rest of the widget.
    """

    def __init__(self) -> None:
        self._upper: list[str] = []
        self._lower: list[str] = []
        self._replaced = False
        self._kept: list[str] = []  # the lower outputs that have HTML
        #: The CSS class by which a live view identifies its copies.
        self.mark = f"nbruns-copy-{uuid.uuid4().hex[:12]}"

    def __bool__(self) -> bool:
        return bool(self._upper)

    def show(self, upper: JSON, lower: JSON | None = None, *, metadata: JSON | None = None) -> None:
        """Display MIME bundles in the current cell's output; outside a notebook, print the text of the upper one.

        Without `lower`, there is only one output.
        """
        display = _display()
        if display is None:
            print(upper["text/plain"])
            return
        if not updates_outputs():
            display(upper, metadata=metadata, raw=True)
            return
        self._upper.append(_displayed(display, upper, metadata))
        if lower is not None:
            self._lower.append(_displayed(display, lower))

    def keep(self, bundle: dict[str, str]) -> None:
        """Update the HTML with the current content."""
        if self._replaced:
            _update(self._upper, bundle)
            return
        html = f'<div class="nbruns-copy {self.mark}">{_HIDE_WIDGET_ABOVE}{bundle["text/html"]}</div>'
        _update(self._lower, bundle | {"text/html": html})
        self._kept = list(self._lower)

    def replace(self, bundle: dict[str, str], widget: JSON | None = None) -> None:
        """Show HTML where the widget was, and the widget, which may be empty, below it.

        The copies are cleared first: a copy without a live view would become visible and hide the output above.
        """
        _update(self._kept, {})
        self._kept, self._replaced = [], True
        html = bundle["text/html"] + (_HIDE_WIDGET_BELOW if widget else "")
        _update(self._upper, bundle | {"text/html": html})
        if widget:
            _update(self._lower, widget)


def _displayed(display: Any, bundle: JSON, metadata: JSON | None = None) -> str:
    display_id = f"nbruns-{uuid.uuid4().hex}"
    display(bundle, metadata=metadata, raw=True, display_id=display_id)
    return display_id


def _update(display_ids: list[str], bundle: dict[str, str]) -> None:
    display = _display()
    for display_id in display_ids if display is not None else ():
        display(bundle, raw=True, display_id=display_id, update=True)


def updates_outputs() -> bool:
    """Whether outputs can change after their cell has run. Voilà runs all cells, and then only updates widgets."""
    return "VOILA_PREHEAT" not in os.environ


def marimo_notebook() -> Any:
    """Return the module marimo if code runs in a marimo notebook, else None. Works only in the kernel's main thread."""
    marimo: Any = sys.modules.get("marimo")
    return marimo if marimo is not None and marimo.running_in_notebook() else None


def in_notebook() -> bool:
    """Whether code runs in a notebook, so that outputs can be displayed."""
    return _display() is not None


def _display() -> Any:
    """Return IPython's display function if a kernel is running, else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return ipython.display.display if ipython and hasattr(shell, "kernel") else None
