"""A server that is told to stop while a run streams: the run goes on with the next one, and so does its stream."""

from __future__ import annotations

import itertools
from pathlib import Path
from urllib.parse import urlsplit

from served import TOKEN, ServerProcess

import nbruns
from nbruns.objects import MessageDelta

WORDS = 40
WHOLE = "".join(f"{word} " for word in range(WORDS))


def test_a_stream_is_carried_on_by_the_next_server(tmp_path: Path) -> None:
    slow = ("--words", str(WORDS), "--pause", "0.05")
    first = ServerProcess(tmp_path / "runs.sqlite", *slow)
    client = nbruns.Client(f"{first.url}/v1", TOKEN)
    assistant = client.assistants.create(model="slow")
    with client.runs.create_stream(client.threads.create("Count."), assistant) as stream:
        deltas = (event for event in stream if isinstance(event.data, MessageDelta))
        assert len(list(itertools.islice(deltas, 5))) == 5
        assert client.runs.retrieve(stream.run).status == "in_progress"
        assert first.stop() == 0
        assert first.errors == ""
        second = ServerProcess(tmp_path / "runs.sqlite", *slow, "--port", str(urlsplit(first.url).port))
        assert second.url == first.url
        run = stream.until_done()
    assert (run.status, stream.snapshot.text) == ("completed", WHOLE)
    assert run.to_dict() == client.runs.retrieve(run).to_dict()
    [message] = client.messages.iter(run.thread_id, run_id=run.id)
    assert message.text == WHOLE
    assert [step.type for step in client.runs.steps.iter(run)] == ["message_creation"]
    assert second.stop() == 0
