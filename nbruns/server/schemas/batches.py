"""Batches of runs, and reading many objects at once. Both are extensions of the API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from nbruns.server.schemas.base import Chars, Count, Id, Object, Schema, Time, given
from nbruns.server.schemas.runs import CreateThreadAndRunRequest, RunStatus

#: Maximum number of runs that a request adds, and of ids that a request reads.
MAX_RUNS, MAX_IDS = 1_000, 1_000

_Key = Annotated[str, Chars(64, 1, "[A-Za-z0-9_-]+", "letters, digits, _ and - only")]


class BatchRun(CreateThreadAndRunRequest):
    """A run of a batch. `key` names it there: a batch has one run for each key."""

    key: _Key


class RunBatchRequest(Schema):
    name: Id
    concurrency: Annotated[int, Field(ge=1, le=1_000)] = 8
    runs_per_minute: Annotated[int, Field(ge=1, le=100_000)] | None = None
    runs: Annotated[list[Annotated[BatchRun, AfterValidator(given)]], Field(max_length=MAX_RUNS)] | None = (
        None
    )


class RunBatchObject(Object):
    id: str
    object: Literal["run_batch"] = "run_batch"
    created_at: Time
    name: str
    concurrency: Count
    runs_per_minute: Count | None = None
    #: Number of runs with each status.
    run_counts: dict[RunStatus, Count]


class RunOfBatch(Object):
    """A run of a batch in short."""

    key: str
    id: str
    thread_id: str
    status: RunStatus
    #: Number of times that the run has started or continued.
    turn: Count


class ListOfRunsOfBatch(Object):
    object: Literal["list"] = "list"
    data: list[RunOfBatch]


class BulkRequest(Schema):
    """Which objects to read: of these runs, or of these threads."""

    object: Literal["thread.run", "thread.run.step", "thread.message"]
    run_ids: Annotated[list[Id], Field(max_length=MAX_IDS)] | None = None
    thread_ids: Annotated[list[Id], Field(max_length=MAX_IDS)] | None = None
