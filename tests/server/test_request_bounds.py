"""What comes before a request can be refused is bounded: its head in bytes, and all of it in time."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from served import TOKEN, Api, Scripts, ServerProcess

from nbruns.server import http
from nbruns.server.models import Finish, TextDelta, usage

MIB = 1024 * 1024
HEAD = b"POST /v1/threads HTTP/1.1\r\nHost: 127.0.0.1\r\n"
MANY = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(1000))


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port or 0), timeout=20) as connection:
        yield connection


def send_all(connection: socket.socket, begin: bytes, endless: bytes, total: int) -> bytes:
    """Send so many bytes, or as many as are taken; return what is answered."""
    connection.sendall(begin)
    with contextlib.suppress(ConnectionError):
        for _ in range(total // len(endless)):
            connection.sendall(endless)
    return received(connection)


def received(connection: socket.socket) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            said += chunk
    return said


def peak_memory(server: ServerProcess) -> int:
    """The most memory that a server has had so far, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    running = ServerProcess(tmp_path_factory.mktemp("bounds") / "bounds.sqlite")
    yield running
    assert running.stop() == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("begin", "endless"),
    [
        (HEAD, MANY),
        (HEAD + b"X: ", b"a" * MIB),
        (b"GET /", b"a" * MIB),
        (b"GET / HTTP/1.1\r\n", b"a" * MIB),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", MANY),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a" * MIB),
        (b"", b"\r\n" * (MIB // 2)),
    ],
    ids=["headers", "header", "address", "name", "trailers", "chunk extension", "blank lines"],
)
def test_a_head_without_end_is_refused_and_takes_no_memory(
    process: ServerProcess, begin: bytes, endless: bytes
) -> None:
    requests.get(f"{process.url}/health", timeout=10)
    before = peak_memory(process)
    with connected(process.url) as connection:
        said = send_all(connection, begin, endless, 60 * MIB)
    assert not said or said.split(b" ", 2)[1] in (b"400", b"401", b"431"), said[:200]
    assert peak_memory(process) - before < 10 * MIB
    assert requests.get(f"{process.url}/health", timeout=10).ok


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_requests_sent_ahead_without_end_are_not_kept(process: ServerProcess) -> None:
    """They fit into a read by the thousand, and each waits for the answers before it."""
    requests.get(f"{process.url}/health", timeout=10)
    before = peak_memory(process)
    for _ in range(5):
        with connected(process.url) as connection:
            send_all(connection, b"", b"GET / HTTP/1.1\r\n\r\n" * 50_000, 2 * MIB)
    assert peak_memory(process) - before < 20 * MIB
    assert requests.get(f"{process.url}/health", timeout=10).ok


def test_a_few_requests_may_be_sent_ahead(url: str) -> None:
    ahead = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 15
    last = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    with connected(url) as connection:
        connection.sendall(ahead + last)
        assert received(connection).count(b"HTTP/1.1 200") == 16


def test_blank_lines_do_not_keep_a_connection_open(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They begin no request, but uvicorn takes them for one: it no longer closes the connection as idle."""
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.2)
    with connected(url) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        assert received(connection).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("behind", [b"\r\n", b"GET /health HT"], ids=["a blank line", "half a head"])
def test_what_comes_behind_a_request_does_not_cut_its_stream(
    api: Api, script: Scripts, monkeypatch: pytest.MonkeyPatch, behind: bytes
) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.1)
    assistant = script(
        (TextDelta("Take "), 1.0, TextDelta("a coat."), Finish("stop", usage(30, 5)))
    ).assistant()
    body = json.dumps({"assistant_id": assistant, "stream": True}).encode()
    head = f"POST /v1/threads/{api.thread_with()}/runs HTTP/1.1\r\nHost: 127.0.0.1\r\napi-key: {TOKEN}\r\n"
    with connected(api.url) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(behind)
        assert b"event: done" in received(connection)


def test_a_head_that_is_too_long_is_told_so(url: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Long": "a" * 300_000}
    response = requests.get(f"{url}/v1/threads", headers=headers, timeout=10)
    assert response.status_code == 431
    assert response.json()["error"]["message"] == "The head is over 65,536 bytes."


@pytest.mark.parametrize(
    "half",
    [
        b"",
        b"GET /v1/threads HTTP/1.1\r\nHost: 127",
        HEAD + f"api-key: {TOKEN}\r\nContent-Length: 100\r\n\r\n".encode() + b'{"metadata": {',
        HEAD + f"api-key: {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n".encode(),
    ],
    ids=["nothing", "half a head", "half a body", "half a chunk"],
)
def test_the_rest_of_a_request_is_not_waited_for_forever(
    url: str, monkeypatch: pytest.MonkeyPatch, half: bytes
) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.2)
    with connected(url) as connection:
        connection.sendall(half)
        said = received(connection)
    assert not said or said.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400")), said
    with connected(url) as connection:  # nor is the next request on a connection that is kept open
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /health HT")
        assert received(connection).startswith(b"HTTP/1.1 200")


def test_a_body_that_comes_slowly_is_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a head may take, but with bytes enough each time."""
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.3)
    monkeypatch.setattr(http, "MIN_BODY_BYTES", 1)
    body = b'{"metadata": {"k": "v"}}'
    with connected(url) as connection:
        head = f"api-key: {TOKEN}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(HEAD + head.encode())
        connection.settimeout(0.05)
        for byte in body[:-1]:
            connection.sendall(bytes([byte]))
            with pytest.raises(TimeoutError):  # neither an answer nor a hang-up
                connection.recv(1)
        connection.settimeout(20)
        connection.sendall(body[-1:])
        said = received(connection)
    assert said.startswith(b"HTTP/1.1 200")
