"""Answers as odd servers send them: what nobody can make sense of is told, what only looks odd is understood."""

from __future__ import annotations

import json
import socket
import threading
import time
from email.utils import formatdate

import pytest
from socket_server import Received, SocketServer, answer, hang_up, stream

import nbruns
from nbruns.client import Client
from nbruns.headers import retry_after
from nbruns.text import MAX_DEPTH, parse_json

IDS = {"thread_id": "thread_1", "assistant_id": "asst_1"}
RUN = {"id": "run_1", "object": "thread.run", "status": "in_progress", **IDS}
DONE = {**RUN, "status": "completed"}
EVENT = (
    b'event: thread.run.completed\ndata: {"id": "run_1", "object": "thread.run", "status": "completed"}\n\n'
)


def client(server: SocketServer, **options: object) -> Client:
    return Client(f"{server.url}/v1", "key", **{"timeout": 5.0, "max_retries": 0, **options})  # type: ignore[arg-type]


def nested(levels: int) -> bytes:
    return b'{"id": "run_1", "x": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize("body", [b"[" * 100_000, nested(MAX_DEPTH + 1), nested(700)])
@pytest.mark.parametrize("status", [200, 400, 503])
def test_json_without_end_is_told_as_any_other_nonsense(body: bytes, status: int) -> None:
    with SocketServer(answer(body=body, status=status)) as server, pytest.raises(nbruns.APIError) as caught:
        client(server).runs.retrieve("run_1", "thread_1")
    assert caught.value.status == status
    assert caught.value.message.startswith("where a JSON object was expected: ")
    assert len(caught.value.message) < 250


@pytest.mark.parametrize("data", [b"[" * 100_000, nested(700)])
def test_an_event_without_end_leads_to_what_became_of_the_run(data: bytes) -> None:
    started = b"event: thread.run.in_progress\ndata: %b\n\n" % json.dumps(RUN).encode()
    event = b"event: thread.run.step.created\ndata: " + data + b"\n\n"
    empty = answer({"data": [], "has_more": False})
    with SocketServer(stream([started, event]), answer(DONE), empty, empty) as server:
        with client(server).runs.create_stream("thread_1", "asst_1") as events:
            assert events.until_done().status == "completed"


def test_a_run_without_a_thread_can_not_be_asked_for() -> None:
    started = EVENT.replace(b"completed", b"in_progress")
    with SocketServer(stream([started])) as server, client(server).runs.create_stream("t", "a") as events:
        with pytest.raises(nbruns.StreamError, match="named a run and its thread") as caught:
            events.until_done()
    assert caught.value.snapshot is events.snapshot and len(server.received) == 1


def test_json_may_have_many_brackets_that_are_not_nested() -> None:
    assert parse_json(b'["' + b"[" * 500 + b'"]') == ["[" * 500]
    assert parse_json("[" + "{}, " * 500 + "{}]") == [{}] * 501
    assert parse_json(nested(MAX_DEPTH))["id"] == "run_1"


@pytest.mark.parametrize("told", ["nan", "-5", "inf", "1e400", "soon", ""])
def test_a_pause_that_is_none_is_not_kept(told: str) -> None:
    with SocketServer(answer(RUN, openai_poll_after_ms=told), answer(DONE)) as server:
        assert client(server).runs.wait("run_1", thread="thread_1").status == "completed"
    assert len(server.received) == 2


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "3", "retry-after-ms": "40"}, 0.04),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Wed, 99 Oct 99999999 07:28:00 GMT"}, None),
        ({}, None),
    ],
)
def test_when_to_ask_again(headers: dict[str, str], told: float | None) -> None:
    assert retry_after(headers) == told


def test_a_date_to_ask_again_is_counted_by_the_servers_clock() -> None:
    now = time.time() + 86_400  # a clock that is a day fast
    told = {"Retry_After": formatdate(now + 30), "Date": formatdate(now)}
    with SocketServer(answer({"error": {"message": "Later."}}, 429, **told)) as server:
        with pytest.raises(nbruns.RateLimitError) as caught:
            client(server).runs.retrieve("run_1", "thread_1")
    assert caught.value.retry_after == 30.0


@pytest.mark.parametrize("kind", ["Text/Event-Stream", "text/event-stream;charset=UTF-8"])
def test_a_streams_type_in_any_spelling(kind: str) -> None:
    with SocketServer(stream([EVENT], Content_Type=kind)) as server:
        with client(server).runs.create_stream("thread_1", "asst_1") as events:
            assert events.until_done().status == "completed"


@pytest.mark.parametrize(
    "body", [b'{"id": "run_1", "x": "\\u001b[31m' + b"y" * 500 + b'"}', b"<html>\x1b[31m" + b"y" * 500]
)
def test_what_is_no_stream_is_shown_shortened(body: bytes) -> None:
    with SocketServer(answer(body=body)) as server, pytest.raises(nbruns.APIError) as caught:
        client(server).runs.create_stream("thread_1", "asst_1")
    shown = caught.value.message.partition("expected: ")[2] or caught.value.message.partition("stream: ")[2]
    assert shown[:2] in ('{"', "<h") and shown.endswith("yyy…") and len(shown) == 200
    assert shown.isprintable()


def created(at: object) -> dict[str, object]:
    return {"data": [{**RUN, "created_at": at}], "has_more": False}


@pytest.mark.parametrize(
    "found",
    [{"data": 5}, {"data": "x"}, {"data": [None, [], "run"]}, created("x"), created({}), created(None)],
    ids=["a number", "a text", "no objects", "no time", "an object for a time", "null"],
)
def test_a_lost_run_is_not_found_in_nonsense(found: object) -> None:
    with SocketServer(hang_up, answer(found), answer({**RUN, "id": "run_2"})) as server:
        assert client(server, max_retries=1).runs.create("thread_1", "asst_1").id == "run_2"
    assert [r.method for r in server.received] == ["POST", "GET", "POST"]


@pytest.mark.parametrize(("seconds_ago", "id"), [(600, "run_2"), (0, "run_1")], ids=["old", "new"])
def test_a_lost_run_is_known_by_its_time_in_milliseconds_too(seconds_ago: float, id: str) -> None:
    found = created(int((time.time() - seconds_ago) * 1000))
    with SocketServer(hang_up, answer(found), answer({**RUN, "id": "run_2"})) as server:
        assert client(server, max_retries=1).runs.create("thread_1", "asst_1").id == id


def test_a_client_is_closed_by_its_block() -> None:
    hung_up = threading.Event()

    def kept_open(connection: socket.socket, request: Received) -> None:
        answer(RUN, Connection="keep-alive")(connection, request)
        assert connection.recv(1) == b""
        hung_up.set()

    with SocketServer(kept_open) as server:
        with client(server) as entered:
            entered.runs.retrieve("run_1", "thread_1")
            assert not hung_up.is_set()
        assert hung_up.wait(10)


def mute(connection: socket.socket, request: Received) -> None:
    """No answer at all, until the client gives up."""
    connection.recv(1)


def test_a_proxy_is_used_and_hung_up_as_the_server_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    hung_up = threading.Event()

    def trickling_head(connection: socket.socket, request: Received) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Header: ")
        try:
            for _ in range(500):
                connection.sendall(b"x")
                time.sleep(0.01)
        except OSError:
            hung_up.set()

    with SocketServer(answer(RUN), trickling_head) as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")  # what other tests' threads may still ask for
        behind = Client("http://server.invalid/v1", "key", timeout=60.0, max_retries=0)
        assert behind.runs.retrieve("run_1", "thread_1").id == "run_1"
        with pytest.raises(nbruns.TimeoutError, match=r"still active after 0\.2 s"):
            behind.runs.wait("run_1", timeout=0.2, thread="thread_1")
        assert hung_up.wait(10)
    assert {r.path for r in proxy.received} == {"http://server.invalid/v1/threads/thread_1/runs/run_1"}


def test_what_requests_refuses_to_send_is_told_with_a_remedy() -> None:
    with pytest.raises(nbruns.ConnectionError, match=r"InvalidURL\. Check base_url and the proxy settings"):
        Client("http://127.0.0.1:port/v1", max_retries=0).runs.retrieve("run_1", "thread_1")


def test_a_stream_that_falls_silent_is_carried_on() -> None:
    def silent(connection: socket.socket, request: Received) -> None:
        stream([b"event: thread.run.in_progress\ndata: %b\n\n" % json.dumps(RUN).encode()])(
            connection, request
        )
        connection.recv(1)  # until the client gives up

    empty = answer({"data": [], "has_more": False})
    missing = answer({"error": {"message": "no"}}, 404)
    with SocketServer(silent, missing, answer(DONE), empty, empty) as server:
        with client(server, timeout=0.2).runs.create_stream("thread_1", "asst_1") as events:
            assert events.until_done().status == "completed"


def test_a_wait_whose_server_is_mute_ends_with_the_clients_own_timeout() -> None:
    with SocketServer(mute) as server, pytest.raises(nbruns.TimeoutError, match="no answer in time"):
        client(server, timeout=0.1).runs.wait("run_1", thread="thread_1")
