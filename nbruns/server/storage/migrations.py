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
from nbruns.server.storage import files, store  # noqa: F401  # their tables

#: What takes the tables to each version, in SQL that SQLite and PostgreSQL both understand; `{key}`, `{bytes}` and
#: `{double}` are types that they name differently.
STEPS: dict[int, tuple[str, ...]] = {
    2: (
        "ALTER TABLE runs ADD COLUMN worker VARCHAR(64)",
        "CREATE INDEX runs_of_assistant_with_status ON runs (assistant_id, status, seq)",
        "CREATE INDEX runs_of_model_with_status ON runs (model, status, seq)",
    ),
    3: ("ALTER TABLE steps ADD COLUMN hosted JSON",),
    4: ("ALTER TABLE runs ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0",),
    5: (
        "CREATE TABLE files (seq {key}, id VARCHAR(64) NOT NULL UNIQUE, purpose VARCHAR(32) NOT NULL, "
        "expires_at BIGINT, body JSON NOT NULL)",
        "CREATE INDEX files_of_purpose ON files (purpose, seq)",
        "CREATE INDEX files_to_expire ON files (expires_at)",
        "CREATE TABLE uploads (seq {key}, id VARCHAR(64) NOT NULL UNIQUE, expires_at BIGINT, "
        "file_lifetime BIGINT, body JSON NOT NULL)",
        "CREATE TABLE upload_parts (seq {key}, id VARCHAR(64) NOT NULL UNIQUE, upload_id VARCHAR(64) NOT NULL, "
        "size BIGINT NOT NULL, body JSON NOT NULL)",
        "CREATE INDEX parts_of_upload ON upload_parts (upload_id, seq)",
        "CREATE TABLE vector_stores (seq {key}, id VARCHAR(64) NOT NULL UNIQUE, expires_at BIGINT, "
        "embedding VARCHAR(256), version BIGINT NOT NULL DEFAULT 0, body JSON NOT NULL)",
        "CREATE TABLE file_batches (seq {key}, id VARCHAR(64) NOT NULL UNIQUE, vector_store_id VARCHAR(64) NOT NULL, "
        "body JSON NOT NULL)",
        "CREATE TABLE vector_store_files (seq {key}, id VARCHAR(64) NOT NULL, vector_store_id VARCHAR(64) NOT NULL, "
        "batch_id VARCHAR(64), status VARCHAR(20) NOT NULL, usage_bytes BIGINT NOT NULL DEFAULT 0, "
        "worker VARCHAR(64), attempts INTEGER NOT NULL DEFAULT 0, body JSON NOT NULL, "
        "CONSTRAINT one_file_per_vector_store UNIQUE (vector_store_id, id))",
        "CREATE INDEX files_of_vector_store ON vector_store_files (vector_store_id, status, seq)",
        "CREATE INDEX vector_stores_of_file ON vector_store_files (id)",
        "CREATE INDEX files_of_batch ON vector_store_files (batch_id, status)",
        "CREATE INDEX files_with_status ON vector_store_files (status, seq)",
        "CREATE TABLE passages (seq {key}, vector_store_id VARCHAR(64) NOT NULL, file_id VARCHAR(64) NOT NULL, "
        "number INTEGER NOT NULL, text TEXT NOT NULL, vector {bytes})",
        "CREATE INDEX passages_of_file ON passages (vector_store_id, file_id, number)",
        "ALTER TABLE runs ADD COLUMN includes_content BOOLEAN NOT NULL DEFAULT FALSE",
    ),
    6: (
        "CREATE TABLE run_batches (seq {key}, id VARCHAR(64) NOT NULL UNIQUE, concurrency INTEGER NOT NULL, "
        "runs_per_minute INTEGER, next_start {double} NOT NULL DEFAULT 0, body JSON NOT NULL)",
        "ALTER TABLE runs ADD COLUMN batch_id VARCHAR(64)",
        "ALTER TABLE runs ADD COLUMN batch_key VARCHAR(64)",
        "CREATE UNIQUE INDEX runs_of_batch ON runs (batch_id, batch_key) WHERE batch_id IS NOT NULL",
        "CREATE INDEX runs_waiting ON runs (batch_id, seq) WHERE worker IS NULL AND batch_id IS NOT NULL "
        "AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling')",
    ),
}
#: What a step needs beside that, in the SQL of one database.
OWN_STEPS: dict[tuple[int, str], tuple[str, ...]] = {
    (5, "sqlite"): (
        "CREATE VIRTUAL TABLE passages_words USING fts5(text, vector_store_id, content='passages', "
        "content_rowid='seq', tokenize='porter unicode61 remove_diacritics 2')",
        "CREATE TRIGGER passages_added AFTER INSERT ON passages BEGIN INSERT INTO passages_words"
        "(rowid, text, vector_store_id) VALUES (new.seq, new.text, new.vector_store_id); END",
        "CREATE TRIGGER passages_deleted AFTER DELETE ON passages BEGIN INSERT INTO passages_words"
        "(passages_words, rowid, text, vector_store_id) VALUES ('delete', old.seq, old.text, old.vector_store_id); END",
    ),
    (5, "postgresql"): (
        "ALTER TABLE passages ADD COLUMN words TSVECTOR GENERATED ALWAYS AS (to_tsvector('english', text)) STORED",
        "CREATE INDEX passages_words ON passages USING gin (words)",
    ),
}
_TYPES = {
    "sqlite": {"key": "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", "bytes": "BLOB", "double": "DOUBLE"},
    "postgresql": {
        "key": "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        "bytes": "BYTEA",
        "double": "DOUBLE PRECISION",
    },
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
        dialect = conn.dialect.name
        for statement in STEPS[number]:
            conn.exec_driver_sql(statement.format(**_TYPES[dialect]))
        for statement in OWN_STEPS.get((number, dialect), ()):
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
    existing = set(sa.inspect(conn).get_table_names())
    for table in (table for table in store.metadata.sorted_tables if table.name in existing):
        conn.exec_driver_sql(f"CREATE TABLE {schema}.{table.name} AS TABLE {table.name}")
    return f"schema {schema}"
