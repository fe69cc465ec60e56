"""Lists that come as JSON lines: read as they come, continued where they are cut off."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from socket_server import Answer, Received, SocketServer, answer

import nbruns
from nbruns.client import Client
from nbruns.client.transport import Extras
from nbruns.errors import APIError, ConnectionError, LimitError

JSON = dict[str, Any]


def run(number: int, **fields: Any) -> JSON:
    return {
        "id": f"run_{number}",
        "object": "thread.run",
        "thread_id": "thread_1",
        "status": "completed",
        **fields,
    }


def lines(*objects: object, cut: bool = False) -> Answer:
    """Objects as chunks of an answer; cut off without its end, in the middle of the last line."""
    text = "".join(f"{json.dumps(each)}\n" for each in objects)
    chunks = [text[at : at + 37] for at in range(0, len(text) - (40 if cut else 0), 37)]

    def send(connection: socket.socket, request: Received) -> None:
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/jsonl\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        for chunk in chunks:
            connection.sendall(f"{len(chunk.encode()):x}\r\n{chunk}\r\n".encode())
        connection.sendall(b"" if cut else b"0\r\n\r\n")

    return send


def test_a_list_is_one_answer() -> None:
    with SocketServer(lines(run(2), run(1, model="\ud83d"))) as server:
        told = Client(server.url).runs.list()
    assert told["id"].tolist() == ["run_2", "run_1"]
    [request] = server.received
    assert "application/jsonl" in request.headers["accept"]


def test_a_server_without_them_answers_with_pages() -> None:
    pages = [
        answer({"data": [run(3), run(2)], "has_more": True}),
        answer({"data": [run(1)], "has_more": False}),
    ]
    with SocketServer(*pages) as server:
        assert Client(server.url).runs.list()["id"].tolist() == ["run_3", "run_2", "run_1"]


def test_a_list_that_is_cut_off_continues_behind_its_last_object() -> None:
    with SocketServer(lines(run(4), run(3), run(2), cut=True), lines(run(2), run(1))) as server:
        told = [each.id for each in Client(server.url).runs.iter()]
    assert told == ["run_4", "run_3", "run_2", "run_1"]
    assert "after=run_3" in server.received[1].path


def test_a_list_that_is_cut_off_again_and_again_is_an_error() -> None:
    with SocketServer(lines(run(1), cut=True)) as server:
        with pytest.raises(ConnectionError):
            list(Client(server.url, max_retries=0).runs.iter())


@pytest.mark.parametrize("wrong", [lines("text"), lines([1]), lines({"object": "thread.run"})])
def test_lines_that_are_no_objects_are_an_error(wrong: Answer) -> None:
    with SocketServer(wrong) as server, pytest.raises(APIError):
        list(Client(server.url).runs.iter())


def test_a_list_has_limits_as_pages_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbruns.client.pagination.MAX_OBJECTS", 2)
    monkeypatch.setattr("nbruns.client.transport.MAX_ANSWER_BYTES", 2_000)
    with SocketServer(lines(run(3), run(2), run(1))) as server:
        with pytest.raises(LimitError, match="over 2 objects"):
            list(Client(server.url).runs.iter())
        assert len(list(Client(server.url).runs.iter(limit=101))) == 3
    with SocketServer(lines(run(1, instructions="x" * 3_000))) as server:
        with pytest.raises(LimitError, match="2,000 bytes in one line"):
            list(Client(server.url).runs.iter())


def test_steps_of_many_runs_come_in_one_request() -> None:
    steps = [{"id": f"step_{n}", "object": "thread.run.step", "run_id": f"run_{n % 2}"} for n in range(4)]
    with SocketServer(lines(*steps)) as server:
        told = Client(server.url).runs.steps.list([nbruns.Run(run(1)), nbruns.Run(run(0))])
    assert told["id"].tolist() == ["step_1", "step_3", "step_0", "step_2"]  # in the order of the runs
    [request] = server.received
    assert request.body == {"object": "thread.run.step", "run_ids": ["run_1", "run_0"]}


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_a_server_without_them_is_asked_once(status: int) -> None:
    answers = [answer({"error": {"message": "Unknown."}}, status), answer({"data": [], "has_more": False})]
    with SocketServer(*answers) as server:
        client = Client(server.url)
        runs = [nbruns.Run(run(1)), nbruns.Run(run(2))]
        assert len(client.runs.steps.list(runs)) == len(client.runs.steps.list(runs)) == 0
    assert [request.method for request in server.received] == ["POST", *["GET"] * 4]
    assert client.extras == Extras(has_bulk=False)


def test_a_run_that_is_not_there_is_an_error() -> None:
    missing = {"error": {"message": "No run found with id 'run_1'.", "code": "not_found", "param": "run_ids"}}
    with SocketServer(answer(missing, 404)) as server, pytest.raises(nbruns.NotFoundError):
        Client(server.url).runs.steps.list([nbruns.Run(run(1)), nbruns.Run(run(2))])
