"""Static HTML for the saved notebook: a copy next to the live widget, which it replaces at the end."""

from __future__ import annotations

import sys
import uuid
from typing import Any

from nbruns.text import JSON

#: The copy hides the output above it if that has no live view: JupyterLab shows "Error displaying widget" there
#: once the kernel has stopped.
_HIDE_BROKEN_WIDGET = (
    "<style>.jp-OutputArea-child:has(+ .jp-OutputArea-child .nbruns-copy):not(:has(.nbruns-view))"
    " { display: none; }</style>"
)


class SavedDisplays:
    """The outputs that display a widget. They can be replaced by HTML, from any thread.

    In a notebook opened without its kernel, JupyterLab shows "Error displaying widget" for every output that
    contains a widget, even if the output also has HTML. So the HTML replaces the widget at the end. Until then, a
    second output holds a copy, which the live view hides; it remains if the kernel restarts in between.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._copies: list[str] = []
        self._filled: list[str] = []  # the copies that have content
        #: The CSS class by which a live view identifies its copies.
        self.mark = f"nbruns-copy-{uuid.uuid4().hex[:12]}"

    def __bool__(self) -> bool:
        return bool(self._ids)

    def show(self, bundle: JSON, *, copied: bool = False, metadata: JSON | None = None) -> None:
        """Display a MIME bundle in the current cell's output; outside a notebook, print its text.

        With `copied`, also create an output for the copy.
        """
        display = _display()
        if display is None:
            print(bundle["text/plain"])
            return
        self._ids.append(_displayed(display, bundle, metadata))
        if copied:
            self._copies.append(_displayed(display, {}))

    def keep(self, bundle: dict[str, str]) -> None:
        """Update the copies with the current content."""
        html = f'<div class="nbruns-copy {self.mark}">{_HIDE_BROKEN_WIDGET}{bundle["text/html"]}</div>'
        _update(self._copies, bundle | {"text/html": html})
        self._filled = list(self._copies)

    def replace(self, bundle: dict[str, str]) -> None:
        """Replace every display with a bundle, and clear the copies.

        The copies are cleared first: a copy without a live view would become visible and hide the output above.
        """
        _update(self._filled, {})
        _update(self._ids, bundle)
        self._copies, self._filled = [], []


def _displayed(display: Any, bundle: JSON, metadata: JSON | None = None) -> str:
    display_id = f"nbruns-{uuid.uuid4().hex}"
    display(bundle, metadata=metadata, raw=True, display_id=display_id)
    return display_id


def _update(display_ids: list[str], bundle: dict[str, str]) -> None:
    display = _display()
    for display_id in display_ids if display is not None else ():
        display(bundle, raw=True, display_id=display_id, update=True)


def in_notebook() -> bool:
    """Whether code runs in a notebook, so that outputs can be displayed."""
    return _display() is not None


def _display() -> Any:
    """Return IPython's display function if a kernel is running, else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return ipython.display.display if ipython and hasattr(shell, "kernel") else None
