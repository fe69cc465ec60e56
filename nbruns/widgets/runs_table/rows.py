"""Filter, sort and format the rows of a runs DataFrame. Pure functions, without I/O."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbruns.errors import SetupError
from nbruns.frames import runs_frame
from nbruns.frames.cost import Prices, cost_of
from nbruns.objects import TERMINAL_STATUSES
from nbruns.widgets.html import duration, money

Series = Any  # pd.Series of any dtype
Mask = np.ndarray[Any, Any]
#: A message found by a search: the ids of its run (None for the user's messages) and its thread, and its time.
Hit = tuple[str | None, str | None, pd.Timestamp | None]

#: Columns that the text filter searches, in addition to the metadata.
_SEARCHED = ("id", "thread_id", "assistant_id", "model", "error_code", "error_message", "incomplete_reason")
_AGO = re.compile(r"\d+(\.\d+)?\s*[A-Za-z]+")


class Column(NamedTuple):
    """A table column. `width` is its minimum width in em; columns with `grow` share the remaining space.

    If the table is too narrow, the columns with the highest `rank` are left out.
    """

    label: str
    kind: str  # status, text, number, id, …; a CSS class suffix
    width: float
    grow: int
    rank: int
    text: Callable[[Series], list[str]]


class RunText(NamedTuple):
    """The question and the answer of a run, truncated to MAX_TEXT characters."""

    question: str = ""
    answer: str = ""


#: Maximum number of characters of a question or an answer that the table keeps, and of those in a cell.
MAX_TEXT, MAX_CELL = 1000, 200
#: Metadata that the page offers as filters: this many pairs, of keys with at most this many values.
MAX_PAIRS, MAX_VALUES = 50, 20


def _plain(values: Series) -> list[str]:
    return ["" if value is None or value is pd.NA or value != value else str(value) for value in values]


def _times(values: Series) -> list[str]:
    return ["" if text is pd.NA or text != text else text for text in values.dt.strftime("%Y-%m-%d %H:%M:%S")]


def _seconds(values: Series) -> list[str]:
    return ["" if seconds != seconds else duration(seconds) for seconds in values.dt.total_seconds()]


def _counts(values: Series) -> list[str]:
    return ["" if pd.isna(value) else f"{int(value):,}" for value in values]


def _amounts(values: Series) -> list[str]:
    return ["" if pd.isna(value) else money(float(value)) for value in values]


#: All columns in their default order. "assistant" is the name, or the id if the name is unknown. "why" is the error,
#: the reason for an incomplete run, or the required action. Questions and answers are requested when in view.
COLUMNS: dict[str, Column] = {
    "created_at": Column("Created", "time", 11.4, 0, 2, _times),
    "status": Column("Status", "status", 8.6, 0, 0, _plain),
    "question": Column("Question", "said", 8, 3, 1, _plain),
    "answer": Column("Answer", "said", 9, 4, 4, _plain),
    "assistant": Column("Assistant", "text", 6.5, 1, 7, _plain),
    "model": Column("Model", "text", 6.5, 1, 6, _plain),
    "duration": Column("Duration", "number", 6.2, 0, 3, _seconds),
    "total_tokens": Column("Tokens", "number", 4.6, 0, 5, _counts),
    "cost": Column("Cost", "number", 5.2, 0, 9, _amounts),
    "why": Column("Reason", "why", 7, 1, 8, _plain),
    "assistant_id": Column("Assistant id", "id", 8, 0, 12, _plain),
    "thread_id": Column("Thread", "id", 8, 0, 11, _plain),
    "id": Column("Run", "id", 8, 0, 10, _plain),
}
#: Columns that are shown by default.
DEFAULT_COLUMNS = tuple(name for name in COLUMNS if name not in ("assistant_id", "thread_id"))
#: Columns that the table can't sort by, because their values are loaded on demand.
LAZY_COLUMNS = tuple(RunText._fields)


@dataclass(frozen=True)
class Filter:
    """Filter criteria and sort column. A leading minus sorts in descending order.

    `assistant` has names or ids; in `metadata`, None stands for any value of a key. `said_in` has the ids of the runs
    in whose messages `text` was found.
    """

    status: Sequence[str] = ()
    model: Sequence[str] = ()
    assistant: Sequence[str] = ()
    metadata: Mapping[str, str | None] = field(default_factory=dict)
    text: str = ""
    said_in: Collection[str] = ()
    since: str = ""
    until: str = ""
    sort: str = "-created_at"


#: Criteria whose values are counted, and their columns.
_COUNTED = {"status": "status", "model": "model", "assistant": "assistant_id"}


class Rows:
    """A DataFrame of runs, with cached values for filtering and formatting.

    Args:
        frame: The runs.
        names: Names of assistants by id.
        prices: Prices of models, as for `df.runs.cost`.
    """

    def __init__(
        self, frame: pd.DataFrame, names: Mapping[str, str] | None = None, prices: Prices | None = None
    ) -> None:
        self.frame = frame
        self._whole = complete(frame)
        self._whole["why"] = _why(self._whole)
        self._names, self._prices = names if names is not None else {}, prices
        self._text: Series = None
        self._pairs: list[tuple[str, str | None, int]] | None = None
        self._masked: tuple[Filter, pd.Timestamp, dict[str, Mask]] | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def column(self, name: str) -> Series:
        """Return the values of a column, including computed ones such as "cost"."""
        if name == "assistant":
            ids = self._whole["assistant_id"].astype("string")
            return ids.map(lambda id: self._names.get(id) or id, na_action="ignore").astype("string")
        if name == "cost" and name not in self._whole:
            self._whole[name] = _cost(self._whole, self._prices)
        return self._whole[name]

    def forget_masks(self) -> None:
        """Clear cached filter results, because the names of assistants have changed."""
        self._masked = None

    def matching(self, wanted: Filter, now: pd.Timestamp) -> np.ndarray[Any, Any]:
        """Return the positions of the matching rows, in sort order."""
        keep = np.logical_and.reduce([*self._masks(wanted, now).values()])
        return self._ordered(np.flatnonzero(keep), wanted.sort)

    def _masks(self, wanted: Filter, now: pd.Timestamp) -> dict[str, Mask]:
        """Return the rows that match each criterion. Criteria whose values aren't counted are combined."""
        if self._masked is not None and self._masked[:2] == (wanted, now):
            return self._masked[2]
        whole = self._whole
        masks = {"others": np.ones(len(whole), dtype=bool)}
        for name, column in _COUNTED.items():
            if given := list(getattr(wanted, name)):
                masks[name] = whole[column].isin(given).to_numpy()
                if name == "assistant":
                    masks[name] = masks[name] | self.column("assistant").isin(given).to_numpy()
        created = whole["created_at"]
        for text, fits in ((wanted.since, created.ge), (wanted.until, created.le)):
            if text:
                masks["others"] &= fits(moment(text, now)).fillna(False).to_numpy(dtype=bool)
        if words := wanted.text.casefold().split():
            masks["others"] &= self._contains(words) | whole["id"].isin(list(wanted.said_in)).to_numpy()
        if wanted.metadata:
            masks["others"] &= np.array(
                [_has(value, wanted.metadata) for value in whole["metadata"]], dtype=bool
            )
        self._masked = wanted, now, masks
        return masks

    def _ordered(self, positions: np.ndarray[Any, Any], sort: str) -> np.ndarray[Any, Any]:
        values = self.column(sort.removeprefix("-")).iloc[positions].reset_index(drop=True)
        if isinstance(values.dtype, pd.CategoricalDtype):
            values = values.astype("string")
        order = values.sort_values(ascending=not sort.startswith("-"), kind="stable", na_position="last")
        ordered: np.ndarray[Any, Any] = positions[order.index.to_numpy()]
        return ordered

    def _contains(self, words: list[str]) -> Mask:
        if self._text is None:
            self._text = [text.casefold() for text in _searchable(self._whole)]
        return np.array([all(word in text for word in words) for text in self._text], dtype=bool)

    def said_by(self, hits: Iterable[Hit]) -> set[str]:
        """Return the ids of the runs to which messages belong.

        A message of the user belongs to the first run of its thread that was created at the same time or later.
        """
        found, asked = set[str](), dict[str, list[pd.Timestamp]]()
        for run_id, thread_id, time in hits:
            if run_id:
                found.add(run_id)
            elif thread_id and time is not None:
                asked.setdefault(thread_id, []).append(time)
        threads = self._whole[self._whole["thread_id"].isin(list(asked)) & self._whole["created_at"].notna()]
        by_time = threads.sort_values("created_at", kind="stable")
        for key, runs in by_time.groupby("thread_id", observed=True):
            places = runs["created_at"].searchsorted(pd.DatetimeIndex(asked[str(key)]))
            found.update(str(runs["id"].iloc[place]) for place in set(places) if place < len(runs))
        return found

    def cells(
        self,
        positions: np.ndarray[Any, Any],
        columns: Sequence[str] = DEFAULT_COLUMNS,
        zone: str = "UTC",
        texts: Mapping[str, RunText] | None = None,
    ) -> list[list[str | None]]:
        """Return the formatted cells of the rows at these positions, each followed by the run's id.

        Questions and answers that are not among `texts` are None.
        """
        ids = _plain(self._whole["id"].iloc[positions])
        made: list[Sequence[str | None]] = []
        for name in columns:
            if name in LAZY_COLUMNS:
                known = [texts.get(id) if texts is not None else None for id in ids]
                made.append([None if text is None else getattr(text, name)[:MAX_CELL] for text in known])
                continue
            values = self.column(name).iloc[positions]
            made.append(COLUMNS[name].text(values.dt.tz_convert(zone) if name == "created_at" else values))
        return [list(row) for row in zip(*made, ids, strict=True)]

    def metadata_pairs(self) -> list[tuple[str, str | None, int]]:
        """Return pairs of metadata with their row counts, most frequent first; None stands for too many values."""
        if self._pairs is None:
            pairs = Counter(
                (str(key), str(value))
                for each in self._whole["metadata"]
                if isinstance(each, dict)
                for key, value in each.items()
            )
            values = Counter(key for key, _ in pairs)
            counted = Counter[tuple[str, str | None]]()
            for (key, value), count in pairs.items():
                short = len(value) <= MAX_CELL and values[key] <= MAX_VALUES
                counted[key, value if short else None] += count
            listed = [(*pair, count) for pair, count in counted.most_common() if len(pair[0]) <= MAX_CELL]
            self._pairs = listed[:MAX_PAIRS]
        return self._pairs

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
        """Return the values of a criterion's column with their row counts, most frequent first.

        Counts apply the other criteria. Values with a count of 0 are included, so that they can be selected.
        """
        others = [mask for each, mask in self._masks(wanted, now).items() if each != name]
        values: Series = self._whole[_COUNTED[name]].astype("string")
        counted = values[np.logical_and.reduce(others)].value_counts()
        absent = [(str(value), 0) for value in values.value_counts().index if value not in counted.index]
        return [(str(value), int(count)) for value, count in counted.items()] + absent

    def places(self, positions: np.ndarray[Any, Any]) -> list[tuple[str, str, pd.Timestamp]]:
        """Return run id, thread id and creation time of the rows at these positions."""
        part = self._whole.iloc[positions]
        return list(zip(_plain(part["id"]), _plain(part["thread_id"]), part["created_at"], strict=True))


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
    whole = pd.DataFrame(given | missing, index=frame.index)
    if whole["created_at"].dt.tz is None:
        whole["created_at"] = whole["created_at"].dt.tz_localize("UTC")
    return whole


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


def _cost(frame: pd.DataFrame, prices: Prices | None) -> Series:
    try:
        return cost_of(frame, prices)
    except SetupError:  # without prices, costs are unknown
        return pd.Series(pd.NA, index=frame.index, dtype="Float64")


def _has(metadata: Any, wanted: Mapping[str, str | None]) -> bool:
    given = metadata if isinstance(metadata, dict) else {}
    return all(key in given and value in (None, str(given[key])) for key, value in wanted.items())


def _searchable(frame: pd.DataFrame) -> list[str]:
    columns = [_plain(frame[name]) for name in _SEARCHED] + [list(map(_json, frame["metadata"]))]
    return list(map("\n".join, zip(*columns, strict=True)))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict) and value else ""
