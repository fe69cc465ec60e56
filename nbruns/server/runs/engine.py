"""The engine executes turns, continues them after a restart, and ends overdue runs.

The database is the only source of truth. The row of a run contains its status, the number of its current turn and its
worker (the server that executes it), which are committed together with the corresponding events. A SQLite file has one
server. On PostgreSQL, several servers can work concurrently: a server can't write to a run of another server, and when
a server dies, the others take over its runs.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection

from nbruns.errors import SetupError
from nbruns.server import hosted
from nbruns.server.models import ModelError, Models, UnknownModelError
from nbruns.server.runs import batches, transitions
from nbruns.server.runs.toolbox import Toolbox
from nbruns.server.runs.transitions import StartedRun
from nbruns.server.runs.turn import Turn
from nbruns.server.storage import store
from nbruns.server.storage.database import Database
from nbruns.server.storage.peers import Peers, PeerUpdate
from nbruns.server.telemetry import Telemetry
from nbruns.text import JSON

#: Seconds after its creation after which a run expires.
LIFETIME_SECONDS = 600
#: Seconds after the end of a run after which its deltas are deleted.
DELTA_LIFETIME_SECONDS = 86_400
#: Maximum number of runs whose deltas are deleted in one write. More would delay the streams of other runs.
PRUNED_AT_ONCE = 50
SWEEP_SECONDS = 1.0
RECOVER_SWEEPS = 3
#: Maximum random delay in seconds before a server admits runs of batches, so that several servers share them.
SPREAD_SECONDS = 0.05
#: Seconds after its expiry after which a run is expired from outside. Until then, its turn should have done so itself.
GRACE_SECONDS = 5

log = logging.getLogger(__name__)


class Engine:
    """Executes runs, from `start()` to `stop()`.

    `catch_up` is called with the ids of runs that other servers have written events of; None means any run."""

    def __init__(
        self,
        db: Database,
        models: Models,
        lifetime: int = LIFETIME_SECONDS,
        catch_up: Callable[[Collection[str] | None], None] = lambda runs: None,
        toolbox: Toolbox | None = None,
        delta_lifetime: int = DELTA_LIFETIME_SECONDS,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._db, self._models, self._lifetime, self._catch_up = db, models, lifetime, catch_up
        self._delta_lifetime = delta_lifetime
        self._telemetry = telemetry or Telemetry()
        self._toolbox = toolbox
        self._peers = Peers(db.engine.url, db.worker, self._take_update) if db.shared else None
        #: The turns that this server executes, by run and number.
        self._turns: dict[tuple[str, int], asyncio.Task[None]] = {}
        #: The tasks that wait for the model's answer, by run. They can be cancelled without ending the turn.
        self._answering: dict[str, asyncio.Task[int | None]] = {}
        #: Turns that ended because the database could not be written. These attempts are not counted.
        self._ended_early: set[tuple[str, int]] = set()
        self._sweeping: asyncio.Task[None] | None = None
        #: Whether runs of batches may be waiting for admission, and the task that admits them.
        self._some_wait = True
        self._admitting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Continue the runs that were active when the last process ended, then wait for new ones."""
        if self._peers is not None:
            await self._peers.join()
        await self._expire_overdue()
        await self._recover()
        await self._admit()
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Stop. Active runs continue with the next start."""
        others = (self._sweeping, self._admitting)
        tasks = [*self._turns.values(), *(task for task in others if task is not None)]
        for task in tasks:
            task.cancel()
        left = list(self._turns)
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            for run_id, number in left:
                await self._db.write(transitions.leave_turn, run_id, number)
        except Exception:  # without a database, the turns count as interrupted attempts; continue stopping
            log.exception("It could not be noted that runs were left in good order.")
        if self._peers is not None:
            await self._peers.leave()

    async def create(self, thread_id: str, params: JSON, *, includes_content: bool = False) -> StartedRun:
        """Create a run on a thread, and start it."""
        write = self._db.write(
            transitions.create, thread_id, params, self._lifetime, includes_content=includes_content
        )
        return await self._started(write)

    async def create_thread_and_run(self, params: JSON, *, includes_content: bool = False) -> StartedRun:
        """Create a thread and a run on it, and start the run."""
        write = self._db.write(
            transitions.create_thread_and_run, params, self._lifetime, includes_content=includes_content
        )
        return await self._started(write)

    async def add_to_batch(self, params: JSON) -> JSON:
        """Add runs to a batch, and start as many as its limits allow."""
        batch = await self._db.write(batches.add, params, self._lifetime)
        if self._toolbox is not None:
            self._toolbox.ingester.wake()
        self._some_wait = True
        await self._admit()
        return batch

    async def submit(self, thread_id: str, run_id: str, outputs: list[JSON]) -> StartedRun:
        """Submit the outputs of a run's tool calls, and start its next turn."""
        return await self._started(self._db.write(transitions.submit, thread_id, run_id, outputs))

    async def approve(self, thread_id: str, run_id: str, approvals: list[JSON]) -> StartedRun:
        """Approve or deny the hosted calls of a run, and start its next turn."""
        return await self._started(self._db.write(transitions.approve, thread_id, run_id, approvals))

    async def cancel(self, thread_id: str, run_id: str) -> JSON:
        """Cancel a run, and return it."""
        started = await self._db.write(transitions.cancel, thread_id, run_id)
        if started.turn is not None:
            self._begin(run_id, started.turn)
        self.abandon(run_id)
        return started.run

    def abandon(self, run_id: str) -> None:
        """Stop executing a run that was cancelled or deleted."""
        if (answering := self._answering.get(run_id)) is not None:
            answering.cancel()

    async def _started(self, write: Awaitable[StartedRun]) -> StartedRun:
        started = await write
        assert started.turn is not None
        if self._toolbox is not None:
            self._toolbox.ingester.wake()  # messages may have attached files
        self._begin(started.run["id"], started.turn)
        return started

    def _begin(self, run_id: str, number: int) -> None:
        """Start a turn, unless it is already running because a sweep found it first."""
        key = run_id, number
        if key not in self._turns:
            task = self._turns[key] = asyncio.create_task(self._turn(run_id, number))
            task.add_done_callback(lambda _: self._ended(key))

    def _ended(self, key: tuple[str, int]) -> None:
        del self._turns[key]
        self._admit_soon()

    def _admit_soon(self) -> None:
        """Admit waiting runs of batches soon, because others have ended."""
        if self._some_wait and (self._admitting is None or self._admitting.done()):
            self._admitting = asyncio.create_task(self._admit_spread())

    async def _admit_spread(self) -> None:
        if self._db.shared:  # a random delay, so that no server is always first
            await asyncio.sleep(random.uniform(0, SPREAD_SECONDS))
        try:
            await self._admit()
        except Exception:
            log.exception("Runs of a batch could not be begun; trying again.")

    async def _admit(self) -> None:
        self._some_wait = False  # before the write, because runs added meanwhile set it again
        admitted = await self._db.write(batches.admit, self._lifetime)
        self._some_wait = self._some_wait or admitted.some_wait
        for run_id in admitted.runs:
            self._begin(run_id, 1)

    async def _turn(self, run_id: str, number: int) -> None:
        try:
            if (run_id, number) in self._ended_early:
                await self._db.write(transitions.leave_turn, run_id, number)
                self._ended_early.discard((run_id, number))
            run = await self._db.write(transitions.begin_turn, run_id, number)
            following = None
            if run is not None:
                following = await self._work(run, Turn(self._db, run, number, self._toolbox, self._telemetry))
            if following is None:
                await hosted.leave(run_id)
            else:
                self._begin(run_id, following)
        except Exception:
            # The database could not be written. The next sweep restarts the turn.
            log.exception(
                "Turn %d of a run ended early; trying again.", number, extra={"known": {"run_id": run_id}}
            )
            self._ended_early.add((run_id, number))

    async def _work(self, run: JSON, turn: Turn) -> int | None:
        """Execute a turn. Return the number of the next turn if the run continues immediately, otherwise None."""
        answering = self._answering[run["id"]] = asyncio.create_task(turn.work(self._models))
        if run["status"] == "cancelling":
            answering.cancel()
        try:
            following, ending, why = await _outcome(answering, run["expires_at"])
        finally:
            if self._answering.get(run["id"]) is answering:
                del self._answering[run["id"]]
        if ending is not None:
            await self._db.write(transitions.end, run["id"], ending, turn.unfinished(), **why)
        return following

    async def _recover(self) -> None:
        """Start turns without a live worker: left by this server's last process, by failed writes, by dead servers."""
        for work in await self._db.read(store.at_work, transitions.WORKING):
            if (work.run_id, work.turn) in self._turns:
                await self._check_on(work)
            elif work.worker == self._db.worker or await self._db.write(transitions.take_over, work):
                self._begin(work.run_id, work.turn)

    async def _check_on(self, work: store.Work) -> None:
        """Stop executing a run that was cancelled, or taken over while this server had no connection."""
        mine = await self._db.read(store.worker_of, work.run_id) == self._db.worker
        if work.status == "cancelling" or not mine:
            self.abandon(work.run_id)

    def _take_update(self, update: PeerUpdate | None) -> None:
        self._catch_up(None if update is None else update.runs)
        for run_id in update.to_stop if update is not None else ():
            self.abandon(run_id)
        self._admit_soon()

    async def _sweep(self) -> None:
        for sweeps in itertools.count(1):
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self._expire_overdue()
                if self._some_wait or sweeps % RECOVER_SWEEPS == 0:
                    await self._admit()
                if sweeps % RECOVER_SWEEPS == 0:
                    await self._recover()
                    await self._prune()
            except Exception:
                log.exception("The runs could not be looked over; trying again.")

    async def _prune(self) -> None:
        old = await self._db.read(store.to_prune, store.now() - self._delta_lifetime, PRUNED_AT_ONCE)
        if old:
            await self._db.write(store.prune, old)

    async def _expire_overdue(self) -> None:
        now = store.now()
        for run in await self._db.read(store.overdue, now):
            if run["status"] == "requires_action" or run["expires_at"] + GRACE_SECONDS <= now:
                await self._db.write(transitions.expire, run["id"])


async def _outcome(
    answering: asyncio.Task[int | None], expires_at: int
) -> tuple[int | None, transitions.Ending | None, JSON]:
    """Return the number of the next turn, and the end of the run if the turn hasn't stored it itself."""
    try:
        async with asyncio.timeout(max(0.0, expires_at - time.time())) as deadline:
            return await answering, None, {}
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # the server is stopping; the turn is repeated after the next start
        return None, "cancelled", {}
    except Exception as error:
        if isinstance(error, TimeoutError) and deadline.expired():
            return None, "expired", {}
        return None, "failed", {"last_error": _last_error(error)}


def _last_error(error: Exception) -> JSON:
    if isinstance(error, ModelError):
        return {"code": error.code, "message": error.message}
    if isinstance(error, UnknownModelError):  # the same code as for an unknown model of an upstream
        return {"code": "invalid_prompt", "message": str(error)}
    if isinstance(error, SetupError):
        return {"code": "server_error", "message": str(error)}
    log.error("A run failed", exc_info=error)
    return {
        "code": "server_error",
        "message": "The server had an error on this run; its log says more.",
    }
