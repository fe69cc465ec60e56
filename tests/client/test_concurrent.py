"""Lists of many threads and runs, and one client in several threads, against a server that counts and holds."""

from __future__ import annotations

import gc
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from socket_server import Received, SocketServer, answer

import nbruns
from nbruns.client import Client, concurrent
from nbruns.client.transport import Transport
from nbruns.objects import Run


class Kept(BaseHTTPRequestHandler):
    """Two pages of runs for each thread, a step for each run, over connections that stay open."""

    protocol_version = "HTTP/1.1"
    server: KeepingServer

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        _, thread, _, *run = path.strip("/").split("/")
        if thread == "thread_missing":
            return self._send({"error": {"message": f"No thread {thread}."}}, 404)
        with self.server.busy():
            if not run:
                self._send(_page("run", thread, "after" in query))
            elif run[1:] == ["steps"]:
                self._send({"data": [_object("step", run[0], thread, run_id=run[0])], "has_more": False})
            else:
                self._send(_object("run", run[0], thread))

    def _send(self, payload: object, status: int = 200) -> None:
        content = json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


class KeepingServer(ThreadingHTTPServer):
    """Counts its connections, and how many requests it has had at the same time."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Kept)
        self.connections = self.now = self.most = 0
        self._lock = threading.Lock()
        #: The first requests are held until so many are there.
        self.meeting = threading.Barrier(1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *args: object) -> None:
        """A client has hung up, which some tests are about."""

    @contextmanager
    def busy(self) -> Iterator[None]:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        if self.most <= self.meeting.parties:
            self.meeting.wait(10)
        try:
            yield
        finally:
            with self._lock:
                self.now -= 1


def _object(kind: str, id: str, thread: str, **more: object) -> dict[str, object]:
    return {
        "id": id,
        "object": f"thread.{kind}",
        "thread_id": thread,
        "status": "completed",
        "type": "tool_calls",
        **more,
    }


def _page(kind: str, thread: str, second: bool) -> dict[str, object]:
    ids = [f"{kind}_{thread}_{i}" for i in ((2,) if second else (0, 1))]
    return {"data": [_object(kind, id, thread) for id in ids], "has_more": not second, "last_id": ids[-1]}


@pytest.fixture
def server() -> Iterator[KeepingServer]:
    with KeepingServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


THREADS = [f"thread_{i}" for i in range(40)]
RUNS = [f"run_{thread}_{i}" for thread in THREADS for i in range(3)]


def test_many_threads_are_asked_at_once_in_order_and_over_few_connections(server: KeepingServer) -> None:
    server.meeting = threading.Barrier(concurrent.MAX_WORKERS)  # so many, or the test fails
    listed = Client(server.url).runs.list(THREADS)
    assert list(listed["id"]) == RUNS
    assert server.most == concurrent.MAX_WORKERS == server.connections


def test_many_runs_are_asked_for_their_steps(server: KeepingServer) -> None:
    client = Client(server.url)
    runs = client.runs.list(THREADS[:4])
    wanted = RUNS[:12]
    assert list(client.runs.steps.list(runs)["run_id"]) == wanted
    objects = [
        Run({"id": id, "thread_id": thread}) for id, thread in zip(runs["id"], runs["thread_id"], strict=True)
    ]
    assert list(client.runs.steps.list(objects)["run_id"]) == wanted
    assert list(client.runs.steps.list(iter(objects))["run_id"]) == wanted
    assert list(client.runs.steps.list(["run_a", "run_b"], "thread_1")["run_id"]) == ["run_a", "run_b"]
    assert list(client.runs.steps.list(client.runs.steps.list(runs))["run_id"]) == wanted
    assert client.runs.steps.list([]).empty


def test_a_frame_names_its_threads(server: KeepingServer) -> None:
    client = Client(server.url)
    runs = client.runs.list(THREADS[:3])
    assert list(client.runs.list(runs)["id"]) == RUNS[:9]
    threads = nbruns.runs_frame([]).reindex(range(2))[["id"]].assign(id=THREADS[:2])
    assert list(client.runs.list(threads)["id"]) == RUNS[:6] == list(client.runs.list(threads["id"])["id"])
    with pytest.raises(TypeError, match=r"has no column thread_id or id\. It has: status"):
        client.runs.list(runs[["status"]])


def test_what_is_no_run_is_refused_before_anything_is_sent(server: KeepingServer) -> None:
    with pytest.raises(TypeError, match=r"run_b.*pass thread"):
        Client(server.url).runs.steps.list([Run({"id": "run_a", "thread_id": "t"}), "run_b"])
    with pytest.raises(TypeError, match="an id or an object"):
        Client(server.url).runs.list(["thread_1", 5])  # type: ignore[list-item]
    assert server.connections == 0


def test_one_that_fails_ends_them_all(server: KeepingServer) -> None:
    with pytest.raises(nbruns.NotFoundError, match="No thread thread_missing"):
        Client(server.url).runs.list([*THREADS, "thread_missing", *THREADS])
    assert_no_workers()


def test_one_that_fails_lets_no_other_ask_again(
    server: KeepingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are between two requests when it fails."""
    monkeypatch.setattr(concurrent, "_BETWEEN", 0.001)
    client, others, failed = Client(server.url), threading.Barrier(3), threading.Event()
    said: list[str] = []

    def fetch(transport: Transport, number: int) -> None:
        others.wait(10)
        if number == 0:
            raise LookupError("This one fails.")
        assert failed.wait(10)
        try:
            transport.request("GET", "/threads/thread_1/runs")
        except nbruns.ConnectionError as error:
            said.append(str(error))

    with pytest.raises(LookupError):
        try:
            concurrent.fetch_all(client.runs._transport, fetch, range(3), "run")
        finally:
            failed.set()
    assert_no_workers()
    assert said == ["GET /threads/thread_1/runs was not sent: related requests were cancelled."] * 2
    assert server.connections == 0


def test_an_error_does_not_wait_for_what_cannot_be_hung_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrent, "_BETWEEN", 0.001)
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def fetch(_: Transport, number: int) -> None:
        if number == 0:
            assert begun.wait(10)
            raise LookupError("This one fails.")
        begun.set()
        go.wait(20)  # at work on what has come in, say
        done.set()

    with pytest.raises(LookupError):
        concurrent.fetch_all(Client("http://127.0.0.1:9").runs._transport, fetch, range(2), "run")
    assert not done.is_set()
    go.set()
    assert_no_workers()


def assert_no_workers() -> None:
    for worker in threading.enumerate():
        if worker.name.startswith("nbruns-list"):
            worker.join(5)
            assert not worker.is_alive()


def test_a_bar_shows_what_takes_long(
    server: KeepingServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(concurrent, "QUIET", 60)
    Client(server.url).runs.list(THREADS)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(concurrent, "QUIET", 0)
    Client(server.url).runs.list(THREADS)
    assert re.search(r"\d+/40 \[.*thread/s", capsys.readouterr().err)


def test_the_bar_is_not_loaded_before_it_shows(server: KeepingServer) -> None:
    program = f"import sys, nbruns; nbruns.Client({server.url!r}).runs.list(['a', 'b']); print('tqdm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.fixture
def _nothing_to_collect() -> Iterator[None]:
    """Python loses an interrupt that comes while it collects another test's socket."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_nothing_to_collect")
@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"], ids=["no head", "half a body"]
)
def test_an_interrupt_ends_what_is_under_way(head: bytes) -> None:
    """Ctrl-C while every answer hangs: the error is the user's own, and no thread and no connection stays."""
    asked, closed = threading.Semaphore(0), threading.Semaphore(0)

    def hanging(connection: socket.socket, request: Received) -> None:
        connection.sendall(head)
        asked.release()
        try:
            connection.recv(1)  # until the client closes
        finally:
            closed.release()

    def interrupt() -> None:
        if all(asked.acquire(timeout=10) for _ in range(concurrent.MAX_WORKERS)):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with SocketServer(hanging) as server:
        client = Client(server.url, timeout=60.0)
        user = threading.Thread(target=interrupt)
        user.start()
        with pytest.raises(KeyboardInterrupt):
            client.runs.list(THREADS)
        user.join()
        assert_no_workers()
        assert all(closed.acquire(timeout=5) for _ in range(concurrent.MAX_WORKERS))
    assert len(server.received) == concurrent.MAX_WORKERS  # and none of the others was asked


def test_a_client_can_be_used_after_an_interrupt(server: KeepingServer) -> None:
    client = Client(server.url)
    with pytest.raises(nbruns.NotFoundError):
        client.runs.list(["thread_missing"] * 20)
    assert list(client.runs.list(THREADS)["id"]) == RUNS


def test_one_client_in_several_threads(server: KeepingServer) -> None:
    client = Client(server.url)

    def use(number: int) -> bool:
        thread = f"thread_{number}"
        listed = [run.id for run in client.runs.iter(thread)]
        steps = [step.run_id for step in client.runs.steps.iter(f"run_{number}", thread)]
        run = client.runs.retrieve(f"run_{number}", thread)
        waited = client.runs.wait(run, timeout=30)
        frame = client.runs.list([thread, thread + "x"])
        return (listed, steps, run.id, waited.thread_id, frame["thread_id"].nunique()) == (
            [f"run_{thread}_{i}" for i in range(3)],
            [f"run_{number}"],
            f"run_{number}",
            thread,
            2,
        )

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(use, range(60)))


def test_before_is_read_backwards() -> None:
    def page(*ids: str, more: bool) -> object:
        return answer(
            {"data": [{"id": id} for id in ids], "has_more": more, "first_id": ids[0], "last_id": ids[-1]}
        )

    pages = page("run_3", "run_4", more=True), page("run_1", "run_2", "run_3", more=False)
    for limit, wanted in ((None, ["run_1", "run_2", "run_3", "run_4"]), (3, ["run_2", "run_3", "run_4"])):
        with SocketServer(*pages) as server:  # type: ignore[arg-type]
            found = Client(server.url).runs.iter("thread_1", before="run_5", limit=limit, order="asc")
            assert [run.id for run in found] == wanted
        cursors = [parse_qs(urlsplit(r.path).query) for r in server.received]
        assert [c["before"] for c in cursors] == [["run_5"], ["run_3"]] and not any(
            "after" in c for c in cursors
        )


@pytest.mark.parametrize("data", [None, {}, "x", [None], [{}], [{"id": 5}], [[]]])
def test_a_list_that_is_none_is_told(data: object) -> None:
    with SocketServer(answer({"object": "list", "data": data}, x_request_id="req_7")) as server:
        with pytest.raises(nbruns.APIError, match="list of objects with ids was expected") as caught:
            list(Client(server.url).runs.iter("thread_1"))
    assert (caught.value.request_id, caught.value.path) == ("req_7", "/threads/thread_1/runs")
