"""Display of a batch in a notebook: its latest rows, and forms for tool calls without a registered function."""

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

#: Number of rows to show.
_LATEST = 5
_COLUMNS = ("assistant", "status", "answer", "error")


class UnansweredCalls(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed
    """The forms of all runs that wait for the user's tool outputs."""

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
        """Remove the calls of a run."""
        if self._parts.pop(run_id, None) is not None:
            self.children = tuple(self._parts.values())


class BatchView:
    """The output of a cell while it runs a batch."""

    def __init__(self, turn: Callable[[], object]) -> None:
        self.wait = turn
        self._calls = UnansweredCalls()
        self._latest = ipywidgets.HTML()
        self.box = ipywidgets.VBox([self._calls, self._latest])
        self._rows: pd.DataFrame | None = None

    def unanswered(self, unanswered: Unanswered) -> None:
        """Show the calls of a run that waits for the user's tool outputs."""
        self._calls.add(unanswered)

    def answered(self, run_id: str) -> None:
        """Remove the calls of a run that no longer waits."""
        self._calls.remove(run_id)

    def rows(self, new: pd.DataFrame) -> None:
        """Show the latest rows."""
        first = str(new.columns[0])
        shown = new[[first, *(name for name in _COLUMNS if name in new)]].map(_in_short).tail(_LATEST)
        if self._rows is not None:
            import pandas as pd

            shown = pd.concat([self._rows, shown]).tail(_LATEST)
        self._rows = shown
        told = shown.loc[:, (shown != "").any()]  # leave out empty columns, such as errors in most batches
        self._latest.value = told.to_html(index=False, escape=True, border=0, justify="left")


def _in_short(value: Any) -> str:
    return "" if str(value) in ("None", "<NA>", "nan") else excerpt(value, 100)


@contextmanager
def batch_view() -> Iterator[BatchView | None]:
    """Show a batch in the running cell until the block ends. Yields None outside a notebook."""
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
            # Closed widgets leave an empty output otherwise.
            shown.update({}, raw=True)
            view.box.close()
