"""A connection to an MCP server: a program with the stdio transport, or a URL with Streamable HTTP.

The server is untrusted. Its messages are limited in size, number and time, its schemas are checked, and the headers
sent to it are redacted in its responses. The `mcp` package implements the protocol. It takes over a second to import,
so import this module only when it is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import anyio
import httpx2
from mcp import Client, ClientSession, MCPError, types
from mcp.client import Transport
from mcp.client.stdio import get_default_environment
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage

from nbruns.errors import ToolError
from nbruns.json_schema import check_schema
from nbruns.text import JSON, excerpt

#: Timeouts in seconds: for connecting and listing the tools, and for a call.
OPEN_SECONDS, CALL_SECONDS = 30.0, 120.0
#: Maximum number of bytes of a message, and of bytes and lines that a server sends between two requests.
MAX_MESSAGE_BYTES, MAX_BYTES, MAX_LINES = 4 * 1024**2, 16 * 1024**2, 5_000
#: Maximum number of tools of a server; characters of a description, of a schema as JSON, and of an output.
MAX_TOOLS, MAX_DESCRIPTION, MAX_SCHEMA, MAX_OUTPUT = 128, 4_000, 32_000, 100_000
#: Seconds that a program has to exit after its standard input is closed.
_END_SECONDS = 1.0
#: Number of bytes of a program's standard error that are kept, the latest.
_MAX_ERRORS = 2_000
# Shorter header values are not redacted, because redacting ordinary words would make texts unreadable.
_SHORTEST_SECRET = 8
#: Names of tools that the specification allows: no control characters, no markup, no look-alike letters.
_NAME = re.compile(r"[A-Za-z0-9_./-]{1,128}")
_CONTROLS = re.compile(
    r"[^\S\n\t ]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ud800-\udfff]"
)
_ANYTHING: JSON = {"type": "object"}


@dataclass(frozen=True)
class Server:
    """The address of an MCP server: a command, or a URL. Its headers and environment variables are secrets."""

    command: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class RemoteTool:
    """A tool of an MCP server. `parameters` is a valid JSON Schema of an object."""

    name: str
    description: str
    parameters: JSON


@dataclass(frozen=True)
class Output:
    """The result of a call, as text."""

    text: str
    is_error: bool


class Connection:
    """A connection that is opened at its first use, and again after the server has closed it.

    All methods raise ToolError, with a message that can be sent to a model. Use a connection in one event loop only.
    """

    def __init__(
        self,
        server: Server,
        *,
        open_seconds: float = OPEN_SECONDS,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self._server, self._open_seconds, self._call_seconds = server, open_seconds, call_seconds
        self._traffic = _Traffic()
        self._opening = asyncio.Lock()
        self._held: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._session: ClientSession | None = None
        self._tools: list[RemoteTool] = []

    @property
    def last_words(self) -> str:
        """Return the end of the program's standard error."""
        return self._hidden(self._traffic.errors.decode(errors="replace")).strip()

    async def tools(self) -> list[RemoteTool]:
        """Return the tools that the server listed when the connection was opened."""
        await self._opened()
        return self._tools

    async def call(self, name: str, arguments: JSON) -> Output:
        """Call a tool."""
        session = await self._opened()
        self._traffic.restart()
        # Bypasses the package's validation of the result, which would run regular expressions from the server.
        params = types.CallToolRequestParams(name=name, arguments=arguments)
        request = session.send_request(types.CallToolRequest(params=params), types.CallToolResult)
        try:
            result = await self._answered(request, self._call_seconds)
        except MCPError as error:
            if self._traffic.problem or error.code == types.CONNECTION_CLOSED:
                raise await self._ended(error) from None
            return Output(self._hidden(excerpt(error.message, 1_000)), is_error=True)
        except Exception as error:
            raise await self._ended(error) from None
        return Output(self._hidden(_text(result)), bool(result.is_error))

    async def close(self) -> None:
        """Close the connection, and stop the server's program."""
        held, session, self._held, self._session = self._held, self._session, None, None
        if held is not None:
            if session is not None:
                self._closing.set()
                await asyncio.wait({held}, timeout=2 * _END_SECONDS)
            held.cancel()  # in case it has not ended by itself, or has not started
            await asyncio.wait({held})

    async def _opened(self) -> ClientSession:
        async with self._opening:
            if self._session is not None and self._held is not None and not self._held.done():
                return self._session
            await self.close()
            self._traffic, self._closing = _Traffic(), asyncio.Event()
            ready: asyncio.Future[ClientSession] = asyncio.get_running_loop().create_future()
            self._held = asyncio.create_task(self._hold(ready, self._closing))
            try:
                self._session = await self._answered(ready, self._open_seconds)
            except Exception as error:
                raise await self._ended(error) from None
            except BaseException:
                await self.close()
                raise
            return self._session

    async def _hold(self, ready: asyncio.Future[ClientSession], closing: asyncio.Event) -> None:
        """Keep the connection open until `closing` is set. The package's context managers must be entered and exited
        in the same task.
        """
        try:
            info = types.Implementation(name="nbruns", version=version("nbruns"))
            async with Client(self._transport(), cache=None, client_info=info) as client:
                self._tools = await _listed(client.session)
                ready.set_result(client.session)
                await closing.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)

    async def _answered(self, request: Any, seconds: float) -> Any:
        """Return the result of a request. Raises TimeoutError, or the error that ended the connection meanwhile."""
        asked = asyncio.ensure_future(request)
        assert self._held is not None
        try:
            await asyncio.wait({asked, self._held}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            raise ConnectionError if self._held.done() else TimeoutError
        finally:
            asked.cancel()

    async def _ended(self, error: BaseException) -> ToolError:
        """Close the connection, and return the error to raise."""
        seconds = self._open_seconds if self._session is None else self._call_seconds
        await self.close()
        return ToolError(self._hidden(self._reason(error, seconds)))

    def _reason(self, error: BaseException, seconds: float) -> str:
        causes = _causes(error)
        error = causes[0]
        if self._traffic.problem:
            return self._traffic.problem
        if isinstance(error, TimeoutError):
            return f"It did not answer within {seconds:g} seconds."
        for cause in causes:
            if isinstance(cause, OSError) and cause.errno is not None and self._server.command:
                return f"Its program can't be started: {excerpt(cause.strerror or cause)}."
            if isinstance(cause, httpx2.TransportError):
                return f"It can't be reached: {excerpt(str(cause) or type(cause).__name__)}."
        if (status := self._traffic.status) in (401, 403):
            return f"It refused access (HTTP {status}). It needs other headers, such as Authorization."
        if status >= 400:
            return f"It answered with HTTP {status}."
        if isinstance(error, MCPError) and error.code != types.CONNECTION_CLOSED:
            return f"It answered with an error: {excerpt(error.message)}"
        if isinstance(error, MCPError | ConnectionError):
            return "It ended the connection." if self._server.url else "Its program ended."
        return f"It doesn't follow the protocol ({type(error).__name__})."

    def _hidden(self, text: str) -> str:
        """Return a text with the server's headers and environment variables redacted."""
        secrets = [*self._server.headers.values(), *self._server.env.values()]
        # For "Bearer abc…", redact the second word on its own too.
        for secret in sorted(
            {part for each in secrets for part in (each, *each.split())}, key=len, reverse=True
        ):
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "[hidden]")
        return text

    def _transport(self) -> Transport:
        if self._server.command:
            return _program(self._server, self._traffic)
        return _url(self._server, self._traffic)


@dataclass
class _Traffic:
    """Counts what a server has sent since the last request. `problem` says which limit it exceeded."""

    size: int = 0
    lines: int = 0
    status: int = 0
    problem: str = ""
    errors: bytes = b""

    def restart(self) -> None:
        """Reset the counts for a new request."""
        self.size = self.lines = 0

    def count(self, size: int, lines: int) -> bool:
        """Add to the counts. Return whether they are within the limits."""
        self.size, self.lines = self.size + size, self.lines + lines
        if self.size > MAX_BYTES:
            self.problem = f"It sent more than {MAX_BYTES // 1024**2} MB."
        elif self.lines > MAX_LINES:
            self.problem = f"It sent more than {MAX_LINES:,} messages."
        return not self.problem


class _TooMuchError(httpx2.StreamError):
    """The server exceeded a limit. The package ends the request when it gets an error of this class."""


class _Counted(httpx2.AsyncByteStream):
    """The body of a response, which counts its bytes and lines."""

    def __init__(self, stream: httpx2.AsyncByteStream, traffic: _Traffic, has_lines: bool) -> None:
        self._stream, self._traffic, self._has_lines = stream, traffic, has_lines

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            if not self._traffic.count(len(chunk), chunk.count(b"\n") if self._has_lines else 0):
                raise _TooMuchError(self._traffic.problem)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


@contextlib.asynccontextmanager
async def _url(server: Server, traffic: _Traffic) -> AsyncIterator[Any]:
    async def look_at(response: httpx2.Response) -> None:
        if response.status_code >= 400:
            traffic.status = response.status_code
        if response.headers.get("content-encoding", "identity") != "identity":
            traffic.problem = "It sent a compressed answer, which was not asked for."
            raise _TooMuchError(traffic.problem)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        has_events = response.headers.get("content-type", "").lower().startswith("text/event-stream")
        response.stream = _Counted(response.stream, traffic, has_events)

    timeout = httpx2.Timeout(OPEN_SECONDS, read=None)  # requests have their own timeout
    headers = {**server.headers, "Accept-Encoding": "identity"}
    async with httpx2.AsyncClient(
        headers=headers, timeout=timeout, event_hooks={"response": [look_at]}
    ) as client:
        # The package only follows redirects to the same origin.
        async with streamable_http_client(
            server.url, http_client=client, max_sse_event_size=MAX_MESSAGE_BYTES
        ) as streams:
            yield streams


@contextlib.asynccontextmanager
async def _program(server: Server, traffic: _Traffic) -> AsyncIterator[Any]:
    """Replaces the package's stdio transport, which reads lines of any length."""
    process = await asyncio.create_subprocess_exec(
        *server.command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=MAX_MESSAGE_BYTES,
        env=get_default_environment() | dict(server.env),
        start_new_session=True,  # so that its own child processes are ended with it
    )
    received, receive = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    send, sent = anyio.create_memory_object_stream[SessionMessage](0)
    tasks = [
        asyncio.create_task(_read_lines(process, received, traffic)),
        asyncio.create_task(_write_lines(process, sent)),
        asyncio.create_task(_read_errors(process, traffic)),
    ]
    try:
        yield receive, send
    finally:
        for stream in (receive, send, received, sent):
            stream.close()
        for task in tasks[:2]:
            task.cancel()
        assert process.stdin is not None
        process.stdin.close()
        if process.returncode is None:  # otherwise its process id may have been reused
            await _wait_for(process)
            _kill(process)
            await _wait_for(process)
        tasks[2].cancel()
        # Processes that have left the group can keep the pipes open.
        process._transport.close()  # type: ignore[attr-defined]


async def _wait_for(process: asyncio.subprocess.Process) -> None:
    deadline = asyncio.get_running_loop().time() + _END_SECONDS
    while process.returncode is None and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.01)  # process.wait() would also wait for the pipes


async def _read_lines(process: asyncio.subprocess.Process, received: Any, traffic: _Traffic) -> None:
    assert process.stdout is not None
    with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError), received:
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                traffic.problem = f"It sent a message of more than {MAX_MESSAGE_BYTES // 1024**2} MB."
                return
            if not line or not traffic.count(len(line), 1):
                return
            if not line.lstrip().startswith(b"{"):
                continue  # skip other lines that the program prints
            try:
                message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError:
                traffic.problem = "It sent a message that can't be read."
                return
            await received.send(SessionMessage(message))


async def _write_lines(process: asyncio.subprocess.Process, sent: Any) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        async with sent:
            async for each in sent:
                text = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(text.encode() + b"\n")
                await process.stdin.drain()


async def _read_errors(process: asyncio.subprocess.Process, traffic: _Traffic) -> None:
    assert process.stderr is not None
    while piece := await process.stderr.read(65_536):
        traffic.errors = (traffic.errors + piece)[-_MAX_ERRORS:]


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


async def _listed(session: ClientSession) -> list[RemoteTool]:
    """Return the tools with a valid name, without duplicate names."""
    tools: dict[str, RemoteTool] = {}
    cursor: str | None = None
    for _ in range(MAX_TOOLS):
        page = await session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
        for tool in page.tools:
            if _NAME.fullmatch(tool.name) and len(tools) < MAX_TOOLS:
                parameters = await asyncio.to_thread(_parameters, tool.input_schema)
                description = _CONTROLS.sub(" ", tool.description or "")[:MAX_DESCRIPTION]
                tools.setdefault(tool.name, RemoteTool(tool.name, description, parameters))
        cursor = page.next_cursor
        if cursor is None or len(tools) == MAX_TOOLS:
            break
    return list(tools.values())


def _parameters(schema: Any) -> JSON:
    """Return the JSON Schema of a tool's arguments, or that of any object if it is invalid or too large."""
    try:
        if len(json.dumps(schema)) > MAX_SCHEMA:
            return _ANYTHING
        check_schema(schema)
    except Exception:  # an invalid schema can raise anything
        return _ANYTHING
    return {**schema, "type": "object"}


def _text(result: types.CallToolResult) -> str:
    """Return a result as text, with a placeholder for parts that aren't text."""
    parts = [_part(part) for part in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    text = "\n".join(parts).encode("utf-8", "backslashreplace").decode()
    left_out = len(text) - MAX_OUTPUT
    if left_out <= 0:
        return text
    return f"{text[:MAX_OUTPUT]}\n… cut: {left_out:,} of {len(text):,} characters left out"


def _part(part: Any) -> str:
    match part:
        case types.TextContent():
            return part.text
        case types.ImageContent() | types.AudioContent():
            return f"[{part.type} {excerpt(part.mime_type, 100)}, {len(part.data) * 3 // 4:,} bytes]"
        case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
            return f"[{excerpt(resource.uri)}]\n{resource.text}"
        case types.EmbeddedResource(resource=resource):
            return f"[{excerpt(resource.uri)}, {excerpt(resource.mime_type or 'of an unknown type', 100)}]"
        case types.ResourceLink():
            return f"[{excerpt(part.name)} {excerpt(part.uri)}]"
    return f"[{excerpt(getattr(part, 'type', 'something'), 100)}]"


def _causes(error: BaseException) -> list[BaseException]:
    """Return the errors inside an exception group, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        return [cause for inner in error.exceptions for cause in _causes(inner)]
    return [error]
