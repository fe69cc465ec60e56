"""Batches of runs, and reading the objects of many runs or threads in one request."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import sqlalchemy as sa
from starlette.responses import Response, StreamingResponse

from nbruns.server.hosted import without_content
from nbruns.server.routes.operation import JSON_LINES, Call, operation
from nbruns.server.routes.runs import check_run
from nbruns.server.runs import batches
from nbruns.server.schemas.batches import (
    BulkRequest,
    ListOfRunsOfBatch,
    RunBatchObject,
    RunBatchRequest,
)
from nbruns.server.schemas.errors import Refused, not_found
from nbruns.server.storage import store
from nbruns.server.storage.database import encode
from nbruns.text import JSON

_BATCH = "/v1/run_batches/{batch_id}"
#: Number of ids per query of the database.
_AT_ONCE = 100
_TABLES: dict[str, sa.Table] = {
    "thread.run": store.runs,
    "thread.run.step": store.steps,
    "thread.message": store.messages,
}


@operation("POST", "/v1/run_batches", RunBatchObject, RunBatchRequest)
async def add_to_run_batch(call: Call) -> JSON:
    """Create a batch or find the one with that name, set its limits, and add the runs whose keys are new."""
    checked: set[tuple[str, str]] = set()
    for params in call.params.get("runs") or []:
        kind = (
            params["assistant_id"],
            encode([params.get(name) for name in ("model", "tools", "tool_choice")]),
        )
        if kind not in checked:
            await check_run(call, params)
            checked.add(kind)
    return await call.services.engine.add_to_batch(call.params)


@operation("GET", _BATCH, RunBatchObject)
async def get_run_batch(call: Call) -> JSON:
    return await _batch(call)


@operation("GET", _BATCH + "/runs", ListOfRunsOfBatch)
async def list_runs_of_batch(call: Call) -> JSON:
    """Return id, thread, status and turn of all runs of a batch, in the order in which they were added."""
    batch = await _batch(call)
    return {"object": "list", "data": await call.db.read(batches.runs_of, batch["id"])}


@operation("POST", _BATCH + "/cancel", RunBatchObject)
async def cancel_run_batch(call: Call) -> JSON:
    """Cancel the runs that have not started. The others continue."""
    batch = await _batch(call)
    return await call.db.write(batches.cancel_waiting, batch["id"])


@operation("POST", "/v1/bulk", None, BulkRequest, media_type=JSON_LINES)
async def read_bulk(call: Call) -> Response:
    """Return runs, steps or messages of many runs or threads as JSON lines."""
    given = [name for name in ("run_ids", "thread_ids") if call.params.get(name) is not None]
    if len(given) != 1:
        raise Refused("Pass either 'run_ids' or 'thread_ids'.", param="run_ids", code="invalid_value")
    kind = call.params["object"]
    owner = given[0].removesuffix("s")
    column = "id" if (kind, owner) == ("thread.run", "run_id") else owner
    ids = list(dict.fromkeys(call.params[given[0]]))
    present = await call.db.read(store.present, store.runs if owner == "run_id" else store.threads, ids)
    for id in ids:
        if id not in present:
            refusal = not_found(owner.removesuffix("_id"), id)
            # The code distinguishes the error from that of a server without this operation.
            raise Refused(str(refusal), status=404, param=given[0], code="not_found")

    async def lines() -> AsyncIterator[bytes]:
        for at in range(0, len(ids), _AT_ONCE):
            after: int | None = None
            while True:
                some = ids[at : at + _AT_ONCE]
                texts, after = await call.db.read(store.bodies_of, _TABLES[kind], column, some, after)
                if texts:
                    yield "".join(f"{_shown(text, kind)}\n" for text in texts).encode()
                if after is None:
                    break

    return StreamingResponse(lines(), media_type=JSON_LINES)


def _shown(text: str, kind: str) -> str:
    if kind == "thread.run.step" and "file_search" in text:  # the content of results is only shown on request
        return encode(without_content(json.loads(text)))
    return text


async def _batch(call: Call) -> JSON:
    id = call.path["batch_id"]
    batch = await call.db.read(batches.get, id)
    if batch is None:
        raise not_found("run batch", id)
    return batch
