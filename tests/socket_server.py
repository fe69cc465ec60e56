"""A socket server that misbehaves in whatever way a test scripts, one connection after the other."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NamedTuple, Self


class Received(NamedTuple):
    """A request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


#: Answers one request on its socket; when it returns, the connection is closed, unless it returns True.
Answer = Callable[[socket.socket, Received], bool | None]


class SocketServer:
    """Listens on a free port while its `with` block runs; the n-th request is answered by the n-th answer, those
    after the last by the last. `received` has the requests."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = answers
        self.received: list[Received] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._closing = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._closing = True
        socket.create_connection(self._listener.getsockname()).close()  # wakes accept()
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                connection.close()
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while self._answered(connection):
                    pass
            except OSError:
                pass  # the client has hung up, which some tests are about

    def _answered(self, connection: socket.socket) -> bool:
        """Answer one request; whether the connection stays open for another."""
        request = _read(connection)
        if request is None:
            return False
        self.received.append(request)
        answer = self._answers[min(len(self.received), len(self._answers)) - 1]
        return answer(connection, request) is True


def _read(connection: socket.socket) -> Received | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65536)
    method, path, _ = first.split(" ")
    is_json = bool(body) and "json" in headers.get("content-type", "json")
    return Received(method, path, headers, json.loads(body) if is_json else body or None)


def answer(payload: object = None, status: int = 200, *, body: bytes | None = None, **headers: str) -> Answer:
    """A whole answer: `payload` as JSON, or `body` as it is. `Connection="keep-alive"` keeps the connection open."""
    content = json.dumps(payload).encode() if body is None else body
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = {
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        "Connection": "close",
        **given,
    }

    def send(connection: socket.socket, request: Received) -> bool:
        connection.sendall(_head(status, lines) + content)
        return lines["Connection"] == "keep-alive"

    return send


def stream(chunks: Iterable[bytes], **headers: str) -> Answer:
    """An event stream that ends by closing; each chunk is a write of its own."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}

    def send(connection: socket.socket, request: Received) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(_head(200, {"Content-Type": "text/event-stream", "Connection": "close", **given}))
        for chunk in chunks:
            connection.sendall(chunk)

    return send


def hang_up(connection: socket.socket, request: Received) -> None:
    """Take the request and close without a word."""


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode()
