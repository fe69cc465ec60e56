"""Azure AI Foundry Agents (classic) and Azure OpenAI: their paths, headers and objects, against a socket server."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from socket_server import Answer, Received, SocketServer, answer, hang_up, stream

import nbruns
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
    monkeypatch.setattr("nbruns.client.transport._backoff", lambda attempt, retry_after: 0.0)


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
        with pytest.raises(TypeError, match=r"True or False|tool_call_id: value"):
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


STARTED = {**GOING, "created_at": 1, "status": "queued", "model": "gpt-4o", "instructions": "", "tools": []}
PAGE = {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}
TOOL = {"type": "function", "function": {"name": "f", "description": "F", "parameters": {"type": "object"}}}
INCLUDE = ["step_details.tool_calls[*].file_search.results[*].content"]
LISTED = {"limit": 20, "order": "asc", "before": "b"}
MESSAGE = {"role": "user", "content": "Hello"}
PARAMS = {
    **{"model": "gpt-4o", "instructions": "Be brief.", "additional_instructions": "Be kind."},
    **{"temperature": 0.5, "top_p": 0.5, "max_prompt_tokens": 500, "max_completion_tokens": 500},
    **{"tool_choice": "auto", "response_format": "auto", "parallel_tool_calls": True},
    **{"tools": [TOOL], "metadata": {"a": "b"}, "truncation_strategy": {"type": "auto"}},
}
OUTPUTS = [{"tool_call_id": "call_1", "output": "x"}]
AGENT = {"name": "A", "instructions": "Be brief.", "tools": [TOOL], "metadata": {"a": "b"}}
TWINS = {
    "createAgent": ("create_agent(model='m', **AGENT)", "assistants.create('m', **AGENT)"),
    "getAgent": ("get_agent('asst_1')", "assistants.retrieve('asst_1')"),
    "updateAgent": ("update_agent('asst_1', **AGENT)", "assistants.update('asst_1', **AGENT)"),
    "deleteAgent": ("delete_agent('asst_1')", "assistants.delete('asst_1')"),
    "listAgents": ("list_agents(**LISTED)", "assistants.iter(**LISTED)"),
    "createThread": (
        "threads.create(messages=[MESSAGE], metadata={})",
        "threads.create([MESSAGE], metadata={})",
    ),
    "getThread": ("threads.get('t')", "threads.retrieve('t')"),
    "updateThread": ("threads.update('t', metadata={'a': 'b'})", "threads.update('t', metadata={'a': 'b'})"),
    "deleteThread": ("threads.delete('t')", "threads.delete('t')"),
    "listThreads": ("threads.list(**LISTED)", "threads.iter(**LISTED)"),
    "createMessage": ("messages.create('t', role='user', content='Hi')", "messages.create('t', 'Hi')"),
    "getMessage": ("messages.get('t', 'm')", "messages.retrieve('m', 't')"),
    "updateMessage": (
        "messages.update('t', 'm', metadata={})",
        "messages.update('m', thread='t', metadata={})",
    ),
    "listMessages": ("messages.list('t', run_id='r', **LISTED)", "messages.iter('t', run_id='r', **LISTED)"),
    "createRun": (
        "runs.create('t', agent_id='asst_1', include=INCLUDE, additional_messages=[MESSAGE], **PARAMS)",
        "runs.create('t', 'asst_1', include=INCLUDE, additional_messages=[MESSAGE], **PARAMS)",
    ),
    "streamRun": (
        "runs.stream('t', agent_id='asst_1', **PARAMS).__enter__().until_done()",
        "runs.create_stream('t', 'asst_1', **PARAMS).until_done()",
    ),
    "createThreadAndRun": (
        "create_thread_and_run(agent_id='asst_1', thread={'messages': [MESSAGE]})",
        "threads.create_and_run('asst_1', [MESSAGE])",
    ),
    "getRun": ("runs.get('t', 'r')", "runs.retrieve('r', 't')"),
    "updateRun": (
        "runs.update('t', 'r', metadata={'a': 'b'})",
        "runs.update('r', thread='t', metadata={'a': 'b'})",
    ),
    "listRuns": ("runs.list('t', **LISTED)", "runs.iter('t', **LISTED)"),
    "cancelRun": ("runs.cancel('t', 'r')", "runs.cancel('r', 't')"),
    "submit": (
        "runs.submit_tool_outputs('t', 'r', tool_outputs=OUTPUTS)",
        "runs.submit_tool_outputs('r', {'call_1': 'x'}, 't')",
    ),
    "listSteps": (
        "run_steps.list('t', 'r', include=INCLUDE, **LISTED)",
        "runs.steps.iter('r', 't', include=INCLUDE, **LISTED)",
    ),
    "getStep": (
        "run_steps.get('t', 'r', 's', include=INCLUDE)",
        "runs.steps.retrieve('s', 'r', 't', include=INCLUDE)",
    ),
}


class Credential:
    """Like one of azure-identity's, counting."""

    def __init__(self) -> None:
        self.scopes: list[tuple[str, ...]] = []

    def get_token(self, *scopes: str, **options: Any) -> Any:
        self.scopes.append(scopes)
        return types.SimpleNamespace(token=f"token {len(self.scopes)}", expires_on=2**40)


def reply(connection: Any, request: Received) -> bool | None:
    """What the operation gives, as far as both packages need it."""
    last = request.path.partition("?")[0].rsplit("/", 1)[-1]
    lists = request.method == "GET" and last in ("assistants", "threads", "messages", "runs", "steps")
    if isinstance(request.body, dict) and request.body.get("stream"):
        done = f"event: thread.run.completed\ndata: {json.dumps({**STARTED, 'status': 'completed'})}\n\n"
        return stream([done.encode(), b"event: done\ndata: [DONE]\n\n"])(connection, request)
    return answer(PAGE if lists else {**STARTED, "deleted": True})(connection, request)


def said(request: Received) -> tuple[Any, ...]:
    """A request without what changes nothing: the wish for no stream, an empty body."""
    parts = urlsplit(request.path)
    body = {k: v for k, v in (request.body or {}).items() if (k, v) != ("stream", False)}
    return request.method, parts.path, sorted(parse_qsl(parts.query)), body


@pytest.mark.parametrize("name", TWINS)
def test_the_same_requests_as_microsofts_package(name: str) -> None:
    agents = pytest.importorskip("azure.ai.agents")
    theirs, ours = TWINS[name]
    with SocketServer(reply) as server:
        microsofts = agents.AgentsClient(f"{server.url}{PROJECT}", Credential())
        # Its policy sends tokens over TLS only; nothing but the header is about that.
        microsofts._config.authentication_policy.on_request = lambda request: None
        for client, code in ((microsofts, theirs), (foundry(server), ours)):
            made = eval(f"client.{code}", globals(), {"client": client})
            if isinstance(made, Iterator):
                list(made)
    first, second = server.received
    assert said(second) == said(first)


def test_a_credential_is_asked_for_each_request() -> None:
    credential = Credential()
    with SocketServer(answer(GOING)) as server:
        azure = foundry(server, token_provider=credential)
        azure.runs.retrieve("run_1", "thread_1")
        azure.runs.cancel("run_1", "thread_1")
    assert [r.headers["authorization"] for r in server.received] == ["Bearer token 1", "Bearer token 2"]
    assert credential.scopes == [("https://ai.azure.com/.default",)] * 2
    assert all(r.path.endswith("?api-version=v1") for r in server.received)


def test_each_try_has_its_own_token_and_the_version() -> None:
    busy = answer({"error": {"code": "Throttled", "message": "Slow down."}}, 429)
    credential = Credential()
    with SocketServer(busy, answer(GOING), stream([]), answer(PAGE)) as server:
        azure = foundry(server, token_provider=credential)
        azure.runs.create("thread_1", "asst_1")
        azure.runs.create_stream("thread_1", "asst_1").close()
        list(azure.threads.iter())
    assert [r.headers["authorization"][-1] for r in server.received] == ["1", "2", "3", "4"]
    assert all("api-version=v1" in r.path for r in server.received)
    assert server.received[-1].path.startswith(f"{PROJECT}/threads?")


def test_azure_openai_takes_its_key_in_a_header_of_its_own() -> None:
    with SocketServer(answer(GOING)) as server:
        Client(f"{server.url}/openai", "key", api_version="2024-05-01-preview").runs.retrieve(
            "run_1", "thread_1"
        )
    (request,) = server.received
    assert request.path == "/openai/threads/thread_1/runs/run_1?api-version=2024-05-01-preview"
    assert request.headers["api-key"] == "key" and "authorization" not in request.headers


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (
            401,
            {"error": {"code": "PermissionDenied", "message": "Missing a role."}},
            nbruns.AuthenticationError,
            "a role",
        ),
        (
            404,
            {"statusCode": 404, "message": "Resource not found"},
            nbruns.NotFoundError,
            "Resource not found",
        ),
        (
            429,
            {"error": {"code": "429", "message": "Rate limit", "innererror": {}}},
            nbruns.RateLimitError,
            "Rate limit",
        ),
        (400, {"error": {"code": None, "message": None, "details": []}}, nbruns.BadRequestError, "400"),
        (404, {"detail": "Not Found"}, nbruns.NotFoundError, "Not Found"),
        (409, {"id": "x", "error": {"message": "Busy."}}, nbruns.ConflictError, "Busy"),
        (
            403,
            {"error": "Public access is disabled."},
            nbruns.PermissionDeniedError,
            "Public access is disabled",
        ),
    ],
)
def test_errors_as_azure_words_them(
    status: int, body: Any, kind: type[nbruns.APIError], message: str
) -> None:
    with (
        SocketServer(answer(body, status, apim_request_id="apim-7")) as server,
        pytest.raises(kind, match=message) as e,
    ):
        foundry(server, max_retries=0).runs.retrieve("run_1", "thread_1")
    assert e.value.request_id == "apim-7"


def test_objects_as_azure_has_them() -> None:
    """An agent's tools, activities and call kinds that OpenAI's API did not have, and its details where it has text."""
    calls = [
        {"id": "a", "type": "bing_grounding", "bing_grounding": {"requesturl": "https://bing"}},
        {"id": "b", "type": "openapi", "openapi": {"name": "g", "arguments": "{}", "output": "1"}},
        {
            "id": "c",
            "type": "connected_agent",
            "connected_agent": {"name": "h", "arguments": "{}", "output": None},
        },
        {"id": "d", "type": "azure_ai_search", "azure_ai_search": {"input": "rain", "output": "[]"}},
        {
            "id": "e",
            "type": "browser_automation",
            "browser_automation": {"input": "x", "output": "y", "steps": []},
        },
    ]
    step = RunStep({"id": "s", "step_details": {"type": "tool_calls", "tool_calls": calls}, "usage": None})
    assert [(c.name, c.arguments, c.output) for c in step.tool_calls] == [
        ("bing_grounding", "", None),
        ("g", "{}", "1"),
        ("h", "{}", None),
        ("azure_ai_search", "rain", "[]"),
        ("browser_automation", "x", "y"),
    ]
    activity = {
        "type": "activities",
        "activities": [{"type": "mcp_list_tools", "server_label": "docs", "tools": {}}],
    }
    assert RunStep({"id": "s", "step_details": activity}).tool_calls == []
    run = Run(
        {
            **IDS,
            "status": "incomplete",
            "incomplete_details": {"reason": "max_completion_tokens"},
            "usage": {},
        }
    )
    assert run.usage is not None and run.is_terminal and run.created_at_utc is None
