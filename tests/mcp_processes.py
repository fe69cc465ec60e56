"""MCP servers as processes: see `mcp_servers`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVERS = Path(__file__).parent / "mcp_servers"
#: The command of the server of notes.
NOTES = (sys.executable, str(SERVERS / "notes.py"))
BY_HAND = (sys.executable, str(SERVERS / "by_hand.py"))


@contextmanager
def notes_at_url(*arguments: str) -> Iterator[str]:
    """The server of notes on a free port; its URL."""
    process = subprocess.Popen([*NOTES, "--http", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
    finally:
        process.kill()
        process.communicate(timeout=30)
