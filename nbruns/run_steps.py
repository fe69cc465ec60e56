"""Runs' steps, of one run or of many, and the rows by which frames name runs and threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from nbruns import frames
from nbruns.at_once import at_once
from nbruns.errors import excerpt
from nbruns.objects import Run, RunStep
from nbruns.pages import iter_pages
from nbruns.resource import Resource, RunArg, ThreadArg, id_of, place_of, query_of
from nbruns.transport import Transport, path_of


class RunSteps(Resource):
    """`client.runs.steps`"""

    def retrieve(
        self, step: str | RunStep, run: RunArg, thread: ThreadArg | None = None, **params: Any
    ) -> RunStep:
        """Ask for a step of a run."""
        return RunStep(self._get(*place_of("runs", run, thread), "steps", id_of(step), **query_of(params)))

    def iter(
        self,
        run: RunArg,
        thread: ThreadArg | None = None,
        *,
        limit: int | None = None,
        order: str = "asc",
        **params: Any,
    ) -> Iterator[RunStep]:
        """A run's steps, in the order in which they were made."""
        path = path_of(*place_of("runs", run, thread), "steps")
        pages = iter_pages(self._transport, path, {"order": order, **query_of(params)}, limit)
        return map(RunStep, pages)

    def list(
        self,
        runs: RunArg | Iterable[RunArg] | pd.DataFrame,
        thread: ThreadArg | None = None,
        **params: Any,
    ) -> pd.DataFrame:
        """The steps of one run or of many as a DataFrame, each run's in the order in which they were made.

        `runs`: a run, several, or a frame of runs; several are asked for at once, with a progress bar if it takes
        over a second. Columns: see `nbruns.steps_frame`.
        """
        return self._frame_of("step", runs, thread, params)

    def tool_calls(
        self,
        runs: RunArg | Iterable[RunArg] | pd.DataFrame,
        thread: ThreadArg | None = None,
        **params: Any,
    ) -> pd.DataFrame:
        """The tool calls of one run or of many as a DataFrame, one row per call; `runs` as in `list`.

        Columns: see `nbruns.tool_calls_frame`.
        """
        return self._frame_of("tool_call", runs, thread, params)

    def _frame_of(
        self,
        kind: str,
        runs: RunArg | Iterable[RunArg] | pd.DataFrame,
        thread: ThreadArg | None,
        params: Mapping[str, Any],
    ) -> pd.DataFrame:
        """The steps of one run or of many, those of many fetched at once."""
        limit = params.get("limit")
        if isinstance(runs, (str, Run)):
            return self._frame(kind, self.iter(runs, thread, **params), limit)
        given: Iterable[RunArg] = _runs_of(runs) if isinstance(runs, pd.DataFrame) else runs
        # Each once; and what is no run is refused before anything is sent.
        many = {path_of(*place_of("runs", run, thread)): run for run in given}
        budget = frames.Budget(limit)

        def fetch(transport: Transport, run: RunArg) -> frames.Columns:
            return frames.list_columns(kind, RunSteps(transport).iter(run, thread, **params), budget)

        return frames.list_frame(kind, at_once(self._transport, fetch, many.values(), "runs"))


def _runs_of(frame: pd.DataFrame) -> list[Run]:
    """The runs of a frame: its rows, or those that its steps or messages belong to."""
    column = _column(frame, "run_id", "id")
    unique = frame[[column, "thread_id"]].dropna().drop_duplicates()
    return [
        Run({"id": id, "thread_id": thread})
        for id, thread in zip(unique[column], unique["thread_id"], strict=True)
    ]


def threads_of(frame: pd.DataFrame) -> list[str]:
    """The threads of a frame: its rows, or those that its runs, steps or messages belong to."""
    return list(frame[_column(frame, "thread_id", "id")].dropna().unique())


def _column(frame: pd.DataFrame, *names: str) -> str:
    found = next((name for name in names if name in frame), None)
    if found is None:
        known = excerpt(", ".join(map(str, frame.columns)))
        raise TypeError(f"A frame names its rows in the column {' or '.join(names)}; this one has: {known}.")
    return found
