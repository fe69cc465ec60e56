"""Ingestion: convert files to passages of vector stores, in the background.

The database is the queue: it contains the files of vector stores with the status `in_progress`. A server that was
killed continues at its next start, or on PostgreSQL, another server takes over. The passages of a file become
searchable when all of them are stored. Passages of an interrupted attempt are deleted first.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from nbruns.server.limited_process import LimitExceeded, Processes
from nbruns.server.retrieval import extract
from nbruns.server.retrieval.embeddings import BATCH, Embedder, EmbeddingError
from nbruns.server.storage import files, store
from nbruns.server.storage.blobs import Blobs, NoSpace
from nbruns.server.storage.database import Database, Transaction
from nbruns.text import JSON, excerpt

Array = NDArray[np.float32]

#: Maximum number of files that a server ingests concurrently.
CONCURRENT = 2
#: Number of interrupted attempts after which a file is `failed`.
MAX_ATTEMPTS = 3
#: Maximum number of seconds and bytes of memory for parsing a file.
PARSE_SECONDS, PARSE_MEMORY_BYTES = 120.0, 3 * 1024**3
#: Seconds between two checks of the database for files left by other servers and for expired objects.
SWEEP_SECONDS = 1.0
#: Seconds until the next attempt after an error of the server.
RETRY_SECONDS = 2.0
#: Number of passages per write.
_GROUP = 100

log = logging.getLogger(__name__)


class Passage(NamedTuple):
    """A passage of a file: the indexes of its first and last piece, and its words."""

    first: int
    last: int
    words: bytes


class Rejected(Exception):
    """A file can't be ingested. `error` becomes its `last_error`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message}


class _Lost(Exception):
    """The file was removed, cancelled, or taken over by another server."""


class Ingester:
    """Ingests the files of vector stores, from `start()` to `stop()`, and deletes expired files and stores."""

    def __init__(self, db: Database, blobs: Blobs, embedder: Embedder | None) -> None:
        self._db, self._blobs, self._embedder = db, blobs, embedder
        self._parsers = Processes(
            seconds=PARSE_SECONDS, memory_bytes=PARSE_MEMORY_BYTES, count=CONCURRENT, is_background=True
        )
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._woken = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Continue unfinished files, then wait for new ones."""
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Stop. Unfinished files are ingested by another server, or after the next start."""
        tasks = [*self._tasks.values(), *([self._sweeping] if self._sweeping else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._parsers.close()
        if self._embedder is not None:
            await self._embedder.close()

    def wake(self) -> None:
        """Check for files immediately."""
        self._woken.set()

    async def _sweep(self) -> None:
        orphans_deleted = False
        while True:
            self._woken.clear()
            try:
                await self._begin_waiting()
                await delete_expired(self._db, self._blobs)
                if not orphans_deleted:
                    await self._blobs.delete_orphans(lambda ids: self._db.read(files.rows_of_blobs, ids))
                    orphans_deleted = True
            except Exception:
                log.exception("The files to be ingested could not be looked for; trying again.")
            try:
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _begin_waiting(self) -> None:
        if len(self._tasks) >= CONCURRENT:
            return
        for work in await self._db.read(files.waiting, self._db.worker):
            key = work.vector_store_id, work.file_id
            if len(self._tasks) < CONCURRENT and key not in self._tasks:
                task = self._tasks[key] = asyncio.create_task(self._ingest(work))
                task.add_done_callback(partial(self._ended, key))

    def _ended(self, key: tuple[str, str], _: asyncio.Task[None]) -> None:
        del self._tasks[key]
        self.wake()

    async def _ingest(self, work: files.Ingestion) -> None:
        store_id, file_id = work.vector_store_id, work.file_id
        try:
            if not await self._db.write(files.claim, work):
                return
            try:
                if work.attempts >= MAX_ATTEMPTS:
                    why = f"The server was cut off or failed {MAX_ATTEMPTS} times while it read the file."
                    raise Rejected("server_error", why)
                size = await self._store_passages(store_id, file_id)
                await self._db.write(_complete, store_id, file_id, size)
            except Rejected as rejected:
                await self._db.write(_fail, store_id, file_id, rejected.error)
            except _Lost:
                pass
        except asyncio.CancelledError:
            await self._db.write(files.unclaim, store_id, file_id)
            raise
        except Exception as error:
            known = {"known": {"file_id": file_id}}
            log.exception("A file could not be ingested; trying again.", extra=known)
            await asyncio.sleep(RETRY_SECONDS)
            if isinstance(error, NoSpace | sa.exc.OperationalError):
                # The disk is full or the database is not available: leave the file for a later attempt.
                with contextlib.suppress(sa.exc.DBAPIError):
                    await self._db.write(files.unclaim, store_id, file_id)

    async def _store_passages(self, store_id: str, file_id: str) -> int:
        """Read a file and store its passages; return their size in bytes."""
        found = await self._db.read(_file_of, store_id, file_id)
        if found is None:
            raise Rejected("server_error", "The file was deleted before it was read.")
        filename, chunking = found
        await self._check_embedding(store_id)
        with tempfile.TemporaryDirectory(prefix="nbruns-") as folder:
            pieces, passages = await self._parsed(file_id, filename, chunking, Path(folder))
        vectors = await self._embedded(store_id, file_id, pieces) if self._embedder is not None else None
        if vectors is not None:
            await self._check_width(store_id, vectors.shape[1])
        rows = _rows(store_id, file_id, passages, pieces, vectors)
        size = 0
        while group := await asyncio.to_thread(list, islice(rows, _GROUP)):
            size += sum(len(row["text"].encode()) + len(row["vector"] or b"") for row in group)
            await self._db.write(_add_passages, store_id, file_id, group)
        return size

    async def _check_embedding(self, store_id: str) -> None:
        """Record the embedding model of a new store. Refuse files for stores built with another model."""
        name = self._embedder.name if self._embedder is not None else None
        recorded = await self._db.write(_record_embedding, store_id, name)
        if recorded != name:
            raise Rejected(
                "server_error",
                f"The vector store was built with the embedding model {recorded!r}, and this server has {name!r}. "
                "Start the server with that model, or create a new store from the files.",
            )

    async def _check_width(self, store_id: str, width: int) -> None:
        """Refuse vectors whose length differs from the store's, because different models can have the same name."""
        recorded = await self._db.read(_width, store_id)
        if recorded not in (None, width):
            raise Rejected(
                "server_error",
                f"The embedding model returns {width:,} numbers for a text, and the vector store was built with "
                f"{recorded:,}. Start the server with that model, or create a new store from the files.",
            )

    async def _parsed(
        self, file_id: str, filename: str, chunking: JSON, folder: Path
    ) -> tuple[list[str], list[Passage]]:
        # Parsers detect the type by the suffix.
        source, target = folder / f"source{PurePath(filename).suffix[:20]}", folder / "passages"
        try:
            await self._blobs.copy(file_id, source)
            answer = await self._parsers.call(
                "nbruns.server.retrieval.extract:extract",
                *(str(source), filename, str(target)),
                *(chunking["max_chunk_size_tokens"], chunking["chunk_overlap_tokens"]),
            )
        except FileNotFoundError:
            raise Rejected("server_error", "The file was deleted before it was read.") from None
        except LimitExceeded as error:
            raise Rejected("invalid_file", f"Reading the file took too much ({error}). Split it.") from None
        except RuntimeError as error:
            raise Rejected("invalid_file", f"The file can't be read: {excerpt(error)}") from None
        if answer.get("code") == extract.NO_SPACE:
            raise NoSpace
        if "message" in answer:
            raise Rejected(answer["code"], answer["message"])
        return await asyncio.to_thread(_read_lines, target, answer["pieces"])

    async def _embedded(self, store_id: str, file_id: str, pieces: list[str]) -> Array:
        assert self._embedder is not None
        found = []
        try:
            for start in range(0, len(pieces), BATCH):
                found.append(await self._embedder.embed(pieces[start : start + BATCH]))
                if not await self._db.read(files.is_mine, self._db.worker, store_id, file_id):
                    raise _Lost
        except EmbeddingError as error:
            raise Rejected("server_error", f"The text could not be embedded: {excerpt(error)}") from None
        return np.concatenate(found)


async def delete_expired(db: Database, blobs: Blobs) -> None:
    """Delete expired files and parts of uploads, and the passages of expired vector stores."""
    for id in await db.read(files.expired, files.files):
        if await db.write(files.delete_file, id):
            await blobs.delete([id])
    for id in await db.read(files.expired, files.uploads):
        await blobs.delete(await db.write(_expire_upload, id))
    for id in await db.read(files.expired, files.vector_stores):
        await db.write(_expire_vector_store, id)


def _file_of(conn: sa.Connection, store_id: str, file_id: str) -> tuple[str, JSON] | None:
    """Return the name of a file, and its chunking strategy in a store."""
    file = store.get(conn, files.files, file_id)
    entry = store.get(conn, files.vector_store_files, file_id, vector_store_id=store_id)
    return None if file is None or entry is None else (file["filename"], entry["chunking_strategy"]["static"])


def _read_lines(file: Path, pieces: int) -> tuple[list[str], list[Passage]]:
    with file.open() as lines:
        texts: list[str] = [json.loads(line) for line in islice(lines, pieces)]
        spans = (json.loads(line) for line in lines)
        return texts, [Passage(first, last, base64.b64decode(words)) for first, last, words in spans]


def _rows(
    store_id: str, file_id: str, passages: Iterable[Passage], pieces: list[str], vectors: Array | None
) -> Iterator[JSON]:
    for number, (first, last, words) in enumerate(passages):
        vector = None
        if vectors is not None:
            lengths = np.array([len(piece) for piece in pieces[first : last + 1]], np.float32)
            mean = lengths @ vectors[first : last + 1]
            vector = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype("<f4").tobytes()
        yield {
            "vector_store_id": store_id,
            "file_id": file_id,
            "number": number,
            "text": "".join(pieces[first : last + 1]).strip(),
            "vector": vector,
            "words": words,
        }


def _record_embedding(tx: Transaction, store_id: str, name: str | None) -> str | None:
    table = files.vector_stores
    query = sa.select(table.c.embedding).where(table.c.id == store_id).with_for_update()
    recorded: str | None = tx.conn.scalar(query)
    passages = sa.select(files.passages.c.seq).where(files.passages.c.vector_store_id == store_id).limit(1)
    if recorded != name and tx.conn.scalar(passages) is None:
        tx.conn.execute(sa.update(table).where(table.c.id == store_id).values(embedding=name))
        return name
    return recorded


def _width(conn: sa.Connection, store_id: str) -> int | None:
    table = files.passages.c
    query = sa.select(table.vector).where(table.vector_store_id == store_id, table.vector.is_not(None))
    vector: bytes | None = conn.scalar(query.limit(1))
    return None if vector is None else len(vector) // 4


def _add_passages(tx: Transaction, store_id: str, file_id: str, rows: list[JSON]) -> None:
    if not files.is_mine(tx.conn, tx.worker, store_id, file_id, lock=True):
        raise _Lost
    if rows[0]["number"] == 0:  # delete passages of an interrupted attempt
        files.delete_passages(tx, store_id, file_id)
    tx.conn.execute(sa.insert(files.passages), rows)


def _complete(tx: Transaction, store_id: str, file_id: str, size: int) -> None:
    if files.is_mine(tx.conn, tx.worker, store_id, file_id, lock=True):
        change = {"status": "completed", "usage_bytes": size}
        store.patch(tx.conn, files.vector_store_files, file_id, change, vector_store_id=store_id)
        files.count_change(tx, store_id)


def _fail(tx: Transaction, store_id: str, file_id: str, error: JSON) -> None:
    if files.is_mine(tx.conn, tx.worker, store_id, file_id, lock=True):
        files.delete_passages(tx, store_id, file_id)
        change = {"status": "failed", "last_error": error}
        store.patch(tx.conn, files.vector_store_files, file_id, change, vector_store_id=store_id)


def _expire_upload(tx: Transaction, id: str) -> list[str]:
    upload = store.get(tx.conn, files.uploads, id, lock=True)
    if upload is None or upload["status"] != "pending":
        return []
    store.put(tx.conn, files.uploads, upload | {"status": "expired"})
    return files.delete_upload(tx, id)


def _expire_vector_store(tx: Transaction, id: str) -> None:
    table = files.vector_stores
    of_store = {"vector_store_id": id}
    waiting = sa.select(files.vector_store_files.c.id).where(
        *store.matches(files.vector_store_files, of_store), files.vector_store_files.c.status == "in_progress"
    )
    for file_id in list(tx.conn.scalars(waiting.with_for_update())):
        error = {"code": "server_error", "message": "The vector store expired before the file was read."}
        change = {"status": "failed", "last_error": error}
        store.patch(tx.conn, files.vector_store_files, file_id, change, **of_store)
    tx.conn.execute(sa.delete(files.passages).where(*store.matches(files.passages, of_store)))
    files.count_change(tx, id)
    body = store.get(tx.conn, table, id, lock=True)
    if body is not None:
        # Clear the column, so that the store is not expired again. The object keeps the time.
        tx.conn.execute(
            sa.update(table)
            .where(table.c.id == id)
            .values(body=body | {"status": "expired"}, expires_at=None)
        )
