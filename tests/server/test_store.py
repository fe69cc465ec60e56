"""What the store promises, whatever database it is on."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from nbruns.errors import SetupError
from nbruns.server.main import serve
from nbruns.server.runs import transitions
from nbruns.server.schemas import objects
from nbruns.server.schemas.errors import Refused
from nbruns.server.storage import migrations, store
from nbruns.server.storage.database import Database, Event, Transaction

JSON = dict[str, Any]


#: Each list that the API gives, and what it is filtered by.
LISTS: list[tuple[sa.Table, tuple[str, ...]]] = [
    (store.assistants, ()),
    (store.threads, ()),
    (store.messages, ("thread_id",)),
    (store.messages, ("thread_id", "run_id")),
    (store.steps, ("run_id",)),
    (store.runs, ()),
    *((store.runs, (name,)) for name in ("thread_id", "assistant_id", "model", "status")),
    *((store.runs, (name, "status")) for name in ("thread_id", "assistant_id", "model")),
]


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    on_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'db'}" if on_sqlite else request.getfixturevalue("postgresql")()
    db = Database(url, store.EventLog())
    migrations.prepare(db.engine)
    yield db
    db.close()


def run_on(tx: Transaction, thread_id: str | None = None) -> JSON:
    """A run in the database, on a thread of its own unless told otherwise."""
    thread_id = thread_id or transitions.create_thread(tx, {})["id"]
    assistant = objects.assistant({"model": "demo", "instructions": "Be short."}, store.now())
    store.add(tx.conn, store.assistants, assistant)
    return transitions.create(tx, thread_id, {"assistant_id": assistant["id"]}, 600).run


class TestStore:
    def test_what_is_written_is_read_with_every_character_and_in_order(self, db: Database) -> None:
        async def scenario() -> None:
            body = objects.thread(
                {"metadata": {"z": "\ud83d \0 '\"; DROP TABLE threads", "a": "naïve 🧥"}}, 1
            )
            await db.write(lambda tx: store.add(tx.conn, store.threads, body))
            read = await db.read(store.get, store.threads, body["id"])
            assert json.dumps(read) == json.dumps(body)

        asyncio.run(scenario())

    def test_a_write_that_fails_leaves_nothing_and_spoils_no_other(self, db: Database) -> None:
        published: list[Event] = []
        db.on_events = published.extend

        def fail(tx: Transaction, run: JSON) -> None:
            transitions.begin_turn(tx, run["id"], 1)
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
            await db.write(transitions.begin_turn, run["id"], 1)
            call = {
                "id": "call_1",
                "type": "function",
                "function": {"name": "f", "arguments": "{}", "output": None},
            }
            step = objects.step(run, "step_1", {"type": "tool_calls", "tool_calls": [call]}, store.now())
            await db.write(transitions.require_action, run["id"], step, objects.NO_USAGE)
            output = [{"tool_call_id": "call_1", "output": "1"}]
            tries = [db.write(transitions.submit, run["thread_id"], run["id"], output) for _ in range(20)]
            results = await asyncio.gather(*tries, return_exceptions=True)
            assert [isinstance(result, Refused) for result in results] == [False] + [True] * 19
            assert await db.read(store.turn_of, run["id"]) == 2

        asyncio.run(scenario())

    @pytest.mark.parametrize(
        ("table", "where"), LISTS, ids=["+".join((table.name, *where)) for table, where in LISTS]
    )
    def test_every_list_is_read_from_an_index_in_its_order(
        self, db: Database, table: sa.Table, where: tuple[str, ...]
    ) -> None:
        async def scenario() -> None:
            await db.write(many_runs)
            filters = {name: {"status": "completed", "model": "demo"}.get(name, "many") for name in where}
            for order in ("asc", "desc"):
                for page in (store.Page(order=order), store.Page(order=order, after="run_900")):
                    page = page if table is store.runs else dataclasses.replace(page, after=None)
                    plan = await db.read(plan_of, table, page, filters)
                    assert not re.search("TEMP B-TREE|Sort|Seq Scan", plan), plan
                    if where and db.engine.dialect.name == "sqlite":
                        # One index gives both the filters and the order.
                        assert re.match(r"SEARCH \w+ USING INDEX", plan), plan

        asyncio.run(scenario())

    def test_a_page_goes_on_where_its_cursor_is(self, db: Database) -> None:
        async def scenario() -> None:
            await db.write(many_runs)
            for page, ends, more in (
                (store.Page(), ("run_999", "run_980"), True),
                (store.Page(after="run_500"), ("run_499", "run_480"), True),
                (store.Page(after="run_500", before="run_497"), ("run_499", "run_498"), False),
                (store.Page(before="run_500"), ("run_520", "run_501"), True),
                (store.Page(before="run_50", order="asc"), ("run_30", "run_49"), True),
                (store.Page(before="run_5", order="asc"), ("run_0", "run_4"), False),
            ):
                items, has_more = await db.read(store.listed, store.runs, page, {"thread_id": "many"})
                assert ((items[0]["id"], items[-1]["id"]), has_more) == (ends, more)

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


def many_runs(tx: Transaction) -> None:
    """A thousand runs that have ended, on a thread of one assistant."""
    body = {"object": "thread.run"}
    columns = {"thread_id": "many", "assistant_id": "many", "model": "demo", "status": "completed"}
    rows = [{"id": f"run_{n}", **columns, "body": {**body, "id": f"run_{n}"}} for n in range(1000)]
    tx.conn.execute(sa.insert(store.runs), rows)


def plan_of(conn: sa.Connection, table: sa.Table, page: store.Page, where: dict[str, str]) -> str:
    """How the database goes about the query of a page."""
    statements: list[tuple[str, Any]] = []

    def keep(conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    sa.event.listen(conn.engine, "before_cursor_execute", keep)
    try:
        store.listed(conn, table, page, where)
    finally:
        sa.event.remove(conn.engine, "before_cursor_execute", keep)
    statement, parameters = statements[-1]
    if conn.dialect.name == "postgresql":
        # What it would do with a million rows: with a thousand, reading and sorting them all is quick enough for it.
        conn.exec_driver_sql("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
    explain = "EXPLAIN QUERY PLAN" if conn.dialect.name == "sqlite" else "EXPLAIN"
    return "\n".join(str(row[-1]) for row in conn.exec_driver_sql(f"{explain} {statement}", parameters))


class TestOpening:
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
        def writers() -> list[
            threading.Thread
        ]:  # a database has one; other servers here start threads at any time
            return [thread for thread in threading.enumerate() if thread.name == "nbruns-write"]

        before = writers()
        self.test_a_file_that_is_no_database_is_refused(tmp_path)
        assert writers() == before
