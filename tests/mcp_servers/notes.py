"""An MCP server of the official package: over its standard input and output, or with --http on a free port, which it
prints. With --token, requests have to bring it."""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path
from typing import Any

from mcp.server import MCPServer
from mcp.types import ImageContent, TextContent

server = MCPServer("notes")
parser = argparse.ArgumentParser()
parser.add_argument("--tally", type=Path, default=Path("/dev/null"))
parser.add_argument("--http", action="store_true")
parser.add_argument("--token")
asked = parser.parse_args()


@server.tool()
def add(text: str) -> str:
    """Add a note."""
    with asked.tally.open("a") as file:
        file.write(f"{text}\n")
    return f"Noted: {text}"


@server.tool()
def environment(name: str) -> str:
    """Tell a variable of the environment."""
    return os.environ.get(name, "(none)")


@server.tool(structured_output=False)
def picture() -> list[Any]:
    """Draw."""
    return [
        TextContent(type="text", text="A cat:"),
        ImageContent(type="image", data="AAAA", mime_type="image/png"),
    ]


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("The notebook is full.")


class NeedsToken:
    """Lets in who brings the token, and tells it to who brings another."""

    def __init__(self, app: Any, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope.get("headers", [])).get(b"authorization", b"").decode()
        if scope["type"] == "http" and given != f"Bearer {self._token}":
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send)


def main() -> None:
    if not asked.http:
        server.run()
        return
    import uvicorn

    app: Any = server.streamable_http_app()
    if asked.token:
        app = NeedsToken(app, asked.token)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(app, log_level="critical")
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
