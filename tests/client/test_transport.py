"""Requests, repetitions and errors, against a socket server that misbehaves as each test scripts it."""

from __future__ import annotations

import json
import socket
import threading
import time
from urllib.parse import quote

import pytest
from socket_server import Answer, Received, SocketServer, answer, hang_up, stream

import nbruns
from nbruns import errors
from nbruns.client import Client

RUN = {
    "id": "run_1",
    "object": "thread.run",
    "thread_id": "thread_1",
    "assistant_id": "asst_1",
    "status": "queued",
}
KEY = "sk-never-to-be-seen"


def client(server: SocketServer, **options: object) -> Client:
    return Client(f"{server.url}/v1", KEY, **{"timeout": 5.0, **options})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbruns.client.transport._backoff", lambda attempt, retry_after: 0.0)


def test_what_is_sent() -> None:
    with SocketServer(answer(RUN)) as server:
        client(server).runs.create("thread_1", "asst_1", include=["a[*].b"], temperature=0, odd_one={"x": 1})
    (request,) = server.received
    assert (request.method, request.path) == ("POST", "/v1/threads/thread_1/runs?include%5B%5D=a%5B%2A%5D.b")
    assert request.body == {"assistant_id": "asst_1", "temperature": 0, "odd_one": {"x": 1}}
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["openai-beta"] == "assistants=v2"


ODD_IDS = [
    "",
    ".",
    "..",
    "../assistants",
    "a/b",
    "a\\b",
    "%2e%2e",
    "..%2f",
    "a\n",
    "a\0",
    "a\x7f",
    "\ud800",
    "x" * 513,
]


@pytest.mark.parametrize("id", ODD_IDS)
def test_an_id_can_not_point_elsewhere(id: str) -> None:
    with SocketServer(answer(RUN)) as server:
        of = client(server)
        odd_run = nbruns.objects.Run({"id": id, "thread_id": "thread_1", "assistant_id": id})
        odd_thread = nbruns.objects.Run({"id": "run_1", "thread_id": id})
        asked = [
            lambda: of.assistants.delete(id),
            lambda: of.threads.delete(id),
            lambda: of.messages.delete(id, "thread_1"),
            lambda: of.messages.list(id),
            lambda: of.runs.retrieve(id, "thread_1"),
            lambda: of.runs.retrieve("run_1", id),
            lambda: of.runs.cancel(odd_run),
            lambda: of.runs.cancel(odd_thread),
            lambda: of.runs.assistant_of(odd_run),
            lambda: of.runs.wait(odd_run),
            lambda: of.runs.list(id),
            lambda: of.runs.list([id]),
            lambda: of.runs.create(id, "asst_1"),
            lambda: of.runs.submit_tool_outputs(odd_run, {"call_1": "x"}),
            lambda: of.runs.steps.list("run_1", id),
            lambda: of.runs.steps.retrieve(id, "run_1", "thread_1"),
            lambda: of.runs.watch(run=id, thread="thread_1"),
        ]
        for ask in asked:
            with pytest.raises(
                (nbruns.InvalidIdError, TypeError), match=r"is not an id: |Pass an id or |With a bare id"
            ):
                ask()  # type: ignore[no-untyped-call]
        assert server.received == []


def test_an_id_that_a_server_sends_can_not_point_elsewhere_either() -> None:
    run = {**RUN, "id": "..", "status": "in_progress"}
    event = b"event: thread.run.in_progress\ndata: %b\n\n" % json.dumps(run).encode()
    with SocketServer(stream([event])) as server:
        with client(server).runs.create_stream("thread_1", "asst_1") as events:
            with pytest.raises(nbruns.InvalidIdError, match=r"'\.\.' is not an id"):
                events.until_done()
    assert len(server.received) == 1


@pytest.mark.parametrize("id", ["run_1", "Ünï 🌮", "a?x=1#b", "a:b;c", "...", "~a"])
def test_any_other_id_is_quoted(id: str) -> None:
    with SocketServer(answer(RUN)) as server:
        client(server).runs.retrieve(id, "thread_1")
    assert server.received[0].path == f"/v1/threads/thread_1/runs/{quote(id, safe='')}"


def test_azure_takes_a_version_and_a_token_for_each_request() -> None:
    tokens = iter(["one", "two"])
    with SocketServer(answer(RUN)) as server:
        azure = client(server, api_version="2025-05-01", token_provider=lambda: next(tokens))
        azure.runs.retrieve("run_1", "thread_1")
        azure.runs.retrieve("run_1", "thread_1")
    assert [r.headers["authorization"] for r in server.received] == ["Bearer one", "Bearer two"]
    assert {r.path for r in server.received} == {"/v1/threads/thread_1/runs/run_1?api-version=2025-05-01"}


def test_azure_openai_takes_an_api_key() -> None:
    with SocketServer(answer(RUN)) as server:
        Client(f"{server.url}/openai", KEY).runs.retrieve("run_1", "thread_1")
    assert server.received[0].headers["api-key"] == KEY and "authorization" not in server.received[0].headers


ERROR = {
    "error": {"message": "No such thing.", "type": "invalid_request_error", "param": "id", "code": "nope"}
}


KINDS = [
    (400, errors.BadRequestError),
    (401, errors.AuthenticationError),
    (403, errors.PermissionDeniedError),
    (404, errors.NotFoundError),
    (409, errors.ConflictError),
    (418, errors.APIError),
    (422, errors.BadRequestError),
    (429, errors.RateLimitError),
    (500, errors.ServerError),
    (503, errors.ServerError),
]


@pytest.mark.parametrize(("status", "kind"), KINDS)
def test_each_status_has_its_error(status: int, kind: type[errors.APIError]) -> None:
    with SocketServer(answer(ERROR, status, x_request_id="req_7", Retry_After="3")) as server:
        with pytest.raises(kind) as caught:
            client(server, max_retries=0).runs.retrieve("run_1", "thread_1")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.type, error.param) == (
        status,
        "nope",
        "invalid_request_error",
        "id",
    )
    assert (error.message, error.request_id, error.retry_after) == ("No such thing.", "req_7", 3.0)
    assert (error.method, error.path) == ("GET", "/v1/threads/thread_1/runs/run_1")
    assert (
        "GET /v1/threads/thread_1/runs/run_1" in str(error)
        and error.remedy in str(error)
        and "req_7" in str(error)
    )


def test_an_active_run_is_named() -> None:
    told = {"error": {"message": "Thread thread_1 already has an active run run_abc."}}
    with SocketServer(answer(told, 400, x_request_id="req_7")) as server:
        with pytest.raises(nbruns.ActiveRunError, match=r"req_7\]\nWait for that run") as caught:
            client(server).runs.create("thread_1", "asst_1")
    assert (caught.value.run_id, caught.value.request_id) == ("run_abc", "req_7")


def test_no_kind_of_answer_is_left_out() -> None:
    """Each error of an answer is raised by one in the two tests above."""
    every = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.APIError)
    }
    assert {kind for _, kind in KINDS} | {errors.ActiveRunError} == every


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(
            b"<html><script>alert(1)</script>\x1b[31m</html>",
            r"<html><script>alert(1)</script>\x1b[31m</html>",
            id="HTML",
        ),
        pytest.param(b"", "nothing", id="empty"),
        pytest.param(b"[1]", "[1]", id="list"),
        pytest.param(b"null", "null", id="null"),
        pytest.param(b"{" * 5000, "{" * 199 + "…", id="long"),
    ],
)
def test_an_answer_that_is_no_object_is_shown_shortened(body: bytes, said: str) -> None:
    with SocketServer(answer(body=body)) as server, pytest.raises(errors.APIError) as caught:
        client(server).runs.retrieve("run_1", "thread_1")
    assert caught.value.message == f"where a JSON object was expected: {said}"


def test_a_success_with_an_error_object_is_an_error() -> None:
    with SocketServer(answer(ERROR)) as server, pytest.raises(errors.APIError, match="No such thing"):
        client(server).runs.retrieve("run_1", "thread_1")


def test_a_redirection_is_not_followed() -> None:
    with SocketServer(answer(RUN)) as other:
        moved = answer({}, 307, Location=f"{other.url}/v1")
        with SocketServer(moved) as server, pytest.raises(errors.APIError, match="not followed"):
            client(server).runs.create("thread_1", "asst_1")
    assert other.received == []


def test_a_redirection_is_not_read_either() -> None:
    def moved(connection: socket.socket, request: Received) -> None:
        connection.sendall(b"HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nContent-Length: 9\r\n\r\n")
        connection.recv(1)  # what it has announced never comes

    with SocketServer(moved) as server, pytest.raises(errors.APIError, match="not followed"):
        Client(server.url, timeout=2, max_retries=0).runs.retrieve("run_1", "thread_1")


def test_a_password_in_the_address_is_not_shown() -> None:
    assert repr(Client("http://user:secret@127.0.0.1:1/v1")) == "Client(http://127.0.0.1:1/v1)"


@pytest.mark.parametrize("status", [409, 429, 503])
def test_a_post_that_was_not_taken_is_repeated(status: int) -> None:
    with SocketServer(answer(ERROR, status), answer(ERROR, status), answer(RUN)) as server:
        assert client(server).runs.create("thread_1", "asst_1").id == "run_1"
    assert [r.method for r in server.received] == ["POST"] * 3


def test_an_exhausted_quota_is_not_asked_again() -> None:
    told = {"error": {"message": "Pay.", "code": "insufficient_quota"}}
    with SocketServer(answer(told, 429)) as server, pytest.raises(errors.RateLimitError):
        client(server).runs.create("thread_1", "asst_1")
    assert len(server.received) == 1


@pytest.mark.parametrize("lost", [hang_up, answer(ERROR, 500), answer(ERROR, 502), answer(ERROR, 504)])
def test_a_get_is_repeated(lost: object) -> None:
    with SocketServer(lost, answer(RUN)) as server:  # type: ignore[arg-type]
        assert client(server).runs.retrieve("run_1", "thread_1").id == "run_1"


def created_at(seconds_ago: float, **fields: object) -> dict[str, object]:
    return {**RUN, "created_at": int(time.time() - seconds_ago), **fields}


def listed(*runs: dict[str, object]) -> dict[str, object]:
    return {"object": "list", "data": list(runs), "has_more": False}


@pytest.mark.parametrize("lost", [hang_up, answer(ERROR, 500), answer(ERROR, 502), answer(ERROR, 504)])
def test_a_run_whose_answer_was_lost_is_found_not_made_again(lost: object) -> None:
    with SocketServer(lost, answer(listed(created_at(0), created_at(600, id="run_old")))) as server:  # type: ignore[arg-type]
        assert client(server).runs.create("thread_1", "asst_1").id == "run_1"
    assert [r.method for r in server.received] == ["POST", "GET"]


@pytest.mark.parametrize(
    "there",
    [created_at(600), created_at(0, assistant_id="asst_other"), created_at(0, metadata={"by": "somebody"})],
    ids=["old", "another assistant's", "other metadata"],
)
def test_a_run_that_was_not_made_is_made_after_all(there: dict[str, object]) -> None:
    with SocketServer(hang_up, answer(listed(there)), answer(created_at(0, id="run_2"))) as server:
        assert client(server).runs.create("thread_1", "asst_1").id == "run_2"
    assert [r.method for r in server.received] == ["POST", "GET", "POST"]


def requires(*calls: str) -> dict[str, object]:
    action = {
        "type": "submit_tool_outputs",
        "submit_tool_outputs": {"tool_calls": [{"id": c} for c in calls]},
    }
    return {**RUN, "status": "requires_action", "required_action": action}


def test_outputs_whose_answer_was_lost_are_not_submitted_twice() -> None:
    with SocketServer(hang_up, answer({**RUN, "status": "in_progress"})) as server:
        assert (
            client(server).runs.submit_tool_outputs("run_1", {"call_1": "x"}, "thread_1").status
            == "in_progress"
        )
    assert [r.method for r in server.received] == ["POST", "GET"]


def test_outputs_that_did_not_arrive_are_submitted_again() -> None:
    with SocketServer(hang_up, answer(requires("call_1")), answer(RUN)) as server:
        assert (
            client(server).runs.submit_tool_outputs("run_1", {"call_1": {"a": 1}}, "thread_1").status
            == "queued"
        )
    assert [r.method for r in server.received] == ["POST", "GET", "POST"]
    assert server.received[2].body == {"tool_outputs": [{"tool_call_id": "call_1", "output": '{"a":1}'}]}


@pytest.mark.parametrize("id", ["call_1", ""])
def test_calls_that_share_an_id_are_answered_by_a_list_and_not_by_a_dict(id: str) -> None:
    outputs = [{"tool_call_id": id, "output": text} for text in ("one", "two")]
    with SocketServer(answer(RUN)) as server:
        runs, run = client(server).runs, nbruns.objects.Run(requires(id, id))
        for submit in (
            runs.submit_tool_outputs,
            runs.submit_tool_outputs_stream,
            runs.submit_tool_approvals,
            runs.submit_tool_approvals_stream,
        ):
            with pytest.raises(TypeError, match=f"2 tool calls of the run have the id '{id}'.*Pass a list"):
                submit(run, {id: True})  # type: ignore[operator]
        with pytest.raises(TypeError, match="id of a tool call is a string, not None"):
            runs.submit_tool_outputs(run, {None: "x"})  # type: ignore[dict-item]
        assert runs.submit_tool_outputs(run, outputs).status == "queued"
    assert [request.body for request in server.received] == [{"tool_outputs": outputs}]


def test_other_posts_are_not_repeated_when_they_may_have_been_taken() -> None:
    with (
        SocketServer(hang_up) as server,
        pytest.raises(errors.ConnectionError, match="broke before the answer"),
    ):
        client(server).threads.create("Hello")
    assert len(server.received) == 1


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(
        errors.ConnectionError, match=f"POST 127.0.0.1:{port}/v1/threads.*Is the server running"
    ):
        Client(f"http://127.0.0.1:{port}/v1").runs.create("thread_1", "asst_1")


def test_an_answer_that_does_not_come() -> None:
    with SocketServer(mute) as server, pytest.raises(errors.TimeoutError, match="no answer in time"):
        client(server, timeout=0.1, max_retries=0).runs.retrieve("run_1", "thread_1")


def test_waiting_has_a_deadline() -> None:
    with SocketServer(answer(RUN, openai_poll_after_ms="10")) as server:
        with pytest.raises(nbruns.TimeoutError, match=r"run_1 is still active after 1 s"):
            client(server).runs.wait("run_1", timeout=1, thread="thread_1")
    assert len(server.received) > 2  # the server asked to be asked every 10 ms


def trickle(connection: socket.socket, request: Received) -> None:
    """An answer that goes on and on, a byte at a time."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.01)


def silent(connection: socket.socket, request: Received) -> None:
    """Half an answer, then nothing until the client gives up."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{")
    connection.recv(1)


def trickling_head(connection: socket.socket, request: Received) -> None:
    """A head that goes on and on: each byte starts the socket's time-out anew."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Header: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.01)


def mute(connection: socket.socket, request: Received) -> None:
    """No answer at all, until the client gives up."""
    connection.recv(1)


@pytest.mark.parametrize("hangs", [trickle, silent, trickling_head, mute])
def test_waiting_keeps_its_deadline_whatever_the_server_does(hangs: Answer) -> None:
    outcome: list[str] = []

    def wait(of: Client) -> None:
        with pytest.raises(nbruns.TimeoutError) as caught:
            of.runs.wait("run_1", timeout=0.3, thread="thread_1")
        outcome.append(str(caught.value))

    with SocketServer(hangs) as server:
        waiting = threading.Thread(target=wait, args=[client(server, timeout=60.0)])
        waiting.start()
        waiting.join(10)  # far from 0.3, and far from the client's own 60 s
        assert not waiting.is_alive()
    assert "still active after 0.3 s" in outcome[0]


def test_an_error_near_the_deadline_is_told_at_once() -> None:
    with SocketServer(answer(ERROR, 404)) as server, pytest.raises(nbruns.NotFoundError):
        client(server).runs.wait("run_1", timeout=0.2, thread="thread_1")
    assert len(server.received) == 1


def test_a_long_wait_does_not_wait_longer_for_an_answer_than_the_client() -> None:
    with SocketServer(mute, answer({**RUN, "status": "completed"})) as server:
        assert client(server, timeout=2.0).runs.wait("run_1", timeout=60, thread="thread_1").is_terminal
    assert len(server.received) == 2


@pytest.mark.parametrize(
    "status", ["requires_action", "completed", "incomplete", "failed", "expired", "cancelled"]
)
def test_waiting_ends_with_the_run(status: str) -> None:
    with SocketServer(answer(RUN), answer({**requires("call_1"), "status": status})) as server:
        assert client(server).runs.wait("run_1", thread="thread_1", poll_interval=0).status == status


def test_a_stream_that_is_none() -> None:
    with (
        SocketServer(answer(ERROR, 429), answer(RUN)) as server,
        pytest.raises(errors.APIError, match="no event stream"),
    ):
        client(server).runs.create_stream("thread_1", "asst_1")
    assert len(server.received) == 2


def test_a_bare_id_needs_its_thread() -> None:
    with SocketServer(stream([])) as server:
        with pytest.raises(TypeError, match=r"pass thread=… too"):
            client(server).runs.retrieve("run_1")
        with pytest.raises(TypeError, match="Pass a thread and an assistant"):
            client(server).runs.watch("thread_1")
    assert server.received == []


def test_no_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBRUNS_BASE_URL", raising=False)
    with pytest.raises(nbruns.SetupError, match=r"nbruns\.local\(\).*nbruns serve.*NBRUNS_BASE_URL"):
        Client()
    monkeypatch.setenv("NBRUNS_BASE_URL", "http://127.0.0.1:9/v1")
    assert Client().base_url == "http://127.0.0.1:9/v1"
    with pytest.raises(ValueError, match="http://"):
        Client("127.0.0.1:9")


def test_pages_are_read_to_the_end_and_repeats_dropped() -> None:
    def page(*ids: str, more: bool) -> object:
        runs = [{**RUN, "id": i} for i in ids]
        return answer({"data": runs, "has_more": more, "last_id": ids[-1]})

    pages = page("run_1", "run_2", more=True), page("run_2", "run_3", more=True), page("run_4", more=False)
    with SocketServer(*pages) as server:  # type: ignore[arg-type]
        assert list(client(server).runs.list("thread_1")["id"]) == ["run_1", "run_2", "run_3", "run_4"]
    assert [r.path.partition("after=")[2].partition("&")[0] for r in server.received] == [
        "",
        "run_2",
        "run_3",
    ]
    with SocketServer(*pages) as server:  # type: ignore[arg-type]
        assert len(client(server).runs.list("thread_1", limit=3)) == 3
    assert len(server.received) == 2
