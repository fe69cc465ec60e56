"""Operations on vector stores, each in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from nbruns.server.schemas import objects
from nbruns.server.schemas.errors import Refused
from nbruns.server.schemas.vector_stores import (
    AUTO_CHUNKING,
    FileBatchObject,
    VectorStoreFileObject,
    VectorStoreObject,
)
from nbruns.server.storage import files, store
from nbruns.server.storage.database import Transaction
from nbruns.text import JSON

#: Minimum number of seconds between two updates of a store's `last_active_at`.
_TOUCH_SECONDS = 60
_DAY = 24 * 3600
#: Days after its last use after which a store for attachments expires.
ATTACHMENT_DAYS = 7


def create(tx: Transaction, params: JSON) -> JSON:
    """Create a vector store, and add files to it."""
    now = store.now()
    body = VectorStoreObject.new(
        **{name: params[name] for name in ("name", "description", "expires_after") if params.get(name)},
        id=objects.new_id("vs"),
        created_at=now,
        last_active_at=now,
        metadata=params.get("metadata") or {},
        # Counted when the store is read.
        **{"usage_bytes": 0, "file_counts": {}, "status": "completed"},
    )
    _set_expiry(body)
    store.add(tx.conn, files.vector_stores, body)
    chunking = params.get("chunking_strategy")
    given = [{"file_id": id, "chunking_strategy": chunking} for id in params.get("file_ids") or []]
    if given:
        add_files(tx, body["id"], given)
    return get(tx.conn, body["id"])


def get(conn: sa.Connection, id: str) -> JSON:
    """Return a vector store. Raises Refused."""
    body = store.get(conn, files.vector_stores, id)
    if body is None:
        raise no_such_store(id)
    [counted] = with_counts(conn, [body])
    return counted


def with_counts(conn: sa.Connection, bodies: Sequence[JSON]) -> list[JSON]:
    """Return vector stores in their current state, with their file counts."""
    column = files.vector_store_files.c.vector_store_id
    counts = files.file_counts(conn, column, [body["id"] for body in bodies])
    return [_counted(body, counts[body["id"]]) for body in bodies]


def _counted(body: JSON, counts: JSON) -> JSON:
    used = counts.pop("usage_bytes")
    is_expired = body["status"] == "expired" or (body["expires_at"] or store.now() + 1) <= store.now()
    status = "expired" if is_expired else "in_progress" if counts["in_progress"] else "completed"
    return body | {"usage_bytes": 0 if is_expired else used, "file_counts": counts, "status": status}


def update(tx: Transaction, id: str, change: JSON) -> JSON:
    """Change fields of a vector store."""
    body = store.get(tx.conn, files.vector_stores, id, lock=True)
    if body is None:
        raise no_such_store(id)
    body |= {name: value if name != "metadata" else value or {} for name, value in change.items()}
    _set_expiry(body)
    store.put(tx.conn, files.vector_stores, body)
    return get(tx.conn, id)


def _set_expiry(body: JSON) -> None:
    after = body["expires_after"]
    body["expires_at"] = body["last_active_at"] + after["days"] * _DAY if after else None


def touch(tx: Transaction, ids: Sequence[str]) -> None:
    """Record that vector stores are in use, which postpones their expiry."""
    now = store.now()
    for id in ids:
        body = store.get(tx.conn, files.vector_stores, id, lock=True)
        if body is not None and now - body["last_active_at"] >= _TOUCH_SECONDS:
            body["last_active_at"] = now
            _set_expiry(body)
            store.put(tx.conn, files.vector_stores, body)


def check_usable(conn: sa.Connection, ids: Sequence[str]) -> None:
    """Raise Refused for vector stores that don't exist or have expired."""
    for id in ids:
        if get(conn, id)["status"] == "expired":
            raise Refused(
                f"Vector store {id} is expired.", param="vector_store_id", code="vector_store_expired"
            )


def add_files(
    tx: Transaction, store_id: str, given: Sequence[JSON], batch_id: str | None = None
) -> list[JSON]:
    """Add files to a vector store, to be ingested. Files that it already contains are ingested again."""
    check_usable(tx.conn, [store_id])
    if unknown := files.unknown_files(tx.conn, [each["file_id"] for each in given]):
        raise Refused(f"No such File object: {unknown[0]}", status=404, param="file_id")
    added = []
    for each in given:
        body = VectorStoreFileObject.new(
            id=each["file_id"],
            created_at=store.now(),
            vector_store_id=store_id,
            chunking_strategy=each.get("chunking_strategy") or AUTO_CHUNKING,
            attributes=each.get("attributes") or {},
        )
        files.remove(tx, store_id, each["file_id"])
        store.add(tx.conn, files.vector_store_files, body, batch_id=batch_id)
        added.append(body)
    touch(tx, [store_id])
    return added


def get_file(conn: sa.Connection, store_id: str, file_id: str) -> JSON:
    """Return a file of a vector store. Raises Refused."""
    get(conn, store_id)
    body = store.get(conn, files.vector_store_files, file_id, vector_store_id=store_id)
    if body is None:
        raise Refused(f"No file found with id '{file_id}' in vector store '{store_id}'.", status=404)
    return body


def update_file(tx: Transaction, store_id: str, file_id: str, attributes: JSON) -> JSON:
    """Replace the attributes of a file of a vector store."""
    body = get_file(tx.conn, store_id, file_id) | {"attributes": attributes}
    table = files.vector_store_files
    owner = store.matches(table, {"vector_store_id": store_id, "id": file_id})
    tx.conn.execute(sa.update(table).where(*owner).values(body=body))
    files.count_change(tx, store_id)
    return body


def texts_of(conn: sa.Connection, store_id: str, file_id: str) -> list[str]:
    """Return the texts of a file's passages, in order."""
    table = files.passages
    owner = store.matches(table, {"vector_store_id": store_id, "file_id": file_id})
    return list(conn.scalars(sa.select(table.c.text).where(*owner).order_by(table.c.number)))


def create_batch(tx: Transaction, store_id: str, params: JSON) -> JSON:
    """Add many files to a vector store."""
    if (params.get("file_ids") is None) == (params.get("files") is None):
        raise Refused("Pass either 'file_ids' or 'files'.", param="file_ids", code="invalid_value")
    shared = {name: params.get(name) for name in ("attributes", "chunking_strategy")}
    given = params.get("files") or [{"file_id": id, **shared} for id in params["file_ids"]]
    given = list({each["file_id"]: each for each in given}.values())
    id = objects.new_id("vsfb")
    body = FileBatchObject.new(
        id=id, created_at=store.now(), status="in_progress", vector_store_id=store_id, file_counts={}
    )
    add_files(tx, store_id, given, id)
    store.add(tx.conn, files.file_batches, body)
    return get_batch(tx.conn, store_id, id)


def get_batch(conn: sa.Connection, store_id: str, id: str) -> JSON:
    """Return a batch of files. Raises Refused."""
    get(conn, store_id)
    body = store.get(conn, files.file_batches, id, vector_store_id=store_id)
    if body is None:
        raise Refused(f"No file batch found with id '{id}' in vector store '{store_id}'.", status=404)
    counts = files.file_counts(conn, files.vector_store_files.c.batch_id, [id])[id]
    del counts["usage_bytes"]
    status = body["status"]
    if status == "in_progress" and not counts["in_progress"]:
        status = "completed"
    return body | {"status": status, "file_counts": counts}


def cancel_batch(tx: Transaction, store_id: str, id: str) -> JSON:
    """Cancel the files of a batch that are not ingested yet."""
    batch = get_batch(tx.conn, store_id, id)
    if batch["status"] != "in_progress":
        raise Refused(f"Cannot cancel a file batch with status '{batch['status']}'.")
    table = files.vector_store_files
    waiting = sa.select(table.c.body).where(table.c.batch_id == id, table.c.status == "in_progress")
    for body in list(tx.conn.scalars(waiting.with_for_update())):
        files.delete_passages(tx, store_id, body["id"])
        store.patch(tx.conn, table, body["id"], {"status": "cancelled"}, vector_store_id=store_id)
    store.patch(tx.conn, files.file_batches, id, {"status": "cancelled"})
    return get_batch(tx.conn, store_id, id)


def no_such_store(id: str) -> Refused:
    """Return the error for an unknown id of a vector store."""
    return Refused(f"No vector store found with id '{id}'.", status=404)
