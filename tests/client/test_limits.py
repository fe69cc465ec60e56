"""Servers without an end, on real sockets: each limit is kept, says so, and the client stays below 256 MB."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kept_run import DONE, RUN, wire
from socket_server import Answer, Received, SocketServer, answer, stream

import nbruns
from nbruns import frames
from nbruns.client import Client, pagination
from nbruns.client import stream as stream_module
from nbruns.text import MAX_VALUES, TooManyValues, parse_json, size_of

MOST_MB = 256
#: What the client does, in a process of its own, and what it says of it. The peak is the process' own: getrusage
#: would count the parent that it was forked from.
PROGRAM = """
import re, sys
from nbruns import NbrunsError
from nbruns.client import Client, stream
from nbruns.objects import Assistant
stream._POLL_FIRST = 0.001
client = Client(sys.argv[1], "key", timeout=20.0, max_retries=0)
try:
    print("gave", {what})
except NbrunsError as error:
    print(type(error).__name__, error)
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""
RETRIEVE = 'client.runs.retrieve("run_1", "thread_1").id'
LIST = 'len(client.runs.list("thread_1"))'
FOLLOW = 'client.runs.create_stream("thread_1", "asst_1").until_done().status'
# The view requests nothing else than what the test's server answers.
VIEW = (
    'setattr(client.runs, "messages_before", lambda *_: []) or '
    'client.runs.watch("thread_1", Assistant({"id": "asst_1"})).wait(200).status'
)

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells the peak memory of a process"
)


def outcome(what: str, *answers: Answer) -> str:
    """What the client said, after a look at its memory."""
    with SocketServer(*answers) as server:
        program = [sys.executable, "-c", PROGRAM.format(what=what), server.url]
        done = subprocess.run(program, capture_output=True, text=True, timeout=240, check=True)
    *said, peak = done.stdout.splitlines()
    assert int(peak) / 1024 < MOST_MB, f"{int(peak) / 1024:.0f} MB, after: {said}"
    return "\n".join(said)


def endless(head: bytes, again: bytes, status: int = 200, **headers: str) -> Answer:
    """An answer that begins with `head` and goes on with `again` until the client hangs up."""
    given = {"Content_Type": "application/json", **headers}

    def send(connection: socket.socket, request: Received) -> None:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items())
        connection.sendall(f"HTTP/1.1 {status} Whatever\r\nConnection: close\r\n{lines}\r\n".encode())
        connection.sendall(head)
        while True:
            connection.sendall(again)

    return send


def bomb(head: bytes, again: bytes, **headers: str) -> Answer:
    """The same, gzipped: 64 MB of it take 64 KB."""
    packer = zlib.compressobj(wbits=31)
    first = packer.compress(head) + packer.flush(zlib.Z_SYNC_FLUSH)
    repeated = packer.compress(again * (64 * 1024 * 1024 // len(again))) + packer.flush(zlib.Z_FULL_FLUSH)
    # Behind a full flush nothing refers to what came before, so that the same bytes can come again.
    return endless(first, repeated, Content_Encoding="gzip", **headers)


BODIES = {
    "text": endless(b'{"id": "', b"x" * 65536),
    "gzipped text": bomb(b'{"id": "', b"x" * 65536),
    "values": answer(body=b'{"id": "run_1", "x": [' + b"{}," * 2_700_000 + b"{}]}"),
    "keys": answer(body=b'{"id": "run_1"' + b"".join(b', "%d": 0' % i for i in range(600_000)) + b"}"),
}


@pytest.mark.parametrize("body", BODIES)
def test_an_answer_without_end_is_left(body: str) -> None:
    said = outcome(RETRIEVE, BODIES[body])
    assert said.startswith("LimitError GET /threads/thread_1/runs/run_1: the answer has over ")
    assert "limit=…" in said and "base_url" in said


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "BadRequestError"), (401, "AuthenticationError"), (503, "ServerError")]
)
def test_an_error_without_end_keeps_the_class_of_its_status(status: int, kind: str) -> None:
    said = outcome(RETRIEVE, endless(b'{"error": {"message": "', b"x" * 65536, status))
    assert said.startswith(
        f"{kind} GET /threads/thread_1/runs/run_1 answered {status} an error of over 1,048,576"
    )


def test_the_largest_answer_that_is_read_takes_no_more_memory() -> None:
    """A single character outside the Basic Multilingual Plane makes Python keep all others in four bytes."""
    text = "x" * 4_000_000 + "🌮" + "y" * 4_000_000
    assert outcome(
        RETRIEVE, answer(body=json.dumps({"id": "run_1", "x": text}, ensure_ascii=False).encode())
    ) == ("gave run_1")


def paged(last_id: object = None, **more: Any) -> Answer:
    """Pages of runs as real ones are, each run new, and always one more page."""
    numbers = itertools.count()
    fields = {
        **more,
        **DONE,
        "created_at": 1_700_000_000,
        "instructions": "Be brief. " * 60,
        "tools": [{"type": "x"}] * 5,
    }

    def send(connection: socket.socket, request: Received) -> bool:
        ids = [f"run_{next(numbers)}" for _ in range(100)]
        page = {"object": "list", "data": [{**fields, "id": id} for id in ids], "has_more": True}
        page["last_id"] = last_id or ids[-1]
        return answer(page, Connection="keep-alive")(connection, request) is True

    return send


@pytest.mark.parametrize(
    "cursor",
    [
        pytest.param({}, id="new ids"),
        pytest.param({"last_id": "run_0"}, id="a constant cursor", marks=pytest.mark.nightly),
    ],
)
def test_a_list_without_end_is_left(cursor: dict[str, Any]) -> None:
    said = outcome(LIST, paged(**cursor))
    assert said.startswith("LimitError GET /threads/thread_1/runs: the list has over 100,000 objects. ")
    assert "pass limit=…" in said


def test_a_list_of_large_objects_is_left_earlier() -> None:
    numbers = itertools.count()

    def send(connection: socket.socket, request: Received) -> bool:
        text = "x" * 60_000
        runs = [{**DONE, "id": f"run_{next(numbers)}", "metadata": {"x": text}} for _ in range(100)]
        return answer({"data": runs, "has_more": True}, Connection="keep-alive")(connection, request) is True

    said = outcome(LIST, send)
    assert (
        said.startswith("LimitError The list takes over 67,108,864 bytes of memory. ") and "limit=…" in said
    )


@pytest.mark.parametrize(
    "what",
    [
        pytest.param('client.runs.list([f"thread_{i}" for i in range(20)])', id="runs of threads"),
        pytest.param(
            'client.runs.steps.list([f"run_{i}" for i in range(20)], "thread_1")',
            id="steps of runs",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            'client.runs.steps.tool_calls("run_1", "thread_1")', id="tool calls", marks=pytest.mark.nightly
        ),
    ],
)
def test_lists_at_once_share_one_limit(what: str) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": "{}", "output": "y" * 5000},
    }
    error = {"code": "server_error", "message": "x" * 2000}
    said = outcome(what, paged(step_details={"type": "tool_calls", "tool_calls": [call]}, last_error=error))
    assert said.startswith("LimitError The list takes over 67,108,864 bytes of memory. ")


def messages(text: bytes) -> Iterator[bytes]:
    """A new message in each event, without end."""
    for number in itertools.count():
        yield (
            b'event: thread.message.created\ndata: {"id": "msg_%d", "object": "thread.message", "content": "%b"}\n\n'
            % (number, text)
        )


STREAMS = {
    "the same event, gzipped": bomb(
        wire([("thread.run.in_progress", RUN)]),
        b'event: thread.message.delta\ndata: {"id": "msg_1"}\n' + b": %b\n\n" % (b"x" * 4000),
        Content_Type="text/event-stream",
    ),
    "new messages": stream(itertools.chain([wire([("thread.run.in_progress", RUN)])], messages(b"x"))),
}


@pytest.mark.parametrize("what", STREAMS)
def test_a_stream_without_end_is_left(what: str) -> None:
    said = outcome(FOLLOW, STREAMS[what])
    assert said.startswith("LimitError The stream of run run_1 ") and "client.runs.wait(…)" in said
    assert (
        "sent over 268,435,456 bytes" if "gzip" in what else "takes over 16,777,216 bytes of memory"
    ) in said


def test_a_view_reads_no_faster_than_it_shows() -> None:
    """Events that change nothing wait for the page too, and take 25 times as much memory as they have bytes."""
    event = b'event: tea.ready\ndata: {"id": "x", "x": [%b{}]}\n\n' % (b"{}," * 45_000)
    run = wire([("thread.run.in_progress", RUN)]), wire([("thread.run.completed", DONE)])
    flood = stream(itertools.chain(run[:1], itertools.repeat(event, 150), run[1:]))
    assert outcome(VIEW, flood) == "gave completed"


LINES = {
    "plain": endless(b"data: ", b"x" * 65536, Content_Type="text/event-stream"),
    "gzipped": bomb(b"data: ", b"x" * 65536, Content_Type="text/event-stream"),
    "of values": endless(
        b"",
        b'event: thread.run.step.delta\ndata: {"id": "step_1", "x": [%b{}]}\n\n' % (b"{}," * 1_300_000),
        Content_Type="text/event-stream",
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_an_event_without_end_is_left_and_the_run_asked_for(line: str) -> None:
    found = {"data": [{**DONE, "created_at": 2**36}], "has_more": False}
    empty = answer({"data": [], "has_more": False})
    assert outcome(FOLLOW, LINES[line], answer(found), answer(DONE), empty, empty) == "gave completed"


def test_a_stream_that_drops_again_and_again_is_left() -> None:
    dropping = stream([b"id: 7\n" + wire([("thread.run.in_progress", RUN)])])
    said = outcome(FOLLOW, dropping)
    assert said.startswith("LimitError The stream of run run_1 was dropped and rejoined 100 times")


def test_a_run_that_is_asked_for_does_not_bring_endless_steps() -> None:
    numbers = itertools.count()

    def steps(connection: socket.socket, request: Received) -> bool:
        found = [{"id": f"step_{next(numbers)}", "x": "y" * 10_000} for _ in range(100)]
        return answer({"data": found, "has_more": True}, Connection="keep-alive")(connection, request) is True

    missing = answer({}, 404)
    said = outcome(FOLLOW, stream([wire([("thread.run.in_progress", RUN)])]), missing, answer(DONE), steps)
    assert said.startswith("LimitError The stream of run run_1 takes over 16,777,216 bytes of memory")


def client(server: SocketServer) -> Client:
    return Client(server.url, "key", timeout=5.0, max_retries=0)


def listing(count: int, size: int = 10, **cursor: Any) -> Answer:
    """An honest list of so many runs, in pages as large as they are asked for."""
    ids = [f"run_{i}" for i in range(count)]

    def send(connection: socket.socket, request: Received) -> bool:
        query = dict(pair.split("=") for pair in request.path.partition("?")[2].split("&"))
        start = ids.index(query["after"]) + 1 if "after" in query else 0
        end = start + int(query["limit"])
        page = [{**DONE, "id": id, "x": "y" * size} for id in ids[start:end]]
        told = {"data": page, "has_more": end < count, **cursor}
        return answer(told, Connection="keep-alive")(connection, request) is True

    return send


@pytest.mark.parametrize("last_id", [5, None, {}, "", "run_0", "elsewhere"])
def test_a_cursor_that_is_none_is_passed_over(last_id: object) -> None:
    with SocketServer(listing(250, last_id=last_id)) as server:
        assert list(client(server).runs.list("thread_1")["id"]) == [f"run_{i}" for i in range(250)]
    assert len(server.received) <= 4


@pytest.mark.parametrize("ids", [["run_1"], ["run_1", "run_2"]], ids=["one page", "two pages in turn"])
def test_a_list_that_goes_round_in_circles_is_told(ids: list[str]) -> None:
    answers = [answer({"data": [{**DONE, "id": id}], "has_more": True}) for id in ids] * 2
    with (
        SocketServer(*answers) as server,
        pytest.raises(nbruns.APIError, match="nothing new that promises more"),
    ):
        client(server).runs.list("thread_1")


def test_objects_that_are_too_many_for_one_answer_are_asked_for_in_smaller_pages() -> None:
    with SocketServer(listing(150, size=200_000)) as server:
        assert len(client(server).runs.list("thread_1")) == 150
    limits = [request.path.partition("limit=")[2].partition("&")[0] for request in server.received]
    assert limits[:2] == ["100", "25"] and len(limits) == 7


def test_tens_of_thousands_of_runs_are_listed() -> None:
    assert outcome(LIST, listing(50_000, size=1000)) == "gave 50000"


def test_a_limit_of_ones_own_allows_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagination, "MAX_OBJECTS", 150)
    monkeypatch.setattr(frames, "MAX_LIST_BYTES", 1000)
    with SocketServer(listing(350)) as server:
        runs = client(server).runs
        with pytest.raises(nbruns.LimitError, match="over 150 objects"):
            list(runs.iter("thread_1"))
        with pytest.raises(nbruns.LimitError, match=r"over 1,000 bytes of memory.*one by one with iter"):
            runs.list("thread_1", after="run_300")
        assert len(runs.list("thread_1", limit=300)) == 300


def test_before_holds_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagination, "MAX_HELD_BYTES", 1_000_000)
    with SocketServer(paged()) as server, pytest.raises(nbruns.LimitError, match="over 1,000,000 bytes"):
        client(server).runs.list("thread_1", before="run_5")
    assert 1 < len(server.received) < 10


def test_a_stream_that_drops_less_often_is_carried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_POLL_FIRST", 0.0)
    drops = [stream([b"id: 7\n" + wire([("thread.run.in_progress", RUN)])])] * stream_module.MAX_RECONNECTS
    with SocketServer(*drops, stream([wire([("thread.run.completed", DONE)])])) as server:
        assert client(server).runs.create_stream("t", "a").until_done().status == "completed"


def test_values_are_counted_outside_of_texts() -> None:
    """Tool outputs are JSON in texts: those are no values. No text is looked at twice, also one without an end."""
    within = json.dumps({"x": "[1,{" * MAX_VALUES + '\\"'})
    assert parse_json(within) == json.loads(within) and parse_json(within.encode()) == json.loads(within)
    for text in ('"' + '\\"[' * 2_000_000, "[" + "0," * MAX_VALUES + "0]"):
        with pytest.raises(ValueError) as caught:
            parse_json(text)
        assert isinstance(caught.value, TooManyValues) is text.startswith("[")


def test_the_size_of_a_value_is_that_of_all_that_is_in_it() -> None:
    small, large = {"a": ["x"]}, {"a": ["x" * 1000, {"b": {}}]}
    assert size_of(large) - size_of(small) > 1000 and size_of({"k" * 500: 1}) > 500
