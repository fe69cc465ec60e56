"""The accessor `df.nbruns`, or `df.runs` for short: usage, costs, plots and scores of a DataFrame of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from nbruns.frames import COLUMNS
from nbruns.frames import messages_frame as messages_frame
from nbruns.frames import nested_from_json as nested_from_json
from nbruns.frames import nested_to_json as nested_to_json
from nbruns.frames import runs_frame as runs_frame
from nbruns.frames import steps_frame as steps_frame
from nbruns.frames import tool_calls_frame as tool_calls_frame
from nbruns.frames.compare import Scorer, compared, disagreeing, prompt_keys, score_columns, scored
from nbruns.frames.cost import Prices, cost_of
from nbruns.objects import TERMINAL_STATUSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TOKENS = ["prompt_tokens", "completion_tokens", "total_tokens"]
_FAILED = ("failed", "expired", "incomplete")
#: Short names of columns, for the argument `by`.
_COLUMN_OF = {"assistant": "assistant_id", "thread": "thread_id"}


@pd.api.extensions.register_dataframe_accessor("nbruns")
@pd.api.extensions.register_dataframe_accessor("runs")
class RunsAccessor:
    """Methods for DataFrames of runs, as `nbruns.runs_frame` and `client.runs.list` return them; also filtered
    or concatenated.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame
        if "status" not in frame:
            own = " Its own column is frame['runs']." if "runs" in frame else ""
            raise AttributeError(self._missing("status") + own)  # so that hasattr() is false

    def usage(self, by: str | Sequence[str] = "model", freq: str | None = None) -> pd.DataFrame:
        """Sum up runs, failures, tokens and durations by group.

            df.runs.usage("assistant", freq="W")
            df.assign(cost=df.runs.cost()).runs.usage()          # with the costs

        Args:
            by: One or several columns: `"model"`, `"assistant"`, `"thread"`, `"status"`, `"day"`, or any other column
                of the frame. `[]` makes one group of all runs.
            freq: A pandas frequency such as `"D"`, `"W"` or `"MS"`, to group by the time of creation as well.

        Returns:
            A DataFrame with one row for each group: `runs`, `failures` (failed, expired and incomplete runs), the sums
            `prompt_tokens`, `completion_tokens` and `total_tokens` (missing if no run of the group has any), `cost` if
            the frame has this column, `median_time` and `p95_time` (median and 95th percentile of `duration`).

        Raises:
            KeyError: The frame lacks a column.
        """
        keys: list[Any] = [self._key(name) for name in ([by] if isinstance(by, str) else by)]
        if freq is not None:
            keys.append(pd.Grouper(key=self._column("created_at").name, freq=freq))
        counted = self._frame.assign(failures=self._column("status").isin(_FAILED), runs=1)
        grouped: Any = counted.groupby(keys or (lambda _: "all"), observed=True, dropna=False)
        sums = [self._column(name).name for name in _TOKENS] + [n for n in ("cost",) if n in self._frame]
        durations = grouped[self._column("duration").name]
        return pd.DataFrame(
            {
                "runs": grouped["runs"].sum(),
                "failures": grouped["failures"].sum(),
                **{name: grouped[name].sum(min_count=1) for name in sums},
                "median_time": durations.median(),
                "p95_time": durations.quantile(0.95),
            }
        )

    def cost(self, prices: Prices | None = None) -> pd.Series[Any]:
        """Return the cost of each run. `.sum()` is the total of all known costs.

        Args:
            prices: Prices of a million tokens by model, as (input, output), (input, output, cached input) or a
                mapping with the keys `input`, `output` and `cached`, in any currency. Default: US dollars from the
                price lists of the package genai-prices (extra `cost`) on the day of the run, without network
                access.

        Returns:
            A Series, missing for unknown models and runs without usage. Reasoning tokens are part of the output
            tokens.

        Raises:
            SetupError: No `prices` are given, and genai-prices is not installed.
            ValueError: A price doesn't have one of these forms.
            KeyError: The frame lacks a column.
        """
        for name in ("model", "created_at", "prompt_tokens", "completion_tokens", "cached_tokens"):
            self._column(name)
        return cost_of(self._frame, prices)

    def failures(self) -> pd.DataFrame:
        """Return the runs that ended as failed, expired or incomplete."""
        return self._frame[self._column("status").isin(_FAILED)]

    def active(self) -> pd.DataFrame:
        """Return the runs that have not ended."""
        return self._frame[~self._column("status").isin(TERMINAL_STATUSES)]

    def timeline(self, steps: pd.DataFrame | None = None, *, ax: Axes | None = None) -> Axes:
        """Draw each run as a bar from its creation to its end, in the colour of its status.

        Times are in the time zone of the frame. More than 40 runs are packed into lanes, without their ids and steps.

        Args:
            steps: A frame of the steps of these runs (`client.runs.steps.list(…)`), which are drawn below their run.
            ax: The matplotlib axes to draw on. Default: those of a new figure.

        Raises:
            SetupError: matplotlib is not installed (extra `plot`).
            KeyError: The frame lacks a column.
        """
        from nbruns.frames.plots import timeline

        for name in ("id", "status", "created_at", "queued_time", "duration"):
            self._column(name)
        return timeline(self._frame, steps, ax)

    def plot_usage(
        self,
        value: str = "total_tokens",
        by: str = "model",
        freq: str | None = None,
        *,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw tokens, runs or costs over time as stacked bars.

        Args:
            value: The column to sum up, `"runs"` for the number of runs, or `"cost"` (by genai-prices, unless the frame
                has a column `cost`).
            by: The column whose values are stacked, as in `usage`.
            freq: The time that a bar covers, as a pandas frequency. Default: chosen by the time span of the runs.
            ax: The matplotlib axes to draw on. Default: those of a new figure.

        Raises:
            SetupError: matplotlib (extra `plot`) or, for costs, genai-prices (extra `cost`) is not installed.
            KeyError: The frame lacks a column.
        """
        from nbruns.frames.plots import usage

        frame = self._frame
        if value == "cost" and value not in frame:
            frame = frame.assign(cost=self.cost())
        if value == "runs":
            frame = frame.assign(runs=1)
        elif value not in frame:
            raise KeyError(self._missing(value))
        return usage(frame, frame[value], self._key(by), self._column("created_at"), freq, ax)

    def score(self, **functions: Scorer) -> pd.DataFrame:
        """Return the frame with a column for each function.

            runs.nbruns.score(brief=lambda row: len(row.answer) < 200, right=lambda row: row.expected in row.answer)

        Args:
            **functions: Called with each row, as a Series, that has an answer; they return a number, True or False,
                or a label. Other rows have missing scores.

        Raises:
            TypeError: A function returns anything else. Exceptions of the functions are not caught.
        """
        return scored(self._frame, functions)

    def compare(
        self,
        by: str = "assistant",
        scores: str | Sequence[str] | None = None,
        *,
        on: str | Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Compare variants: one row for each value of the column `by`.

        Args:
            by: The column of the variants: `"assistant"`, `"model"`, or any other.
            scores: Columns of numbers or booleans. Default: all such columns that frames of runs don't have.
            on: The columns that identify a prompt. Default: `prompt`, `messages` or `question`.

        Returns:
            A DataFrame with the columns `runs` and `failures`; for each score its mean, the bounds of the confidence
            interval of 95 % (`SCORE_low`, `SCORE_high`, bootstrapped over prompts) and the win rate (`SCORE_wins`: how
            often a variant beats another at the same prompt, where ties count half); `median_time`, `mean_cost` and
            `mean_tokens`.

        Raises:
            KeyError: The frame lacks a column.
        """
        key = self._key(by)
        asked = prompt_keys(self._frame, on)
        failed = self._column("status").isin(_FAILED)
        return compared(self._frame, key, asked, self._scores(scores, by, on), failed)

    def plot_compare(
        self,
        by: str = "assistant",
        scores: str | Sequence[str] | None = None,
        *,
        on: str | Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw the mean of each score for each variant, with its confidence interval.

        Args:
            by: The column of the variants, as in `compare`.
            scores: Columns of numbers or booleans, as in `compare`.
            on: The columns that identify a prompt, as in `compare`.
            ax: The matplotlib axes to draw on. Default: those of a new figure.

        Raises:
            SetupError: matplotlib is not installed (extra `plot`).
            KeyError: The frame lacks a column.
        """
        from nbruns.frames.plots import comparison

        names = self._scores(scores, by, on)
        return comparison(self.compare(by, names, on=on), names, ax)

    def disagreements(
        self,
        by: str = "assistant",
        score: str | None = None,
        *,
        on: str | Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Return the rows, sorted by how much the variants disagree on the prompt of the row.

        Args:
            by: The column of the variants, as in `compare`.
            score: The column to compare. Default: `answer`.
            on: The columns that identify a prompt, as in `compare`.

        Returns:
            The frame, largest disagreement first, with the column `disagreement`. For numbers, it is the difference
            between the largest and the smallest mean of a variant; otherwise, the number of different labels or
            answers minus one.

        Raises:
            KeyError: The frame lacks a column.
        """
        return disagreeing(self._frame, self._key(by), prompt_keys(self._frame, on), score)

    def _scores(
        self, scores: str | Sequence[str] | None, by: str, on: str | Sequence[str] | None
    ) -> list[str]:
        if scores is None:
            given = [on] if isinstance(on, str) else list(on or ())
            return score_columns(self._frame, {*COLUMNS["run"], by, *given})
        names = [scores] if isinstance(scores, str) else list(scores)
        for name in names:
            self._column(name)
        return names

    def _key(self, name: str) -> pd.Series[Any]:
        if name == "day" and name not in self._frame:
            days: pd.Series[Any] = self._column("created_at").dt.floor("D").rename("day")
            return days
        return self._column(name if name in self._frame else _COLUMN_OF.get(name, name))

    def _column(self, name: str) -> pd.Series[Any]:
        if name not in self._frame:
            raise KeyError(self._missing(name))
        column: pd.Series[Any] | pd.DataFrame = self._frame[name]
        if isinstance(column, pd.DataFrame):
            raise KeyError(f"This frame has {column.shape[1]} columns {name!r}. Keep one of them.")
        return column

    def _missing(self, name: str) -> str:
        index = (
            " It is in the index; reset_index() makes it a column." if name in self._frame.index.names else ""
        )
        return (
            f"This frame has no column {name!r}, which frames of runs from client.runs.list(…) have.{index} "
            f"It has: {', '.join(map(str, self._frame.columns))}."
        )
