"""Scores of runs, and comparisons of variants: means with confidence intervals, win rates, disagreements. No I/O.

Confidence intervals are bootstrapped over prompts, because answers to the same prompt are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from nbruns.text import excerpt

#: Number of bootstrap resamples, and the maximum number of prompts drawn at once, which limits memory use.
RESAMPLES, _DRAWN_AT_ONCE = 2_000, 4_000_000
#: Percentiles of the resamples that bound a 95 % confidence interval.
_BOUNDS = (2.5, 97.5)
#: Columns that identify a prompt. The first that a frame has is used.
PROMPT_COLUMNS = ("prompt", "messages", "question")
#: Columns of numbers that are not scores.
_NO_SCORES = frozenset({"repeat", "cost"})

Scorer = Callable[[Any], Any]


def scored(frame: pd.DataFrame, functions: Mapping[str, Scorer]) -> pd.DataFrame:
    """Return the frame with a column for each function, which is called with each row that has an answer."""
    has_answer = frame["answer"].notna() if "answer" in frame else pd.Series(True, frame.index)
    columns = {}
    for name, function in functions.items():
        rows = (row if has else None for (_, row), has in zip(frame.iterrows(), has_answer, strict=True))
        values = [None if row is None else function(row) for row in rows]
        columns[name] = pd.Series(score_array(name, values), frame.index)
    return frame.assign(**columns)


def score_array(name: str, values: list[Any]) -> Any:
    """Return scores as an array of booleans, numbers or labels. Raises TypeError for other values."""
    values = [None if value is pd.NA else value for value in values]
    known = [value for value in values if value is not None]
    if all(isinstance(value, (bool, np.bool_)) for value in known):
        return pd.array(values, dtype="boolean")
    if all(isinstance(value, (int, np.integer)) for value in known):
        return pd.array(values, dtype="Int64")
    if all(isinstance(value, (int, float, np.number)) for value in known):
        return pd.array([np.nan if value is None else float(value) for value in values], dtype="Float64")
    if all(isinstance(value, str) for value in known):
        return pd.array(values, dtype="string")
    kinds = ", ".join(sorted({type(value).__name__ for value in known}))
    raise TypeError(
        f"The score {excerpt(name)!r} is to be a number, True or False, or a label for each row, not {kinds}."
    )


def score_columns(frame: pd.DataFrame, known: Iterable[str]) -> list[str]:
    """Return the names of columns of numbers and booleans that frames of runs don't have."""
    others = [name for name in frame.columns if name not in {*known, *_NO_SCORES}]
    return [
        name for name in others if types.is_numeric_dtype(frame[name]) or types.is_bool_dtype(frame[name])
    ]


def prompt_keys(frame: pd.DataFrame, on: str | Sequence[str] | None) -> pd.Series[Any]:
    """Return the prompt of each row as a text."""
    if on is None:
        found = next((name for name in PROMPT_COLUMNS if name in frame), None)
        if found is None:
            raise KeyError(
                f"This frame has no column {' or '.join(PROMPT_COLUMNS)}. Name the columns of the prompt with on=…."
            )
        on = found
    names = [on] if isinstance(on, str) else list(on)
    return pd.Series([repr(row) for row in frame[names].itertuples(index=False, name=None)], frame.index)


def compared(
    frame: pd.DataFrame,
    by: pd.Series[Any],
    asked: pd.Series[Any],
    scores: Sequence[str],
    failed: pd.Series[Any],
) -> pd.DataFrame:
    """Return a comparison with one row for each variant: see `RunsAccessor.compare`."""
    groups = by.astype("object").fillna("unknown").astype(str)
    names = list(dict.fromkeys(groups))
    compared: dict[str, Any] = {
        "runs": [int((groups == name).sum()) for name in names],
        "failures": [int(failed[groups == name].sum()) for name in names],
    }
    for score in scores:
        values = frame[score].astype("Float64").to_numpy(dtype="float64", na_value=np.nan)
        table = _by_prompt(values, groups, asked, names)
        wins = _wins(table)
        intervals = [_interval(values[groups == name], asked[groups == name]) for name in names]
        for number, suffix in enumerate(("", "_low", "_high")):
            compared[f"{score}{suffix}"] = _floats([interval[number] for interval in intervals])
        compared[f"{score}_wins"] = _floats(wins)
    grouped = frame.groupby(groups, sort=False)
    for column, found in (
        ("duration", "median_time"),
        ("cost", "mean_cost"),
        ("total_tokens", "mean_tokens"),
    ):
        if column in frame:
            statistic = grouped[column].median() if column == "duration" else grouped[column].mean()
            compared[found] = statistic.reindex(names).array
    return pd.DataFrame(compared, index=pd.Index(names, name=by.name))


def _floats(values: Iterable[float]) -> Any:
    return pd.array([pd.NA if np.isnan(value) else value for value in values], dtype="Float64")


def _by_prompt(values: Any, groups: pd.Series[Any], asked: pd.Series[Any], names: list[str]) -> Any:
    """Return the mean score of each variant (column) for each prompt (row)."""
    series = pd.Series(values, groups.index)
    table = series.groupby([asked, groups]).mean().unstack()
    return table.reindex(columns=names).to_numpy(dtype="float64")


def _wins(table: Any) -> list[float]:
    """Return the win rate of each variant on the same prompts. Ties count half; NaN if there is no other variant."""
    rates = []
    for column in range(table.shape[1]):
        others = np.delete(table, column, axis=1)
        mine = table[:, [column]]
        both = ~np.isnan(mine) & ~np.isnan(others)
        won = np.where(mine > others, 1.0, np.where(mine == others, 0.5, 0.0))
        rates.append(float(won[both].mean()) if both.any() else np.nan)
    return rates


def _interval(values: Any, asked: pd.Series[Any]) -> tuple[float, float, float]:
    """Return the mean, and the bounds of its 95 % confidence interval."""
    known = ~np.isnan(values)
    if not known.any():
        return np.nan, np.nan, np.nan
    grouped = pd.Series(values[known]).groupby(asked.to_numpy()[known])
    sums, counts = grouped.sum().to_numpy(), grouped.count().to_numpy()
    mean = float(sums.sum() / counts.sum())
    if len(sums) < 2:  # an interval needs at least two prompts
        return mean, np.nan, np.nan
    drawn = np.random.default_rng(0)  # a fixed seed, so that the same data has the same interval
    means: list[Any] = []
    size = max(1, _DRAWN_AT_ONCE // len(sums))
    for start in range(0, RESAMPLES, size):
        picked = drawn.integers(0, len(sums), (min(size, RESAMPLES - start), len(sums)))
        means.append(sums[picked].sum(axis=1) / counts[picked].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), _BOUNDS)
    return mean, float(low), float(high)


def disagreeing(
    frame: pd.DataFrame, by: pd.Series[Any], asked: pd.Series[Any], score: str | None
) -> pd.DataFrame:
    """Return the rows with the column `disagreement`, largest first: see `RunsAccessor.disagreements`."""
    groups = by.astype("object").fillna("unknown").astype(str)
    if score is None:
        # The number of different answers, minus one.
        spread = frame["answer"].astype("object").groupby(asked).nunique(dropna=False) - 1.0
    elif types.is_numeric_dtype(frame[score]) or types.is_bool_dtype(frame[score]):
        means = frame[score].astype("Float64").groupby([asked, groups]).mean().groupby(level=0)
        spread = (means.max() - means.min()).astype("Float64")
    else:
        spread = frame[score].astype("object").groupby(asked).nunique(dropna=False) - 1.0
    values = asked.map(spread.astype("Float64")).astype("Float64").rename("disagreement")
    found = frame.assign(disagreement=values)
    order = pd.DataFrame({"spread": -values.fillna(-1), "place": pd.factorize(asked)[0]}, index=frame.index)
    positions = order.reset_index(drop=True).sort_values(["spread", "place"], kind="stable").index
    return found.iloc[positions]
