"""A batch in a cell of a real kernel: what nobody answers is in one form, which works while the cell runs."""

from __future__ import annotations

import json

from kernel_cells import kernel

import nbruns

#: Names the widgets of each run that is put into the form.
TOLD = """
import json, nbruns
from nbruns.widgets import batch_view
add = batch_view.UnansweredCalls.add
def told(self, unanswered):
    add(self, unanswered)
    form = self._parts[unanswered.run.id].children[1]
    print(form.calls[0]._output.model_id, form._submit.model_id, flush=True)
batch_view.UnansweredCalls.add = told
"""
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def test_calls_that_nobody_answers_are_answered_in_the_cell(client: nbruns.Client) -> None:
    batch = f"""
client = nbruns.Client({client.base_url!r}, {client.api_key!r})
told = client.runs.batch(["Oslo?", "Bergen?"], {{"model": "demo", "tools": [{json.dumps(TOOL)}]}})
print(json.dumps(told["tool_calls"].map(lambda calls: calls[0]["output"]).tolist()))
"""
    with kernel() as cells:
        cells.run(TOLD)
        cell = cells.start(batch)
        cells.until(lambda: len(cells.printed(cell).splitlines()) == 2, "both runs in the form", 60)
        [view, *_] = cells.of(cell, "display_data")
        for number, line in enumerate(cells.printed(cell).splitlines()):
            output, submit = line.split()
            cells.until_idle(cells.set(output, value=f"rain {number}"))
            cells.until_idle(cells.click(submit))
        cells.until(lambda: len(cells.printed(cell).splitlines()) == 3, "the batch to end", 60)
        assert sorted(json.loads(cells.printed(cell).splitlines()[2])) == ["rain 0", "rain 1"]
        # What was shown meanwhile is taken away: the cell's result is the table.
        place = view["content"]["transient"]
        left = [m for m in cells.of(cell, "update_display_data") if m["content"]["transient"] == place]
        assert left[-1]["content"]["data"] == {}
