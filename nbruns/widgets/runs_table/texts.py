"""Load the questions and answers of runs in the background, for the rows in view."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Generic, NamedTuple, TypeVar

import pandas as pd

from nbruns.client.pagination import iter_pages
from nbruns.client.transport import Transport, path_of
from nbruns.errors import (
    AuthenticationError,
    ConnectionError,
    NbrunsError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    TimeoutError,
)
from nbruns.objects import Message, Run, utc
from nbruns.widgets.html import sendable
from nbruns.widgets.notebook.threads import start_thread
from nbruns.widgets.run_view.details import fetch_questions
from nbruns.widgets.runs_table.rows import MAX_TEXT, RunText

#: Maximum number of concurrent requests, fewer than a client's connections, so that others don't have to wait.
MAX_WORKERS = 4
#: Maximum number of keys waiting to be loaded. The oldest are dropped, because they have been scrolled out of view.
MAX_WAITING = 200
#: Seconds between two reports of loaded values.
REPORT_INTERVAL = 0.2
#: Number of messages to request: of a thread, for all of its runs, and of a run whose messages are not among those.
_MESSAGES, _OWN_MESSAGES = 100, 20
#: Errors that further requests would raise too.
_LASTING = (
    AuthenticationError,
    ConnectionError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    TimeoutError,
)

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Loader(Generic[Key, Value]):
    """Load values in a few background threads, the most recently requested first.

    Args:
        load: Returns the values of a key, by id. If it raises an NbrunsError, the key has no values; for lasting
            errors, the remaining keys are dropped.
        report: Called at intervals with the loaded values, and with the error that stopped loading, or None.
    """

    def __init__(
        self,
        load: Callable[[Key], Mapping[str, Value]],
        report: Callable[[Mapping[str, Value], BaseException | None], object],
    ) -> None:
        self.idle = threading.Event()
        self.idle.set()
        self._load, self._report = load, report
        self._lock = threading.Lock()
        self._waiting: dict[Key, None] = {}  # the last key is loaded next
        self._loading: set[Key] = set()
        self._fresh: dict[str, Value] = {}
        self._reported = 0.0
        self._workers = 0
        self._closed = False

    def want(self, keys: Iterable[Key]) -> None:
        """Load these keys next, in this order."""
        with self._lock:
            for key in [*keys][::-1]:
                self._waiting.pop(key, None)
                if key not in self._loading and not self._closed:
                    self._waiting[key] = None
            for key in [*self._waiting][:-MAX_WAITING]:
                del self._waiting[key]
            wanted = min(MAX_WORKERS, len(self._waiting)) - self._workers
            for _ in range(wanted):
                self._workers += 1
                self.idle.clear()
                start_thread("nbruns-table-load", self._work)

    def close(self) -> None:
        """Drop all waiting keys."""
        with self._lock:
            self._closed = True
            self._waiting.clear()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    break
                key, _ = self._waiting.popitem()
                self._loading.add(key)
            values, problem = self._loaded(key)
            with self._lock:
                self._loading.discard(key)
                self._fresh |= values
                if problem is not None:
                    self._waiting.clear()
                due = problem is not None or time.monotonic() - self._reported > REPORT_INTERVAL
                fresh = self._take_fresh() if due else None
            if fresh is not None and not self._closed:
                self._report(fresh, problem)
        with self._lock:
            self._workers -= 1
            last = not self._workers
            fresh = self._take_fresh() if last else {}
        if fresh and not self._closed:
            self._report(fresh, None)
        with self._lock:
            if not self._workers:
                self.idle.set()

    def _take_fresh(self) -> dict[str, Value]:
        fresh, self._fresh, self._reported = self._fresh, {}, time.monotonic()
        return fresh

    def _loaded(self, key: Key) -> tuple[Mapping[str, Value], BaseException | None]:
        try:
            return self._load(key), None
        except _LASTING as error:
            return {}, error
        except NbrunsError:
            return {}, None
        except Exception as error:  # reported, because an exception in a thread would be lost
            return {}, error


class RunsOfThread(NamedTuple):
    """Some runs of a thread: their ids and creation times (NaT if unknown)."""

    thread_id: str
    ids: tuple[str, ...]
    created: tuple[pd.Timestamp, ...]


def by_thread(places: Iterable[tuple[str, str, pd.Timestamp]]) -> list[RunsOfThread]:
    """Group run ids, thread ids and times by thread, in order."""
    threads: dict[str, list[tuple[str, pd.Timestamp]]] = {}
    for run_id, thread_id, created in places:
        threads.setdefault(thread_id, []).append((run_id, created))
    return [
        RunsOfThread(thread_id, *map(tuple, zip(*runs, strict=True))) for thread_id, runs in threads.items()
    ]


def fetch_texts(transport: Transport, runs: RunsOfThread) -> Mapping[str, RunText]:
    """Fetch the questions and answers of the runs of a thread, in one request unless the thread is long.

    Texts are empty if the thread was deleted or is not readable. Lasting errors propagate.
    """
    try:
        return _fetch_texts(transport, runs)
    except _LASTING:
        raise
    except NbrunsError:
        return dict.fromkeys(runs.ids, RunText())


def _fetch_texts(transport: Transport, runs: RunsOfThread) -> Mapping[str, RunText]:
    path = path_of("threads", runs.thread_id, "messages")
    messages = [Message(each) for each in iter_pages(transport, path, {"order": "desc"}, _MESSAGES)]
    whole = len(messages) < _MESSAGES
    found = {}
    for run_id, created in zip(runs.ids, runs.created, strict=True):
        text = _text_of(run_id, created, messages, whole)
        found[run_id] = text if text is not None else _fetch_text(transport, runs.thread_id, run_id, created)
    return found


def _text_of(run_id: str, created: pd.Timestamp, messages: Sequence[Message], whole: bool) -> RunText | None:
    """Return the texts of a run from the newest messages of its thread; None if older messages are needed."""
    own = [place for place, message in enumerate(messages) if message.run_id == run_id]
    if own:
        earlier = messages[own[-1] + 1 :]
    else:
        earlier = [message for message in messages if _is_before(message, created)]
    questions = [*takewhile(lambda message: message.role == "user", earlier)]
    if not whole and len(questions) == len(earlier):
        return None
    if not questions:  # an earlier run has already answered the question
        questions = [message for message in earlier if message.role == "user"][:1]
    return _run_text(questions[::-1], [messages[place] for place in own][::-1])


def _is_before(message: Message, created: pd.Timestamp) -> bool:
    time = utc(message.created_at)
    return time is not None and not pd.isna(created) and time <= created


def _fetch_text(transport: Transport, thread_id: str, run_id: str, created: pd.Timestamp) -> RunText:
    path = path_of("threads", thread_id, "messages")
    query = {"order": "asc", "run_id": run_id}
    own = [Message(each) for each in iter_pages(transport, path, query, _OWN_MESSAGES)]
    own = [message for message in own if message.run_id == run_id]  # some servers ignore run_id
    seconds = None if pd.isna(created) else int(created.timestamp())
    run = Run({"id": run_id, "thread_id": thread_id, "created_at": seconds})
    return _run_text(fetch_questions(transport, run, own), own)


def _run_text(questions: Sequence[Message], answers: Sequence[Message]) -> RunText:
    return RunText(*(_joined(messages) for messages in (questions, answers)))


def _joined(messages: Collection[Message]) -> str:
    words = " ".join("\n".join(message.text[:MAX_TEXT] for message in messages).split())
    return sendable(words[:MAX_TEXT])[:MAX_TEXT]
