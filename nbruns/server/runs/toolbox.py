"""The services that runs use in addition to the database: files, vector stores, and the context of hosted tools."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO, Any

import sqlalchemy as sa

from nbruns.server.hosted import Executed
from nbruns.server.interpreter.sandbox import DATA
from nbruns.server.interpreter.sessions import Image, Input, Interpreter
from nbruns.server.retrieval import vector_stores
from nbruns.server.retrieval.embeddings import EmbeddingError
from nbruns.server.retrieval.index import Index, Result, WrongModelError
from nbruns.server.retrieval.ingestion import Ingester
from nbruns.server.schemas import objects
from nbruns.server.schemas.errors import Refused
from nbruns.server.schemas.files import FileObject, file_name
from nbruns.server.storage import files, store
from nbruns.server.storage.blobs import Blobs, NoSpace
from nbruns.server.storage.database import Database
from nbruns.text import JSON

#: Maximum number of seconds that a search waits for ingestion: programs attach a file and ask about it immediately.
WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Toolbox:
    """The services of the server for runs."""

    index: Index
    ingester: Ingester
    blobs: Blobs
    interpreter: Interpreter | None = None


@dataclass(frozen=True)
class HostedContext:
    """The services that a call of a hosted tool can use."""

    db: Database
    toolbox: Toolbox | None
    run: JSON
    #: Type of the tool.
    type: str
    number: int = 0
    #: The details of the call in the run step.
    details: JSON = field(default_factory=dict)

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

    def warm(self) -> None:
        """Prepare a session for code that will be executed soon."""
        if self.toolbox is not None and self.toolbox.interpreter is not None:
            self.toolbox.interpreter.warm(self._session)

    async def execute(self, code: str) -> Executed:
        """Execute Python in the session of the run's thread and assistant."""
        if self.toolbox is None or self.toolbox.interpreter is None:
            raise ValueError("This server doesn't run Python now.")
        earlier = await self.db.read(store.hosted_calls_of, self.run, self.type)
        written = {path: id for call in earlier for path, id in call.get("paths", {}).items()}
        names = await self.db.read(_names, self.run, self.type, [*written.values()])
        inputs = [self._input(id, name) for id, name in names.items() if id not in written.values()]
        again = [
            self._input(id, posixpath.relpath(path, DATA)) for path, id in written.items() if id in names
        ]
        done = await self.toolbox.interpreter.execute(self._session, code, inputs, again)
        notes = list(done.notes)
        if done.is_new and earlier:
            notes.insert(
                0,
                "A new session was started: variables and imports of earlier calls are gone, and the files that they "
                f"wrote are in {DATA} again.",
            )
        outputs: list[JSON] = []
        made: list[JSON] = []
        paths: dict[str, str] = {}
        try:
            for output in done.outputs:
                if isinstance(output, Image):
                    name = f"image-{self.number + 1}-{len(made) + 1}.{output.type.partition('/')[2]}"
                    made.append(await self._stored(name, BytesIO(output.data)))
                    outputs.append({"type": "image", "image": {"file_id": made[-1]["id"]}})
                else:
                    outputs.append({"type": "logs", "logs": output})
            for file in done.files:
                made.append(await self._stored(posixpath.basename(file.path), file.content))
                paths[file.path] = made[-1]["id"]
        except NoSpace:
            notes.append("There is no space left on the server for files: not all of them are kept.")
        finally:
            for file in done.files:
                file.content.close()
        return Executed(outputs, notes, made, paths)

    @property
    def _session(self) -> tuple[str, str]:
        return self.run["thread_id"], self.run["assistant_id"]

    def _input(self, id: str, path: str) -> Input:
        assert self.toolbox is not None
        blobs = self.toolbox.blobs

        def read() -> AsyncIterator[bytes]:
            return blobs.read(id)

        return Input(id, path, read)

    async def _stored(self, name: str, content: IO[bytes]) -> JSON:
        """Store the bytes of a file. Return its object, which is stored later, together with the call's result."""
        assert self.toolbox is not None
        id = objects.new_id("file", "-")
        size, _ = await self.toolbox.blobs.write(id, [content])
        return FileObject.new(
            id=id, purpose="assistants_output", filename=file_name(name), bytes=size, created_at=store.now()
        )

    async def _ingested(self, ids: Sequence[str]) -> None:
        """Wait for files that are being ingested, for at most WAIT_SECONDS."""
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


def resource_files(conn: sa.Connection, run: JSON) -> dict[str, list[str]]:
    """Return the ids of the files in the `tool_resources` of a run (or its assistant) and of its thread, by type of
    tool."""
    thread = store.get(conn, store.threads, run["thread_id"]) or {}
    found: dict[str, list[str]] = {}
    for resources in (run["tool_resources"], thread.get("tool_resources")):
        for type, given in (resources or {}).items():
            if isinstance(given, dict):
                found.setdefault(type, []).extend(given.get("file_ids") or ())
    return found


def _names(conn: sa.Connection, run: JSON, type: str, more: Sequence[str]) -> dict[str, str]:
    """Return the names of a tool's existing files, and of `more` files, by id."""
    ids = dict.fromkeys([*resource_files(conn, run).get(type, ()), *more])
    gone = files.unknown_files(conn, ids)
    known = files.filenames(conn, ids)
    return {id: known[id] for id in ids if id not in gone}


def _is_ingesting(conn: sa.Connection, ids: Sequence[str]) -> bool:
    table = files.vector_store_files.c
    query = sa.select(table.seq).where(table.vector_store_id.in_(ids), table.status == "in_progress")
    return conn.scalar(query.limit(1)) is not None
