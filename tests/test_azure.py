"""Azure AI Foundry Agents (classic) and Azure OpenAI: their paths, headers and objects, against a socket server."""

from __future__ import annotations

from typing import Any

import pytest
from socket_server import Answer, SocketServer, answer, hang_up, stream

from nbruns.client import Client
from nbruns.objects import Run, RunStep

PROJECT = "/api/projects/weather"
IDS = {"id": "run_1", "object": "thread.run", "thread_id": "thread_1", "assistant_id": "asst_1"}
GOING = {**IDS, "status": "in_progress", "required_action": None}
MCP_CALL = {
    "id": "call_1",
    "type": "mcp",
    "name": "search_docs",
    "arguments": '{"query": "rain"}',
    "server_label": "docs",
}
ASKING = {
    **IDS,
    "status": "requires_action",
    "required_action": {"type": "submit_tool_approval", "submit_tool_approval": {"tool_calls": [MCP_CALL]}},
}
APPROVED = {"tool_approvals": [{"tool_call_id": "call_1", "approve": True}]}


def foundry(server: SocketServer, **options: Any) -> Client:
    """A client of a Foundry project."""
    given = {"api_version": "v1", "token_provider": lambda: "token", "timeout": 5.0, **options}
    return Client(f"{server.url}{PROJECT}", **given)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbruns.transport._backoff", lambda attempt, retry_after: 0.0)


def test_a_call_to_approve_is_told() -> None:
    with SocketServer(answer(ASKING)) as server:
        run = foundry(server).runs.wait("run_1", thread="thread_1")
    (call,) = run.tool_calls
    assert (call.id, call.type, call.name) == ("call_1", "mcp", "search_docs")
    assert (call.arguments, call.server_label, call.output) == ('{"query": "rain"}', "docs", None)


def test_a_called_mcp_tool_has_its_output() -> None:
    called = {"type": "tool_calls", "tool_calls": [{**MCP_CALL, "output": "Take a coat."}]}
    (call,) = RunStep({"id": "step_1", "object": "thread.run.step", "step_details": called}).tool_calls
    assert (call.name, call.output) == ("search_docs", "Take a coat.")


@pytest.mark.parametrize(
    ("approvals", "sent"),
    [
        ({"call_1": True, "call_2": False}, {"call_1": True, "call_2": False}),
        ([{"tool_call_id": "call_1", "approve": False}], {"call_1": False}),
    ],
)
def test_approvals_are_submitted(approvals: Any, sent: dict[str, bool]) -> None:
    with SocketServer(answer(GOING)) as server:
        assert foundry(server).runs.submit_tool_approvals(Run(ASKING), approvals).status == "in_progress"
    (request,) = server.received
    path = f"{PROJECT}/threads/thread_1/runs/run_1/submit_tool_outputs?api-version=v1"
    assert (request.method, request.path) == ("POST", path)
    wire = [{"tool_call_id": call, "approve": approve} for call, approve in sent.items()]
    assert request.body == {"tool_approvals": wire}


def test_approvals_can_carry_headers_for_the_mcp_server() -> None:
    given = {"tool_call_id": "call_1", "approve": True, "headers": {"Authorization": "Bearer its-own"}}
    with SocketServer(answer(GOING)) as server:
        foundry(server).runs.submit_tool_approvals("run_1", [given], "thread_1")
    assert server.received[0].body == {"tool_approvals": [given]}


def test_approving_streams_what_follows() -> None:
    event = b'event: thread.run.completed\ndata: {"id": "run_1", "object": "thread.run", "status": "completed"}\n\n'
    with SocketServer(stream([event])) as server:
        with foundry(server).runs.submit_tool_approvals_stream(Run(ASKING), {"call_1": True}) as events:
            assert events.until_done().status == "completed"
    assert server.received[0].body == APPROVED | {"stream": True}


@pytest.mark.parametrize(
    "approvals", [{"call_1": "no"}, {"call_1": 1}, [{"tool_call_id": "call_1"}], ["call_1"], "yes"]
)
def test_what_is_neither_yes_nor_no_is_not_sent(approvals: Any) -> None:
    with SocketServer(answer(GOING)) as server:
        with pytest.raises(TypeError, match=r"True or False|tool_call_id: answer"):
            foundry(server).runs.submit_tool_approvals(Run(ASKING), approvals)
    assert server.received == []


@pytest.mark.parametrize(
    ("found", "methods"), [(answer(GOING), ["POST", "GET"]), (answer(ASKING), ["POST", "GET", "POST"])]
)
def test_approvals_whose_answer_was_lost_are_submitted_once(found: Answer, methods: list[str]) -> None:
    with SocketServer(hang_up, found, answer(GOING)) as server:
        assert (
            foundry(server).runs.submit_tool_approvals(Run(ASKING), {"call_1": True}).status == "in_progress"
        )
    assert [request.method for request in server.received] == methods
