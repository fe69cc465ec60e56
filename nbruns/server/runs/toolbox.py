"""What runs use of the server beside the database: files, vector stores, and what hosted tools may do with them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from nbruns.server.retrieval import vector_stores
from nbruns.server.retrieval.embeddings import EmbeddingError
from nbruns.server.retrieval.index import Index, Result, WrongModelError
from nbruns.server.retrieval.ingestion import Ingester
from nbruns.server.schemas.errors import Refused
from nbruns.server.storage import files, store
from nbruns.server.storage.blobs import Blobs
from nbruns.server.storage.database import Database
from nbruns.text import JSON

#: So long a search waits for files that are being ingested: programs attach a file and ask about it at once.
WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Toolbox:
    """What the server has for runs."""

    index: Index
    ingester: Ingester
    blobs: Blobs


@dataclass(frozen=True)
class HostedContext:
    """What a call of a hosted tool may use."""

    db: Database
    toolbox: Toolbox | None
    run: JSON
    number: int
    details: JSON

    async def search(self, queries: Sequence[str], limit: int, ranking: JSON) -> list[Result]:
        """Search the vector stores of the run's assistant and thread."""
        ids = await self.db.read(_store_ids, self.run)
        if not ids or self.toolbox is None:
            raise ValueError("there are none: neither the assistant nor the thread has a vector store.")
        await self._ingested(ids)
        try:
            await self.db.read(vector_stores.check_usable, ids)
            found = await self.toolbox.index.search(ids, queries, limit=limit, ranking=ranking)
        except (Refused, WrongModelError, EmbeddingError) as error:
            raise ValueError(str(error)) from error
        await self.db.write(vector_stores.touch, ids)
        return found

    async def _ingested(self, ids: Sequence[str]) -> None:
        """Wait for files that are being ingested, but not for ever."""
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
        while await self.db.read(_is_ingesting, ids) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.1)


def _store_ids(conn: sa.Connection, run: JSON) -> list[str]:
    """Return the vector stores of a run: its own or the assistant's, then the thread's."""
    thread = store.get(conn, store.threads, run["thread_id"]) or {}
    found: list[str] = []
    for resources in (run["tool_resources"], thread.get("tool_resources")):
        searched: Any = (resources or {}).get("file_search") or {}
        found += searched.get("vector_store_ids") or []
    return list(dict.fromkeys(found))


def _is_ingesting(conn: sa.Connection, ids: Sequence[str]) -> bool:
    table = files.vector_store_files.c
    query = sa.select(table.seq).where(table.vector_store_id.in_(ids), table.status == "in_progress")
    return conn.scalar(query.limit(1)) is not None
