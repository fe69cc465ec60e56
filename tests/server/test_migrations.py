"""Databases of earlier versions, brought to today's tables. `version_1.sql` is one that version 1 has written."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from postgresql_server import NewDatabase
from served import OUTPUTS, ServerProcess

from nbruns.errors import SetupError
from nbruns.server.main import serve
from nbruns.server.storage import migrations, store
from nbruns.server.storage.database import Database

OLD = (Path(__file__).parent / "version_1.sql").read_text()

Open = Callable[[str], Database]


@pytest.fixture
def opened() -> Iterator[Open]:
    databases = []

    def open_(url: str) -> Database:
        databases.append(Database(url, store.EventLog()))
        return databases[-1]

    yield open_
    for database in databases:
        database.close()


def old_file(folder: Path) -> Path:
    with closing(sqlite3.connect(folder / "db")) as conn:
        conn.executescript(OLD)
    return folder / "db"


def shape(engine: sa.Engine) -> dict[str, Any]:
    """The tables, columns and indexes of a database, but for the order in which columns were added."""
    inspector = sa.inspect(engine)
    return {
        table: (
            sorted((c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)),
            sorted((i["name"], i["column_names"], bool(i["unique"])) for i in inspector.get_indexes(table)),
        )
        for table in inspector.get_table_names()
    }


def rows(conn: sa.Connection) -> dict[str, int]:
    return {
        table.name: conn.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        for table in store.metadata.sorted_tables
        if sa.inspect(conn).has_table(table.name)
    }


def test_an_old_file_becomes_what_a_new_one_is_and_is_kept_as_it_was(
    tmp_path: Path, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    file = old_file(tmp_path)
    old, new = opened(f"sqlite:///{file}").engine, opened(f"sqlite:///{tmp_path / 'new'}").engine
    with old.connect() as conn:
        before = rows(conn)
    with caplog.at_level(logging.WARNING):
        migrations.prepare(old)
    migrations.prepare(new)
    assert shape(old) == shape(new)
    with old.connect() as conn:
        after = rows(conn)
    assert {table: after[table] for table in before} == before and set(after) > set(before)
    with old.connect() as conn:
        assert store.at_work(conn, ["requires_action"]) != []
    [copy] = tmp_path.glob("db.version-1-*")
    assert str(copy) in caplog.text
    assert copy.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(copy)) as conn:
        assert "\n".join(conn.iterdump()) == OLD.strip()
    migrations.prepare(old)
    assert list(tmp_path.glob("db.version-*")) == [copy]


def test_a_run_that_waited_through_an_upgrade_is_answered(tmp_path: Path) -> None:
    server = ServerProcess(old_file(tmp_path), "--words", "3")
    [waiting] = server.api.get("/runs", status="requires_action")["data"]
    server.api.post(f"{server.api.run_path(waiting)}/submit_tool_outputs", OUTPUTS)
    assert server.api.until(waiting, "completed")["usage"]["completion_tokens"] == 10 + 3
    server.stop()


def test_an_upgrade_that_fails_changes_nothing(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(migrations.STEPS, 2, (*migrations.STEPS[2], "DROP TABLE what_is_not_there"))
    file = old_file(tmp_path)
    with pytest.raises(SetupError, match="what_is_not_there"):
        migrations.prepare(opened(f"sqlite:///{file}").engine)
    with closing(sqlite3.connect(file)) as conn:
        assert "\n".join(conn.iterdump()) == OLD.strip()


def test_a_newer_database_is_refused(tmp_path: Path, opened: Open) -> None:
    url = f"sqlite:///{tmp_path / 'db'}"
    migrations.prepare(opened(url).engine)
    with sqlite3.connect(tmp_path / "db") as conn:
        conn.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(SetupError, match=r"from a newer nbruns \(version 99 of the tables"):
        migrations.prepare(opened(url).engine)
    with pytest.raises(SetupError, match="newer nbruns"):
        serve(port=0, database_url=url, token=None)


def test_old_tables_of_postgresql_are_upgraded_and_copied_into_a_schema(
    postgresql: NewDatabase, opened: Open
) -> None:
    old, new = opened(postgresql()).engine, opened(postgresql()).engine
    migrations.prepare(new)
    migrations.prepare(old)
    with old.begin() as conn:  # back to version 1
        conn.execute(sa.insert(store.threads), [{"id": "thread_1", "body": {"id": "thread_1"}}])
        conn.exec_driver_sql("DROP INDEX runs_of_assistant_with_status, runs_of_model_with_status")
        conn.exec_driver_sql(
            "ALTER TABLE runs DROP COLUMN worker, DROP COLUMN attempts, DROP COLUMN includes_content, "
            "DROP COLUMN batch_id, DROP COLUMN batch_key, DROP COLUMN pruned"
        )
        tables = "files, uploads, upload_parts, vector_stores, file_batches, vector_store_files, passages, run_batches"
        conn.exec_driver_sql(f"DROP TABLE {tables}")
        conn.exec_driver_sql("ALTER TABLE steps DROP COLUMN hosted")
        conn.exec_driver_sql("UPDATE meta SET value = '1'")
    migrations.prepare(old)
    assert shape(old) == shape(new)
    [copy] = [name for name in sa.inspect(old).get_schema_names() if name.startswith("nbruns version-1-")]
    with old.connect() as conn:
        assert conn.exec_driver_sql(f'SELECT id FROM "{copy}".threads').scalars().all() == ["thread_1"]
        assert rows(conn)["threads"] == 1
