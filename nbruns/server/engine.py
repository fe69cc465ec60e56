"""Runs as durable workflows (DBOS): whatever happens to this process, every run goes on.

A run is worked on in legs: from its creation to its end or to requires_action, and again from each submission of
tool outputs. Each leg is a workflow whose id is made from the run's and the leg's number, so that starting it
twice does nothing. While a run requires action there is no workflow, no task and no memory of it.

Killed at any moment and started again: DBOS does unfinished legs again; a leg that was committed to but never
reached DBOS is found by `_recover`. A leg that is done again finds the run's state as it was committed, and goes
on from there (see `leg`).

Servers that share a PostgreSQL database work under names of their own. A run says which of them works on it, and what
another would write about it is not written; of a server that has died, the others take its runs over.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from dbos import DBOS, SetWorkflowID
from sqlalchemy import URL, make_url

from nbruns.errors import SetupError
from nbruns.server import peers, store, transitions
from nbruns.server.database import Database
from nbruns.server.leg import Leg
from nbruns.server.models import ModelError, Models, UnknownModelError
from nbruns.server.peers import News, Peers
from nbruns.server.transitions import Started

JSON = dict[str, Any]

#: Ten minutes after its creation, a run expires.
LIFETIME_SECONDS = 600
SWEEP_SECONDS = 1.0
RECOVER_SWEEPS = 3
FORGET_SWEEPS = 60
#: What DBOS knows of a leg is needed until it has ended; kept a while for whoever looks into what happened.
LEGS_KEPT = timedelta(minutes=10)
LEGS_FORGOTTEN_AT_ONCE = 500
#: A leg ends its run itself when time is up. One that has not done so by then is gone.
GRACE_SECONDS = 5
#: Workflows started under another version are not recovered, so this changes only when legs can't carry on
#: where older ones stopped.
_WORKFLOW_VERSION = "1"

_ALIVE = ("PENDING", "ENQUEUED", "DELAYED")
_OVER = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
#: Threads that write DBOS's notes. Left alone it would start one for every run that is started at the same time.
_DBOS_THREADS = 4

log = logging.getLogger(__name__)


class Engine:
    """Works on runs, from `start()` to `stop()`. There can be one in a process, because DBOS is one.

    `catch_up` is called with the ids of runs that another server has written about; None: of any."""

    def __init__(
        self,
        db: Database,
        models: Models,
        lifetime: int = LIFETIME_SECONDS,
        catch_up: Callable[[Collection[str] | None], None] = lambda runs: None,
    ) -> None:
        self._db, self._models, self._lifetime, self._catch_up = db, models, lifetime, catch_up
        self._peers = Peers(db.engine.url, db.worker, self._take_news) if db.shared else None
        self._working: dict[str, asyncio.Task[None]] = {}
        self._legs: set[asyncio.Task[Any]] = set()
        self._sweeping: asyncio.Task[None] | None = None
        self._workflow: Callable[[str, int], Coroutine[Any, Any, None]]

    async def start(self) -> None:
        """Carry on with what was left when the last process ended, then wait for work."""

        async def leg(run_id: str, number: int) -> None:
            await self._leg(run_id, number)

        if self._peers is not None:
            await self._peers.join()
        DBOS(config=_dbos_config(self._db))
        self._workflow = DBOS.workflow(name="leg", max_recovery_attempts=None)(leg)
        DBOS.launch()
        await self._expire_overdue()
        await self._recover()
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Leave off where it is. Runs that are not over go on with the next start."""
        tasks = [*self._legs, *([self._sweeping] if self._sweeping else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(DBOS.destroy, destroy_registry=True)
        if self._peers is not None:
            await self._peers.leave()

    async def create(self, thread_id: str, params: JSON) -> Started:
        """Put a run on a thread and start it."""
        return await self._started(self._db.write(transitions.create, thread_id, params, self._lifetime))

    async def create_thread_and_run(self, params: JSON) -> Started:
        """Create a thread, put a run on it and start it."""
        return await self._started(self._db.write(transitions.create_thread_and_run, params, self._lifetime))

    async def submit(self, thread_id: str, run_id: str, outputs: list[JSON]) -> Started:
        """Give a run the outputs of its tool calls and start its next leg."""
        return await self._started(self._db.write(transitions.submit, thread_id, run_id, outputs))

    async def cancel(self, thread_id: str, run_id: str) -> JSON:
        """Stop a run."""
        started = await self._started(self._db.write(transitions.cancel, thread_id, run_id))
        self.abandon(run_id)
        return started.run

    def abandon(self, run_id: str) -> None:
        """Stop working on a run that has been cancelled or deleted."""
        if (work := self._working.get(run_id)) is not None:
            work.cancel()

    async def _started(self, write: Awaitable[Started]) -> Started:
        started = await write
        await self._start_leg(started.run["id"], started.leg)
        return started

    async def _start_leg(self, run_id: str, number: int) -> None:
        with SetWorkflowID(_workflow_id(run_id, number)):
            await DBOS.start_workflow_async(self._workflow, run_id, number)

    async def _leg(self, run_id: str, number: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._legs.add(task)
        try:
            run = await self._db.write(transitions.begin_leg, run_id, number)
            if run is not None:
                await self._work(run, Leg(self._db, run, number))
        finally:
            self._legs.discard(task)

    async def _work(self, run: JSON, leg: Leg) -> None:
        # What is still at it was taken for dead by another server; the run has come back, and is made anew.
        self.abandon(run["id"])
        work = self._working[run["id"]] = asyncio.create_task(leg.work(self._models))
        if run["status"] == "cancelling":
            work.cancel()
        try:
            ending, why = await _outcome(work, run["expires_at"])
        finally:
            if current := self._working.get(run["id"]) is work:
                del self._working[run["id"]]
        if ending is not None and current:
            await self._db.write(transitions.end, run["id"], ending, leg.unfinished(), **why)

    async def _recover(self) -> None:
        """Start the legs that DBOS does not know, in the place of one that died of an error the next, and those of
        servers that have died."""
        for work in await self._db.read(store.at_work, transitions.WORKING):
            if (task := self._working.get(work.run_id)) is not None:
                await self._check_on(task, work)
            elif work.worker == self._db.worker or await self._db.write(transitions.take_over, work):
                await self._carry_on(work.run_id, work.leg)

    async def _check_on(self, task: asyncio.Task[None], work: store.Work) -> None:
        """Stop working on a run that is to stop, or that others took over while this server was cut off."""
        mine = await self._db.read(store.worker_of, work.run_id) == self._db.worker
        if work.status == "cancelling" or not mine:
            task.cancel()

    async def _carry_on(self, run_id: str, leg: int) -> None:
        id = _workflow_id(run_id, leg)
        known = await DBOS.get_workflow_status_async(id)
        if known is None:
            await self._start_leg(run_id, leg)
        elif known.status not in _ALIVE:
            if await self._db.write(transitions.replace_leg, run_id, leg):
                await self._start_leg(run_id, leg + 1)
        elif known.status == "PENDING" and await self._is_dead(known.executor_id):
            await DBOS.resume_workflow_async(id)

    async def _is_dead(self, worker: str | None) -> bool:
        here = worker is None or worker == self._db.worker
        return not here and await self._db.read(peers.is_dead, str(worker))

    def _take_news(self, news: News | None) -> None:
        self._catch_up(None if news is None else news.runs)
        for run_id in news.to_stop if news is not None else ():
            self.abandon(run_id)

    async def _sweep(self) -> None:
        for sweeps in itertools.count(1):
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self._expire_overdue()
                if sweeps % RECOVER_SWEEPS == 0:
                    await self._recover()
                if sweeps % FORGET_SWEEPS == 0:
                    await forget_legs(LEGS_KEPT)
            except Exception:
                log.exception("The runs could not be looked over; trying again.")

    async def _expire_overdue(self) -> None:
        now = store.now()
        for run in await self._db.read(store.overdue, now):
            if run["status"] == "requires_action" or run["expires_at"] + GRACE_SECONDS <= now:
                await self._db.write(transitions.expire, run["id"])


async def forget_legs(kept: timedelta) -> None:
    """Delete what DBOS knows of legs that ended longer ago: its database would grow for ever."""
    before = (datetime.now(UTC) - kept).isoformat()
    while True:
        over = await DBOS.list_workflows_async(
            status=_OVER,
            completed_before=before,
            limit=LEGS_FORGOTTEN_AT_ONCE,
            load_input=False,
            load_output=False,
        )
        if over:
            await DBOS.delete_workflows_async([workflow.workflow_id for workflow in over])
        if len(over) < LEGS_FORGOTTEN_AT_ONCE:
            return


async def _outcome(work: asyncio.Task[None], expires_at: int) -> tuple[transitions.Ending | None, JSON]:
    """How a leg ended, where it has not said so itself."""
    try:
        async with asyncio.timeout(max(0.0, expires_at - time.time())) as deadline:
            await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # the server stops; the leg is done again after the next start
        return "cancelled", {}
    except Exception as error:
        if isinstance(error, TimeoutError) and deadline.expired():
            return "expired", {}
        return "failed", {"last_error": _last_error(error)}
    return None, {}


def _last_error(error: Exception) -> JSON:
    if isinstance(error, ModelError):
        return {"code": error.code, "message": error.message}
    if isinstance(error, UnknownModelError | SetupError):
        return {"code": "server_error", "message": str(error)}
    log.error("A run failed", exc_info=error)
    return {
        "code": "server_error",
        "message": "The server had an error on this run; its log says more.",
    }


def _workflow_id(run_id: str, leg: int) -> str:
    return f"{run_id}:{leg}"


class _Connection(sqlite3.Connection):
    """Commits to a log, as our own database does. From Python 3.12 on, DBOS asks SQLite for unixepoch('subsec'),
    which it knows since 3.42 only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=NORMAL")
        if sqlite3.sqlite_version_info < (3, 42):
            self.create_function("unixepoch", 1, lambda _: time.time())


def _dbos_config(db: Database) -> Any:
    on_sqlite = db.engine.dialect.name == "sqlite"
    return {
        "name": "nbruns",
        "db_engine_kwargs": {"connect_args": {"factory": _Connection}} if on_sqlite else {},
        "system_database_url": _workflow_database(db.engine.url).render_as_string(hide_password=False),
        "application_version": _WORKFLOW_VERSION,
        "executor_id": db.worker,
        "max_executor_threads": _DBOS_THREADS,
        "log_level": "CRITICAL",
        "enable_otlp": False,
    }


def _workflow_database(url: URL) -> URL:
    """On SQLite a file of its own, so that the two never wait for each other's locks. It may be lost: then all
    that is running is begun anew."""
    if url.get_backend_name() != "sqlite":
        return make_url(url).set(drivername="postgresql")
    return url.set(database=f"{url.database}-workflows")
