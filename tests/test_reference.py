"""Our requests and answers against the OpenAPI description of the Assistants API, and against recordings of it.

Every operation is called with values that reach each parameter, each alternative and each null that the description
declares; what arrives at a socket server must be that operation, with those values, at the places that it names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from openapi import Description, Operation
from socket_server import Answer, Received, SocketServer, answer, stream

from nbruns.client import Client
from nbruns.objects import APIObject, parse_object

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "assistants-openapi.yaml"
pytestmark = pytest.mark.skipif(not REFERENCE.exists(), reason=f"no description of the API at {REFERENCE}")
DESCRIPTION = Description.read(REFERENCE) if REFERENCE.exists() else Description("{paths: {}}")
OPERATIONS = list(DESCRIPTION.operations.values())

Params = dict[str, Any]
#: Calls an operation: the client, its path's parts by name, its other parameters.
Call = Callable[[Client, dict[str, str], Params], Any]


def _streamed(plain: str, streaming: str) -> Call:
    """A call of one method of `client`, of its twin where the parameters ask for a stream; both dotted names."""

    def call(client: Client, ids: dict[str, str], params: Params) -> Any:
        asked = params.get("stream")
        given = {name: value for name, value in params.items() if name != "stream" or not asked}
        made = _method(client, streaming if asked else plain)(*_places(ids, given), **given)
        return made.until_done() if asked else made

    return call


def _plain(name: str) -> Call:
    def call(client: Client, ids: dict[str, str], params: Params) -> Any:
        return _method(client, name)(*_places(ids, params), **params)

    return call


def _listed(name: str) -> Call:
    return lambda client, ids, params: list(_method(client, name)(*ids.values(), **params))


def _in_thread(name: str) -> Call:
    """An object that lives in a thread: bare ids need the thread too, by its keyword."""

    def call(client: Client, ids: dict[str, str], params: Params) -> Any:
        (*_, own) = ids.values()
        positional = [own, ids["run_id"]] if "step_id" in ids else [own]
        return _method(client, name)(*positional, thread=ids["thread_id"], **params)

    return call


def _method(client: Client, dotted: str) -> Callable[..., Any]:
    found: Any = client
    for name in dotted.split("."):
        found = getattr(found, name)
    return found  # type: ignore[no-any-return]


def _places(ids: dict[str, str], params: Params) -> list[str]:
    """The ids of the path, and the assistant's, which our methods take by position."""
    return [*ids.values(), *([params.pop("assistant_id")] if "assistant_id" in params else [])]


def _submit(client: Client, ids: dict[str, str], params: Params) -> Any:
    outputs, thread = params["tool_outputs"], ids["thread_id"]
    if not params.get("stream"):
        return client.runs.submit_tool_outputs(ids["run_id"], outputs, thread)
    return client.runs.submit_tool_outputs_stream(ids["run_id"], outputs, thread).until_done()


CALLS: dict[str, Call] = {
    "listAssistants": _listed("assistants.iter"),
    "createAssistant": _plain("assistants.create"),
    "getAssistant": _plain("assistants.retrieve"),
    "modifyAssistant": _plain("assistants.update"),
    "deleteAssistant": _plain("assistants.delete"),
    "createThread": _plain("threads.create"),
    "createThreadAndRun": _streamed("threads.create_and_run", "threads.create_and_run_stream"),
    "getThread": _plain("threads.retrieve"),
    "modifyThread": _plain("threads.update"),
    "deleteThread": _plain("threads.delete"),
    "listMessages": _listed("messages.iter"),
    "createMessage": _plain("messages.create"),
    "getMessage": _in_thread("messages.retrieve"),
    "modifyMessage": _in_thread("messages.update"),
    "deleteMessage": _in_thread("messages.delete"),
    "listRuns": _listed("runs.iter"),
    "createRun": _streamed("runs.create", "runs.create_stream"),
    "getRun": _in_thread("runs.retrieve"),
    "modifyRun": _in_thread("runs.update"),
    "cancelRun": _in_thread("runs.cancel"),
    "listRunSteps": lambda client, ids, params: list(
        client.runs.steps.iter(ids["run_id"], ids["thread_id"], **params)
    ),
    "getRunStep": _in_thread("runs.steps.retrieve"),
    "submitToolOuputsToRun": _submit,
}

RUN = {"id": "run_1", "object": "thread.run", "thread_id": "thread_1", "status": "completed"}
EVENTS = f"event: thread.run.completed\ndata: {json.dumps(RUN)}\n\nevent: done\ndata: [DONE]\n\n".encode()


class Replying:
    """An answer that can be exchanged between two requests."""

    def __init__(self) -> None:
        self.answer: Answer = answer(RUN)

    def __call__(self, connection: Any, request: Received) -> None:
        self.answer(connection, request)


@pytest.fixture(scope="module")
def replying() -> Iterator[tuple[Client, SocketServer, Replying]]:
    """A client of a server whose answer the test sets."""
    reply = Replying()
    with SocketServer(reply) as server:
        yield Client(server.url, "key", timeout=5.0, max_retries=0), server, reply


def ids_of(operation: Operation) -> dict[str, str]:
    return {name: f"{name.removesuffix('_id')}_1" for name in re.findall(r"{(\w+)}", operation.path)}


def queries_of(operation: Operation) -> list[Params]:
    samples = {name: DESCRIPTION.samples(schema) for name, schema in operation.query.items()}
    most = max(map(len, samples.values()), default=1)
    return [
        {name: values[i % len(values)] for name, values in samples.items() if values[i % len(values)] != []}
        for i in range(most)
    ]


def sent_query(target: str) -> Params:
    return {
        name: values if name.endswith("[]") else values[0]
        for name, values in parse_qs(urlsplit(target).query, keep_blank_values=True).items()
    }


def as_text(query: Params) -> Params:
    return {name: value if isinstance(value, list) else str(value) for name, value in query.items()}


def test_there_is_a_call_for_every_operation() -> None:
    assert set(CALLS) == set(DESCRIPTION.operations)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_parameter_arrives_where_the_description_wants_it(
    operation: Operation, replying: tuple[Client, SocketServer, Replying]
) -> None:
    client, server, reply = replying
    bodies = DESCRIPTION.samples(operation.body) if operation.body else [None]
    queries = queries_of(operation)
    for i in range(max(len(bodies), len(queries))):
        query, body = queries[i % len(queries)], bodies[i % len(bodies)]
        if operation.body:
            DESCRIPTION.check(body, operation.body)  # a sample that is wrong would show nothing
        listed = operation.name.startswith("list")
        reply.answer = (
            stream([EVENTS]) if (body or {}).get("stream") else answer({"data": []} if listed else RUN)
        )
        given = {name.removesuffix("[]"): value for name, value in query.items()}
        CALLS[operation.name](client, ids_of(operation), {**given, **(body or {})})
        request = server.received[-1]
        DESCRIPTION.check_request(operation, request.method, request.path, request.body)
        assert urlsplit(request.path).path == operation.path.format(**ids_of(operation))
        assert sent_query(request.path) == as_text(query)
        assert _unstreamed(request.body) == _unstreamed(body)
        assert request.headers["openai-beta"] == "assistants=v2"
        assert request.headers["authorization"] == "Bearer key"
        assert (body is None) == ("content-type" not in request.headers)


def _unstreamed(body: Any) -> Any:
    """No wish for a stream, and the wish for none, are the same."""
    return {k: v for k, v in body.items() if k != "stream" or v} if isinstance(body, dict) else body


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_answer_is_read_without_loss(
    operation: Operation, replying: tuple[Client, SocketServer, Replying]
) -> None:
    client, _, reply = replying
    body = DESCRIPTION.samples(operation.body)[-1] if operation.body else {}
    params = {k: v for k, v in body.items() if k != "stream"}
    for sample in DESCRIPTION.samples(operation.answer):
        DESCRIPTION.check(sample, operation.answer)
        for i, item in enumerate(sample.get("data", ())):
            item["id"] = f"id_{i}"  # alike in all samples, and one that comes twice counts once
        if "has_more" in sample:
            sample["has_more"] = False  # the same page again would be a list that goes round in circles
        reply.answer = answer(sample)
        read = CALLS[operation.name](client, ids_of(operation), dict(params))
        if operation.name.startswith("list"):
            assert [_whole(each) for each in read] == sample["data"]
        elif not operation.name.startswith("delete"):
            assert _whole(read) == sample


def _whole(read: APIObject) -> Any:
    """An object's JSON; every attribute that it offers can be read, and it can be shown."""
    assert all(name.startswith("_") or getattr(read, name) is not NotImplemented for name in dir(read))
    assert repr(read) and read._repr_html_()
    assert type(read) is type(parse_object(read.to_dict()))
    return read.to_dict()


def test_every_event_is_read_without_loss(replying: tuple[Client, SocketServer, Replying]) -> None:
    client, _, reply = replying
    samples = [
        s for s in DESCRIPTION.samples(DESCRIPTION.schema("AssistantStreamEvent")) if s["event"] != "done"
    ]
    assert len(samples) > 100
    wire = "".join(f"event: {s['event']}\ndata: {json.dumps(s['data'])}\n\n" for s in samples)
    reply.answer = stream([wire.encode(), EVENTS])
    with client.runs.create_stream("thread_1", "asst_1") as events:
        read = list(events)
    assert [(e.event, e.data.to_dict()) for e in read[:-1]] == [(s["event"], s["data"]) for s in samples]
    assert events.snapshot.ignored == 0


def operation_of(method: str, path: str) -> tuple[Operation, dict[str, str]] | None:
    """The operation that a recorded request is of, and the ids in its path."""
    for operation in sorted(OPERATIONS, key=lambda each: "{" in each.path):
        template = re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", operation.path)
        found = re.fullmatch(f"/v1{template}", path)
        if found and operation.method == method:
            return operation, found.groupdict()
    return None


def test_what_others_were_recorded_to_send_we_send_too(
    recorded: dict[str, list[dict[str, Any]]], replying: tuple[Client, SocketServer, Replying]
) -> None:
    client, server, reply = replying
    seen = set()
    for exchange in (e for exchanges in recorded.values() for e in exchanges):
        parts = urlsplit(exchange["path"])
        found = operation_of(exchange["method"], parts.path)
        if found is None:
            assert re.match(r"/v1/(files|vector_stores)(/|$)", parts.path)  # not supported
            continue
        operation, ids = found
        seen.add(operation.name)
        body = exchange["body"]
        reply.answer = (
            stream([body.encode()]) if isinstance(body, str) else answer({**body, "has_more": False})
        )
        query = {k: v for k, v in sent_query(exchange["path"]).items()}
        given = {k.removesuffix("[]"): int(v) if k == "limit" else v for k, v in query.items()}
        read = CALLS[operation.name](client, ids, {**given, **(exchange["request"] or {})})
        request = server.received[-1]
        assert urlsplit(request.path).path == parts.path.removeprefix("/v1")
        assert set(parse_qsl(parts.query)) <= set(parse_qsl(urlsplit(request.path).query))
        assert (request.body or {}) == (exchange["request"] or {})
        if isinstance(body, dict) and "data" in body:
            assert [each.to_dict() for each in read] == body["data"]
        elif isinstance(body, dict) and exchange["method"] != "DELETE":
            assert {**read.to_dict(), "has_more": None} == {**body, "has_more": None}
    assert len(seen) > 15
