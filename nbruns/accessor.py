"""`df.runs`: questions to a frame of runs, answered in one line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from nbruns.frames import messages_frame as messages_frame
from nbruns.frames import runs_frame as runs_frame
from nbruns.frames import steps_frame as steps_frame
from nbruns.objects import TERMINAL_STATUSES

_TOKENS = ["prompt_tokens", "completion_tokens", "total_tokens"]
_FAILED = ("failed", "expired", "incomplete")


@pd.api.extensions.register_dataframe_accessor("runs")
class RunsAccessor:
    """Questions to a frame as `nbruns.runs_frame` and `client.runs.list` give it."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame
        self._column("status")

    def usage(self, by: str | Sequence[str] = "model", freq: str | None = None) -> pd.DataFrame:
        """Runs, failures, tokens and running time per group.

        `by`: one column or several (model, assistant_id, thread_id, status, …); `freq`: a pandas frequency such as
        "D" to split by the time of creation too. Columns: runs, failures (failed, expired, incomplete), the three
        token counts (sums; missing where no run of the group has any), median and 95th percentile running time.
        Raises KeyError for a column that the frame does not have.
        """
        keys: list[Any] = [self._column(name) for name in ([by] if isinstance(by, str) else by)]
        if freq is not None:
            keys.append(self._column("created_at").dt.floor(freq))
        grouped = self._frame.assign(failures=self._column("status").isin(_FAILED)).groupby(
            keys, observed=True, dropna=False
        )
        tokens = {name: (name, _sum) for name in _TOKENS if self._column(name) is not None}
        running = self._column("running_time").name
        return grouped.agg(
            runs=("status", "size"),
            failures=("failures", "sum"),
            **tokens,
            median_time=(running, "median"),
            p95_time=(running, lambda times: times.quantile(0.95)),
        )

    def failures(self) -> pd.DataFrame:
        """The runs that ended as failed, expired or incomplete."""
        return self._frame[self._column("status").isin(_FAILED)]

    def active(self) -> pd.DataFrame:
        """The runs that have not ended."""
        return self._frame[~self._column("status").isin(TERMINAL_STATUSES)]

    def _column(self, name: str) -> pd.Series[Any]:
        if name not in self._frame:
            raise KeyError(
                f"This frame has no column {name!r}, so it is not one of runs; client.runs.list(…) gives one. "
                f"It has: {', '.join(map(str, self._frame.columns))}."
            )
        return self._frame[name]


def _sum(tokens: pd.Series[Any]) -> Any:
    return tokens.sum(min_count=1)
