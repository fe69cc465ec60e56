"""Runs as a table to explore: sorted and filtered in the kernel, which sends a page only the rows in view."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import anywidget
import numpy as np
import pandas as pd
import traitlets

from nbruns.client.transport import Transport
from nbruns.errors import APIError, NbrunsError, NotFoundError, TimeoutError
from nbruns.frames import runs_frame
from nbruns.objects import Run, Thread
from nbruns.text import excerpt
from nbruns.widgets.runs_table import saved
from nbruns.widgets.runs_table.details import fetch
from nbruns.widgets.runs_table.poll import Follower
from nbruns.widgets.runs_table.rows import COLUMNS, Filter, Rows, complete, moment_text, updated

if TYPE_CHECKING:
    from nbruns.client import Client
    from nbruns.client.runs import Runs

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
            "\nThis server can't list the runs of all threads. Pass the threads: RunsTable(client, threads)."
        )
    return ""


class Names(traitlets.List):  # type: ignore[type-arg]  # its subclass is of str
    """A list of names; a single name will do."""

    def validate(self, obj: Any, value: Any) -> Any:
        wanted = [value] if isinstance(value, str) else value if isinstance(value, list) else list(value)
        return super().validate(obj, wanted)


class Moment(traitlets.Unicode):  # type: ignore[type-arg]
    """A point in time as text; a datetime, or a timedelta for so long ago, will do."""

    def validate(self, obj: Any, value: Any) -> Any:
        if isinstance(value, timedelta):
            value = f"{value.total_seconds():.0f}s"
        text = "" if value is None else value.isoformat() if isinstance(value, datetime) else str(value)
        try:
            return moment_text(text)
        except ValueError:
            raise traitlets.TraitError(
                f"{self.name}={excerpt(value, 60)!r} is not a time. Use '2026-11-01', a datetime, or '7D' for "
                "seven days ago."
            ) from None


STATIC = Path(__file__).parent.parent / "static"
#: Unfinished runs that are asked for in one go; the others have their turn in the next.
MAX_WORKERS = 20
#: Rows that a page gets for one question, at most.
ROWS_AT_ONCE = 300
#: Seconds that a cell waits for its first rows, so that they are in what the notebook saves.
SOON = 1.0


def _joined(*names: str) -> str:
    return "\n".join((STATIC / name).read_text("utf-8") for name in names)


class RunsTable(anywidget.AnyWidget):
    """Runs as a table to sort, filter and open: all runs of a server, those of threads, or those of a frame.

        table = nbruns.RunsTable(client)                        # all runs, where the server lists them (ours does)
        table = nbruns.RunsTable(client, threads)               # those of one thread or of many
        table = nbruns.RunsTable(client, runs=frame.runs.failures())
        table                                                   # shows it

    `client` is a Client or its `.runs`; `limit` counts per thread, as in `client.runs.list`. The cell returns at
    once: runs are listed in the background. `status`, `model`, `text`, `since`, `until` and `sort` are what the page
    has set, and set what it shows; `frame` is what they let through, `selected` the Run objects that are selected.
    Runs that have not ended are asked for again until they have.

    What the notebook saves is a plain table of the first rows.
    """

    _esm = _joined(*(f"runs_{part}.js" for part in ("store", "filters", "grid", "details", "table")))
    _css = _joined("transcript.css", "runs_table.css")

    #: Only runs with one of these statuses, of one of these models; all where empty.
    status = Names(traitlets.Unicode()).tag(sync=True)
    model = Names(traitlets.Unicode()).tag(sync=True)
    #: Words that must all be somewhere in the ids, the model, the error or the metadata.
    text = traitlets.Unicode().tag(sync=True)
    #: Created in this time: "2026-11-01", a datetime, or "7D" for seven days ago.
    since = Moment().tag(sync=True)
    until = Moment().tag(sync=True)
    #: The column to sort by, with a minus before it for the other way round.
    sort = traitlets.Unicode("-created_at").tag(sync=True)

    _facts = traitlets.Dict().tag(sync=True)
    _notes = traitlets.Dict().tag(sync=True)
    _details = traitlets.Dict().tag(sync=True)
    _chosen = Names(traitlets.Unicode()).tag(sync=True)
    #: The name of the places in outputs that the live table takes.
    _place = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        client: Client | Runs,
        threads: str | Thread | Iterable[str | Thread] | None = None,
        *,
        runs: pd.DataFrame | Iterable[Run] | None = None,
        limit: int | None = None,
    ) -> None:
        self._closed, self._listed = threading.Event(), threading.Event()
        self._follower = Follower(self._look)
        self._outputs = saved.Outputs(self._plain)
        given = [*runs] if runs is not None and not isinstance(runs, pd.DataFrame) else []
        frame = runs_frame(given) if runs is not None and not isinstance(runs, pd.DataFrame) else runs
        if frame is not None:
            complete(frame)  # or it raises what is missing
        self._runs = cast("Runs", getattr(client, "runs", client))
        self._transport: Transport = self._runs._transport
        self._threads = None if threads is None else _several(threads)
        self._limit = limit
        self._lock = threading.RLock()
        self._known: dict[str, Run] = {}
        self._rows = Rows(runs_frame(()))
        self._order: np.ndarray[Any, Any] = np.arange(0)
        self._version = 0
        self._state, self._error = "loading", cast("BaseException | None", None)
        self._lists = frame is None
        self._asked: dict[str, float] = {}
        self._gone: set[str] = set()
        self._pages: set[str] = set()
        super().__init__(_place=uuid.uuid4().hex)
        self.on_msg(self._receive)
        self.observe(lambda _: self._arrange(), ["status", "model", "text", "since", "until", "sort"])
        if frame is None:
            self.refresh()
        else:
            self._take(frame, {run.id: run for run in given})
            self._ready()

    # What users ask of it.

    @property
    def frame(self) -> pd.DataFrame:
        """What the filter shows, in the order in which it does; waits while the runs are being listed.

        Raises what went wrong if they could not be listed.
        """
        self.wait()
        with self._lock:
            return self._rows.frame.iloc[self._order]

    @property
    def selected(self) -> list[Run]:
        """The runs that are selected. Those that only a frame named are asked for."""
        return [self._run(run_id) for run_id in self._chosen]

    def open_run(self, run: str | Run) -> None:
        """Select a run and show its transcript, steps, tool calls, usage and JSON. Raises KeyError for one that
        the table does not have."""
        run_id = run if isinstance(run, str) else run.id
        self._thread_of(run_id)
        self._chosen = [run_id]
        self._open(run_id)

    def refresh(self) -> None:
        """List the runs again, in the background: with the new ones. Of runs that were given, those that go on are
        looked at again."""
        with self._lock:
            if not self._lists:
                self._follower.start()
            elif self._listed.is_set() or not self._version:
                self._listed.clear()
                self._state, self._error = "loading", None
                self._arrange()
                threading.Thread(target=self._list, name="nbruns-table-list", daemon=True).start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the runs have been listed. Raises TimeoutError, or what went wrong."""
        if not self._listed.wait(timeout):
            raise TimeoutError(f"Timed out after {timeout:g} s while listing runs. Call wait() again.")
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Look no more, and leave a plain table where this one was displayed."""
        if not self._closed.is_set():
            self._closed.set()
            self._follower.stop()
            self._outputs.close()
            self._listed.set()  # whoever waits for the list waits no more
        super().close()

    def to_html(self) -> str:
        """The first rows as HTML that needs no kernel and asks nothing of the network."""
        with self._lock:
            rows = self._rows.cells(self._order[: saved.SAVED])
            return saved.to_html(rows, self._caption(), self._place)

    def __repr__(self) -> str:
        return f"RunsTable({self._caption()})"

    def _caption(self) -> str:
        shown, of_all = len(self._order), len(self._rows)
        runs = "1 run" if of_all == 1 else f"{of_all:,} runs"
        if shown > saved.SAVED:
            matching = f"{shown:,} matching runs ({of_all:,} total)" if shown < of_all else runs
            text = f"Showing {saved.SAVED} of {matching}"
        else:
            text = f"{shown:,} of {runs}" if shown < of_all else runs
        state = {"loading": ", still loading", "error": "; listing runs failed"}
        return f"{text}{state.get(self._state, '')}"

    # Displaying and saving. The output of the cell is the plain table; on a page with this kernel the live one
    # takes its place, see runs_table.js. So a notebook never holds a widget that cannot be shown again.

    def _ipython_display_(self, **_: object) -> None:
        self._listed.wait(SOON)
        self._outputs.show(self._repr_mimebundle_)

    def _plain(self) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.to_html()}

    # Listing.

    def _list(self) -> None:
        runs: dict[str, Run] = {}
        shown = 50 if not len(self._rows) else 10**12  # what is there stays until all has come
        try:
            for run in listed(self._runs, self._threads, self._limit):
                runs[run.id] = run
                if self._closed.is_set():
                    return
                if len(runs) == 2 * shown:
                    shown = len(runs)
                    self._take(runs_frame(runs.values()), runs)
            self._take(runs_frame(runs.values()), runs)
            self._ready()
        except Exception as error:  # whatever it was, it is shown and raised by wait(), not lost in a thread
            self._state, self._error = "error", error
            self._note("list", _words(error) + advice(error, self._threads))
            self._arrange()
            self._listed.set()

    def _take(self, frame: pd.DataFrame, known: dict[str, Run]) -> None:
        with self._lock:
            self._rows, self._known = Rows(frame), self._known | known
            self._arrange()

    def _ready(self) -> None:
        self._state = "ready"
        self._note("list", "")
        self._arrange()
        self._listed.set()
        if self._rows.active():
            self._follower.start()

    def _arrange(self) -> None:
        """Filter and sort anew, and tell the pages how many rows there are."""
        with self._lock:
            wanted = Filter(self.status, self.model, self.text, self.since, self.until, self.sort)
            now = pd.Timestamp.now("UTC")
            self._order = self._rows.matching(wanted, now)
            self._version += 1
            self._facts = {
                "version": self._version,
                "state": self._state,
                "lists": self._lists,
                "shown": len(self._order),
                "all": len(self._rows),
                "active": len(self._rows.active()),
                "statuses": self._rows.counts("status", wanted, now),
                "models": self._rows.counts("model", wanted, now),
                "columns": [[name, column.label, column.kind] for name, column in COLUMNS.items()],
            }
        self._outputs.save_soon()

    @traitlets.validate("sort")
    def _sortable(self, proposal: Any) -> str:
        name = str(proposal["value"])
        if name.removeprefix("-") not in COLUMNS:
            raise traitlets.TraitError(
                f"sort={excerpt(name, 60)!r}: use one of {', '.join(COLUMNS)}, with a leading '-' for descending order."
            )
        return name

    # What pages ask of it.

    def _receive(self, _widget: object, content: Any, _buffers: object) -> None:
        for name, answer in self._ANSWERS.items():
            if isinstance(content, dict) and name in content:
                answer(self, content[name])

    def _send_rows(self, asked: Any) -> None:
        version, start, stop = map(int, asked)
        with self._lock:
            if version == self._version:
                part = self._order[max(start, 0) : min(stop, start + ROWS_AT_ONCE)]
                self.send({"version": version, "start": start, "rows": self._rows.cells(part)})

    def _choose(self, asked: Any) -> None:
        version, first, last = map(int, asked)
        with self._lock:
            if version == self._version:
                part = self._order[min(first, last) : max(first, last) + 1]
                self._chosen = [self._rows.place(position)[0] for position in part]

    def _hello(self, page: Any) -> None:
        self._pages.add(str(page))
        if self._rows.active():
            self._follower.start()

    def _bye(self, page: Any) -> None:
        self._pages.discard(str(page))
        if not self._pages:
            self._follower.stop()

    def _open(self, run_id: Any) -> None:
        if not run_id:
            self._details = {}
            return
        self._details = {"id": str(run_id), "state": "loading"}
        threading.Thread(
            target=self._fetch, args=(str(run_id),), name="nbruns-table-open", daemon=True
        ).start()

    _ANSWERS: ClassVar[dict[str, Callable[[RunsTable, Any], None]]] = {
        "rows": _send_rows,
        "choose": _choose,
        "hello": _hello,
        "bye": _bye,
        "open": _open,
        "refresh": lambda self, _: self.refresh(),
    }

    def _fetch(self, run_id: str) -> None:
        try:
            details = fetch(self._runs, self._transport, run_id, self._thread_of(run_id))
            wire = {"state": "ready", **details.to_wire()}
            self._hear([details.run])
        except Exception as error:  # whatever it was, it is shown
            wire = {"id": run_id, "state": "error", "words": _words(error)}
        with self._lock:
            if self._details.get("id") == run_id and not self._closed.is_set():
                self._details = wire

    def _thread_of(self, run_id: str) -> str:
        with self._lock:
            position = self._rows.position(run_id)
            if position is None:
                raise KeyError(f"No run {excerpt(run_id, 80)} in this table.")
            return self._rows.place(position)[1]

    def _run(self, run_id: str) -> Run:
        if run_id not in self._known:
            self._hear([self._runs.retrieve(run_id, self._thread_of(run_id))])
        return self._known[run_id]

    # Runs that have not ended.

    def _look(self) -> bool | None:
        """Ask for some of the runs that have not ended; whether anything is new, None if none is left."""
        with self._lock:
            active = [place for place in self._rows.active() if place[0] not in self._gone]
        if not active or self._closed.is_set():
            return None
        turn = sorted(active, key=lambda place: self._asked.get(place[0], 0.0))[:MAX_WORKERS]
        heard: list[Run] = []
        problem = ""
        for run_id, thread_id in turn:
            self._asked[run_id] = time.monotonic()
            try:
                heard.append(self._runs.retrieve(run_id, thread_id))
            except NotFoundError:
                self._gone.add(run_id)
            except Exception as error:
                problem = f"Failed to refresh active runs. {_words(error)}"
                break
        self._note("follow", problem)
        changed = self._hear(heard)
        if self._details.get("id") in dict(turn):
            self._fetch(self._details["id"])
        return changed

    def _hear(self, runs: list[Run]) -> bool:
        """Keep what the server has just said of runs; whether it is new to the rows of those that go on.

        Whoever asks, the rows are told: a look for news would find none in what is known already.
        """
        with self._lock:
            active = dict(self._rows.active())
            news = {run.id: run for run in runs if _is_news(run, self._known.get(run.id))}
            self._known |= news
            shown = [run for run_id, run in news.items() if run_id in active]
            if shown:
                self._rows = Rows(updated(self._rows.frame, runs_frame(shown)))
                self._arrange()
            return bool(shown)

    def _note(self, name: str, words: str) -> None:
        """Show words under the table, in the place of those of the same name."""
        with self._lock:
            others = {key: value for key, value in self._notes.items() if key != name}
            wanted = {**others, **({name: words} if words else {})}
            if wanted != self._notes:
                self._notes = wanted


def _is_news(run: Run, known: Run | None) -> bool:
    """Whether it says more than what is known: two threads ask, and the older answer may come last."""
    return known is None or (run != known and (run.is_terminal or not known.is_terminal))


def _several(threads: str | Thread | Iterable[str | Thread]) -> list[str | Thread]:
    return [threads] if isinstance(threads, (str, Thread)) else list(threads)


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, NbrunsError) else f"{type(error).__name__}: {excerpt(error, 500)}"
