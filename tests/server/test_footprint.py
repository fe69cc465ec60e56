"""What the server keeps in memory: nothing of runs that wait for outputs."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from typing import Any, TypeVar

from served import OUTPUTS, Api, Scripts, waiting_run

from nbruns.server.http import Server
from nbruns.server.models import Finish, TextDelta, usage
from nbruns.server.runs.streams import RunStreams
from nbruns.server.runs.turn import Turn

JSON = dict[str, Any]
T = TypeVar("T")


def parked(api: Api, script: Scripts) -> JSON:
    """A run that requires action, and whose stream has been read to its end."""
    run = waiting_run(api, script)
    assert [*api.rejoin(run)][-1].name == "done"
    return run


def test_nothing_in_memory_is_for_a_run_that_requires_action(
    server: Server, api: Api, script: Scripts
) -> None:
    first = parked(api, script)
    before = threading.active_count()
    runs = [first, *(parked(api, script) for _ in range(10))]
    ids = {run["id"] for run in runs}  # other tests' runs may still be at work at the same server
    deadline = time.monotonic() + 10  # a turn ends just behind the event that tells of its end
    while turns := [turn for turn in alive(Turn) if turn._run["id"] in ids]:
        assert time.monotonic() < deadline, turns
    assert [hub for hub in alive(RunStreams) if not ids.isdisjoint(hub._feeds)] == []
    assert threading.active_count() <= before + 1  # a pool of threads may still be growing
    for run in runs:
        api.post(f"{api.run_path(run)}/submit_tool_outputs", OUTPUTS)
        assert api.until(run, "completed")["usage"]["total_tokens"] == 30 + 35


def alive(kind: type[T]) -> list[T]:
    """All objects of a kind that something still refers to."""
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, kind)]


def test_a_long_answer_is_held_as_its_text_and_not_as_its_pieces(api: Api, script: Scripts) -> None:
    words, rest = [f"{number} " for number in range(2000)], threading.Event()
    turn = (*map(TextDelta, words), rest, Finish("stop", usage(1, len(words))))
    thread = api.thread_with()
    events = api.stream(f"/threads/{thread}/runs", {"assistant_id": script(turn).assistant()})
    run = next(events).data
    deltas = (event for event in events if event.name == "thread.message.delta")
    assert len(list(itertools.islice(deltas, len(words)))) == len(words)
    [turn] = [turn for turn in alive(Turn) if turn._run["id"] == run["id"]]
    [pieces] = turn._said.values()
    assert len(pieces) < 300
    rest.set()
    assert list(deltas) == []
    [message] = api.get(f"/threads/{thread}/messages", run_id=run["id"])["data"]
    assert message["content"][0]["text"]["value"] == "".join(words)
