"""Filter, sort and format the rows of a runs DataFrame. Pure functions, without I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbruns.frames import runs_frame
from nbruns.objects import TERMINAL_STATUSES
from nbruns.text import JSON
from nbruns.widgets.html import duration

Series = Any  # pd.Series of whatever a column holds

#: Columns that the text filter searches, in addition to the metadata.
_SEARCHED = ("id", "thread_id", "assistant_id", "model", "error_code", "error_message", "incomplete_reason")
_AGO = re.compile(r"\d+(\.\d+)?\s*[A-Za-z]+")


class Column(NamedTuple):
    """A table column: heading, CSS class suffix, and the function that formats its cells."""

    label: str
    kind: str  # status, text, number or id; a CSS class suffix
    text: Callable[[Series], list[str]]


def _plain(values: Series) -> list[str]:
    return ["" if value is None or value is pd.NA or value != value else str(value) for value in values]


def _times(values: Series) -> list[str]:
    return ["" if text is pd.NA or text != text else text for text in values.dt.strftime("%Y-%m-%d %H:%M:%S")]


def _seconds(values: Series) -> list[str]:
    return ["" if seconds != seconds else duration(seconds) for seconds in values.dt.total_seconds()]


def _counts(values: Series) -> list[str]:
    return ["" if pd.isna(value) else f"{int(value):,}" for value in values]


#: Columns in display order. "why" is derived: the error, the incomplete reason or the required action.
COLUMNS: dict[str, Column] = {
    "created_at": Column("Created (UTC)", "time", _times),
    "status": Column("Status", "status", _plain),
    "model": Column("Model", "text", _plain),
    "duration": Column("Duration", "number", _seconds),
    "total_tokens": Column("Tokens", "number", _counts),
    "why": Column("Reason", "why", _plain),
    "assistant_id": Column("Assistant", "id", _plain),
    "thread_id": Column("Thread", "id", _plain),
    "id": Column("Run", "id", _plain),
}


@dataclass(frozen=True)
class Filter:
    """Filter criteria and sort column. A leading minus sorts in descending order."""

    status: Sequence[str] = ()
    model: Sequence[str] = ()
    text: str = ""
    since: str = ""
    until: str = ""
    sort: str = "-created_at"


class Rows:
    """A DataFrame of runs, with cached values for filtering and formatting."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self._whole = complete(frame)
        self._whole["why"] = _why(self._whole)
        self._text: Series = None

    def __len__(self) -> int:
        return len(self.frame)

    def matching(self, wanted: Filter, now: pd.Timestamp) -> np.ndarray[Any, Any]:
        """Return the positions of the matching rows, in sort order."""
        whole = self._whole
        keep = np.ones(len(whole), dtype=bool)
        for name in ("status", "model"):
            if given := getattr(wanted, name):
                keep &= whole[name].isin(list(given)).to_numpy()
        created = whole["created_at"]
        for text, fits in ((wanted.since, created.ge), (wanted.until, created.le)):
            if text:
                keep &= fits(moment(text, now)).fillna(False).to_numpy(dtype=bool)
        if words := wanted.text.casefold().split():
            keep &= self._contains(words)
        return self._ordered(np.flatnonzero(keep), wanted.sort)

    def _ordered(self, positions: np.ndarray[Any, Any], sort: str) -> np.ndarray[Any, Any]:
        values = self._whole[sort.removeprefix("-")].iloc[positions].reset_index(drop=True)
        if isinstance(values.dtype, pd.CategoricalDtype):
            values = values.astype("string")
        order = values.sort_values(ascending=not sort.startswith("-"), kind="stable", na_position="last")
        ordered: np.ndarray[Any, Any] = positions[order.index.to_numpy()]
        return ordered

    def _contains(self, words: list[str]) -> np.ndarray[Any, Any]:
        if self._text is None:
            self._text = [text.casefold() for text in _searchable(self._whole)]
        return np.array([all(word in text for word in words) for text in self._text], dtype=bool)

    def cells(self, positions: np.ndarray[Any, Any]) -> list[list[str]]:
        """Return the formatted cells of the rows at these positions, in the order of COLUMNS."""
        part = self._whole.iloc[positions]
        return [list(row) for row in zip(*(c.text(part[name]) for name, c in COLUMNS.items()), strict=True)]

    def position(self, run_id: str) -> int | None:
        """Return the position of a run, or None if it is not in the frame."""
        found = np.flatnonzero((self._whole["id"] == run_id).to_numpy(dtype=bool, na_value=False))
        return int(found[0]) if len(found) else None

    def place(self, position: int) -> tuple[str, str]:
        """Return the run id and thread id of a row."""
        row = self._whole.iloc[position]
        return str(row["id"]), str(row["thread_id"])

    def active(self) -> list[tuple[str, str]]:
        """Return (run id, thread id) of every run that has not ended."""
        part = self._whole[~self._whole["status"].isin(TERMINAL_STATUSES) & self._whole["status"].notna()]
        return list(zip(_plain(part["id"]), _plain(part["thread_id"]), strict=True))

    def counts(self, name: str, wanted: Filter, now: pd.Timestamp) -> list[tuple[str, int]]:
        """Return the values of a column with their row counts, most frequent first.

        Counts apply the other filters. Values with a count of 0 are included, so that they can be selected.
        """
        others: JSON = {name: ()}
        values = self._whole[name].astype("string")
        counted = values.iloc[self.matching(replace(wanted, **others), now)].value_counts()
        absent = [(str(value), 0) for value in values.value_counts().index if value not in counted.index]
        return [(str(value), int(count)) for value, count in counted.items()] + absent


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy with all columns of a runs frame; absent columns are filled with missing values.

    Raises:
        KeyError: The frame lacks the column id, thread_id or status.
    """
    for name in ("id", "thread_id", "status"):
        if name not in frame:
            raise KeyError(
                f"A table of runs needs a column {name!r}. client.runs.list(…) returns a frame that has it."
            )
    empty = runs_frame(())
    given = {name: frame[name] for name in empty if name in frame}
    missing = {name: empty[name].reindex(frame.index) for name in empty if name not in frame}
    return pd.DataFrame(given | missing, index=frame.index)


def updated(frame: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with rows replaced by those in `fresh` that have the same id."""
    at = pd.Index(frame["id"]).get_indexer(pd.Index(fresh["id"]))
    fresh, at = fresh[at >= 0], at[at >= 0]
    for name in frame.columns.intersection(fresh.columns):
        frame = frame.assign(**{str(name): _put(frame[name], at, fresh[name])})
    return frame


def _put(column: Series, at: np.ndarray[Any, Any], values: Series) -> Series:
    if isinstance(column.dtype, pd.CategoricalDtype):
        values = values.astype("string")
        new = [value for value in values.dropna().unique() if value not in column.cat.categories]
        column = column.cat.add_categories(new)
    column = column.copy()
    for place, value in zip(at, values, strict=True):
        column.iat[place] = value
    return column


def moment(text: str, now: pd.Timestamp) -> pd.Timestamp:
    """Parse an ISO 8601 time (UTC by default), or an age such as "7D" (seven days before `now`).

    Raises:
        ValueError: The text is neither.
    """
    if _AGO.fullmatch(text.strip()):
        return now - pd.Timedelta(text)
    given = pd.Timestamp(text)
    if pd.isna(given):
        raise ValueError(f"{text!r} is not a time")
    return given.tz_localize("UTC") if given.tzinfo is None else given.tz_convert("UTC")


def moment_text(text: str) -> str:
    """Normalize a time accepted by `moment`: ISO 8601 in UTC; ages such as "7D" and "" stay unchanged.

    Raises:
        ValueError: The text is not a time.
    """
    if not text.strip():
        return ""
    time = moment(text, pd.Timestamp.now("UTC"))
    return text.strip() if _AGO.fullmatch(text.strip()) else time.strftime("%Y-%m-%dT%H:%M:%S")


def _why(frame: pd.DataFrame) -> Series:
    texts = [
        frame[name].astype("string")
        for name in ("error_message", "error_code", "incomplete_reason", "required_action")
    ]
    why = texts[0]
    for other in texts[1:]:
        why = why.fillna(other)
    return why.str.replace("_", " ").where(frame["error_message"].isna(), why)


def _searchable(frame: pd.DataFrame) -> list[str]:
    columns = [_plain(frame[name]) for name in _SEARCHED] + [list(map(_json, frame["metadata"]))]
    return list(map("\n".join, zip(*columns, strict=True)))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict) and value else ""
