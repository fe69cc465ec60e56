"""Writes that the database refuses: whoever asked is told, nothing half-done stays, and the next are served."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from postgresql_server import NewDatabase
from test_store import run_on

from nbruns.server.runs import transitions
from nbruns.server.schemas import objects
from nbruns.server.storage import migrations, store
from nbruns.server.storage.database import Database, Event, Transaction

JSON = dict[str, Any]
Open = Callable[[str], Database]

#: Does away with the connection that it is done on, as a restart of PostgreSQL does.
_CUT = sa.text("SELECT pg_terminate_backend(pg_backend_pid())")


@asynccontextmanager
async def gathering(db: Database) -> AsyncIterator[None]:
    """What is asked for meanwhile is committed together, behind a write that is being made."""
    began, gathered = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> None:
        began.set()
        gathered.wait(30)

    held = asyncio.ensure_future(db.write(hold))
    await asyncio.to_thread(began.wait, 30)
    yield
    await asyncio.sleep(0)  # what was asked for in tasks is asked for now
    gathered.set()
    await held


async def in_a_group(db: Database, *changes: Callable[[Transaction], Any]) -> list[Any]:
    """What becomes of changes that are committed together."""
    async with gathering(db):
        asked = [asyncio.ensure_future(db.write(change)) for change in changes]
    return await asyncio.gather(*asked, return_exceptions=True)


def thread_of(size: int) -> Callable[[Transaction], str]:
    """A change that adds a thread with so many characters, and gives its id."""

    def add(tx: Transaction) -> str:
        thread = objects.thread({"metadata": {"text": "x" * size}}, store.now())
        store.add(tx.conn, store.threads, thread)
        return str(thread["id"])

    return add


async def threads_in(db: Database) -> list[str]:
    threads, _ = await db.read(store.listed, store.threads, store.Page(limit=100))
    return [thread["id"] for thread in threads]


def cut(tx: Transaction) -> None:
    tx.conn.execute(_CUT)


class Disk:
    """A SQLite database on a disk that can be full."""

    def __init__(self, db: Database) -> None:
        self.db, self._pages = db, _ENDLESS
        sa.event.listen(db.engine, "checkout", self._limit)

    def _limit(self, connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {self._pages}")

    async def fill(self) -> None:
        """Leave room for a page or two."""
        self._pages = 2 + await self.db.read(
            lambda conn: conn.exec_driver_sql("PRAGMA page_count").scalar_one()
        )

    def clear(self) -> None:
        self._pages = _ENDLESS


_ENDLESS = 10**9


@pytest.fixture
def disk(opened: Open, tmp_path: Path) -> Disk:
    return Disk(opened(f"sqlite:///{tmp_path / 'db'}"))


def test_a_full_disk_keeps_nothing_of_what_was_to_be_committed_together(disk: Disk) -> None:
    db = disk.db

    async def scenario() -> None:
        before = await db.write(thread_of(10))
        await disk.fill()
        refused = await in_a_group(db, thread_of(10), thread_of(100_000), thread_of(10))
        # SQLite undoes all of the transaction: none of the three may be told that its thread is there.
        assert [type(each) for each in refused] == [sa.exc.OperationalError] * 3
        assert "disk is full" in "".join(traceback.format_exception(refused[0]))  # as it is in the log
        assert await threads_in(db) == [before]
        disk.clear()
        after = await in_a_group(db, thread_of(100_000), thread_of(10))
        assert await threads_in(db) == [*reversed(after), before]

    asyncio.run(scenario())


def test_events_that_are_lost_are_told_of_in_the_log_and_leave_no_gap(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    db = disk.db
    published: list[Event] = []

    async def scenario() -> None:
        run = await db.write(run_on)
        db.on_events = published.extend
        await disk.fill()
        async with gathering(db):
            db.emit(run["id"], "thread.message.delta", {"n": 1, "text": "x" * 100_000})
            behind = asyncio.ensure_future(db.write(lambda tx: None))
        with pytest.raises(sa.exc.OperationalError, match="disk is full"):
            await behind
        disk.clear()
        db.emit(run["id"], "thread.message.delta", {"n": 2})
        await db.write(lambda tx: None)
        assert [(event.number, event.data) for event in published] == [(3, '{"n":2}')]
        assert await db.read(store.events_after, run["id"], 2, 10) == published

    asyncio.run(scenario())
    [record] = caplog.records
    assert record.getMessage() == "Events could not be written down: database or disk is full"


def test_a_connection_lost_in_mid_transaction_takes_the_group_along(
    postgresql: NewDatabase, opened: Open
) -> None:
    db = opened(postgresql())

    async def scenario() -> None:
        refused = await in_a_group(db, thread_of(10), cut, thread_of(10))
        assert [type(each) for each in refused] == [sa.exc.OperationalError] * 3
        assert await threads_in(db) == []
        [added] = await in_a_group(db, thread_of(10))
        assert await threads_in(db) == [added]

    asyncio.run(scenario())


def test_of_two_servers_that_wait_for_each_other_both_get_through(
    postgresql: NewDatabase, opened: Open
) -> None:
    url = postgresql()
    one, other = opened(url), opened(url)
    met, tries = threading.Barrier(2), {one.worker: 0, other.worker: 0}

    def name_both(tx: Transaction, first: str, second: str) -> None:
        tries[tx.worker] += 1
        store.patch(tx.conn, store.threads, first, {"metadata": {"first": tx.worker}})
        if tries[tx.worker] == 1:
            met.wait(30)  # each holds what the other wants next
        store.patch(tx.conn, store.threads, second, {"metadata": {"second": tx.worker}})

    async def scenario() -> None:
        here, there = await one.write(thread_of(1)), await one.write(thread_of(1))
        await asyncio.gather(one.write(name_both, here, there), other.write(name_both, there, here))
        assert sum(tries.values()) > 2  # PostgreSQL let one through, and the other came behind
        threads = [await one.read(store.get, store.threads, id) for id in (here, there)]
        wrote = [worker for thread in threads if thread is not None for worker in thread["metadata"].values()]
        assert wrote in ([one.worker] * 2, [other.worker] * 2)

    asyncio.run(scenario())


def test_numbers_go_on_when_more_runs_are_at_work_than_are_remembered(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.EventLog, "LIMIT", 2)
    log = store.EventLog()
    db = Database(f"sqlite:///{tmp_path / 'db'}", log)
    migrations.prepare(db.engine)

    async def scenario() -> None:
        runs = [await db.write(run_on) for _ in range(5)]
        assert len(log._last) <= 2
        for run in runs:
            await db.write(transitions.begin_turn, run["id"], 1)
            await db.write(transitions.end, run["id"], "completed")
            events = await db.read(store.events_after, run["id"], 0, 100)
            assert [event.number for event in events] == [1, 2, 3, 4]

    asyncio.run(scenario())
    db.close()
