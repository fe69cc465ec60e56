"""What a model is asked, where the run's history is unusual."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbruns.server import prompt, store, transitions, wire
from nbruns.server.database import Database
from nbruns.server.transitions import Made

JSON = dict[str, Any]
QUESTION = {"role": "user", "content": "What should I wear?"}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    db = Database(f"sqlite:///{tmp_path / 'prompt.sqlite'}", store.EventLog())
    store.prepare(db.engine)
    yield db
    db.close()


async def run_in_progress(db: Database, messages: list[JSON]) -> JSON:
    """A run whose first leg has begun."""
    thread = await db.write(transitions.create_thread, {"messages": messages})
    assistant = wire.assistant({"model": "demo"}, store.now())
    await db.write(lambda tx: store.add(tx.conn, store.assistants, assistant))
    started = await db.write(transitions.create, thread["id"], {"assistant_id": assistant["id"]}, 600)
    run = await db.write(transitions.begin_leg, started.run["id"], 1)
    assert run is not None
    return run


def test_a_leg_that_is_done_again_is_asked_what_it_was_asked_the_first_time(db: Database) -> None:
    async def scenario() -> None:
        run = await run_in_progress(
            db, [{"role": "user", "content": [wire.text_part("What should I wear?")]}]
        )
        before = await db.read(prompt.build, run)
        message = wire.answer(run, "msg_1", 1) | {"content": [wire.text_part("Let me see.")]}
        details = {"type": "message_creation", "message_creation": {"message_id": "msg_1"}}
        step = wire.step(run, "step_1", details, 1)
        await db.write(transitions.complete_message, run["id"], message, step, wire.NO_USAGE)
        details = {"type": "tool_calls", "tool_calls": []}
        await db.write(transitions.save, run["id"], [Made(store.steps, wire.step(run, "step_2", details, 1))])
        assert await db.read(prompt.build, run) == before
        assert before.messages == [QUESTION]

    asyncio.run(scenario())


def test_what_is_no_text_is_named(db: Database) -> None:
    async def scenario() -> None:
        content = [
            {"type": "image_file", "image_file": {"file_id": "file_1", "detail": "auto"}},
            wire.text_part("What is this?"),
        ]
        attached = [{"file_id": "file_2", "tools": []}]
        run = await run_in_progress(db, [{"role": "user", "content": content, "attachments": attached}])
        [message] = (await db.read(prompt.build, run)).messages
        assert message["content"] == "[image_file file_1]\nWhat is this?\n[attached file file_2]"

    asyncio.run(scenario())
