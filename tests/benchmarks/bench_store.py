"""Lists of runs, from a thousand stored to a million: a page takes the same time wherever its cursor is."""

from __future__ import annotations

import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import nbruns
from nbruns.server.schemas import objects
from nbruns.server.storage import migrations, store
from nbruns.server.storage.database import Database, Transaction, encode

JSON = dict[str, Any]

SIZES = (1_000, 10_000, 100_000, 1_000_000)
MOST = int(os.environ.get("NBRUNS_BENCH_STORED", "1000000"))
STATUSES = ("completed",) * 9 + ("failed",)
PAGES: dict[str, tuple[JSON, bool]] = {
    "the newest 20": ({}, False),
    "behind a cursor in the middle": ({}, True),
    "of a model": ({"model": "model-3"}, True),
    "failed": ({"status": "failed"}, True),
    "failed, of a model": ({"status": "failed", "model": "model-3"}, True),
    "failed, of an assistant": ({"status": "failed", "assistant_id": "asst_7"}, True),
    "of a thread": ({"thread_id": "thread_7"}, False),
    "of a status that none has": ({"status": "expired"}, True),
}


def fill(conn: sa.Connection, first: int, last: int) -> None:
    """Store runs that have ended; every thread has ten."""
    assistant = objects.assistant({"model": "demo", "instructions": "Be short."}, 1) | {"id": "asst"}
    whole = objects.run(assistant, {}, "thread", 1, 600)
    chance = random.Random(first)
    insert = "INSERT INTO runs (id, thread_id, assistant_id, model, status, leg, body) VALUES (?, ?, ?, ?, ?, 1, ?)"
    for start in range(first, last, 10_000):
        rows = []
        for number in range(start, min(start + 10_000, last)):
            own = (f"run_{number}", f"thread_{number // 10}", f"asst_{chance.randrange(50)}")
            kind = (f"model-{chance.randrange(8)}", chance.choice(STATUSES))
            names = ("id", "thread_id", "assistant_id", "model", "status")
            rows.append((*own, *kind, encode(whole | dict(zip(names, (*own, *kind), strict=True)))))
        conn.exec_driver_sql(insert, rows)


def milliseconds(engine: sa.Engine, where: JSON, after: str | None) -> float:
    taken = []
    for _ in range(30):
        began = time.perf_counter()
        with engine.connect() as conn:
            store.listed(conn, store.runs, store.Page(after=after), where)
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def bench_lists_of_runs(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'db'}", store.EventLog())
    migrations.prepare(database.engine)
    stored, columns = 0, []
    for size in [size for size in SIZES if size <= MOST]:
        with database.engine.connect().execution_options(writes=True) as conn, conn.begin():
            fill(conn, stored, size)
        stored = size
        columns.append(
            [
                milliseconds(database.engine, where, f"run_{size // 2}" if cursor else None)
                for where, cursor in PAGES.values()
            ]
        )
    print(
        f"\n{'ms for a page of runs, stored':32}" + "".join(f"{size:>12,}" for size in SIZES[: len(columns)])
    )
    for name, row in zip(PAGES, zip(*columns, strict=True), strict=True):
        print(f"{name:32}" + "".join(f"{value:12.2f}" for value in row))
    megabytes = (tmp_path / "db").stat().st_size / 1e6
    print(f"{megabytes:.0f} MB   load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    database.close()


def bench_event_log(tmp_path: Path) -> None:
    """What a short run of the demo model leaves in the event log, before and after it is pruned."""
    client = nbruns.local(tmp_path)
    thread = client.threads.create("What is a run?")
    with client.runs.create_stream(thread, client.assistants.create(model="demo")) as stream:
        run = stream.until_done()
    client.server.stop()
    database = Database(f"sqlite:///{tmp_path / 'nbruns.sqlite'}", store.EventLog())
    size = sa.func.sum(sa.func.length(store.events.c.data))
    query = sa.select(sa.func.count(), size).where(store.events.c.run_id == run.id)
    for when in ("before", "after"):
        with database.engine.begin() as conn:
            count, characters = conn.execute(query).one()
            print(
                f"{when} pruning: {count} events, {characters / 1000:.1f} KB, {run.usage.total_tokens} tokens"
            )
            store.prune(Transaction(conn, database.worker), [run.id])
    database.close()
