"""Export runs to a folder of Parquet files, one file per month, which DuckDB, Dask and Spark can read.

    runs/month=2026-11/runs.parquet     the runs created in that month (UTC), one row for each run
    runs/_export.json                   progress of the export; readers skip names that start with _

Files are written under a temporary name and then renamed, and the progress is saved after the runs. If an export
is interrupted, the next one fetches a few runs again and replaces their rows. The saved progress stops before the
first run that is still active, or that was created so recently that the server may yet list another run before it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Self, cast

import pandas as pd
from filelock import FileLock

from nbruns.client.concurrent import fetch_all
from nbruns.client.pagination import iter_pages
from nbruns.client.transport import Transport, path_of
from nbruns.errors import APIError, BadRequestError, NotFoundError, SetupError, install_command
from nbruns.frames import durations, nested_to_json, runs_frame
from nbruns.objects import TERMINAL_STATUSES, Run, utc
from nbruns.text import JSON

#: Number of runs, or of threads, that are fetched before they are written.
_RUNS_AT_A_TIME, _THREADS_AT_A_TIME = 2_000, 64
#: Maximum number of runs in the list of all runs. The limit is high because they aren't kept in memory.
_MOST = 10_000_000
#: Runs younger than this are fetched again next time: lists are ordered by whole seconds, and clocks differ.
_SETTLED_AFTER = timedelta(minutes=10)
#: Key of the list of all runs, among the keys of lists, which are thread ids.
_ALL = ""
_NOTE, _LOCK, _UNFINISHED = "_export.json", ".export.lock", ".unfinished"


def export_runs(transport: Transport, folder: Path, threads: Iterable[str] | None, since: Any = None) -> None:
    """Update the folder with the runs of the given threads, or of all threads, created at or after `since`.

    Raises SetupError if pyarrow is missing, and TypeError if no threads are given and the server can't list them.
    """
    _require_pyarrow()
    with _Export(folder, None if since is None else _moment(since)) as export:
        if threads is None and _is_listed(transport, "/runs"):
            listed = _listed(transport, _ALL, export.after(_ALL), _MOST)
            while some := list(islice(listed, _RUNS_AT_A_TIME)):
                export.add({_ALL: some})
            return
        keys = iter(_all_threads(transport) if threads is None else list(threads))
        while some_keys := list(islice(keys, _THREADS_AT_A_TIME)):
            fetch = _fetch_present if threads is None else _fetch
            asked = [(key, export.after(key)) for key in some_keys]
            export.add(dict(zip(some_keys, fetch_all(transport, fetch, asked, "thread"), strict=True)))


def _fetch(transport: Transport, asked: tuple[str, str | None]) -> list[JSON]:
    return list(_listed(transport, *asked))


def _fetch_present(transport: Transport, asked: tuple[str, str | None]) -> list[JSON]:
    try:
        return _fetch(transport, asked)
    except NotFoundError:  # the thread was deleted after it was listed
        return []


def _listed(transport: Transport, key: str, after: str | None, most: int | None = None) -> Iterator[JSON]:
    """Yield the runs of a list after the run `after`, oldest first; all of them if that run was deleted."""
    path = path_of("threads", key, "runs") if key else "/runs"
    try:
        yield from iter_pages(transport, path, {"order": "asc", "after": after}, most=most)
    except (BadRequestError, NotFoundError):
        if after is None:
            raise
        yield from iter_pages(transport, path, {"order": "asc"}, most=most)


def _is_listed(transport: Transport, path: str) -> bool:
    try:
        next(iter_pages(transport, path, {}, 1), None)
        return True
    except APIError as error:
        if error.status in (404, 405):
            return False
        raise


def _all_threads(transport: Transport) -> list[str]:
    if not _is_listed(transport, "/threads"):
        raise TypeError(
            "This server can list neither all runs nor all threads (no GET /runs and GET /threads). Pass the threads: "
            "export(folder, threads=[…])."
        )
    return [thread["id"] for thread in iter_pages(transport, "/threads", {"order": "asc"})]


class _Export:
    """An export folder and its progress file, locked against other exports."""

    def __init__(self, folder: Path, since: datetime | None) -> None:
        self._folder, self._since = folder, since
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / _LOCK)
        self._after: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._lock.acquire()
        for left in self._folder.rglob(f".*{_UNFINISHED}"):
            left.unlink()
        note = self._folder / _NOTE
        noted = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
        before = noted.get("since")
        if before is None or (self._since is not None and self._since >= datetime.fromisoformat(before)):
            self._after = noted.get("after", {})  # otherwise older runs are included now: start again
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def after(self, key: str) -> str | None:
        """Return the id of the run after which a list continues; None to start at the first run."""
        return self._after.get(key)

    def add(self, lists: dict[str, list[JSON]]) -> None:
        """Write the runs of some lists, then save the progress of these lists."""
        months: dict[str, list[JSON]] = {}
        for run in (run for runs in lists.values() for run in runs):
            created = utc(run.get("created_at"))
            if self._since is None or created is None or created >= self._since:
                months.setdefault(f"{created:%Y-%m}" if created else "unknown", []).append(run)
        for month, runs in sorted(months.items()):
            _merge(self._folder / f"month={month}" / "runs.parquet", runs)
        for key, runs in lists.items():
            if (settled := _settled(runs)) is not None:
                self._after[key] = settled
        note = {"since": self._since and self._since.isoformat(), "after": self._after}
        _replace(self._folder / _NOTE, lambda path: path.write_text(json.dumps(note), encoding="utf-8"))


def _settled(runs: list[JSON]) -> str | None:
    """Return the id of the last run up to which no run can change or appear; None if there is no such run."""
    last, young = None, datetime.now(UTC) - _SETTLED_AFTER
    for run in runs:
        created = utc(run.get("created_at"))
        if run.get("status") not in TERMINAL_STATUSES or created is None or created > young:
            break
        last = run["id"]
    return last


def _merge(file: Path, runs: list[JSON]) -> None:
    """Merge runs into the file of a month, replacing their earlier rows."""
    frame = _portable(runs_frame(map(Run, runs)))
    if file.exists():
        before = pd.read_parquet(file, partitioning=None)
        before = before.assign(**durations("run", before))[
            frame.columns
        ]  # files of earlier versions lack some columns
        others = before[~before["id"].isin(frame["id"])]
        frame = pd.concat([others.astype(frame.dtypes), frame]) if len(others) else frame
        frame = frame.sort_values(["created_at", "id"], ignore_index=True)
        if frame.equals(before.astype(frame.dtypes)):
            return
    file.parent.mkdir(exist_ok=True)
    ordered = frame.sort_values(["created_at", "id"], ignore_index=True)
    _replace(file, lambda path: ordered.to_parquet(path, index=False))


def _portable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with categories and nested values as text, so that the types are the same in all files."""
    categories = frame.select_dtypes("category").columns
    return nested_to_json(frame.astype(dict.fromkeys(categories, "string")))


def _replace(file: Path, write: Callable[[Path], Any]) -> None:
    """Write a file next to its destination and move it there, so that readers find a complete file."""
    unfinished = file.with_name(f".{file.name}{_UNFINISHED}")
    write(unfinished)
    with unfinished.open("rb+") as written:
        os.fsync(written.fileno())
    os.replace(unfinished, file)


def _moment(since: Any) -> datetime:
    moment: Any = pd.NaT
    with suppress(TypeError, ValueError):
        moment = pd.Timestamp(since, unit="s") if isinstance(since, (int, float)) else pd.Timestamp(since)
    if pd.isna(moment):
        raise ValueError(
            f"since={since!r} is not a point in time. Pass a date, a datetime, or a string such as '2026-11-01'."
        )
    moment = moment.tz_localize(UTC) if moment.tzinfo is None else moment.tz_convert(UTC)
    return cast(datetime, moment.to_pydatetime())


def _require_pyarrow() -> None:
    try:
        import pyarrow  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise SetupError(f"Parquet files need the package pyarrow: {install_command('parquet')}") from error
