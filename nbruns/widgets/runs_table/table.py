"""The runs table widget. The kernel sorts and filters, and sends only the visible rows to the page."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import anywidget
import numpy as np
import pandas as pd
import traitlets

from nbruns.client.resources import MessagesOfThreads
from nbruns.client.transport import Transport
from nbruns.errors import APIError, InvalidIdError, NotFoundError, TimeoutError, error_text
from nbruns.frames import runs_frame
from nbruns.objects import Run, Thread
from nbruns.text import JSON, excerpt
from nbruns.widgets.compare import Comparison, compare
from nbruns.widgets.html import sendable
from nbruns.widgets.notebook.threads import start_thread
from nbruns.widgets.run_view.details import fetch_details
from nbruns.widgets.runs_table import saved
from nbruns.widgets.runs_table.details import to_wire
from nbruns.widgets.runs_table.poll import Poller
from nbruns.widgets.runs_table.rows import (
    COLUMNS,
    DEFAULT_COLUMNS,
    LAZY_COLUMNS,
    MAX_CELL,
    Filter,
    Hit,
    Rows,
    RunText,
    complete,
    moment_text,
    updated,
)
from nbruns.widgets.runs_table.texts import Loader, RunsOfThread, by_thread, fetch_texts

if TYPE_CHECKING:
    from nbruns.client import Client
    from nbruns.client.runs import Runs
    from nbruns.frames.cost import Prices

#: Number of threads whose runs are listed concurrently.
MAX_WORKERS = 8


def listed(runs: Runs, threads: Sequence[str | Thread] | None, limit: int | None) -> Iterator[Run]:
    """Yield the runs of these threads, at most `limit` per thread; if `threads` is None, those of all threads."""
    if threads is None:
        yield from runs.iter(limit=limit)
        return
    with ThreadPoolExecutor(MAX_WORKERS, thread_name_prefix="nbruns-table") as pool:
        for found in pool.map(lambda thread: [*runs.iter(thread, limit=limit)], threads):
            yield from found


def advice(error: BaseException, threads: Sequence[str | Thread] | None) -> str:
    """Return a hint if the server can't list the runs of all threads, else an empty string."""
    if threads is None and isinstance(error, APIError) and error.status in (404, 405):
        return (
            "\nThis server can't list the runs of all threads. Pass the threads: RunsTable(client, threads)."
        )
    return ""


class Names(traitlets.List):  # type: ignore[type-arg]  # its subclass is of str
    """A list of names. A single name is also accepted."""

    def validate(self, obj: Any, value: Any) -> Any:
        wanted = [value] if isinstance(value, str) else value if isinstance(value, list) else list(value)
        return super().validate(obj, wanted)


class Moment(traitlets.Unicode):  # type: ignore[type-arg]
    """A point in time as text. Also accepts a datetime, or a timedelta as an age."""

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


class Columns(Names):
    """Names of columns, each once, at least one."""

    def validate(self, obj: Any, value: Any) -> Any:
        wanted = list(dict.fromkeys(super().validate(obj, value)))
        unknown = [name for name in wanted if name not in COLUMNS]
        if unknown or not wanted:
            what = f"no column {excerpt(repr(unknown[0]), 60)}" if unknown else "at least one is needed"
            raise traitlets.TraitError(f"columns: {what}. Choose from {', '.join(COLUMNS)}.")
        return wanted


class Zone(traitlets.Unicode):  # type: ignore[type-arg]
    """The name of a time zone."""

    def validate(self, obj: Any, value: Any) -> Any:
        name = super().validate(obj, value)
        try:
            ZoneInfo(name)
        except (ValueError, OSError, ZoneInfoNotFoundError):
            raise traitlets.TraitError(
                f"{self.name}={excerpt(name, 60)!r} is not a time zone. Use 'UTC', or a name such as 'Europe/Oslo'."
            ) from None
        return name


STATIC = Path(__file__).parent.parent / "static"
#: Number of active runs to retrieve per poll; the others follow in the next polls.
RUNS_PER_POLL = 20
#: Maximum number of runs that the page shows side by side, and the id that the comparison has in `_details`.
MAX_COMPARED, _COMPARISON = 6, "comparison"
#: Maximum number of rows per response to a page.
MAX_ROWS_PER_RESPONSE = 300
#: Traits that filter, in addition to `text`.
_CRITERIA = ("status", "model", "assistant", "metadata", "since", "until")
#: Status codes of servers that can't search messages.
_CANT_SEARCH = (404, 405, 501)
_HIT_COLUMNS = ("run_id", "thread_id", "created_at", "text")
#: Maximum number of characters of a search query, and of messages that a search returns.
MAX_QUERY, MAX_FOUND = 256, 1000
#: Maximum number of assistants, most frequent first, whose names are requested and that the page offers as filters.
MAX_ASSISTANTS = 100
#: Seconds to wait for the first rows when the table is displayed, so that the saved table contains them.
FIRST_ROWS_TIMEOUT = 1.0


def _joined(*names: str) -> str:
    return "\n".join((STATIC / name).read_text("utf-8") for name in names)


class RunsTable(anywidget.AnyWidget):
    """Show runs in a table to sort, filter and inspect.

        table = nbruns.RunsTable(client)
        table = nbruns.RunsTable(client, threads)
        table = nbruns.RunsTable(client, runs=frame.runs.failures(), columns=["question", "why", "id"])
        table            # displays it

    The cell returns immediately: runs load in the background, and active runs are polled until they end. Questions and
    answers are requested for the rows in view. The traits `columns`, `status`, `model`, `assistant`, `metadata`,
    `text`, `since`, `until`, `sort` and `timezone` are synchronized with the controls in the page. `frame` is a
    DataFrame of the matching runs, `selected` a list of the selected runs. The notebook saves a plain table of the
    first rows.

    Args:
        client: A Client, or its `runs`.
        threads: One or several threads, or their ids. Default: all threads, if the server can list their runs.
        runs: A DataFrame or an iterable of Run objects to show instead of listing runs.
        limit: Maximum number of runs of each thread. Default: all.
        columns: The columns to show, in order: created_at, status, question, answer, assistant, model, duration,
            total_tokens, cost, why, assistant_id, thread_id, id. Default: all but the ids of assistant and thread.
            If the page is too narrow, some are left out.
        prices: Prices of a million tokens by model, as for `df.runs.cost`. Default: those of genai-prices, if it is
            installed (extra `cost`).

    Raises:
        KeyError: `runs` is a DataFrame without the column `id`, `thread_id` or `status`.
        TraitError: A column doesn't exist.
    """

    _esm = _joined(*(f"runs_{part}.js" for part in ("store", "filters", "grid", "details", "table")))
    _css = _joined("transcript.css", "runs_table.css")

    #: The columns to show, in order.
    columns = Columns(traitlets.Unicode(), list(DEFAULT_COLUMNS)).tag(sync=True)
    #: Statuses, models and assistants (ids or names) to show; all if empty.
    status = Names(traitlets.Unicode()).tag(sync=True)
    model = Names(traitlets.Unicode()).tag(sync=True)
    assistant = Names(traitlets.Unicode()).tag(sync=True)
    #: Metadata that runs must have, such as {"team": "search"}. None matches any value.
    metadata: traitlets.Dict[str, str | None] = traitlets.Dict(
        key_trait=traitlets.Unicode(), value_trait=traitlets.Unicode(allow_none=True)
    ).tag(sync=True)
    #: Words to search for in ids, model, error, metadata and messages. All must match. Messages are searched on the
    #: server; if it can't search, only loaded messages are.
    text = traitlets.Unicode().tag(sync=True)
    #: Creation time range: "2026-11-01", a datetime, or "7D" for seven days ago.
    since = Moment().tag(sync=True)
    until = Moment().tag(sync=True)
    #: The column to sort by. A leading minus sorts in descending order.
    sort = traitlets.Unicode("-created_at").tag(sync=True)
    #: Time zone of the times shown. The page can change it to its own.
    timezone = Zone("UTC").tag(sync=True)

    _facts = traitlets.Dict().tag(sync=True)
    _notes = traitlets.Dict().tag(sync=True)
    _details = traitlets.Dict().tag(sync=True)
    _chosen = Names(traitlets.Unicode()).tag(sync=True)
    #: The id of the placeholders in outputs that the live table replaces.
    _place = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        client: Client | Runs,
        threads: str | Thread | Iterable[str | Thread] | None = None,
        *,
        runs: pd.DataFrame | Iterable[Run] | None = None,
        limit: int | None = None,
        columns: Iterable[str] | None = None,
        prices: Prices | None = None,
    ) -> None:
        self._closed, self._listed, self._searched = threading.Event(), threading.Event(), threading.Event()
        self._searched.set()
        self._poller = Poller(self._poll)
        self._outputs = saved.Outputs(self._plain)
        self._text_loader: Loader[RunsOfThread, RunText] = Loader(self._fetch_texts, self._take_texts)
        self._name_loader: Loader[str, str] = Loader(self._fetch_name, self._take_names)
        given = [*runs] if runs is not None and not isinstance(runs, pd.DataFrame) else []
        frame = runs_frame(given) if runs is not None and not isinstance(runs, pd.DataFrame) else runs
        if frame is not None:
            complete(frame)  # raises KeyError for missing columns
        self._runs = cast("Runs", getattr(client, "runs", client))
        self._transport: Transport = self._runs._transport
        self._threads = None if threads is None else _several(threads)
        self._limit = limit
        self._lock = threading.RLock()
        self._known: dict[str, Run] = {}
        self._texts: dict[str, RunText] = {}
        self._names: dict[str, str] = {}
        self._hits: list[Hit] = []
        self._can_search = True
        self._prices = prices
        self._rows = self._rows_of(runs_frame(()))
        self._order: np.ndarray[Any, Any] = np.arange(0)
        self._version = 0
        self._state, self._error = "loading", cast("BaseException | None", None)
        self._lists = frame is None
        self._polled_at: dict[str, float] = {}
        self._gone: set[str] = set()
        self._pages: set[str] = set()
        chosen = {} if columns is None else {"columns": columns}
        super().__init__(_place=uuid.uuid4().hex, **chosen)
        self.on_msg(self._receive)
        self.observe(lambda _: self._arrange(), [*_CRITERIA, "sort", "columns", "timezone"])
        self.observe(lambda _: self._search(), "text")
        if frame is None:
            self.refresh()
        else:
            self._take(frame, {run.id: run for run in given})
            self._ready()

    # Public methods.

    @property
    def frame(self) -> pd.DataFrame:
        """The matching runs in display order, as a DataFrame.

        Waits until the runs are loaded and messages are searched. Raises the error that occurred while listing them.
        """
        self.wait()
        with self._lock:
            return self._rows.frame.iloc[self._order]

    @property
    def selected(self) -> list[Run]:
        """The selected runs. If the table shows a DataFrame, they are retrieved from the server."""
        return [self._run(run_id) for run_id in self._chosen]

    def open_run(self, run: str | Run) -> None:
        """Select a run and show its transcript, steps, tool calls, usage and JSON.

        Args:
            run: The run or its id.

        Raises:
            KeyError: The run is not in the table.
        """
        run_id = run if isinstance(run, str) else run.id
        self._thread_of(run_id)
        self._chosen = [run_id]
        self._open(run_id)

    def compare(self, *, prices: Prices | None = None) -> Comparison:
        """Return the selected runs side by side, as `nbruns.compare` does. The page has a button for it.

        Args:
            prices: Prices of a million tokens by model, as for `df.runs.cost`. Default: those of genai-prices, if it
                is installed (extra `cost`).

        Raises:
            ValueError: Fewer than two runs are selected.
        """
        return compare(*((id, self._thread_of(id)) for id in self._chosen), client=self._runs, prices=prices)

    def refresh(self) -> None:
        """List the runs again in the background, including new ones.

        If the table was created with `runs`, poll those that are still active instead.
        """
        with self._lock:
            if not self._lists:
                self._poller.start()
            elif self._listed.is_set() or not self._version:
                self._listed.clear()
                self._state, self._error = "loading", None
                self._arrange()
                threading.Thread(target=self._list, name="nbruns-table-list", daemon=True).start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the runs are loaded, and messages are searched for `text`.

        Args:
            timeout: Maximum number of seconds to wait for each of the two. Default: no limit.

        Raises:
            TimeoutError: The runs are not loaded, or messages not searched, after `timeout` seconds.
            APIError: The server refused to list the runs.
        """
        if not self._listed.wait(timeout):
            raise TimeoutError(f"Timed out after {timeout:g} s while listing runs. Call wait() again.")
        if not self._searched.wait(timeout):
            raise TimeoutError(f"Timed out after {timeout:g} s while searching messages. Call wait() again.")
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop polling, and leave a plain table in the outputs that displayed this one."""
        if not self._closed.is_set():
            self._closed.set()
            self._poller.stop()
            self._text_loader.close()
            self._name_loader.close()
            self._outputs.close()
            self._listed.set()  # releases threads blocked in wait()
            self._searched.set()
        super().close()

    def to_html(self) -> str:
        """Return the first rows as HTML that needs neither a kernel nor a network."""
        with self._lock:
            rows = self._cells(self._order[: saved.SAVED_ROWS])
            columns = [(label, kind) for _, label, kind, *_ in self._columns()]
            return saved.to_html(rows, columns, self._caption(), self._place)

    def __repr__(self) -> str:
        return f"RunsTable({self._caption()})"

    def _caption(self) -> str:
        shown, of_all = len(self._order), len(self._rows)
        runs = "1 run" if of_all == 1 else f"{of_all:,} runs"
        if shown > saved.SAVED_ROWS:
            matching = f"{shown:,} matching runs ({of_all:,} total)" if shown < of_all else runs
            text = f"Showing {saved.SAVED_ROWS} of {matching}"
        else:
            text = f"{shown:,} of {runs}" if shown < of_all else runs
        state = {"loading": ", still loading", "error": "; listing runs failed"}
        return f"{text}{state.get(self._state, '')}"

    # Displaying and saving. The cell's output is the plain table. In pages connected to this kernel, the live table
    # replaces it (see runs_table.js). So a saved notebook never contains a widget that can't be displayed again.

    def _ipython_display_(self, **_: object) -> None:
        deadline = time.monotonic() + FIRST_ROWS_TIMEOUT
        if self._listed.wait(FIRST_ROWS_TIMEOUT):
            self._load_texts(self._order[: saved.SAVED_ROWS])
            self._text_loader.idle.wait(max(0.0, deadline - time.monotonic()))
        self._outputs.show(self._repr_mimebundle_)

    def _plain(self) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.to_html()}

    # Listing.

    def _list(self) -> None:
        runs: dict[str, Run] = {}
        shown = (
            50 if not len(self._rows) else 10**12
        )  # on a refresh, keep the current rows until all runs are loaded
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
        except Exception as error:  # shown in the table and raised by wait()
            self._state, self._error = "error", error
            self._note("list", error_text(error) + advice(error, self._threads))
            self._arrange()
            self._listed.set()

    def _take(self, frame: pd.DataFrame, known: dict[str, Run]) -> None:
        with self._lock:
            self._rows, self._known = self._rows_of(frame), self._known | known
            self._arrange()
            self._load_names()

    def _ready(self) -> None:
        self._state = "ready"
        self._note("list", "")
        if self.text:
            self._search()  # new runs have new messages
        self._arrange()
        self._listed.set()
        if self._rows.active():
            self._poller.start()

    def _arrange(self) -> None:
        """Filter and sort the rows, and send the new counts to the pages."""
        with self._lock:
            criteria = {name: getattr(self, name) for name in _CRITERIA}
            wanted = Filter(**criteria, text=self.text, said_in=self._said_in(), sort=self.sort)
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
                "assistants": [
                    (id, count, self._names.get(id) or id)
                    for id, count in self._rows.counts("assistant", wanted, now)[:MAX_ASSISTANTS]
                ],
                "pairs": self._rows.metadata_pairs(),
                "columns": self._columns(),
                "choices": [[name, column.label] for name, column in COLUMNS.items()],
                "defaults": list(DEFAULT_COLUMNS),
                "searching": not self._searched.is_set(),
                "can_search": self._can_search,
            }
        self._outputs.save_soon()

    def _columns(self) -> list[list[Any]]:
        """Return the properties of each shown column that the page and the saved table need."""
        shown = [[name, *COLUMNS[name][:-1], name not in LAZY_COLUMNS] for name in self.columns]
        place = self.timezone.rpartition("/")[2].replace("_", " ")
        return [
            [name, f"{label} ({place})" if name == "created_at" else label, *rest]
            for name, label, *rest in shown
        ]

    def _cells(self, positions: np.ndarray[Any, Any]) -> list[list[str | None]]:
        return self._rows.cells(positions, self.columns, self.timezone, self._texts)

    def _rows_of(self, frame: pd.DataFrame) -> Rows:
        return Rows(frame, self._names, self._prices)

    # Questions, answers and names, which are loaded in the background.

    def _load_texts(self, positions: np.ndarray[Any, Any]) -> None:
        if set(LAZY_COLUMNS).intersection(self.columns):
            with self._lock:
                places = self._rows.places(positions)
            self._text_loader.want(by_thread(place for place in places if place[0] not in self._texts))

    def _fetch_texts(self, runs: RunsOfThread) -> Mapping[str, RunText]:
        return fetch_texts(self._transport, runs)

    def _take_texts(self, texts: Mapping[str, RunText], problem: BaseException | None) -> None:
        with self._lock:
            self._texts |= texts
        if problem is not None:
            self._note("texts", f"Questions and answers were not loaded. {error_text(problem)}")
        elif texts:
            self._note("texts", "")
        if texts:
            self.send({"texts": {id: [part[:MAX_CELL] for part in text] for id, text in texts.items()}})
            self._outputs.save_soon()
        if texts and self.text and not self._can_search:
            self._arrange()

    def _load_names(self) -> None:
        counts = self._rows.counts("assistant", Filter(), pd.Timestamp.now("UTC"))
        self._name_loader.want([id for id, _ in counts[:MAX_ASSISTANTS] if id not in self._names])

    def _fetch_name(self, assistant_id: str) -> Mapping[str, str]:
        try:
            name = self._runs.assistant_of(Run({"assistant_id": assistant_id})).name
        except (NotFoundError, InvalidIdError):
            name = None
        return {assistant_id: sendable(" ".join(str(name or "").split())[:MAX_CELL])}

    def _take_names(self, names: Mapping[str, str], _: BaseException | None) -> None:
        with self._lock:
            self._names |= names
            if not any(names.values()):  # no names: ids are shown
                return
            self._rows.forget_masks()
            if self.assistant or self.sort.removeprefix("-") == "assistant":
                self._arrange()
                return
            # The order doesn't change, so pending requests of the page for rows stay valid.
            counts = [(id, count) for id, count, _ in self._facts["assistants"]]
            self._facts = self._facts | {
                "assistants": [(id, count, self._names.get(id) or id) for id, count in counts]
            }
            self.send({"renamed": True})
            self._outputs.save_soon()

    # Messages that contain the text.

    def _said_in(self) -> Collection[str]:
        """Return the ids of the runs whose messages contain the text."""
        words = self.text.casefold().split()
        if not words or self._can_search:
            return self._rows.said_by(self._hits)
        return {
            id
            for id, text in self._texts.items()
            if all(word in f"{text.question} {text.answer}".casefold() for word in words)
        }

    def _search(self) -> None:
        with self._lock:
            self._hits = []
            searches = (
                self._can_search and 0 < len(self.text.strip()) <= MAX_QUERY and not self._closed.is_set()
            )
            self._searched.clear() if searches else self._searched.set()
            self._note("search", "")
            self._arrange()
        if searches:
            start_thread("nbruns-table-search", partial(self._search_messages, self.text))

    def _search_messages(self, text: str) -> None:
        thread = self._threads[0] if self._threads is not None and len(self._threads) == 1 else None
        hits: list[Hit] = []
        can_search, problem = True, ""
        try:
            found = MessagesOfThreads(self._transport).search(text, thread, limit=MAX_FOUND)
            words = text.casefold().split()
            # Servers that don't know the parameter may list all messages.
            hits = [
                (_text(run), _text(of), None if pd.isna(at) else at)
                for run, of, at, said in zip(*(found[name] for name in _HIT_COLUMNS), strict=True)
                if all(word in str(said).casefold() for word in words)
            ]
            if len(found) == MAX_FOUND:
                problem = f"Only the newest {MAX_FOUND:,} messages with these words were considered."
        except APIError as error:
            can_search = error.status not in _CANT_SEARCH
            if can_search:
                problem = f"Messages were not searched. {error_text(error)}"
        except Exception as error:  # shown in the page
            problem = f"Messages were not searched. {error_text(error)}"
        with self._lock:
            self._can_search = can_search
            if text != self.text:  # another search has begun
                return
            self._hits = hits
            self._searched.set()
            self._note("search", problem)
            self._arrange()

    @traitlets.validate("sort")
    def _sortable(self, proposal: Any) -> str:
        name = str(proposal["value"])
        sortable = [each for each in COLUMNS if each not in LAZY_COLUMNS]
        if name.removeprefix("-") not in sortable:
            raise traitlets.TraitError(
                f"sort={excerpt(name, 60)!r}: use one of {', '.join(sortable)}, with a leading '-' for descending "
                "order."
            )
        return name

    # Messages from pages.

    def _receive(self, _widget: object, content: Any, _buffers: object) -> None:
        for name, handle in self._HANDLERS.items():
            if isinstance(content, dict) and name in content:
                handle(self, content[name])

    def _send_rows(self, request: Any) -> None:
        version, start, stop = map(int, request)
        with self._lock:
            if version == self._version:
                part = self._order[max(start, 0) : min(stop, start + MAX_ROWS_PER_RESPONSE)]
                self.send({"version": version, "start": start, "rows": self._cells(part)})

    def _request_texts(self, request: Any) -> None:
        version, first, last = map(int, request)
        with self._lock:
            if version == self._version:
                self._load_texts(self._order[max(first, 0) : min(last + 1, first + MAX_ROWS_PER_RESPONSE)])

    def _choose(self, request: Any) -> None:
        version, first, last = map(int, request)
        with self._lock:
            if version == self._version:
                part = self._order[min(first, last) : max(first, last) + 1]
                self._chosen = [self._rows.place(position)[0] for position in part]

    def _hello(self, page: Any) -> None:
        self._pages.add(str(page))
        if self._rows.active():
            self._poller.start()

    def _bye(self, page: Any) -> None:
        self._pages.discard(str(page))
        if not self._pages:
            self._poller.stop()

    def _open(self, run_id: Any) -> None:
        if not run_id:
            self._details = {}
            return
        self._details = {"id": str(run_id), "state": "loading"}
        threading.Thread(
            target=self._fetch, args=(str(run_id),), name="nbruns-table-open", daemon=True
        ).start()

    def _open_comparison(self, _: object) -> None:
        chosen = list(self._chosen)
        if not 2 <= len(chosen) <= MAX_COMPARED:
            return
        self._details = {"id": _COMPARISON, "state": "loading"}
        threading.Thread(
            target=self._fetch_comparison, args=(chosen,), name="nbruns-table-compare", daemon=True
        ).start()

    def _fetch_comparison(self, chosen: list[str]) -> None:
        try:
            html = compare(*((id, self._thread_of(id)) for id in chosen), client=self._runs).to_html()
            head = f"<strong>{len(chosen)} runs side by side</strong>"
            wire: JSON = {
                "id": _COMPARISON,
                "state": "ready",
                "head": head,
                "sections": [["Transcripts", html]],
            }
        except Exception as error:  # shown in the page
            wire = {"id": _COMPARISON, "state": "error", "words": error_text(error)}
        with self._lock:
            if self._details.get("id") == _COMPARISON and not self._closed.is_set():
                self._details = wire

    _HANDLERS: ClassVar[dict[str, Callable[[RunsTable, Any], None]]] = {
        "rows": _send_rows,
        "texts": _request_texts,
        "choose": _choose,
        "hello": _hello,
        "bye": _bye,
        "open": _open,
        "compare": _open_comparison,
        "refresh": lambda self, _: self.refresh(),
    }

    def _fetch(self, run_id: str) -> None:
        try:
            details = fetch_details(self._runs, self._transport, run_id, self._thread_of(run_id))
            wire = {"state": "ready", **to_wire(details)}
            self._merge([details.run])
        except Exception as error:  # shown in the page
            wire = {"id": run_id, "state": "error", "words": error_text(error)}
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
            self._merge([self._runs.retrieve(run_id, self._thread_of(run_id))])
        return self._known[run_id]

    # Runs that have not ended.

    def _poll(self) -> bool | None:
        """Retrieve some of the active runs. Return whether anything changed, or None if no active run is left."""
        with self._lock:
            active = [place for place in self._rows.active() if place[0] not in self._gone]
        if not active or self._closed.is_set():
            return None
        batch = sorted(active, key=lambda place: self._polled_at.get(place[0], 0.0))[:RUNS_PER_POLL]
        fetched: list[Run] = []
        problem = ""
        for run_id, thread_id in batch:
            self._polled_at[run_id] = time.monotonic()
            try:
                fetched.append(self._runs.retrieve(run_id, thread_id))
            except NotFoundError:
                self._gone.add(run_id)
            except Exception as error:
                problem = f"Failed to refresh active runs. {error_text(error)}"
                break
        self._note("follow", problem)
        changed = self._merge(fetched)
        if self._details.get("id") in dict(batch):
            self._fetch(self._details["id"])
        return changed

    def _merge(self, runs: list[Run]) -> bool:
        """Merge runs just retrieved into the table. Return whether rows of active runs changed.

        Every retrieval goes through here: a later poll would find no change in runs that are known already.
        """
        with self._lock:
            active = dict(self._rows.active())
            changed_runs = {run.id: run for run in runs if _is_newer(run, self._known.get(run.id))}
            self._known |= changed_runs
            shown = [run for run_id, run in changed_runs.items() if run_id in active]
            if shown:
                self._rows = self._rows_of(updated(self._rows.frame, runs_frame(shown)))
                self._arrange()
                said = [run.id for run in shown if run.id in self._texts]  # their texts may have changed
                known = [place for id in said if (place := self._rows.position(id)) is not None]
                self._text_loader.want(by_thread(self._rows.places(np.array(known, dtype=int))))
            return bool(shown)

    def _note(self, name: str, text: str) -> None:
        """Show a message below the table, replacing the previous one of the same name; an empty one removes it."""
        with self._lock:
            others = {key: value for key, value in self._notes.items() if key != name}
            wanted = {**others, **({name: text} if text else {})}
            if wanted != self._notes:
                self._notes = wanted


def _is_newer(run: Run, known: Run | None) -> bool:
    """Whether `run` is newer than `known`. Two threads retrieve runs, so an older response may arrive last."""
    return known is None or (run != known and (run.is_terminal or not known.is_terminal))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _several(threads: str | Thread | Iterable[str | Thread]) -> list[str | Thread]:
    return [threads] if isinstance(threads, (str, Thread)) else list(threads)
