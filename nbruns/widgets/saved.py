"""What a notebook keeps of a live view: the display in the cell's output, replaced by plain HTML at the end."""

from __future__ import annotations

import sys
import uuid
from typing import Any


class SavedDisplays:
    """The places where a widget is displayed. Each can be replaced by HTML, from any thread.

    A notebook that is opened without its kernel has no widgets; JupyterLab then shows "Error displaying
    widget" wherever an output names one, however good the HTML next to it. So the HTML replaces the widget.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._ids)

    def show(self, bundle: dict[str, Any]) -> None:
        """Display a widget's bundle in the output of the cell that runs; outside a notebook, print its text."""
        display = _display()
        if display is None:
            print(bundle["text/plain"])
            return
        self._ids.append(f"nbruns-{uuid.uuid4().hex}")
        display(bundle, raw=True, display_id=self._ids[-1])

    def replace(self, bundle: dict[str, Any]) -> None:
        """Put a bundle in the place of every display so far."""
        display = _display()
        for display_id in self._ids if display is not None else ():
            display(bundle, raw=True, display_id=display_id, update=True)


def in_notebook() -> bool:
    """Whether there is a cell to display something in."""
    return _display() is not None


def _display() -> Any:
    """IPython's display function, where a kernel sends what it displays to a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return ipython.display.display if ipython and hasattr(shell, "kernel") else None
