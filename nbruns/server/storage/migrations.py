"""The tables of a database, brought to the version that this nbruns works with.

A new database gets today's tables. An old one is copied, and then taken through the numbered steps from its version to
today's, all in one transaction: it is upgraded or as it was. A step is never changed once it has been released;
whatever changes next gets the next number.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from nbruns.errors import SetupError
from nbruns.server.storage import store

#: What takes the tables to each version, in SQL that SQLite and PostgreSQL both understand.
STEPS: dict[int, tuple[str, ...]] = {
    2: (
        "ALTER TABLE runs ADD COLUMN worker VARCHAR(64)",
        "CREATE INDEX runs_of_assistant_with_status ON runs (assistant_id, status, seq)",
        "CREATE INDEX runs_of_model_with_status ON runs (model, status, seq)",
    ),
    3: ("ALTER TABLE steps ADD COLUMN hosted JSON",),
    4: ("ALTER TABLE runs ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0",),
}
VERSION = max(STEPS)

#: Advisory lock on PostgreSQL while tables are created or upgraded: servers may start at the same time.
_LOCK = 0x6E6272756E73  # "nbruns"

log = logging.getLogger(__name__)


def prepare(engine: sa.Engine) -> None:
    """Create the tables, or upgrade them. Raises SetupError if the database is newer or not writable."""
    try:
        with engine.connect().execution_options(writes=True) as conn, conn.begin():
            if conn.dialect.name == "postgresql":
                conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            version = _version(conn)
            if version is not None and version < VERSION:
                _upgrade(conn, version)
            elif version is None:
                store.metadata.create_all(conn)
            store.upsert(conn, store.meta, {"key": "schema_version", "value": str(VERSION)})
    except (sa.exc.OperationalError, sa.exc.DatabaseError) as error:
        raise SetupError(
            f"The database {engine.url.render_as_string()} cannot be opened for writing ({error.orig}). "
            "Name one that can be, with --database-url or database_url=…."
        ) from None


def _version(conn: sa.Connection) -> int | None:
    """Return the version of the tables; None if there are none yet."""
    if not sa.inspect(conn).has_table("meta"):
        return None
    version = int(conn.scalar(sa.select(store.meta.c.value).where(store.meta.c.key == "schema_version")) or 1)
    if version > VERSION:
        raise SetupError(
            f"The database {conn.engine.url.render_as_string()} is from a newer nbruns (version {version} of the "
            f"tables, this one knows {VERSION}). Install that nbruns (pip install -U nbruns), or name "
            "another database with --database-url."
        )
    return version


def _upgrade(conn: sa.Connection, version: int) -> None:
    name = f"version-{version}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    copy = _copy_file(conn, name) if conn.dialect.name == "sqlite" else _copy_schema(conn, name)
    for number in range(version + 1, VERSION + 1):
        for statement in STEPS[number]:
            conn.exec_driver_sql(statement)
    log.warning(
        "The tables have been upgraded from version %d to %d; as they were: %s", version, VERSION, copy
    )


def _copy_file(conn: sa.Connection, name: str) -> str:
    """Copy a SQLite file next to itself, as it was before this transaction."""
    file = Path(str(conn.engine.url.database))
    copy = file.with_name(f"{file.name}.{name}")
    copy.touch(mode=0o600)
    with closing(sqlite3.connect(file)) as old, closing(sqlite3.connect(copy)) as new:
        old.backup(new)
    return str(copy)


def _copy_schema(conn: sa.Connection, name: str) -> str:
    """Copy the tables of a PostgreSQL database into a schema of their own."""
    schema = conn.dialect.identifier_preparer.quote(f"nbruns {name}")
    conn.exec_driver_sql(f"CREATE SCHEMA {schema}")
    for table in store.metadata.sorted_tables:
        conn.exec_driver_sql(f"CREATE TABLE {schema}.{table.name} AS TABLE {table.name}")
    return f"schema {schema}"
