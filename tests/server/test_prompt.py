"""What a model is asked, where the run's history is unusual."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbruns.server import hosted
from nbruns.server.runs import prompt, transitions
from nbruns.server.runs.transitions import Unfinished
from nbruns.server.schemas import objects
from nbruns.server.schemas.files import FileObject
from nbruns.server.schemas.threads import text_content
from nbruns.server.storage import files, migrations, store
from nbruns.server.storage.database import Database

JSON = dict[str, Any]
NO_TOOLS = hosted.Declared([], {}, [])
QUESTION = {"role": "user", "content": "What should I wear?"}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    db = Database(f"sqlite:///{tmp_path / 'prompt.sqlite'}", store.EventLog())
    migrations.prepare(db.engine)
    yield db
    db.close()


async def run_in_progress(db: Database, messages: list[JSON]) -> JSON:
    """A run whose first turn has begun."""
    thread = await db.write(transitions.create_thread, {"messages": messages})
    assistant = objects.assistant({"model": "demo"}, store.now())
    await db.write(lambda tx: store.add(tx.conn, store.assistants, assistant))
    started = await db.write(transitions.create, thread["id"], {"assistant_id": assistant["id"]}, 600)
    run = await db.write(transitions.begin_turn, started.run["id"], 1)
    assert run is not None
    return run


def test_a_turn_that_is_done_again_is_asked_what_it_was_asked_the_first_time(db: Database) -> None:
    async def scenario() -> None:
        run = await run_in_progress(db, [{"role": "user", "content": [text_content("What should I wear?")]}])
        await assert_asked_again(db, run, 1)
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": "f", "arguments": "{}", "output": None},
        }
        step = objects.step(run, "step_calls_1", {"type": "tool_calls", "tool_calls": [call]}, 1)
        await db.write(transitions.require_action, run["id"], step, objects.NO_USAGE)
        outputs = [{"tool_call_id": "call_1", "output": "cold"}]
        await db.write(transitions.submit, run["thread_id"], run["id"], outputs)
        second = await db.write(transitions.begin_turn, run["id"], 2)
        assert second is not None
        assert [message["role"] for message in await assert_asked_again(db, second, 2)] == [
            "user",
            "assistant",
            "tool",
        ]

    asyncio.run(scenario())


async def assert_asked_again(db: Database, run: JSON, turn: int) -> list[JSON]:
    """What a turn has made before it is cut off is no part of what the next attempt is asked."""
    before = await db.read(prompt.build, run, NO_TOOLS)
    message = objects.answer(run, f"msg_{turn}", 1) | {"content": [text_content("Let me see.")]}
    details: JSON = {"type": "message_creation", "message_creation": {"message_id": f"msg_{turn}"}}
    step = objects.step(run, f"step_{turn}", details, 1)
    await db.write(transitions.complete_message, run["id"], message, step, objects.NO_USAGE)
    calls = objects.step(run, f"step_calls_{turn}", {"type": "tool_calls", "tool_calls": []}, 1)
    await db.write(transitions.save, run["id"], [Unfinished(store.steps, calls)])
    assert await db.read(prompt.build, run, NO_TOOLS) == before
    return before.messages if turn > 1 else []


def test_what_is_no_text_is_named(db: Database) -> None:
    async def scenario() -> None:
        image = {"type": "image_file", "image_file": {"file_id": "file_1", "detail": "auto"}}
        content = [image, text_content("What is this?")]
        for id, name in (("file_1", "cat.png"), ("file_2", "guide.md")):
            file = FileObject.new(id=id, purpose="assistants", filename=name, bytes=1, created_at=1)
            await db.write(lambda tx, file=file: store.add(tx.conn, files.files, file))
        attached = [{"file_id": "file_2", "tools": []}]
        run = await run_in_progress(db, [{"role": "user", "content": content, "attachments": attached}])
        [message] = (await db.read(prompt.build, run, NO_TOOLS)).messages
        # The turn reads the image's bytes, which the database doesn't have.
        note = {"type": "text", "text": "[attached file guide.md]"}
        assert message["content"] == [image, {"type": "text", "text": "What is this?"}, note]

    asyncio.run(scenario())
