"""Kernels on this machine, in the sandbox or without it, and on a Jupyter server or kernel gateway.

Kernels receive and send messages of the Jupyter protocol. Their messages are untrusted: sizes are limited, and no part
of them is used as a path, a format or code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

from nbruns.server.interpreter import sandbox
from nbruns.server.interpreter.launch import ENDED_BY
from nbruns.text import JSON, TooManyValues, excerpt, parse_json

if TYPE_CHECKING:
    from tornado.websocket import WebSocketClientConnection

#: Maximum number of bytes of a message from a kernel, and of messages that are kept until they are read.
MAX_MESSAGE, MAX_WAITING = 32 << 20, 4
_START_SECONDS = 60.0
#: Number of bytes of the process's own output that are kept, for errors at startup.
_KEPT_ERRORS = 4_000
#: Environment variable with the token of a Jupyter server.
TOKEN_VARIABLE = "NBRUNS_JUPYTER_TOKEN"


class KernelEnded(Exception):
    """A kernel has ended. The message says why, and can be sent to the model."""


class KernelUnavailable(Exception):
    """No kernel could be started. The message says why."""


class Kernel(Protocol):
    """A running kernel."""

    #: The folder of its files. Empty if the kernel creates a folder when it starts.
    data: str

    async def send(self, channel: str, type: str, content: JSON) -> str:
        """Send a message, and return its id. Raises KernelEnded."""
        ...

    async def receive(self) -> JSON:
        """Return the next message from any channel. Raises KernelEnded."""
        ...

    async def interrupt(self) -> None:
        """Interrupt the execution of code."""
        ...

    async def close(self) -> None:
        """End the kernel."""
        ...


def _message(type: str, content: JSON, session: str) -> JSON:
    header = {
        "msg_id": secrets.token_hex(16),
        "msg_type": type,
        "username": "nbruns",
        "session": session,
        "date": datetime.now(UTC).isoformat(),
        "version": "5.3",
    }
    return {"header": header, "parent_header": {}, "metadata": {}, "content": content}


_WORDS = {
    "kernel": "The Python process ended.",
    "memory": f"The code used over {sandbox.LIMITS['memory'] >> 20:,} MiB of memory and was ended.",
    "processes": f"The code started over {sandbox.LIMITS['processes']} processes and was ended.",
    "files": f"The code created over {sandbox.LIMITS['files']:,} files and was ended.",
}
_WHY = {code: _WORDS[what] for what, code in ENDED_BY.items()}


class LocalKernel:
    """A kernel in a process on this machine. Create it with `LocalKernel.start`."""

    def __init__(self, process: asyncio.subprocess.Process, session: Any, sockets: Mapping[str, Any]) -> None:
        self.data = ""
        self._process, self._session, self._sockets = process, session, sockets
        self._errors = bytearray()
        self._draining = asyncio.create_task(self._drain())
        self._ended = asyncio.create_task(self._wait())
        self._receiving: dict[str, asyncio.Task[list[bytes]]] = {}

    @classmethod
    async def start(cls, context: Any, *, is_sandboxed: bool) -> LocalKernel:
        """Start a kernel, and return it when it responds. Raises KernelUnavailable.

        `context` is a context of zmq.asyncio with limits on messages, which its sockets inherit."""
        import zmq
        from jupyter_client.session import Session

        key = secrets.token_hex(32)
        session = Session(key=key.encode(), signature_scheme="hmac-sha256")
        with contextlib.ExitStack() as stack:
            # Unix sockets, whose files are only needed until they are connected. The kernel inherits the listening
            # ends, so that its sandbox needs no writable folder for them.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nbruns-"))
            listening = [stack.enter_context(_listener(f"{folder}/k-{port}")) for port in range(1, 5)]
            fds = tuple(each.fileno() for each in listening)
            filters = stack.enter_context(sandbox.filter_file()) if is_sandboxed else ()
            settings = {
                "key": key,
                "fds": fds,
                "ip": f"{folder}/k",
                "connection_file": f"{sandbox.TEMPORARY if is_sandboxed else folder}/kernel.json",
                "limits": sandbox.LIMITS if is_sandboxed else None,
            }
            if is_sandboxed:
                # -P: don't import modules from the folder with the session's files.
                program = sandbox.command([sandbox.python(), "-P", sandbox.LAUNCH], filters)
            else:
                program = [sys.executable, "-P", str(Path(__file__).with_name("launch.py"))]
            process = await asyncio.create_subprocess_exec(
                *program,
                pass_fds=(*fds, *filters),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            sockets = {
                "shell": context.socket(zmq.DEALER),
                "iopub": context.socket(zmq.SUB),
                "control": context.socket(zmq.DEALER),
            }
            sockets["iopub"].subscribe(b"")
            for name, port in (("shell", 1), ("iopub", 2), ("control", 4)):
                sockets[name].connect(f"ipc://{folder}/k-{port}")
            kernel = cls(process, session, sockets)
            kernel.data = sandbox.DATA if is_sandboxed else ""
            try:
                await _ready(kernel)
            except BaseException as error:
                await kernel.close()
                if isinstance(error, KernelEnded):
                    last = bytes(kernel._errors).decode(errors="replace").strip().splitlines()
                    raise KernelUnavailable(
                        f"Python could not be started: {excerpt(last[-1] if last else error)}"
                    ) from None
                raise
        return kernel

    async def send(self, channel: str, type: str, content: JSON) -> str:
        message = _message(type, content, self._session.session)
        with contextlib.suppress(Exception):  # closed: `receive` says so
            await self._sockets[channel].send_multipart(self._session.serialize(message))
        id: str = message["header"]["msg_id"]
        return id

    async def receive(self) -> JSON:
        while True:
            for name, each in self._sockets.items():
                if name not in self._receiving:
                    self._receiving[name] = asyncio.ensure_future(each.recv_multipart())
            waiting = [*self._receiving.values(), self._ended]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for name, task in [*self._receiving.items()]:
                if task.done():
                    del self._receiving[name]
                    if (message := self._read(name, task.result())) is not None:
                        return message
            if self._ended.done():
                raise KernelEnded(self._ended.result())

    def _read(self, channel: str, frames: list[bytes]) -> JSON | None:
        """Return a message; None if it doesn't follow the protocol."""
        try:
            *_, signature, header, parent, metadata, content = frames[: frames.index(b"<IDS|MSG>") + 6]
            if not secrets.compare_digest(signature, self._session.sign([header, parent, metadata, content])):
                return None
            parts = [parse_json(part) for part in (header, parent, content)]
        except (ValueError, TooManyValues):
            return None
        if not all(isinstance(part, dict) for part in parts):
            return None
        return {"channel": channel, "header": parts[0], "parent_header": parts[1], "content": parts[2]}

    async def interrupt(self) -> None:
        await self.send("control", "interrupt_request", {})

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # then process 1 of the sandbox ends, and with it all others
        with contextlib.suppress(OSError):
            if self.data:
                os.killpg(self._process.pid, signal.SIGKILL)
        await asyncio.wait([self._ended], timeout=5)
        for task in self._receiving.values():
            task.cancel()
        for each in self._sockets.values():
            each.close(0)
        await asyncio.wait([self._draining], timeout=1)
        self._draining.cancel()
        await asyncio.gather(self._draining, *self._receiving.values(), return_exceptions=True)
        self._process._transport.close()  # type: ignore[attr-defined]  # descendants can keep the pipes open

    async def _drain(self) -> None:
        assert self._process.stdout is not None
        while piece := await self._process.stdout.read(1 << 16):
            self._errors += piece
            del self._errors[:-_KEPT_ERRORS]

    async def _wait(self) -> str:
        code = await self._process.wait()
        await asyncio.wait([self._draining], timeout=1)
        return _WHY.get(code, _WORDS["kernel"])


def _listener(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(8)
    # Only passed by its file descriptor; the flag in this process has no effect on the kernel.
    return listener


def new_context() -> Any:
    """Return a zmq context whose sockets limit the messages of kernels."""
    import zmq.asyncio

    context = zmq.asyncio.Context(io_threads=1)
    context.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
    context.setsockopt(zmq.RCVHWM, MAX_WAITING)
    context.setsockopt(zmq.LINGER, 0)
    return context


async def _ready(kernel: Kernel) -> None:
    """Wait until a kernel responds, and its outputs arrive."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            # The kernel only publishes outputs to subscribers, and learns of the subscription a moment later.
            answered = published = False
            while not (answered and published):
                id = await kernel.send("shell", "kernel_info_request", {})
                while True:
                    message = await kernel.receive()
                    if message["parent_header"].get("msg_id") == id:
                        published |= message["channel"] == "iopub"
                        if message["header"].get("msg_type") == "kernel_info_reply":
                            answered = True
                            break
                if not published:
                    await asyncio.sleep(0.01)
    except TimeoutError:
        raise KernelUnavailable(f"Python didn't start within {_START_SECONDS:.0f} s.") from None


class GatewayKernel:
    """A kernel on a Jupyter server or kernel gateway. Create it with `GatewayKernel.start`."""

    def __init__(self, url: str, id: str, connection: WebSocketClientConnection) -> None:
        self.data = ""
        self._url, self._id, self._connection = url, id, connection
        self._session = secrets.token_hex(16)

    @classmethod
    async def start(cls, url: str) -> GatewayKernel:
        """Start a kernel on a server, and return it when it responds. Raises KernelUnavailable."""
        from tornado.httpclient import HTTPRequest
        from tornado.websocket import websocket_connect

        made = await _request(url, "POST", "/api/kernels", {})
        id = made.get("id") if isinstance(made, dict) else None
        if not isinstance(id, str):
            raise KernelUnavailable(f"{_shown(url)} is no Jupyter server: it returned no kernel.")
        kernel = cls(url, id, None)  # type: ignore[arg-type]  # connected below
        address = f"{url.replace('http', 'ws', 1).rstrip('/')}/api/kernels/{quote(id, safe='')}/channels"
        request = HTTPRequest(address, headers=_headers(), connect_timeout=_START_SECONDS)
        try:
            kernel._connection = await websocket_connect(
                request, max_message_size=MAX_MESSAGE, ping_interval=30
            )
            await _ready(kernel)
        except BaseException as error:
            await kernel.close()
            if isinstance(error, KernelEnded | OSError) or type(error).__module__.startswith("tornado"):
                raise KernelUnavailable(f"{_shown(url)} can't be connected to: {excerpt(error)}") from None
            raise
        return kernel

    async def send(self, channel: str, type: str, content: JSON) -> str:
        message = _message(type, content, self._session) | {"channel": channel, "buffers": []}
        with contextlib.suppress(Exception):  # closed: `receive` says so
            await self._connection.write_message(json.dumps(message))
        id: str = message["header"]["msg_id"]
        return id

    async def receive(self) -> JSON:
        while True:
            text = await self._connection.read_message()
            if text is None:
                raise KernelEnded("The Python process ended, or its connection did.")
            try:
                message = parse_json(text)
                parts = {name: message[name] for name in ("channel", "header", "parent_header", "content")}
            except (ValueError, TypeError, KeyError):  # includes binary messages, which belong to widgets
                continue
            if all(isinstance(part, dict) for name, part in parts.items() if name != "channel"):
                if parts["content"].get("execution_state") in ("restarting", "dead"):
                    raise KernelEnded("The Python process ended.")
                return parts

    async def interrupt(self) -> None:
        with contextlib.suppress(KernelUnavailable):
            await _request(self._url, "POST", f"/api/kernels/{quote(self._id, safe='')}/interrupt", {})

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        with contextlib.suppress(KernelUnavailable):
            await _request(self._url, "DELETE", f"/api/kernels/{quote(self._id, safe='')}")


def _headers() -> dict[str, str]:
    token = os.environ.get(TOKEN_VARIABLE)
    return {"Authorization": f"token {token}"} if token else {}


async def _request(url: str, method: str, path: str, body: JSON | None = None) -> Any:
    from tornado.httpclient import AsyncHTTPClient, HTTPClientError

    try:
        response = await AsyncHTTPClient(force_instance=True).fetch(
            url.rstrip("/") + path,
            method=method,
            headers={**_headers(), "Content-Type": "application/json"},
            body=None if body is None else json.dumps(body),
            connect_timeout=10,
            request_timeout=_START_SECONDS,
            follow_redirects=False,
        )
        return parse_json(response.body) if response.body else None
    except (HTTPClientError, OSError, ValueError) as error:
        hint = f" Set its token in {TOKEN_VARIABLE}." if getattr(error, "code", 0) in (401, 403) else ""
        raise KernelUnavailable(f"{_shown(url)} started no kernel: {excerpt(error)}.{hint}") from None


def _shown(url: str) -> str:
    """Return the host and port of a URL, without any password."""
    parts = urlsplit(url)
    return f"The Jupyter server at {parts.hostname}" + (f":{parts.port}" if parts.port else "")
