"""The connection to the database: concurrent reads, grouped writes.

All writes of the process go through one thread, which commits together all writes that arrived during its last commit.
So writers never wait for each other's locks, a thousand small writes need only a few commits, and the writes of each
caller keep their order. Events are published after their commit, so clients never receive events that a crash could
undo.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar, cast

import sqlalchemy as sa

from nbruns.text import JSON

P = ParamSpec("P")
T = TypeVar("T")

#: Maximum number of writes per commit, so that no write waits long.
GROUP = 500
READERS = 4
#: Seconds to collect events if no caller waits, because a commit takes as long as a dozen events.
GATHER_SECONDS = 0.004

log = logging.getLogger(__name__)


class Event(NamedTuple):
    """An event of a run, as it is logged and streamed. Numbers start at 1 in each run."""

    run_id: str
    number: int
    name: str
    data: str


@dataclass
class Transaction:
    """The argument of a write: the connection, and the events to log in the same transaction."""

    conn: sa.Connection
    #: The name of the server that writes.
    worker: str
    emitted: list[tuple[str, str, str]] = field(default_factory=list)
    #: Deleted runs, whose events are no longer logged.
    gone: set[str] = field(default_factory=set)
    #: Runs whose worker must stop.
    to_stop: set[str] = field(default_factory=set)

    def emit(self, run_id: str, name: str, payload: JSON) -> None:
        """Log an event, and publish it after the commit of the transaction."""
        self.emitted.append((run_id, name, encode(payload)))


class Log(Protocol):
    """Numbers the events of a transaction, and stores them."""

    def write(self, transaction: Transaction) -> list[Event]: ...

    def forget(self) -> None:
        """Clear cached numbers, which may be wrong because the transaction was rolled back."""


@dataclass
class _Job:
    work: Callable[[Transaction], Any]
    #: The caller's future. Jobs without one only emit events.
    done: Future[Any] | None = None


class Database:
    """An open database. `log` stores events. `on_events` is called with committed events in the writing thread."""

    def __init__(self, url: str, log: Log) -> None:
        self.engine = _engine(url)
        self.shared = self.engine.dialect.name == "postgresql"
        #: The name of this server in the database. A SQLite file has only one server at a time.
        self.worker = f"server-{secrets.token_hex(8)}" if self.shared else "local"
        self.on_events: Callable[[list[Event]], None] = lambda events: None
        #: Called in the writing thread with the duration of each transaction in seconds.
        self.on_commit: Callable[[float], None] = lambda seconds: None
        self._log = log
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(READERS, "nbruns-read")
        self._writer = threading.Thread(target=self._write_forever, name="nbruns-write", daemon=True)
        self._writer.start()

    async def read(
        self, query: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `query` on a separate connection, and return its result."""

        def work() -> T:
            with self.engine.begin() as conn:
                return query(conn, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def write(
        self, change: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `change`, and return its result after the commit. If it raises, its changes are rolled back."""
        job = _Job(lambda transaction: change(transaction, *args, **kwargs), Future())
        self._jobs.put(job)
        result: T = await asyncio.wrap_future(cast("Future[T]", job.done))
        return result

    def emit(self, run_id: str, name: str, payload: JSON) -> None:
        """Log an event after all previous writes, without waiting."""
        self._jobs.put(_Job(lambda transaction: transaction.emit(run_id, name, payload)))

    def close(self) -> None:
        """Commit all pending writes, then close the database."""
        self._jobs.put(None)
        self._writer.join()
        self._readers.shutdown()
        self.engine.dispose()

    def _write_forever(self) -> None:
        last = False
        while not last:
            jobs = self._gather()
            last = jobs[-1] is None
            if group := [job for job in jobs if job is not None]:
                self._commit(group)

    def _gather(self) -> list[_Job | None]:
        """Return the next jobs, at least one. None is the last job."""
        jobs = [self._jobs.get()]
        deadline = time.monotonic() + GATHER_SECONDS
        while len(jobs) < GROUP and (last := jobs[-1]) is not None:
            if last.done is not None:
                deadline = 0.0  # a caller waits for the commit
            try:
                jobs.append(self._jobs.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                break
        return jobs

    def _commit(self, jobs: list[_Job]) -> None:
        began = time.monotonic()
        try:
            results, events = self._transact(jobs)
        except Exception as error:
            self._log.forget()
            results, events = [(job, None, error) for job in jobs], []
            if any(job.done is None for job in jobs):  # for other jobs, the caller gets the error
                log.error("Events could not be written down: %s", getattr(error, "orig", error))
        self.on_commit(time.monotonic() - began)
        if events:
            self.on_events(events)
        for job, value, failure in results:
            if job.done is not None:
                _deliver(job.done, value, failure)

    def _transact(self, jobs: list[_Job], attempts: int = 5) -> tuple[list[_Result], list[Event]]:
        try:
            with self.engine.connect().execution_options(writes=True) as conn, conn.begin():
                transaction = Transaction(conn, self.worker)
                results = [_attempt(job, transaction) for job in jobs]
                events = self._log.write(transaction)
                if self.shared:
                    from nbruns.server.storage import peers

                    changed = {event.run_id for event in events} | transaction.gone
                    peers.tell(conn, self.worker, changed, transaction.to_stop)
                return results, events
        except sa.exc.DBAPIError as error:
            # Another server logged an event of the same run at the same time, or there was a deadlock: retry.
            if attempts == 1 or not (isinstance(error, sa.exc.IntegrityError) or _is_deadlock(error)):
                raise
            self._log.forget()
            return self._transact(jobs, attempts - 1)


_Result = tuple[_Job, Any, Exception | None]


_ENCODER = json.JSONEncoder(separators=(",", ":"))


def encode(payload: object) -> str:
    """Return compact JSON in ASCII, which always fits into one line of an event stream."""
    return _ENCODER.encode(payload)


def _attempt(job: _Job, transaction: Transaction) -> _Result:
    emitted = len(transaction.emitted)
    try:
        if job.done is None:
            return job, job.work(transaction), None
        with transaction.conn.begin_nested():
            return job, job.work(transaction), None
    except Exception as error:
        if _is_deadlock(error) or _is_undone(transaction.conn):
            raise  # the whole transaction failed, including the writes of other jobs
        del transaction.emitted[emitted:]
        return job, None, error


def _is_deadlock(error: Exception) -> bool:
    return getattr(getattr(error, "orig", None), "sqlstate", None) in ("40P01", "40001")


def _is_undone(conn: sa.Connection) -> bool:
    """Whether the transaction was rolled back: the connection was lost, or SQLite's disk is full."""
    return conn.invalidated or not getattr(conn.connection.dbapi_connection, "in_transaction", True)


def _deliver(done: Future[Any], value: object, failure: Exception | None) -> None:
    if not done.set_running_or_notify_cancel():
        return
    if failure is not None:
        done.set_exception(failure)
    else:
        done.set_result(value)


def _engine(url: str) -> sa.Engine:
    address = sa.make_url(url)
    if address.drivername in ("postgresql", "postgres"):
        address = address.set(drivername="postgresql+psycopg")
    # PostgreSQL may have been restarted since a connection was last used.
    pinged = address.get_backend_name() == "postgresql"
    engine = sa.create_engine(address, json_serializer=encode, hide_parameters=True, pool_pre_ping=pinged)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # transactions are started explicitly below, not by the driver
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(conn: sa.Connection) -> None:
    # In SQLite, a transaction that reads before it writes can fail at the first write, so lock for writing immediately.
    conn.exec_driver_sql("BEGIN IMMEDIATE" if conn.get_execution_options().get("writes") else "BEGIN")
