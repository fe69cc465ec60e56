"""What a transition does when others were quicker: nothing, or what has become right meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from postgresql_server import NewDatabase
from test_store import run_on

from nbruns.server.runs import transitions
from nbruns.server.schemas import objects
from nbruns.server.schemas.errors import Refused
from nbruns.server.storage import peers, store
from nbruns.server.storage.database import Database

JSON = dict[str, Any]
Open = Callable[[str], Database]

USAGE = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


@pytest.fixture
def db(opened: Open, tmp_path: Path) -> Database:
    return opened(f"sqlite:///{tmp_path / 'db'}")


def calling(run: JSON) -> JSON:
    """A step of a run with a tool call."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": "{}", "output": None},
    }
    details = {"type": "tool_calls", "tool_calls": [call]}
    return objects.step(run, objects.derived_id("step", run["id"]), details, store.now())


async def begun(db: Database) -> JSON:
    """A run that is being worked on."""
    run = await db.write(run_on)
    begun = await db.write(transitions.begin_turn, run["id"], 1)
    assert begun is not None and begun["status"] == "in_progress"
    return begun


async def status(db: Database, run: JSON) -> str:
    now = await db.read(store.get, store.runs, run["id"])
    assert now is not None
    return str(now["status"])


def test_a_turn_that_is_not_the_runs_is_not_begun(db: Database) -> None:
    async def scenario() -> None:
        run = await begun(db)
        assert await db.write(transitions.begin_turn, run["id"], 2) is None
        assert await db.write(transitions.begin_turn, "run_none", 1) is None
        outputs = [{"tool_call_id": "call_1", "output": "cold"}]
        await db.write(transitions.require_action, run["id"], calling(run), USAGE)
        assert await db.write(transitions.begin_turn, run["id"], 1) is None
        await db.write(transitions.submit, run["thread_id"], run["id"], outputs)
        assert await db.write(transitions.begin_turn, run["id"], 1) is None
        second = await db.write(transitions.begin_turn, run["id"], 2)
        assert second is not None and second["status"] == "in_progress"
        await db.write(transitions.end, run["id"], "completed")
        assert await db.write(transitions.begin_turn, run["id"], 2) is None

    asyncio.run(scenario())


def test_a_run_that_has_ended_requires_no_action(db: Database) -> None:
    async def scenario() -> None:
        run = await begun(db)
        await db.write(transitions.end, run["id"], "expired")
        events = await db.read(store.last_event, run["id"])
        await db.write(transitions.require_action, run["id"], calling(run), USAGE)
        await db.write(transitions.save, run["id"], [transitions.Unfinished(store.steps, calling(run))])
        assert await status(db, run) == "expired"
        assert await db.read(store.of_run, store.steps, run["id"]) == []
        assert await db.read(store.last_event, run["id"]) == events

    asyncio.run(scenario())


def test_a_run_that_has_ended_ends_in_no_other_way(db: Database) -> None:
    async def scenario() -> None:
        run = await begun(db)
        await db.write(transitions.cancel, run["thread_id"], run["id"])
        await db.write(transitions.end, run["id"], "completed")
        events = await db.read(store.last_event, run["id"])
        message = objects.answer(run, "msg_1", store.now())
        await db.write(transitions.complete, run["id"], message, calling(run), USAGE)
        await db.write(transitions.expire, run["id"])
        await db.write(transitions.expire, "run_none")
        db.emit(
            run["id"], "thread.message.delta", {}
        )  # streams end with the last event, so nothing comes behind it
        await db.write(lambda tx: None)
        assert await status(db, run) == "cancelled"
        assert await db.read(store.of_run, store.messages, run["id"]) == []
        assert await db.read(store.last_event, run["id"]) == events

    asyncio.run(scenario())


def test_a_run_whose_time_is_not_up_does_not_expire(db: Database) -> None:
    async def scenario() -> None:
        run = await begun(db)
        await db.write(transitions.expire, run["id"])
        assert await status(db, run) == "in_progress"

    asyncio.run(scenario())


def test_a_run_that_is_being_cancelled_asks_for_no_outputs(db: Database) -> None:
    async def scenario() -> None:
        run = await begun(db)
        await db.write(transitions.cancel, run["thread_id"], run["id"])
        await db.write(transitions.require_action, run["id"], calling(run), USAGE)
        assert await status(db, run) == "cancelled"
        [step] = await db.read(store.of_run, store.steps, run["id"])
        assert (step["status"], step["usage"]["total_tokens"]) == ("cancelled", 5)

    asyncio.run(scenario())


def test_what_was_deleted_between_the_check_and_the_write_is_not_found(db: Database) -> None:
    async def scenario() -> None:
        run = await begun(db)
        await db.write(transitions.end, run["id"], "completed")
        params = {"assistant_id": run["assistant_id"]}
        for attempt, noun in (
            (db.write(transitions.create, run["thread_id"], {"assistant_id": "asst_gone"}, 600), "assistant"),
            (db.write(transitions.create, "thread_gone", params, 600), "thread"),
            (db.write(transitions.add_message, "thread_gone", {}), "thread"),
            (db.write(transitions.cancel, "thread_gone", run["id"]), "run"),
        ):
            with pytest.raises(Refused, match=f"No {noun} found with id") as refused:
                await attempt
            assert refused.value.status == 404

    asyncio.run(scenario())


def test_a_run_is_taken_over_from_the_dead_alone_and_by_one(postgresql: NewDatabase, opened: Open) -> None:
    url = postgresql()
    dead, living, other = opened(url), opened(url), opened(url)

    async def scenario() -> None:
        run = await begun(dead)
        lives = peers.Peers(dead.engine.url, dead.worker, lambda news: None)
        await lives.join()
        [work] = await living.read(store.at_work, transitions.WORKING)
        assert work.worker == dead.worker
        assert not await living.write(transitions.take_over, work)
        await lives.leave()
        taken = [False, False]
        while not any(taken):  # PostgreSQL is told of the end of a connection, and takes a moment
            taken = await asyncio.gather(*(db.write(transitions.take_over, work) for db in (living, other)))
        assert sorted(taken) == [False, True]
        # What the one that was taken for dead still writes is not written.
        await dead.write(transitions.end, run["id"], "completed")
        assert await status(living, run) == "in_progress"
        await (living if taken[0] else other).write(transitions.end, run["id"], "completed")
        assert await status(dead, run) == "completed"
        assert not await dead.write(transitions.take_over, work._replace(run_id="run_none"))

    asyncio.run(scenario())
