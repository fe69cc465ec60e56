"""Batches of runs: a queue in the database, with limits on concurrent runs and on runs started per minute.

Each run of a batch has a key. A unique index ensures that a batch has one run for each key, so adding the same rows
again, after a crash or from two programs, starts no run twice. A run waits without a worker until a server admits it.
Several servers on the same PostgreSQL can admit runs of a batch. They lock the row of the batch, so that the limits
apply to all servers together.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import sqlalchemy as sa

from nbruns.server.runs import transitions
from nbruns.server.schemas import objects
from nbruns.server.schemas.batches import RunBatchObject, RunOfBatch
from nbruns.server.storage import store
from nbruns.server.storage.database import Transaction
from nbruns.text import JSON

#: Maximum number of seconds of unused rate that a batch can catch up on.
_CATCH_UP_SECONDS = 1.0
#: The columns of the short form of a run, by the name of its field.
_SHORT = {name: store.runs.c[name] for name in ("id", "thread_id", "status", "turn")}


class Admitted(NamedTuple):
    """Runs to start now, and whether others still wait."""

    runs: list[str]
    some_wait: bool


def id_of(name: str) -> str:
    """Return the id of the batch with this name."""
    return objects.derived_id("runbatch", name)


def get(conn: sa.Connection, id: str) -> JSON | None:
    """Return a batch with the number of its runs in each status; None if it doesn't exist."""
    body: JSON | None = conn.scalar(sa.select(store.run_batches.c.body).where(store.run_batches.c.id == id))
    if body is None:
        return None
    runs = store.runs.c
    counts = sa.select(runs.status, sa.func.count()).where(runs.batch_id == id).group_by(runs.status)
    return RunBatchObject.new(
        **body, run_counts={status: count for status, count in sorted(map(tuple, conn.execute(counts)))}
    )


def runs_of(conn: sa.Connection, id: str) -> list[JSON]:
    """Return all runs of a batch in short form, in the order in which they were added."""
    columns = [store.runs.c.batch_key.label("key"), *_SHORT.values()]
    rows = conn.execute(sa.select(*columns).where(store.runs.c.batch_id == id).order_by(store.runs.c.seq))
    return [RunOfBatch.new(**dict(zip(("key", *_SHORT), row, strict=True))) for row in rows]


def add(tx: Transaction, params: JSON, lifetime: int) -> JSON:
    """Create a batch or find the one with this name, set its limits, and add the runs whose keys are new.

    A run that was cancelled, expired, or failed because of a rate limit is replaced by a new one.
    """
    id = id_of(params["name"])
    batches = store.run_batches
    limits = {"concurrency": params.get("concurrency") or 8, "runs_per_minute": params.get("runs_per_minute")}
    body = store.get(tx.conn, batches, id, lock=True)
    if body is None:
        body = {"id": id, "created_at": store.now(), "name": params["name"]}
    store.put(tx.conn, batches, body | limits)
    given = {each["key"]: each for each in params.get("runs") or []}
    runs = store.runs.c
    known = tx.conn.execute(
        sa.select(runs.id, runs.batch_key, runs.body).where(runs.batch_id == id, runs.batch_key.in_(given))
    ).all()
    for run_id, key, run in known:
        if _is_to_be_repeated(run):
            freed = sa.update(store.runs).where(runs.id == run_id).values(batch_id=None, batch_key=None)
            tx.conn.execute(freed)
        else:
            del given[key]
    for key, each in given.items():
        thread = transitions.create_thread(tx, each.get("thread") or {})
        place = transitions.PlaceInBatch(id, key)
        transitions.create(tx, thread["id"], each, lifetime, new_thread=thread, place=place)
    made = get(tx.conn, id)
    assert made is not None
    return made


def _is_to_be_repeated(run: JSON) -> bool:
    error = run["last_error"] or {}
    return run["status"] in ("cancelled", "expired") or error.get("code") == "rate_limit_exceeded"


def admit(tx: Transaction, lifetime: int) -> Admitted:
    """Assign waiting runs to this server, as many as their batches currently allow."""
    runs = store.runs.c
    waiting = store.is_waiting
    admitted, some_wait = [], False
    for id in tx.conn.scalars(sa.select(runs.batch_id).where(waiting).distinct()).all():
        columns = store.run_batches.c
        of_batch = sa.select(store.run_batches).where(columns.id == id)
        limits = tx.conn.execute(of_batch.with_for_update()).one()
        at_work = sa.select(sa.func.count()).where(
            runs.batch_id == id, runs.worker.is_not(None), runs.status.in_(transitions.WORKING)
        )
        free = limits.concurrency - (tx.conn.scalar(at_work) or 0)
        now = time.time()
        pause = 60 / limits.runs_per_minute if limits.runs_per_minute else 0.0
        start = max(limits.next_start, now - _CATCH_UP_SECONDS)
        next_runs = sa.select(runs.id).where(waiting, runs.batch_id == id).order_by(runs.seq)
        found = tx.conn.scalars(next_runs.limit(max(0, free) + 1)).all()
        for run_id in found[: max(0, free)]:
            if pause and start > now:
                break
            start += pause
            store.patch(tx.conn, store.runs, run_id, {"expires_at": store.now() + lifetime})
            store.assign(tx, run_id, 1)
            admitted.append(run_id)
            found = found[1:]
        if pause:
            next_start = sa.update(store.run_batches).where(columns.id == id).values(next_start=start)
            tx.conn.execute(next_start)
        some_wait = some_wait or bool(found)
    return Admitted(admitted, some_wait)


def cancel_waiting(tx: Transaction, id: str) -> JSON:
    """Cancel the runs of a batch that no server has started."""
    tx.conn.execute(sa.select(store.run_batches.c.id).where(store.run_batches.c.id == id).with_for_update())
    waiting = sa.select(store.runs.c.body).where(store.is_waiting, store.runs.c.batch_id == id)
    for run in tx.conn.scalars(waiting.with_for_update()).all():
        transitions.cancel_unbegun(tx, run)
    batch = get(tx.conn, id)
    assert batch is not None
    return batch
