"""The runs that a table is to show, from the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from nbruns.errors import APIError
from nbruns.objects import Run, Thread

if TYPE_CHECKING:
    from nbruns.runs import Runs

#: Threads whose runs are listed at the same time.
AT_ONCE = 8


def listed(runs: Runs, threads: Sequence[str | Thread] | None, limit: int | None) -> Iterator[Run]:
    """The runs of these threads, at most `limit` of each; without threads those of all."""
    if threads is None:
        yield from runs.iter(limit=limit)
        return
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="nbruns-table") as pool:
        for found in pool.map(lambda thread: [*runs.iter(thread, limit=limit)], threads):
            yield from found


def advice(error: BaseException, threads: Sequence[str | Thread] | None) -> str:
    """What to do about an error, where it is that the server lists the runs of threads only."""
    if threads is None and isinstance(error, APIError) and error.status in (404, 405):
        return (
            "\nThis server does not list the runs of all threads: name threads, RunsTable(client, threads)."
        )
    return ""
