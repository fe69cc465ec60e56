"""What the store promises, whatever database it is on."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from nbruns.errors import SetupError
from nbruns.server import store, transitions, wire
from nbruns.server.database import Database, Event, Transaction
from nbruns.server.refusal import Refused
from nbruns.server.serve import serve

JSON = dict[str, Any]


@pytest.fixture(params=["sqlite"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    db = Database(f"sqlite:///{tmp_path / 'store.sqlite'}", store.EventLog())
    store.prepare(db.engine)
    yield db
    db.close()


def run_on(tx: Transaction, thread_id: str | None = None) -> JSON:
    """A run in the database, on a thread of its own unless told otherwise."""
    thread_id = thread_id or transitions.create_thread(tx, {})["id"]
    assistant = wire.assistant({"model": "demo"}, store.now())
    store.add(tx.conn, store.assistants, assistant)
    return transitions.create(tx, thread_id, {"assistant_id": assistant["id"]}, 600).run


class TestStore:
    def test_what_is_written_is_read_with_every_character_and_in_order(self, db: Database) -> None:
        async def scenario() -> None:
            body = wire.thread({"metadata": {"z": "\ud83d \0 '\"; DROP TABLE threads", "a": "naïve 🧥"}}, 1)
            await db.write(lambda tx: store.add(tx.conn, store.threads, body))
            read = await db.read(store.get, store.threads, body["id"])
            assert json.dumps(read) == json.dumps(body)

        asyncio.run(scenario())

    def test_a_write_that_fails_leaves_nothing_and_spoils_no_other(self, db: Database) -> None:
        published: list[Event] = []
        db.on_events = published.extend

        def fail(tx: Transaction, run: JSON) -> None:
            transitions.begin_leg(tx, run["id"], 1)
            raise Refused("no")

        async def scenario() -> None:
            run = await db.write(run_on)
            results = await asyncio.gather(
                db.write(run_on), db.write(fail, run), db.write(run_on), return_exceptions=True
            )
            assert [type(result).__name__ for result in results] == ["dict", "Refused", "dict"]
            runs, _ = await db.read(store.listed, store.runs, store.Page())
            assert runs == [results[2], results[0], run]
            assert [event.run_id for event in published] == [
                made["id"] for made in reversed(runs) for _ in range(2)
            ]

        asyncio.run(scenario())

    def test_events_are_published_when_they_are_in_the_log_numbered_without_gaps(self, db: Database) -> None:
        logged: list[bool] = []

        def check(events: list[Event]) -> None:
            with db.engine.connect() as conn:
                known = {(e.run_id, e.number) for e in store.events_after(conn, events[0].run_id, 0, 10_000)}
            logged.extend((e.run_id, e.number) in known for e in events if e.run_id == events[0].run_id)

        async def scenario() -> None:
            run = await db.write(run_on)
            db.on_events = check
            for n in range(1000):
                db.emit(run["id"], "thread.message.delta", {"n": n})
            await db.write(lambda tx: None)
            events = await db.read(store.events_after, run["id"], 0, 2000)
            assert [event.number for event in events] == list(range(1, 1003))
            assert [json.loads(event.data)["n"] for event in events[2:]] == list(range(1000))
            assert len(logged) == 1000 and all(logged)

        asyncio.run(scenario())

    def test_events_of_a_run_that_is_gone_are_dropped(self, db: Database) -> None:
        async def scenario() -> None:
            run = await db.write(run_on)
            await db.write(lambda tx: store.delete_thread(tx, run["thread_id"]))
            db.emit(run["id"], "thread.message.delta", {})
            await db.write(transitions.end, run["id"], "completed")
            assert await db.read(store.last_event, run["id"]) == 0
            assert await db.read(store.of_run, store.steps, run["id"]) == []

        asyncio.run(scenario())

    def test_the_database_itself_allows_one_active_run_on_a_thread(self, db: Database) -> None:
        async def scenario() -> None:
            run = await db.write(run_on)
            second = {**run, "id": "run_second"}
            with pytest.raises(sa.exc.IntegrityError):
                await db.write(lambda tx: store.add(tx.conn, store.runs, second))
            await db.write(lambda tx: store.patch(tx.conn, store.runs, run["id"], {"status": "completed"}))
            await db.write(lambda tx: store.add(tx.conn, store.runs, second))

        asyncio.run(scenario())

    def test_of_many_that_submit_at_once_one_succeeds(self, db: Database) -> None:
        async def scenario() -> None:
            run = await db.write(run_on)
            await db.write(transitions.begin_leg, run["id"], 1)
            call = {
                "id": "call_1",
                "type": "function",
                "function": {"name": "f", "arguments": "{}", "output": None},
            }
            step = wire.step(run, "step_1", {"type": "tool_calls", "tool_calls": [call]}, store.now())
            await db.write(transitions.require_action, run["id"], step, wire.NO_USAGE)
            output = [{"tool_call_id": "call_1", "output": "1"}]
            tries = [db.write(transitions.submit, run["thread_id"], run["id"], output) for _ in range(20)]
            results = await asyncio.gather(*tries, return_exceptions=True)
            assert [isinstance(result, Refused) for result in results] == [False] + [True] * 19
            assert await db.read(store.leg_of, run["id"]) == 2

        asyncio.run(scenario())

    def test_pages_take_the_same_time_however_many_runs_there_are(self, db: Database) -> None:
        async def scenario() -> None:
            run = await db.write(run_on)
            rows = [
                {"id": f"run_{n}", "thread_id": "thread_many", "assistant_id": "a", "model": "demo",
                 "status": "completed", "expires_at": None, "body": {**run, "id": f"run_{n}"}}
                for n in range(20_000)
            ]  # fmt: skip
            await db.write(lambda tx: tx.conn.execute(sa.insert(store.runs), rows))
            for page in (
                store.Page(),
                store.Page(after="run_10000"),
                store.Page(before="run_50", order="asc"),
            ):
                for where in ({}, {"thread_id": "thread_many"}, {"status": "completed"}, {"model": "demo"}):
                    plan = await db.read(plan_of, page, where)
                    # One index gives both the filter and the order; SCAN is the table in the order of seq itself.
                    assert plan.startswith(
                        "SEARCH runs USING" if where or page.after else ("SCAN runs", "SEARCH runs")
                    )
                    assert "TEMP B-TREE" not in plan
            began = time.perf_counter()
            items, has_more = await db.read(store.listed, store.runs, store.Page(after="run_10000"))
            assert (time.perf_counter() - began) < 0.5
            assert ([item["id"] for item in items][::19], has_more) == (["run_9999", "run_9980"], True)

        asyncio.run(scenario())

    def test_closing_waits_for_what_was_asked_for(self, db: Database) -> None:
        async def scenario() -> None:
            run = await db.write(run_on)
            for _ in range(100):
                db.emit(run["id"], "thread.message.delta", {})
            db.close()
            with db.engine.connect() as conn:
                assert store.last_event(conn, run["id"]) == 102

        asyncio.run(scenario())


def plan_of(conn: sa.Connection, page: store.Page, where: dict[str, str]) -> str:
    """How SQLite goes about the query of a page."""
    statements: list[tuple[str, Any]] = []

    def keep(conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    sa.event.listen(conn.engine, "before_cursor_execute", keep)
    try:
        store.listed(conn, store.runs, page, where)
    finally:
        sa.event.remove(conn.engine, "before_cursor_execute", keep)
    statement, parameters = statements[-1]
    return "\n".join(
        row.detail for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    )


class TestOpening:
    def test_a_newer_database_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "db"
        self.open_and_close(file)
        self.open_and_close(file)
        with sqlite3.connect(file) as conn:
            conn.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
        with pytest.raises(SetupError, match=r"from a newer nbruns \(version 99 of the tables"):
            self.open_and_close(file)
        with pytest.raises(SetupError, match="newer nbruns"):
            serve(port=0, database_url=f"sqlite:///{file}", token=None)

    def open_and_close(self, file: Path) -> None:
        db = Database(f"sqlite:///{file}", store.EventLog())
        try:
            store.prepare(db.engine)
        finally:
            db.close()

    def test_a_file_that_is_no_database_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "db"
        file.write_text("This is a letter, not a database. " * 100)
        with pytest.raises(SetupError, match="cannot be opened for writing"):
            serve(port=0, database_url=f"sqlite:///{file}", token=None)
        assert file.read_text().startswith("This is a letter")

    @pytest.mark.parametrize(
        "url", ["", "db.sqlite", "sqlite://", "sqlite:///:memory:", "mysql://u:secret@h/d"]
    )
    def test_a_url_that_names_no_database_of_ours_is_refused(self, url: str) -> None:
        with pytest.raises(SetupError, match="neither a SQLite file nor PostgreSQL") as refused:
            serve(port=0, database_url=url, token=None)
        assert "secret" not in str(refused.value)

    def test_a_folder_that_can_not_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SetupError, match="file/db cannot be opened for writing"):
            serve(port=0, database_url=f"sqlite:///{tmp_path}/file/db", token=None)

    def test_a_folder_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match="no such folder"):
            serve(port=0, database_url=f"sqlite:///{tmp_path}/typo/db", token=None)
        assert not (tmp_path / "typo").exists()

    def test_a_port_that_is_taken_is_named(self, tmp_path: Path, url: str) -> None:
        port = int(url.rpartition(":")[2])
        with pytest.raises(SetupError, match=f"Port {port} on 127.0.0.1 is in use"):
            serve(port=port, database_url=f"sqlite:///{tmp_path / 'db'}", token=None)

    def test_nothing_is_left_running(self, tmp_path: Path) -> None:
        before = threading.active_count()
        self.test_a_newer_database_is_refused(tmp_path)
        assert threading.active_count() == before
