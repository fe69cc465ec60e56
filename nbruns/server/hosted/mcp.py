"""`mcp`: the model calls tools of MCP servers.

An assistant names a server by its label. The operator configures the servers in a file, in the common format of MCP
clients: `{"mcpServers": {label: {"command": …, "args": […], "env": {…}} or {"url": …, "headers": {…}}}}`. A request can
also contain a `server_url`, but only on the origin of a URL in that file. Otherwise anyone who can create a run could
make this server send requests to any address in its network.

Headers in requests are kept in memory until the run has ended. They are neither stored nor returned.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from nbruns.errors import SetupError, ToolError, install_command
from nbruns.server.hosted.protocol import (
    DENIED,
    Context,
    Function,
    Functions,
    HostedTool,
    Result,
    ToolSchema,
    refused,
)
from nbruns.text import JSON, excerpt

if TYPE_CHECKING:
    from nbruns.mcp_connection import Connection

#: Maximum number of open connections. Each connection to a program is a process.
MAX_CONNECTIONS = 64
#: Seconds that a connection stays open while its run waits for the user. The server may have state in it, and programs
#: can take seconds to start.
LINGER_SECONDS = 60.0
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: URLs that all parsers read in the same way: without user, backslash or space.
_URL = re.compile(
    r"https?://(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?(?:[/?][!-\[\]-~]*)?"
)
_MAX_URL, _MAX_HEADERS, _MAX_HEADER, _MAX_FILE = 2_000, 32, 8_000, 1_000_000
_HEADER_NAME, _HEADER_VALUE = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}"), re.compile(r"[ -~\t]*")
#: Headers that the connection sets itself.
_RESERVED = re.compile(
    r"host|connection|content-.*|transfer-encoding|te|trailer|upgrade|keep-alive|proxy-.*|accept|accept-encoding|"
    r"last-event-id|mcp-.*",
    re.IGNORECASE,
)

log = logging.getLogger(__name__)


def _checked_label(label: str) -> str:
    if not _LABEL.fullmatch(label):
        message = "Invalid '{name}': use 1 to 64 letters, digits, _ and -."
        raise refused(message, "invalid_value")
    return label


def _checked_policy(policy: Any) -> Any:
    """Validate `require_approval`: "always", "never", or an object with names of tools."""
    if policy in (None, "always", "never"):
        return policy
    is_object = isinstance(policy, dict) and policy.keys() <= {"always", "never"}
    if not is_object or not all(each is None or _is_tool_list(each) for each in policy.values()):
        example = '{"never": {"tool_names": ["search"]}}'
        message = f"Invalid '{{name}}': use 'always', 'never', or an object such as {example}."
        raise refused(message, "invalid_value")
    return policy


def _is_tool_list(value: Any) -> bool:
    names = value.get("tool_names") if isinstance(value, dict) and value.keys() == {"tool_names"} else None
    return isinstance(names, list) and len(names) <= 1000 and all(isinstance(name, str) for name in names)


def _checked_headers(headers: dict[str, str]) -> dict[str, str]:
    # Error messages must not contain the values.
    wrong = [
        name
        for name, value in headers.items()
        if not _HEADER_NAME.fullmatch(name)
        or _RESERVED.fullmatch(name)
        or not _HEADER_VALUE.fullmatch(value)
        or len(value) > _MAX_HEADER
    ]
    if wrong or len(headers) > _MAX_HEADERS:
        which = f"'{excerpt(wrong[0], 100)}' can't be sent" if wrong else "there are too many"
        raise refused(f"Invalid '{{name}}': of these headers, {which}.", "invalid_value")
    return headers


Label = Annotated[str, AfterValidator(_checked_label)]
Policy = Annotated[Any, AfterValidator(_checked_policy)]
Headers = Annotated[dict[str, str], AfterValidator(_checked_headers)]


class McpTool(ToolSchema):
    type: Literal["mcp"]
    server_label: Label
    server_url: str | None = None
    allowed_tools: Annotated[list[str], Field(max_length=128)] | None = None
    require_approval: Policy = None


class McpResource(ToolSchema):
    """The settings of a run for a server, in `tool_resources`."""

    server_label: Label
    headers: Headers | None = None
    require_approval: Policy = None


class Mcp(HostedTool):
    """The tool `mcp`. `file` is the operator's file. It is read for each run, so changes take effect immediately."""

    nested = False
    schema = McpTool

    def __init__(
        self, file: Path | None = None, *, open_seconds: float = 30.0, call_seconds: float = 120.0
    ) -> None:
        self._file = file
        self._limits = {"open_seconds": open_seconds, "call_seconds": call_seconds}
        #: Open connections, by run and label.
        self._open: dict[tuple[str, str], Connection] = {}
        self._lingering: dict[str, asyncio.TimerHandle] = {}
        self._ended: set[str] = set()
        #: For each run: its expiry time in seconds since 1970, and its headers by label.
        self._secrets: dict[str, tuple[int, dict[str, JSON]]] = {}
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise SetupError if the operator's file can't be used."""
        try:
            servers = self._servers()
        except ValueError as error:
            raise SetupError(f"{self._file}: {error}") from None
        if servers and importlib.util.find_spec("mcp") is None:
            raise SetupError(
                f"{self._file} names MCP servers, and the package mcp is not installed. Install it with: "
                f"{install_command('mcp')}"
            )

    def complete(self, tool: JSON) -> JSON:
        if importlib.util.find_spec("mcp") is None:
            how = install_command("mcp")
            message = f"'{{name}}': this server lacks the package mcp. Its operator installs it with: {how}"
            raise refused(message, "unsupported_tool", ".type")
        kept = {name: value for name, value in tool.items() if value}
        try:
            self._server(kept, {})
        except ToolError as error:
            message = f"Invalid '{{name}}': {error}"
            raise refused(
                message, "invalid_value", ".server_url" if "server_url" in kept else ".server_label"
            ) from None
        return kept

    async def functions(self, tool: JSON, run: JSON, files: Sequence[str]) -> Functions:
        label = tool["server_label"]
        try:
            if _entry(run, label) is not tool:
                raise ToolError("The run names this label twice.")
            connection = await self._connection(run, tool)
            tools = await connection.tools()
        except ToolError as error:
            self._log(run, label, error)
            return Functions([], f"The tools of the MCP server '{label}' are not available. {error}")
        allowed = tool.get("allowed_tools") or [each.name for each in tools]
        return Functions(
            [
                Function(
                    {
                        # The label keeps a tool from posing as one of another server, or as a function of the user.
                        "name": f"{label}_{re.sub('[^A-Za-z0-9_-]', '_', each.name)}",
                        "description": each.description,
                        "parameters": each.parameters,
                    },
                    {"server_label": label, "name": each.name},
                )
                for each in tools
                if each.name in allowed
            ]
        )

    def describe(self, arguments: str) -> JSON:
        return {"arguments": arguments, "output": None}

    def needs_approval(self, run: JSON, details: JSON) -> bool:
        label = details["server_label"]
        policies = [
            _resource(run, label).get("require_approval"),
            (_entry(run, label) or {}).get("require_approval"),
        ]
        policy = next((policy for policy in policies if policy is not None), "always")
        if isinstance(policy, dict):
            return details["name"] not in (policy.get("never") or {}).get("tool_names", [])
        return bool(policy != "never")

    def deny(self, details: JSON) -> Result:
        return Result(DENIED, {**details, "output": DENIED})

    async def run(self, run: JSON, arguments: str, context: Context) -> Result:
        details, label = context.details, context.details["server_label"]
        try:
            tool = _entry(run, label)
            if tool is None:
                raise ToolError(f"The run has no MCP server '{label}'.")
            given = _arguments(arguments)
            output = await (await self._connection(run, tool)).call(details["name"], given)
            text = f"Error: {output.text}" if output.is_error else output.text
        except ToolError as error:
            self._log(run, label, error)
            text = f"Error: the call of the MCP server '{label}' failed. {error}"
        return Result(text, {**details, "output": text})

    def without_content(self, details: JSON) -> JSON:
        return details

    def stored(self, resources: Any) -> Any:
        """Return the resources with only the names of headers, to detect later that headers are missing."""
        return [{**each, "headers": dict.fromkeys(each.get("headers") or {}, "")} for each in resources]

    def keep_secrets(self, run: JSON, resources: Any) -> None:
        for each in resources:
            if each.get("headers"):
                self._keep(run, each["server_label"], each["headers"])

    def keep_headers(self, run: JSON, details: JSON, headers: JSON) -> None:
        self._keep(run, details["server_label"], headers)

    def _keep(self, run: JSON, label: str, headers: JSON) -> None:
        with self._lock:
            now = time.time()
            for run_id in [id for id, (expires_at, _) in self._secrets.items() if expires_at < now]:
                del self._secrets[run_id]
            _, of_run = self._secrets.setdefault(run["id"], (run["expires_at"], {}))
            of_run[label] = {
                **of_run.get(label, {}),
                **{name.lower(): value for name, value in headers.items()},
            }

    def forget(self, run_id: str) -> None:
        with self._lock:
            self._secrets.pop(run_id, None)
        if any(key[0] == run_id for key in list(self._open)):
            self._ended.add(run_id)

    async def leave(self, run_id: str) -> None:
        if run_id in self._ended:
            await self._close(run_id)
        elif any(key[0] == run_id for key in self._open):
            loop = asyncio.get_running_loop()
            close = lambda: loop.create_task(self._close(run_id))  # noqa: E731
            self._lingering[run_id] = loop.call_later(LINGER_SECONDS, close)

    async def close(self) -> None:
        await asyncio.gather(*(self._close(run_id) for run_id in {run_id for run_id, _ in self._open}))

    async def _close(self, run_id: str) -> None:
        self._stay(run_id)
        self._ended.discard(run_id)
        connections = [self._open.pop(key) for key in list(self._open) if key[0] == run_id]
        await asyncio.gather(*(connection.close() for connection in connections))

    def _stay(self, run_id: str) -> None:
        if (closing := self._lingering.pop(run_id, None)) is not None:
            closing.cancel()

    async def _connection(self, run: JSON, tool: JSON) -> Connection:
        key = run["id"], tool["server_label"]
        self._stay(run["id"])
        if key not in self._open:
            server = self._server(tool, self._headers(run, tool["server_label"]))
            if len(self._open) >= MAX_CONNECTIONS:
                raise ToolError("This server has too many connections to MCP servers. Try again later.")
            # In a thread, because the import takes over a second.
            module = await asyncio.to_thread(importlib.import_module, "nbruns.mcp_connection")
            # The package logs what servers send, so a server could fill the log.
            logging.getLogger("mcp").setLevel(logging.CRITICAL)
            self._open[key] = module.Connection(module.Server(**server), **self._limits)
        return self._open[key]

    def _headers(self, run: JSON, label: str) -> Mapping[str, str]:
        with self._lock:
            kept: Mapping[str, str] = self._secrets.get(run["id"], (0, {}))[1].get(label, {})
        missing = {name.lower() for name in _resource(run, label).get("headers") or {}} - kept.keys()
        if missing:
            raise ToolError(
                f"Its headers ({excerpt(', '.join(sorted(missing)))}) are gone: they are kept in memory only, with "
                "the run that they were given for, and this server has been started again since. A new run has to "
                "bring them again."
            )
        return kept

    def _server(self, tool: JSON, headers: Mapping[str, str]) -> JSON:
        """Return the fields of the Server that an entry of `tools` names. Raises ToolError."""
        label, url = tool["server_label"], tool.get("server_url") or ""
        try:
            servers = self._servers()
        except ValueError as error:
            log.error("The MCP servers in %s can't be read: %s", self._file, error)
            raise ToolError("The operator's list of MCP servers can't be read.") from None
        if not url:
            if label not in servers:
                raise ToolError(f"The operator of this server has configured no MCP server '{label}'.")
            return {**servers[label], "headers": {**servers[label].get("headers", {}), **headers}}
        if len(url) > _MAX_URL or not _URL.fullmatch(url):
            raise ToolError("This is not a URL such as https://mcp.example.org/mcp.")
        if _origin(url) not in {_origin(each["url"]) for each in servers.values() if "url" in each}:
            raise ToolError(
                f"This server connects to no MCP server on {_origin(url)}: its operator has configured none there."
            )
        return {"url": url, "headers": headers}

    def _servers(self) -> dict[str, JSON]:
        """Return the operator's servers by label, as fields of Server. Raises ValueError."""
        try:
            if self._file is None or not self._file.exists():
                return {}
            if self._file.stat().st_size > _MAX_FILE:
                raise ValueError(f"It is larger than {_MAX_FILE:,} bytes.")
            content = json.loads(self._file.read_text())
        except OSError as error:
            raise ValueError(f"It can't be read ({error.strerror}).") from None
        except RecursionError:
            raise ValueError("It is no JSON.") from None
        listed = content.get("mcpServers") if isinstance(content, dict) else None
        if not isinstance(listed, dict):
            raise ValueError('Write {"mcpServers": {"LABEL": {"command": "…", "args": ["…"]}}}.')
        return {label: _configured(label, each) for label, each in listed.items()}

    def _log(self, run: JSON, label: str, error: ToolError) -> None:
        connection = self._open.get((run["id"], label))
        said = (
            f" Its program wrote: {excerpt(connection.last_words, 500)}"
            if connection and connection.last_words
            else ""
        )
        log.warning("MCP server '%s': %s%s", label, error, said, extra={"known": {"run_id": run["id"]}})


def _configured(label: str, entry: Any) -> JSON:
    """Return an entry of the operator's file as fields of Server. Fields of other clients are ignored."""
    if not _LABEL.fullmatch(label):
        raise ValueError(f"{excerpt(label)!r} is no label. Use 1 to 64 letters, digits, _ and -.")
    kinds = {"command": str, "args": list, "env": dict, "url": str, "headers": dict}
    if not isinstance(entry, dict) or not all(
        isinstance(entry.get(name, kind()), kind) for name, kind in kinds.items()
    ):
        raise ValueError(f"{label}: use a command with args and env, or a url with headers.")
    texts = [*entry.get("args", []), *entry.get("env", {}).values(), *entry.get("headers", {}).values()]
    if not all(isinstance(text, str) for text in texts) or ("command" in entry) == ("url" in entry):
        raise ValueError(f"{label}: use either a command or a url; args, env and headers consist of texts.")
    if "command" in entry:
        return {"command": [entry["command"], *entry.get("args", [])], "env": entry.get("env", {})}
    if not _URL.fullmatch(entry["url"]):
        raise ValueError(f"{label}: the url is not such as https://mcp.example.org/mcp.")
    return {
        "url": entry["url"],
        "headers": {name.lower(): text for name, text in entry.get("headers", {}).items()},
    }


def _origin(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _entry(run: JSON, label: str) -> JSON | None:
    """Return the first entry of a run's `tools` with this label."""
    found: Iterator[JSON] = (
        tool for tool in run["tools"] if tool["type"] == "mcp" and tool["server_label"] == label
    )
    return next(found, None)


def _resource(run: JSON, label: str) -> JSON:
    """Return the settings of a run for a server."""
    resources = run["tool_resources"].get("mcp") or []
    return next((each for each in resources if each["server_label"] == label), {})


def _arguments(text: str) -> JSON:
    try:
        given = json.loads(text or "{}")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise ToolError("The arguments are no JSON object.")
    return given
