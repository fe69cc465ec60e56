"""What a notebook keeps of a live view: HTML, in the widget's place at the end and beside it until then."""

from __future__ import annotations

import sys
import uuid
from typing import Any

#: The copy hides the output above it where that has no live view in it: JupyterLab says there that it can't
#: display a widget whose kernel is gone.
_NO_DEAD_WIDGET = (
    "<style>.jp-OutputArea-child:has(+ .jp-OutputArea-child .nbruns-copy):not(:has(.nbruns-view))"
    " { display: none; }</style>"
)


class SavedDisplays:
    """The places where a widget is displayed. Each can be replaced by HTML, from any thread.

    A notebook that is opened without its kernel has no widgets; JupyterLab then shows "Error displaying
    widget" wherever an output names one, however good the HTML next to it. So the HTML replaces the widget at
    the end, and until then a second output holds a copy, which a live view hides: all that is left when the
    kernel is restarted in between.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._copies: list[str] = []
        self._filled: list[str] = []  # those of them that hold something
        #: The class by which a live view knows its copies.
        self.mark = f"nbruns-copy-{uuid.uuid4().hex[:12]}"

    def __bool__(self) -> bool:
        return bool(self._ids)

    def show(
        self, bundle: dict[str, Any], *, copied: bool = False, metadata: dict[str, Any] | None = None
    ) -> None:
        """Display a bundle in the output of the cell that runs, where it is to be `copied` with room for the copy;
        outside a notebook, print its text."""
        display = _display()
        if display is None:
            print(bundle["text/plain"])
            return
        self._ids.append(_displayed(display, bundle, metadata))
        if copied:
            self._copies.append(_displayed(display, {}))

    def keep(self, bundle: dict[str, str]) -> None:
        """Put what there is by now into the copies."""
        html = f'<div class="nbruns-copy {self.mark}">{_NO_DEAD_WIDGET}{bundle["text/html"]}</div>'
        _update(self._copies, bundle | {"text/html": html})
        self._filled = list(self._copies)

    def replace(self, bundle: dict[str, str]) -> None:
        """Put a bundle in the place of every display so far; copies are not needed any more.

        They go first: one that is left without its live view shows itself and hides what is above it.
        """
        _update(self._filled, {})
        _update(self._ids, bundle)
        self._copies, self._filled = [], []


def _displayed(display: Any, bundle: dict[str, Any], metadata: dict[str, Any] | None = None) -> str:
    display_id = f"nbruns-{uuid.uuid4().hex}"
    display(bundle, metadata=metadata, raw=True, display_id=display_id)
    return display_id


def _update(display_ids: list[str], bundle: dict[str, str]) -> None:
    display = _display()
    for display_id in display_ids if display is not None else ():
        display(bundle, raw=True, display_id=display_id, update=True)


def in_notebook() -> bool:
    """Whether there is a cell to display something in."""
    return _display() is not None


def _display() -> Any:
    """IPython's display function, where a kernel sends what it displays to a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return ipython.display.display if ipython and hasattr(shell, "kernel") else None
