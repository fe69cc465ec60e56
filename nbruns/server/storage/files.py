"""The tables and queries of files, uploads, vector stores and their passages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from nbruns.server.storage import peers
from nbruns.server.storage.database import Transaction
from nbruns.server.storage.store import kind, matches, metadata, now
from nbruns.text import JSON

files = kind(
    "files",
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Index("files_of_purpose", "purpose", "seq"),
    sa.Index("files_to_expire", "expires_at"),
)
uploads = kind(
    "uploads",
    sa.Column("expires_at", sa.BigInteger),
    # Seconds after which the file expires.
    sa.Column("file_lifetime", sa.BigInteger),
)
upload_parts = kind(
    "upload_parts",
    sa.Column("upload_id", sa.String(64), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Index("parts_of_upload", "upload_id", "seq"),
)
vector_stores = kind(
    "vector_stores",
    sa.Column("expires_at", sa.BigInteger),
    # The embedding model of the store, and the length of its vectors. Null: no passages yet.
    sa.Column("embedding", sa.String(256)),
    # Increases with each change of the passages, so that servers detect outdated copies of the vectors.
    sa.Column("version", sa.BigInteger, nullable=False, server_default="0"),
)
file_batches = kind("file_batches", sa.Column("vector_store_id", sa.String(64), nullable=False))
#: A file in a vector store. Its id is that of the file, so it is unique only within the store.
vector_store_files = kind(
    "vector_store_files",
    sa.Column("vector_store_id", sa.String(64), nullable=False),
    sa.Column("batch_id", sa.String(64)),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("usage_bytes", sa.BigInteger, nullable=False, server_default="0"),
    # The server that ingests the file, and the number of attempts.
    sa.Column("worker", sa.String(64)),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Index("files_of_vector_store", "vector_store_id", "status", "seq"),
    sa.Index("vector_stores_of_file", "id"),
    sa.Index("files_of_batch", "batch_id", "status"),
    sa.Index("files_with_status", "status", "seq"),
    sa.UniqueConstraint("vector_store_id", "id", name="one_file_per_vector_store"),
    unique_id=False,
)
passages = sa.Table(
    "passages",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), sa.Identity(), primary_key=True),
    sa.Column("vector_store_id", sa.String(64), nullable=False),
    sa.Column("file_id", sa.String(64), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    #: float32, little-endian.
    sa.Column("vector", sa.LargeBinary),
    #: See `retrieval.words`.
    sa.Column("words", sa.LargeBinary, nullable=False),
    sa.Index("passages_of_file", "vector_store_id", "file_id", "number"),
    sqlite_autoincrement=True,
)


class Ingestion(NamedTuple):
    """A file to ingest into a vector store."""

    vector_store_id: str
    file_id: str
    worker: str | None
    attempts: int


def file_counts(conn: sa.Connection, column: sa.Column[Any], ids: Collection[str]) -> dict[str, JSON]:
    """Return the file counts by status, and the `usage_bytes`, of vector stores or of batches."""
    counts: dict[str, JSON] = {
        id: {"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0, "usage_bytes": 0}
        for id in ids
    }
    status, used = vector_store_files.c.status, vector_store_files.c.usage_bytes
    query = (
        sa.select(column, status, sa.func.count(), sa.func.sum(used))
        .where(column.in_(ids))
        .group_by(column, status)
    )
    for id, each, count, size in conn.execute(query):
        counts[id][each] = count
        counts[id]["total"] += count
        counts[id]["usage_bytes"] += int(size)
    return counts


def unknown_files(conn: sa.Connection, ids: Iterable[str]) -> list[str]:
    """Return the ids of files that don't exist or have expired."""
    wanted = list(dict.fromkeys(ids))
    alive = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > now())
    known = set[str]()
    for start in range(0, len(wanted), 500):
        known.update(
            conn.scalars(sa.select(files.c.id).where(files.c.id.in_(wanted[start : start + 500]), alive))
        )
    return [id for id in wanted if id not in known]


def files_of(conn: sa.Connection, store_id: str, ids: Collection[str]) -> set[str]:
    """Return the ids that belong to files of a vector store and have not failed."""
    table = vector_store_files.c
    query = sa.select(table.id).where(
        table.vector_store_id == store_id, table.id.in_(ids), table.status.in_(("in_progress", "completed"))
    )
    return set(conn.scalars(query))


def ids_of(conn: sa.Connection, store_id: str) -> list[str]:
    """Return the ids of the files of a vector store, oldest first."""
    table = vector_store_files.c
    return list(
        conn.scalars(sa.select(table.id).where(table.vector_store_id == store_id).order_by(table.seq))
    )


def filenames(conn: sa.Connection, ids: Collection[str]) -> dict[str, str]:
    """Return the names of files by id."""
    rows = conn.execute(sa.select(files.c.id, files.c.body).where(files.c.id.in_(ids)))
    return {row.id: row.body["filename"] for row in rows}


def parts_of(conn: sa.Connection, upload_id: str) -> dict[str, int]:
    """Return the sizes of an upload's parts, in bytes, by id."""
    columns = (upload_parts.c.id, upload_parts.c.size)
    rows = conn.execute(sa.select(*columns).where(upload_parts.c.upload_id == upload_id))
    return {row.id: row.size for row in rows}


def file_lifetime(conn: sa.Connection, upload_id: str) -> int | None:
    """Return the seconds after which the file of an upload expires; None if it doesn't expire."""
    seconds: int | None = conn.scalar(sa.select(uploads.c.file_lifetime).where(uploads.c.id == upload_id))
    return seconds


def rows_of_blobs(conn: sa.Connection, ids: Sequence[str]) -> list[str]:
    """Return the ids that belong to files or to parts of uploads."""
    known: list[str] = []
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        for table in (files, upload_parts):
            known += conn.scalars(sa.select(table.c.id).where(table.c.id.in_(some)))
    return known


def expired(conn: sa.Connection, table: sa.Table) -> list[str]:
    """Return the ids of expired objects."""
    return list(conn.scalars(sa.select(table.c.id).where(table.c.expires_at <= now())))


def delete_file(tx: Transaction, id: str) -> bool:
    """Delete a file, also from all vector stores. Return whether it existed."""
    of_file = vector_store_files.c.id == id
    for store_id in list(tx.conn.scalars(sa.select(vector_store_files.c.vector_store_id).where(of_file))):
        remove(tx, store_id, id)
    return tx.conn.execute(sa.delete(files).where(files.c.id == id)).rowcount > 0


def delete_upload(tx: Transaction, id: str) -> list[str]:
    """Delete the parts of an upload, and return their ids."""
    parts = list(parts_of(tx.conn, id))
    tx.conn.execute(sa.delete(upload_parts).where(upload_parts.c.upload_id == id))
    return parts


def delete_vector_store(tx: Transaction, id: str) -> bool:
    """Delete a vector store with its passages. The files are kept. Return whether it existed."""
    # Delete its files first. A server locks the row of a file while it adds passages, so none are added afterwards.
    for table in (vector_store_files, passages, file_batches):
        tx.conn.execute(sa.delete(table).where(table.c.vector_store_id == id))
    return tx.conn.execute(sa.delete(vector_stores).where(vector_stores.c.id == id)).rowcount > 0


def remove(tx: Transaction, store_id: str, file_id: str) -> bool:
    """Remove a file from a vector store. Return whether it existed."""
    owner = matches(vector_store_files, {"vector_store_id": store_id, "id": file_id})
    # Before its passages, because a server that ingests the file locks its row while it adds passages.
    was_there = tx.conn.execute(sa.delete(vector_store_files).where(*owner)).rowcount > 0
    delete_passages(tx, store_id, file_id)
    return was_there


def delete_passages(tx: Transaction, store_id: str, file_id: str) -> None:
    """Delete the passages of a file in a vector store."""
    owner = matches(passages, {"vector_store_id": store_id, "file_id": file_id})
    if tx.conn.execute(sa.delete(passages).where(*owner)).rowcount:
        count_change(tx, store_id)


def count_change(tx: Transaction, store_id: str) -> None:
    """Increase the version of a vector store, because its passages have changed."""
    change = {"version": vector_stores.c.version + 1}
    tx.conn.execute(sa.update(vector_stores).where(vector_stores.c.id == store_id).values(change))


def waiting(conn: sa.Connection, worker: str) -> list[Ingestion]:
    """Return the files to ingest that no other live server is ingesting, oldest first."""
    table = vector_store_files.c
    columns = (table.vector_store_id, table.id, table.worker, table.attempts)
    query = sa.select(*columns).where(table.status == "in_progress").order_by(table.seq).limit(100)
    return [
        work
        for work in (Ingestion(*row) for row in conn.execute(query))
        if work.worker in (None, worker) or (work.worker != "local" and peers.is_dead(conn, work.worker))
    ]


def count_in_progress(conn: sa.Connection) -> int:
    """Return the number of files that are being ingested or are waiting."""
    table = vector_store_files.c
    return conn.scalar(sa.select(sa.func.count(table.seq)).where(table.status == "in_progress")) or 0


def claim(tx: Transaction, work: Ingestion) -> bool:
    """Make this server the worker of a file. Return False if another was faster, or there is nothing to do."""
    table = vector_store_files
    owner = matches(
        table, {"vector_store_id": work.vector_store_id, "id": work.file_id, "status": "in_progress"}
    )
    same = table.c.worker.is_(None) if work.worker is None else table.c.worker == work.worker
    change = {"worker": tx.worker, "attempts": work.attempts + 1}
    return tx.conn.execute(sa.update(table).where(*owner, same).values(change)).rowcount > 0


def is_mine(conn: sa.Connection, tx_worker: str, store_id: str, file_id: str, *, lock: bool = False) -> bool:
    """Whether a server is still the worker of a file, which may have been removed, cancelled, or taken over."""
    table = vector_store_files
    owner = {"vector_store_id": store_id, "id": file_id, "status": "in_progress", "worker": tx_worker}
    query = sa.select(table.c.seq).where(*matches(table, owner))
    return conn.scalar(query.with_for_update() if lock else query) is not None


def unclaim(tx: Transaction, store_id: str, file_id: str) -> None:
    """Release a file gracefully for the next start, so that this attempt doesn't count."""
    table = vector_store_files
    owner = {"vector_store_id": store_id, "id": file_id, "status": "in_progress", "worker": tx.worker}
    change = {"worker": None, "attempts": table.c.attempts - 1}
    tx.conn.execute(sa.update(table).where(*matches(table, owner)).values(change))
