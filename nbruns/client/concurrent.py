"""Fetch many objects with a bounded number of workers, in order, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from threading import get_ident
from typing import Any, TypeVar

from nbruns.client.transport import Transport

#: Maximum number of concurrent fetches, below the size of a client's connection pool.
MAX_WORKERS = 8
#: Seconds after which a progress bar appears.
QUIET = 1.0
#: Attempts to close pending requests, and seconds between them: a request that is connecting has no socket yet.
_HANG_UPS, _BETWEEN = 20, 0.05

T = TypeVar("T")
Item = TypeVar("Item")


def fetch_all(
    transport: Transport, fetch: Callable[[Transport, Item], T], items: Iterable[Item], unit: str
) -> list[T]:
    """Return what `fetch` returns for each item, in order, with several fetches at a time.

    A progress bar counting `unit`s appears after one second. If a fetch fails or the user interrupts, the pending
    requests are closed and the error is raised.
    """
    fork, workers = transport.forked(), list[int]()
    pool = ThreadPoolExecutor(
        MAX_WORKERS, thread_name_prefix="nbruns-list", initializer=lambda: workers.append(get_ident())
    )
    futures = [pool.submit(fetch, fork, item) for item in items]
    try:
        _wait(futures, unit)
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        _end(futures, fork, workers)


def _wait(futures: Sequence[Future[Any]], unit: str) -> None:
    """Wait until all futures are done. Raises the error of the first that fails."""
    done, going = wait(futures, timeout=QUIET, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
    if not going:
        return
    with progress_bar(total=len(futures), initial=len(done), unit=unit, leave=False) as bar:
        for future in as_completed(going):
            future.result()
            bar.update()


@contextmanager
def progress_bar(**options: Any) -> Iterator[Any]:
    """Yield a tqdm progress bar, and remove it at the end.

    In a notebook, tqdm itself leaves the output of a closed widget, which shows as an error without a kernel.
    """
    from tqdm.auto import tqdm  # imported late because it is slow to import, especially in a notebook

    if all(kind.__name__ != "tqdm_notebook" for kind in tqdm.__mro__):
        with tqdm(**options) as bar:
            yield bar
        return
    from IPython import display

    in_notebook: Any = tqdm(**options, display=False)
    show: Any = display.display
    with in_notebook as bar:
        shown = show(bar.container, display_id=True)
        try:
            yield bar
        finally:
            shown.update({}, raw=True)


def _end(futures: Sequence[Future[Any]], fork: Transport, workers: Sequence[int]) -> None:
    for _ in range(_HANG_UPS):
        going = [future for future in futures if not future.done()]
        if not going:
            return
        fork.hang_up(workers)
        wait(going, timeout=_BETWEEN)
