"""`auto=True` against a server that never has enough: functions stop at a limit, and an error says so."""

from __future__ import annotations

import itertools
import json
import socket
from typing import Any

import pytest
from eventually import until
from IPython.core.interactiveshell import InteractiveShell
from socket_server import Answer, Received, SocketServer, answer, stream

import nbruns
from nbruns.client import Client
from nbruns.client.runs import MAX_CALLS, MAX_ROUNDS

RUN = {"id": "run_1", "object": "thread.run", "thread_id": "thread_1", "assistant_id": "asst_1"}
DONE = {**RUN, "status": "completed"}


def call(id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "count", "arguments": "{}"}}


def asking(*ids: str) -> dict[str, Any]:
    action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": [call(id) for id in ids]}}
    return {**RUN, "status": "requires_action", "required_action": action}


def event(run: dict[str, Any]) -> bytes:
    return b"event: thread.run.%b\ndata: %b\n\n" % (run["status"].encode(), json.dumps(run).encode())


def insatiable(calls: int = 1) -> Answer:
    """Each stream asks for so many calls more; the assistant is known."""
    numbers = itertools.count()

    def send(connection: socket.socket, request: Received) -> bool | None:
        if "/runs" not in request.path:
            return answer({"id": "asst_1", "object": "assistant", "tools": []})(connection, request)
        return stream([event(asking(*(f"call_{next(numbers)}" for _ in range(calls))))])(connection, request)

    return send


class Counter:
    """A function that counts how often it is called."""

    def __init__(self) -> None:
        self.called = 0

    def tool(self) -> nbruns.tools.Tool:
        def count() -> int:
            self.called += 1
            return self.called

        return nbruns.tool(count)


LIMITS: dict[str, tuple[int, dict[str, int], int, str]] = {
    "rounds": (1, {}, MAX_ROUNDS, "50 times (max_rounds)"),
    "calls": (128, {}, MAX_CALLS // 128 * 128, "500 calls (max_calls)"),
    "calls at once": (501, {}, 0, "500 calls (max_calls)"),
    "rounds of one's own": (2, {"max_rounds": 3}, 6, "3 times (max_rounds)"),
    "calls of one's own": (2, {"max_calls": 5}, 4, "5 calls (max_calls)"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_functions_answer_no_more_than_the_limit(limit: str) -> None:
    calls, given, called, words = LIMITS[limit]
    counter = Counter()
    with SocketServer(insatiable(calls)) as server:
        runs = Client(server.url, "key", timeout=10.0, max_retries=0).runs
        runs.messages_before = lambda *_: []  # nothing else is requested than the test scripts
        view = runs.watch("thread_1", "asst_1", tools=[counter.tool()], auto=True, **given)
        with pytest.raises(nbruns.LimitError) as caught:
            view.wait(60)
    assert counter.called == called
    assert f"at most {words}" in str(caught.value) and "client.runs.watch(run=…" in str(caught.value)
    assert words in view.to_html()  # the cell says it too
    posts = [request for request in server.received if request.method == "POST"]
    assert all(not {"max_rounds", "max_calls"} & request.body.keys() for request in posts)


def test_a_run_within_the_limit_completes() -> None:
    counter = Counter()
    asked = [stream([event(asking(f"call_{i}"))]) for i in range(3)]
    with SocketServer(*asked, stream([event(DONE)])) as server:
        runs = Client(server.url, "key", timeout=10.0, max_retries=0).runs
        assistant = nbruns.objects.Assistant({"id": "asst_1"})
        runs.messages_before = lambda *_: []  # nothing else is requested than the test scripts
        view = runs.watch("thread_1", assistant, tools=[counter.tool()], auto=True, max_rounds=3)
        assert view.wait(60).status == "completed"
    assert counter.called == 3


def test_the_magic_has_the_limits_too() -> None:
    counter = Counter()
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "nbruns")
    with SocketServer(insatiable()) as server:
        client = Client(server.url, "key", timeout=10.0, max_retries=0)
        shell.user_ns |= {"client": client, "count": counter.tool()}
        line = "asst_1 --thread thread_1 --tool count --auto --max-rounds 2 --max-calls 9"
        view = shell.run_cell_magic("ask", line, "Count.")
        with pytest.raises(nbruns.LimitError, match=r"at most 2 times \(max_rounds\)"):
            view.wait(60)
    shell.history_manager.end_session()
    assert counter.called == 2


@pytest.mark.parametrize("limit", [{"max_rounds": 0}, {"max_calls": -1}, {"max_calls": None}])
def test_a_limit_is_a_number_above_zero(limit: dict[str, Any]) -> None:
    with SocketServer(insatiable()) as server, pytest.raises(ValueError, match="whole numbers above 0"):
        Client(server.url, "key").runs.watch("thread_1", "asst_1", auto=True, **limit)


SHARED = {"the same": ("call_1", "call_1"), "empty": ("", ""), "one empty": ("", "call_2")}


@pytest.mark.parametrize("ids", SHARED.values(), ids=SHARED)
def test_each_of_two_calls_gets_its_own_output_whatever_their_ids(ids: tuple[str, str]) -> None:
    counter = Counter()
    with SocketServer(stream([event(asking(*ids))]), stream([event(DONE)])) as server:
        runs = Client(server.url, "key", timeout=10.0, max_retries=0).runs
        assistant = nbruns.objects.Assistant({"id": "asst_1"})
        runs.messages_before = lambda *_: []  # nothing else is requested than the test scripts
        view = runs.watch("thread_1", assistant, tools=[counter.tool()], auto=True)
        assert view.wait(60).status == "completed"
    sent = server.received[1].body["tool_outputs"]
    assert sent == [{"tool_call_id": id, "output": output} for id, output in zip(ids, "12", strict=True)]


@pytest.mark.parametrize("ids", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("approving", [False, True], ids=["outputs", "approvals"])
def test_a_form_answers_each_of_two_calls_whatever_their_ids(ids: tuple[str, str], approving: bool) -> None:
    asked = asking(*ids)
    if approving:
        calls = asked["required_action"]["submit_tool_outputs"]
        asked["required_action"] = {"type": "submit_tool_approval", "submit_tool_approval": calls}
    given = [False, True] if approving else ["one", "two"]
    with SocketServer(stream([event(asked)]), stream([event(DONE)])) as server:
        runs = Client(server.url, "key", timeout=10.0, max_retries=0).runs
        runs.messages_before = lambda *_: []  # nothing else is requested than the test scripts
        view = runs.watch("thread_1", nbruns.objects.Assistant({"id": "asst_1"}))
        until(lambda: view.form is not None)
        assert view.form is not None
        for card, output in zip(view.form.calls, given, strict=True):
            card.output = output
        view.form.submit()
        assert view.wait(60).status == "completed"
    sent = server.received[1].body["tool_approvals" if approving else "tool_outputs"]
    name = "approve" if approving else "output"
    assert sent == [{"tool_call_id": id, name: output} for id, output in zip(ids, given, strict=True)]
