"""What a run requires, told late, or under ids that were used before: waiting, streams and the view get it."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from socket_server import Answer, Received, SocketServer, answer, stream

import nbruns
from nbruns.client import Client
from nbruns.client import runs as runs_module
from nbruns.client import stream as stream_module
from nbruns.objects import Assistant, Run

RUN = {"id": "run_1", "object": "thread.run", "thread_id": "thread_1", "assistant_id": "asst_1"}
DONE = {**RUN, "status": "completed"}
LATE = {**RUN, "status": "requires_action", "required_action": None}
EMPTY = {
    **LATE,
    "required_action": {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": []}},
}
MISSING, NONE = answer({"error": {"message": "no"}}, 404), answer({"data": [], "has_more": False})


def asking(*ids: str) -> dict[str, Any]:
    calls = [
        {"id": id, "type": "function", "function": {"name": "where", "arguments": json.dumps({"n": n})}}
        for n, id in enumerate(ids)
    ]
    action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}
    return {**LATE, "required_action": action}


def events(*runs: dict[str, Any]) -> Answer:
    return stream(
        [b"event: thread.run.%b\ndata: %b\n\n" % (r["status"].encode(), json.dumps(r).encode()) for r in runs]
    )


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_POLL_FIRST", 0.001)
    monkeypatch.setattr(runs_module, "_POLL_FIRST", 0.001)


def client(server: SocketServer) -> Client:
    return Client(server.url, "key", timeout=5.0, max_retries=0)


@pytest.mark.parametrize("late", [LATE, EMPTY], ids=["null", "no calls"])
def test_waiting_goes_on_until_the_calls_are_there(late: dict[str, Any]) -> None:
    with SocketServer(answer(late), answer(late), answer(asking("call_1"))) as server:
        run = client(server).runs.wait("run_1", thread="thread_1")
    assert [call.id for call in run.tool_calls] == ["call_1"] and len(server.received) == 3


@pytest.mark.parametrize("late", [LATE, EMPTY], ids=["null", "no calls"])
def test_a_stream_goes_on_until_the_calls_are_there(late: dict[str, Any]) -> None:
    asked = [answer(late), answer(asking("call_1")), NONE, NONE]
    with SocketServer(events(late), MISSING, *asked) as server:
        with client(server).runs.create_stream("thread_1", "asst_1") as opened:
            assert [call.id for call in opened.until_done().tool_calls] == ["call_1"]
    with SocketServer(events(late, asking("call_2"))) as server:
        with client(server).runs.create_stream("thread_1", "asst_1") as opened:
            assert [call.id for call in opened.until_done().tool_calls] == ["call_2"]
    assert len(server.received) == 1


def test_a_view_answers_calls_that_are_told_late() -> None:
    asked = [answer(LATE), answer(asking("call_1")), NONE, NONE]
    with SocketServer(events(LATE), MISSING, *asked, events(DONE)) as server:
        runs = client(server).runs
        runs.messages_before = lambda *_: []  # nothing else is requested than the test scripts
        view = runs.watch("thread_1", Assistant({"id": "asst_1"}), tools=[where], auto=True)
        assert view.wait(30).status == "completed"
    assert server.received[-1].body["tool_outputs"] == [{"tool_call_id": "call_1", "output": "0"}]


def where(n: int) -> int:
    """Tell which call this is."""
    return n


def test_calls_that_never_come_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "ACTION_DEADLINE", 0.05)
    monkeypatch.setattr(runs_module, "ACTION_DEADLINE", 0.05)

    def late(connection: socket.socket, request: Received) -> bool | None:
        if request.method == "POST":
            return events(LATE)(connection, request)
        if request.path.endswith("/stream"):
            return MISSING(connection, request)
        return (answer(LATE) if request.path.endswith("/run_1") else NONE)(connection, request)

    with SocketServer(late) as server:
        runs = client(server).runs
        assert runs.wait("run_1", thread="thread_1").tool_calls == []
        assert runs.create_stream("thread_1", "asst_1").until_done().status == "requires_action"
        view = runs.watch("thread_1", Assistant({"id": "asst_1"}))
        with pytest.raises(nbruns.StreamError, match=r"does not say for which tool calls.*watch.*or cancel"):
            view.wait(30)
        assert view.form is None


@pytest.mark.parametrize("rejoins", [True, False], ids=["in the stream", "polled"])
def test_a_later_call_may_have_the_id_of_one_that_is_answered(rejoins: bool) -> None:
    again = (
        [events({**RUN, "status": "in_progress"}, asking("call_0"))]
        if rejoins
        else [
            events({**RUN, "status": "in_progress"}),
            MISSING,
            answer(asking("call_0")),
            NONE,
            NONE,
        ]
    )
    with SocketServer(*again, answer({}, 500)) as server:
        with client(server).runs.submit_tool_outputs_stream(Run(asking("call_0")), {"call_0": "x"}) as opened:
            assert [call.id for call in opened.until_done().tool_calls] == ["call_0"]
    assert len(server.received) == len(again)
