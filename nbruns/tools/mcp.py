"""The tools of an MCP server as function tools."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shlex
import threading
from collections.abc import Collection, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from nbruns.errors import SetupError, ToolError, install_command
from nbruns.text import JSON, excerpt
from nbruns.tools import Tool

if TYPE_CHECKING:
    from nbruns.mcp_connection import RemoteTool, Server

T = TypeVar("T")


class McpTools(Sequence[Tool]):
    """The tools of an MCP server, and the connection to it, created by `mcp_tools`.

    A sequence of `Tool`, and a context manager that closes the connection. If the server closes the connection, the
    next call reconnects.
    """

    def __init__(self, server: Server, timeout: float) -> None:
        from nbruns.mcp_connection import OPEN_SECONDS, Connection

        self._name = server.url.partition("?")[0] or shlex.join(server.command)
        # A separate event loop, because in a notebook, the running cell occupies the kernel's loop.
        self._loop = asyncio.new_event_loop()
        self._closed = False
        threading.Thread(target=self._loop.run_forever, name="nbruns-mcp", daemon=True).start()
        opening = max(timeout, OPEN_SECONDS)
        self._connection = Connection(server, open_seconds=opening, call_seconds=timeout)
        try:
            self._tools = self._as_tools(self._wait_for(self._connection.tools()))
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"McpTools({excerpt(self._name)}: {', '.join(tool.name for tool in self._tools)})"

    def __len__(self) -> int:
        return len(self._tools)

    @overload
    def __getitem__(self, index: int) -> Tool: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tool]: ...
    def __getitem__(self, index: int | slice) -> Tool | Sequence[Tool]:
        return self._tools[index]

    def __enter__(self) -> McpTools:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, and stop the program of the server. After that, calls raise ToolError."""
        if self._loop.is_running() and not self._closed:
            self._closed = True
            asyncio.run_coroutine_threadsafe(self._connection.close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._closed or not self._loop.is_running():
            coroutine.close()
            raise ToolError(f"The connection to the MCP server {excerpt(self._name)} is closed.")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except ToolError as error:
            wrote = excerpt(self._connection.last_words, 500)
            said = f" Its program wrote: {wrote}" if wrote else ""
            raise ToolError(f"The MCP server {excerpt(self._name)} failed. {error}{said}") from None
        finally:
            future.cancel()  # if the wait was interrupted

    def _as_tools(self, remote: Sequence[RemoteTool]) -> list[Tool]:
        names: list[str] = []
        for each in remote:
            names.append(_free_name(each.name, names))
        return [
            Tool(self._caller(each), name, each.description, parameters=each.parameters)
            for name, each in zip(names, remote, strict=True)
        ]

    def _caller(self, remote: RemoteTool) -> Any:
        def call(**arguments: Any) -> str:
            output = self._wait_for(self._connection.call(remote.name, arguments))
            if output.is_error:
                raise ToolError(output.text)
            return output.text

        return call


def mcp_tools(
    server: str | Sequence[str],
    *,
    headers: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 120.0,
) -> McpTools:
    """Connect to an MCP server, and return its tools.

        with nbruns.mcp_tools("uvx mcp-server-time") as tools:
            assistant = client.assistants.create(model="demo", tools=tools)
            run = client.runs.watch(thread, assistant, tools=tools, auto=True).wait()

    The calls are made from this process, and the program is started on this machine. It inherits only a few
    environment variables, such as PATH and HOME.

    Args:
        server: A command, as text or as a list of its words, or a URL (Streamable HTTP).
        headers: HTTP headers for a URL, such as `{"Authorization": "Bearer …"}`.
        env: Environment variables for a command.
        timeout: Seconds after which a call fails.

    Returns:
        The tools, as a sequence that is also a context manager. `close()` closes the connection.

    Raises:
        ToolError: The server can't be reached, or doesn't answer as an MCP server. Calls raise it too.
        SetupError: The package `mcp` is not installed.
        ValueError: `server` is empty, or the timeout is not above 0.
    """
    words = server_words(server)
    if not timeout > 0:
        raise ValueError(f"The timeout is a number of seconds above 0, not {timeout!r}.")
    if importlib.util.find_spec("mcp") is None:
        how = install_command("mcp")
        raise SetupError(f"The package mcp is not installed. Install it with: {how}")
    from nbruns.mcp_connection import Server

    at = {"url": words} if isinstance(words, str) else {"command": words}
    return McpTools(Server(**at, headers=dict(headers or {}), env=dict(env or {})), timeout)


def server_words(server: str | Sequence[str]) -> str | list[str]:
    """Return a server as a URL, or as the words of a command. Raises ValueError if it is neither."""
    if isinstance(server, str) and re.match("https?://", server, re.IGNORECASE):
        return server
    words = shlex.split(server) if isinstance(server, str) else [str(word) for word in server]
    if not words or not words[0]:
        raise ValueError("An MCP server is a command, or a URL that begins with http:// or https://.")
    return words


def _free_name(name: str, taken: Collection[str]) -> str:
    """Return a name that the API allows and that is not taken. Names in MCP can be longer and contain . and /."""
    base = re.sub("[^A-Za-z0-9_-]", "_", name)
    free, count = base[:64], 1
    while free in taken:
        count += 1
        free = f"{base[: 64 - len(f'_{count}')]}_{count}"
    return free


def server_json(
    server: str | Sequence[str], headers: Mapping[str, str] | None, env: Mapping[str, str] | None
) -> JSON:
    """Return a server as an entry of the file `mcp.json`."""
    words = server_words(server)
    if isinstance(words, str):
        return {"url": words, "headers": dict(headers or {})}
    return {"command": words[0], "args": words[1:], "env": dict(env or {})}
