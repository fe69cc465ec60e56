"""`df.nbruns`, and `df.runs` for short: questions to a frame of runs, answered in one line each."""

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
#: What `by` may be called too.
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
        """Runs, failures, tokens and duration per group.

        `by`: one column or several: "model", "assistant", "thread", "status", "day", or any other of the frame; `[]`
        for none. `freq`: a pandas frequency such as "D", "W" or "MS", to split by the time of creation too. Columns:
        runs, failures (failed, expired, incomplete), the three token counts (sums; missing where no run of the group
        has any), median and 95th percentile of `duration` (creation to end); and the sum of `cost`, if the frame has
        such a column: `df.assign(cost=df.runs.cost()).runs.usage()`. Raises KeyError for a column that the frame does
        not have.
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
        """Return the cost of each run. `.sum()` is the total of the known ones.

        Args:
            prices: Prices of a million tokens by model, as (input, output), (input, output, cached input) or a
                mapping with the keys `input`, `output` and `cached`, in any currency. Default: US dollars from the
                price lists of the package genai-prices (extra `cost`) on the day of the run, without network
                access.

        Returns:
            A Series, missing for unknown models and runs without usage. Reasoning tokens are part of the output
            tokens.
        """
        for name in ("model", "created_at", "prompt_tokens", "completion_tokens", "cached_tokens"):
            self._column(name)
        return cost_of(self._frame, prices)

    def failures(self) -> pd.DataFrame:
        """The runs that ended as failed, expired or incomplete."""
        return self._frame[self._column("status").isin(_FAILED)]

    def active(self) -> pd.DataFrame:
        """The runs that have not ended."""
        return self._frame[~self._column("status").isin(TERMINAL_STATUSES)]

    def timeline(self, steps: pd.DataFrame | None = None, *, ax: Axes | None = None) -> Axes:
        """Draw when the runs waited and ran, one bar each, in the colour of their status (needs the extra `plot`).

        `steps`: a frame of their steps (`client.runs.steps.list(…)`), drawn below their run. More runs than lines of
        text fit are packed into lanes, without their names and steps. Times are in the frame's own time zone.
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
        """Draw tokens over time as bars, stacked by model (needs the extra `plot`).

        `value`: a column to add up, or "runs" for their number, or "cost" (by genai-prices, unless the frame has a
        column `cost` already); `by`: as in `usage`; `freq`: the width of a bar, by the length of time if left out.
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
            TypeError: A function returns anything else. What a function raises is not caught.
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
            by: The column of the variants: "assistant", "model", or any other.
            scores: Columns of numbers or booleans. Default: all that frames of runs don't have.
            on: The columns that identify a prompt. Default: `prompt`, `messages` or `question`.

        Returns:
            A DataFrame with the columns `runs` and `failures`; for each score its mean, the bounds of the confidence
            interval of 95 % (`SCORE_low`, `SCORE_high`, bootstrapped over prompts) and the win rate (`SCORE_wins`: how
            often a variant beats another at the same prompt, where ties count half); `median_time`, `mean_cost` and
            `mean_tokens`.
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
        """Draw the means of scores with their confidence intervals, for each variant (needs the extra `plot`).

        For the arguments, see `compare`.
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
        """Return the rows, those first at whose prompt the variants disagree most.

        Args:
            by, on: As in `compare`.
            score: The column to disagree in. Default: `answer`, where each further answer counts.

        Returns:
            The frame with the column `disagreement`: the difference between the largest and the smallest mean of a
            number, or the number of further labels or answers.
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
            raise KeyError(f"This frame has {column.shape[1]} columns {name!r}; leave one of them.")
        return column

    def _missing(self, name: str) -> str:
        index = (
            " It is in the index; reset_index() makes it a column." if name in self._frame.index.names else ""
        )
        return (
            f"This frame has no column {name!r}, which frames of runs have, as client.runs.list(…) gives them.{index} "
            f"It has: {', '.join(map(str, self._frame.columns))}."
        )
