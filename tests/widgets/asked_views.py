"""Views of runs that ask for the outputs of tool calls."""

from __future__ import annotations

import time
from typing import Any

from eventually import until
from scripted import ScriptedRuns, ScriptedStream, call_json, needs, run_is, says, step_is

from nbruns.widgets.run_view.view import RunView

DONE = [*says("It is ", "12 °C."), run_is("completed", completed_at=int(time.time()) + 1)]


def asking(*calls: dict[str, Any]) -> ScriptedStream:
    calls = calls or (call_json(),)
    return ScriptedStream(run_is("in_progress"), step_is("in_progress", *calls), needs(*calls))


def asked(runs: ScriptedRuns, *calls: dict[str, Any], **options: Any) -> RunView:
    """A view whose form is there."""
    view = RunView(runs, asking(*calls), **options)
    until(lambda: view.form is not None)
    return view
