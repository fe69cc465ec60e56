"""Operations: their registry, their arguments, and common handlers to list, get, update and delete objects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Table
from starlette.datastructures import UploadFile
from starlette.responses import Response, StreamingResponse

from nbruns.server.middleware import RequestContext
from nbruns.server.models import Models
from nbruns.server.retrieval import resources
from nbruns.server.schemas.base import NoQuery, Object, Schema
from nbruns.server.schemas.errors import Refused, not_found
from nbruns.server.storage import store
from nbruns.server.storage.blobs import Blobs
from nbruns.server.storage.database import Database, Transaction, encode
from nbruns.server.telemetry import Telemetry
from nbruns.text import JSON

if TYPE_CHECKING:
    from nbruns.server.interpreter.sessions import Interpreter
    from nbruns.server.retrieval.index import Index
    from nbruns.server.retrieval.ingestion import Ingester
    from nbruns.server.runs.engine import Engine
    from nbruns.server.runs.streams import RunStreams


@dataclass(frozen=True)
class Services:
    """The parts of the server that routes use."""

    db: Database
    engine: Engine
    streams: RunStreams
    models: Models
    blobs: Blobs
    index: Index
    ingester: Ingester
    interpreter: Interpreter | None
    telemetry: Telemetry


@dataclass(frozen=True)
class Call:
    """A request for a route. Its query and its body (`params`) are validated."""

    services: Services
    path: Mapping[str, str]
    query: JSON
    headers: Mapping[str, str]
    params: JSON
    #: Files in a form, by the names of their fields.
    uploads: Mapping[str, UploadFile]
    context: RequestContext

    @property
    def db(self) -> Database:
        return self.services.db

    @property
    def thread_id(self) -> str:
        return self.path["thread_id"]

    def file(self, name: str) -> UploadFile:
        """Return the file in this field of the form."""
        if name not in self.uploads:
            raise Refused(f"'{name}' is a required property", param=name)
        return self.uploads[name]

    @property
    def run_id(self) -> str:
        return self.path["run_id"]


Handler = Callable[[Call], Awaitable[JSON | Response]]


@dataclass(frozen=True)
class Operation:
    """An operation: its method, path and schemas.

    Requests are validated against it, and it appears in /openapi.json.
    """

    method: str
    path: str
    handler: Handler
    #: Schema of the response; None for a stream.
    answer: type[Object] | None
    body: type[Schema] | None = None
    query: type[Schema] = NoQuery
    #: For a form: the schema of its other fields, the name of the file's field, and the file's maximum size in bytes.
    form: type[Schema] | None = None
    form_file: str = "file"
    max_form_bytes: int = 0
    #: Media type of a stream.
    media_type: str = "text/event-stream"
    #: Whether the whole list is sent as JSON lines if the request accepts them.
    lines: bool = False

    @property
    def streams(self) -> bool:
        """Whether the response can be an event stream."""
        return self.body is not None and "stream" in self.body.model_fields


#: All operations, in the order of their definition.
OPERATIONS: list[Operation] = []


def operation(
    method: str,
    path: str,
    answer: type[Object] | None,
    body: type[Schema] | None = None,
    query: type[Schema] = NoQuery,
    *,
    form: type[Schema] | None = None,
    form_file: str = "file",
    max_form_bytes: int = 0,
    media_type: str = "text/event-stream",
    lines: bool = False,
) -> Callable[[Handler], Handler]:
    """Register the decorated function as the handler of an operation, which has the function's name."""

    def register(handler: Handler) -> Handler:
        OPERATIONS.append(
            Operation(
                method,
                path,
                handler,
                answer,
                body,
                query,
                form,
                form_file,
                max_form_bytes,
                media_type,
                lines,
            )
        )
        return handler

    return register


#: Milliseconds between two polls of an object, as suggested to clients.
POLL_AFTER_MS = "250"


def polled(payload: JSON) -> Response:
    """Return the response with an object that clients poll, with the suggested poll interval."""
    return Response(encode(payload), 200, {"openai-poll-after-ms": POLL_AFTER_MS}, "application/json")


async def list_objects(call: Call, table: Table, where: Mapping[str, str | None] | None = None) -> JSON:
    """Return a page of a table's objects. Filters that are None are ignored."""
    filters = {name: value for name, value in (where or {}).items() if value}
    return page_of(*await call.db.read(store.listed, table, asked_page(call), filters))


def asked_page(call: Call) -> store.Page:
    """Return the page of a list that the request asks for."""
    return store.Page(**{name: call.query[name] for name in ("limit", "order", "after", "before")})


def page_of(items: list[JSON], has_more: bool) -> JSON:
    """Return a page of a list as the API's JSON."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


#: Media type of JSON lines.
JSON_LINES = "application/jsonl"
#: Number of objects per query, so that no list is in memory as a whole.
_LINES_AT_ONCE = 500


async def list_objects_or_lines(
    call: Call, table: Table, where: Mapping[str, str | None] | None = None
) -> JSON | Response:
    """Return a page, or if the request accepts JSON lines, the whole list after `after` in this form."""
    if JSON_LINES not in call.headers.get("accept", "") or call.query["before"]:
        return await list_objects(call, table, where)
    filters = {name: value for name, value in (where or {}).items() if value}
    order, after = call.query["order"], call.query["after"]
    # Read the first part before the response begins, so that errors are sent as error responses.
    first = await call.db.read(store.bodies, table, filters, order, after, _LINES_AT_ONCE)

    async def lines() -> AsyncIterator[bytes]:
        texts, last = first
        while texts:
            yield ("\n".join(texts) + "\n").encode()
            if last is None:
                break
            texts, last = await call.db.read(store.bodies, table, filters, order, last, _LINES_AT_ONCE)

    return StreamingResponse(lines(), media_type=JSON_LINES)


async def get_object(call: Call, table: Table, noun: str, id: str, **owner: str) -> JSON:
    """Return an object that belongs to `owner` (thread_id=…, run_id=…). Raises Refused if it doesn't exist."""
    found = await call.db.read(store.get, table, id, **owner)  # type: ignore[arg-type]  # `owner` never contains "lock"
    if found is None:
        raise not_found(noun, id)
    return found


async def change_object(call: Call, table: Table, noun: str, id: str, change: JSON, **owner: str) -> JSON:
    """Change fields of an object, and return it. Raises Refused if it doesn't exist."""

    def patch(tx: Transaction) -> JSON | None:
        resolved = change
        if change.get("tool_resources"):
            resolved = change | {"tool_resources": resources.resolve(tx, change["tool_resources"])}
        return store.patch(tx.conn, table, id, resolved, **owner)

    changed = await call.db.write(patch)
    if changed is None:
        raise not_found(noun, id)
    if change.get("tool_resources"):
        call.services.ingester.wake()
    return changed


async def delete_object(call: Call, table: Table, noun: str, id: str, **owner: str) -> None:
    """Delete an object. Raises Refused if it doesn't exist."""
    if not await call.db.write(lambda tx: store.delete(tx.conn, table, id, **owner)):
        raise not_found(noun, id)
