"""A batch in a notebook: its latest rows, and one form for the tool calls that nobody has answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets

from nbruns.text import excerpt
from nbruns.widgets.form.form import ToolOutputsForm
from nbruns.widgets.notebook.waiting import usable_widgets

if TYPE_CHECKING:
    import pandas as pd

    from nbruns.client.batch import Unanswered

#: Rows that are shown.
_LATEST = 5
_COLUMNS = ("assistant", "status", "answer", "error")


class UnansweredCalls(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """The tool calls of all runs that wait for a person, below one another."""

    def __init__(self) -> None:
        self._parts: dict[str, ipywidgets.VBox] = {}
        super().__init__([])

    def add(self, unanswered: Unanswered) -> None:
        """Show the calls of a run."""
        self.remove(unanswered.run.id)
        asked = next(iter(unanswered.row.inputs.values()), "")
        words = f"{excerpt(asked, 120)} · {excerpt(unanswered.row.variant.label, 60)}"
        head = ipywidgets.HTML(f"<b>{escape(words)}</b>")
        form = ToolOutputsForm(unanswered.run, on_submit=unanswered.submit)
        self._parts[unanswered.run.id] = ipywidgets.VBox([head, form])
        self.children = tuple(self._parts.values())

    def remove(self, run_id: str) -> None:
        """Show the calls of a run no longer."""
        if self._parts.pop(run_id, None) is not None:
            self.children = tuple(self._parts.values())


class BatchView:
    """What a cell shows while a batch runs in it."""

    def __init__(self, turn: Callable[[], object]) -> None:
        self.wait = turn
        self._calls = UnansweredCalls()
        self._latest = ipywidgets.HTML()
        self.box = ipywidgets.VBox([self._calls, self._latest])
        self._rows: pd.DataFrame | None = None

    def unanswered(self, unanswered: Unanswered) -> None:
        """Show the calls of a run that waits for a person."""
        self._calls.add(unanswered)

    def answered(self, run_id: str) -> None:
        """A run waits no longer."""
        self._calls.remove(run_id)

    def rows(self, new: pd.DataFrame) -> None:
        """Show the latest rows."""
        first = str(new.columns[0])
        shown = new[[first, *(name for name in _COLUMNS if name in new)]].map(_in_short).tail(_LATEST)
        if self._rows is not None:
            import pandas as pd

            shown = pd.concat([self._rows, shown]).tail(_LATEST)
        self._rows = shown
        told = shown.loc[:, (shown != "").any()]  # most batches have no errors
        self._latest.value = told.to_html(index=False, escape=True, border=0, justify="left")


def _in_short(value: Any) -> str:
    return "" if str(value) in ("None", "<NA>", "nan") else excerpt(value, 100)


@contextmanager
def batch_view() -> Iterator[BatchView | None]:
    """Show a batch in the running cell until the block ends. Yields None if there is no notebook."""
    with usable_widgets() as pump:
        if pump is None:
            yield None
            return
        from IPython import display

        view = BatchView(pump.turn)
        show: Any = display.display
        shown = show(view.box, display_id=True)
        try:
            yield view
        finally:
            # Widgets that are closed would leave their place.
            shown.update({}, raw=True)
            view.box.close()
