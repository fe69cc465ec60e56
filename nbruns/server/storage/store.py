"""The tables and every query. Each function takes a connection and does one thing.

An object is stored as the JSON of the API (`body`), in addition to the few columns that queries need. Lists are ordered
by `seq`, which increases with each new object, so finding a cursor takes one index lookup for any number of objects.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from nbruns.server.schemas.errors import Refused
from nbruns.server.schemas.runs import ACTIVE, ENDED
from nbruns.server.storage.database import Event, Transaction, encode
from nbruns.text import JSON

#: Events at which streams end, because the run requires action or has ended.
LAST_EVENTS = frozenset(f"thread.run.{status}" for status in ("requires_action", *ENDED))

#: A change of the tables below needs a step in `migrations` for existing databases.
metadata = sa.MetaData()


def kind(
    name: str, *columns: sa.Column[Any] | sa.Index | sa.UniqueConstraint, unique_id: bool = True
) -> sa.Table:
    """Return the table of a kind of object."""
    seq = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return sa.Table(
        name,
        metadata,
        sa.Column("seq", seq, sa.Identity(), primary_key=True),
        sa.Column("id", sa.String(64), nullable=False, unique=unique_id),
        *columns,
        sa.Column("body", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )


def _owner(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(64), nullable=True)


assistants = kind("assistants")
threads = kind("threads")
messages = kind(
    "messages",
    _owner("thread_id"),
    _owner("run_id"),
    sa.Index("messages_of_thread", "thread_id", "seq"),
    sa.Index("messages_of_run", "run_id", "seq"),
)
runs = kind(
    "runs",
    _owner("thread_id"),
    _owner("assistant_id"),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("leg", sa.Integer, key="turn", nullable=False, server_default="1"),
    # Number of unfinished attempts of the turn, so that a turn that crashes its server is not repeated forever.
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    # The current or last worker of the run.
    sa.Column("worker", sa.String(64)),
    # Whether its stream contains the content of hosted tools' results.
    sa.Column("includes_content", sa.Boolean, nullable=False, server_default=sa.false()),
    # The batch of the run, and the run's key in it.
    _owner("batch_id"),
    sa.Column("batch_key", sa.String(64)),
    # Whether the deltas of its stream have been deleted.
    sa.Column("pruned", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("runs_of_thread", "thread_id", "seq"),
    sa.Index("runs_of_assistant", "assistant_id", "seq"),
    sa.Index("runs_of_model", "model", "seq"),
    sa.Index("runs_of_status", "status", "seq"),
    sa.Index("runs_of_assistant_with_status", "assistant_id", "status", "seq"),
    sa.Index("runs_of_model_with_status", "model", "status", "seq"),
)
_is_active = runs.c.status.in_([sa.literal_column(f"'{status}'") for status in ACTIVE])
# Locks a thread: the database itself allows only one active run per thread.
sa.Index(
    "one_active_run", runs.c.thread_id, unique=True, sqlite_where=_is_active, postgresql_where=_is_active
)
sa.Index("runs_to_expire", runs.c.expires_at, sqlite_where=_is_active, postgresql_where=_is_active)
_is_unpruned = sa.and_(sa.text("NOT pruned"), ~_is_active)
sa.Index("runs_to_prune", runs.c.seq, sqlite_where=_is_unpruned, postgresql_where=_is_unpruned)
_in_batch = runs.c.batch_id.is_not(None)
#: A run of a batch waits until a server starts it. Then it has a worker.
is_waiting = sa.and_(runs.c.worker.is_(None), _in_batch, _is_active)
sa.Index(
    "runs_of_batch",
    *(runs.c.batch_id, runs.c.batch_key),
    unique=True,
    sqlite_where=_in_batch,
    postgresql_where=_in_batch,
)
sa.Index("runs_waiting", runs.c.batch_id, runs.c.seq, sqlite_where=is_waiting, postgresql_where=is_waiting)
run_batches = kind(
    "run_batches",
    sa.Column("concurrency", sa.Integer, nullable=False),
    sa.Column("runs_per_minute", sa.Integer),
    # Unix time before which no further run can start.
    sa.Column("next_start", sa.Double, nullable=False, server_default="0"),
)
steps = kind(
    "steps",
    _owner("thread_id"),
    _owner("run_id"),
    # Set when the model has finished. The body contains it when the step has ended.
    sa.Column("usage", sa.JSON(none_as_null=True)),
    # The calls of hosted tools, by id: name and arguments as the model wrote them, and the output for the model.
    sa.Column("hosted", sa.JSON(none_as_null=True)),
    sa.Index("steps_of_run", "run_id", "seq"),
    sa.Index("steps_of_thread", "thread_id"),
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)
meta = sa.Table(
    "meta", metadata, sa.Column("key", sa.String(64), primary_key=True), sa.Column("value", sa.Text)
)


@dataclass(frozen=True)
class Page:
    """The requested part of a list."""

    limit: int = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    before: str | None = None


class Work(NamedTuple):
    """A run to execute, and its current or last worker."""

    run_id: str
    status: str
    turn: int
    worker: str | None


def get(conn: sa.Connection, /, table: sa.Table, id: str, *, lock: bool = False, **owner: str) -> JSON | None:
    """Return the object with this id and `owner` (thread_id=…, run_id=…), or None.

    With `lock`, it is locked against other servers until the transaction ends."""
    query = sa.select(table.c.body).where(table.c.id == id, *matches(table, owner))
    if lock:
        query = query.with_for_update()
    body: JSON | None = conn.scalar(query)
    return body


def add(conn: sa.Connection, table: sa.Table, body: JSON, **columns: Any) -> None:
    """Store a new object. Columns that are also fields of the body are taken from it."""
    conn.execute(_insert(table), _row(table, body, columns))


# Statements are cached, because creating one takes as long as executing it.


@cache
def _insert(table: sa.Table) -> sa.Insert:
    return sa.insert(table)


@cache
def _replacement(table: sa.Table, columns: tuple[str, ...]) -> sa.Update:
    values: JSON = {name: sa.bindparam(f"new_{name}") for name in columns}
    return sa.update(table).where(table.c.id == sa.bindparam("of_id")).values(values)


@cache
def _insert_or_replace(table: sa.Table, columns: tuple[str, ...], dialect: str) -> sa.Insert:
    insert: Any = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    values: JSON = {name: insert.excluded[name] for name in columns}
    made: sa.Insert = insert.on_conflict_do_update(index_elements=[table.c.id], set_=values)
    return made


def save(conn: sa.Connection, table: sa.Table, body: JSON, **columns: Any) -> None:
    """Store an object, which can be new or replace the one with the same id."""
    row = _row(table, body, columns)
    conn.execute(_insert_or_replace(table, tuple(row), conn.dialect.name), row)


def put(conn: sa.Connection, table: sa.Table, body: JSON, **columns: Any) -> None:
    """Store an object, replacing the one with the same id."""
    row = _row(table, body, columns)
    values = {f"new_{name}": value for name, value in row.items()}
    replaced = conn.execute(_replacement(table, tuple(row)), {"of_id": body["id"], **values})
    if replaced.rowcount == 0:
        conn.execute(_insert(table), row)


def patch(
    conn: sa.Connection, table: sa.Table, id: str, change: Mapping[str, Any], **owner: str
) -> JSON | None:
    """Change fields of an object and return it; None if it doesn't exist."""
    query = sa.select(table.c.body).where(table.c.id == id, *matches(table, owner)).with_for_update()
    body: JSON | None = conn.scalar(query)
    if body is not None:
        body |= change
        conn.execute(
            sa.update(table).where(table.c.id == id, *matches(table, owner)).values(_row(table, body, {}))
        )
    return body


def delete(conn: sa.Connection, table: sa.Table, id: str, **owner: str) -> bool:
    """Delete an object. Return whether it existed."""
    return conn.execute(sa.delete(table).where(table.c.id == id, *matches(table, owner))).rowcount > 0


def delete_thread(tx: Transaction, thread_id: str) -> bool:
    """Delete a thread with its messages, runs, steps and events."""
    lock_thread(tx.conn, thread_id)
    its_runs = sa.select(runs.c.id).where(runs.c.thread_id == thread_id)
    tx.gone.update(tx.conn.scalars(its_runs.with_for_update()))
    tx.to_stop |= tx.gone
    tx.conn.execute(sa.delete(events).where(events.c.run_id.in_(its_runs)))
    for table in (messages, steps, runs):
        tx.conn.execute(sa.delete(table).where(table.c.thread_id == thread_id))
    return delete(tx.conn, threads, thread_id)


def listed(
    conn: sa.Connection, table: sa.Table, page: Page, where: Mapping[str, str | list[str]] | None = None
) -> tuple[list[JSON], bool]:
    """Return a page of objects, and whether more follow."""
    query, backwards = _on_page(conn, table, page, where)
    found: list[JSON] = list(conn.scalars(query.limit(page.limit + 1)))
    items = found[: page.limit]
    return (items[::-1] if backwards else items), len(found) > page.limit


def messages_with(
    conn: sa.Connection, page: Page, words: Sequence[str], where: Mapping[str, str]
) -> tuple[list[JSON], bool]:
    """Return a page of messages whose text contains all words, ignoring case, and whether more follow."""
    query, backwards = _on_page(conn, messages, page, where)
    body = sa.cast(messages.c.body, sa.Text)
    # The database compares the ASCII parts of the words, which excludes most messages without parsing them.
    pieces = {piece for word in words for piece in re.findall(r"[A-Za-z0-9]+", word)}
    query = query.where(*(body.ilike(f"%{piece}%") for piece in sorted(pieces)))
    found: list[JSON] = []
    for message in conn.scalars(query.execution_options(yield_per=200)):
        text = _text_of(message).lower()
        if all(word.lower() in text for word in words):
            found.append(message)
            if len(found) > page.limit:
                break
    items = found[: page.limit]
    return (items[::-1] if backwards else items), len(found) > page.limit


def _text_of(message: JSON) -> str:
    parts = message["content"]
    texts = (part["text"]["value"] if part["type"] == "text" else part.get("refusal", "") for part in parts)
    return "\n".join(texts)


def _on_page(
    conn: sa.Connection, table: sa.Table, page: Page, where: Mapping[str, str | list[str]] | None
) -> tuple[sa.Select[Any], bool]:
    """Return the query of a page's objects without its limit, and whether it reads the page backwards."""
    query = sa.select(table.c.body).where(*matches(table, where or {}))
    newest_first = page.order == "desc"
    if page.after:
        query = query.where(_beyond(conn, table, page.after, "after", where, older=newest_first))
    if page.before:
        query = query.where(_beyond(conn, table, page.before, "before", where, older=not newest_first))
    # With only `before`, the page ends there, so it is read backwards.
    backwards = page.before is not None and page.after is None
    return query.order_by(table.c.seq.desc() if newest_first != backwards else table.c.seq.asc()), backwards


def bodies(
    conn: sa.Connection,
    table: sa.Table,
    where: Mapping[str, str],
    order: str,
    after: str | int | None,
    limit: int,
) -> tuple[list[str], int | None]:
    """Return the next objects of a list as JSON texts, and the value of `after` for the next call; None at the end.

    `after` is the id of an object, or the value that an earlier call returned. The texts have about MAX_BODIES
    characters in total.
    """
    newest_first = order == "desc"
    query = sa.select(table.c.seq, sa.cast(table.c.body, sa.Text)).where(*matches(table, where))
    if isinstance(after, str):
        query = query.where(_beyond(conn, table, after, "after", where, older=newest_first))
    elif after is not None:
        query = query.where(table.c.seq < after if newest_first else table.c.seq > after)
    query = query.order_by(table.c.seq.desc() if newest_first else table.c.seq.asc())
    texts, size, seq = [], 0, 0
    rows = conn.execute(query.limit(limit))
    for seq, text in rows:
        texts.append(text)
        size += len(text)
        if size > MAX_BODIES:
            rows.close()
            return texts, seq
    return texts, (seq if len(texts) == limit else None)


#: Number of characters after which the rest of a list is read in another query.
MAX_BODIES = 1024 * 1024


def present(conn: sa.Connection, table: sa.Table, ids: Collection[str]) -> set[str]:
    """Return the ids that exist."""
    return set(conn.scalars(sa.select(table.c.id).where(table.c.id.in_(ids))))


def bodies_of(
    conn: sa.Connection, table: sa.Table, owner: str, ids: Collection[str], after: int | None
) -> tuple[list[str], int | None]:
    """Like `bodies`, for the objects whose column `owner` is one of these ids, oldest first."""
    query = sa.select(table.c.seq, sa.cast(table.c.body, sa.Text)).where(table.c[owner].in_(ids))
    if after is not None:
        query = query.where(table.c.seq > after)
    texts, size, seq = [], 0, 0
    rows = conn.execute(query.order_by(table.c.seq))
    for seq, text in rows:
        texts.append(text)
        size += len(text)
        if size > MAX_BODIES:
            rows.close()
            return texts, seq
    return texts, None


def _beyond(
    conn: sa.Connection,
    table: sa.Table,
    id: str,
    param: str,
    where: Mapping[str, str | list[str]] | None,
    *,
    older: bool,
) -> sa.ColumnElement[bool]:
    # Ids are unique, except those of files in vector stores. The cursor may no longer match the other filters.
    owner = {name: value for name, value in (where or {}).items() if name == "vector_store_id"}
    seq = conn.scalar(sa.select(table.c.seq).where(table.c.id == id, *matches(table, owner)))
    if seq is None:
        raise Refused(f"'{param}' names nothing that is here: '{id}'.", param=param, code="invalid_value")
    column: sa.ColumnElement[int] = table.c.seq
    beyond: sa.ColumnElement[bool] = column < seq if older else column > seq
    return beyond


def active_run(conn: sa.Connection, thread_id: str) -> JSON | None:
    """Return the active run of a thread, or None."""
    body: JSON | None = conn.scalar(sa.select(runs.c.body).where(runs.c.thread_id == thread_id, _is_active))
    return body


def lock_thread(conn: sa.Connection, thread_id: str) -> JSON | None:
    """Return the thread, locked until the transaction ends; None if it doesn't exist."""
    query = sa.select(threads.c.body).where(threads.c.id == thread_id).with_for_update()
    body: JSON | None = conn.scalar(query)
    return body


def count_active(conn: sa.Connection) -> dict[str, int]:
    """Return the number of active runs, by status."""
    query = sa.select(runs.c.status, sa.func.count()).where(_is_active).group_by(runs.c.status)
    return dict.fromkeys(ACTIVE, 0) | {status: count for status, count in conn.execute(query)}


def at_work(conn: sa.Connection, statuses: Collection[str]) -> list[Work]:
    """Return the runs with these statuses that have a worker, oldest first."""
    columns = (runs.c.id, runs.c.status, runs.c.turn, runs.c.worker)
    begun = sa.or_(runs.c.worker.is_not(None), runs.c.batch_id.is_(None))
    rows = conn.execute(sa.select(*columns).where(runs.c.status.in_(statuses), begun).order_by(runs.c.seq))
    return [Work(*row) for row in rows]


def overdue(conn: sa.Connection, now: int) -> list[JSON]:
    """Return active runs that should have expired."""
    return list(conn.scalars(sa.select(runs.c.body).where(_is_active, runs.c.expires_at <= now)))


def turn_of(conn: sa.Connection, run_id: str) -> int:
    """Return the number of a run's current turn."""
    return conn.scalar(sa.select(runs.c.turn).where(runs.c.id == run_id)) or 0


def worker_of(conn: sa.Connection, run_id: str) -> str | None:
    """Return the current or last worker of a run; None if no server has started it."""
    worker: str | None = conn.scalar(sa.select(runs.c.worker).where(runs.c.id == run_id))
    return worker


def assign(tx: Transaction, run_id: str, turn: int) -> None:
    """Assign a run's turn to this server."""
    attempts = sa.case((runs.c.turn == turn, runs.c.attempts), else_=0)
    change = {"turn": turn, "worker": tx.worker, "attempts": attempts}
    tx.conn.execute(sa.update(runs).where(runs.c.id == run_id).values(change))


class LockedRun(NamedTuple):
    """A run that is locked until the transaction ends."""

    body: JSON
    turn: int
    attempts: int
    worker: str | None


_LOCKED_RUN = (
    sa.select(runs.c.body, runs.c.turn, runs.c.attempts, runs.c.worker)
    .where(runs.c.id == sa.bindparam("of_id"))
    .with_for_update()
)


def lock_run(conn: sa.Connection, run_id: str) -> LockedRun | None:
    """Lock a run, and return it with the other columns of its row; None if it doesn't exist."""
    row = conn.execute(_LOCKED_RUN, {"of_id": run_id}).first()
    return None if row is None else LockedRun(*row)


def begin(tx: Transaction, run_id: str, attempts: int) -> None:
    """Assign a run to this server, with the number of attempts of its turn."""
    change = {"worker": tx.worker, "attempts": attempts}
    tx.conn.execute(sa.update(runs).where(runs.c.id == run_id).values(change))


def count_attempt(conn: sa.Connection, run_id: str, change: int = 1) -> int:
    """Count an attempt of a run's turn as started (1), or as stopped gracefully (-1). Return the number of attempts
    so far."""
    attempts = runs.c.attempts + change
    conn.execute(sa.update(runs).where(runs.c.id == run_id).values(attempts=attempts))
    return conn.scalar(sa.select(runs.c.attempts).where(runs.c.id == run_id)) or 0


def includes_content(conn: sa.Connection, run_id: str) -> bool:
    """Whether a run's stream contains the content of hosted tools' results."""
    return bool(conn.scalar(sa.select(runs.c.includes_content).where(runs.c.id == run_id)))


def of_run(conn: sa.Connection, table: sa.Table, run_id: str) -> list[JSON]:
    """Return a run's steps or messages, oldest first."""
    return list(conn.scalars(_of_run(table), {"of_id": run_id}))


@cache
def _of_run(table: sa.Table) -> sa.Select[Any]:
    return sa.select(table.c.body).where(table.c.run_id == sa.bindparam("of_id")).order_by(table.c.seq)


def steps_with_usage(conn: sa.Connection, run_id: str) -> list[tuple[JSON, JSON | None]]:
    """Return a run's steps, oldest first, each with its usage, or None if the model has not finished."""
    query = sa.select(steps.c.body, steps.c.usage).where(steps.c.run_id == run_id).order_by(steps.c.seq)
    return [(row.body, row.usage) for row in conn.execute(query)]


def step_usages(conn: sa.Connection, run_id: str) -> dict[str, JSON]:
    """Return the usage of a run's steps for which the model has finished, by id; empty objects if it is unknown."""
    rows = conn.execute(sa.select(steps.c.id, steps.c.usage).where(steps.c.run_id == run_id))
    return {row.id: row.usage for row in rows if row.usage is not None}


def hosted_calls(conn: sa.Connection, run_id: str) -> dict[str, JSON]:
    """Return the calls of hosted tools in a run, by id."""
    rows = conn.scalars(
        sa.select(steps.c.hosted).where(steps.c.run_id == run_id, steps.c.hosted.is_not(None))
    )
    return {id: call for calls in rows for id, call in calls.items()}


def hosted_calls_of(conn: sa.Connection, run: JSON, type: str) -> list[JSON]:
    """Return the answered calls of a hosted tool by the run's assistant in its thread, oldest first."""
    rows = conn.scalars(
        sa.select(steps.c.hosted)
        .where(
            steps.c.thread_id == run["thread_id"],
            steps.c.hosted.is_not(None),
            steps.c.body["assistant_id"].as_string() == run["assistant_id"],
        )
        .order_by(steps.c.seq)
    )
    calls = [call for hosted in rows for call in hosted.values()]
    return [call for call in calls if call.get("type") == type and call["output"] is not None]


def conversation(conn: sa.Connection, run: JSON, last: int | None) -> list[JSON]:
    """Return the thread's messages before those of the run; only the last ones if `last` is given."""
    of_thread = messages.c.thread_id == run["thread_id"]
    others = sa.or_(messages.c.run_id.is_(None), messages.c.run_id != run["id"])
    query = sa.select(messages.c.body).where(of_thread, others).order_by(messages.c.seq.desc())
    return list(conn.scalars(query.limit(last) if last else query))[::-1]


def has_question(conn: sa.Connection, thread_id: str) -> bool:
    """Whether a thread has a message of the user."""
    role = messages.c.body["role"].as_string()
    query = sa.select(messages.c.seq).where(messages.c.thread_id == thread_id, role == "user")
    return conn.scalar(query.limit(1)) is not None


def earliest_time(conn: sa.Connection, run: JSON) -> int:
    """Return the earliest creation time for a run's next message: after its question, and not before its other
    messages. Programs sort messages by this time, but clocks of servers differ, and models answer within a second."""
    query = sa.select(messages.c.body).where(messages.c.thread_id == run["thread_id"])
    newest: JSON | None = conn.scalar(query.order_by(messages.c.seq.desc()).limit(1))
    if newest is None:
        return 0
    is_own = newest["run_id"] == run["id"]
    return int(newest["created_at"]) + (0 if is_own else 1)


def last_event(conn: sa.Connection, run_id: str) -> int:
    """Return the number of a run's latest event; 0 if it has none."""
    return conn.scalar(sa.select(sa.func.max(events.c.number)).where(events.c.run_id == run_id)) or 0


def events_after(conn: sa.Connection, run_id: str, number: int, limit: int) -> list[Event]:
    """Return up to `limit` events of a run after the event with this number."""
    query = sa.select(events).where(events.c.run_id == run_id, events.c.number > number)
    return [Event(*row) for row in conn.execute(query.order_by(events.c.number).limit(limit))]


def to_prune(conn: sa.Connection, ended_before: int, limit: int) -> list[str]:
    """Return the ids of up to `limit` runs that ended before a Unix time and whose logs still have deltas."""
    query = sa.select(runs.c.body).where(_is_unpruned).order_by(runs.c.seq).limit(limit)
    return [run["id"] for run in conn.scalars(query) if _ended_at(run) < ended_before]


def prune(tx: Transaction, ids: Collection[str]) -> None:
    """Delete the deltas in the logs of ended runs.

    Other events are kept. They contain all complete messages and steps, so the stream has the same final snapshot."""
    is_delta = events.c.name.in_(("thread.message.delta", "thread.run.step.delta"))
    tx.conn.execute(sa.delete(events).where(events.c.run_id.in_(ids), is_delta))
    tx.conn.execute(sa.update(runs).where(runs.c.id.in_(ids)).values(pruned=True))


def _ended_at(run: JSON) -> int:
    times = (
        run.get(name) for name in ("completed_at", "failed_at", "cancelled_at", "expires_at", "created_at")
    )
    return next(int(time) for time in times if time is not None)


class EventLog:
    """The log of all runs' events. It caches the last event numbers of active runs."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    #: Maximum number of cached numbers, because runs that other servers end are not removed.
    LIMIT = 10_000

    def write(self, tx: Transaction) -> list[Event]:
        """Number and store a transaction's events, except those of deleted runs. Return the stored events."""
        for run_id in tx.gone:
            self._last.pop(run_id, None)
        logged = []
        for run_id, name, data in tx.emitted:
            last = self._last_number(tx, run_id, name)
            if last is not None:
                self._last[run_id] = last + 1
                logged.append(Event(run_id, last + 1, name, data))
            if name in LAST_EVENTS:
                self._last.pop(run_id, None)
        if len(self._last) > self.LIMIT:
            self.forget()
        if logged:
            _insert_events(tx.conn, logged)
        return logged

    def forget(self) -> None:
        """Clear the cached numbers."""
        self._last.clear()

    def _last_number(self, tx: Transaction, run_id: str, name: str) -> int | None:
        last = self._last.get(run_id)
        if last is None and run_id not in tx.gone:
            # Drop deltas of a turn if another server has taken over the run, or it has ended.
            if name.endswith(".delta") and not _is_at_work(tx, run_id):
                return None
            last = last_event(tx.conn, run_id)
            # A run's first event is stored together with the run. If neither exists, the run was deleted meanwhile.
            return last if last or get(tx.conn, runs, run_id) is not None else None
        return last


def _is_at_work(tx: Transaction, run_id: str) -> bool:
    mine = sa.select(runs.c.seq).where(runs.c.id == run_id, runs.c.worker == tx.worker, _is_active)
    return tx.conn.scalar(mine) is not None


def _insert_events(conn: sa.Connection, logged: list[Event]) -> None:
    if conn.dialect.name == "sqlite":
        # In one statement, because between two, the driver releases the interpreter lock and waits for it again.
        conn.exec_driver_sql(_INSERT_EVENTS, (encode(logged),))
    else:
        conn.execute(sa.insert(events), [event._asdict() for event in logged])


_INSERT_EVENTS = """
    INSERT INTO events (run_id, number, name, data)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
        json_extract(value, '$[3]')
    FROM json_each(?)
"""


def upsert(conn: sa.Connection, table: sa.Table, row: JSON) -> None:
    """Insert a row, or replace the one with the same primary key."""
    keys = [column == row[column.name] for column in table.primary_key]
    if conn.execute(sa.update(table).where(*keys).values(row)).rowcount == 0:
        conn.execute(sa.insert(table).values(row))


def now() -> int:
    """Return the current Unix time in seconds."""
    return int(time.time())


def matches(table: sa.Table, owner: Mapping[str, str | list[str]]) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that columns have these values, or one of the values in a list."""
    return [
        table.c[name].in_(value) if isinstance(value, list) else table.c[name] == value
        for name, value in owner.items()
    ]


def _row(table: sa.Table, body: JSON, columns: Mapping[str, Any]) -> JSON:
    own = {name: body[name] for name in table.c.keys() & body.keys() if name != "usage"}
    return {**own, **columns, "body": body}
